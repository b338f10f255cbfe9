//! Approximate and exact nearest neighbours of one segment: opening, searching and building its `vectors.faiss`.
//!
//! FAISS builds and reads the structures. Exactness is never given up: every score is the float32 inner product by one
//! kernel, whatever structure found the row, and [`Ann::vector`] gives back what went in, bit for bit. Row n in is row n
//! out. Absent: adding to or removing from a structure (segments are immutable), several segments (the caller merges),
//! and digests (the caller has compared them before it opens a file).

mod bitmap;
mod build;
#[expect(
    unsafe_code,
    reason = "the one place that calls C++; each block says why it is sound"
)]
mod ffi;
mod plan;

use std::fmt;

use verdigris_core::index_type::{Codes, IndexType};
use verdigris_core::settings::AnnSettings;

pub use bitmap::DenseBitmap;
pub use build::{EF_CONSTRUCTION, build};
pub(crate) use ffi::compile_options;

use crate::error::EngineError;
use crate::mapped::MappedBytes;
use plan::Plan;

/// The largest magnitude of a coordinate. With at most 8,192 coordinates no sum of products can overflow then, so that
/// no score is infinite or not a number.
pub const COORDINATE_MAX: f32 = 1e15;

/// What one search asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnSearch {
    /// The most hits wanted.
    pub k: usize,
    /// Candidates that a graph search keeps; `None` is the default of the settings. More find more, and take longer.
    pub ef_search: Option<u32>,
    /// Lists that an inverted file visits; `None` is the default of the settings.
    pub nprobe: Option<u32>,
}

impl AnnSearch {
    /// A search for `k` hits with the defaults.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            ef_search: None,
            nprobe: None,
        }
    }

    fn ef_search(&self) -> u32 {
        self.ef_search.unwrap_or_else(|| AnnSettings::default().ef_search)
    }

    fn nprobe(&self) -> u32 {
        self.nprobe.unwrap_or_else(|| AnnSettings::default().nprobe)
    }
}

/// What a manifest says about a vector file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnExpectation {
    /// The structure.
    pub index_type: IndexType,
    /// Coordinates per vector.
    pub dimension: u32,
    /// Vectors; ghost rows have none.
    pub rows: u32,
}

impl fmt::Display for AnnExpectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} vectors with {} coordinates",
            self.index_type, self.rows, self.dimension
        )
    }
}

/// The vectors of one segment, opened for searching by any number of threads.
///
/// Vectors, links and inverted lists stay in the mapped file; only small parts are copied: 12 bytes a row of a graph,
/// 8 of an `IVF…,Flat`, and of a `PQ…x4fs` its codes and row numbers.
#[derive(Debug)]
pub struct Ann {
    handle: ffi::Handle,
    shape: AnnExpectation,
}

impl Ann {
    /// Opens a vector file whose digest the caller has compared with the manifest's.
    ///
    /// Every reference inside the file is checked, so that not even a file with the right digest and wrong content
    /// makes a search leave it.
    ///
    /// # Errors
    /// [`EngineError::VectorFile`] for what is damaged or not on the allow-list, [`EngineError::VectorFileMismatch`] for
    /// another type, dimension or number of rows than expected.
    pub fn open(bytes: MappedBytes, expected: &AnnExpectation) -> Result<Self, EngineError> {
        let handle = ffi::Handle::open(bytes).map_err(|source| EngineError::VectorFile { source })?;
        let found = handle.describe();
        if found != *expected {
            return Err(EngineError::VectorFileMismatch {
                expected: *expected,
                found,
            });
        }
        Ok(Self { handle, shape: found })
    }

