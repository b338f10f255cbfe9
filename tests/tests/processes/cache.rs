//! The cache of a search process that reads from S3: as small as the limit that it was given, however many releases go
//! through it.

use std::fmt::Write as _;

use super::Role;
use verdigris_tests::servers::Server;

const DOCUMENTS: u32 = 1_500;
const RELEASES: u32 = 10;
/// Long vectors: a release is larger than the least limit.
const SETTINGS: &str = r#"{"embedder":{"provider":"hash","dimension":512}}"#;

/// Writes every document anew, so that no segment of the release before is of any use.
fn ingest(indexer: &Role, round: u32) {
    let mut lines = format!("{{\"id\":\"round-{round}\",\"title\":\"round-{round}\"}}\n");
    for n in 0..DOCUMENTS {
        writeln!(lines, "{{\"id\":\"item-{n}\",\"title\":\"thing {n} at {round}\"}}").unwrap();
    }
    let file = indexer.folder.file("catalog.jsonl", lines);
    let _told = indexer.run(&["ingest", &file, "--wait"]);
}

#[test]
fn a_search_process_with_a_cache_too_small_for_three_releases_goes_through_ten() {
    let test = "a_search_process_with_a_cache_too_small_for_three_releases_goes_through_ten";
    let Some(s3) = Server::s3(test) else { return };
    let indexer = Role::start("indexer", s3.environment());
    let settings = indexer.folder.file("settings.json", SETTINGS);
    let _made = indexer.run(&["collections", "create", "products", "--settings", &settings]);
    ingest(&indexer, 0);
    let release = indexer.run(&["collections", "show"])["bytes"].as_u64().unwrap();
    let limit = release * 5 / 2;
    assert!(
        limit > 1 << 20,
        "a release of {release} bytes is smaller than a limit may be"
    );
    let limited = ("VERDIGRIS_CACHE_LIMIT", format!("{limit} B"));
    let search = Role::start("search", [s3.environment(), vec![limited]].concat());
    for round in 1..=RELEASES {
        ingest(&indexer, round);
        search.finds(&format!("round-{round}"));
        let files = search.folder.files("cache/objects");
        let bytes: u64 = files
            .iter()
            .map(|file| std::fs::metadata(file).map_or(0, |meta| meta.len()))
            .sum();
        assert!(
            bytes > 0 && bytes <= limit,
            "{bytes} bytes in the cache, which may hold {limit}"
        );
    }
    let failures = search.server().metric("verdigris_search_refresh_failures_total");
    assert_eq!(failures.unwrap_or_default(), 0.0, "{}", search.folder.log());
}
