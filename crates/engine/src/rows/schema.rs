//! The Tantivy fields of `rows.tar`, and the name that each of its columns bears.

use tantivy::schema::{
    Field, IndexRecordOption, JsonObjectOptions, NumericOptions, STORED, Schema, TextFieldIndexing, TextOptions,
};

/// The document's id: dictionary to rows, and column from row back to id.
pub(crate) const ID: &str = "id";
/// The number of the passage in its document.
pub(crate) const CHUNK: &str = "chunk";
/// The generation that wrote the row.
pub(crate) const GENERATION: &str = "generation";
/// The document's state, opaque here.
pub(crate) const STATE: &str = "state";
/// The catch-all of words.
pub(crate) const WORDS: &str = "words";
/// Prefixes of part numbers.
pub(crate) const CODES: &str = "codes";
/// What filters look at: one dynamic column for each path and kind of value.
pub(crate) const FIELDS: &str = "fields";
/// Tantivy's name for a tokenizer that leaves text alone.
const RAW: &str = "raw";

/// Handles of the fields, in the order in which they are declared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowsSchema {
    pub(crate) id: Field,
    pub(crate) chunk: Field,
    pub(crate) generation: Field,
    pub(crate) state: Field,
    pub(crate) words: Field,
    pub(crate) codes: Field,
    pub(crate) fields: Field,
}

impl RowsSchema {
    /// Declares the fields.
    pub(crate) fn build() -> (Schema, Self) {
        let mut builder = Schema::builder();
        let number = NumericOptions::default().set_fast();
        let fields = Self {
            id: builder.add_text_field(ID, id_options()),
            chunk: builder.add_u64_field(CHUNK, number.clone()),
            generation: builder.add_u64_field(GENERATION, number),
            state: builder.add_bytes_field(STATE, STORED),
            words: builder.add_text_field(WORDS, analysed(WORDS)),
            codes: builder.add_text_field(CODES, analysed(CODES)),
            fields: builder.add_json_field(FIELDS, JsonObjectOptions::default().set_fast(RAW)),
        };
        (builder.build(), fields)
    }
}

fn id_options() -> TextOptions {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(RAW)
        .set_fieldnorms(false)
        .set_index_option(IndexRecordOption::Basic);
    TextOptions::default().set_indexing_options(indexing).set_fast(RAW)
}

/// Frequencies and lengths for BM25; no positions, because nothing asks for phrases. The tokenizer bears the field's
/// name and is only needed while rows are written.
fn analysed(tokenizer: &str) -> TextOptions {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(tokenizer)
        .set_fieldnorms(true)
        .set_index_option(IndexRecordOption::WithFreqs);
    TextOptions::default().set_indexing_options(indexing)
}
