//! Tests of what is refused: each reason with its words. What is read is in `tests`.

use serde_json::json;

use super::tests::{cloud, judge_in};
use super::*;
use crate::revision::{Revision, RevisionKind};

#[track_caller]
pub(super) fn check_refused(bytes: impl AsRef<[u8]>, reason: &str, message: &str) {
    let rejection = Event::parse(bytes.as_ref()).expect_err(message);
    assert_eq!((rejection.reason(), rejection.to_string().as_str()), (reason, message));
}

#[track_caller]
fn check_judged(bytes: impl AsRef<[u8]>, kind: RevisionKind, vectors: VectorRule, reason: &str, message: &str) {
    let rejection = judge_in(bytes.as_ref(), kind, vectors).expect_err(message);
    assert_eq!((rejection.reason(), rejection.to_string().as_str()), (reason, message));
}

#[test]
fn text_that_is_no_event_is_refused_with_the_place() {
    check_refused(
        b"{\"id\":\"\xff\"}",
        "INVALID_UTF8",
        "not UTF-8: the byte at offset 7 is not text",
    );
    check_refused(
        "",
        "INVALID_JSON",
        "not JSON: EOF while parsing a value at line 1 column 0",
    );
    check_refused(
        "{\"id\":\"A\",",
        "INVALID_JSON",
        "not JSON: EOF while parsing a value at line 1 column 10",
    );
    check_refused(
        "{\"id\":\"A\"} x",
        "INVALID_JSON",
        "not JSON: trailing characters at line 1 column 12",
    );
    check_refused(
        "{\"id\":\"A\",\"v\":NaN}",
        "INVALID_JSON",
        "not JSON: expected value at line 1 column 15",
    );
    check_refused(
        "{'id':'A'}",
        "INVALID_JSON",
        "not JSON: key must be a string at line 1 column 2",
    );
    check_refused(
        r#"{"id":"\ud800"}"#,
        "INVALID_JSON",
        "not JSON: unexpected end of hex escape at line 1 column 14",
    );
    check_refused("\"text\"", "NOT_AN_OBJECT", "an event is a JSON object, this is text");
    check_refused("null", "NOT_AN_OBJECT", "an event is a JSON object, this is null");
    check_refused(
        r#"{"id":"A","a":{"b":1,"b":2}}"#,
        "DUPLICATE_KEY",
        "field a.b is there twice; JSON readers disagree which one counts",
    );
    check_refused(
        r#"{"id":"A","ean":123456789012345678901234567890}"#,
        "NUMBER_OUT_OF_RANGE",
        "123456789012345678901234567890 at byte 16 does not fit an integer of 64 bits; write it as text",
    );
}

