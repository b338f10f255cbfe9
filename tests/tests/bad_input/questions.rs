//! Wrong questions to a server that is well.

use verdigris_tests::process::{Folder, Server};

use super::check;

/// A filter, and a part of what is said about it.
const FILTERS: &[(&str, &str)] = &[
    ("price <", "a value is missing after < (column 8)"),
    ("price <<< 3", "cannot have '<' in it (column 8)"),
    ("(a = 1", "this parenthesis is never closed (column 1)"),
    ("a = 1)", "(column 6)"),
    ("a = 1 AND", "a comparison is missing after AND (column 10)"),
    ("brand in (\"x\")", "an operator is missing after brand (column 6)"),
    ("a = \"x", "its \" is missing (column 5)"),
    ("NOT", "a comparison is missing after NOT (column 4)"),
    ("= 3", "cannot begin with '=' (column 1)"),
    ("near(x)", "is not a function; filters have none (column 1)"),
];

#[test]
fn each_wrong_filter_is_told_with_its_column() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    for (filter, part) in FILTERS {
        check(
            &folder.run(&["search", "x", "--filter", filter]),
            1,
            "INVALID_FILTER",
            part,
        );
    }
    let long = format!("a = {}", "x".repeat(5_000));
    check(
        &folder.run(&["search", "x", "--filter", &long]),
        1,
        "INVALID_FILTER",
        "4096",
    );
}

/// Arguments, the reason, and a part of the message.
type Case = (&'static [&'static str], &'static str, &'static str);

const QUESTIONS: &[Case] = &[
    (&["search", "x", "--collection", "nope"], "COLLECTION_NOT_FOUND", "nope"),
    (&["get", "a", "--collection", "nope"], "COLLECTION_NOT_FOUND", "nope"),
    (
        &["patch", "a", "{}", "--collection", "nope"],
        "COLLECTION_NOT_FOUND",
        "nope",
    ),
    (&["delete", "a", "--collection", "nope"], "COLLECTION_NOT_FOUND", "nope"),
    (&["collections", "delete", "nope"], "COLLECTION_NOT_FOUND", "nope"),
    (&["collections", "show", "nope"], "COLLECTION_NOT_FOUND", "nope"),
    (
        &["collections", "create", "Bad Name"],
        "INVALID_COLLECTION",
        "1 to 63 of a-z, 0-9",
    ),
    (
        &["collections", "create", "products"],
        "COLLECTION_EXISTS",
        "products exists already",
    ),
    (&["search", "x", "--top-k", "1001"], "INVALID_ARGUMENT", "at most 1000"),
    (
        &["search", "x", "--offset", "9995"],
        "INVALID_ARGUMENT",
        "10000 hits deep",
    ),
    (
        &["search", "x", "--page-token", "zzz"],
        "INVALID_PAGE_TOKEN",
        "no page token",
    ),
    (
        &["search", "x", "--ef-search", "100000"],
        "INVALID_ARGUMENT",
        "at most 10000",
    ),
    (&["search", ""], "INVALID_ARGUMENT", "give a text, a vector, or both"),
    (&["search", "  "], "INVALID_ARGUMENT", "give a text, a vector, or both"),
    (
        &["search", "x", "--min-position", "zzz"],
        "INVALID_POSITION",
        "is not a position",
    ),
    (
        &["search", "x", "--min-position", "00000000-1"],
        "INVALID_POSITION",
        "another stream",
    ),
    (
        &["search", "--vector-file", "none.json"],
        "FILE_UNREADABLE",
        "none.json",
    ),
    (&["get", "nobody"], "DOCUMENT_NOT_FOUND", "nobody"),
    (&["patch", "a", "[1]"], "INVALID_ARGUMENT", "JSON object"),
    (&["patch", "a", "{"], "INVALID_ARGUMENT", "EOF while parsing"),
    (&["releases", "show", "99"], "RELEASE_NOT_FOUND", "release 99"),
    (
        &["dead-letters", "show", "x"],
        "DEAD_LETTER_NOT_FOUND",
        "no dead letter at \"x\"",
    ),
    (
        &["--server", "http://127.0.0.1:1", "get", "a"],
        "SERVER_UNREACHABLE",
        "127.0.0.1:1",
    ),
    (
        &["--server", ":::", "get", "a"],
        "INVALID_ARGUMENT",
        "is no address of a server",
    ),
];

/// A server with one document.
fn served() -> (Folder, Server) {
    let folder = Folder::new();
    let server = folder.up();
    folder.create_collection();
    let file = folder.file("one.jsonl", "{\"id\":\"a\",\"title\":\"x\"}\n");
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    (folder, server)
}

#[test]
fn each_wrong_question_is_answered_with_its_reason() {
    let (folder, _server) = served();
    for (arguments, reason, part) in QUESTIONS {
        check(&folder.run(arguments), 1, reason, part);
    }
    let long = folder.run(&["search", &"x".repeat(9_000)]);
    check(&long, 1, "INVALID_ARGUMENT", "text has 9000 bytes; at most 8192");
    let bad_name = folder.run(&["search", "x", "--collection", "Bad Name"]);
    check(&bad_name, 2, "INVALID_COLLECTION", "1 to 63 of a-z, 0-9");
    // 0 is what a client sends that does not say: the default.
    let found = folder.run(&["search", "x", "--top-k", "0"]).with_code(0);
    assert_eq!(found["hits"].as_array().map(Vec::len), Some(1));
}

#[test]
fn each_wrong_file_of_a_vector_or_of_settings_is_answered_with_its_reason() {
    let (folder, _server) = served();
    let huge = format!("[1e300{}]", ",1".repeat(63));
    for (content, reason, part) in [
        ("[1,2]", "INVALID_VECTOR", "has 2 coordinates"),
        ("[NaN]", "INVALID_ARGUMENT", "line 1 column 2"),
        ("[\"a\"]", "INVALID_ARGUMENT", "invalid type: string"),
        (huge.as_str(), "INVALID_ARGUMENT", "vector.json"),
    ] {
        let file = folder.file("vector.json", content);
        check(&folder.run(&["search", "--vector-file", &file]), 1, reason, part);
    }
    for (content, reason, part) in [
        (
            r#"{"embedder":{"provider":"hash","dimension":32}}"#,
            "NEEDS_REBUILD",
            "embedder cannot change",
        ),
        (r#"{"embeder":{}}"#, "INVALID_SETTINGS", "did you mean embedder?"),
        (r#"{"ann":{"index_type":"LSH"}}"#, "INVALID_SETTINGS", "HNSW32"),
        ("{", "INVALID_SETTINGS", "EOF while parsing"),
    ] {
        let file = folder.file("settings.json", content);
        check(&folder.run(&["settings", "set", &file]), 1, reason, part);
    }
}
