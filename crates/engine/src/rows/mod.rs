//! `rows.tar`: what a segment knows of its rows beside their vectors: id, chunk, generation, the document's state, words,
//! codes, and the columns that filters look at. Row n is row n of `vectors.faiss`; ghost rows follow the last vector.
//!
//! Deliberately absent: dead rows and statistics, which belong to a release, and the meaning of a state's bytes.

mod archive;
mod builder;
mod ids;
mod reader;
mod schema;
mod scratch;

pub use builder::{RowInput, RowsBuilder, RowsSummary};
pub(crate) use reader::{AnalysedField, READABLE};
pub use reader::{Rows, StoredRow};
pub(crate) use schema::FIELDS as FIELDS_COLUMN;

use serde::{Deserialize, Serialize};

/// The version of what is inside `rows.tar`: which fields, how they are analysed, how columns are named. Another number
/// is refused.
pub const ROWS_FORMAT_VERSION: u32 = 2;

/// Name of the archive's first file.
const HEADER_FILE: &str = "rows.json";
/// Name of its second file.
const IDS_FILE: &str = "ids";

/// The archive's first file: what the Tantivy index itself does not say.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format_version: u32,
    /// All rows, ghosts included.
    rows: u32,
    /// Rows with a vector; they come first.
    vector_rows: u32,
}
