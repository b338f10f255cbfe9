//! What differs between two releases, and where one document is, as somebody asks by hand.

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, Server};

const CATALOG: &str = concat!(
    "{\"id\":\"a\",\"title\":\"cordless drill\",\"brand\":\"Kestrel\",\"price\":89}\n",
    "{\"id\":\"b\",\"title\":\"garden hose\",\"brand\":\"Brook\",\"price\":20}\n",
    "{\"id\":\"c\",\"title\":\"desk lamp\",\"brand\":\"Brook\",\"price\":35}\n",
);

fn changed() -> (Folder, Server) {
    changed_in(Folder::create_collection)
}

fn changed_in(create: impl Fn(&Folder)) -> (Folder, Server) {
    let folder = Folder::new();
    let server = folder.up();
    create(&folder);
    let file = folder.file("catalog.jsonl", CATALOG);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    let _told = folder
        .run(&["patch", "a", r#"{"price":1,"stock":4}"#, "--wait"])
        .with_code(0);
    let _told = folder.run(&["delete", "b", "--wait"]).with_code(0);
    let file = folder.file("new.jsonl", "{\"id\":\"d\",\"title\":\"hammer\"}\n");
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    (folder, server)
}

#[test]
fn a_difference_names_what_came_went_and_changed_by_field() {
    let (folder, _server) = changed();
    let diff = folder.run(&["releases", "diff", "1"]).with_code(0);
    assert_eq!(
        (&diff["added"], &diff["removed"], &diff["changed"]),
        (&json!(1), &json!(1), &json!(1)),
        "{diff}"
    );
    assert_eq!(diff["fields"], json!({"price": 1, "stock": 1}));
    assert_eq!(diff["brands"], json!({"Kestrel": 1, "Brook": 1}));
    let documents = json!([
        {"id": "a", "kind": "changed", "fields": ["price", "stock"]},
        {"id": "b", "kind": "removed", "fields": []},
        {"id": "d", "kind": "added", "fields": []},
    ]);
    assert_eq!(diff["documents"], documents);
    let back = folder.run(&["releases", "diff", "4", "1"]).with_code(0);
    assert_eq!(
        (&back["added"], &back["removed"]),
        (&json!(1), &json!(1)),
        "the other way round: {back}"
    );
    let same = folder.run(&["releases", "diff", "4", "4"]).with_code(0);
    assert_eq!(same["documents"], json!([]));
    assert_eq!(folder.run(&["releases", "diff", "77"]).reason(), "RELEASE_NOT_FOUND");
}

#[test]
fn a_vector_that_a_document_brought_is_a_field_that_changes() {
    let folder = Folder::new();
    let _server = folder.up();
    let settings = folder.file("given.json", r#"{"embedder":{"provider":"none","dimension":2}}"#);
    let made = folder.run(&["collections", "create", "products", "--settings", &settings]);
    assert_eq!(made.code, 0, "{}", made.text);
    let send = |lines: &str| {
        let file = folder.file("vectors.jsonl", lines);
        let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    };
    send("{\"id\":\"a\",\"n\":1,\"_vector\":[1,0]}\n{\"id\":\"b\",\"n\":2,\"_vector\":[0,1]}\n");
    send("{\"id\":\"a\",\"n\":1,\"_vector\":[0.5,0.5]}\n{\"id\":\"b\",\"n\":3,\"_vector\":[0,1]}\n");
    let diff = folder.run(&["releases", "diff", "1", "2"]).with_code(0);
    let documents = json!([
        {"id": "a", "kind": "changed", "fields": ["_vector"]},
        {"id": "b", "kind": "changed", "fields": ["n"]},
    ]);
    assert_eq!(diff["documents"], documents, "{diff}");
}

#[test]
fn a_merge_moves_rows_and_changes_no_document() {
    let (folder, _server) = changed();
    for n in 0..12 {
        let file = folder.file("one.jsonl", format!("{{\"id\":\"n{n}\",\"title\":\"screw {n}\"}}\n"));
        let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    }
    let listed = folder.run(&["releases", "list"]).with_code(0);
    let releases = listed["releases"].as_array().expect("a list");
    let merge = releases
        .iter()
        .find(|one| one["reason"] == "merge")
        .expect("a dozen small segments are merged");
    let generation = merge["generation"].as_u64().expect("a number");
    let diff = folder.run(&[
        "releases",
        "diff",
        &(generation - 1).to_string(),
        &generation.to_string(),
    ]);
    assert_eq!(diff.with_code(0)["documents"], json!([]));
}

fn outcomes(explained: &Value) -> Vec<&str> {
    let events = explained["events"].as_array().expect("a list");
    events
        .iter()
        .map(|event| event["outcome"].as_str().unwrap_or(""))
        .collect()
}

#[test]
fn a_document_is_followed_from_its_events_to_its_rank() {
    let (folder, _server) = changed();
    let said = folder
        .run(&["explain-document", "a", "--query", "cordless drill"])
        .with_code(0);
    assert_eq!(
        (&said["state"], &said["written_generation"], &said["rank"]),
        (&json!("exists"), &json!(2), &json!(1))
    );
    assert_eq!(
        outcomes(&said),
        ["current", "current"],
        "the patch and the upsert: {said}"
    );
    assert_eq!(said["embedded_text"], "cordless drill. Kestrel");
    assert!(said["words_score"].as_f64().is_some_and(|score| score > 0.0), "{said}");

    let filtered = [
        "explain-document",
        "a",
        "--query",
        "cordless drill",
        "--filter",
        "price > 50",
    ];
    let said = folder.run(&filtered).with_code(0);
    assert_eq!((&said["rank"], &said["rank_without_filter"]), (&Value::Null, &json!(1)));

    let said = folder.run(&["explain-document", "b"]).with_code(0);
    assert_eq!(said["state"], "deleted");
    assert_eq!(
        outcomes(&said),
        ["current", "superseded"],
        "the delete and the upsert: {said}"
    );

    let said = folder.run(&["explain-document", "nobody"]).with_code(0);
    assert_eq!((&said["state"], &said["events"]), (&json!("unknown"), &json!([])));
    assert_eq!(said["looked_through"], 6);
}

#[test]
fn events_that_wait_or_were_set_aside_are_told_with_the_reason() {
    let (folder, _server) = changed();
    let ahead = r#"{"id":"a","price":3,"_time":"2100-01-01T00:00:00Z"}"#;
    let file = folder.file("ahead.jsonl", ahead);
    let told = folder.run(&["ingest", &file, "--wait"]);
    assert_eq!(told.code, 3, "{}", told.text);
    let _back = folder
        .run(&["releases", "rollback", "1", "--reason", "to look"])
        .with_code(0);
    let said = folder.run(&["explain-document", "a"]).with_code(0);
    assert_eq!(outcomes(&said), ["set_aside", "waiting", "current"], "{said}");
    let reason = said["events"][0]["reason"].as_str().unwrap_or("");
    assert!(reason.starts_with("AHEAD_OF_TIME"), "{said}");
    assert!(
        said["standstill"]
            .as_str()
            .is_some_and(|words| words.contains("to look")),
        "{said}"
    );
}

#[test]
fn a_document_is_told_in_both_lineages_with_its_rank_in_each() {
    let (folder, _server) = changed_in(|folder| {
        let settings = r#"{"embedder":{"provider":"hash","dimension":64},"rollout":{"promotion":"manual"}}"#;
        let by_hand = folder.file("by-hand.json", settings);
        let made = folder.run(&["collections", "create", "products", "--settings", &by_hand]);
        assert_eq!(made.code, 0, "{}", made.text);
    });
    let alone = folder.run(&["explain-document", "a"]).with_code(0);
    let roles: Vec<&Value> = alone["lineages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["role"])
        .collect();
    assert_eq!(roles, [&json!("active")]);
    let next = folder.file(
        "next.json",
        r#"{"embedder":{"provider":"hash","dimension":96},"rollout":{"promotion":"manual"},
            "text":{"embed":[{"fields":["title"]}]}}"#,
    );
    let _told = folder.run(&["rebuild", "--settings", &next, "--wait"]).with_code(0);
    let settled = ["rollout", "status", "--wait", "--timeout", "60"];
    let _told = folder.run(&settled).with_code(0);
    let said = folder
        .run(&["explain-document", "a", "--query", "cordless drill"])
        .with_code(0);
    let lineages = said["lineages"].as_array().expect("a list");
    let (active, other) = (&lineages[0], &lineages[1]);
    assert_eq!(
        (&active["role"], &other["role"]),
        (&json!("active"), &json!("candidate")),
        "{said}"
    );
    assert_ne!(active["lineage"], other["lineage"]);
    assert_ne!(active["segment"], other["segment"]);
    for (one, text) in [(active, "cordless drill. Kestrel"), (other, "cordless drill")] {
        assert_eq!((&one["state"], &one["rank"]), (&json!("exists"), &json!(1)), "{said}");
        assert_eq!(one["embedded_text"], text, "by the settings of the lineage");
        assert_eq!(one["floor"], said["floor"]);
        assert!(one["vector_score"].as_f64().is_some(), "{said}");
    }
    assert_eq!((&said["rank"], &said["segment"]), (&active["rank"], &active["segment"]));

    let said = folder.run(&["explain-document", "b"]).with_code(0);
    let states: Vec<&Value> = said["lineages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["state"])
        .collect();
    assert_eq!(
        states,
        [&json!("deleted"), &json!("deleted")],
        "ghosts are taken over: {said}"
    );
    let filtered = ["explain-document", "a", "--query", "drill", "--filter", "price > 50"];
    let said = folder.run(&filtered).with_code(0);
    for one in said["lineages"].as_array().expect("a list") {
        assert_eq!(
            (&one["rank"], &one["rank_without_filter"]),
            (&Value::Null, &json!(1)),
            "{said}"
        );
    }
}
