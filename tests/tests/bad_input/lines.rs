//! Lines that are no events: each is refused with its number, and the others go in.

use std::fs;

use serde_json::{Value, json};
use verdigris_tests::process::Folder;

/// A line, its reason, and a part of the message.
struct Case {
    line: Vec<u8>,
    reason: &'static str,
    part: &'static str,
}

fn case(line: impl Into<Vec<u8>>, reason: &'static str, part: &'static str) -> Case {
    let line = line.into();
    Case { line, reason, part }
}

fn plain() -> Vec<Case> {
    let many: String = (0..=1_000).map(|n| format!(",\"f{n}\":1")).collect();
    let deep = format!("{}1{}", "[".repeat(16), "]".repeat(16));
    vec![
        case("not json", "INVALID_JSON", "line 1 column 2"),
        case("{\"id\":\"e\",\"data\":", "INVALID_JSON", "EOF while parsing"),
        case("{'id':'a'}", "INVALID_JSON", "key must be a string at line 1 column 2"),
        case(
            "{\"id\":\"n\",\"v\":NaN}",
            "INVALID_JSON",
            "expected value at line 1 column 15",
        ),
        case("{\"id\":\"big\",\"n\":1e999}", "INVALID_JSON", "out of range"),
        case(b"{\"id\":\"\xff\"}", "INVALID_UTF8", "offset 7"),
        case("\"text\"", "NOT_AN_OBJECT", "this is text"),
        case("null", "NOT_AN_OBJECT", "this is null"),
        case("[1]", "NOT_AN_OBJECT", "this is a number"),
        case("[[1,2]]", "NOT_AN_OBJECT", "this is a list"),
        case("{\"title\":\"no id\"}", "MISSING_ID", "field id"),
        case("{\"id\":\"\"}", "INVALID_ID", "empty"),
        case("{\"id\":true}", "INVALID_ID", "must be text"),
        case("{\"id\":\"a\\u0000b\"}", "INVALID_ID", "control character"),
        case(
            format!("{{\"id\":\"{}\"}}", "x".repeat(513)),
            "INVALID_ID",
            "513 bytes; at most 512",
        ),
        case(
            "{\"id\":\"b\",\"_vector\":[1]}",
            "VECTOR_NOT_ALLOWED",
            "embedder makes the vectors",
        ),
        case("{\"id\":\"d\",\"t\":1,\"t\":2}", "DUPLICATE_KEY", "there twice"),
        case(
            "{\"id\":\"i\",\"n\":123456789012345678901234567890}",
            "NUMBER_OUT_OF_RANGE",
            "write it as text",
        ),
        case(
            format!("{{\"id\":\"f\"{many}}}"),
            "TOO_MANY_FIELDS",
            "1001 fields; at most 1000",
        ),
        case(
            format!("{{\"id\":\"d\",\"x\":{deep}}}"),
            "TOO_DEEP",
            "field x is nested deeper than 16",
        ),
        case(
            format!("{{\"id\":\"l\",\"x\":\"{}\"}}", "y".repeat(1 << 20)),
            "EVENT_TOO_LARGE",
            "at most 1048576",
        ),
        case(
            format!("{{\"id\":\"l\",\"x\":\"{}\"}}", "y".repeat(3 << 20)),
            "EVENT_TOO_LARGE",
            "at most 1048576",
        ),
        case(
            "{\"id\":\"r\",\"_revision\":7}",
            "WRONG_REVISION_KIND",
            "ordered by event time",
        ),
        case("{\"id\":\"r\",\"_revision\":1.5}", "INVALID_REVISION", "whole number"),
        case("{\"id\":\"t\",\"_time\":\"yesterday\"}", "INVALID_TIME", "RFC 3339"),
    ]
}

/// A good event with this member in place of its own.
fn event(member: &str, value: Value) -> String {
    let mut event = json!({
        "specversion": "1.0", "id": "1", "source": "s", "type": "dev.verdigris.document.upsert.v1",
        "subject": "a", "data": {"title": "x"},
    });
    event[member] = value;
    event.to_string()
}

fn events() -> Vec<Case> {
    let of = |member, value, reason, part| case(event(member, value), reason, part);
    vec![
        of(
            "type",
            json!("dev.verdigris.document.rename.v1"),
            "UNKNOWN_EVENT_TYPE",
            "no kind of event",
        ),
        of("type", json!(5), "INVALID_ATTRIBUTE", "attribute type must be text"),
        of(
            "specversion",
            json!("2.0"),
            "UNSUPPORTED_SPECVERSION",
            "CloudEvents 1.0",
        ),
        of("revision", json!("seven"), "INVALID_REVISION", "whole number"),
        of("revision", json!(7), "WRONG_REVISION_KIND", "ordered by event time"),
        of("time", json!("2026-02-30T00:00:00Z"), "INVALID_TIME", "RFC 3339"),
        of("data", json!([1]), "DATA_NOT_OBJECT", "this is a list"),
        of("data", json!({"id": "b"}), "ID_MISMATCH", "subject is \"a\""),
        of("collection", json!("Bad Name"), "INVALID_COLLECTION", "a-z, 0-9"),
        of(
            "collection",
            json!("other"),
            "WRONG_COLLECTION",
            "for collection other, this is products",
        ),
        of("subject", json!(""), "INVALID_ID", "empty"),
        of("subject", Value::Null, "MISSING_ID", "attribute subject"),
        of(
            "datacontenttype",
            json!("text/xml"),
            "UNSUPPORTED_CONTENT_TYPE",
            "is not JSON",
        ),
        of(
            "data_base64",
            json!("%%"),
            "INVALID_ATTRIBUTE",
            "not beside data_base64",
        ),
    ]
}

