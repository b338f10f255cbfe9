//! A filter means the same rows on its whole way: from the columns of each segment, past dead rows, into the search of
//! vectors and words. Against brute force over the documents, so that no part of the way is taken on trust.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::json;
use support::{exact, made_vectors, random_rows, rows_of, unchecked_files};
use tempfile::TempDir;
use verdigris_core::digest::Digest;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::manifest::{Genesis, LineageId, Manifest, Metric, SegmentEntry, SettingsReference};
use verdigris_core::position::StreamIdentity;
use verdigris_core::settings::{Settings, Weights};
use verdigris_engine::filter::{Filter, FilterCache};
use verdigris_engine::release::Release;
use verdigris_engine::release::search::{Hit, Mode, Query};
use verdigris_engine::segment::write::{NewRow, SegmentShape, SegmentWriter, WrittenSegment};
use verdigris_engine::segment::{SegmentCache, SegmentSource};

const D: usize = 48;
const K: usize = 10;
/// A base with a graph, and a small segment that is exact.
const SEGMENTS: [u32; 2] = [20_000, 700];

/// A number that does not follow the order of rows, below 20,700, each once: 7,919 shares no factor with it.
fn number(document: u32) -> u32 {
    document * 7_919 % SEGMENTS.iter().sum::<u32>()
}

struct Opened {
    release: Release,
    /// Of all documents, in order.
    vectors: Vec<f32>,
    alive: Vec<bool>,
    _folder: TempDir,
}

fn written(folder: &Path, first: u32, vectors: &[f32]) -> WrittenSegment {
    let settings = Settings::default();
    let shape = SegmentShape {
        index_type: settings.ann.index_type,
        dimension: D as u32,
        text: &settings.text,
        threads: 2,
    };
    std::fs::create_dir_all(folder).unwrap();
    let mut writer = SegmentWriter::new(folder, shape).unwrap();
    for (document, vector) in (first..).zip(rows_of(vectors, D)) {
        let fields = json!({"id": document.to_string(), "n": number(document), "title": "drill"});
        let row = NewRow {
            id: document.to_string(),
            generation: 1,
            state: Vec::new(),
            document: fields.as_object().cloned(),
        };
        writer.add(&row, vector).unwrap();
    }
    writer.finish().unwrap()
}

fn entry(written: &WrittenSegment, name: u32, dead: &RoaringBitmap) -> SegmentEntry {
    SegmentEntry {
        live: written.rows - dead.len() as u32,
        ..written.entry(name.to_string().into(), unchecked_files())
    }
}

fn opened() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = Manifest::genesis(Genesis {
        collection: "products".parse().unwrap(),
        lineage: LineageId::from("one".to_owned()),
        metric: Metric::Cosine,
        embedder: EmbedderIdentity::none(D as u32),
        settings: SettingsReference {
            version: 1,
            digest: Digest::of(b""),
        },
        stream: StreamIdentity(1),
    });
    manifest.generation = 1;
    let (mut parts, mut vectors, mut alive): (Vec<(SegmentSource, _)>, _, _) = (Vec::new(), Vec::new(), Vec::new());
    for (name, rows) in (0..).zip(SEGMENTS) {
        let first = alive.len() as u32;
        let of_segment = made_vectors(rows as usize, D, 31 + u64::from(name));
        let segment = written(&folder.path().join(name.to_string()), first, &of_segment);
        let drawn = random_rows(rows, 0.1, 41 + u64::from(name));
        let dead: RoaringBitmap = (0..rows).filter(|row| drawn.contains(*row)).collect();
        manifest.segments.push(entry(&segment, name, &dead));
        alive.extend((0..rows).map(|row| !dead.contains(row)));
        vectors.extend(of_segment);
        parts.push((segment.paths.into(), Arc::new(dead)));
    }
    Opened {
        release: Release::open(Arc::new(manifest), parts, &SegmentCache::default()).unwrap(),
        vectors,
        alive,
        _folder: folder,
    }
}

impl Opened {
    fn documents(&self, hits: &[Hit]) -> Vec<u32> {
        let id = |hit: &Hit| self.release.id(hit.place).unwrap().parse().unwrap();
        hits.iter().map(id).collect()
    }

    /// The documents that are hits, after what must hold in every mode was checked.
    fn search(&self, mode: Mode, vector: &[f32], below: u32) -> Vec<u32> {
        let filter = Filter::parse(&format!("n < {below}")).unwrap();
        let query = Query {
            mode,
            text: Some("drill"),
            vector: Some(vector),
            top: K,
            filter: Some(&filter),
            ef_search: Some(64),
            nprobe: None,
            min_score: None,
            weights: Weights::default(),
        };
        let hits = self.release.search(&query, &FilterCache::new(1 << 20)).unwrap();
        let documents = self.documents(&hits);
        let allowed = |document: u32| self.alive[document as usize] && number(document) < below;
        let exist = (0..self.alive.len() as u32)
            .filter(|document| allowed(*document))
            .count();
        for document in &documents {
            assert!(
                allowed(*document),
                "{mode:?}: document {document} with n {} is a hit of n < {below}, alive: {}",
                number(*document),
                self.alive[*document as usize]
            );
        }
        let each_once: BTreeSet<_> = documents.iter().collect();
        assert_eq!(
            each_once.len(),
            K.min(exist),
            "{mode:?}: hits of n < {below}, {exist} exist"
        );
        documents
    }
}

#[test]
fn filters_of_a_release_find_what_brute_force_finds_and_nothing_else() {
    let opened = opened();
    let queries = made_vectors(40, D, 51);
    let all = opened.alive.len() as f64;
    for share in [0.5, 0.05, 0.005, 0.000_5, 0.0] {
        let below = (all * share) as u32;
        let (mut good, mut wanted) = (0, 0);
        for query in rows_of(&queries, D) {
            let allowed = |document: u32| opened.alive[document as usize] && number(document) < below;
            let truth: BTreeSet<u32> = exact(&opened.vectors, query, allowed)
                .into_iter()
                .take(K)
                .map(|(document, _)| document)
                .collect();
            let found = opened.search(Mode::Vector, query, below);
            good += found.iter().filter(|document| truth.contains(document)).count();
            wanted += truth.len();
            opened.search(Mode::Hybrid, query, below);
            opened.search(Mode::Words, query, below);
        }
        assert!(
            good as f64 >= 0.95 * wanted as f64,
            "n < {below}: {good} of {wanted} nearest documents were found"
        );
    }
}
