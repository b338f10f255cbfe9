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

    /// The place of a segment. Those that nobody has open any more, and nobody opens, are forgotten.
    fn place(&self, paths: &SegmentPaths) -> Place {
        let mut open = lock(&self.open);
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use serde_json::Map;
    use verdigris_core::digest::Digest;
    use verdigris_core::manifest::{FileEntry, SegmentFiles};
    use verdigris_core::settings::Settings;

    use super::write::{NewRow, SegmentShape, SegmentWriter};
    use super::*;

    fn segment(folder: &Path) -> (SegmentEntry, SegmentPaths) {
        let settings = Settings::default();
        let shape = SegmentShape {
            index_type: settings.ann.index_type,
            dimension: 4,
            text: &settings.text,
            threads: 1,
        };
        let row = NewRow {
            id: "1".to_owned(),
            generation: 1,
            state: Vec::new(),
            document: Some(Map::new()),
        };
        let mut writer = SegmentWriter::new(folder, shape).expect("a folder");
        writer.add(&row, &[1.0, 0.0, 0.0, 0.0]).expect("added");
        let written = writer.finish().expect("written");
        let file = || FileEntry {
            path: String::new(),
            bytes: 0,
            digest: Digest::of(b""),
        };
        let files = SegmentFiles {
            vectors: file(),
            rows: file(),
        };
        (written.entry("1".to_owned().into(), files), written.paths)
    }

    #[test]
    fn releases_that_are_opened_at_the_same_time_share_a_segment() {
        const READERS: usize = 8;
        let folder = tempfile::tempdir().expect("a folder");
        let (entry, paths) = segment(folder.path());
        let (cache, start) = (SegmentCache::default(), Barrier::new(READERS));
        let open = || {
            start.wait();
            cache.open(&entry, 4, paths.clone().into()).expect("opened")
        };
        let opened: Vec<_> = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(open)).collect();
            readers
                .into_iter()
                .map(|reader| reader.join().expect("no panic"))
                .collect()
        });
        assert!(
            opened.iter().all(|segment| Arc::ptr_eq(segment, &opened[0])),
            "it was opened twice"
        );
        assert_eq!(cache.count(), 1);
        drop(opened);
        assert_eq!(cache.count(), 0, "the cache itself holds it open");
    }

    #[test]
    fn what_is_mapped_already_is_opened_whatever_became_of_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let (entry, paths) = segment(folder.path());
        let source = SegmentSource {
            vectors: Some(map(&paths.vectors).expect("mapped")),
            rows: Some(map(&paths.rows).expect("mapped")),
            paths: paths.clone(),
        };
        std::fs::remove_dir_all(folder.path()).expect("removed");
        let segment = Segment::open(&entry, 4, source).expect("opened");
        assert_eq!(segment.rows().find("1"), vec![0]);
        assert!(Segment::open(&entry, 4, paths.into()).is_err(), "there is no file");
    }
}
