//! A search load during a hundred promotions and returns of the real process: no failure, no mixed answer (I-6, I-7,
//! I-8); and the process killed before, amid and after them: it converges, and a return sticks (I-9).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::transport::Endpoint;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_proto::search::{Lineage, SearchRequest, SearchResponse};
use verdigris_tests::process::{Folder, Server};

const PATIENCE: Duration = Duration::from_secs(60);
/// A promotion and a return each.
const ROUNDS: u64 = 50;
const CLIENTS: u64 = 3;
const BY_HAND: &str = r#"{"embedder":{"provider":"hash","dimension":64},"rollout":{"promotion":"manual"}}"#;
const NEXT: &str = r#"{"embedder":{"provider":"hash","dimension":96},"rollout":{"promotion":"manual"}}"#;

/// A folder with a candidate that was judged.
fn judged() -> (Folder, Server) {
    let folder = Folder::new();
    let settings = folder.file("first.json", BY_HAND);
    let made = folder.run(&["collections", "create", "products", "--settings", &settings]);
    assert_eq!(made.code, 0, "{}", made.text);
    let server = folder.up();
    let lines = (0..400).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{{\"id\":\"d-{n}\",\"title\":\"thing {n} of kind {}\"}}", n % 7).unwrap();
        lines
    });
    let file = folder.file("catalog.jsonl", lines);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    let next = folder.file("next.json", NEXT);
    let _told = folder.run(&["rebuild", "--settings", &next, "--wait"]).with_code(0);
    let told = folder
        .run(&["rollout", "status", "--wait", "--timeout", "60"])
        .with_code(0);
    assert_eq!(told["phase"], "awaiting_approval", "{told}");
    (folder, server)
}

fn status(folder: &Folder) -> Value {
    folder.run(&["rollout", "status"]).with_code(0)
}

fn answers(folder: &Folder) -> String {
    status(folder)["active"]["lineage"].as_str().unwrap().to_owned()
}

fn request(lineage: Lineage) -> SearchRequest {
    SearchRequest {
        collection: "products".to_owned(),
        text: "thing of kind 3".to_owned(),
        top_k: 10,
        lineage: lineage.into(),
        ..SearchRequest::default()
    }
}

fn hits(answer: &SearchResponse) -> Vec<(String, u32)> {
    answer
        .hits
        .iter()
        .map(|hit| (hit.id.clone(), hit.score.to_bits()))
        .collect()
}

/// What every client knows and tells.
struct Load {
    /// What each lineage answers.
    expected: BTreeMap<String, Vec<(String, u32)>>,
    is_over: AtomicBool,
    asked: AtomicU64,
    /// Who answered each client's newest question.
    newest: Vec<std::sync::Mutex<String>>,
}

async fn ask(url: String, load: Arc<Load>, n: usize) {
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut service = SearchServiceClient::new(channel);
    while !load.is_over.load(Ordering::SeqCst) {
        let answer = service.search(request(Lineage::Unspecified)).await;
        let answer = answer
            .unwrap_or_else(|status| panic!("I-6: a request failed: {status}"))
            .into_inner();
        let lineage = answer.release.as_ref().unwrap().lineage.clone();
        assert_eq!(
            hits(&answer),
            load.expected[&lineage],
            "I-7: an answer of {lineage} is another's"
        );
        *load.newest[n].lock().unwrap() = lineage;
        load.asked.fetch_add(1, Ordering::SeqCst);
    }
}

async fn load_of(url: &str) -> Arc<Load> {
    let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let mut service = SearchServiceClient::new(channel);
    let mut expected = BTreeMap::new();
    for lineage in [Lineage::Active, Lineage::Other] {
        let answer = service.search(request(lineage)).await.unwrap().into_inner();
        expected.insert(answer.release.as_ref().unwrap().lineage.clone(), hits(&answer));
    }
    assert_eq!(expected.len(), 2);
    let different: BTreeSet<_> = expected.values().collect();
    assert_eq!(different.len(), 2, "two models answer differently");
    Arc::new(Load {
        expected,
        is_over: AtomicBool::new(false),
        asked: AtomicU64::new(0),
        newest: (0..CLIENTS).map(|_| std::sync::Mutex::default()).collect(),
    })
}

