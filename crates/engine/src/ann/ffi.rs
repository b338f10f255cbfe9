//! The C++ side as safe Rust: the functions of `shim/shim.h` and the handle that owns what they open.
//!
//! The shim promises: no exception leaves it, nothing in an opened structure changes, and no reference in one leaves
//! the bytes that it was opened from. This module promises in return what C++ cannot check: that pointers and lengths
//! belong together, and that the bytes outlive the structure.
#![deny(unsafe_op_in_unsafe_fn)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::marker::{PhantomData, PhantomPinned};
use std::ptr::{self, NonNull};

// Only for linking: it brings the FAISS library, which the shim calls.
use faiss_sys as _;
use verdigris_core::index_type::{Codes, IndexType};

use super::{AnnExpectation, DenseBitmap};
use crate::error::FaissError;
use crate::mapped::MappedBytes;

/// An opaque C++ object: never made, moved or looked into by Rust.
#[repr(C)]
struct RawAnn {
    _bytes: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// `vg_shape`.
#[repr(C)]
#[derive(Default)]
struct RawShape {
    kind: u32,
    dimension: u32,
    rows: u32,
    lists: u32,
    parts: u32,
}

/// `vg_request`.
#[repr(C)]
struct RawRequest {
    k: usize,
    ef: usize,
    wanted: usize,
    pool_max: usize,
    scores_max: usize,
    nprobe: usize,
    refine: usize,
    allowed: *const u64,
}

unsafe extern "C" {
    fn vg_open(bytes: *const u8, length: usize, out: *mut *mut RawAnn) -> c_int;
    fn vg_close(ann: *mut RawAnn);
    fn vg_describe(ann: *const RawAnn, out: *mut RawShape);
    fn vg_search(
        ann: *const RawAnn,
        query: *const f32,
        request: *const RawRequest,
        rows: *mut u32,
        scores: *mut f32,
        found: *mut usize,
    ) -> c_int;
    fn vg_scan(
        ann: *const RawAnn,
        query: *const f32,
        k: usize,
        allowed: *const u64,
        rows: *mut u32,
        scores: *mut f32,
        found: *mut usize,
    ) -> c_int;
    fn vg_scores(ann: *const RawAnn, query: *const f32, rows: *const u32, count: usize, scores: *mut f32) -> c_int;
    fn vg_vector(ann: *const RawAnn, row: u32, out: *mut f32);
    fn vg_build(
        factory: *const c_char,
        dimension: u32,
        vectors: *const f32,
        rows: usize,
        ef_construction: c_int,
        threads: c_int,
        path: *const c_char,
    ) -> c_int;
    fn vg_compile_options() -> *const c_char;
    fn vg_last_error() -> *const c_char;
}

/// How a structure is to be searched; what a structure does not know is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Request {
    /// Graph: candidates kept at least.
    pub(super) ef: usize,
    /// Graph: of them allowed ones, at least. Inverted file: allowed rows in the lists visited, at least.
    pub(super) wanted: usize,
    /// Graph: candidates kept at most.
    pub(super) pool_max: usize,
    /// Graph: scores computed at most; a walk that needs more finds nothing.
    pub(super) scores_max: usize,
    /// Inverted file: lists visited at least.
    pub(super) nprobe: usize,
    /// Quantised inverted file: candidates scored again by their exact vectors.
    pub(super) refine: usize,
}

/// An opened structure and the bytes that it points into.
pub(super) struct Handle {
    ann: NonNull<RawAnn>,
    dimension: usize,
    rows: u32,
    /// Never read here, but it must live as long as `ann`: `drop` closes that first, fields go after.
    _bytes: MappedBytes,
}

// SAFETY: the object is on the C++ heap and bound to no thread: it may be closed by another thread than opened it.
unsafe impl Send for Handle {}
// SAFETY: after vg_open nothing writes to the object. Searches write only to their own stack, to what their caller hands
// in, and to memory of their thread (`thread_local` in the shim). FAISS's paths with global counters are not taken.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: `ann` came from vg_open, is closed only here, and nobody can use `self` any more.
        unsafe { vg_close(self.ann.as_ptr()) }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({} rows)", self.rows)
    }
}

impl Handle {
    pub(super) fn open(bytes: MappedBytes) -> Result<Self, FaissError> {
        let mut ann = ptr::null_mut();
        // SAFETY: pointer and length are of one slice. The structure points into it from now on: the mapping that owns
        // the slice is kept in the handle, moving a MappedBytes does not move the mapping, and a published file never
        // changes (the promise of MappedBytes).
        check(unsafe { vg_open(bytes.as_ptr(), bytes.len(), &mut ann) })?;
        let ann = NonNull::new(ann).ok_or_else(last_error)?;
        let mut handle = Self {
            ann,
            dimension: 0,
            rows: 0,
            _bytes: bytes,
        };
        let shape = handle.shape();
        (handle.dimension, handle.rows) = (shape.dimension as usize, shape.rows);
        Ok(handle)
    }

    pub(super) fn describe(&self) -> AnnExpectation {
        let RawShape {
            kind,
            dimension,
            rows,
            lists,
            parts,
        } = self.shape();
        let index_type = match kind {
            0 => IndexType::Flat,
            1 => IndexType::Hnsw(Codes::Exact),
            2 => IndexType::Hnsw(Codes::Sq8),
            3 => IndexType::Ivf {
                lists,
                codes: Codes::Exact,
            },
            4 => IndexType::Ivf {
                lists,
                codes: Codes::Sq8,
            },
            5 => IndexType::Ivf {
                lists,
                codes: Codes::Pq(parts),
            },
            other => unreachable!("shim.h has no kind {other}"),
        };
        AnnExpectation {
            index_type,
            dimension,
            rows,
        }
    }

