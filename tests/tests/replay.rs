//! Order and duplicates on the whole way: the edits of two real wikis, through the executable, in random orders.
//!
//! Goal: the result does not depend on the order of events, nor on how often they come (I-13). Method: the same edits go
//! into two folders in two orders, one with duplicates, in parts that each become releases; pages and content digest are
//! those of the history read in its own order. Patches are made up beside the edits, because wikis have none.
//! Deliberately absent: vectors of a real model, which order cannot touch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(
    clippy::print_stdout,
    reason = "what was skipped or measured is told on standard output"
)]

mod real_data;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use serde_json::{Map, Value, json};
use verdigris_tests::process::Folder;

const TEST: &str = "wiki_edits_in_any_order_and_repeated_end_in_the_same_documents_and_content";
const SEED: &str = "VERDIGRIS_REPLAY_SEED";
const SETTINGS: &str = r#"{
    "revision": "number",
    "guards": {"enabled": false},
    "embedder": {"provider": "hash", "dimension": 64},
    "text": {
        "embed": [{"fields": ["title"]}, {"fields": ["text"], "characters": 400}],
        "words": ["title", "text"],
        "codes": [],
        "returned_only": ["sha256"]
    }
}"#;
/// Files that the edits are sent in, each after the one before is searchable.
const PARTS: usize = 6;

#[test]
fn wiki_edits_in_any_order_and_repeated_end_in_the_same_documents_and_content() {
    let Some(data) = real_data::folder("wiki", TEST) else {
        return;
    };
    let mut random = Random(seed());
    let edits = edits(&data);
    let expect = in_their_own_order(&edits);
    check_pages(&data, &expect);

    let mut once: Vec<&Value> = edits.iter().collect();
    let mut repeated: Vec<&Value> = once.clone();
    repeated.extend(edits.iter().step_by(3));
    random.shuffle(&mut once);
    random.shuffle(&mut repeated);
    let [first, second] = [once, repeated].map(|order| replayed(&order));
    for (name, replayed) in [("without", &first), ("with", &second)] {
        let found = &replayed.documents;
        assert_eq!(found.keys().collect::<Vec<_>>(), expect.keys().collect::<Vec<_>>());
        for (id, document) in found {
            assert_eq!(document, &expect[id], "{id}, {name} duplicates");
        }
    }
    assert_eq!(first.content, second.content, "the digests of all documents and ghosts");
}

/// What a folder came to.
struct Replayed {
    documents: BTreeMap<String, Value>,
    content: String,
}

/// Sends edits in this order, in parts, and reads all documents of the release that they end in.
fn replayed(edits: &[&Value]) -> Replayed {
    let folder = Folder::new();
    let _server = folder.up();
    let settings = folder.file("settings.json", SETTINGS);
    let _made = folder
        .run(&["collections", "create", "products", "--settings", &settings])
        .with_code(0);
    for part in edits.chunks(edits.len().div_ceil(PARTS)) {
        let lines: String = part.iter().map(|edit| format!("{edit}\n")).collect();
        let file = folder.file("edits.jsonl", &lines);
        let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
        assert_eq!(told["accepted"], part.len(), "{told}");
        assert_eq!(
            (&told["rejected"], &told["set_aside"]),
            (&0.into(), &0.into()),
            "{told}"
        );
    }
    let release = folder.run(&["releases", "show"]).with_code(0);
    assert!(release["generation"].as_u64() >= Some(PARTS as u64), "{release}");
    let to = folder.data().with_file_name("exported");
    let _told = folder
        .run(&["releases", "export", "--to", to.to_str().unwrap()])
        .with_code(0);
    let lines = fs::read_to_string(to.join("meta.jsonl")).unwrap();
    let documents: BTreeMap<String, Value> = lines.lines().map(exported).collect();
    assert_eq!(documents.len(), lines.lines().count(), "a document is exported twice");
    assert_eq!(release["documents"], documents.len(), "{release}");
    Replayed {
        documents,
        content: release["manifest"]["content"].as_str().unwrap().to_owned(),
    }
}

