//! Incremental and rebuilt from scratch are the same (I-18): on the real catalogs, after 30 % of the documents changed.
//!
//! The rebuilt lineage lies beside the active one at the same generation; both are opened here, by the code that opens
//! them everywhere, and compared row by row and answer by answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(clippy::print_stdout, reason = "a test says what it skips, and what it measured")]

#[path = "../../services/verdigris/src/opener.rs"]
mod opener;
mod real_data;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use verdigris_core::names::CollectionName;
use verdigris_core::settings::Weights;
use verdigris_engine::filter::{Filter, FilterCache};
use verdigris_engine::release::Release;
use verdigris_engine::release::open::OpenRelease;
use verdigris_engine::release::search::{Mode, Query};
use verdigris_store::collection as objects;
use verdigris_store::directory::DirectoryStore;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_tests::process::Folder;

use opener::Opener;

const PATIENCE: Duration = Duration::from_secs(120);
const D: usize = 384;
const QUERIES: usize = 200;
const K: usize = 10;
/// Vectors come with the documents, so that no model is needed; nothing is promoted by itself, and no guard stops the
/// churn.
const SETTINGS: &str = r#"{"embedder":{"provider":"none","dimension":384},
    "guards":{"enabled":false},"rollout":{"promotion":"manual"}}"#;

/// Half-precision vectors of a NumPy file, row by row.
fn half_vectors(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let halves = bytes[10 + header..].chunks_exact(2);
    halves
        .map(|half| from_half(u16::from_le_bytes([half[0], half[1]])))
        .collect()
}

/// IEEE 754 binary16, without its infinities, which no vector here has.
fn from_half(half: u16) -> f32 {
    let (sign, exponent, fraction) = (half >> 15, i32::from(half >> 10 & 31), f32::from(half & 1_023));
    let size = if exponent == 0 {
        fraction * 2.0_f32.powi(-24)
    } else {
        (1.0 + fraction / 1_024.0) * 2.0_f32.powi(exponent - 15)
    };
    if sign == 1 { -size } else { size }
}

struct Catalog {
    documents: Vec<Value>,
    vectors: Vec<f32>,
    queries: Vec<String>,
    query_vectors: Vec<f32>,
}

fn catalog(folder: &Path) -> Catalog {
    let text = real_data::gunzipped(&folder.join("products.jsonl.gz"));
    let queries = std::fs::read_to_string(folder.join("queries.tsv")).unwrap();
    Catalog {
        documents: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        vectors: half_vectors(&folder.join("product-vectors.f16.npy")),
        queries: queries
            .lines()
            .filter_map(|line| line.split('\t').nth(1))
            .take(QUERIES)
            .map(str::to_owned)
            .collect(),
        query_vectors: half_vectors(&folder.join("query-vectors.f16.npy")),
    }
}

impl Catalog {
    fn line(&self, n: usize, vector_of: usize, lines: &mut String) {
        let mut document = self.documents[n].clone();
        document["_vector"] = json!(self.vectors[vector_of * D..(vector_of + 1) * D]);
        writeln!(lines, "{document}").unwrap();
    }

    fn all(&self) -> String {
        let mut lines = String::new();
        (0..self.documents.len()).for_each(|n| self.line(n, n, &mut lines));
        lines
    }

    /// Queries for recall: those of the catalog, and documents, since some catalogs have few queries.
    fn recall_queries(&self) -> impl Iterator<Item = &[f32]> {
        let documents = (0..2 * QUERIES).map(|n| &self.vectors[(n * 89 % self.documents.len()) * D..][..D]);
        self.query_vectors.chunks_exact(D).take(QUERIES).chain(documents)
    }

    /// A third of the documents: new texts and vectors, new prices, deletes.
    fn churn(&self, round: usize) -> String {
        let mut lines = String::new();
        let count = self.documents.len();
        for n in (0..count).filter(|n| n % 30 == round) {
            self.line(n, (n * 7 + 1) % count, &mut lines);
        }
        for n in (0..count).filter(|n| n % 30 == round + 10) {
            let id = &self.documents[n]["id"];
            let event = |kind: &str, extra: Value| {
                json!({
                    "specversion": "1.0", "id": format!("{round}-{n}"), "source": "test", "subject": id,
                    "type": format!("dev.verdigris.document.{kind}.v1"), "data": extra,
                })
            };
            let event = if n % 4 == 0 {
                event("delete", Value::Null)
            } else {
                event("patch", json!({"price": round, "title": format!("changed in {round}")}))
            };
            writeln!(lines, "{event}").unwrap();
        }
        lines
    }
}

