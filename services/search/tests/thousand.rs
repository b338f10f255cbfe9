//! A thousand tiny collections in one pod of 512 MiB: the real executable opens each on its first use, and answers.
//!
//! Method: each tenant is written by the real writer, with documents of its own. What the process has at its peak is what
//! the kernel says (VmHWM), mapped files included: more than a container's limit counts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(clippy::print_stdout, reason = "what was measured is told")]

mod world;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use tonic::transport::Endpoint;
use verdigris_proto::search::SearchRequest;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_tests::process::{Folder, Server};

use world::{Draft, World, ids};

const TENANTS: usize = 1_000;
const DOCUMENTS: usize = 5;
const LIMIT: u64 = 512 << 20;

fn tenant(n: usize) -> String {
    format!("tenant-{n:04}")
}

async fn tenants() -> World {
    let first = World::new().await;
    for n in 0..TENANTS {
        let world = first.beside(&tenant(n)).await;
        let document = |d: usize| {
            let title = format!("copper pipe {d} of {}", tenant(n));
            json!({"id": format!("{}-{d}", tenant(n)), "title": title, "brand": "Kestrel", "price": d})
        };
        let draft = Draft::new("one", 1, (0..DOCUMENTS).map(document).collect());
        world.name(&world.write(&draft).await, None).await;
    }
    first
}

/// A figure of `/proc/PID/status` in bytes.
fn memory(server: &Server, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes << 10
}

fn open_files(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero()))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tiny_collections_answer_from_one_process_of_512_mib() {
    let world = tenants().await;
    let folder = Folder::new();
    let mut command = folder.command();
    command.env("VERDIGRIS_STORE_URL", format!("file:{}", world.path("store").display()));
    command.env("VERDIGRIS_SEARCH_COLLECTIONS", "tenant-*");
    command.args([
        "search",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let mut server = folder.try_up_by(&mut command).unwrap();
    let channel = Endpoint::from_shared(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = SearchServiceClient::new(channel);
    let empty = memory(&server, "VmRSS");
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    for n in 0..TENANTS {
        let request = SearchRequest {
            collection: tenant(n),
            text: "copper pipe".to_owned(),
            filter: "price < 3".to_owned(),
            ..SearchRequest::default()
        };
        let asked = Instant::now();
        let answer = client.search(request).await.unwrap().into_inner();
        slowest = slowest.max(asked.elapsed());
        let mut found = ids(&answer);
        found.sort_unstable();
        assert_eq!(
            found,
            [0, 1, 2].map(|d| format!("{}-{d}", tenant(n))),
            "an answer of this tenant alone"
        );
    }
    let took = began.elapsed();
    assert_eq!(server.metric("verdigris_search_open_collections"), Some(TENANTS as f64));
    let (peak, full) = (memory(&server, "VmHWM"), memory(&server, "VmRSS"));
    let each = full.saturating_sub(empty) / TENANTS as u64;
    println!(
        "{TENANTS} tenants of {DOCUMENTS} documents: peak {} MiB, before the first {} MiB, {} KiB a tenant, {} open files, \
         {:.1} ms a first answer, the slowest {:.0} ms",
        peak >> 20,
        empty >> 20,
        each >> 10,
        open_files(&server),
        took.as_secs_f64() * 1e3 / TENANTS as f64,
        slowest.as_secs_f64() * 1e3,
    );
    assert!(peak < LIMIT, "{peak} bytes at the peak");
    assert!(open_files(&server) < 500, "files are mapped and not kept open");
    assert!(server.stop().success());
}
