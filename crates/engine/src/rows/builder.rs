//! Writing `rows.tar`: rows in order, ghosts last, equal rows to equal bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use serde_json::{Map, Value};
use tantivy::schema::OwnedValue;
use tantivy::tokenizer::{TextAnalyzer, TokenizerManager};
use tantivy::{Index, IndexBuilder, IndexSettings, SingleSegmentIndexWriter, TantivyDocument};
use tempfile::TempDir;
use verdigris_core::names::DOCUMENT_ID_BYTES_MAX;

use crate::error::EngineError;
use crate::filter::columns_of;
use crate::rows::ids::IdsWriter;
use crate::rows::schema::{self, RowsSchema};
use crate::rows::scratch::ScratchDirectory;
use crate::rows::{HEADER_FILE, Header, IDS_FILE, ROWS_FORMAT_VERSION, archive};
use crate::words::{CodesTokenizer, WordsTokenizer};

/// What Tantivy may gather in memory for one segment. Its arenas are addressed by 32 bits and panic beyond, so a
/// segment that would come near is refused first.
const MEMORY_BYTES_MAX: usize = 3 << 30;
/// Rows between two looks at the memory: looking walks all columns.
const MEMORY_CHECK_ROWS: u32 = 4_096;
/// What sizes Tantivy's first hash table, which is filled with zeros and walked whole for each segment, however few rows
/// it has; the table grows as needed.
const MEMORY_BYTES_HINT: usize = 1 << 20;
/// States are packed together up to this size. A hit unpacks a whole block for its one state.
const STATE_BLOCK_BYTES: usize = 4 << 10;
/// The name under which every segment's Tantivy files go, instead of a random one.
const SEGMENT_NAME: &str = "00000000000000000000000000000000";

/// One row to be written.
#[derive(Debug, Clone, Copy)]
pub struct RowInput<'a> {
    /// The document's id.
    pub id: &'a str,
    /// The number of the passage in its document, from 0.
    pub chunk: u32,
    /// The generation that writes the row.
    pub generation: u64,
    /// The document's state, opaque here; kept compressed.
    pub state: &'a [u8],
    /// The fields that filters look at; none for a ghost row.
    pub document: Option<&'a Map<String, Value>>,
    /// Texts of the catch-all of words, each analysed by itself.
    pub words: &'a [&'a str],
    /// Texts whose part numbers are found however they are typed.
    pub codes: &'a [&'a str],
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsSummary {
    /// All rows, ghosts included.
    pub rows: u32,
    /// Ghost rows.
    pub ghosts: u32,
    /// Length of the file.
    pub bytes: u64,
}

/// Collects the rows of one segment. States go to disk as they come, the rest is held in memory until `finish`.
pub struct RowsBuilder {
    folder: TempDir,
    writer: SingleSegmentIndexWriter,
    schema: RowsSchema,
    returned_only: Vec<String>,
    ids: IdsWriter,
    rows: u32,
    vector_rows: u32,
}

impl RowsBuilder {
    /// A builder that keeps its temporary files in `folder`, and leaves the top-level fields `returned_only` out of what
    /// filters see.
    ///
    /// # Errors
    /// [`EngineError::RowsFile`] where the folder cannot be written.
    pub fn new(folder: &Path, returned_only: &[String]) -> Result<Self, EngineError> {
        let failed = |source| EngineError::RowsFile {
            path: folder.to_owned(),
            source,
        };
        let folder = tempfile::Builder::new()
            .prefix(".rows-")
            .tempdir_in(folder)
            .map_err(failed)?;
        let (tantivy_schema, schema) = RowsSchema::build();
        let directory = ScratchDirectory::new(folder.path());
        let settings = IndexSettings {
            docstore_blocksize: STATE_BLOCK_BYTES,
            ..IndexSettings::default()
        };
        let writer = IndexBuilder::new()
            .schema(tantivy_schema)
            .settings(settings)
            .tokenizers(tokenizers())
            .single_segment_index_writer(directory, MEMORY_BYTES_HINT)
            .map_err(EngineError::rows)?;
        Ok(Self {
            folder,
            writer,
            schema,
            returned_only: returned_only.to_vec(),
            ids: IdsWriter::default(),
            rows: 0,
            vector_rows: 0,
        })
    }

