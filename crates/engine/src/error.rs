//! What can go wrong in the engine. A variant exists where a caller acts differently on it.

use std::path::PathBuf;

use verdigris_core::document::encoding::EncodingError;
use verdigris_core::index_type::IndexType;
use verdigris_core::manifest::SegmentId;

use crate::ann::AnnExpectation;
use crate::rows::ROWS_FORMAT_VERSION;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// This processor cannot run the executable.
    #[error(
        "this processor lacks {missing}; Verdigris needs x86-64-v3 (Intel Haswell of 2013, AMD Zen of 2017, or newer)"
    )]
    Processor {
        /// The first missing feature.
        missing: &'static str,
    },
    /// FAISS was compiled for an older level than meant.
    #[error("FAISS was compiled for {options:?} without AVX2; build again after `cargo clean -p faiss-sys`")]
    FaissBuild {
        /// What FAISS says it was compiled for.
        options: String,
    },
    /// A vector file is no structure of the allow-list, or damaged.
    #[error("vector file cannot be opened")]
    VectorFile {
        /// What was wrong in it.
        #[source]
        source: FaissError,
    },
    /// A vector file is sound, but another one than the manifest describes.
    #[error("vector file is {found}, but the manifest says {expected}")]
    VectorFileMismatch {
        /// What the manifest says.
        expected: AnnExpectation,
        /// What the file is.
        found: AnnExpectation,
    },
    /// A vector of the wrong length.
    #[error("vector has {found} coordinates instead of {expected}")]
    Dimension {
        /// Coordinates of the collection's vectors.
        expected: u32,
        /// Coordinates of this one.
        found: usize,
    },
    /// A coordinate that is not a number, infinite, or so large that an inner product could overflow.
    #[error("coordinate {position} of the vector is {value}; only numbers up to 1e15 are allowed")]
    Coordinate {
        /// Counted from 0, over all vectors given.
        position: usize,
        /// The value.
        value: f32,
    },
    /// A row that the segment does not have.
    #[error("row {row} does not exist in a segment of {rows} rows")]
    RowOutOfRange {
        /// The row asked for.
        row: u32,
        /// Rows of the segment.
        rows: u32,
    },
    /// A bitmap over another number of rows.
    #[error("filter is over {found} rows, but the segment has {expected} vectors")]
    BitmapRows {
        /// Vectors of the segment.
        expected: u32,
        /// Rows of the bitmap.
        found: u32,
    },
    /// A structure that cannot be built from these vectors.
    #[error("{index_type} cannot be built from {rows} vectors of {dimension} coordinates")]
    IndexTypeUnfit {
        /// The structure asked for.
        index_type: IndexType,
        /// Vectors given.
        rows: usize,
        /// Coordinates of each.
        dimension: u32,
    },
    /// Building or writing a structure did not succeed, for example on a full disk.
    #[error("cannot build {index_type} into {}", path.display())]
    Build {
        /// The structure asked for.
        index_type: IndexType,
        /// Where it was to be written.
        path: PathBuf,
        /// What FAISS or the system said.
        #[source]
        source: FaissError,
    },
    /// A search ended early, which only a lack of memory does.
    #[error("vector search ended early")]
    VectorSearch {
        /// What FAISS said.
        #[source]
        source: FaissError,
    },
    /// Rows cannot be written there, or a file of theirs not be read back, for example on a full disk.
    #[error("cannot write rows into {}", path.display())]
    RowsFile {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Rows whose index Tantivy cannot write or read.
    #[error("rows cannot be indexed or read")]
    Rows {
        /// What Tantivy said. Boxed because it is large.
        #[source]
        source: Box<tantivy::TantivyError>,
    },
    /// A file that is no archive of rows.
    #[error("rows file cannot be opened")]
    RowsArchive {
        /// What was wrong in it.
        #[source]
        source: std::io::Error,
    },
    /// An archive of rows that this software does not know.
    #[error(
        "rows file has format version {found} or its fields are others; this software reads version {ROWS_FORMAT_VERSION}"
    )]
    RowsVersion {
        /// The version in the file.
        found: u32,
    },
    /// An archive that contradicts itself.
    #[error("rows file says that it has {rows} rows, but a part of it has {found}")]
    RowsShape {
        /// Rows by its header.
        rows: u32,
        /// Rows by its index.
        found: u32,
    },
    /// A verified file that cannot be opened or mapped.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Two files of a segment that do not belong together.
    #[error("{} has {vector_rows} rows with vectors and {rows} in all, but the manifest says {expected_vector_rows} and {expected_rows}", path.display())]
    SegmentShape {
        /// The rows file.
        path: PathBuf,
        /// Rows with vectors in it.
        vector_rows: u32,
        /// Rows in it.
        rows: u32,
        /// Rows with vectors that the manifest names.
        expected_vector_rows: u32,
        /// Rows that the manifest names.
        expected_rows: u32,
    },
    /// A row whose document cannot be read or written.
    #[error("row {row} of segment {segment} holds no document that can be read")]
    State {
        /// The segment.
        segment: SegmentId,
        /// The row.
        row: u32,
        /// What the decoder said.
        #[source]
        source: EncodingError,
    },
    /// The caller asked to stop.
    #[error("stopped before it was done")]
    Cancelled,
    /// A segment without a row.
    #[error("a segment needs at least one row")]
    RowsEmpty,
    /// More words and fields than one segment holds.
    #[error("one segment cannot hold more than these {rows} rows; write several")]
    RowsTooLarge {
        /// Rows that fit.
        rows: u32,
    },
}

impl EngineError {
    pub(crate) fn rows(source: tantivy::TantivyError) -> Self {
        Self::Rows {
            source: Box::new(source),
        }
    }
}

/// The words of FAISS, or of the shim over it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FaissError(pub(crate) String);
