//! Relevance of the real path on 19,695 real products: executable, model, log, segments, hybrid search.
//!
//! Goal: relevance is as good as the defaults promise, and stays so when a third of the catalog has been changed and
//! changed back by events. Method: `evaluate` before and after; the documents are the same then in all that is embedded
//! and searched. Vectors are kept between runs, so that only the first one needs the model for every product.
//! Deliberately absent: latency, which a shared machine cannot hold to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(
    clippy::print_stdout,
    reason = "what was skipped or measured is told on standard output"
)]

mod kept;
mod real_data;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, Server};

const TEST: &str = "relevance_holds_through_events_that_change_a_third_and_change_it_back";
/// What the defaults reach on this catalog, with room for another processor's last bits.
const NDCG_MIN: f64 = 0.80;
/// How far ndcg@10 may move when nothing that is embedded or searched has changed.
const NDCG_MOVE_MAX: f64 = 0.003;

#[test]
fn relevance_holds_through_events_that_change_a_third_and_change_it_back() {
    let Some(data) = real_data::folder("products", TEST) else {
        return;
    };
    if !model_is_there() {
        println!("skipped: {TEST}: no model in the cache folder; `make model` fetches it");
        return;
    }
    let catalog = real_data::gunzipped(&data.join("products.jsonl.gz"));
    let products: Vec<Value> = catalog
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let folder = Folder::new();
    take_vectors(&folder);
    let mut server = folder.up();
    ingest(&folder, &catalog, products.len());
    keep_vectors(&folder, &mut server);

    // A server that was started again, as most are that serve.
    let mut server = folder.up();
    let first = ndcg(&folder, &data);
    assert!(first >= NDCG_MIN, "ndcg@10 is {first}");
    let changes = Changes::of(&products);
    ingest(&folder, &changes.away, changes.away_documents);
    ingest(&folder, &changes.back, products.len());
    check_changes(&folder, &products);
    let after = ndcg(&folder, &data);
    assert!(
        (after - first).abs() <= NDCG_MOVE_MAX,
        "ndcg@10 was {first}, is {after}"
    );
    keep_vectors(&folder, &mut server);

    let fresh = fresh_build(&folder, &products, &changes);
    let built = ndcg(&fresh.0, &data);
    assert!(
        (after - built).abs() <= NDCG_MOVE_MAX,
        "ndcg@10 is {after}, of a fresh build {built}"
    );
    println!("ndcg@10: at first {first:.4}, after the events {after:.4}, of a fresh build {built:.4}");
}

/// Events that lead a third of the catalog away, and back to the same words.
struct Changes {
    away: String,
    away_documents: usize,
    back: String,
}

/// What happens to a product, by its place in the catalog: to three of ten something, each to a third of these.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Patched,
    Renamed,
    DeletedAndAdded,
    LeftAlone,
}

fn fate(place: usize) -> Fate {
    match place % 10 {
        0 => Fate::Patched,
        3 => Fate::Renamed,
        6 => Fate::DeletedAndAdded,
        _ => Fate::LeftAlone,
    }
}

/// What a patch leaves in place of a product's fields; neither is embedded or searched.
fn patch(place: usize) -> Value {
    json!({"price": 1.5 + place as f64, "stock": place % 7})
}

// === impl Changes ===

impl Changes {
    fn of(products: &[Value]) -> Self {
        let (mut away, mut back, mut deleted) = (String::new(), String::new(), 0);
        let line = |text: &mut String, event: &Value| {
            text.push_str(&event.to_string());
            text.push('\n');
        };
        for (place, product) in products.iter().enumerate() {
            match fate(place) {
                Fate::Patched => {
                    let mut event = patch(place);
                    event["id"] = product["id"].clone();
                    event["_op"] = "patch".into();
                    line(&mut away, &event);
                }
                Fate::Renamed => {
                    // A title of some other product, so that the change would do harm where it stayed.
                    let mut event = product.clone();
                    event["title"] = products[(place + 5_000) % products.len()]["title"].clone();
                    line(&mut away, &event);
                    line(&mut back, product);
                }
                Fate::DeletedAndAdded => {
                    line(&mut away, &json!({"id": product["id"], "_op": "delete"}));
                    line(&mut back, product);
                    deleted += 1;
                }
                Fate::LeftAlone => {}
            }
        }
        Self {
            away,
            away_documents: products.len() - deleted,
            back,
        }
    }
}

