//! The real process killed at random moments: what it acknowledged stays, and nothing stays lying about (I-1).
//!
//! An event is set aside as CRASHED_INDEXER only after two lives that ended uncleanly while it was named, and that is
//! right: nobody can tell a killer from a poison. So no event here meets two such lives. After a life that was killed
//! in caution, the next one first makes progress past the named event; then no dead letter may exist at all.

#![allow(clippy::print_stdout, reason = "a test says what it skips, and how it is repeated")]

#[path = "kill/build.rs"]
mod build;
#[path = "kill/rollouts.rs"]
mod rollouts;

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use verdigris_tests::process::{Folder, Server};

/// Times that all four kinds of life come round.
const ROUNDS: u64 = 3;
/// Documents of a batch that no other batch touches.
const BATCH: u64 = 10;
/// Batches that one search asks for: their documents fit into one answer.
const BATCHES_PER_SEARCH: u64 = 100;

fn batch(number: u64) -> String {
    let mut lines = format!("{{\"id\":\"shared\",\"title\":\"shared\",\"count\":{number}}}\n");
    for at in 0..BATCH {
        writeln!(
            lines,
            "{{\"id\":\"d-{number}-{at}\",\"title\":\"thing {number} {at}\",\"batch\":{number}}}"
        )
        .expect("writing to a text cannot fail");
    }
    lines
}

/// Random pauses from a seed that is printed.
struct Pauses {
    seed: u64,
    drawn: u64,
}

impl Pauses {
    fn new(name: &str) -> Self {
        let seed = match std::env::var("KILL_SEED") {
            Ok(seed) => seed.parse().expect("KILL_SEED is a number"),
            Err(_) => RandomState::new().hash_one(name),
        };
        println!("{name}: replay the pauses with KILL_SEED={seed}");
        Self { seed, drawn: 0 }
    }

    fn next(&mut self, from: u64, below: u64) -> Duration {
        self.drawn += 1;
        let mut x = self.seed ^ self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis(from + (x ^ (x >> 31)) % (below - from))
    }
}

/// Ends a process by this signal after a pause: the pause is the randomness of the test, nothing waits for it.
fn after(pause: Duration, pid: Pid, signal: Signal) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        thread::sleep(pause);
        // A command that was quicker has ended; its parent has not waited for it, so its number is still its own.
        kill_process(pid, signal).expect("the child has not been waited for");
    })
}

/// What was sent, and what of it was accepted.
struct Feed<'a> {
    folder: &'a Folder,
    accepted: u64,
}

