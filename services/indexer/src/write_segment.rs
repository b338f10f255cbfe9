//! The sixth step of an event: the changed documents of a window as one small segment, and the rows that died for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use roaring::RoaringBitmap;
use verdigris_core::digest::{ContentSum, Digest};
use verdigris_core::manifest::{FileEntry, SegmentEntry, SegmentFiles, SegmentId};
use verdigris_engine::error::EngineError;
use verdigris_engine::release::Release;
use verdigris_engine::segment::write::{NewRow, SegmentShape, SegmentWriter, WrittenSegment};
use verdigris_store::digest_of_file;

use crate::order::Change;

/// What a window of changes comes to on disk.
pub(crate) struct Written {
    /// The new segment, if any row came.
    pub(crate) segment: Option<WrittenSegment>,
    /// All dead rows of the segments in which a row died.
    pub(crate) dead: BTreeMap<SegmentId, RoaringBitmap>,
    /// Sum of all documents.
    pub(crate) content: ContentSum,
    /// Documents that exist.
    pub(crate) documents: u64,
}

/// Writes the changes as a segment in `folder`; `vectors[n]` belongs to `changes[n]`. Blocking.
pub(crate) fn write(
    release: &Release,
    changes: &[Change],
    vectors: &[Option<Vec<f32>>],
    generation: u64,
    folder: &Path,
    shape: SegmentShape<'_>,
) -> Result<Written, EngineError> {
    let manifest = release.manifest();
    let (mut content, mut documents) = (manifest.content, manifest.documents);
    let mut dead: BTreeMap<SegmentId, RoaringBitmap> = BTreeMap::new();
    for change in changes {
        if let Some(old) = &change.old {
            let part = &release.segments()[old.place.segment];
            let rows = dead
                .entry(part.segment.id().clone())
                .or_insert_with(|| (*part.dead).clone());
            rows.insert(old.place.row);
            content.remove(&old.state.digest());
            documents -= u64::from(old.existed);
        }
        content.add(&change.state.digest());
        documents += u64::from(change.state.exists());
    }
    let segment = if changes.is_empty() {
        None
    } else {
        Some(segment(changes, vectors, generation, folder, shape)?)
    };
    Ok(Written {
        segment,
        dead,
        content,
        documents,
    })
}

fn segment(
    changes: &[Change],
    vectors: &[Option<Vec<f32>>],
    generation: u64,
    folder: &Path,
    shape: SegmentShape<'_>,
) -> Result<WrittenSegment, EngineError> {
    let row = |change: &Change| NewRow {
        id: change.state.id().as_str().to_owned(),
        generation,
        state: change
            .state
            .encode()
            .expect("vectors were restored when the state was read"),
        document: change.state.document(),
    };
    let mut writer = SegmentWriter::new(folder, shape)?;
    for (change, vector) in changes.iter().zip(vectors) {
        if let Some(vector) = vector {
            writer.add(&row(change), vector)?;
        }
    }
    for (change, _) in changes.iter().zip(vectors).filter(|(_, vector)| vector.is_none()) {
        writer.add_ghost(&row(change))?;
    }
    writer.finish()
}

/// The manifest's entry for a written segment.
pub(crate) fn entry(id: SegmentId, written: &WrittenSegment) -> std::io::Result<SegmentEntry> {
    let file = |name: &str, path: &Path| -> std::io::Result<FileEntry> {
        let bytes = fs::metadata(path)?.len();
        let digest: Digest = digest_of_file(path)?;
        Ok(FileEntry {
            path: format!("segments/{id}/{name}"),
            bytes,
            digest,
        })
    };
    let files = SegmentFiles {
        vectors: file("vectors.faiss", &written.paths.vectors)?,
        rows: file("rows.tar", &written.paths.rows)?,
    };
    Ok(written.entry(id, files))
}
