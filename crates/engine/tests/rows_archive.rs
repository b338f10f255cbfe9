//! `rows.tar`: what is written is read back, in place, by row and by id.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use verdigris_engine::error::EngineError;
use verdigris_engine::filter::Filter;
use verdigris_engine::mapped::MappedBytes;
use verdigris_engine::rows::{RowInput, Rows, RowsBuilder, RowsSummary};

struct Row {
    id: String,
    chunk: u32,
    generation: u64,
    state: Vec<u8>,
    document: Option<Map<String, Value>>,
}

fn row(id: &str, generation: u64, document: Option<Value>) -> Row {
    let document = document.map(|value| value.as_object().expect("an object").clone());
    Row {
        id: id.to_owned(),
        chunk: 0,
        generation,
        state: format!("state of {id}").into_bytes(),
        document,
    }
}

fn write(rows: &[Row], folder: &Path, out: &Path) -> RowsSummary {
    let mut builder = RowsBuilder::new(folder, &["hidden".to_owned()]).expect("a builder");
    for row in rows {
        let title = row
            .document
            .as_ref()
            .and_then(|document| document.get("title"))
            .and_then(Value::as_str);
        let input = RowInput {
            id: &row.id,
            chunk: row.chunk,
            generation: row.generation,
            state: &row.state,
            document: row.document.as_ref(),
            words: title.as_slice(),
            codes: title.as_slice(),
        };
        builder.add(input).expect("a row");
    }
    builder.finish(out).expect("an archive")
}

fn open(path: &Path) -> Result<Rows, EngineError> {
    Rows::open(MappedBytes::open(path).expect("a file"))
}

fn check_read_back(written: &[Row]) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows.tar");
    let summary = write(written, folder.path(), &path);
    let rows = open(&path).expect("opens");
    let ghosts = written.iter().filter(|row| row.document.is_none()).count();
    assert_eq!(
        (summary.rows as usize, summary.ghosts as usize),
        (written.len(), ghosts)
    );
    assert_eq!(summary.bytes, fs::metadata(&path).expect("a file").len());
    assert_eq!(
        (rows.rows() as usize, rows.vector_rows() as usize),
        (written.len(), written.len() - ghosts)
    );
    assert_eq!(
        rows.ids().collect::<Vec<_>>(),
        written.iter().map(|row| row.id.clone()).collect::<Vec<_>>()
    );
    assert!(rows.generations().eq(written.iter().map(|row| row.generation)));
    for (number, row) in written.iter().enumerate() {
        let stored = rows.stored(number as u32).expect("a row");
        assert_eq!(
            (&stored.id, stored.chunk, stored.generation, &stored.state),
            (&row.id, row.chunk, row.generation, &row.state)
        );
        let same_id = written.iter().enumerate().filter(|(_, other)| other.id == row.id);
        assert_eq!(rows.find(&row.id), same_id.map(|(at, _)| at as u32).collect::<Vec<_>>());
    }
    let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "temporary files are gone");
}

#[test]
fn what_is_written_is_read_back_with_ghosts_last() {
    let mut chunked = row("two chunks", 3, Some(json!({"title": "b"})));
    chunked.chunk = 1;
    check_read_back(&[
        row(
            "a/b#c d",
            1,
            Some(json!({"title": "Drill DW-745/B", "n": 1, "hidden": {"x": [1, 2]}})),
        ),
        row("two chunks", 3, Some(json!({"title": "a"}))),
        chunked,
        row("Ünïcode ✓", u64::MAX, Some(json!({}))),
        row("gone", 2, None),
        row("a ghost of two chunks", 9, None),
    ]);
    check_read_back(&[row("only a ghost", 1, None)]);
    check_read_back(&[row("only one", 1, Some(json!({"title": ""})))]);
}

#[test]
fn a_state_of_a_mebibyte_is_read_back() {
    let mut large = row("large", 1, Some(json!({})));
    large.state = (0..1_048_576_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    check_read_back(&[
        row("before", 1, Some(json!({}))),
        large,
        row("after", 1, Some(json!({}))),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]
    #[test]
    fn any_rows_are_read_back(
        ids in prop::collection::vec("[ -~äß✓]{1,20}", 1..80),
        states in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 80),
        ghosts in 0_usize..20,
    ) {
        let live = ids.len().saturating_sub(ghosts);
        let rows: Vec<Row> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| {
                let document = (n < live).then(|| json!({"title": id, "n": n}).as_object().expect("an object").clone());
                Row { id: id.clone(), chunk: n as u32, generation: n as u64 * 7, state: states[n].clone(), document }
            })
            .collect();
        check_read_back(&rows);
    }
}

