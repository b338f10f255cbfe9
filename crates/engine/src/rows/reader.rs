//! Reading `rows.tar` in place.

use std::path::Path;
use std::sync::Arc;

use tantivy::columnar::{Column, ColumnarReader, DynamicColumn, DynamicColumnHandle, StrColumn};
use tantivy::directory::OwnedBytes;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::{SegmentComponent, SegmentReader};
use tantivy::postings::TermInfo;
use tantivy::schema::{Field, IndexRecordOption, Value};
use tantivy::store::StoreReader;
use tantivy::{DocSet, Index, InvertedIndexReader, TERMINATED, TantivyDocument, Term};

use crate::error::EngineError;
use crate::mapped::MappedBytes;
use crate::rows::archive::ArchiveDirectory;
use crate::rows::ids::Ids;
use crate::rows::schema::{CHUNK, GENERATION, ID, RowsSchema};
use crate::rows::{HEADER_FILE, Header, IDS_FILE, ROWS_FORMAT_VERSION};

/// Why reading an opened archive cannot go wrong.
pub(crate) const READABLE: &str = "the digest of the file was checked before it was opened, and its parts open";
/// Unpacked blocks of states that are kept, 4 KiB each: an indexer reads the rows of one window, which lie together
/// where they were written together.
const STATE_BLOCKS_KEPT: usize = 256;

/// The opened rows of one segment. Cheap to share, never changes.
pub struct Rows {
    header: Header,
    schema: RowsSchema,
    id_terms: Arc<InvertedIndexReader>,
    ids: Ids,
    id_column: StrColumn,
    chunks: Column<u64>,
    generations: Column<u64>,
    states: StoreReader,
    columns: ColumnarReader,
    words: AnalysedField,
    codes: AnalysedField,
}

/// What a row stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The document's id.
    pub id: String,
    /// The number of the passage in its document.
    pub chunk: u32,
    /// The generation that wrote the row.
    pub generation: u64,
    /// The document's state as it was given.
    pub state: Vec<u8>,
}

/// A field that BM25 reads: its postings, its lengths, and the sum of its lengths.
pub(crate) struct AnalysedField {
    field: Field,
    /// Absent if no row has a token: Tantivy would build an empty dictionary, which takes longer than all else here.
    terms: Option<Arc<InvertedIndexReader>>,
    /// One byte for each row: Tantivy's rounded count of tokens.
    pub(crate) lengths: OwnedBytes,
    /// The decoded lengths of all rows, added up.
    pub(crate) tokens: u64,
}

impl Rows {
    /// Opens a mapped archive. Nothing is copied; the cost does not depend on the states' size.
    ///
    /// # Errors
    /// [`EngineError::RowsArchive`] or [`EngineError::Rows`] for what is no such archive, and
    /// [`EngineError::RowsVersion`] for one of another format.
    pub fn open(bytes: MappedBytes) -> Result<Self, EngineError> {
        let directory = ArchiveDirectory::open(bytes).map_err(|source| EngineError::RowsArchive { source })?;
        let header = read_header(&directory)?;
        let ids = directory.file(Path::new(IDS_FILE));
        let index = Index::open(directory).map_err(EngineError::rows)?;
        let segments = index.searchable_segments().map_err(EngineError::rows)?;
        let [segment] = &segments[..] else {
            return Err(EngineError::RowsShape {
                rows: header.rows,
                found: 0,
            });
        };
        let reader = SegmentReader::open(segment).map_err(EngineError::rows)?;
        if reader.max_doc() != header.rows || header.vector_rows > header.rows {
            return Err(EngineError::RowsShape {
                rows: header.rows,
                found: reader.max_doc(),
            });
        }
        let archive = |source| EngineError::RowsArchive { source };
        let ids = ids.ok_or_else(|| archive(std::io::ErrorKind::NotFound.into()))?;
        let ids = Ids::open(ids, header.rows).map_err(archive)?;
        Self::from_reader(header, ids, &reader)
    }

    fn from_reader(header: Header, ids: Ids, reader: &SegmentReader) -> Result<Self, EngineError> {
        let (declared, schema) = RowsSchema::build();
        if *reader.schema() != declared {
            return Err(EngineError::RowsVersion {
                found: header.format_version,
            });
        }
        let archive = |source| EngineError::RowsArchive { source };
        let columns = reader
            .open_read(SegmentComponent::FastFields)
            .map_err(|error| EngineError::rows(error.into()))?;
        let fast = reader.fast_fields();
        let id_column = fast
            .str(ID)
            .map_err(EngineError::rows)?
            .ok_or_else(|| archive(std::io::ErrorKind::NotFound.into()))?;
        Ok(Self {
            schema,
            id_terms: reader.inverted_index(schema.id).map_err(EngineError::rows)?,
            ids,
            id_column,
            chunks: fast.u64(CHUNK).map_err(EngineError::rows)?,
            generations: fast.u64(GENERATION).map_err(EngineError::rows)?,
            states: reader.get_store_reader(STATE_BLOCKS_KEPT).map_err(archive)?,
            columns: ColumnarReader::open(columns).map_err(archive)?,
            words: AnalysedField::open(reader, schema.words)?,
            codes: AnalysedField::open(reader, schema.codes)?,
            header,
        })
    }

    /// All rows, ghosts included.
    pub fn rows(&self) -> u32 {
        self.header.rows
    }

    /// Rows with a vector: the first ones.
    pub fn vector_rows(&self) -> u32 {
        self.header.vector_rows
    }

