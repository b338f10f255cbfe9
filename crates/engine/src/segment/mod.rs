//! A segment: two files opened together, row n of one is row n of the other. Immutable and shared between releases.
//!
//! Deliberately absent: dead rows, which belong to a release, and digests, which the caller checks before this opens.

pub mod merge;
pub mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use verdigris_core::manifest::{SegmentEntry, SegmentId};

use crate::ann::{Ann, AnnExpectation};
use crate::error::EngineError;
use crate::mapped::MappedBytes;
use crate::rows::Rows;

/// Where the verified files of a segment lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentPaths {
    /// `vectors.faiss`.
    pub vectors: PathBuf,
    /// `rows.tar`.
    pub rows: PathBuf,
}

/// An opened segment.
pub struct Segment {
    id: SegmentId,
    pub(crate) ann: Ann,
    pub(crate) rows: Rows,
}

impl Segment {
    /// Maps and opens both files. Their digests were checked by the caller; what contradicts the manifest is refused.
    pub fn open(entry: &SegmentEntry, dimension: u32, paths: &SegmentPaths) -> Result<Self, EngineError> {
        let expected = AnnExpectation {
            index_type: entry.index_type,
            dimension,
            rows: entry.rows,
        };
        let ann = Ann::open(map(&paths.vectors)?, &expected)?;
        let rows = Rows::open(map(&paths.rows)?)?;
        let (expected_vector_rows, expected_rows) = (entry.rows, entry.rows.saturating_add(entry.ghosts));
        if (rows.vector_rows(), rows.rows()) != (expected_vector_rows, expected_rows) {
            return Err(EngineError::SegmentShape {
                path: paths.rows.clone(),
                vector_rows: rows.vector_rows(),
                rows: rows.rows(),
                expected_vector_rows,
                expected_rows,
            });
        }
        Ok(Self {
            id: entry.id.clone(),
            ann,
            rows,
        })
    }

    /// Its name.
    pub fn id(&self) -> &SegmentId {
        &self.id
    }

    /// Its rows.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Its vectors.
    pub fn ann(&self) -> &Ann {
        &self.ann
    }
}

fn map(path: &Path) -> Result<MappedBytes, EngineError> {
    MappedBytes::open(path).map_err(|source| EngineError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Opened segments by the files they came from: indexer and search in one process map each file once.
#[derive(Default)]
pub struct SegmentCache {
    open: Mutex<HashMap<SegmentPaths, Weak<Segment>>>,
}

impl SegmentCache {
    /// The segment, opened now or shared with whoever has it open.
    pub fn open(
        &self,
        entry: &SegmentEntry,
        dimension: u32,
        paths: &SegmentPaths,
    ) -> Result<Arc<Segment>, EngineError> {
        if let Some(segment) = self.lock().get(paths).and_then(Weak::upgrade) {
            return Ok(segment);
        }
        // Opened outside the lock: two callers may open one file at once, and each keeps its own as long as it needs it.
        let segment = Arc::new(Segment::open(entry, dimension, paths)?);
        let mut open = self.lock();
        open.retain(|_, segment| segment.strong_count() > 0);
        open.insert(paths.clone(), Arc::downgrade(&segment));
        Ok(segment)
    }

    /// How many segments are open.
    pub fn count(&self) -> usize {
        self.lock()
            .values()
            .filter(|segment| segment.strong_count() > 0)
            .count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SegmentPaths, Weak<Segment>>> {
        self.open.lock().expect("no code panics while it holds this lock")
    }
}
