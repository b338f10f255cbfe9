//! Kills in a first big build and in the merges after it: nothing is lost, and no text is embedded twice.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use verdigris_tests::process::{Folder, model_cache};

use super::{Pauses, after, assert_no_dead_letters, assert_nothing_lies_about};

/// Documents of the first build: many enough that its graph takes seconds.
const DOCUMENTS: usize = 20_000;
/// Documents that one answer holds.
const ANSWER: usize = 1_000;
/// Texts of the build that is embedded by a model: several of its batches.
const TEXTS: usize = 900;

fn documents(count: usize) -> String {
    let mut lines = String::new();
    for n in 0..count {
        writeln!(lines, "{{\"id\":\"t-{n}\",\"title\":\"thing {n}\",\"n\":{n}}}")
            .expect("writing to a text cannot fail");
    }
    lines
}

/// Every document is in the answers, once and right.
fn assert_all_there(folder: &Folder) {
    for first in (0..DOCUMENTS).step_by(ANSWER) {
        let filter = format!("n >= {first} AND n < {}", first + ANSWER);
        let question = [
            "search", "thing", "--mode", "words", "--top-k", "1000", "--filter", &filter,
        ];
        let found = folder.run(&question).with_code(0);
        let hits = found["hits"].as_array().expect("an answer has hits");
        let mut numbers: Vec<u64> = hits.iter().filter_map(|hit| hit["document"]["n"].as_u64()).collect();
        numbers.sort_unstable();
        assert_eq!(
            numbers,
            (first as u64..(first + ANSWER) as u64).collect::<Vec<_>>(),
            "{filter}"
        );
        for hit in hits {
            assert_eq!(hit["document"]["title"], format!("thing {}", hit["document"]["n"]));
        }
    }
}

#[test]
fn a_first_build_and_its_merges_survive_kills() {
    let mut pauses = Pauses::new("build");
    let folder = Folder::new();
    folder.create_collection();
    let catalog = folder.file("catalog.jsonl", documents(DOCUMENTS));
    let mut server = folder.up();
    let killer = after(pauses.next(800, 6_000), server.pid(), Signal::KILL);
    // The kill may meet the sending too; what was accepted is known only where it did not.
    let sent = folder.run(&["--server", &server.url, "ingest", &catalog]);
    killer.join().expect("the killer does not panic");
    server.wait();
    println!(
        "killed while the catalog was {}",
        if sent.code == 0 { "built" } else { "sent" }
    );
    // Cautious now: small segments come one after the other, and are merged.
    let mut server = folder.up();
    after(pauses.next(100, 3_000), server.pid(), Signal::KILL)
        .join()
        .expect("the killer does not panic");
    server.wait();
    // Passes what the life before may have named; then it may be killed again, in its merges.
    let mut server = folder.up();
    let told = folder.run(&["ingest", &catalog, "--wait"]).with_code(0);
    assert_eq!(told["set_aside"], 0);
    after(pauses.next(0, 1_500), server.pid(), Signal::KILL)
        .join()
        .expect("the killer does not panic");
    server.wait();
    let mut server = folder.up();
    let listed = folder.run(&["collections", "show"]).with_code(0);
    assert_eq!(listed["documents"], DOCUMENTS, "{listed}");
    assert_all_there(&folder);
    assert_no_dead_letters(&folder);
    assert_eq!(server.stop().code(), Some(0));
    assert_nothing_lies_about(&folder);
}

/// The vectors that a data folder's cache holds; it is another process's file, so it is only read.
fn cached(cache: &Path) -> usize {
    let opened = Connection::open_with_flags(cache, OpenFlags::SQLITE_OPEN_READ_ONLY);
    // Not made yet, or being made at this moment.
    let count = opened.and_then(|file| file.query_row("SELECT count(*) FROM vectors", [], |row| row.get(0)));
    count.unwrap_or(0)
}

#[test]
fn no_text_is_embedded_twice_though_its_build_was_killed() {
    let Some(models) = model_cache() else {
        println!("skipped: no_text_is_embedded_twice_though_its_build_was_killed: no model; see `make model`");
        return;
    };
    let folder = Folder::new();
    let up = || {
        let mut command = folder.command();
        command.args(["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        let server = folder.try_up_by(command.env("VERDIGRIS_CACHE", &models));
        server.unwrap_or_else(|err| panic!("up ended: {err}"))
    };
    let mut server = up();
    let catalog = folder.file("catalog.jsonl", documents(TEXTS));
    let _told = folder.run(&["ingest", &catalog]).with_code(0);
    let cache = folder.data().join("cache/embeddings.sqlite");
    while cached(&cache) == 0 {
        assert!(server.is_running(), "{}", folder.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    let before = cached(&cache);
    assert!(before < TEXTS, "the kill came after all {before} texts");
    // From here on the file notes each vector that is made again.
    let file = Connection::open(&cache).expect("the cache is a file of SQLite");
    let note = "CREATE TABLE again (key BLOB);
        CREATE TRIGGER note BEFORE INSERT ON vectors WHEN EXISTS (SELECT 1 FROM vectors WHERE key = NEW.key)
        BEGIN INSERT INTO again VALUES (NEW.key); END;";
    file.execute_batch(note).expect("the cache takes a trigger");
    drop(file);
    let mut server = up();
    let last = folder.file("last.jsonl", "{\"id\":\"last\",\"title\":\"the last thing\"}\n");
    let _told = folder.run(&["ingest", &last, "--wait"]).with_code(0);
    assert_eq!(server.stop().code(), Some(0));
    let file = Connection::open(&cache).expect("the cache is a file of SQLite");
    let again: usize = file
        .query_row("SELECT count(*) FROM again", [], |row| row.get(0))
        .expect("the table is there");
    println!("{before} of {TEXTS} texts were embedded before the kill, {again} again after it");
    assert_eq!((again, cached(&cache)), (0, TEXTS + 1));
}
