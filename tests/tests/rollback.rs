//! Going back to an older release's content and on again, as somebody does it by hand after a bad feed.

use serde_json::Value;
use verdigris_tests::process::{Folder, Server};

const CATALOG: &str = concat!(
    "{\"id\":\"a\",\"title\":\"cordless drill\",\"price\":89}\n",
    "{\"id\":\"b\",\"title\":\"garden hose\",\"price\":20}\n",
);

/// A folder with two documents in generation 1, and a change to each in later ones.
fn changed() -> (Folder, Server) {
    let folder = Folder::new();
    let server = folder.up();
    folder.create_collection();
    let file = folder.file("catalog.jsonl", CATALOG);
    let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_eq!(told["generation"], 1);
    let _told = folder.run(&["patch", "a", r#"{"price":1}"#, "--wait"]).with_code(0);
    let _told = folder.run(&["delete", "b", "--wait"]).with_code(0);
    (folder, server)
}

fn price(folder: &Folder, id: &str) -> Value {
    folder.run(&["get", id]).json["document"]["price"].clone()
}

#[test]
fn going_back_answers_at_once_holds_what_comes_and_resuming_loses_nothing() {
    let (folder, _server) = changed();
    let back = folder.run(&["releases", "rollback", "1", "--reason", "a bad feed", "--actor", "ada"]);
    let back = back.with_code(0);
    assert_eq!(
        (&back["reason"], &back["active"]),
        (&"rollback".into(), &true.into()),
        "{back}"
    );
    assert_eq!((price(&folder, "a"), price(&folder, "b")), (89.into(), 20.into()));

    let told = folder.run(&["patch", "a", r#"{"price":2}"#, "--wait"]);
    assert_eq!(
        (told.code, told.json["reason"].as_str()),
        (4, Some("PUBLISHING_HELD")),
        "{}",
        told.text
    );
    let position = told.json["position"].as_str().expect("accepted all the same");
    let early = folder.run(&["get", "a", "--min-position", position]);
    assert_eq!(early.reason(), "PUBLISHING_HELD", "{}", early.text);
    assert!(
        early.text.contains("ada") && early.text.contains("a bad feed"),
        "{}",
        early.text
    );
    assert_eq!(price(&folder, "a"), 89);

    let resumed = folder.run(&["releases", "resume"]).with_code(0);
    assert_eq!(resumed["unread_events"], 3);
    let held = folder.run(&["get", "a", "--min-position", position]).with_code(0);
    assert_eq!(held["document"]["price"], 2);
    assert_eq!(folder.run(&["get", "b"]).reason(), "DOCUMENT_NOT_FOUND");
    assert_eq!(folder.run(&["releases", "resume"]).reason(), "NOT_HELD");
}

#[test]
fn bad_events_are_set_aside_before_the_rest_is_read_again() {
    let (folder, _server) = changed();
    let _back = folder
        .run(&["releases", "rollback", "1", "--reason", "a bad price"])
        .with_code(0);
    let said = folder.run(&["explain-document", "a"]).with_code(0);
    let bad = said["events"][0]["position"].as_str().expect("the patch");
    let file = folder.file("bad.txt", bad);
    let told = folder.run(&["releases", "resume", "--set-aside", &file]);
    assert_eq!(told.code, 2, "a reason is asked for: {}", told.text);
    let read = said["events"][1]["position"].as_str().expect("the upsert");
    let wrong = folder.file("read.txt", read);
    let told = folder.run(&["releases", "resume", "--set-aside", &wrong, "--reason", "x"]);
    assert_eq!(told.reason(), "INVALID_ARGUMENT", "release 1 holds it: {}", told.text);
    let resumed = folder.run(&["releases", "resume", "--set-aside", &file, "--reason", "wrong price"]);
    let _resumed = resumed.with_code(0);
    let _told = folder.run(&["delete", "nobody", "--wait"]).with_code(0);
    assert_eq!(price(&folder, "a"), 89, "the bad patch is set aside");
    assert_eq!(
        folder.run(&["get", "b"]).reason(),
        "DOCUMENT_NOT_FOUND",
        "the rest is applied"
    );
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    assert_eq!(letters["dead_letters"][0]["reason"], "REJECTED", "{letters}");
    assert_eq!(letters["dead_letters"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_hold_survives_a_restart_and_is_resumed_on_the_folder_alone() {
    let (folder, mut server) = changed();
    let _back = folder
        .run(&["releases", "rollback", "1", "--reason", "a bad feed"])
        .with_code(0);
    assert_eq!(server.stop().code(), Some(0));
    let server = folder.up();
    assert_eq!(price(&folder, "a"), 89);
    let shown = folder.run(&["collections", "show"]).with_code(0);
    assert_eq!(shown["standstill"]["reason"], "PUBLISHING_HELD", "{shown}");
    drop(server);
    let _resumed = folder.run(&["releases", "resume"]).with_code(0);
    let _told = folder.run(&["delete", "nobody", "--wait"]).with_code(0);
    assert_eq!(price(&folder, "a"), 1);
}

#[test]
fn what_cannot_be_gone_back_to_is_refused_with_its_reason() {
    let (folder, _server) = changed();
    let refused = folder.run(&["releases", "rollback", "99", "--reason", "x"]);
    assert_eq!(
        (refused.code, refused.reason()),
        (1, "RELEASE_NOT_FOUND"),
        "{}",
        refused.text
    );
    let refused = folder.run(&["releases", "rollback", "1", "--reason", " "]);
    assert_eq!(
        (refused.code, refused.reason()),
        (1, "INVALID_ARGUMENT"),
        "{}",
        refused.text
    );
    assert_eq!(folder.run(&["releases", "resume"]).reason(), "NOT_HELD");
    assert_eq!(folder.run(&["releases", "pin", "99"]).reason(), "RELEASE_NOT_FOUND");
    let pinned = folder.run(&["releases", "pin", "1"]).with_code(0);
    assert_eq!(pinned["pinned"], true);
    let listed = folder.run(&["releases", "list"]).with_code(0);
    let first = listed["releases"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["generation"] == 1));
    assert_eq!(first.map(|one| &one["pinned"]), Some(&true.into()), "{listed}");
}