    /// All rows of a document, in order, its ghost included: one look into a dictionary.
    pub fn find(&self, id: &str) -> Vec<u32> {
        let term = Term::from_field_text(self.schema.id, id);
        let postings = self
            .id_terms
            .read_postings(&term, IndexRecordOption::Basic)
            .expect(READABLE);
        let mut rows = Vec::new();
        if let Some(mut postings) = postings {
            while postings.doc() != TERMINATED {
                rows.push(postings.doc());
                postings.advance();
            }
        }
        rows
    }

    /// What a row stores.
    ///
    /// # Errors
    /// [`EngineError::RowOutOfRange`], and [`EngineError::Rows`] where its block cannot be unpacked.
    pub fn stored(&self, row: u32) -> Result<StoredRow, EngineError> {
        let id = self.id(row)?;
        let document: TantivyDocument = self.states.get(row).map_err(EngineError::rows)?;
        let state = document.get_first(self.schema.state);
        let state = state.and_then(|value| value.as_bytes()).unwrap_or_default().to_vec();
        let chunk = u32::try_from(self.chunks.first(row).unwrap_or_default()).unwrap_or(u32::MAX);
        Ok(StoredRow {
            id,
            chunk,
            generation: self.generation(row),
            state,
        })
    }

    /// The document's id of a row, without unpacking its state.
    ///
    /// # Errors
    /// [`EngineError::RowOutOfRange`].
    pub fn id(&self, row: u32) -> Result<String, EngineError> {
        if row >= self.rows() {
            return Err(EngineError::RowOutOfRange { row, rows: self.rows() });
        }
        let id = self.ids.get(row);
        Ok(id.map_err(|source| EngineError::RowsArchive { source })?.to_owned())
    }

    /// The generation that wrote a row.
    pub fn generation(&self, row: u32) -> u64 {
        self.generations.first(row).unwrap_or_default()
    }

    /// The ids of all rows, in row order, ghosts included.
    pub fn ids(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.rows()).map(|row| self.ids.get(row).expect(READABLE).to_owned())
    }

    /// The generation that wrote each row, in row order.
    pub fn generations(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.rows()).map(|row| self.generation(row))
    }

    pub(crate) fn id_column(&self) -> &StrColumn {
        &self.id_column
    }

    pub(crate) fn words(&self) -> &AnalysedField {
        &self.words
    }

    pub(crate) fn codes(&self) -> &AnalysedField {
        &self.codes
    }

    /// The column of exactly this name, when any row has a value in it.
    pub(crate) fn column(&self, name: &str) -> Result<Option<DynamicColumn>, EngineError> {
        let columns = self
            .columns
            .read_columns(name)
            .map_err(|source| EngineError::RowsArchive { source })?;
        columns.first().map(open_column).transpose()
    }

    /// All columns below a path.
    pub(crate) fn columns_below(&self, path: &str) -> Result<Vec<DynamicColumn>, EngineError> {
        let columns = self
            .columns
            .read_subpath_columns(path)
            .map_err(|source| EngineError::RowsArchive { source })?;
        columns.iter().map(open_column).collect()
    }
}

impl AnalysedField {
    fn open(reader: &SegmentReader, field: Field) -> Result<Self, EngineError> {
        let lengths = match reader.fieldnorms_readers().get_inner_file().open_read(field) {
            Some(file) => file
                .read_bytes()
                .map_err(|source| EngineError::RowsArchive { source })?,
            None => OwnedBytes::empty(),
        };
        if lengths.len() != reader.max_doc() as usize {
            return Err(EngineError::RowsShape {
                rows: reader.max_doc(),
                found: lengths.len() as u32,
            });
        }
        let tokens = lengths.iter().map(|length| decoded_length(*length)).sum();
        let terms = (tokens > 0).then(|| reader.inverted_index(field)).transpose();
        Ok(Self {
            field,
            terms: terms.map_err(EngineError::rows)?,
            lengths,
            tokens,
        })
    }

    /// Where the rows with a term are, if there are any.
    pub(crate) fn find(&self, term: &str) -> Option<TermInfo> {
        let term = Term::from_field_text(self.field, term);
        self.terms.as_ref()?.get_term_info(&term).expect(READABLE)
    }

    /// Blocks of rows with a term, and how often each has it where `option` says so.
    pub(crate) fn for_each_posting(
        &self,
        found: &TermInfo,
        option: IndexRecordOption,
        mut visit: impl FnMut(&[u32], &[u32]),
    ) {
        let Some(terms) = &self.terms else { return };
        let mut postings = terms.read_block_postings_from_terminfo(found, option).expect(READABLE);
        while !postings.docs().is_empty() {
            visit(postings.docs(), postings.freqs());
            postings.advance();
        }
    }

    /// Tokens of one row, as rounded when it was written.
    pub(crate) fn length(&self, row: u32) -> u64 {
        decoded_length(self.lengths[row as usize])
    }
}

fn decoded_length(length: u8) -> u64 {
    u64::from(FieldNormReader::id_to_fieldnorm(length))
}

fn open_column(handle: &DynamicColumnHandle) -> Result<DynamicColumn, EngineError> {
    handle.open().map_err(|source| EngineError::RowsArchive { source })
}

fn read_header(directory: &ArchiveDirectory) -> Result<Header, EngineError> {
    let missing = || EngineError::RowsArchive {
        source: std::io::ErrorKind::NotFound.into(),
    };
    let bytes = directory.file(Path::new(HEADER_FILE)).ok_or_else(missing)?;
    let header: Header =
        serde_json::from_slice(&bytes).map_err(|error| EngineError::RowsArchive { source: error.into() })?;
    if header.format_version != ROWS_FORMAT_VERSION {
        return Err(EngineError::RowsVersion {
            found: header.format_version,
        });
    }
    Ok(header)
}
