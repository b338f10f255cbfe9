//! Wrong lines, wrong questions and damaged files, each with the reason that the real executable gives.

use std::fs;

use serde_json::Value;
use verdigris_tests::process::Folder;

/// A line, its reason, and a part of the message.
const LINES: &[(&str, &str, &str)] = &[
    ("not json", "INVALID_JSON", "not JSON"),
    ("{\"id\":\"big\",\"n\":1e999}", "INVALID_JSON", "out of range"),
    ("\"text\"", "NOT_AN_OBJECT", "this is text"),
    ("null", "NOT_AN_OBJECT", "this is null"),
    ("[1]", "NOT_AN_OBJECT", "this is a number"),
    ("{\"title\":\"no id\"}", "MISSING_ID", "field id"),
    ("{\"id\":\"\"}", "INVALID_ID", "empty"),
    ("{\"id\":true}", "INVALID_ID", "must be text"),
    ("{\"id\":\"a\\u0000b\"}", "INVALID_ID", "control character"),
    (
        "{\"id\":\"b\",\"_vector\":[1]}",
        "VECTOR_NOT_ALLOWED",
        "embedder makes the vectors",
    ),
    ("{\"id\":\"d\",\"t\":1,\"t\":2}", "DUPLICATE_KEY", "there twice"),
    (
        "{\"specversion\":\"2.0\",\"id\":\"1\"}",
        "UNSUPPORTED_SPECVERSION",
        "CloudEvents 1.0",
    ),
];

/// Members of an event that replace good ones, the reason, and a part of the message.
const EVENTS: &[(&str, &str, &str, &str)] = &[
    (
        "type",
        "\"dev.verdigris.document.rename.v1\"",
        "UNKNOWN_EVENT_TYPE",
        "no kind of event",
    ),
    ("revision", "\"seven\"", "INVALID_REVISION", "whole number"),
    ("time", "\"yesterday\"", "INVALID_TIME", "RFC 3339"),
    ("data", "[1]", "DATA_NOT_OBJECT", "this is a list"),
    ("collection", "\"Bad Name\"", "INVALID_COLLECTION", "a-z, 0-9"),
    ("subject", "\"\"", "INVALID_ID", "empty"),
];

fn event(member: &str, value: &str) -> String {
    let text = r#"{"specversion":"1.0","id":"1","source":"s","type":"dev.verdigris.document.upsert.v1","subject":"a","data":{"title":"x"}}"#;
    let mut event: Value = serde_json::from_str(text).expect("JSON of the table");
    event[member] = serde_json::from_str(value).expect("JSON of the table");
    event.to_string()
}

#[test]
fn each_wrong_line_is_refused_with_its_reason_and_the_rest_goes_in() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let mut cases: Vec<(String, &str, &str)> = LINES.iter().map(|(l, r, m)| ((*l).to_owned(), *r, *m)).collect();
    cases.extend(
        EVENTS
            .iter()
            .map(|(member, value, r, m)| (event(member, value), *r, *m)),
    );
    let mut lines: Vec<&str> = cases.iter().map(|case| case.0.as_str()).collect();
    lines.push("{\"id\":\"good\",\"title\":\"good\"}");
    let file = folder.file("lines.jsonl", &lines.join("\n"));
    let rejected = folder.file("rejected.jsonl", "");
    let told = folder
        .run(&["ingest", &file, "--wait", "--rejected", &rejected])
        .with_code(3);
    assert_eq!((&told["accepted"], &told["rejected"]), (&1.into(), &cases.len().into()));
    let written = fs::read_to_string(rejected).unwrap();
    let written: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(written.len(), cases.len());
    for (at, ((line, reason, part), told)) in cases.iter().zip(&written).enumerate() {
        assert_eq!(told["line"], at + 1, "{line}");
        assert_eq!(told["reason"], *reason, "{line}: {told}");
        assert!(told["message"].as_str().unwrap().contains(part), "{line}: {told}");
    }
}

#[test]
fn each_wrong_question_is_answered_with_its_reason() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let file = folder.file("one.jsonl", "{\"id\":\"a\",\"title\":\"x\"}\n");
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    let short = folder.file("short.json", "[1,2]");
    let nan = folder.file("nan.json", "[NaN]");
    let cases: [(&[&str], &str, &str); 8] = [
        (
            &["search", "x", "--filter", "price <<< 3"],
            "INVALID_FILTER",
            "column 8",
        ),
        (&["search", "x", "--collection", "nope"], "COLLECTION_NOT_FOUND", "nope"),
        (&["ingest", "missing.jsonl"], "", "missing.jsonl"),
        (&["search", "x", "--top-k", "5000"], "INVALID_ARGUMENT", "1000"),
        (
            &["search", "--vector-file", &short],
            "INVALID_VECTOR",
            "has 2 coordinates",
        ),
        (
            &["search", "--vector-file", &nan],
            "INVALID_ARGUMENT",
            "line 1 column 2",
        ),
        (&["get", "nobody"], "DOCUMENT_NOT_FOUND", "nobody"),
        (&["patch", "a", "[1]"], "", "object"),
    ];
    for (arguments, reason, part) in cases {
        let answer = folder.run(arguments);
        assert!(answer.code == 1 || answer.code == 2, "{}", answer.text);
        assert!(reason.is_empty() || answer.reason() == reason, "{}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    }
}

/// Damages one file of a published release; what the executable says to the next question.
fn answer_after_damage(below: &str, ending: &str, damage: fn(&mut [u8])) -> String {
    let folder = Folder::new();
    folder.create_collection();
    let file = folder.file(
        "two.jsonl",
        "{\"id\":\"a\",\"title\":\"x\"}\n{\"id\":\"b\",\"title\":\"y\"}\n",
    );
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    let _told = folder.run(&["delete", "b", "--wait"]).with_code(0);
    let files = folder.files(&format!("store/products/{below}"));
    for path in files.iter().filter(|path| path.to_string_lossy().ends_with(ending)) {
        let mut bytes = fs::read(path).expect("a file of the test");
        damage(&mut bytes);
        fs::remove_file(path).expect("a file of the test");
        fs::write(path, bytes).expect("a file of the test");
    }
    // Local copies of what was already verified would hide the damage of the store.
    let _absent = fs::remove_dir_all(folder.data().join("scratch"));
    let answer = folder.run(&["search", "x"]);
    assert_ne!(answer.code, -1, "no signal may end it: {}", answer.text);
    answer.text
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
}

#[test]
fn damaged_files_are_told_as_damage_and_never_end_the_process() {
    for (below, ending) in [
        ("segments", "vectors.faiss"),
        ("segments", "rows.tar"),
        ("dead", ".roaring"),
        ("releases", ".json"),
        ("", "latest"),
    ] {
        let text = answer_after_damage(below, ending, flip);
        assert!(text.contains("DATA_DAMAGED"), "{below} {ending}: {text}");
    }
}
