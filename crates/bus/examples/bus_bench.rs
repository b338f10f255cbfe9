//! Appends and reads a second of both buses: `bus_bench [EVENTS]`. NATS is measured where its server is installed
//! (scripts/servers), with an fsync for each message as SQLite has it for each commit, and with the server's default.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

#[path = "../tests/server/mod.rs"]
mod server;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use verdigris_bus::nats::NatsBus;
use verdigris_bus::{Bus, NewEvent, ReadLimits, SqliteBus, SqliteOptions};
use verdigris_core::names::CollectionName;

const PAYLOAD_BYTES: usize = 512;

fn main() {
    let events = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    println!("| bus | alone | 64 at once | by 500 | read by 5,000 |\n|---|---|---|---|---|");
    let path = folder.path().join("bus.sqlite");
    let clock = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let clock = Arc::new(move || clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let sqlite = SqliteBus::open(&path, SqliteOptions::default(), clock).expect("a bus");
    runtime.block_on(measure("SQLite, synchronous=FULL", Arc::new(sqlite), events));
    for (name, always) in [("NATS, sync_interval: always", true), ("NATS, its default", false)] {
        let Some(server) = server::Server::start_synced("bus_bench", "", always) else {
            return;
        };
        runtime.block_on(async {
            let bus: NatsBus = server.bus().await;
            measure(name, Arc::new(bus), events).await;
        });
    }
}

async fn measure(name: &str, bus: Arc<dyn Bus>, events: usize) {
    let collection: CollectionName = "bench".parse().expect("a name");
    let event = NewEvent {
        payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
    };
    let append = async |count: usize| {
        let sent = vec![event.clone(); count];
        bus.append(&collection, sent).await.expect("appended");
    };
    let alone = rate(events / 20, async {
        for _ in 0..events / 20 {
            append(1).await;
        }
    });
    let alone = alone.await;
    let at_once = rate(events, async {
        let appends = futures::stream::iter((0..events).map(|_| append(1)));
        appends.buffer_unordered(64).collect::<()>().await;
    });
    let at_once = at_once.await;
    let batches = rate(events, async {
        for _ in 0..events / 500 {
            append(500).await;
        }
    });
    let batches = batches.await;
    let (mut after, mut read) = (0, 0);
    let began = Instant::now();
    loop {
        let limits = ReadLimits {
            events: 5_000,
            bytes: u64::MAX,
        };
        let found = bus.read(&collection, after, limits).await.expect("read");
        let Some(last) = found.last() else { break };
        (after, read) = (last.sequence, read + found.len());
    }
    let reads = read as f64 / began.elapsed().as_secs_f64();
    println!("| {name} | {alone:.0}/s | {at_once:.0}/s | {batches:.0}/s | {reads:.0}/s |");
}

async fn rate(count: usize, work: impl Future<Output = ()>) -> f64 {
    let began = Instant::now();
    work.await;
    count as f64 / began.elapsed().as_secs_f64()
}
