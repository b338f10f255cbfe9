//! Events: what is read, and what stamps come of it. What is refused is in `refusals`.

use serde_json::json;

use super::refusals::check_refused;
use super::*;
use crate::revision::{Revision, RevisionKind, Stamp};

const NOON: i64 = 1_777_636_800_000_000_000;

pub(super) fn cloud(attributes: Value, data: Value) -> Vec<u8> {
    let mut event = json!({
        "specversion": "1.0", "id": "e-1", "source": "/erp", "subject": "A-1",
        "type": "dev.verdigris.document.upsert.v1", "data": data,
    });
    let (Value::Object(event), Value::Object(more)) = (&mut event, attributes) else {
        unreachable!("objects")
    };
    event.extend(more);
    Value::Object(event.clone()).to_string().into_bytes()
}

pub(super) fn products() -> CollectionName {
    "products".parse().expect("valid")
}

pub(super) fn judge_in(bytes: &[u8], revision_kind: RevisionKind, vectors: VectorRule) -> Result<Judged, Rejection> {
    let context = JudgeContext {
        collection: &products(),
        revision_kind,
        vectors,
        accepted_at_ns: NOON,
    };
    Event::parse(bytes)?.judge(&context)
}

fn stamp(bytes: impl AsRef<[u8]>) -> Stamp {
    judge_in(bytes.as_ref(), RevisionKind::EventTime, VectorRule::Forbidden)
        .expect("fits")
        .stamp()
}