/// Sends the cases with a good line between any two, and compares the file of refused lines.
fn check_refused(folder: &Folder, collection: &str, cases: &[Case], good: &dyn Fn(usize) -> String) {
    let mut lines = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        lines.extend_from_slice(&case.line);
        lines.extend_from_slice(format!("\n{}\n", good(at)).as_bytes());
    }
    let file = folder.file("lines.jsonl", lines);
    let answer = folder.run(&["--collection", collection, "ingest", &file, "--wait"]);
    let told = answer.with_code(3);
    let counts = (told["accepted"].as_u64(), told["rejected"].as_u64());
    let file = told["rejected_file"]
        .as_str()
        .expect("the file of refused lines is named");
    let written = fs::read_to_string(file).expect("the named file is there");
    let mut written: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).expect("each refused line is told as JSON"))
        .collect();
    // Lines that are refused before they are sent come before those that the server refuses.
    written.sort_by_key(|told| told["line"].as_u64());
    for (at, (case, told)) in cases.iter().zip(&written).enumerate() {
        let start = String::from_utf8_lossy(&case.line[..case.line.len().min(80)]).into_owned();
        assert_eq!(told["line"], 2 * at + 1, "{start}: {told}");
        assert_eq!(told["reason"], case.reason, "{start}: {told}");
        let message = told["message"].as_str().expect("a refusal has words");
        assert!(message.contains(case.part), "{start}: {message}");
    }
    let all = Some(cases.len() as u64);
    assert_eq!((counts, written.len()), ((all, all), cases.len()));
}

#[test]
fn each_wrong_line_is_refused_with_its_reason_and_the_rest_goes_in() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let mut cases = plain();
    cases.extend(events());
    check_refused(&folder, "products", &cases, &|n| {
        format!("{{\"id\":\"good-{n}\",\"title\":\"good\"}}")
    });
    let shown = folder.run(&["collections", "show"]).with_code(0);
    assert_eq!(shown["documents"], cases.len());
}

#[test]
fn each_wrong_vector_is_refused_where_documents_bring_theirs() {
    let folder = Folder::new();
    let _server = folder.up();
    let settings = folder.file("none.json", r#"{"embedder":{"provider":"none","dimension":2}}"#);
    let _made = folder
        .run(&["collections", "create", "given", "--settings", &settings])
        .with_code(0);
    let cases = [
        case("{\"id\":\"a\"}", "MISSING_VECTOR", "has no _vector"),
        case(
            "{\"id\":\"a\",\"_vector\":[1]}",
            "WRONG_DIMENSION",
            "1 numbers, this collection's have 2",
        ),
        case("{\"id\":\"a\",\"_vector\":[1,2,3]}", "WRONG_DIMENSION", "3 numbers"),
        case("{\"id\":\"a\",\"_vector\":[1,\"2\"]}", "INVALID_VECTOR", "is text"),
        case(
            "{\"id\":\"a\",\"_vector\":\"[1,2]\"}",
            "INVALID_VECTOR",
            "list of numbers",
        ),
        case("{\"id\":\"a\",\"_vector\":[1,NaN]}", "INVALID_JSON", "expected value"),
        case("{\"id\":\"a\",\"_vector\":[1,1e39]}", "VECTOR_NOT_FINITE", "too large"),
        case(
            "{\"id\":\"a\",\"_vector\":[0,0]}",
            "ZERO_VECTOR",
            "cosine needs a direction",
        ),
    ];
    check_refused(&folder, "given", &cases, &|n| {
        format!("{{\"id\":\"g{n}\",\"_vector\":[1,{n}]}}")
    });
}

#[test]
fn each_wrong_revision_is_refused_where_revisions_are_numbers() {
    let folder = Folder::new();
    let _server = folder.up();
    let settings = r#"{"revision":"number","embedder":{"provider":"hash","dimension":8}}"#;
    let settings = folder.file("numbered.json", settings);
    let _made = folder
        .run(&["collections", "create", "numbered", "--settings", &settings])
        .with_code(0);
    let cases = [
        case("{\"id\":\"a\"}", "MISSING_REVISION", "each event must bring"),
        case("{\"id\":\"a\",\"_revision\":\"x\"}", "INVALID_REVISION", "whole number"),
        case(
            "{\"id\":\"a\",\"_revision\":9223372036854775808}",
            "INVALID_REVISION",
            "at most 63 bits",
        ),
        case("{\"id\":\"a\",\"_revision\":-1.5}", "INVALID_REVISION", "whole number"),
    ];
    check_refused(&folder, "numbered", &cases, &|n| {
        format!("{{\"id\":\"g{n}\",\"_revision\":{n}}}")
    });
}

#[test]
fn ids_with_slashes_hashes_and_spaces_are_found_again() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let ids = ["KT-1/A", "a#b", "a b", " ", "ä/ö", "../x", "{\"}", &"x".repeat(512)];
    let lines: Vec<String> = ids
        .iter()
        .map(|id| json!({"id": id, "title": "odd"}).to_string())
        .collect();
    let file = folder.file("ids.jsonl", lines.join("\n"));
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    for id in ids {
        let held = folder.run(&["get", id]).with_code(0);
        assert_eq!(held["document"]["id"], id);
    }
}
