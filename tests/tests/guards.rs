//! A bad feed on the real executable: stopped before its first delete is served, and every decision about it.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use verdigris_tests::process::{Folder, Server};

/// Documents of the catalog.
const DOCUMENTS: u64 = 400;

fn lines(range: std::ops::Range<u64>, line: impl Fn(u64) -> String) -> String {
    range.fold(String::new(), |mut text, n| {
        writeln!(text, "{}", line(n)).expect("writing to a text cannot fail");
        text
    })
}

fn delete(n: u64) -> String {
    format!("{{\"id\":\"d{n}\",\"_op\":\"delete\"}}")
}

/// A server with a catalog whose windows are small, so that a feed takes many.
fn served() -> (Folder, Server) {
    let folder = Folder::new();
    let server = folder.up();
    let settings = r#"{"embedder":{"provider":"hash","dimension":32},"window":{"events":20,"milliseconds":50}}"#;
    let settings = folder.file("settings.json", settings);
    let _made = folder
        .run(&["collections", "create", "products", "--settings", &settings])
        .with_code(0);
    let catalog = lines(0..DOCUMENTS, |n| {
        format!(
            "{{\"id\":\"d{n}\",\"title\":\"article {n}\",\"text\":\"{}\"}}",
            "long words ".repeat(20)
        )
    });
    let file = folder.file("catalog.jsonl", &catalog);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    (folder, server)
}

/// Sends a feed that deletes most, and ends when it is stopped.
fn stopped(folder: &Folder) -> Value {
    let feed = lines(0..240, delete) + "{\"id\":\"d300\",\"title\":\"kept and changed\"}\n";
    let file = folder.file("feed.jsonl", &feed);
    let told = folder.run(&["ingest", &file, "--wait"]);
    assert_eq!(
        (told.code, told.json["reason"].as_str()),
        (4, Some("PUBLISHING_STAGED")),
        "{}",
        told.text
    );
    folder.run(&["staged", "show"]).with_code(0)
}

fn documents(folder: &Folder) -> u64 {
    // An event of its own, so that everything before it is in the answers.
    let _told = folder.run(&["delete", "nobody", "--wait"]).with_code(0);
    let shown = folder.run(&["collections", "show"]).with_code(0);
    shown["documents"].as_u64().expect("a number")
}

#[test]
fn a_feed_that_deletes_most_is_stopped_before_its_first_delete_is_served() {
    let (folder, _server) = served();
    let staged = stopped(&folder);
    assert_eq!(staged["counted"], 240, "waiting deletes count: {staged}");
    let breach = staged["breaches"][0].as_str().expect("words");
    assert!(
        breach.starts_with("240 of 400 documents of release 1 deleted within an hour: 60 %"),
        "{breach}"
    );
    for n in [0, 19, 239] {
        assert_eq!(folder.run(&["get", &format!("d{n}")]).code, 0, "d{n} is answered still");
    }
    let shown = folder.run(&["collections", "show"]).with_code(0);
    assert_eq!(
        (&shown["documents"], &shown["standstill"]["reason"]),
        (&400.into(), &"PUBLISHING_STAGED".into())
    );
    let refused = folder.run(&["staged", "accept", "77"]);
    assert_eq!((refused.code, refused.reason()), (1, "NOT_STAGED"), "{}", refused.text);
}

#[test]
fn accepting_serves_the_whole_feed_and_the_next_small_delete_passes() {
    let (folder, _server) = served();
    let _staged = stopped(&folder);
    let _accepted = folder.run(&["staged", "accept", "--actor", "ada"]).with_code(0);
    assert_eq!(documents(&folder), 160);
    let _told = folder.run(&["delete", "d399", "--wait"]).with_code(0);
    assert_eq!(documents(&folder), 159);
    assert_eq!(folder.run(&["staged", "show"]).reason(), "NOT_STAGED");
}

