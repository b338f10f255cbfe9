//! The edit history of two real wikis, sent in different orders and with duplicates, ends in the same documents (I-13).

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, shared_data};
use verdigris_tests::watch::{self, PATIENCE};

const SETTINGS: &str = r#"{"revision":"number","embedder":{"provider":"hash","dimension":64}}"#;
/// Parts that a history is sent in, so that later events meet documents, ghosts and merges of earlier releases.
const PARTS: usize = 6;

/// The lines of a compressed file; nothing where the program that reads it is not there.
fn lines_of(program: &str, path: &Path) -> Option<Vec<Value>> {
    let there = Command::new(program).arg("--version").output().is_ok();
    there.then(|| {
        let ended = watch::run(Command::new(program).arg("-dc").arg(path), PATIENCE);
        assert!(ended.status.success(), "{}", ended.err);
        let line = |line| serde_json::from_str(line).expect("the data set is JSON Lines");
        ended.out.lines().map(line).collect()
    })
}

fn id_of(edit: &Value) -> String {
    let part = |name: &str| edit[name].as_str().expect("the data set is complete").to_owned();
    format!("{}/{}", part("wiki"), part("page"))
}

/// Each edit as an event; every third upsert has a patch of the same revision beside it, which comes after it in the
/// order of stamps whenever it arrives.
fn events(edits: &[Value], texts: &BTreeMap<String, String>) -> Vec<String> {
    let mut events = Vec::new();
    for edit in edits {
        let (id, revision) = (id_of(edit), &edit["seq"]);
        if edit["op"] == "delete" {
            events.push(json!({"id": id, "_op": "delete", "_revision": revision}));
            continue;
        }
        let text = &texts[edit["sha256"].as_str().expect("an upsert names its text")];
        let commit = &edit["commit"];
        events.push(json!({"id": id, "_revision": revision, "description": text, "commit": commit, "draft": true}));
        if revision.as_u64().is_some_and(|revision| revision % 3 == 0) {
            events.push(json!({"id": id, "_op": "patch", "_revision": revision, "draft": null, "checked": revision}));
        }
    }
    events.iter().map(Value::to_string).collect()
}

/// What the pages hold in the end.
fn expected(pages: &[Value], edits: &[Value]) -> BTreeMap<String, Value> {
    let mut last: BTreeMap<String, &Value> = BTreeMap::new();
    for edit in edits {
        last.insert(id_of(edit), edit);
    }
    let document = |page: &Value| {
        let (id, edit) = (id_of(page), last[&id_of(page)]);
        let mut document = json!({"id": id, "description": page["text"], "commit": edit["commit"]});
        match edit["seq"].as_u64() {
            Some(seq) if seq % 3 == 0 => document["checked"] = json!(seq),
            _ => document["draft"] = json!(true),
        }
        (id, document)
    };
    pages.iter().map(document).collect()
}

/// Puts events into an order of its own, a fifth of them twice.
fn shuffled(events: &[String], seed: u64) -> Vec<&str> {
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut order: Vec<&str> = events.iter().map(String::as_str).collect();
    for _ in 0..events.len() / 5 {
        order.push(&events[draw(events.len())]);
    }
    for at in (1..order.len()).rev() {
        order.swap(at, draw(at + 1));
    }
    order
}

/// All documents of the newest release, and the digest of its content.
fn outcome(folder: &Folder, order: &[&str]) -> (BTreeMap<String, Value>, Value) {
    let settings = folder.file("settings.json", SETTINGS);
    let mut server = folder.up();
    let _made = folder
        .run(&["collections", "create", "products", "--settings", &settings])
        .with_code(0);
    for part in order.chunks(order.len().div_ceil(PARTS)) {
        let file = folder.file("part.jsonl", part.join("\n"));
        let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
        assert_eq!(told["accepted"], part.len());
    }
    let shown = folder.run(&["releases", "show"]).with_code(0);
    assert!(
        shown["generation"].as_u64() >= Some(PARTS as u64),
        "the parts went singly: {shown}"
    );
    let content = shown["manifest"]["content"].clone();
    assert_eq!(server.stop().code(), Some(0));
    let to = folder.data().with_file_name("export");
    let _exported = folder
        .run(&["releases", "export", "--to", &to.to_string_lossy()])
        .with_code(0);
    let rows = fs::read_to_string(to.join("meta.jsonl")).expect("an export has its documents");
    let documents = rows.lines().map(|row| {
        let row: Value = serde_json::from_str(row).expect("rows are JSON");
        let id = row["id"].as_str().expect("rows have ids").to_owned();
        (id, row["document"].clone())
    });
    let all: Vec<_> = documents.collect();
    let by_id: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(by_id.len(), all.len(), "each document is there once");
    (by_id, content)
}

#[test]
fn a_history_in_any_order_and_with_duplicates_ends_in_the_same_documents() {
    let name = "a_history_in_any_order_and_with_duplicates_ends_in_the_same_documents";
    let Some(data) = shared_data("wiki") else {
        return println!("skipped: {name}: no ../shared/data");
    };
    let Some(versions) = lines_of("zstd", &data.join("versions.jsonl.zst")) else {
        return println!("skipped: {name}: no zstd to unpack the texts");
    };
    let edits = lines_of("gzip", &data.join("events.jsonl.gz")).expect("gzip is everywhere");
    let pages = lines_of("gzip", &data.join("pages.jsonl.gz")).expect("gzip is everywhere");
    let text = |version: Value| {
        let part = |name: &str| version[name].as_str().expect("the data set is complete").to_owned();
        (part("sha256"), part("text"))
    };
    let events = events(&edits, &versions.into_iter().map(text).collect());
    let seed = std::env::var("REPLAY_SEED").map_or_else(
        |_| RandomState::new().hash_one(name),
        |seed| seed.parse().expect("REPLAY_SEED is a number"),
    );
    println!("{} events; repeat the orders with REPLAY_SEED={seed}", events.len());
    let expected = expected(&pages, &edits);
    let mut contents = Vec::new();
    for seed in [seed, seed ^ 0x5555_5555] {
        let (documents, content) = outcome(&Folder::new(), &shuffled(&events, seed));
        let wrong: Vec<_> = expected
            .iter()
            .filter(|(id, page)| documents.get(*id) != Some(page))
            .map(|(id, _)| id)
            .collect();
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
        assert_eq!(documents.len(), expected.len(), "seed {seed}: nothing else is there");
        contents.push(content);
    }
    assert!(contents[0].is_string() && contents[0] == contents[1], "{contents:?}");
}
