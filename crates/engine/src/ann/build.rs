//! Building the `vectors.faiss` of one segment. Absent: naming, syncing and publishing the file, which the store does.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use verdigris_core::index_type::{Codes, IndexType};

use super::{check_coordinates, ffi};
use crate::error::{EngineError, FaissError};

/// Candidates that a graph keeps while a row is linked. At 200 real product vectors reach recall@10 of 0.99 with 64
/// candidates in a search; at 100 they need 110, which costs each search a third more, and at 400 building takes twice
/// as long for 3 % fewer.
pub const EF_CONSTRUCTION: u16 = 200;

/// The most rows of a segment: FAISS links rows by 32-bit numbers.
const ROWS_MAX: usize = i32::MAX as usize - 1;

/// Builds a structure over `vectors` (one after the other, `dimension` coordinates each, row n becomes row n) on that
/// many threads and writes it to `out`. No vectors at all make an empty structure, as for a segment of ghost rows.
///
/// The file is complete when this returns, but not synced.
///
/// # Errors
/// [`EngineError::Dimension`] and [`EngineError::Coordinate`] for vectors that cannot be searched,
/// [`EngineError::IndexTypeUnfit`] for too few vectors for so many lists or parts that do not divide the dimension, and
/// [`EngineError::Build`] where the file cannot be written.
pub fn build(
    index_type: &IndexType,
    dimension: u32,
    vectors: &[f32],
    threads: usize,
    out: &Path,
) -> Result<(), EngineError> {
    let dimension_usize = dimension as usize;
    if dimension == 0 || !vectors.len().is_multiple_of(dimension_usize) {
        return Err(EngineError::Dimension {
            expected: dimension,
            found: vectors.len().checked_rem(dimension_usize).unwrap_or(0),
        });
    }
    check_coordinates(vectors)?;
    let rows = vectors.len() / dimension_usize;
    if !fits(index_type, dimension, rows) {
        return Err(EngineError::IndexTypeUnfit {
            index_type: *index_type,
            rows,
            dimension,
        });
    }
    let failed = |source| EngineError::Build {
        index_type: *index_type,
        path: out.to_owned(),
        source,
    };
    let factory = CString::new(index_type.to_string()).expect("a factory string has no zero byte");
    let path = CString::new(out.as_os_str().as_bytes())
        .map_err(|_| failed(FaissError("the path has a zero byte".to_owned())))?;
    let threads = u16::try_from(threads.max(1)).unwrap_or(u16::MAX);
    // OpenMP's number of threads belongs to the thread that sets it, and so do the workers that it keeps: on a thread of
    // its own, both end with the build, and no search ever runs beside spinning workers.
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("ann-build".to_owned());
        let build = || ffi::build(&factory, dimension, vectors, EF_CONSTRUCTION, threads, &path);
        let outcome = match builder.spawn_scoped(scope, build) {
            Ok(thread) => thread.join().expect("building does not panic"),
            Err(error) => Err(FaissError(error.to_string())),
        };
        outcome.map_err(failed)
    })
}

/// Whether FAISS can train this structure on so many vectors.
fn fits(index_type: &IndexType, dimension: u32, rows: usize) -> bool {
    let sized = rows <= ROWS_MAX && dimension <= i32::MAX as u32;
    sized
        && match *index_type {
            IndexType::Flat | IndexType::Hnsw(Codes::Exact) => true,
            IndexType::Hnsw(Codes::Sq8) => rows > 0,
            IndexType::Hnsw(Codes::Pq(_)) => false,
            IndexType::Ivf {
                lists,
                codes: Codes::Exact | Codes::Sq8,
            } => rows >= (lists as usize).max(1),
            // A four-bit quantiser learns 16 centroids for each part.
            IndexType::Ivf {
                lists,
                codes: Codes::Pq(parts),
            } => rows >= (lists as usize).max(16) && parts > 0 && dimension.is_multiple_of(parts),
        }
}
