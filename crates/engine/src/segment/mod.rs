//! A segment: two files opened together, row n of one is row n of the other. Immutable and shared between releases.
//!
//! Deliberately absent: dead rows, which belong to a release, and digests, which the caller checks before this opens.

pub mod merge;
pub mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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

/// What a segment is opened from: its files, and their bytes where somebody has mapped them already.
#[derive(Debug, Clone)]
pub struct SegmentSource {
    /// Where they lie; by this an open segment is known.
    pub paths: SegmentPaths,
    /// The mapped `vectors.faiss`, if its path need not be opened again.
    pub vectors: Option<MappedBytes>,
    /// The mapped `rows.tar`, likewise.
    pub rows: Option<MappedBytes>,
}

impl From<SegmentPaths> for SegmentSource {
    fn from(paths: SegmentPaths) -> Self {
        Self {
            paths,
            vectors: None,
            rows: None,
        }
    }
}

/// From so many vectors on, both files are opened at once: below, a thread takes longer than it saves.
const OPENED_BESIDE_MIN: u32 = 1 << 16;

/// An opened segment.
pub struct Segment {
    id: SegmentId,
    pub(crate) ann: Ann,
    pub(crate) rows: Rows,
}

impl Segment {
    /// Opens both files, mapped here unless they are already. Their digests were checked by the caller; what contradicts
    /// the manifest is refused.
    pub fn open(entry: &SegmentEntry, dimension: u32, files: SegmentSource) -> Result<Self, EngineError> {
        let SegmentSource { paths, vectors, rows } = files;
        let expected = AnnExpectation {
            index_type: entry.index_type,
            dimension,
            rows: entry.rows,
        };
        let mapped = |path, bytes: Option<MappedBytes>| bytes.map_or_else(|| map(path), Ok);
        let open_ann = || Ann::open(mapped(&paths.vectors, vectors)?, &expected);
        let (ann, rows) = match mapped(&paths.rows, rows)? {
            rows if entry.rows < OPENED_BESIDE_MIN => (open_ann()?, Rows::open(rows)?),
            rows => beside(open_ann, || Rows::open(rows))?,
        };
        let (expected_vector_rows, expected_rows) = (entry.rows, entry.rows.saturating_add(entry.ghosts));
        if (rows.vector_rows(), rows.rows()) != (expected_vector_rows, expected_rows) {
            return Err(EngineError::SegmentShape {
                path: paths.rows,
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

/// Both at once.
fn beside<A, B: Send>(
    one: impl FnOnce() -> Result<A, EngineError>,
    other: impl FnOnce() -> Result<B, EngineError> + Send,
) -> Result<(A, B), EngineError> {
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((one?, other?))
    })
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
    open: Mutex<HashMap<SegmentPaths, Place>>,
}

/// Where an open segment is, or comes. Its lock is held while it is opened, so that two who ask get the same one.
type Place = Arc<Mutex<Weak<Segment>>>;

impl SegmentCache {
    /// The segment, opened now or shared with whoever has it open, or is opening it.
    pub fn open(
        &self,
        entry: &SegmentEntry,
        dimension: u32,
        files: SegmentSource,
    ) -> Result<Arc<Segment>, EngineError> {
        let place = self.place(&files.paths);
        let mut open = lock(&place);
        if let Some(segment) = open.upgrade() {
            return Ok(segment);
        }
        let segment = Arc::new(Segment::open(entry, dimension, files)?);
        *open = Arc::downgrade(&segment);
        Ok(segment)
    }

    /// The place of a segment. With each that is new, those that nobody has open any more, and nobody opens, are forgotten.
    fn place(&self, paths: &SegmentPaths) -> Place {
        let mut open = lock(&self.open);
        if let Some(place) = open.get(paths) {
            return place.clone();
        }
        open.retain(|_, place| Arc::strong_count(place) > 1 || lock(place).strong_count() > 0);
        open.entry(paths.clone()).or_default().clone()
    }

    /// How many segments are open.
    pub fn count(&self) -> usize {
        let open = lock(&self.open);
        let is_open = |place: &&Place| place.try_lock().is_ok_and(|segment| segment.strong_count() > 0);
        open.values().filter(is_open).count()
    }
}

/// Opening a segment holds a lock and may panic on what nobody thought of; what the lock guards is whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
