//! Segments of rows for tests.
#![allow(dead_code, reason = "every test program compiles this file and uses a part of it")]

use serde_json::{Map, Value};
use tempfile::TempDir;
use verdigris_engine::mapped::MappedBytes;
use verdigris_engine::rows::{RowInput, Rows, RowsBuilder};

/// Rows of these documents, then this many ghosts.
pub(crate) fn rows_of_documents(documents: &[Value], ghosts: usize) -> (TempDir, Rows) {
    let row = |n: usize, document: &Value| {
        let document = document.as_object().expect("an object").clone();
        let id = document
            .get("id")
            .and_then(Value::as_str)
            .map_or_else(|| format!("row {n}"), str::to_owned);
        TestRow {
            id,
            document: Some(document),
            ..TestRow::default()
        }
    };
    let ghost = |n: usize| TestRow {
        id: format!("ghost {n}"),
        ..TestRow::default()
    };
    let rows = documents.iter().enumerate().map(|(n, document)| row(n, document));
    rows_of(&rows.chain((0..ghosts).map(ghost)).collect::<Vec<_>>())
}

/// One row of a test.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestRow {
    pub(crate) id: String,
    pub(crate) document: Option<Map<String, Value>>,
    pub(crate) words: Vec<String>,
    pub(crate) codes: Vec<String>,
}

/// Rows as given, in a folder that lives as long as the guard.
pub(crate) fn rows_of(rows: &[TestRow]) -> (TempDir, Rows) {
    let folder = TempDir::new().expect("a folder");
    let mut builder = RowsBuilder::new(folder.path(), &[]).expect("a builder");
    for row in rows {
        let input = RowInput {
            id: &row.id,
            chunk: 0,
            generation: 1,
            state: b"state",
            document: row.document.as_ref(),
            words: &row.words.iter().map(String::as_str).collect::<Vec<_>>(),
            codes: &row.codes.iter().map(String::as_str).collect::<Vec<_>>(),
        };
        builder.add(input).expect("a row");
    }
    let path = folder.path().join("rows.tar");
    builder.finish(&path).expect("an archive");
    let rows = Rows::open(MappedBytes::open(&path).expect("a file")).expect("rows");
    (folder, rows)
}