#[test]
fn rejecting_sets_aside_what_was_counted_and_applies_the_rest() {
    let (folder, mut server) = served();
    let _staged = stopped(&folder);
    // The question survives a restart.
    assert_eq!(server.stop().code(), Some(0));
    let _server = folder.up();
    let rejected = folder
        .run(&["staged", "reject", "--reason", "half a feed", "--actor", "ada"])
        .with_code(0);
    assert_eq!(rejected["rejected"], 240);
    assert_eq!(documents(&folder), 400);
    let changed = folder.run(&["get", "d300"]).with_code(0);
    assert_eq!(changed["document"]["title"], "kept and changed");
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    let letters = letters["dead_letters"].as_array().expect("a list");
    assert_eq!(letters.len(), 240);
    assert!(
        letters.iter().all(|letter| letter["reason"] == "REJECTED"),
        "{:?}",
        letters[0]
    );
    assert!(
        letters[0]["message"]
            .as_str()
            .is_some_and(|words| words.contains("ada: half a feed"))
    );
    // Going back to before them and on again does not bring them back.
    let back = folder.run(&["releases", "rollback", "1", "--reason", "to look"]);
    let _back = back.with_code(0);
    let _resumed = folder.run(&["releases", "resume"]).with_code(0);
    assert_eq!(documents(&folder), 400);
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    assert_eq!(letters["dead_letters"].as_array().map(Vec::len), Some(240), "each once");
}

#[test]
fn chosen_events_are_rejected_and_the_rest_is_judged_again() {
    let (folder, _server) = served();
    let staged = stopped(&folder);
    let refused = folder.run(&["staged", "reject", "--reason", "x", "--ids", "d399"]);
    assert_eq!(
        (refused.code, refused.reason()),
        (1, "INVALID_ARGUMENT"),
        "{}",
        refused.text
    );
    let events = staged["events"].as_array().expect("a list");
    let positions = events
        .iter()
        .take(200)
        .map(|event| event["position"].as_str().expect("a position"));
    let file = folder.file("events.txt", positions.collect::<Vec<_>>().join("\n"));
    let rejected = folder
        .run(&["staged", "reject", "--reason", "x", "--events", &file])
        .with_code(0);
    assert_eq!(rejected["rejected"], 200);
    assert_eq!(documents(&folder), 360, "40 deletes pass");
}

#[test]
fn other_limits_let_a_retry_pass() {
    let (folder, _server) = served();
    let _staged = stopped(&folder);
    let _retried = folder.run(&["staged", "retry"]).with_code(0);
    let again = folder.run(&["delete", "nobody", "--wait"]);
    assert_eq!(
        again.json["reason"], "PUBLISHING_STAGED",
        "by the same limits: {}",
        again.text
    );
    let shown = folder.run(&["settings", "show"]).with_code(0);
    let mut settings = shown["settings"].clone();
    settings["guards"]["enabled"] = false.into();
    let file = folder.file("settings.json", settings.to_string());
    let _set = folder.run(&["settings", "set", &file]).with_code(0);
    let _retried = folder.run(&["staged", "retry"]).with_code(0);
    assert_eq!(documents(&folder), 160);
}

#[test]
fn a_feed_that_empties_documents_is_stopped_by_their_bytes() {
    let (folder, _server) = served();
    let feed = lines(0..DOCUMENTS, |n| format!("{{\"id\":\"d{n}\"}}"));
    let file = folder.file("empty.jsonl", &feed);
    let told = folder.run(&["ingest", &file, "--wait"]);
    assert_eq!(
        (told.code, told.json["reason"].as_str()),
        (4, Some("PUBLISHING_STAGED")),
        "{}",
        told.text
    );
    let staged = folder.run(&["staged", "show"]).with_code(0);
    assert!(
        staged["breaches"][0]
            .as_str()
            .is_some_and(|words| words.contains("bytes")),
        "{staged}"
    );
}

#[test]
fn doctor_finds_what_waits_for_a_person() {
    let (folder, mut server) = served();
    let _staged = stopped(&folder);
    assert_eq!(server.stop().code(), Some(0));
    let findings = folder.run(&["doctor"]);
    assert!(
        findings.text.contains("breached a guard and is staged"),
        "{}",
        findings.text
    );
    assert_eq!(findings.code, 1);
    let log = fs::read_dir(folder.data().join("store/products/verdicts")).expect("a verdict");
    assert_eq!(log.count(), 1);
}
