//! What a search process says of itself: a line for each search, figures of what it fetched and embedded, why publishing
//! stands still; and what it forgets of itself after an erase.

use std::time::Instant;

use serde_json::Value;

use super::{PATIENCE, Role, Roles};

/// Lines of a process's log with this message.
fn lines(role: &Role, message: &str) -> Vec<Value> {
    let log = role.folder.log();
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .filter(|line| line["message"] == message || line["fields"]["message"] == message)
        .collect()
}

#[test]
fn a_search_process_logs_what_each_search_took_and_never_what_was_asked() {
    let roles = Roles::start();
    roles.ingest(0, 50);
    roles.find(49);
    let environment = vec![
        roles.indexer.environment[0].clone(),
        ("VERDIGRIS_LOG_FORMAT", "json".to_owned()),
    ];
    let search = Role::start("search", environment);
    search.finds("item-7");
    let asked = ["search", "a confidential question", "--top-k", "3"];
    let hits = search.run(&asked)["hits"].as_array().unwrap().len();
    let told = lines(&search, "search");
    let line = told
        .last()
        .unwrap_or_else(|| panic!("no line: {}", search.folder.log()));
    let fields = if line["fields"].is_object() {
        &line["fields"]
    } else {
        line
    };
    assert_eq!(fields["k"], 3, "{line}");
    assert_eq!(fields["hits"].as_u64(), Some(hits as u64), "{line}");
    assert_eq!(fields["downloaded_bytes"], 0, "{line}");
    assert_eq!(fields["tokens"], 0, "hashes have none: {line}");
    assert!(fields["latency_ms"].as_f64().is_some_and(|time| time > 0.0), "{line}");
    assert!(
        fields["generation"].as_u64().is_some_and(|generation| generation > 0),
        "{line}"
    );
    assert!(!search.folder.log().contains("confidential"));
    for figure in [
        "verdigris_rpc_demoted",
        "verdigris_rpc_told_to_go_total",
        "verdigris_cache_bytes",
        "verdigris_embed_tokens_total",
        "verdigris_store_fetched_bytes_total",
    ] {
        assert!(search.server().metric(figure).is_some(), "{figure}");
    }
}

// Goal: a read of one's own writes does not wait in vain for what a person has stopped; the pointer tells of it.
#[test]
fn a_search_process_tells_a_read_that_waits_that_publishing_is_held_and_goes_on_when_it_is_not() {
    let mut roles = Roles::start();
    roles.ingest(0, 20);
    roles.find(19);
    let first = roles.indexer.run(&["releases", "list"])["releases"][0]["generation"].to_string();
    roles.ingest(20, 30);
    let back = ["releases", "rollback", &first, "--reason", "a test"];
    let _told = roles.indexer.run(&back);
    let line = r#"{"id":"held","title":"thing held"}"#;
    let file = roles.indexer.folder.file("held.jsonl", line);
    let accepted = roles.indexer.run(&["ingest", &file]);
    let position = accepted["position"].as_str().unwrap();
    let get = ["get", "held", "--min-position", position];
    // A pod that was there, and one that comes.
    roles.searches[1].kill_and_begin();
    for search in &roles.searches {
        let told = search.folder.run(&get);
        assert_eq!(told.reason(), "PUBLISHING_HELD", "{}", told.text);
    }
    let _told = roles.indexer.run(&["releases", "resume"]);
    for search in &roles.searches {
        let got = search.run(&get);
        assert_eq!(got["document"]["title"], "thing held", "{got}");
    }
}

/// Texts of the sample of asked queries.
fn sample(search: &Role) -> Vec<String> {
    let told = search.run(&["queries", "log", "show", "--limit", "100"]);
    let queries = told["queries"].as_array().unwrap();
    queries
        .iter()
        .map(|query| query["text"].as_str().unwrap().to_owned())
        .collect()
}

/// From memory first, and then from the file.
fn forgets(search: &Role, text: &str) {
    let kept = || {
        let mut files = search.folder.files("cache/queries").into_iter();
        let in_file = files.find(|file| std::fs::read_to_string(file).unwrap().contains(text));
        in_file.is_some() || sample(search).iter().any(|kept| kept == text)
    };
    let began = Instant::now();
    while kept() {
        assert!(began.elapsed() < PATIENCE, "{text} stays: {}", search.folder.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

// Goal: an erase reaches the samples of processes that the indexer does not know of, also of one that was away.
#[test]
fn search_processes_forget_queries_about_documents_that_were_erased() {
    let mut roles = Roles::start();
    roles.ingest(0, 20);
    roles.find(19);
    for search in &roles.searches {
        search.finds("item-7");
        search.finds("item-8");
        assert!(sample(search).iter().any(|text| text == "item-7"));
    }
    // It writes its sample when it ends, and is away meanwhile.
    assert!(roles.searches[1].server.as_mut().unwrap().stop().success());
    let erase = ["erase", "item-7", "--reason", "asked to"];
    let _told = roles.indexer.run(&erase);
    forgets(&roles.searches[0], "item-7");
    roles.searches[1].begin();
    roles.searches[1].finds("item-9");
    forgets(&roles.searches[1], "item-7");
    for search in &roles.searches {
        assert!(sample(search).iter().any(|text| text == "item-8"), "others stay");
    }
}
