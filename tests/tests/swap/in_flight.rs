//! I-7: a request that began before the swaps ends on its own release, though its files are collected meanwhile; they
//! are unmapped when it leaves.

use std::sync::Arc;

use tonic::Request;
use verdigris_core::garbage::GRACE_NS;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{SearchMode, SearchRequest};
use verdigris_runtime::clock::Clock;
use verdigris_store::{Store, keys};

use super::load::mapped_segments;
use super::model::{Told, batch, check};
use super::roles::embedders::{SLOW, Unreliable};
use super::roles::{Process, Start, World, eventually, name, settings};

/// Releases after which the first is neither kept nor open for page tokens.
const RELEASES: u64 = 70;

#[test]
fn a_request_in_flight_ends_on_its_release_after_that_was_collected() {
    let clock = Clock::manual(Clock::system().now_ns());
    let world = World::with_clock(clock.clone());
    world.create(&settings());
    let embedder = Arc::new(Unreliable::new(16));
    let process = Process::start(&world, Start::new("a").with_embedder(embedder.clone()));
    assert_eq!(process.serve(batch(1)), 1);
    let segment = world.manifest(1).segments[0].id.to_string();
    let request = SearchRequest {
        collection: name().to_string(),
        text: format!("{SLOW} moving"),
        mode: SearchMode::Hybrid.into(),
        top_k: 100,
        ..SearchRequest::default()
    };
    let search = process.search.clone();
    let in_flight = process
        .runtime()
        .spawn(async move { search.search(Request::new(request)).await });
    process.block_on(eventually("it waits for its vector", || {
        (*embedder.waiting.borrow() == 1).then_some(())
    }));
    for n in 2..RELEASES {
        process.publish(batch(n));
    }
    assert!(
        world.pointer().kept.iter().all(|kept| kept.generation > 1),
        "it is not kept"
    );
    // Past the grace, and past the collector's wait for its next round.
    clock.advance(GRACE_NS + 120_000_000_000);
    process.publish(batch(RELEASES));
    clock.advance(120_000_000_000);
    let files = world
        .store
        .local_path(&keys::object(&name(), &format!("segments/{segment}/rows.tar")))
        .unwrap();
    process.block_on(eventually("its files are collected", || {
        (!files.exists()).then_some(())
    }));
    assert!(
        mapped_segments(&world).contains(&segment),
        "the request holds its release open"
    );
    embedder.open.send_replace(true);
    let answer = process
        .block_on(in_flight)
        .unwrap()
        .expect("I-6: it is answered")
        .into_inner();
    assert_eq!(
        check(&Told::default(), &answer, |_| true),
        1,
        "I-7: it is answered by its own release"
    );
    drop(answer);
    process.block_on(eventually("its files are unmapped when it leaves", || {
        (!mapped_segments(&world).contains(&segment)).then_some(())
    }));
    process.stop();
}
