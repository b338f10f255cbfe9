//! Relevance of the real path on real products: a fresh build is as good as it should be, and stays so when a third of
//! the catalog is changed and restored by events.
//!
//! Vectors are kept in the embedding cache beside the executable, so that only the first run embeds.

#![allow(clippy::print_stdout, reason = "a test says what it skips, and how it is repeated")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, Server, executable, model_cache, shared_data};
use verdigris_tests::watch::{self, PATIENCE};

/// What one default should reach on these products, and how far changes may move it.
const NDCG_MIN: f64 = 0.80;
const NDCG_MOVED_MAX: f64 = 0.003;

/// The lines of a compressed file; none where no program here reads it.
fn lines_of(path: &Path) -> Vec<Value> {
    let ended = watch::run(Command::new("gzip").arg("-dc").arg(path), PATIENCE);
    assert!(ended.status.success(), "{}", ended.err);
    let line = |line| serde_json::from_str(line).expect("the data set is JSON Lines");
    ended.out.lines().map(line).collect()
}

/// A server with the model, and with the embedding cache that outlives the test.
fn up(folder: &Folder, models: &Path) -> Server {
    let target = executable()
        .parent()
        .and_then(Path::parent)
        .expect("it lies in TARGET/PROFILE");
    let kept = target.join("embedding-cache");
    fs::create_dir_all(&kept).expect("the target folder takes a folder");
    fs::create_dir_all(folder.data()).expect("the temporary folder takes a folder");
    symlink(kept, folder.data().join("cache")).expect("the temporary folder takes a link");
    let mut command = folder.command();
    command.args(["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let server = folder.try_up_by(command.env("VERDIGRIS_CACHE", models));
    server.unwrap_or_else(|err| panic!("up ended: {err}"))
}

fn ingest(folder: &Folder, lines: &[Value]) -> Value {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let file = folder.file("lines.jsonl", lines.join("\n"));
    folder.run(&["ingest", &file, "--wait"]).with_code(0)
}

fn evaluated(folder: &Folder, data: &Path) -> f64 {
    let (queries, judgements) = (data.join("queries.tsv"), data.join("qrels.tsv"));
    let (queries, judgements) = (queries.to_string_lossy(), judgements.to_string_lossy());
    let question = [
        "evaluate",
        "--queries",
        &queries,
        "--judgements",
        &judgements,
        "--mode",
        "hybrid",
    ];
    let told = folder.run(&question).with_code(0);
    println!("{told}");
    // A merge may be published meanwhile; it changes no document.
    told["ndcg@10"].as_f64().expect("a measure is a number")
}

/// Events for three tenths of the catalog: what they make of it, and what makes it as it was.
fn changes(catalog: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let (mut away, mut back) = (Vec::new(), Vec::new());
    for (n, document) in catalog.iter().enumerate() {
        let mut changed = document.clone();
        changed["title"] = json!(format!("withdrawn article {n}"));
        let (id, title) = (&document["id"], &document["title"]);
        match n % 10 {
            0 => {
                away.push(changed);
                back.push(document.clone());
            }
            3 => {
                away.push(json!({"id": id, "_op": "patch", "title": changed["title"], "price": 1, "seen": true}));
                back.push(json!({"id": id, "_op": "patch", "title": title, "price": document["price"], "seen": null}));
            }
            6 => {
                away.push(json!({"id": id, "_op": "delete"}));
                back.push(document.clone());
            }
            _ => {}
        }
    }
    (away, back)
}

#[test]
fn relevance_is_the_same_after_three_tenths_of_the_catalog_were_updated() {
    let name = "relevance_is_the_same_after_three_tenths_of_the_catalog_were_updated";
    let Some(data) = shared_data("products") else {
        return println!("skipped: {name}: no ../shared/data");
    };
    let Some(models) = model_cache() else {
        return println!("skipped: {name}: no model; see `make model`");
    };
    let folder = Folder::new();
    let mut server = up(&folder, &models);
    let catalog = lines_of(&data.join("products.jsonl.gz"));
    let told = ingest(&folder, &catalog);
    assert_eq!(told["accepted"], catalog.len());
    let fresh = evaluated(&folder, &data);
    assert!(fresh >= NDCG_MIN, "ndcg@10 of a fresh build is {fresh}");
    let (away, back) = changes(&catalog);
    assert!(away.len() * 10 >= catalog.len() * 3 - 30);
    let told = ingest(&folder, &away);
    assert_eq!(told["applied"], away.len());
    let moved = evaluated(&folder, &data);
    assert!(moved < fresh - 0.05, "the changes are seen: {moved} after {fresh}");
    let told = ingest(&folder, &back);
    assert_eq!(told["applied"], back.len());
    let shown = folder.run(&["collections", "show"]).with_code(0);
    assert_eq!(shown["documents"], catalog.len());
    let restored = evaluated(&folder, &data);
    assert!((restored - fresh).abs() <= NDCG_MOVED_MAX, "{fresh} became {restored}");
    assert_eq!(server.stop().code(), Some(0));
}
