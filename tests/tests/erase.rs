//! Documents that are erased from the real process: hidden at once, whatever is held, in every lineage, and gone from
//! each object that answers, also after a kill; what comes for them later is set aside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod roles;

#[path = "erase/bytes.rs"]
mod bytes;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, HASH_SETTINGS, Server};

/// Longer than any wait here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const OTHER_MODEL: &str = r#"{"embedder":{"provider":"hash","dimension":96},"ann":{"index_type":"Flat"}}"#;
/// A word of the erased document's title alone.
const WORD: &str = "zyxomma";

fn catalog(documents: u32) -> String {
    (0..documents).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{{\"id\":\"d-{n}\",\"title\":\"thing {n}\",\"price\":{n}}}").unwrap();
        lines
    })
}

fn secret() -> String {
    format!("{{\"id\":\"s-1\",\"title\":\"{WORD} thing\",\"price\":1}}\n")
}

/// A folder with documents, one of them with the word.
fn filled(documents: u32, settings: &str) -> Folder {
    let folder = Folder::new();
    let file = folder.file("first.json", settings);
    let made = folder.run(&["collections", "create", "products", "--settings", &file]);
    assert_eq!(made.code, 0, "{}", made.text);
    let file = folder.file("catalog.jsonl", catalog(documents) + &secret());
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    folder
}

