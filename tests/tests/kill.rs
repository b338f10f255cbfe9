//! The real process killed at random moments: what it acknowledged stays, and nothing stays lying about.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use verdigris_tests::process::Folder;

/// Kills of one run.
const KILLS: u64 = 6;
/// Documents of a batch that no other batch touches.
const BATCH: u64 = 10;

fn batch(number: u64) -> String {
    let mut lines = format!("{{\"id\":\"shared\",\"title\":\"shared\",\"count\":{number}}}\n");
    for at in 0..BATCH {
        writeln!(
            lines,
            "{{\"id\":\"d-{number}-{at}\",\"title\":\"thing {number} {at}\"}}"
        )
        .expect("writing to a text cannot fail");
    }
    lines
}

#[test]
fn what_was_accepted_before_a_kill_is_in_the_answers_after_it() {
    let seed = RandomState::new().hash_one("kill");
    println!("seed {seed}");
    let folder = Folder::new();
    let mut number = 0;
    for round in 0..KILLS {
        let mut server = folder.up();
        if round == 0 {
            folder.create_collection();
        }
        let pid = server.pid();
        let pause = 20 + (seed >> (8 * round)) % 700;
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(pause));
            kill_process(pid, Signal::KILL).unwrap();
        });
        loop {
            let file = folder.file("batch.jsonl", &batch(number));
            let answer = folder.run(&["--server", &server.url, "ingest", &file]);
            if answer.code != 0 {
                assert_eq!(answer.code, 1, "only the kill ends a batch: {}", answer.text);
                break;
            }
            number += 1;
        }
        killer.join().unwrap();
        server.wait();
    }
    let mut server = folder.up();
    // A kill looks like an event that ends its reader: such a suspect may be set aside, never dropped.
    let _caught_up = folder.run(&["delete", "nobody", "--wait"]).with_code(0);
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    for letter in letters["dead_letters"].as_array().unwrap() {
        println!("set aside: {letter}");
        assert_eq!(letter["reason"], "CRASHED_INDEXER", "seed {seed}: {letter}");
        let position = letter["position"].as_str().unwrap();
        let _replayed = folder.run(&["dead-letters", "replay", position]).with_code(0);
    }
    let last = folder.file("batch.jsonl", &batch(number));
    let told = folder.run(&["ingest", &last, "--wait"]).with_code(0);
    let position = told["position"].as_str().unwrap();
    let mut lost = Vec::new();
    for batch in 0..=number {
        for at in 0..BATCH {
            let id = format!("d-{batch}-{at}");
            let held = folder.run(&["get", &id, "--min-position", position]);
            if held.json["document"]["title"] != format!("thing {batch} {at}") {
                lost.push(held.text);
            }
        }
    }
    assert!(
        lost.is_empty(),
        "seed {seed}, lost {} of {number} batches: {lost:#?}",
        lost.len()
    );
    let shared = folder.run(&["get", "shared", "--min-position", position]).with_code(0);
    assert_eq!(shared["document"]["count"], number, "seed {seed}");
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(folder.files("scratch"), Vec::<std::path::PathBuf>::new(), "seed {seed}");
    assert_eq!(
        folder.files("store/.tmp"),
        Vec::<std::path::PathBuf>::new(),
        "seed {seed}"
    );
}
