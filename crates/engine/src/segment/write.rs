//! Writing a segment: rows with vectors first, ghost rows after them, both files in the same order.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use verdigris_core::index_type::IndexType;
use verdigris_core::manifest::{SegmentEntry, SegmentFiles, SegmentId};
use verdigris_core::settings::TextSettings;

use crate::ann;
use crate::error::EngineError;
use crate::rows::{RowInput, RowsBuilder};
use crate::segment::SegmentPaths;
use crate::words::texts_for_words;

/// One row to be written.
pub struct NewRow {
    /// The document's id.
    pub id: String,
    /// The generation that writes it.
    pub generation: u64,
    /// The encoded document state.
    pub state: Vec<u8>,
    /// The document as a reader sees it; none for a ghost row.
    pub document: Option<Map<String, Value>>,
}

/// What every segment of a collection has in common.
pub struct SegmentShape<'a> {
    /// The index type that the settings ask for; small segments are exact all the same.
    pub index_type: IndexType,
    /// Coordinates per vector.
    pub dimension: u32,
    /// Which fields are searched by words.
    pub text: &'a TextSettings,
    /// Threads that build the graph.
    pub threads: usize,
}

/// A segment on disk that no manifest names yet.
#[derive(Debug)]
pub struct WrittenSegment {
    /// Its files.
    pub paths: SegmentPaths,
    /// What its vectors became.
    pub index_type: IndexType,
    /// Rows with a vector.
    pub rows: u32,
    /// Rows without.
    pub ghosts: u32,
    /// The newest generation among its rows.
    pub newest_generation: u64,
    /// Bytes of the stored states of all rows, before compression.
    pub state_bytes: u64,
}

impl WrittenSegment {
    /// What a manifest says of it where nothing of it is dead.
    pub fn entry(&self, id: SegmentId, files: SegmentFiles) -> SegmentEntry {
        SegmentEntry {
            id,
            index_type: self.index_type,
            rows: self.rows,
            ghosts: self.ghosts,
            live: self.rows,
            live_ghosts: self.ghosts,
            newest_generation: self.newest_generation,
            state_bytes: self.state_bytes,
            files,
            dead: None,
            unknown: Map::new(),
        }
    }
}

/// Collects the rows of one segment.
pub struct SegmentWriter<'a> {
    shape: SegmentShape<'a>,
    folder: PathBuf,
    vectors: Vec<f32>,
    rows: RowsBuilder,
    count: u32,
    ghosts: u32,
    newest_generation: u64,
    state_bytes: u64,
}

impl<'a> SegmentWriter<'a> {
    /// A writer of files in `folder`, which exists.
    pub fn new(folder: &Path, shape: SegmentShape<'a>) -> Result<Self, EngineError> {
        let rows = RowsBuilder::new(folder, &shape.text.returned_only)?;
        let folder = folder.to_owned();
        Ok(Self {
            shape,
            folder,
            vectors: Vec::new(),
            rows,
            count: 0,
            ghosts: 0,
            newest_generation: 0,
            state_bytes: 0,
        })
    }

    /// Adds a row with its vector, of the shape's dimension. Ghost rows come after the last of these.
    pub fn add(&mut self, row: &NewRow, vector: &[f32]) -> Result<(), EngineError> {
        assert_eq!(
            vector.len(),
            self.shape.dimension as usize,
            "the caller checked the dimension"
        );
        assert_eq!(self.ghosts, 0, "ghost rows follow the last vector");
        self.vectors.extend_from_slice(vector);
        self.count += 1;
        self.add_row(row)
    }

    /// Adds the state of a document that does not exist.
    pub fn add_ghost(&mut self, row: &NewRow) -> Result<(), EngineError> {
        assert!(row.document.is_none(), "a ghost shows no document");
        self.ghosts += 1;
        self.add_row(row)
    }

    fn add_row(&mut self, row: &NewRow) -> Result<(), EngineError> {
        self.newest_generation = self.newest_generation.max(row.generation);
        self.state_bytes += row.state.len() as u64;
        let text = self.shape.text;
        let texts = |fields: &[String]| match &row.document {
            Some(document) => texts_for_words(document, fields),
            None => Vec::new(),
        };
        let (words, codes) = (texts(&text.words), texts(&text.codes));
        self.rows.add(RowInput {
            id: &row.id,
            chunk: 0,
            generation: row.generation,
            state: &row.state,
            document: row.document.as_ref(),
            words: &words.iter().map(String::as_str).collect::<Vec<_>>(),
            codes: &codes.iter().map(String::as_str).collect::<Vec<_>>(),
        })
    }

    /// Builds and writes both files.
    pub fn finish(self) -> Result<WrittenSegment, EngineError> {
        let paths = SegmentPaths {
            vectors: self.folder.join("vectors.faiss"),
            rows: self.folder.join("rows.tar"),
        };
        self.rows.finish(&paths.rows)?;
        let index_type = self.shape.index_type.for_rows(self.count);
        ann::build(
            &index_type,
            self.shape.dimension,
            &self.vectors,
            self.shape.threads,
            &paths.vectors,
        )?;
        let (rows, ghosts, newest_generation) = (self.count, self.ghosts, self.newest_generation);
        Ok(WrittenSegment {
            paths,
            index_type,
            rows,
            ghosts,
            newest_generation,
            state_bytes: self.state_bytes,
        })
    }
}
