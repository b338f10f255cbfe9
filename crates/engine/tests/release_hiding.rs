//! A release that hides documents is the one from which they were taken: the same hits with the same scores, by words
//! and by vectors, and nothing of the hidden ones, their ghosts among them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::json;
use support::{made_vectors, rows_of, unchecked_files};
use verdigris_core::digest::Digest;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::manifest::{Genesis, Manifest, Metric, SegmentEntry, SettingsReference};
use verdigris_core::position::StreamIdentity;
use verdigris_core::settings::{Settings, Weights};
use verdigris_engine::filter::{Filter, FilterCache};
use verdigris_engine::release::Release;
use verdigris_engine::release::search::{Mode, Query};
use verdigris_engine::segment::write::{NewRow, SegmentShape, SegmentWriter};
use verdigris_engine::segment::{SegmentCache, SegmentPaths};

const D: usize = 16;
/// Documents of a segment; each has a ghost row behind them.
const ROWS: u32 = 40;

fn segment(folder: &Path, name: u32, vectors: &[f32]) -> (SegmentEntry, SegmentPaths) {
    let settings = Settings::default();
    let folder = folder.join(name.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let shape = SegmentShape {
        index_type: settings.ann.index_type,
        dimension: D as u32,
        text: &settings.text,
        threads: 1,
    };
    let row = |id: String, title: Option<String>| NewRow {
        document: title.map(|title| json!({"id": id, "title": title}).as_object().unwrap().clone()),
        id,
        generation: 1,
        state: Vec::new(),
    };
    let mut writer = SegmentWriter::new(&folder, shape).unwrap();
    for (n, vector) in (0..).zip(rows_of(vectors, D)) {
        let title = format!("drill {} of {n} bits", "long ".repeat(n % 7));
        writer.add(&row(format!("{name}-{n}"), Some(title)), vector).unwrap();
    }
    writer.add_ghost(&row(format!("ghost-{name}"), None)).unwrap();
    let written = writer.finish().unwrap();
    let entry = written.entry(name.to_string().into(), unchecked_files());
    (entry, written.paths)
}

fn opened(parts: &[(SegmentEntry, SegmentPaths)], dead: [RoaringBitmap; 2]) -> Arc<Release> {
    let mut manifest = Manifest::genesis(Genesis {
        collection: "products".parse().unwrap(),
        lineage: "l".to_owned().into(),
        metric: Metric::Cosine,
        embedder: EmbedderIdentity::none(D as u32),
        settings: SettingsReference {
            version: 1,
            digest: Digest::of(b""),
        },
        stream: StreamIdentity(0),
    });
    manifest.segments = parts.iter().map(|(entry, _)| entry.clone()).collect();
    let parts = parts.iter().zip(dead);
    let parts = parts
        .map(|((_, paths), dead)| (paths.clone().into(), Arc::new(dead)))
        .collect();
    Arc::new(Release::open(Arc::new(manifest), parts, &SegmentCache::default()).unwrap())
}

/// Ids with their scores.
fn hits(release: &Release, mode: Mode, vector: &[f32]) -> Vec<(String, f32)> {
    let query = Query {
        mode,
        text: Some("long drill bits"),
        vector: Some(vector),
        top: 200,
        filter: None,
        ef_search: None,
        nprobe: None,
        min_score: None,
        weights: Weights::default(),
    };
    let hits = release.search(&query, &FilterCache::new(1 << 20)).unwrap();
    hits.iter()
        .map(|hit| (release.id(hit.place).unwrap(), hit.score))
        .collect()
}

#[test]
fn hiding_documents_is_as_if_their_rows_had_died() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = made_vectors(2 * ROWS as usize, D, 1);
    let (first, second) = vectors.split_at(ROWS as usize * D);
    let parts = [segment(folder.path(), 0, first), segment(folder.path(), 1, second)];
    let whole = opened(&parts, [RoaringBitmap::from([3]), RoaringBitmap::new()]);
    let hidden = whole.hiding(["0-5", "0-3", "1-39", "ghost-1", "nobody"]);
    let died = opened(&parts, [RoaringBitmap::from([3, 5]), RoaringBitmap::from([39, 40])]);
    for mode in [Mode::Words, Mode::Vector, Mode::Hybrid] {
        let found = hits(&hidden, mode, &vectors[..D]);
        assert_eq!(found, hits(&died, mode, &vectors[..D]), "{mode:?}");
        assert!(found.iter().all(|(id, _)| id != "0-5" && id != "1-39"), "{mode:?}");
        assert_ne!(found, hits(&whole, mode, &vectors[..D]), "{mode:?}");
    }
    for gone in ["0-5", "1-39", "ghost-1"] {
        assert!(hidden.find(gone).is_none() && whole.find(gone).is_some(), "{gone}");
    }
    assert!(hidden.find("ghost-0").is_some());
    let all = Filter::parse("title != \"x\"");
    let filters = FilterCache::new(1 << 20);
    let all = all.unwrap();
    assert_eq!(
        hidden.count(&all, &filters).unwrap(),
        died.count(&all, &filters).unwrap()
    );
    assert_eq!(hidden.live_rows().count(), died.live_rows().count());
    assert!(hidden.is_hiding() && !whole.is_hiding());
}

#[test]
fn a_release_that_shows_none_of_them_stays_itself() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = made_vectors(2 * ROWS as usize, D, 2);
    let (first, second) = vectors.split_at(ROWS as usize * D);
    let parts = [segment(folder.path(), 0, first), segment(folder.path(), 1, second)];
    let whole = opened(&parts, [RoaringBitmap::from([3]), RoaringBitmap::new()]);
    for ids in [&["0-3", "nobody"][..], &[]] {
        assert!(Arc::ptr_eq(&whole, &whole.hiding(ids.iter().copied())), "{ids:?}");
    }
}