    /// The best `k` rows that a search of the structure finds, best first; possibly fewer.
    pub(super) fn search(
        &self,
        query: &[f32],
        k: usize,
        request: &Request,
        allowed: Option<&DenseBitmap>,
    ) -> Result<Vec<(u32, f32)>, FaissError> {
        let Request {
            ef,
            wanted,
            pool_max,
            scores_max,
            nprobe,
            refine,
        } = *request;
        let allowed = self.words(allowed);
        let request = RawRequest {
            k,
            ef,
            wanted,
            pool_max,
            scores_max,
            nprobe,
            refine,
            allowed,
        };
        self.hits(query, k, |query, rows, scores, found| {
            // SAFETY: `hits` gives a query of `dimension` floats and room for k hits; the words cover every row.
            unsafe { vg_search(self.ann.as_ptr(), query, &request, rows, scores, found) }
        })
    }

    /// The best `k` rows, by looking at each allowed one.
    pub(super) fn scan(
        &self,
        query: &[f32],
        k: usize,
        allowed: Option<&DenseBitmap>,
    ) -> Result<Vec<(u32, f32)>, FaissError> {
        let allowed = self.words(allowed);
        self.hits(query, k, |query, rows, scores, found| {
            // SAFETY: as in `search`.
            unsafe { vg_scan(self.ann.as_ptr(), query, k, allowed, rows, scores, found) }
        })
    }

    /// Scores of these rows, in their order.
    ///
    /// # Panics
    /// When a row does not exist: callers have told the user already.
    pub(super) fn scores(&self, query: &[f32], rows: &[u32]) -> Result<Vec<f32>, FaissError> {
        assert_eq!(query.len(), self.dimension);
        assert!(rows.iter().all(|row| *row < self.rows));
        let mut scores = vec![0.0; rows.len()];
        // SAFETY: the query has `dimension` floats, every row exists, and there is a score for each.
        check(unsafe {
            vg_scores(
                self.ann.as_ptr(),
                query.as_ptr(),
                rows.as_ptr(),
                rows.len(),
                scores.as_mut_ptr(),
            )
        })?;
        Ok(scores)
    }

    /// The vector of a row.
    ///
    /// # Panics
    /// When the row does not exist.
    pub(super) fn vector(&self, row: u32) -> Vec<f32> {
        assert!(row < self.rows);
        let mut vector = vec![0.0; self.dimension];
        // SAFETY: the row exists and there is room for `dimension` floats.
        unsafe { vg_vector(self.ann.as_ptr(), row, vector.as_mut_ptr()) };
        vector
    }

    fn shape(&self) -> RawShape {
        let mut shape = RawShape::default();
        // SAFETY: `ann` is open, and the shape is laid out as in shim.h.
        unsafe { vg_describe(self.ann.as_ptr(), &mut shape) };
        shape
    }

    /// The bitmap as C++ reads it; null allows every row.
    fn words(&self, allowed: Option<&DenseBitmap>) -> *const u64 {
        allowed.map_or(ptr::null(), |bitmap| {
            assert_eq!(bitmap.rows(), self.rows);
            bitmap.words().as_ptr()
        })
    }

    /// Gives `call` a query and room for `k` hits (rows, scores, number found), and gathers them.
    fn hits(
        &self,
        query: &[f32],
        k: usize,
        call: impl FnOnce(*const f32, *mut u32, *mut f32, *mut usize) -> c_int,
    ) -> Result<Vec<(u32, f32)>, FaissError> {
        assert_eq!(query.len(), self.dimension);
        let (mut rows, mut scores, mut found) = (vec![0; k], vec![0.0; k], 0);
        check(call(query.as_ptr(), rows.as_mut_ptr(), scores.as_mut_ptr(), &mut found))?;
        Ok(rows.into_iter().zip(scores).take(found).collect())
    }
}

/// Builds a structure over vectors, one after the other, and writes it to `path`.
pub(super) fn build(
    factory: &CStr,
    dimension: u32,
    vectors: &[f32],
    ef_construction: u16,
    threads: u16,
    path: &CString,
) -> Result<(), FaissError> {
    assert!(vectors.len().is_multiple_of(dimension as usize));
    let rows = vectors.len() / dimension as usize;
    // SAFETY: `vectors` has rows x dimension floats, and both texts end in a zero byte. FAISS copies what it keeps.
    check(unsafe {
        vg_build(
            factory.as_ptr(),
            dimension,
            vectors.as_ptr(),
            rows,
            ef_construction.into(),
            threads.into(),
            path.as_ptr(),
        )
    })
}

/// What FAISS was compiled for, in its own words.
pub(crate) fn compile_options() -> String {
    // SAFETY: a text that ends in a zero byte and lives as long as the process.
    unsafe { CStr::from_ptr(vg_compile_options()) }
        .to_string_lossy()
        .trim()
        .to_owned()
}

fn check(code: c_int) -> Result<(), FaissError> {
    if code == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> FaissError {
    // SAFETY: a text of this thread that ends in a zero byte; it is copied before the next call can change it.
    let words = unsafe { CStr::from_ptr(vg_last_error()) }.to_string_lossy();
    FaissError(if words.is_empty() {
        "out of memory".to_owned()
    } else {
        words.into_owned()
    })
}