fn pointer(folder: &Folder) -> Value {
    let bytes = std::fs::read(folder.data().join("store/products/latest")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn manifest(folder: &Folder, lineage: &Value) -> Value {
    let path = lineage["manifest"]["path"].as_str().unwrap();
    let bytes = std::fs::read(folder.data().join("store/products").join(path)).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Looks at the pointer until it is as wanted.
fn until(folder: &Folder, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let pointer = pointer(folder);
        if is_so(&pointer) {
            return pointer;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {pointer:#}\n{}", folder.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_removed(pointer: &Value) -> bool {
    pointer["erased"]["removed"] == true
}

/// How many hits of a lineage are the erased document.
fn hits(folder: &Folder, lineage: &str) -> usize {
    let answer = folder
        .run(&["search", WORD, "--top-k", "50", "--lineage", lineage])
        .with_code(0);
    let hits = answer["hits"].as_array().unwrap();
    hits.iter().filter(|hit| hit["id"] == "s-1").count()
}

/// Asks until the document is hidden: a reader looks at the pointer 20 times a second.
fn until_hidden(folder: &Folder, lineage: &str) {
    let began = Instant::now();
    while hits(folder, lineage) > 0 {
        assert!(began.elapsed() < PATIENCE, "still found in {lineage}\n{}", folder.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn erase(folder: &Folder, ids: &[&str]) -> Value {
    let mut arguments = vec!["erase"];
    arguments.extend_from_slice(ids);
    arguments.extend_from_slice(&["--reason", "asked to be forgotten", "--actor", "ada"]);
    folder.run(&arguments).with_code(0)
}

/// Nothing that answers or may answer shows the document, nor do commands that look into releases.
fn assert_unseen(folder: &Folder) {
    assert_eq!(folder.run(&["get", "s-1"]).reason(), "DOCUMENT_NOT_FOUND");
    let explained = folder.run(&["explain-document", "s-1"]).with_code(0);
    assert_eq!(
        (&explained["state"], &explained["embedded_text"]),
        (&json!("erased"), &json!(""))
    );
    let kept = pointer(folder)["kept"].as_array().unwrap().clone();
    for release in &kept {
        let generation = release["generation"].to_string();
        let to = folder.data().join("exported");
        let told = folder.run(&[
            "releases",
            "export",
            "--generation",
            &generation,
            "--to",
            to.to_str().unwrap(),
        ]);
        assert_eq!(told.code, 0, "{}", told.text);
        let meta = std::fs::read_to_string(to.join("meta.jsonl")).unwrap();
        assert!(!meta.contains(WORD), "release {generation}");
        std::fs::remove_dir_all(to).unwrap();
    }
    if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
        let (first, last) = (first["generation"].to_string(), last["generation"].to_string());
        let told = folder.run(&["releases", "diff", &first, &last]).with_code(0);
        assert!(!told.to_string().contains("s-1"), "{told}");
    }
}

/// Both lineages at one generation hold the same documents, and the sums of what they hold.
fn assert_level(folder: &Folder) {
    let generation = pointer(folder)["generation"].as_u64().unwrap();
    let level = until(folder, "the lineages do not meet", |pointer| {
        let of = |lineage: &str| pointer[lineage]["generation"].as_u64();
        of("active") == of("other") && of("active") >= Some(generation)
    });
    let (active, other) = (manifest(folder, &level["active"]), manifest(folder, &level["other"]));
    for same in ["generation", "content", "documents", "checkpoint"] {
        assert_eq!(active[same], other[same], "{same}");
    }
}

#[test]
fn an_erased_document_is_gone_at_once_and_what_comes_for_it_later_is_set_aside() {
    let folder = filled(30, HASH_SETTINGS);
    let _server = folder.up();
    let _told = folder
        .run(&["patch", "s-1", &format!(r#"{{"title":"{WORD} again"}}"#), "--wait"])
        .with_code(0);
    // A dead letter of it: a time that is far ahead is accepted, and set aside.
    let ahead = folder.file(
        "ahead.jsonl",
        format!("{{\"id\":\"s-1\",\"title\":\"{WORD} ahead\",\"_time\":\"2199-01-01T00:00:00Z\"}}\n"),
    );
    let _told = folder.run(&["ingest", &ahead, "--wait"]);
    assert_eq!(
        folder.run(&["dead-letters", "list"]).with_code(0)["dead_letters"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(hits(&folder, "active"), 1);
    let _pinned = folder.run(&["releases", "pin", "1"]).with_code(0);

    let told = erase(&folder, &["s-1", "never-there"]);
    assert_eq!((&told["hidden"], &told["already"]), (&json!(2), &json!(0)));
    until_hidden(&folder, "active");
    assert_unseen(&folder);
    let done = until(&folder, "its bytes were not removed", is_removed);
    assert_unseen(&folder);
    assert!(
        done["kept"]
            .as_array()
            .unwrap()
            .iter()
            .all(|kept| kept["generation"] != 1),
        "a pinned release that held it is dropped"
    );
    assert_eq!(
        folder.run(&["releases", "rollback", "1", "--reason", "no"]).reason(),
        "RELEASE_NOT_FOUND"
    );
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    assert_eq!(letters["dead_letters"], json!([]));
    let status = folder.run(&["erase", "--status", "s-1"]).with_code(0);
    let one = &status["erasures"][0];
    assert_eq!(
        (&one["segments"], &one["releases"], &one["dead_letters"]),
        (&json!([]), &json!([]), &json!(0))
    );
    assert_eq!(one["events"], 3, "the log has them still: {one}");
    assert!(
        !one["files_until"].as_str().unwrap().is_empty(),
        "files wait for the grace: {one}"
    );

    // Ingest refuses it at once, alone.
    let file = folder.file("again.jsonl", secret() + &catalog(31));
    let again = folder.run(&["ingest", &file, "--wait"]).with_code(3);
    assert_eq!(again["rejected"], 1, "{again}");
    let refused = std::fs::read_to_string(again["rejected_file"].as_str().unwrap()).unwrap();
    assert!(refused.contains("ERASED"), "{refused}");
    assert_eq!(hits(&folder, "active"), 0);
    assert_eq!(folder.run(&["get", "d-30"]).code, 0);
    let told = erase(&folder, &["s-1"]);
    assert_eq!((&told["hidden"], &told["already"]), (&json!(0), &json!(1)));
    let _told = folder.run(&["releases", "verify"]).with_code(0);
}

#[test]
fn it_is_hidden_in_both_lineages_and_both_are_written_anew_alike() {
    let folder = filled(300, HASH_SETTINGS);
    let _server = folder.up();
    let settings = folder.file("next.json", OTHER_MODEL);
    let _held = folder.run(&["rollout", "hold", "--reason", "look at both"]);
    let _told = folder.run(&["rebuild", "--settings", &settings, "--wait"]).with_code(0);
    until(&folder, "there is no other lineage", |pointer| {
        pointer["other"].is_object()
    });
    // A change that the other one has not yet, and a document of which both have a dead row.
    let _told = folder
        .run(&["patch", "s-1", &format!(r#"{{"title":"{WORD} later"}}"#), "--wait"])
        .with_code(0);
    let _told = erase(&folder, &["s-1", "d-7"]);
    until_hidden(&folder, "active");
    until_hidden(&folder, "other");
    until(&folder, "its bytes were not removed", is_removed);
    assert_level(&folder);
    assert_unseen(&folder);
    let level = pointer(&folder);
    for role in ["active", "other"] {
        assert_eq!(manifest(&folder, &level[role])["documents"], 299, "{role}");
        assert_eq!(hits(&folder, role), 0, "{role}");
    }
    let _told = folder.run(&["patch", "d-8", r#"{"price":7}"#, "--wait"]).with_code(0);
    assert_level(&folder);
    let _told = folder.run(&["releases", "verify"]).with_code(0);
}

#[test]
fn while_publishing_is_held_it_is_hidden_all_the_same_and_removed_when_resumed() {
    let folder = filled(30, HASH_SETTINGS);
    let _server = folder.up();
    let _told = folder.run(&["patch", "d-1", r#"{"price":7}"#, "--wait"]).with_code(0);
    let _told = folder
        .run(&["releases", "rollback", "1", "--reason", "a bad feed"])
        .with_code(0);
    assert_eq!(hits(&folder, "active"), 1);
    let told = erase(&folder, &["s-1"]);
    assert!(told["waits"].as_str().unwrap().contains("a bad feed"), "{told}");
    until_hidden(&folder, "active");
    assert_unseen(&folder);
    let status = folder.run(&["erase", "--status"]).with_code(0);
    assert_eq!(status["removed"], false);
    assert!(
        !status["erasures"][0]["segments"].as_array().unwrap().is_empty(),
        "{status}"
    );
    assert!(!is_removed(&pointer(&folder)));
    let _told = folder.run(&["releases", "resume"]).with_code(0);
    until(&folder, "its bytes were not removed", is_removed);
    assert_unseen(&folder);
}

#[test]
fn a_release_that_never_held_it_can_be_gone_back_to_and_what_is_read_again_does_not_bring_it_back() {
    let folder = Folder::new();
    folder.create_collection();
    let _server = folder.up();
    let first = folder.file("catalog.jsonl", catalog(30));
    let _told = folder.run(&["ingest", &first, "--wait"]).with_code(0);
    let second = folder.file("secret.jsonl", secret());
    let _told = folder.run(&["ingest", &second, "--wait"]).with_code(0);
    let _told = erase(&folder, &["s-1"]);
    until(&folder, "its bytes were not removed", is_removed);
    let _told = folder
        .run(&["releases", "rollback", "1", "--reason", "look again"])
        .with_code(0);
    let told = folder.run(&["releases", "resume"]).with_code(0);
    assert_eq!(told["unread_events"], 1, "{told}");
    let _told = folder.run(&["patch", "d-1", r#"{"price":7}"#, "--wait"]).with_code(0);
    assert_eq!(hits(&folder, "active"), 0);
    assert_unseen(&folder);
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    assert_eq!(letters["dead_letters"][0]["reason"], "ERASED", "{letters}");
    let position = letters["dead_letters"][0]["position"].as_str().unwrap().to_owned();
    let shown = folder.run(&["dead-letters", "show", &position]);
    assert!(shown.code == 0 && !shown.text.contains(WORD), "{}", shown.text);
    let replayed = folder.run(&["dead-letters", "replay", &position]);
    assert_eq!(replayed.reason(), "ERASED", "{}", replayed.text);
    assert!(is_removed(&pointer(&folder)));
}

#[test]
fn a_rebuild_under_way_is_begun_anew_and_ends_without_it() {
    const SLOWLY: &str =
        r#"{"embedder":{"provider":"hash","dimension":64},"rebuild":{"part_rows":1000,"rows_per_second":4000}}"#;
    let folder = filled(5_000, SLOWLY);
    let _server = folder.up();
    let told = folder.run(&["rebuild"]).with_code(0);
    until(&folder, "no part was named", |pointer| {
        pointer["builds"][0]["rows_done"].as_u64() >= Some(1_000)
    });
    let _told = erase(&folder, &["s-1", "d-3"]);
    until_hidden(&folder, "active");
    let done = until(&folder, "its bytes were not removed", is_removed);
    let build = &done["builds"][0];
    assert!(
        build.is_null() || build["source_generation"].as_u64() > Some(1),
        "it reads a release without them: {build}"
    );
    until(&folder, "the rebuild did not end", |pointer| {
        [&pointer["other"], &pointer["active"]]
            .iter()
            .any(|one| one["lineage"] == told["lineage"])
    });
    assert_level(&folder);
    let level = pointer(&folder);
    for role in ["active", "other"] {
        assert_eq!(manifest(&folder, &level[role])["documents"], 4_999, "{role}");
    }
}

#[test]
fn a_process_that_is_killed_at_any_step_goes_on_with_the_removal() {
    let folder = filled(3_000, HASH_SETTINGS);
    let mut server: Server = folder.up();
    for round in 0..4u64 {
        let id = format!("k-{round}");
        let event = folder.file(
            "more.jsonl",
            format!("{{\"id\":\"{id}\",\"title\":\"{WORD} {round}\"}}\n"),
        );
        let _told = folder.run(&["ingest", &event, "--wait"]).with_code(0);
        let _told = erase(&folder, &[&id, &format!("d-{round}")]);
        // A different moment each time: just hidden, rows dead, written anew, kept releases dropped.
        let generation = pointer(&folder)["generation"].as_u64();
        until(&folder, "nothing was published", |pointer| {
            is_removed(pointer) || pointer["generation"].as_u64() >= generation.map(|before| before + round)
        });
        server.kill();
        server = folder.up();
        assert_eq!(
            folder.run(&["get", &id]).reason(),
            "DOCUMENT_NOT_FOUND",
            "round {round}"
        );
        until(&folder, "its bytes were not removed", is_removed);
        let status = folder.run(&["erase", "--status", &id]).with_code(0);
        let one = &status["erasures"][0];
        assert_eq!(
            (&one["segments"], &one["releases"]),
            (&json!([]), &json!([])),
            "round {round}"
        );
    }
    assert_eq!(manifest(&folder, &pointer(&folder)["active"])["documents"], 2_997);
    let _told = folder.run(&["releases", "verify"]).with_code(0);
}

#[test]
fn an_erase_of_most_documents_is_no_feed_that_deletes() {
    let folder = filled(400, HASH_SETTINGS);
    let _server = folder.up();
    let ids: Vec<String> = (0..300).map(|n| format!("d-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let _told = erase(&folder, &ids);
    // Behind it at once: a delete is what makes guards look.
    let _told = folder.run(&["delete", "d-399", "--wait"]).with_code(0);
    until(&folder, "its bytes were not removed", is_removed);
    let _told = folder.run(&["delete", "d-398", "--wait"]).with_code(0);
    assert_eq!(manifest(&folder, &pointer(&folder)["active"])["documents"], 99);
    assert!(pointer(&folder)["staged"].is_null());
}

#[test]
fn nor_is_it_one_for_the_process_that_comes_after() {
    let folder = filled(400, HASH_SETTINGS);
    let mut server = folder.up();
    let ids: Vec<String> = (0..300).map(|n| format!("d-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    // While publishing is held, everything of the removal waits.
    let _told = folder.run(&["patch", "d-399", r#"{"price":1}"#, "--wait"]).with_code(0);
    let _told = folder
        .run(&["releases", "rollback", "1", "--reason", "look"])
        .with_code(0);
    let _told = erase(&folder, &ids);
    let _told = folder.run(&["releases", "resume"]).with_code(0);
    // Killed as soon as they are out of the newest release: older ones that have them are a measure for guards still.
    until(&folder, "no rows died", |pointer| {
        manifest(&folder, &pointer["active"])["documents"].as_u64() <= Some(101)
    });
    server.kill();
    let erased = |pointer: &Value| manifest(&folder, &pointer["active"])["stats"]["erased_bytes"].as_u64();
    assert!(
        erased(&pointer(&folder)) > Some(300 * 20),
        "{:?}",
        erased(&pointer(&folder))
    );
    let _server = folder.up();
    let _told = folder.run(&["delete", "d-399", "--wait"]).with_code(0);
    until(&folder, "its bytes were not removed", is_removed);
    assert!(pointer(&folder)["staged"].is_null());
}

#[test]
fn the_status_of_an_erase_survives_a_damaged_kept_release_and_so_does_the_removal() {
    let folder = filled(20, HASH_SETTINGS);
    let _server = folder.up();
    let _told = folder.run(&["patch", "d-1", r#"{"price":7}"#, "--wait"]).with_code(0);
    let _told = folder.run(&["patch", "d-1", r#"{"price":8}"#, "--wait"]).with_code(0);
    let _told = folder
        .run(&["releases", "rollback", "2", "--reason", "look"])
        .with_code(0);
    let _told = erase(&folder, &["s-1"]);
    let kept = pointer(&folder)["kept"].clone();
    let first = kept
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["generation"] == 1)
        .unwrap();
    let path = folder
        .data()
        .join("store/products")
        .join(first["manifest"]["path"].as_str().unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "{").unwrap();
    let status = folder.run(&["erase", "--status", "s-1"]).with_code(0);
    let releases = status["erasures"][0]["releases"].as_array().unwrap();
    assert!(
        releases.contains(&json!(1)),
        "what cannot be looked into may hold it: {status}"
    );
    assert!(releases.contains(&json!(2)), "{status}");
    std::fs::remove_file(&path).unwrap();
    let again = folder.run(&["erase", "--status", "s-1"]).with_code(0);
    assert!(
        again["erasures"][0]["releases"].as_array().unwrap().contains(&json!(1)),
        "{again}"
    );
    let _told = folder.run(&["releases", "resume"]).with_code(0);
    let done = until(&folder, "its bytes were not removed", is_removed);
    let is_kept = |generation: u64| {
        done["kept"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["generation"] == generation)
    };
    assert!(!is_kept(1) && !is_kept(2), "{}", done["kept"]);
}

#[test]
fn queries_that_name_an_erased_id_are_forgotten_and_those_that_have_it_in_a_longer_word_stay() {
    let folder = filled(20, HASH_SETTINGS);
    let _server = folder.up();
    for text in ["d-1", "d-10", "thing D-1, please", "thing d-1-red", "thing 1"] {
        let _told = folder.run(&["search", text]).with_code(0);
    }
    let _told = erase(&folder, &["d-1"]);
    let logged = folder.run(&["queries", "log", "show"]).with_code(0);
    let mut texts: Vec<&str> = logged["queries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|query| query["text"].as_str().unwrap())
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["d-10", "thing 1", "thing d-1-red"], "{logged}");
}

#[test]
fn the_only_documents_of_a_collection_can_be_erased() {
    let folder = filled(0, HASH_SETTINGS);
    let _server = folder.up();
    let _told = erase(&folder, &["s-1"]);
    until(&folder, "its bytes were not removed", is_removed);
    assert_eq!(hits(&folder, "active"), 0);
    let file = folder.file("catalog.jsonl", catalog(3));
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_eq!(manifest(&folder, &pointer(&folder)["active"])["documents"], 3);
    let refused = folder.run(&["erase", "", "--reason", "x"]);
    assert_eq!(refused.reason(), "INVALID_ARGUMENT", "{}", refused.text);
}
