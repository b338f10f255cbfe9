//! Previews, comparisons, golden and asked queries, as a person asks for them on the command line of the real process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::json;
use verdigris_tests::process::Folder;
use verdigris_tests::watch::PATIENCE;

/// A collection of things with colours, on a server.
fn catalog(folder: &Folder) -> String {
    let colours = ["red", "green", "blue", "brown"];
    let mut lines = String::new();
    for n in 0..200 {
        let colour = colours[n % 4];
        writeln!(
            lines,
            "{{\"id\":\"t-{n}\",\"title\":\"{colour} thing {n}\",\"price\":{n}}}"
        )
        .unwrap();
    }
    folder.file("catalog.jsonl", lines)
}

#[test]
fn a_candidate_is_looked_at_before_anybody_gets_it() {
    let folder = Folder::new();
    let mut server = folder.up();
    folder.create_collection();
    let _told = folder.run(&["ingest", &catalog(&folder), "--wait"]).with_code(0);
    for command in [
        &["search", "red thing", "--lineage", "other"][..],
        &["search", "red thing", "--compare"],
    ] {
        let refused = folder.run(command);
        assert_eq!(
            (refused.code, refused.reason()),
            (1, "NO_OTHER_LINEAGE"),
            "{}",
            refused.text
        );
    }
    let next = folder.file(
        "next.json",
        r#"{"embedder":{"provider":"hash","dimension":32},"rollout":{"promotion":"manual"}}"#,
    );
    let built = folder.run(&["rebuild", "--settings", &next, "--reason", "another model", "--wait"]);
    assert_eq!(built.code, 0, "{}", built.text);
    let active = folder.run(&["search", "red thing 8"]).with_code(0);
    // The settings in force would promote it, those that it was built by want a person's word.
    let settings = folder.run(&["settings", "show"]).with_code(0);
    assert_eq!(settings["settings"]["rollout"]["promotion"], "automatic", "{settings}");
    // The candidate is opened beside what answers: until it is, it says that it is not ready.
    let began = Instant::now();
    let other = loop {
        let other = folder.run(&["search", "red thing 8", "--lineage", "other"]);
        if other.code == 0 {
            break other.json;
        }
        assert_eq!(other.reason(), "NOT_READY", "{}", other.text);
        assert!(began.elapsed() < PATIENCE, "it never became ready: {}", folder.log());
    };
    assert_ne!(active["lineage"], other["lineage"]);
    assert_eq!(other["hits"][0]["id"], "t-8");
    let status = folder
        .run(&["rollout", "status", "--wait", "--timeout", "60"])
        .with_code(0);
    assert_eq!(status["phase"], "awaiting_approval", "{status}");
    let got = folder.run(&["get", "t-8", "--lineage", "other"]).with_code(0);
    assert_eq!(got["lineage"], other["lineage"]);
    let compared = folder
        .run(&["search", "red thing 8", "--compare", "--top-k", "5"])
        .with_code(0);
    assert_eq!(
        (&compared["active"]["lineage"], &compared["other"]["lineage"]),
        (&active["lineage"], &other["lineage"])
    );
    let ranks = compared["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 5);
    assert_eq!(ranks[0]["active"]["id"], "t-8");
    assert_eq!(ranks[0]["other"]["rank_there"], 1);
    assert_eq!(ranks[0]["active"]["title"], "red thing 8");
    assert!(compared["overlap"].as_f64().unwrap() > 0.0);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn golden_queries_are_a_file_that_is_set_shown_and_taken_away() {
    let folder = Folder::new();
    let mut server = folder.up();
    folder.create_collection();
    let golden = folder.file("golden.tsv", "red thing 8\tt-8\nblue thing\tt-2,t-6\t0.4\tprice < 50\n");
    let set = folder.run(&["queries", "golden", "set", &golden]).with_code(0);
    assert_eq!(set, json!({"version": 1, "queries": 2}));
    let shown = folder.run(&["queries", "golden", "show"]).with_code(0);
    assert_eq!(shown["queries"][1]["must_have"], json!(["t-2", "t-6"]));
    let wrong = folder.file("wrong.tsv", "red thing 8\tt-8\nblue thing\n");
    let refused = folder.run(&["queries", "golden", "set", &wrong]);
    assert_eq!((refused.code, refused.reason()), (1, "INVALID_QUERIES"));
    assert!(refused.text.contains("line 2: 1 columns"), "{}", refused.text);
    assert_eq!(server.stop().code(), Some(0));
    // Without a server, on the folder itself.
    let cleared = folder.run(&["queries", "golden", "clear"]).with_code(0);
    assert_eq!(cleared, json!({"version": 2, "removed": 2}));
}

#[test]
fn asked_queries_stay_on_the_machine_until_somebody_forgets_them() {
    let folder = Folder::new();
    let mut server = folder.up();
    folder.create_collection();
    let _told = folder.run(&["ingest", &catalog(&folder), "--wait"]).with_code(0);
    let _told = folder.run(&["search", "red thing"]).with_code(0);
    let _told = folder
        .run(&["search", "blue thing", "--filter", "price < 50"])
        .with_code(0);
    assert_eq!(server.stop().code(), Some(0));
    let files = folder.files("cache/queries");
    let stored = std::fs::read_to_string(&files[0]).unwrap();
    let mut lines: Vec<&str> = stored.lines().skip(1).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            r#"{"text":"blue thing","filter":"price < 50"}"#,
            r#"{"text":"red thing"}"#
        ],
        "a text and a filter, nothing else"
    );
    let mut server = folder.up();
    let shown = folder.run(&["queries", "log", "show"]).with_code(0);
    assert_eq!((&shown["kept"], &shown["enabled"]), (&json!(2), &json!(true)));
    let cleared = folder.run(&["queries", "log", "clear"]).with_code(0);
    assert_eq!(cleared, json!({"removed": 2}));
    assert_eq!(folder.files("cache/queries").len(), 0);
    assert_eq!(server.stop().code(), Some(0));
}