#[test]
fn a_plain_document_is_an_upsert_and_metadata_fields_make_it_more() {
    let event = Event::parse(br#"{"id":"A-1","title":"Drill","stock":null,"tags":["a",null]}"#).expect("valid");
    assert_eq!(
        (event.id.as_str(), event.kind, event.time, event.revision),
        ("A-1", EventKind::Upsert, None, None)
    );
    assert_eq!(
        Value::Object(event.fields),
        json!({"title": "Drill", "tags": ["a", null]}),
        "a null is no field"
    );

    let text = br#"{"id":"A-1","_op":"patch","_time":"2026-05-01T14:00:00+02:00","_revision":7,"stock":null}"#;
    let event = Event::parse(text).expect("valid");
    assert_eq!(
        (event.kind, event.time, event.revision),
        (EventKind::Patch, Some(Timestamp(NOON)), Some(7))
    );
    assert_eq!(
        Value::Object(event.fields),
        json!({"stock": null}),
        "a null of a patch removes"
    );

    let event = Event::parse(br#"{"id":"A-1","_op":"delete","title":"last state"}"#).expect("valid");
    assert_eq!((event.kind, event.fields.len()), (EventKind::Delete, 0));
    assert!(Event::parse("\u{feff}{\"id\":\"after a byte order mark\"}".as_bytes()).is_ok());
}

#[test]
fn structured_binary_and_plain_events_that_say_the_same_get_the_same_stamp() {
    let time = "2026-05-01T11:00:00Z";
    let plain = stamp(format!(r#"{{"id":"A-1","price":10.0,"_time":"{time}"}}"#));
    let structured = stamp(cloud(json!({"time": time}), json!({"price": 1e1})));
    let elsewhere = stamp(cloud(
        json!({"time": "2026-05-01T13:00:00+02:00", "id": "e-2", "source": "/pim", "collection": "products"}),
        json!({"id": "A-1", "price": 10, "stock": null}),
    ));
    let mut encoded: Value = serde_json::from_slice(&cloud(json!({"time": time}), Value::Null)).expect("valid");
    encoded.as_object_mut().expect("an object").remove("data");
    encoded["data_base64"] = json!("eyJwcmljZSI6MTB9");
    let attributes = [
        ("specversion", "1.0"),
        ("id", "x"),
        ("source", "/"),
        ("subject", "A-1"),
        ("time", time),
        ("type", "dev.verdigris.document.upsert.v1"),
        ("datacontenttype", "application/json; charset=utf-8"),
    ];
    let binary = Event::parse_binary(attributes, br#"{"price":10}"#).expect("valid");
    let context = JudgeContext {
        collection: &products(),
        revision_kind: RevisionKind::EventTime,
        vectors: VectorRule::Forbidden,
        accepted_at_ns: NOON,
    };
    for same in [
        structured,
        elsewhere,
        stamp(encoded.to_string()),
        binary.judge(&context).expect("fits").stamp(),
    ] {
        assert_eq!(same, plain);
    }
    for other in [
        format!(r#"{{"id":"A-2","price":10,"_time":"{time}"}}"#),
        format!(r#"{{"id":"A-1","price":11,"_time":"{time}"}}"#),
        format!(r#"{{"id":"A-1","price":"10","_time":"{time}"}}"#),
        format!(r#"{{"id":"A-1","price":10,"_op":"patch","_time":"{time}"}}"#),
        r#"{"id":"A-1","price":10,"_time":"2026-05-01T11:00:00.000000001Z"}"#.to_owned(),
    ] {
        assert_ne!(stamp(&other), plain, "{other}");
    }
}

#[test]
fn a_stamp_is_what_anyone_can_compute() {
    let found = stamp(r#"{"id":"A-1","b":[1.50,true],"a":"ü","_time":"2026-05-01T11:00:00Z"}"#);
    let revision = NOON - 3_600_000_000_000;
    let text = r#"{"collection":"products","fields":{"a":"ü","b":[1.5,true]},"id":"A-1","kind":"upsert","revision":"1777633200000000000"}"#;
    assert_eq!(found.revision, Revision(revision));
    assert_eq!(found.digest, crate::digest::Digest::of(text.as_bytes()));
}

#[test]
fn an_event_without_a_time_gets_the_accept_time_and_keeps_it_when_it_is_replayed() {
    let bytes = br#"{"id":"A-1","title":"x"}"#;
    assert_eq!(stamp(bytes).revision, Revision(NOON));
    let again = Event::parse(bytes)
        .expect("valid")
        .pinned(RevisionKind::EventTime, Timestamp(NOON))
        .to_payload();
    let later = JudgeContext {
        collection: &products(),
        revision_kind: RevisionKind::EventTime,
        vectors: VectorRule::Forbidden,
        accepted_at_ns: NOON + 86_400_000_000_000,
    };
    let replayed = Event::parse(&again)
        .and_then(|event| event.judge(&later))
        .expect("fits");
    assert_eq!(replayed.stamp(), stamp(bytes));
}

#[test]
fn an_event_is_written_as_a_cloud_event_that_reads_the_same() {
    for bytes in [
        r#"{"id":"a \"b\"/#ü","_op":"patch","_time":"2026-05-01T11:00:00.5Z","x":null,"n":[1,2.5,{"y":"\u0001"}]}"#
            .as_bytes(),
        br#"{"id":"A","_op":"delete","_revision":9007199254740993}"#,
        br#"{"id":"A"}"#,
        &cloud(
            json!({"revision": "-5", "collection": "products", "ignored": true}),
            json!({"data": 1, "type": 2}),
        ),
    ] {
        let mut event = Event::parse(bytes).expect("valid");
        let written = Event::parse(&event.to_payload()).expect("written events are read");
        event.origin.clone_from(&written.origin);
        assert_eq!(written, event);
    }
    assert_eq!(
        String::from_utf8_lossy(&Event::delete("A".parse().expect("valid")).to_payload())
            .split("\"id\"")
            .next(),
        Some("{"),
    );
}

#[test]
fn a_batch_is_cut_into_its_events() {
    let texts = |bytes: &'static str| -> Vec<String> {
        let cut = split(bytes.as_bytes()).expect("valid");
        cut.into_iter()
            .map(|event| String::from_utf8_lossy(event).into_owned())
            .collect()
    };
    assert_eq!(
        texts(r#" [ {"id":"a,]"} , 5,{"id":"b"}] "#),
        [r#"{"id":"a,]"}"#, "5", r#"{"id":"b"}"#]
    );
    assert_eq!(
        texts(r#"{"id":["not","a","batch"]}"#),
        [r#"{"id":["not","a","batch"]}"#]
    );
    assert!(texts("[]").is_empty());
    assert_eq!(texts("not json"), ["not json"], "told by parse");
    let rejection = split(b"[{\"id\":\"a\"},").expect_err("cut short");
    assert_eq!(
        rejection.to_string(),
        "not JSON: EOF while parsing a value at line 1 column 12"
    );
    let many = format!("[{}1]", "1,".repeat(BATCH_EVENTS_MAX));
    let message = split(many.as_bytes()).expect_err("too many").to_string();
    assert_eq!(message, "the batch has 10001 events; at most 10000 are allowed");
    check_refused(
        r#"[{"id":"a"}]"#,
        "NOT_AN_OBJECT",
        "an event is a JSON object, this is a list",
    );
}