fn pointer(folder: &Folder) -> Value {
    let bytes = std::fs::read(folder.data().join("store/products/latest")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The documents changed by events in ten releases, and rebuilt beside.
fn both(catalog: &Catalog) -> (Folder, [Arc<Release>; 2]) {
    let folder = Folder::new();
    let settings = folder.file("settings.json", SETTINGS);
    let made = folder.run(&["collections", "create", "products", "--settings", &settings]);
    assert_eq!(made.code, 0, "{}", made.text);
    let mut server = folder.up();
    let file = folder.file("all.jsonl", catalog.all());
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    for round in 0..10 {
        let file = folder.file("churn.jsonl", catalog.churn(round));
        let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    }
    let _told = folder.run(&["rebuild", "--wait"]).with_code(0);
    let began = Instant::now();
    let level = loop {
        let pointer = pointer(&folder);
        if pointer["other"].is_object() && pointer["other"]["generation"] == pointer["active"]["generation"] {
            break pointer;
        }
        assert!(began.elapsed() < PATIENCE, "{pointer:#}\n{}", folder.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(server.stop().code(), Some(0));
    let releases = ["active", "other"].map(|role| open(&folder, &level[role]["manifest"]));
    (folder, releases)
}

fn open(folder: &Folder, reference: &Value) -> Arc<Release> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name: CollectionName = "products".parse().unwrap();
    runtime.block_on(async {
        let store = Arc::new(DirectoryStore::open(&folder.data().join("store")).unwrap());
        let reference = serde_json::from_value(reference.clone()).unwrap();
        let manifest = objects::manifest(&*store, &name, &reference).await.unwrap();
        Opener::new(store, VerifiedFiles::default())
            .open(Arc::new(manifest), None)
            .await
            .unwrap()
    })
}

/// Every document, ghosts included, with what its row stores.
fn documents(release: &Release) -> BTreeMap<String, (Vec<u8>, Vec<f32>)> {
    let rows = release.live_rows().map(|place| {
        let stored = release.stored(place).unwrap();
        let vector = if release.has_vector(place) {
            release.vector(place)
        } else {
            Vec::new()
        };
        (stored.id, (stored.state, vector))
    });
    rows.collect()
}

fn ask(release: &Release, cache: &FilterCache, mode: Mode, text: &str, vector: &[f32]) -> Vec<(String, f32)> {
    let query = Query {
        mode,
        text: Some(text),
        vector: Some(vector),
        top: K,
        filter: None,
        ef_search: None,
        nprobe: None,
        min_score: None,
        weights: Weights::default(),
    };
    let hits = release.search(&query, cache).unwrap();
    hits.iter()
        .map(|hit| (release.id(hit.place).unwrap(), hit.score))
        .collect()
}

fn exact(release: &Release, vector: &[f32]) -> Vec<(String, f32)> {
    let hits = release.exact(vector, K).unwrap();
    hits.into_iter()
        .map(|(place, score)| (release.id(place).unwrap(), score))
        .collect()
}

fn scores(hits: &[(String, f32)]) -> Vec<f32> {
    hits.iter().map(|(_, score)| *score).collect()
}

fn assert_equal(name: &str, catalog: &Catalog) {
    let (_folder, [grown, built]) = both(catalog);
    let (ours, theirs) = (grown.manifest(), built.manifest());
    assert_eq!(
        (ours.content, ours.documents),
        (theirs.content, theirs.documents),
        "{name}"
    );
    assert_ne!(ours.lineage, theirs.lineage, "{name}: one grew, one was built");
    let (grown_documents, built_documents) = (documents(&grown), documents(&built));
    assert!(
        grown_documents == built_documents,
        "{name}: a state or a vector differs"
    );

    let caches = [FilterCache::new(64 << 20), FilterCache::new(64 << 20)];
    for filter in [
        "price < 20",
        "price >= 3 AND price <= 7",
        "title:changed",
        "NOT price:*",
        "brand:*",
        "price > 1e9",
    ] {
        let filter = Filter::parse(filter).unwrap();
        let counts = [&grown, &built].map(|release| release.count(&filter, &caches[0]).unwrap());
        assert_eq!(counts[0], counts[1], "{name}: {filter:?}");
    }
    let (mut recalls, mut wanted) = ([0, 0], 0);
    for (n, text) in catalog.queries.iter().enumerate() {
        let vector = &catalog.query_vectors[n * D..(n + 1) * D];
        let truth = exact(&grown, vector);
        assert_eq!(
            scores(&truth),
            scores(&exact(&built, vector)),
            "{name}: exact hits of {text:?}"
        );
        let words = [&grown, &built].map(|release| scores(&ask(release, &caches[0], Mode::Words, text, vector)));
        assert_eq!(words[0].len(), words[1].len(), "{name}: {text:?}");
        for (a, b) in words[0].iter().zip(&words[1]) {
            assert!(
                (a - b).abs() <= 0.01 * a.abs().max(b.abs()),
                "{name}: BM25 of {text:?}: {a} and {b}"
            );
        }
    }
    for vector in catalog.recall_queries() {
        let truth = exact(&grown, vector);
        let worst = truth.last().map_or(0.0, |(_, score)| *score);
        wanted += truth.len();
        for (recall, release) in recalls.iter_mut().zip([&grown, &built]) {
            let hits = ask(release, &caches[1], Mode::Vector, "", vector);
            *recall += hits.iter().filter(|(_, score)| *score >= worst - 1e-6).count();
        }
    }
    let recalls = recalls.map(|found| found as f64 / wanted as f64);
    println!(
        "{name}: {} documents, {} and {} segments, recall@{K} grown {:.4}, built {:.4}",
        ours.documents,
        ours.segments.len(),
        theirs.segments.len(),
        recalls[0],
        recalls[1]
    );
    assert!((recalls[0] - recalls[1]).abs() <= 0.01, "{name}: {recalls:?}");
    assert!(recalls[0] >= 0.95, "{name}: {recalls:?}");
}

#[test]
fn a_catalog_that_grew_by_events_is_the_one_that_is_built_anew() {
    for name in ["products", "esci", "icecat"] {
        let Some(folder) = real_data::folder(name, "a_catalog_that_grew_by_events_is_the_one_that_is_built_anew")
        else {
            return;
        };
        assert_equal(name, &catalog(&folder));
    }
}