#[test]
fn an_unknown_id_has_no_rows_and_an_unknown_row_is_an_error() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows.tar");
    write(&[row("known", 1, Some(json!({})))], folder.path(), &path);
    let rows = open(&path).expect("opens");
    for id in ["", "know", "known ", "KNOWN"] {
        assert_eq!(rows.find(id), [] as [u32; 0], "{id:?}");
    }
    let error = rows.stored(1).expect_err("one row");
    assert_eq!(error.to_string(), "row 1 does not exist in a segment of 1 rows");
}

#[test]
fn equal_rows_give_equal_bytes() {
    let folder = TempDir::new().expect("a folder");
    let (a, b) = (folder.path().join("a.tar"), folder.path().join("b.tar"));
    let rows: Vec<Row> = (0..300)
        .map(|n| {
            row(
                &format!("id {n}"),
                n,
                Some(json!({"title": format!("DW-{n} drill"), "n": n, "f": {format!("k{}", n % 9): 0.5}})),
            )
        })
        .chain([row("ghost", 7, None)])
        .collect();
    write(&rows, folder.path(), &a);
    write(&rows, folder.path(), &b);
    assert!(
        fs::read(a).expect("a file") == fs::read(b).expect("a file"),
        "the same rows gave other bytes"
    );
}

#[test]
fn a_segment_without_rows_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let builder = RowsBuilder::new(folder.path(), &[]).expect("a builder");
    let error = builder.finish(&folder.path().join("rows.tar")).expect_err("no rows");
    assert_eq!(error.to_string(), "a segment needs at least one row");
}

#[test]
fn what_is_no_archive_of_rows_is_refused_with_its_reason() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows.tar");
    let check = |bytes: &[u8], expect: &str| {
        let path = folder.path().join("damaged.tar");
        fs::write(&path, bytes).expect("a file");
        let error = open(&path)
            .err()
            .unwrap_or_else(|| panic!("opened in spite of: {expect}"));
        assert_eq!(error.to_string(), expect);
    };
    write(&[row("a", 1, Some(json!({"title": "b"})))], folder.path(), &path);
    let good = fs::read(&path).expect("a file");
    check(b"", "rows file cannot be opened");
    check(&[7; 5_000], "rows file cannot be opened");
    check(&good[..530], "rows file cannot be opened");
    check(&good[..good.len() / 2], "rows cannot be indexed or read");
    let other_version = replaced(&good, b"\"format_version\":2", b"\"format_version\":9");
    check(
        &other_version,
        "rows file has format version 9 or its fields are others; this software reads version 2",
    );
    let more_rows = replaced(&good, b"\"rows\":1", b"\"rows\":2");
    check(&more_rows, "rows file says that it has 2 rows, but a part of it has 1");
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .expect("it is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn a_full_or_missing_folder_is_an_error_that_names_it() {
    let folder = TempDir::new().expect("a folder");
    let missing = folder.path().join("missing");
    let Err(error) = RowsBuilder::new(&missing, &[]) else {
        panic!("a folder that is not there")
    };
    assert_eq!(
        error.to_string(),
        format!("cannot write rows into {}", missing.display())
    );
}

#[test]
fn fields_that_are_only_returned_and_keys_of_any_length_do_not_hinder() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows.tar");
    let long_key = "k".repeat(200_000);
    let document =
        json!({"hidden": {"x": 1}, long_key.clone(): 1, "a": {long_key: "v"}, "t": "x".repeat(1_000_000), "": 3});
    write(&[row("a", 1, Some(document))], folder.path(), &path);
    let rows = open(&path).expect("opens");
    let count = |filter: &str| {
        rows.filter(&Filter::parse(filter).expect("a filter"))
            .expect("rows")
            .len()
    };
    assert_eq!(count("hidden:*"), 0);
    assert_eq!(count("t:*"), 1);
    assert_eq!(count("\"\" = 3"), 1);
}

#[test]
fn a_vector_that_a_document_brought_is_kept_once() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("rows.tar");
    let rows = |vector: Option<Value>| -> Vec<Row> {
        let document = |n: usize| {
            let mut document = json!({"n": n});
            if let Some(vector) = &vector {
                document["_vector"] = vector.clone();
            }
            document
        };
        (0..100).map(|n| row(&format!("{n}"), 1, Some(document(n)))).collect()
    };
    write(&rows(None), folder.path(), &path);
    let without = fs::read(&path).expect("an archive");
    write(&rows(Some(json!(vec![0.25; 384]))), folder.path(), &path);
    assert!(
        fs::read(&path).expect("an archive") == without,
        "it is in the columns too"
    );
}