/// A folder and its server with the same documents as after the events, which they never saw.
fn fresh_build(of: &Folder, products: &[Value], changes: &Changes) -> (Folder, Server) {
    assert!(changes.away_documents < products.len());
    let fresh = Folder::new();
    take_vectors(&fresh);
    let server = fresh.up();
    let mut lines = String::new();
    for (place, product) in products.iter().enumerate() {
        let mut product = product.clone();
        if fate(place) == Fate::Patched {
            let fields = patch(place);
            product["price"] = fields["price"].clone();
            product["stock"] = fields["stock"].clone();
        }
        lines.push_str(&product.to_string());
        lines.push('\n');
    }
    ingest(&fresh, &lines, products.len());
    let (found, expect) = (exported(of), exported(&fresh));
    let different = found.iter().zip(&expect).find(|(found, expect)| found != expect);
    assert!(different.is_none(), "not the document of a fresh build: {different:?}");
    assert_eq!(found.len(), expect.len());
    (fresh, server)
}

/// All documents of the newest release, in the order of their ids.
fn exported(folder: &Folder) -> Vec<String> {
    let to = folder.data().with_file_name("exported");
    let _told = folder
        .run(&["releases", "export", "--to", to.to_str().unwrap()])
        .with_code(0);
    let text = fs::read_to_string(to.join("meta.jsonl")).unwrap();
    let documents = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap().to_string());
    let mut documents: Vec<String> = documents.collect();
    documents.sort();
    documents
}

/// Sends lines, waits until they are searchable, and counts the documents of the release.
fn ingest(folder: &Folder, lines: &str, documents: usize) {
    let file = folder.file("lines.jsonl", lines);
    let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_eq!(
        (&told["rejected"], &told["set_aside"]),
        (&0.into(), &0.into()),
        "{told}"
    );
    assert_eq!(told["applied"], lines.lines().count(), "{told}");
    let release = folder.run(&["releases", "show"]).with_code(0);
    assert_eq!(release["documents"], documents, "{release}");
}

fn check_changes(folder: &Folder, products: &[Value]) {
    for place in [0, 3, 6, 7] {
        let told = folder
            .run(&["get", products[place]["id"].as_str().unwrap()])
            .with_code(0);
        let mut expect = products[place].clone();
        if fate(place) == Fate::Patched {
            expect["price"] = patch(place)["price"].clone();
            expect["stock"] = patch(place)["stock"].clone();
        }
        assert_eq!(told["document"]["title"], expect["title"], "{told}");
        assert_eq!(told["document"]["price"], expect["price"], "{told}");
        assert_eq!(told["document"]["stock"], expect["stock"], "{told}");
    }
}

fn ndcg(folder: &Folder, data: &Path) -> f64 {
    let file = |name: &str| data.join(name).to_string_lossy().into_owned();
    let (queries, judgements) = (file("queries.tsv"), file("qrels.tsv"));
    let arguments = [
        "evaluate",
        "--mode",
        "hybrid",
        "--queries",
        &queries,
        "--judgements",
        &judgements,
    ];
    let content = || folder.run(&["releases", "show"]).with_code(0)["manifest"]["content"].clone();
    let before = content();
    let measured = folder.run(&arguments).with_code(0);
    println!("{measured}");
    assert_eq!(measured["queries"], 2_662);
    // Merges may publish meanwhile, and must not matter; documents may not change.
    assert!(before.is_string());
    assert_eq!(before, content(), "the catalog changed meanwhile");
    measured["ndcg@10"].as_f64().unwrap()
}

/// Whether the executable will find the model: the same folder, the largest file.
fn model_is_there() -> bool {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/verdigris"));
    let cache = std::env::var_os("VERDIGRIS_CACHE").map(PathBuf::from).or_else(home);
    cache.is_some_and(|cache| cache.join("models/all-minilm-l6-v2/model.safetensors").exists())
}

fn vectors_of(folder: &Folder) -> PathBuf {
    folder.data().join("cache/embeddings.sqlite")
}

/// Puts the vectors of earlier runs where the server will look for them.
fn take_vectors(folder: &Folder) {
    let kept = kept::path("embeddings.sqlite");
    if kept.exists() {
        let to = vectors_of(folder);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(kept, to).unwrap();
    }
}

/// Stops the server, and keeps its vectors for later runs: whole or not at all, whoever else does the same.
fn keep_vectors(folder: &Folder, server: &mut Server) {
    assert_eq!(server.stop().code(), Some(0));
    let vectors = vectors_of(folder);
    // A thread that still held the file when the process ended leaves a part of it in the write-ahead log.
    let connection = rusqlite::Connection::open(&vectors).unwrap();
    let (busy, _, _): (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(busy, 0, "nobody else has it open");
    drop(connection);
    let kept = kept::path("embeddings.sqlite");
    let unfinished = kept::unfinished(&kept);
    fs::copy(vectors, &unfinished).unwrap();
    fs::rename(unfinished, kept).unwrap();
}
