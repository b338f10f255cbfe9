//! What measuring a lineage costs, and what people feel of it: two lineages with graphs, searches that go on meanwhile.
//!
//! `cargo run -p verdigris-search --example measure_bench -- [DOCUMENTS]`; vectors are hashes of words with 384
//! coordinates, so that no model is needed and the model's own time is left out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on ends where it stands"
)]

#[path = "../tests/world/mod.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use verdigris_core::gates::{GateSettings, judge};
use verdigris_core::pointer::LineageRole::Candidate;
use verdigris_proto::search::{Lineage, LineageState};

use world::{Draft, Server, World, catalog, hash_settings, name};

/// How long searches are watched without measuring.
const CALM: Duration = Duration::from_secs(5);
/// Between two searches of the one who searches: people, not a load test.
const PAUSE: Duration = Duration::from_millis(10);

fn draft(lineage: &str, documents: usize) -> Draft {
    let mut draft = Draft {
        settings: hash_settings(384),
        settings_version: 2,
        ghosts: (0..documents / 20).map(|n| format!("gone-{n}")).collect(),
        ..Draft::new(lineage, 5, catalog(documents))
    };
    draft.settings.ann.ef_search = 128;
    draft
}

/// Searches until told to end; the durations, sorted.
async fn searching(server: Arc<Server>, done: Arc<AtomicBool>) -> Vec<Duration> {
    let texts = [
        "copper drill",
        "oak saw Borwin",
        "lamp",
        "steel valve size 42",
        "number 77 glass",
    ];
    let mut took = Vec::new();
    while !done.load(Ordering::SeqCst) {
        let began = Instant::now();
        server
            .search(texts[took.len() % texts.len()], Lineage::Active)
            .await
            .unwrap();
        took.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    took.sort();
    took
}

fn told(what: &str, took: &[Duration]) {
    let at = |share: f64| took[((took.len() as f64 * share) as usize).min(took.len() - 1)].as_secs_f64() * 1e3;
    println!(
        "{what}: {} searches, p50 {:.2} ms, p99 {:.2} ms",
        took.len(),
        at(0.5),
        at(0.99)
    );
}

#[tokio::main]
async fn main() {
    let documents = std::env::args().nth(1).map_or(50_000, |text| text.parse().unwrap());
    let world = World::new().await;
    let (one, two) = (
        world.write(&draft("one", documents)).await,
        world.write(&draft("two", documents)).await,
    );
    world.name(&one, Some((&two, Candidate))).await;
    let server = Arc::new(Server::start(&world).await);
    server.other_is(LineageState::Warm, 5).await;
    let watch = |done: &Arc<AtomicBool>| tokio::spawn(searching(server.clone(), done.clone()));
    for _ in 0..300 {
        server.search("copper drill", Lineage::Active).await.unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let calm = watch(&done);
    tokio::time::sleep(CALM).await;
    done.store(true, Ordering::SeqCst);
    told("calm", &calm.await.unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let busy = watch(&done);
    let began = Instant::now();
    let measurements = server.search.measure(&name(), None, 5).await.unwrap();
    let took = began.elapsed();
    done.store(true, Ordering::SeqCst);
    told("while measuring", &busy.await.unwrap());
    println!("measured {documents} documents in {:.2} s", took.as_secs_f64());
    let verdict = judge(&GateSettings::default(), &measurements);
    for found in &verdict.gates {
        println!("{:12} {:?}: {}", found.gate.name(), found.outcome, found.text);
    }
    Arc::into_inner(server).unwrap().stop().await;
}