    /// The best rows for `query` among the allowed ones (`None`: all), best first, equal scores by row.
    ///
    /// Never fewer than `k` where that many rows are allowed: a filter that leaves few rows, or that the structure
    /// cannot follow, is answered by scanning the allowed rows. How good the hits of a graph are does not depend on
    /// where the allowed rows lie; an inverted file finds worse ones where many are allowed and all are far.
    ///
    /// # Errors
    /// [`EngineError::Dimension`], [`EngineError::Coordinate`] and [`EngineError::BitmapRows`] for arguments that do not
    /// fit, [`EngineError::VectorSearch`] when memory is out.
    pub fn search(
        &self,
        query: &[f32],
        search: &AnnSearch,
        allowed: Option<&DenseBitmap>,
    ) -> Result<Vec<(u32, f32)>, EngineError> {
        self.check_query(query)?;
        if let Some(bitmap) = allowed
            && bitmap.rows() != self.shape.rows
        {
            return Err(EngineError::BitmapRows {
                expected: self.shape.rows,
                found: bitmap.rows(),
            });
        }
        let allowed = allowed.filter(|bitmap| bitmap.count() < self.shape.rows);
        let count = allowed.map_or(self.shape.rows, DenseBitmap::count);
        let k = search.k.min(count as usize);
        if k == 0 {
            return Ok(Vec::new());
        }
        let source = |source| EngineError::VectorSearch { source };
        if let Plan::Structure(request) = plan::plan(&self.shape, count, k, search) {
            let hits = self.handle.search(query, k, &request, allowed).map_err(source)?;
            if hits.len() == k {
                return Ok(hits);
            }
        }
        self.handle.scan(query, k, allowed).map_err(source)
    }

    /// The best rows for `query` among the allowed ones by looking at each, best first, equal scores by row: what
    /// [`Ann::search`] is compared with.
    ///
    /// # Errors
    /// As [`Ann::search`].
    pub fn exact(
        &self,
        query: &[f32],
        k: usize,
        allowed: Option<&DenseBitmap>,
    ) -> Result<Vec<(u32, f32)>, EngineError> {
        self.check_query(query)?;
        let count = allowed.map_or(self.shape.rows, DenseBitmap::count);
        let k = k.min(count as usize);
        if k == 0 {
            return Ok(Vec::new());
        }
        let scanned = self.handle.scan(query, k, allowed);
        scanned.map_err(|source| EngineError::VectorSearch { source })
    }

    /// Bytes that are copied out of the mapped file.
    pub fn copied_bytes(&self) -> u64 {
        let rows = u64::from(self.shape.rows);
        rows * match self.shape.index_type {
            IndexType::Flat => 0,
            IndexType::Hnsw(_) => 12,
            IndexType::Ivf {
                codes: Codes::Pq(parts),
                ..
            } => 8 + u64::from(parts).div_ceil(2),
            IndexType::Ivf { .. } => 8,
        }
    }

    /// About how many scores a search for the best of `allowed` rows computes: what it takes, before it is made.
    pub(crate) fn scores_for(&self, search: &AnnSearch, allowed: u32) -> usize {
        match search.k.min(allowed as usize) {
            0 => 0,
            k => plan::scores(&self.shape, allowed, k, search),
        }
    }

    /// The exact inner products of `query` with these rows, in their order.
    ///
    /// # Errors
    /// As [`Ann::search`], and [`EngineError::RowOutOfRange`] for a row that does not exist.
    pub fn scores(&self, query: &[f32], rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.check_query(query)?;
        if let Some(row) = rows.iter().copied().find(|row| *row >= self.shape.rows) {
            return Err(EngineError::RowOutOfRange {
                row,
                rows: self.shape.rows,
            });
        }
        self.handle
            .scores(query, rows)
            .map_err(|source| EngineError::VectorSearch { source })
    }

    /// The vector of a row, bit for bit as it was given to [`build`].
    ///
    /// # Panics
    /// When `row` is not below [`Ann::rows`], as indexing a slice does.
    pub fn vector(&self, row: u32) -> Vec<f32> {
        assert!(row < self.shape.rows, "row {row} of {}", self.shape.rows);
        self.handle.vector(row)
    }

    /// Number of vectors.
    pub fn rows(&self) -> u32 {
        self.shape.rows
    }

    /// Coordinates per vector.
    pub fn dimension(&self) -> u32 {
        self.shape.dimension
    }

    /// The structure.
    pub fn index_type(&self) -> IndexType {
        self.shape.index_type
    }

    fn check_query(&self, query: &[f32]) -> Result<(), EngineError> {
        if query.len() != self.shape.dimension as usize {
            return Err(EngineError::Dimension {
                expected: self.shape.dimension,
                found: query.len(),
            });
        }
        check_coordinates(query)
    }
}

/// Refuses what would make a score infinite or not a number.
fn check_coordinates(vectors: &[f32]) -> Result<(), EngineError> {
    let refused = |value: &f32| value.is_nan() || value.abs() > COORDINATE_MAX;
    match vectors.iter().position(refused) {
        Some(position) => Err(EngineError::Coordinate {
            position,
            value: vectors[position],
        }),
        None => Ok(()),
    }
}
