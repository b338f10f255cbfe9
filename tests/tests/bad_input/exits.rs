//! The documented exit codes, and events that are set aside.

use verdigris_tests::process::Folder;

use super::check;

#[test]
fn an_event_ahead_of_its_time_is_set_aside_and_the_exit_says_so() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let lines = "{\"id\":\"now\",\"title\":\"x\"}\n{\"id\":\"later\",\"_time\":\"2200-01-01T00:00:00Z\"}\n";
    let file = folder.file("ahead.jsonl", lines);
    let told = folder.run(&["ingest", &file, "--wait"]).with_code(3);
    let counts = ["accepted", "rejected", "applied", "set_aside"].map(|key| told[key].as_u64());
    assert_eq!(counts, [Some(2), Some(0), Some(1), Some(1)], "{told}");
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    let letter = &letters["dead_letters"][0];
    assert_eq!(letter["reason"], "AHEAD_OF_TIME");
    let message = letter["message"].as_str().expect("a letter has words");
    assert!(message.contains("more than five minutes ahead"), "{message}");
    assert_eq!(folder.run(&["get", "now"]).code, 0);
    check(&folder.run(&["get", "later"]), 1, "DOCUMENT_NOT_FOUND", "later");
}

#[test]
fn each_documented_exit_code_is_given() {
    let folder = Folder::new();
    folder.create_collection();
    let good = folder.file("good.jsonl", "{\"id\":\"a\",\"title\":\"x\"}\n");
    let mixed = folder.file("mixed.jsonl", "{\"id\":\"b\"}\nnot json\n");
    let slow = folder.file("slow.jsonl", "{\"id\":\"c\",\"title\":\"x\"}\n");
    let told = folder.run(&["ingest", &good, "--wait"]).with_code(0);
    assert_eq!((&told["accepted"], &told["searchable"]), (&1.into(), &true.into()));
    check(
        &folder.run(&["ingest", "missing.jsonl"]),
        1,
        "FILE_UNREADABLE",
        "missing.jsonl",
    );
    for arguments in [
        &["nonsense"][..],
        &["search", "--top-k", "5"],
        &["search", "x", "--mode", "sideways"],
        &["ingest"],
    ] {
        let usage = folder.run(arguments);
        assert_eq!(usage.code, 2, "{}", usage.text);
        assert!(usage.text.contains("try '--help'"), "{}", usage.text);
    }
    let told = folder.run(&["ingest", &mixed, "--wait"]).with_code(3);
    assert_eq!((&told["accepted"], &told["rejected"]), (&1.into(), &1.into()));
    let told = folder.run(&["ingest", &slow, "--wait", "--timeout", "0"]).with_code(4);
    assert_eq!(
        (&told["accepted"], &told["reason"]),
        (&1.into(), &"POSITION_NOT_REACHED".into())
    );
    let message = told["message"].as_str().expect("a reason has words");
    assert!(message.contains("accepted and will be"), "{message}");
}
