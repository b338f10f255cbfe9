//! A release over one set of vectors, written and opened by the code that serves: segment, dead rows, manifest.

use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::{Map, json};
use verdigris_core::digest::Digest;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::manifest::{
    FileEntry, Genesis, LineageId, Manifest, Metric, SegmentEntry, SegmentFiles, SettingsReference,
};
use verdigris_core::position::StreamIdentity;
use verdigris_core::settings::Settings;
use verdigris_engine::release::Release;
use verdigris_engine::segment::write::{NewRow, SegmentShape, SegmentWriter};
use verdigris_engine::segment::{SegmentCache, SegmentPaths};

use crate::vectors::{D, read};

type Error = Box<dyn std::error::Error>;

/// Where row n lies between 0 and 1, evenly and without order: what filters of the benchmark compare.
pub(crate) fn share_of(row: usize) -> f64 {
    number(row) as f64 / 1e6
}

/// Steele, Lea, Flood: SplitMix64.
fn number(row: usize) -> u64 {
    let mut x = (row as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) % 1_000_000
}

/// Writes the segment of a set, unless it is there.
pub(crate) fn build(folder: &Path, set: &str) -> Result<(), Error> {
    let out = folder.join(set);
    if out.join("rows.tar").exists() && out.join("vectors.faiss").exists() {
        return Ok(());
    }
    let partial = folder.join(format!("{set}.partial"));
    // What an earlier run left half done; usually there is none.
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let base = read(&folder.join(format!("{set}.base.f32")))?;
    let settings = Settings::default();
    let shape = SegmentShape {
        index_type: settings.ann.index_type,
        dimension: D as u32,
        text: &settings.text,
        threads: std::thread::available_parallelism()?.get(),
    };
    let mut writer = SegmentWriter::new(&partial, shape)?;
    for (row, vector) in base.chunks_exact(D).enumerate() {
        let id = row.to_string();
        let document = Map::from_iter([("id".to_owned(), json!(id)), ("n".to_owned(), json!(number(row)))]);
        let state = serde_json::to_vec(&document)?;
        let new = NewRow {
            id,
            generation: 1,
            state,
            document: Some(document),
        };
        writer.add(&new, vector)?;
    }
    writer.finish()?;
    // Usually there is none.
    let _ = std::fs::remove_dir_all(&out);
    std::fs::rename(partial, out)?;
    Ok(())
}

/// Opens it as a release; with `dead`, row n is dead where n % 100 is 37.
pub(crate) fn open(folder: &Path, set: &str, dead: bool) -> Result<Release, Error> {
    let paths = SegmentPaths {
        vectors: folder.join(set).join("vectors.faiss"),
        rows: folder.join(set).join("rows.tar"),
    };
    let rows = (std::fs::metadata(folder.join(format!("{set}.base.f32")))?.len() / (4 * D as u64)) as u32;
    let dead: RoaringBitmap = (0..rows).filter(|row| dead && row % 100 == 37).collect();
    let live = rows - dead.len() as u32;
    let file = |path: &Path| -> Result<FileEntry, Error> {
        let bytes = std::fs::read(path)?;
        Ok(FileEntry {
            path: path.display().to_string(),
            bytes: bytes.len() as u64,
            digest: Digest::of(&bytes),
        })
    };
    let entry = SegmentEntry {
        id: set.to_owned().into(),
        index_type: Settings::default().ann.index_type.for_rows(rows),
        rows,
        ghosts: 0,
        live,
        live_ghosts: 0,
        newest_generation: 1,
        state_bytes: 0,
        files: SegmentFiles {
            vectors: file(&paths.vectors)?,
            rows: file(&paths.rows)?,
        },
        dead: None,
        unknown: Map::new(),
    };
    let mut manifest = Manifest::genesis(Genesis {
        collection: set.parse()?,
        lineage: LineageId::from("bench".to_owned()),
        metric: Metric::Cosine,
        embedder: EmbedderIdentity::none(D as u32),
        settings: SettingsReference {
            version: 1,
            digest: Digest::of(b"bench"),
        },
        stream: StreamIdentity(1),
    });
    (manifest.count, manifest.documents, manifest.generation) = (live.into(), live.into(), 1);
    manifest.segments = vec![entry];
    let parts = vec![(paths.into(), Arc::new(dead))];
    Ok(Release::open(Arc::new(manifest), parts, &SegmentCache::default())?)
}