/// Waits until every client was answered by this lineage; how long that took.
fn until_all(load: &Load, lineage: &str) -> Duration {
    let began = Instant::now();
    while load.newest.iter().any(|newest| *newest.lock().unwrap() != lineage) {
        assert!(began.elapsed() < PATIENCE, "a client still meets the other lineage");
        std::thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}

#[test]
fn a_hundred_promotions_and_returns_under_load_fail_no_request_and_mix_no_answer() {
    let (folder, server) = judged();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let load = runtime.block_on(load_of(&server.url));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| runtime.spawn(ask(server.url.clone(), load.clone(), n as usize)))
        .collect();
    let mut returns = Vec::new();
    for round in 0..ROUNDS {
        let promoted = folder.run(&["rollout", "promote", "--actor", "ada"]).with_code(0);
        until_all(&load, promoted["active"]["lineage"].as_str().unwrap());
        let began = Instant::now();
        let back = folder.run(&["rollout", "rollback", "--reason", &format!("round {round}")]);
        until_all(&load, back.with_code(0)["active"]["lineage"].as_str().unwrap());
        returns.push(began.elapsed());
        let _told = folder.run(&["rollout", "resume"]).with_code(0);
    }
    load.is_over.store(true, Ordering::SeqCst);
    for client in clients {
        runtime.block_on(client).unwrap();
    }
    returns.sort();
    println!(
        "{} answers during {} flips; from asking for a return to every client's answer: p50 {:?}, worst {:?}",
        load.asked.load(Ordering::SeqCst),
        2 * ROUNDS,
        returns[returns.len() / 2],
        returns[returns.len() - 1]
    );
    let told = status(&folder);
    assert_eq!(
        told["served"].as_array().map(Vec::len),
        Some(50),
        "the newest fifty are told"
    );
    assert_eq!(
        server.metric("verdigris_rollout_flips_total"),
        Some(2.0 * ROUNDS as f64)
    );
}

#[test]
fn a_return_sticks_through_a_kill_and_only_a_person_promotes_again() {
    let (folder, mut server) = judged();
    let first = answers(&folder);
    let _told = folder.run(&["rollout", "promote"]).with_code(0);
    let promoted = answers(&folder);
    assert_ne!(first, promoted);
    server.kill();
    let mut server = folder.up();
    assert_eq!(answers(&folder), promoted, "a flip is in the pointer");
    let _told = folder.run(&["patch", "d-1", r#"{"price":7}"#, "--wait"]).with_code(0);
    let _told = folder
        .run(&["rollout", "rollback", "--reason", "looks odd", "--actor", "ada"])
        .with_code(0);
    server.kill();
    let _server = folder.up();
    let told = status(&folder);
    assert_eq!(
        (&told["active"]["lineage"], &told["promotion_hold"]["actor"]),
        (&first.as_str().into(), &"ada".into()),
        "{told}"
    );
    let got = folder.run(&["get", "d-1"]).with_code(0);
    assert_eq!(got["document"]["price"], 7, "the way back has what came meanwhile");
    let refused = folder.run(&["rollout", "promote"]);
    assert_eq!(refused.reason(), "PROMOTION_HELD", "{}", refused.text);
    let _told = folder.run(&["rollout", "resume"]).with_code(0);
    let told = folder
        .run(&["rollout", "status", "--wait", "--timeout", "60"])
        .with_code(0);
    assert_eq!(told["phase"], "awaiting_approval", "{told}");
    assert_eq!(told["active"]["lineage"], first.as_str());
    let _told = folder.run(&["rollout", "promote"]).with_code(0);
    assert_eq!(answers(&folder), promoted);
}

#[test]
fn what_cannot_be_done_to_a_rollout_is_refused_with_its_reason() {
    let (folder, _server) = judged();
    let reason = |arguments: &[&str]| folder.run(arguments).reason().to_owned();
    assert_eq!(reason(&["rollout", "rollback", "--reason", "x"]), "NO_WAY_BACK");
    assert_eq!(reason(&["rollout", "resume"]), "PROMOTION_NOT_HELD");
    assert_eq!(reason(&["rollout", "promote", "--generation", "99"]), "NOT_JUDGED");
    assert_eq!(
        reason(&["rollout", "promote", "--lineage", "nobody"]),
        "LINEAGE_NOT_FOUND"
    );
    assert_eq!(
        reason(&["rollout", "abort", "--lineage", "nobody"]),
        "LINEAGE_NOT_FOUND"
    );
    assert_eq!(reason(&["rollout", "hold", "--reason", " "]), "INVALID_ARGUMENT");
    let _held = folder.run(&["rollout", "hold", "--reason", "a sale"]).with_code(0);
    assert_eq!(reason(&["rollout", "promote"]), "PROMOTION_HELD");
    let _told = folder.run(&["rollout", "resume"]).with_code(0);
    let before = answers(&folder);
    let told = folder.run(&["rollout", "abort"]).with_code(0);
    assert_eq!(
        (&told["other"], &told["active"]["lineage"]),
        (&Value::Null, &before.as_str().into())
    );
    // The search role looks at the pointer twenty times a second.
    let began = Instant::now();
    while reason(&["search", "thing", "--lineage", "other"]) != "NO_OTHER_LINEAGE" {
        assert!(began.elapsed() < PATIENCE, "what was given up is searched still");
    }
}
