//! A rebuild of the real process: another lineage is written, resumed after a kill, and follows what is published.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, HASH_SETTINGS};

/// Longer than any wait here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const OTHER_MODEL: &str = r#"{"embedder":{"provider":"hash","dimension":96},"ann":{"index_type":"Flat"}}"#;

fn catalog(documents: u32) -> String {
    (0..documents).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{{\"id\":\"d-{n}\",\"title\":\"thing {n}\",\"price\":{n}}}").unwrap();
        lines
    })
}

fn filled(documents: u32, settings: &str) -> Folder {
    let folder = Folder::new();
    let file = folder.file("first.json", settings);
    let made = folder.run(&["collections", "create", "products", "--settings", &file]);
    assert_eq!(made.code, 0, "{}", made.text);
    let file = folder.file("catalog.jsonl", catalog(documents));
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    folder
}

fn object(folder: &Folder, path: &str) -> Value {
    let bytes = std::fs::read(folder.data().join("store/products").join(path)).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn pointer(folder: &Folder) -> Value {
    object(folder, "latest")
}

fn manifest(folder: &Folder, lineage: &Value) -> Value {
    object(folder, lineage["manifest"]["path"].as_str().unwrap())
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

/// Both lineages at one generation hold the same documents.
fn assert_level(folder: &Folder) -> Value {
    let generation = pointer(folder)["generation"].as_u64().unwrap();
    let level = until(folder, "the lineages do not meet", |pointer| {
        let of = |lineage: &str| pointer[lineage]["generation"].as_u64();
        of("active") == of("other") && of("active") >= Some(generation)
    });
    let (active, other) = (manifest(folder, &level["active"]), manifest(folder, &level["other"]));
    for same in ["generation", "content", "documents", "checkpoint", "watermark"] {
        assert_eq!(active[same], other[same], "{same}");
    }
    level
}

#[test]
fn a_rebuilt_lineage_has_the_other_model_and_follows_every_change() {
    let folder = filled(300, HASH_SETTINGS);
    let _server = folder.up();
    let settings = folder.file("next.json", OTHER_MODEL);
    let told = folder.run(&["rebuild", "--settings", &settings, "--wait"]).with_code(0);
    let first = assert_level(&folder);
    let lineages: Vec<_> = ["active", "other"].map(|role| first[role]["lineage"].clone()).to_vec();
    assert!(lineages.contains(&told["lineage"]), "{told} {first}");
    let rebuilt = ["active", "other"].map(|role| manifest(&folder, &first[role]));
    let rebuilt = rebuilt.iter().find(|one| one["lineage"] == told["lineage"]).unwrap();
    assert_eq!(
        (&rebuilt["dimension"], &rebuilt["documents"]),
        (&json!(96), &json!(300))
    );

    let _told = folder.run(&["patch", "d-1", r#"{"price":7}"#, "--wait"]).with_code(0);
    let _told = folder
        .run(&["patch", "d-2", r#"{"title":"another"}"#, "--wait"])
        .with_code(0);
    let _told = folder
        .run(&["patch", "nobody", r#"{"title":"early"}"#, "--wait"])
        .with_code(0);
    let _told = folder
        .run(&["delete", "d-3", "d-4", "never-there", "--wait"])
        .with_code(0);
    let level = assert_level(&folder);
    assert_eq!(manifest(&folder, &level["other"])["documents"], 298);
    let _told = folder.run(&["releases", "verify"]).with_code(0);
}

#[test]
fn a_rebuild_that_was_killed_goes_on_behind_its_last_part() {
    const IN_PARTS: &str =
        r#"{"embedder":{"provider":"hash","dimension":64},"rebuild":{"part_rows":1000,"rows_per_second":1200}}"#;
    let folder = filled(3_500, IN_PARTS);
    let mut server = folder.up();
    let told = folder.run(&["rebuild"]).with_code(0);
    let half = until(&folder, "no part was named", |pointer| {
        pointer["builds"][0]["rows_done"].as_u64() >= Some(1_000)
    });
    server.kill();
    let first = half["builds"][0]["parts"][0]["id"].clone();
    let _server = folder.up();
    let _told = folder.run(&["patch", "d-9", r#"{"price":7}"#, "--wait"]).with_code(0);
    until(&folder, "the rebuild did not go on", |pointer| {
        pointer["other"].is_object()
    });
    let level = assert_level(&folder);
    let rebuilt = ["active", "other"].map(|role| manifest(&folder, &level[role]));
    let rebuilt = rebuilt.iter().find(|one| one["lineage"] == told["lineage"]).unwrap();
    let ids: Vec<_> = rebuilt["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert!(ids.contains(&&first), "the first part is there still: {ids:?}");
}

#[test]
fn what_a_rebuild_cannot_do_is_refused_with_its_reason() {
    let folder = Folder::new();
    folder.create_collection();
    let _server = folder.up();
    assert_eq!(folder.run(&["rebuild"]).reason(), "RELEASE_NOT_FOUND");
    let file = folder.file("catalog.jsonl", catalog(20));
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    for (settings, word) in [
        (
            r#"{"embedder":{"provider":"hash","dimension":64},"revision":"number"}"#,
            "revision",
        ),
        (r#"{"embedder":{"provider":"none","dimension":64}}"#, "embedder"),
    ] {
        let settings = folder.file("next.json", settings);
        let refused = folder.run(&["rebuild", "--settings", &settings]);
        assert_eq!(refused.reason(), "NEEDS_REBUILD", "{}", refused.text);
        assert!(refused.text.contains(word), "{}", refused.text);
    }
    let settings = folder.file("next.json", r#"{"embedder":{"dimensions":64}}"#);
    assert_eq!(
        folder.run(&["rebuild", "--settings", &settings]).reason(),
        "INVALID_SETTINGS"
    );
    let _told = folder.run(&["rebuild", "--wait"]).with_code(0);
    let second = folder.run(&["rebuild"]);
    assert_eq!(second.reason(), "ROLLOUT_IN_PROGRESS", "{}", second.text);
}

#[test]
fn settings_that_act_in_place_reach_the_lineage_beside_too_and_leave_its_own() {
    let folder = filled(20, HASH_SETTINGS);
    let _server = folder.up();
    let settings = folder.file("next.json", OTHER_MODEL);
    let _told = folder.run(&["rebuild", "--settings", &settings, "--wait"]).with_code(0);
    let pointer = pointer(&folder);
    let of = |reference: &Value| {
        let (version, digest) = (
            reference["version"].as_u64().unwrap(),
            reference["digest"].as_str().unwrap(),
        );
        let files = folder.files("store/products/settings");
        let wanted = format!("{version:010}-{}", &digest[..16]);
        let file = files.iter().find(|file| file.to_string_lossy().contains(&wanted));
        let file = file.unwrap_or_else(|| panic!("{wanted} is not among {files:?}"));
        serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap()
    };
    let in_force = of(&pointer["settings"]);
    let mut wanted = in_force.clone();
    wanted["weights"]["vector"] = json!(3.0);
    let file = folder.file("weights.json", wanted.to_string());
    let _told = folder.run(&["settings", "set", &file]).with_code(0);
    let pointer = self::pointer(&folder);
    let (ours, theirs) = (of(&pointer["settings"]), of(&pointer["other_settings"]));
    assert_eq!(
        (&ours["weights"]["vector"], &theirs["weights"]["vector"]),
        (&json!(3.0), &json!(3.0))
    );
    assert_eq!(ours["embedder"], in_force["embedder"]);
    assert_ne!(ours["embedder"], theirs["embedder"], "each lineage keeps its model");
}

#[test]
fn a_base_that_is_due_is_rebuilt_by_itself_where_the_settings_say_so() {
    const BY_ITSELF: &str = r#"{"embedder":{"provider":"hash","dimension":64},"rebuild":{"automatic":true}}"#;
    let folder = filled(5_000, BY_ITSELF);
    let _server = folder.up();
    let more = catalog(7_000)
        .lines()
        .skip(5_000)
        .fold(String::new(), |all, line| all + line + "\n");
    let file = folder.file("more.jsonl", more);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    until(&folder, "nothing was rebuilt", |pointer| pointer["other"].is_object());
    let level = assert_level(&folder);
    let both = ["active", "other"].map(|role| manifest(&folder, &level[role]));
    assert_ne!(both[0]["lineage"], both[1]["lineage"]);
    assert!(
        both.iter().any(|one| one["segments"][0]["live"] == 7_000),
        "one base of all"
    );
}

#[test]
fn a_base_whose_graph_finds_too_little_is_rebuilt_by_itself() {
    // Nothing but an exact search finds all; one that looks at no more than it has to does not.
    const STRICTLY: &str = r#"{"embedder":{"provider":"hash","dimension":64},"ann":{"ef_search":10},
        "rebuild":{"automatic":true,"recall_min":1.0},"rollout":{"promotion":"manual"}}"#;
    let folder = filled(5_000, STRICTLY);
    let _server = folder.up();
    let ids: Vec<String> = (0..5_000).step_by(15).map(|n| format!("d-{n}")).collect();
    let mut delete = vec!["delete"];
    delete.extend(ids.iter().map(String::as_str));
    delete.push("--wait");
    let _told = folder.run(&delete).with_code(0);
    let begun = until(&folder, "nothing was rebuilt", |pointer| {
        pointer["other"].is_object() || pointer["builds"][0].is_object()
    });
    if let Some(why) = begun["builds"][0]["reason"].as_str() {
        assert!(why.starts_with("the graph of the base finds 0."), "{why}");
    }
    until(&folder, "it did not end", |pointer| pointer["other"].is_object());
    assert_level(&folder);
}