fn exported(line: &str) -> (String, Value) {
    let mut line: Value = serde_json::from_str(line).unwrap();
    let mut document = line["document"].take();
    document.as_object_mut().unwrap().remove("id");
    (line["id"].as_str().unwrap().to_owned(), document)
}

/// The edits of the history as events, in their order, with patches between them.
fn edits(data: &Path) -> Vec<Value> {
    let texts = texts(data);
    let history = real_data::gunzipped(&data.join("events.jsonl.gz"));
    let mut edits = Vec::new();
    for line in history.lines() {
        let edit: Value = serde_json::from_str(line).unwrap();
        let seq = edit["seq"].as_i64().unwrap();
        let mut event = json!({"id": id(&edit), "_op": edit["op"], "_revision": 2 * seq});
        if edit["op"] == "upsert" {
            let sha256 = edit["sha256"].as_str().unwrap();
            let text = texts.get(sha256).map_or(sha256, String::as_str);
            event["title"] = edit["page"].clone();
            event["sha256"] = sha256.into();
            event["text"] = text.into();
            event["commit"] = edit["commit"].clone();
        }
        edits.push(event);
        let patch = match seq % 4 {
            0 => json!({"reviewed": edit["commit"], "stars": seq}),
            1 => json!({"commit": null}),
            2 => json!({"title": format!("{} again", edit["page"])}),
            _ => continue,
        };
        let mut patch = patch;
        patch["id"] = id(&edit).into();
        patch["_op"] = "patch".into();
        patch["_revision"] = (2 * seq + 1).into();
        edits.push(patch);
    }
    edits
}

fn id(edit: &Value) -> String {
    format!("{}/{}", edit["wiki"].as_str().unwrap(), edit["page"].as_str().unwrap())
}

/// The texts by their sha256; without `zstd` none, and each hash stands for its text.
fn texts(data: &Path) -> BTreeMap<String, String> {
    let Some(lines) = real_data::unpacked("zstd", &data.join("versions.jsonl.zst")) else {
        println!("no zstd here: hashes stand for the texts of the pages");
        return BTreeMap::new();
    };
    let pair = |line: &str| {
        let version: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| version[field].as_str().unwrap().to_owned();
        (text("sha256"), text("text"))
    };
    lines.lines().map(pair).collect()
}

/// The documents as the history leaves them: the newest write of each field since the newest upsert.
fn in_their_own_order(edits: &[Value]) -> BTreeMap<String, Value> {
    let mut documents: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for edit in edits {
        let id = edit["id"].as_str().unwrap().to_owned();
        let fields = edit.as_object().unwrap().iter();
        let fields = fields.filter(|(name, _)| !["id", "_op", "_revision"].contains(&name.as_str()));
        let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
        match edit["_op"].as_str().unwrap() {
            "upsert" => {
                documents.insert(id, fields.collect());
            }
            "delete" => {
                documents.remove(&id);
            }
            _ => {
                if let Some(document) = documents.get_mut(&id) {
                    document.extend(fields);
                    document.retain(|_, value| !value.is_null());
                }
            }
        }
    }
    documents.into_iter().map(|(id, fields)| (id, fields.into())).collect()
}

/// The pages that the edits must end in, as those who made the history found them.
fn check_pages(data: &Path, documents: &BTreeMap<String, Value>) {
    let pages = real_data::gunzipped(&data.join("pages.jsonl.gz"));
    let pages = pages.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let pages: BTreeMap<String, Value> = pages.map(|page| (id(&page), page["sha256"].clone())).collect();
    let found = documents
        .iter()
        .map(|(id, document)| (id.clone(), document["sha256"].clone()));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), pages);
}

/// The seed of this run, and how to have the same orders again.
fn seed() -> u64 {
    let given = std::env::var(SEED).ok().map(|text| text.parse().unwrap());
    let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("the same again: {SEED}={seed} cargo test -p verdigris-tests --test replay");
    seed
}

/// SplitMix64: enough for an order, and the same in every version.
struct Random(u64);

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, (self.next() % (place as u64 + 1)) as usize);
        }
    }
}