impl Feed<'_> {
    /// Sends batches until the server is gone.
    fn send_until_it_ends(&mut self, server: &Server) {
        loop {
            let file = self.folder.file("batch.jsonl", batch(self.accepted));
            let answer = self.folder.run(&["--server", &server.url, "ingest", &file]);
            if answer.code != 0 {
                assert_eq!(
                    answer.code, 1,
                    "only the end of the server ends a batch: {}",
                    answer.text
                );
                return;
            }
            self.accepted += 1;
        }
    }

    /// A batch that is searchable: all events before it are past.
    fn make_progress(&mut self) {
        let file = self.folder.file("batch.jsonl", batch(self.accepted));
        let _told = self.folder.run(&["ingest", &file, "--wait"]).with_code(0);
        self.accepted += 1;
    }

    /// A life that is killed while batches come in.
    fn killed_while_serving(&mut self, pause: Duration, progress: bool) {
        let mut server = self.folder.up();
        if progress {
            self.make_progress();
        }
        let killer = after(pause, server.pid(), Signal::KILL);
        self.send_until_it_ends(&server);
        killer.join().expect("the killer does not panic");
        server.wait();
    }

    /// A life of a single command on the folder that is killed anywhere between its start and its end.
    fn killed_from_the_start_on(&mut self, pause: Duration) {
        let file = self.folder.file("batch.jsonl", batch(self.accepted));
        let mut command = self.folder.command();
        let mut child = command
            .args(["ingest", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the executable starts");
        after(pause, Pid::from_child(&child), Signal::KILL)
            .join()
            .expect("the killer does not panic");
        let status = child.wait().expect("the child is ours");
        if status.code() == Some(0) {
            self.accepted += 1;
        }
    }

    /// A life that makes progress and ends by SIGTERM in the midst of batches.
    fn stopped_while_serving(&mut self, pause: Duration) {
        let mut server = self.folder.up();
        self.make_progress();
        let killer = after(pause, server.pid(), Signal::TERM);
        self.send_until_it_ends(&server);
        killer.join().expect("the killer does not panic");
        assert_eq!(server.wait().code(), Some(0), "{}", self.folder.log());
    }

    /// Every accepted document that the answers lack, or have wrong.
    fn lost(&self) -> Vec<String> {
        let mut lost = Vec::new();
        for first in (0..self.accepted).step_by(BATCHES_PER_SEARCH as usize) {
            let last = (first + BATCHES_PER_SEARCH).min(self.accepted);
            let filter = format!("batch >= {first} AND batch < {last}");
            let question = [
                "search", "thing", "--mode", "words", "--top-k", "1000", "--filter", &filter,
            ];
            let found = self.folder.run(&question).with_code(0);
            let hits = found["hits"].as_array().expect("an answer has hits");
            for (number, at) in (first..last).flat_map(|number| (0..BATCH).map(move |at| (number, at))) {
                let (id, title) = (format!("d-{number}-{at}"), format!("thing {number} {at}"));
                let held: Vec<_> = hits.iter().filter(|hit| hit["id"] == id).collect();
                if held.len() != 1 || held[0]["document"]["title"] != title {
                    lost.push(format!("{id}: {held:?}"));
                }
            }
            assert_eq!(hits.len() as u64, (last - first) * BATCH, "and nothing else");
        }
        lost
    }
}

/// No file under work is left in a folder that was stopped.
fn assert_nothing_lies_about(folder: &Folder) {
    let none = Vec::<PathBuf>::new();
    assert_eq!(folder.files("scratch"), none);
    assert_eq!(folder.files("store/.tmp"), none);
}

fn assert_no_dead_letters(folder: &Folder) {
    let letters = folder.run(&["dead-letters", "list"]).with_code(0);
    assert_eq!(letters["dead_letters"], serde_json::json!([]), "{}", folder.log());
}

#[test]
fn what_was_accepted_before_a_kill_is_in_the_answers_after_it() {
    let mut pauses = Pauses::new("kill");
    let folder = Folder::new();
    folder.create_collection();
    let mut feed = Feed {
        folder: &folder,
        accepted: 0,
    };
    for _ in 0..ROUNDS {
        // Uncautious: the life before ended cleanly, so nothing is named.
        feed.killed_while_serving(pauses.next(0, 700), false);
        // Cautious: may name an event that it never publishes.
        feed.killed_from_the_start_on(pauses.next(1, 250));
        // Passes that event, since the second life that names it may not be killed before; then names others.
        feed.killed_while_serving(pauses.next(0, 700), true);
        feed.stopped_while_serving(pauses.next(0, 400));
    }
    let mut server = folder.up();
    feed.make_progress();
    assert_no_dead_letters(&folder);
    let lost = feed.lost();
    assert!(lost.is_empty(), "of {} batches: {lost:#?}", feed.accepted);
    let shared = folder.run(&["get", "shared"]).with_code(0);
    assert_eq!(shared["document"]["count"], feed.accepted - 1);
    let verified = folder.run(&["releases", "verify"]).with_code(0);
    assert_eq!(verified["problems"], serde_json::json!([]));
    println!("{} batches survived", feed.accepted);
    assert_eq!(server.stop().code(), Some(0));
    assert_nothing_lies_about(&folder);
}