#[test]
fn limits_on_size_fields_and_depth_hold_exactly() {
    let sized = |bytes: usize| format!(r#"{{"id":"A","x":"{}"}}"#, "y".repeat(bytes - 17));
    assert_eq!(sized(EVENT_BYTES_MAX).len(), EVENT_BYTES_MAX);
    let largest = Event::parse(sized(EVENT_BYTES_MAX).as_bytes()).expect("at the limit");
    assert!(
        Event::parse(&largest.to_payload()).is_ok(),
        "and still when it is written as a CloudEvent"
    );
    let message = "the event has 1048577 bytes; at most 1048576 are allowed";
    check_refused(sized(EVENT_BYTES_MAX + 1), "EVENT_TOO_LARGE", message);
    let message = "the event has 9000000 bytes; at most 1048576 are allowed";
    check_refused(sized(9_000_000), "EVENT_TOO_LARGE", message);

    let flat = |fields: usize| {
        let fields: Vec<_> = (0..fields).map(|n| format!("\"f{n}\":1")).collect();
        format!(r#"{{"id":"A","_time":"2026-05-01T11:00:00Z",{}}}"#, fields.join(","))
    };
    assert!(Event::parse(flat(FIELDS_MAX).as_bytes()).is_ok());
    let message = "the document has 1001 fields; at most 1000 are allowed, nested ones included";
    check_refused(flat(FIELDS_MAX + 1), "TOO_MANY_FIELDS", message);
    let nested: Map<String, Value> = (0..1_000).map(|n| (format!("f{n}"), json!(1))).collect();
    check_refused(
        json!({"id": "A", "attributes": nested}).to_string(),
        "TOO_MANY_FIELDS",
        message,
    );
    check_refused(
        cloud(json!({}), json!({"attributes": nested})),
        "TOO_MANY_FIELDS",
        message,
    );
    let variants = vec![json!({"sku": 1, "price": 2}); 900];
    assert!(
        Event::parse(json!({"id": "A", "variants": variants}).to_string().as_bytes()).is_ok(),
        "two paths, often"
    );

    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let data = |levels| serde_json::from_str::<Value>(&format!("{{\"x\":{}}}", deep(levels))).expect("valid");
    assert!(Event::parse(format!(r#"{{"id":"A","x":{}}}"#, deep(15)).as_bytes()).is_ok());
    assert!(Event::parse(&cloud(json!({}), data(15))).is_ok());
    let message = "field x is nested deeper than 16 levels";
    check_refused(format!(r#"{{"id":"A","x":{}}}"#, deep(16)), "TOO_DEEP", message);
    check_refused(format!(r#"{{"id":"A","x":{}}}"#, deep(100_000)), "TOO_DEEP", message);
    check_refused(
        cloud(json!({}), data(16)),
        "TOO_DEEP",
        "field data.x is nested deeper than 16 levels",
    );
}

#[test]
fn ids_are_checked() {
    check_refused("{}", "MISSING_ID", "the document has no id; give it in the field id");
    check_refused(
        r#"{"id":null}"#,
        "MISSING_ID",
        "the document has no id; give it in the field id",
    );
    check_refused(
        r#"{"ID":"A"}"#,
        "MISSING_ID",
        "the document has no id; give it in the field id",
    );
    check_refused(r#"{"id":""}"#, "INVALID_ID", "document id is empty");
    check_refused(r#"{"id":17}"#, "INVALID_ID", "id must be text, this is a number");
    check_refused(r#"{"id":["A"]}"#, "INVALID_ID", "id must be text, this is a list");
    check_refused(
        r#"{"id":"a\tb"}"#,
        "INVALID_ID",
        "document id \"a\\tb\" has a control character at byte 1",
    );
    check_refused(
        format!(r#"{{"id":"{}"}}"#, "x".repeat(513)),
        "INVALID_ID",
        "document id has 513 bytes; at most 512 are allowed",
    );
    assert!(Event::parse(r#"{"id":"a/b#c d ü"}"#.as_bytes()).is_ok());
    let no_subject = json!({"subject": null});
    let place = "the document has no id; give it in the attribute subject";
    check_refused(cloud(no_subject.clone(), json!({"x": 1})), "MISSING_ID", place);
    assert_eq!(
        Event::parse(&cloud(no_subject, json!({"id": "B"})))
            .expect("its own id")
            .id
            .as_str(),
        "B"
    );
    check_refused(
        cloud(json!({}), json!({"id": "B"})),
        "ID_MISMATCH",
        "the subject is \"A-1\", but the document's id is \"B\"",
    );
}

#[test]
fn attributes_of_cloud_events_are_checked() {
    let known = "known are dev.verdigris.document.upsert.v1, …patch.v1 and …delete.v1";
    let with = |attributes| cloud(attributes, json!({"x": 1}));
    for found in [
        "dev.verdigris.document.upsert.v2",
        "com.example.thing",
        "dev.verdigris.document.Upsert.v1",
    ] {
        let message = format!("{found:?} is no kind of event; {known}");
        check_refused(with(json!({"type": found})), "UNKNOWN_EVENT_TYPE", &message);
    }
    let message = "\"replace\" is no kind of event; known are upsert, patch and delete";
    check_refused(r#"{"id":"A","_op":"replace"}"#, "UNKNOWN_EVENT_TYPE", message);
    let tail = "is not supported; this reads CloudEvents 1.0 (a document cannot have a field of that name)";
    let message = format!("specversion \"0.3\" {tail}");
    check_refused(with(json!({"specversion": "0.3"})), "UNSUPPORTED_SPECVERSION", &message);
    let message = format!("specversion a number {tail}");
    check_refused(r#"{"id":"A","specversion":1.0}"#, "UNSUPPORTED_SPECVERSION", &message);
    for name in ["id", "source", "type"] {
        let message = format!("CloudEvents attribute {name} must be there, as text that is not empty");
        check_refused(with(json!({name: null})), "INVALID_ATTRIBUTE", &message);
        check_refused(with(json!({name: ""})), "INVALID_ATTRIBUTE", &message);
    }
    check_refused(
        with(json!({"subject": 5})),
        "INVALID_ATTRIBUTE",
        "CloudEvents attribute subject must be text",
    );
    let message = "collection name \"Shop A\" must be 1 to 63 of a-z, 0-9 and '-', not beginning with '-'";
    check_refused(with(json!({"collection": "Shop A"})), "INVALID_COLLECTION", message);
    let message = "datacontenttype \"application/xml\" is not JSON";
    check_refused(
        with(json!({"datacontenttype": "application/xml"})),
        "UNSUPPORTED_CONTENT_TYPE",
        message,
    );
    assert!(Event::parse(&with(json!({"datacontenttype": "application/vnd.shop+json"}))).is_ok());
}

#[test]
fn the_data_of_cloud_events_is_checked() {
    let with = |attributes| cloud(attributes, json!({"x": 1}));
    check_refused(
        cloud(json!({}), Value::Null),
        "MISSING_DATA",
        "an event of kind upsert needs a document in data",
    );
    check_refused(
        cloud(json!({}), json!([1])),
        "DATA_NOT_OBJECT",
        "data must be a JSON object, this is a list",
    );
    let message = "CloudEvents attribute data must be there alone, not beside data_base64";
    check_refused(with(json!({"data_base64": "e30="})), "INVALID_ATTRIBUTE", message);
    let base64 = |text: &str| cloud(json!({"data_base64": text}), Value::Null).to_vec();
    let without_data = |text: &str| {
        String::from_utf8(base64(text))
            .expect("text")
            .replace("\"data\":null,", "")
    };
    check_refused(
        without_data("e30?"),
        "INVALID_BASE64",
        "data_base64 is not base64: wrong at character 3",
    );
    let delete = cloud(json!({"type": "dev.verdigris.document.delete.v1"}), Value::Null);
    assert_eq!(
        Event::parse(&delete).expect("a delete needs no data").kind,
        EventKind::Delete
    );
    let message = "field _time is kept for plain JSON events; a CloudEvent says it by its time";
    check_refused(
        cloud(json!({}), json!({"_time": "2026-05-01T11:00:00Z"})),
        "RESERVED_FIELD",
        message,
    );
    assert!(Event::parse_binary([("id", "x")], b"{}").is_err_and(|r| r.reason() == "UNSUPPORTED_SPECVERSION"));
}

#[test]
fn times_and_revisions_are_checked() {
    let tail = "is not an RFC 3339 time such as 2026-05-01T12:00:00Z, between the years 1678 and 2262";
    for (value, found) in [
        (json!("yesterday"), "\"yesterday\""),
        (json!("2026-05-01"), "\"2026-05-01\""),
        (json!(1777636800), "a number"),
        (json!("2026-05-01T12:00:00"), "\"2026-05-01T12:00:00\""),
        (json!("1600-01-01T00:00:00Z"), "\"1600-01-01T00:00:00Z\""),
        (json!("2026-13-01T12:00:00Z"), "\"2026-13-01T12:00:00Z\""),
    ] {
        let message = format!("{found} {tail}");
        check_refused(json!({"id": "A", "_time": value}).to_string(), "INVALID_TIME", &message);
        check_refused(cloud(json!({"time": value}), json!({})), "INVALID_TIME", &message);
    }
    for (value, found) in [
        (json!(1.5), "1.5"),
        (json!("v7"), "\"v7\""),
        (json!(u64::MAX), "18446744073709551615"),
        (json!(true), "true or false"),
    ] {
        let message = format!("{found} is not a revision: a whole number of at most 63 bits");
        check_refused(
            json!({"id": "A", "_revision": value}).to_string(),
            "INVALID_REVISION",
            &message,
        );
    }
    let (time, number, forbidden) = (RevisionKind::EventTime, RevisionKind::Number, VectorRule::Forbidden);
    let message = "revision 7 cannot be compared: this collection is ordered by event time";
    check_judged(
        r#"{"id":"A","_revision":7}"#,
        time,
        forbidden,
        "WRONG_REVISION_KIND",
        message,
    );
    let message = "the event has no revision, and this collection is ordered by a number that each event must bring";
    check_judged(
        r#"{"id":"A","_time":"2026-05-01T11:00:00Z"}"#,
        number,
        forbidden,
        "MISSING_REVISION",
        message,
    );
    let judged = judge_in(br#"{"id":"A","_revision":"9007199254740993"}"#, number, forbidden).expect("fits");
    assert_eq!(judged.stamp().revision, Revision(9_007_199_254_740_993));
    let message = "the event is for collection other, this is products";
    check_judged(
        cloud(json!({"collection": "other"}), json!({})),
        time,
        forbidden,
        "WRONG_COLLECTION",
        message,
    );
}

#[test]
fn a_time_is_compared_with_the_accept_time_alone() {
    let (time, forbidden) = (RevisionKind::EventTime, VectorRule::Forbidden);
    assert!(
        judge_in(br#"{"id":"A","_time":"2026-05-01T12:05:00Z"}"#, time, forbidden).is_ok(),
        "five minutes are allowed"
    );
    let message = "its time 2026-05-01T12:05:00.000000001Z is more than five minutes ahead of 2026-05-01T12:00:00Z, \
                   when it was accepted";
    check_judged(
        r#"{"id":"A","_time":"2026-05-01T12:05:00.000000001Z"}"#,
        time,
        forbidden,
        "AHEAD_OF_TIME",
        message,
    );
    assert!(
        judge_in(br#"{"id":"A","_time":"1999-01-01T00:00:00Z"}"#, time, forbidden).is_ok(),
        "old ones lose by order"
    );
}

#[test]
fn vectors_are_checked() {
    let cosine = VectorRule::Required {
        dimension: 3,
        cosine: true,
    };
    let dot = VectorRule::Required {
        dimension: 3,
        cosine: false,
    };
    let time = RevisionKind::EventTime;
    let check = |text: &str, rule, reason, message| check_judged(text, time, rule, reason, message);
    let message = "field _vector is not allowed here: this collection's embedder makes the vectors";
    check(
        r#"{"id":"A","_vector":[1,2,3]}"#,
        VectorRule::Forbidden,
        "VECTOR_NOT_ALLOWED",
        message,
    );
    check(
        r#"{"id":"A","_op":"patch","_vector":null}"#,
        VectorRule::Forbidden,
        "VECTOR_NOT_ALLOWED",
        message,
    );
    let message = "the document has no _vector, and this collection has no embedder to make one";
    check(r#"{"id":"A"}"#, dot, "MISSING_VECTOR", message);
    check(r#"{"id":"A","_vector":null}"#, dot, "MISSING_VECTOR", message);
    check(
        r#"{"id":"A","_op":"patch","_vector":null}"#,
        dot,
        "MISSING_VECTOR",
        message,
    );
    let message = "_vector must be a list of numbers, it is text";
    check(r#"{"id":"A","_vector":"1,2,3"}"#, dot, "INVALID_VECTOR", message);
    let message = "_vector must be a list of numbers, number 1 is text";
    check(r#"{"id":"A","_vector":[1,"NaN",3]}"#, dot, "INVALID_VECTOR", message);
    check(
        r#"{"id":"A","_vector":[1,2]}"#,
        dot,
        "WRONG_DIMENSION",
        "_vector has 2 numbers, this collection's have 3",
    );
    let message = "_vector is not finite as float32: number 2 is too large";
    check(r#"{"id":"A","_vector":[1,2,1e39]}"#, dot, "VECTOR_NOT_FINITE", message);
    let message = "_vector is not finite as float32: its length is too large";
    check(r#"{"id":"A","_vector":[1,2,1e20]}"#, dot, "VECTOR_NOT_FINITE", message);
    let message = "_vector is zero, and cosine needs a direction";
    check(r#"{"id":"A","_vector":[0,-0.0,0]}"#, cosine, "ZERO_VECTOR", message);
    check(
        r#"{"id":"A","_vector":[0,1e-30,1e-300]}"#,
        cosine,
        "ZERO_VECTOR",
        message,
    );
    for fine in [
        r#"{"id":"A","_vector":[0,0,0]}"#,
        r#"{"id":"A","_op":"patch","price":1}"#,
        r#"{"id":"A","_op":"delete"}"#,
        r#"{"id":"A","_vector":[1,2.5,-3e-3]}"#,
    ] {
        assert!(judge_in(fine.as_bytes(), time, dot).is_ok(), "{fine}");
    }
    let judged = judge_in(br#"{"id":"A","_vector":[0.1,1,-0.7]}"#, time, cosine).expect("fits");
    assert_eq!(
        judged.fields()["_vector"],
        json!([0.1f32, 1, -0.7f32]),
        "rounded to float32 at once"
    );
}

#[test]
fn the_reasons_are_those_on_the_list() {
    let source = include_str!("../rejection.rs");
    let words = source.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next());
    let used: Vec<_> = words.filter(|word| word.chars().all(|c| !c.is_lowercase())).collect();
    assert_eq!(used, crate::rejection::REASONS);
}

#[test]
fn the_page_on_events_explains_each_reason_in_their_order() {
    let page = include_str!("../../../../docs/events.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let explained: Vec<_> = rows
        .map(|(reason, _)| reason)
        .filter(|reason| !reason.contains(char::is_lowercase))
        .collect();
    assert_eq!(explained, crate::rejection::REASONS);
}