    /// Adds the next row. Ghost rows come after the last row with a document.
    ///
    /// # Errors
    /// [`EngineError::RowsTooLarge`] when one segment cannot hold more; the builder is of no use after an error.
    pub fn add(&mut self, row: RowInput<'_>) -> Result<(), EngineError> {
        assert!(
            row.document.is_none() || self.rows == self.vector_rows,
            "ghost rows follow the last vector row"
        );
        assert!(
            row.id.len() <= DOCUMENT_ID_BYTES_MAX,
            "ids are checked where they come in"
        );
        let is_full = self.rows.is_multiple_of(MEMORY_CHECK_ROWS) && self.writer.mem_usage() > MEMORY_BYTES_MAX;
        if is_full || !self.ids.push(row.id) {
            return Err(EngineError::RowsTooLarge { rows: self.rows });
        }
        self.writer
            .add_document(self.converted(&row))
            .map_err(EngineError::rows)?;
        self.rows += 1;
        self.vector_rows += u32::from(row.document.is_some());
        Ok(())
    }

    /// Writes the archive. The caller makes it durable.
    ///
    /// # Errors
    /// [`EngineError::RowsEmpty`] without a row, [`EngineError::RowsFile`] where `out` cannot be written.
    pub fn finish(self, out: &Path) -> Result<RowsSummary, EngineError> {
        if self.rows == 0 {
            return Err(EngineError::RowsEmpty);
        }
        let (rows, vector_rows) = (self.rows, self.vector_rows);
        let index = self.writer.finalize().map_err(EngineError::rows)?;
        let random_name = segment_name(&index)?;
        let header = Header {
            format_version: ROWS_FORMAT_VERSION,
            rows,
            vector_rows,
        };
        let header = serde_json::to_vec(&header).expect("a struct of numbers is JSON");
        let failed = |source| EngineError::RowsFile {
            path: out.to_owned(),
            source,
        };
        let file = File::create(out).map_err(failed)?;
        let rename = |text: &str| {
            random_name
                .iter()
                .fold(text.to_owned(), |text, name| text.replace(name, SEGMENT_NAME))
        };
        archive::pack(
            self.folder.path(),
            BufWriter::new(&file),
            &[(HEADER_FILE, &header), (IDS_FILE, &self.ids.finish())],
            rename,
        )
        .map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(RowsSummary {
            rows,
            ghosts: rows - vector_rows,
            bytes,
        })
    }

    fn converted(&self, row: &RowInput<'_>) -> TantivyDocument {
        let mut document = TantivyDocument::new();
        document.add_text(self.schema.id, row.id);
        document.add_u64(self.schema.chunk, u64::from(row.chunk));
        document.add_u64(self.schema.generation, row.generation);
        document.add_bytes(self.schema.state, row.state);
        row.words
            .iter()
            .for_each(|text| document.add_text(self.schema.words, text));
        row.codes
            .iter()
            .for_each(|text| document.add_text(self.schema.codes, text));
        if let Some(fields) = row.document {
            let columns: BTreeMap<String, OwnedValue> = columns_of(fields, &self.returned_only);
            document.add_object(self.schema.fields, columns);
        }
        document
    }
}

fn tokenizers() -> TokenizerManager {
    let manager = TokenizerManager::default();
    manager.register(schema::WORDS, TextAnalyzer::from(WordsTokenizer::default()));
    manager.register(schema::CODES, TextAnalyzer::from(CodesTokenizer));
    manager
}

/// Tantivy draws a random name for each segment; in file names it is written plain, in `meta.json` with hyphens.
fn segment_name(index: &Index) -> Result<[String; 2], EngineError> {
    let segments = index.searchable_segment_ids().map_err(EngineError::rows)?;
    let id = segments.first().expect("a writer of one segment wrote one");
    Ok([id.uuid_string(), hyphenated(&id.uuid_string())])
}

fn hyphenated(name: &str) -> String {
    let cuts = [0, 8, 12, 16, 20, 32];
    cuts.windows(2)
        .map(|cut| &name[cut[0]..cut[1]])
        .collect::<Vec<_>>()
        .join("-")
}
