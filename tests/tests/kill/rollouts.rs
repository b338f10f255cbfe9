//! Kills in the midst of rollouts: while a lineage is built, follows, is flipped to, is watched, is returned from.
//!
//! Goal: whatever a kill meets, both lineages converge to every accepted event. Method: events come without a pause; a
//! phase is recognised in the pointer, as any reader recognises it, and the kill falls a drawn moment after that. In the
//! end each document is compared with what its events say, in the answers of either lineage.
//! As elsewhere here, a life that follows a kill first makes progress past whatever event may have been named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use verdigris_tests::process::{Answer, Folder, Server};

use super::{BATCH, Pauses, after, assert_no_dead_letters, assert_nothing_lies_about};

/// Documents before the first rollout: a rebuild of them takes some seconds at the rate of the settings.
const DOCUMENTS: u64 = 1_500;
/// Longer than any wait here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the pointer.
const LOOK: Duration = Duration::from_millis(2);

/// Rollouts, each with a kill in each of its phases; more by KILL_ROLLOUTS.
fn rollouts() -> u64 {
    let told = std::env::var("KILL_ROLLOUTS").ok();
    told.map_or(1, |told| told.parse().expect("KILL_ROLLOUTS is a number"))
}

fn settings(dimension: u32) -> String {
    format!(
        r#"{{"embedder":{{"provider":"hash","dimension":{dimension}}},"rollout":{{"promotion":"manual"}},
            "rebuild":{{"part_rows":400,"rows_per_second":800}}}}"#
    )
}

/// Ends the feed, also where a test fails: nobody would wait for it in vain.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

// === The feed ===

/// One batch: new documents, a patch of the batch before, a delete in the one before that, and one more write of what
/// all batches share. A batch that is sent twice says the same twice.
fn batch(number: u64) -> String {
    let mut lines = format!("{{\"id\":\"shared\",\"title\":\"shared thing\",\"count\":{number}}}\n");
    for at in 0..BATCH {
        let id = format!("d-{number}-{at}");
        let line = format!("{{\"id\":\"{id}\",\"title\":\"thing {number} {at}\",\"batch\":{number}}}");
        writeln!(lines, "{line}").expect("writing to a text cannot fail");
    }
    if let Some(before) = number.checked_sub(1) {
        let patch = format!("{{\"id\":\"d-{before}-0\",\"_op\":\"patch\",\"price\":{number}}}");
        writeln!(lines, "{patch}").expect("writing to a text cannot fail");
    }
    if let Some(before) = number.checked_sub(2) {
        writeln!(lines, "{{\"id\":\"d-{before}-1\",\"_op\":\"delete\"}}").expect("writing to a text cannot fail");
    }
    lines
}

/// Sends batches until the server is gone; how many were accepted.
fn fed(folder: &Folder, url: &str, is_over: &AtomicBool, mut accepted: u64) -> u64 {
    while !is_over.load(Ordering::SeqCst) {
        let file = folder.file("batch.jsonl", batch(accepted));
        let answer = folder.run(&["--server", url, "ingest", &file]);
        if answer.code != 0 {
            assert_eq!(
                answer.code, 1,
                "only the end of the server ends a batch: {}",
                answer.text
            );
            break;
        }
        accepted += 1;
    }
    accepted
}

/// The documents of these batches, by id, given that so many were accepted: what their events say, and nothing else.
fn expected(batches: std::ops::Range<u64>, accepted: u64) -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::new();
    for (number, at) in batches.flat_map(|number| (0..BATCH).map(move |at| (number, at))) {
        let is_deleted = at == 1 && number + 2 < accepted;
        let is_patched = at == 0 && number + 1 < accepted;
        let id = format!("d-{number}-{at}");
        let mut document = serde_json::json!({"id": id, "title": format!("thing {number} {at}"), "batch": number});
        if is_patched {
            document["price"] = (number + 1).into();
        }
        if !is_deleted {
            documents.insert(id, document);
        }
    }
    documents
}

/// What was sent, and what of it was accepted.
struct Story<'a> {
    folder: &'a Folder,
    accepted: u64,
    pauses: Pauses,
    /// Lives that were killed, by the phase that was meant.
    killed: BTreeMap<&'static str, u64>,
}

impl Story<'_> {
    /// A life in which all events of earlier ones are searchable: whatever was named is past.
    fn life(&mut self) -> Server {
        let server = self.folder.up();
        let file = self.folder.file("batch.jsonl", batch(self.accepted));
        let told = self.folder.run(&["ingest", &file, "--wait"]).with_code(0);
        assert_eq!(told["set_aside"], 0, "{told}");
        self.accepted += 1;
        server
    }

    /// Sends batches until the server is gone, while `meanwhile` leads it into a phase, and kills it a moment after.
    fn killed_in(&mut self, phase: &'static str, below_ms: u64, meanwhile: impl FnOnce(&Server) + Send) {
        let mut server = self.life();
        let pause = self.pauses.next(0, below_ms);
        let (folder, accepted, is_over) = (self.folder, self.accepted, AtomicBool::new(false));
        self.accepted = thread::scope(|scope| {
            let over = Over(&is_over);
            let (url, is_over) = (&server.url, &is_over);
            let feed = scope.spawn(move || fed(folder, url, is_over, accepted));
            meanwhile(&server);
            after(pause, server.pid(), Signal::KILL)
                .join()
                .expect("the killer does not panic");
            drop(over);
            feed.join().expect("the feed does not panic")
        });
        server.wait();
        *self.killed.entry(phase).or_default() += 1;
        let now = pointer(self.folder);
        println!(
            "killed {pause:?} into {phase}, {} batches accepted; active {} at {}, other {} {} at {}, builds {}",
            self.accepted,
            now["active"]["lineage"],
            now["active"]["generation"],
            now["other"]["role"],
            now["other"]["lineage"],
            now["other"]["generation"],
            now["builds"].as_array().map_or(0, Vec::len)
        );
    }

    /// Looks until the pointer is as wanted.
    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(self.folder, what, is_so)
    }

    /// A rebuild, killed in its midst; where it got done before, the candidate is there already.
    fn rebuild(&mut self, dimension: u32) {
        let folder = self.folder;
        let next = folder.file("next.json", settings(dimension));
        self.killed_in("rebuild", 2_500, |_| {
            let _told = folder.run(&["rebuild", "--settings", &next]).with_code(0);
            until(folder, "no rebuild is under way", |pointer| {
                has_build(pointer) || has_other(pointer)
            });
        });
        let now = self.until("it is there", |_| true);
        assert!(
            has_build(&now) || has_other(&now),
            "the wish for a rebuild is in the pointer: {now:#}"
        );
    }

    /// Kills around the follows of the candidate: in them, and between them.
    fn follow(&mut self) {
        let folder = self.folder;
        self.killed_in("follow", 400, |_| {
            let candidate = until(folder, "no candidate came about", has_other);
            // The owner wants it level, to be measured: or it was already.
            let begun = candidate["other"]["generation"].as_u64();
            until(folder, "nobody followed", |pointer| {
                pointer["leveling"].is_string() || pointer["other"]["generation"].as_u64() > begun
            });
        });
    }

    /// Kills around a promotion by word: before it is in the pointer, amid it, after it.
    fn flip(&mut self) -> String {
        let folder = self.folder;
        let mut wanted = String::new();
        self.killed_in("flip", 250, |server| {
            let judged = settled(folder);
            assert_eq!(judged["phase"], "awaiting_approval", "{judged}");
            wanted = judged["other"]["lineage"].as_str().expect("a candidate").to_owned();
            asked_to_be_cut_off(folder, server, &["rollout", "promote", "--actor", "ada"]);
        });
        wanted
    }

    /// Kills while what was promoted is watched. An approval outlives its owner; one that never got so far is repeated.
    fn bake(&mut self, wanted: &str) {
        let folder = self.folder;
        self.killed_in("bake", 600, |_| {
            let began = Instant::now();
            while active(folder) != wanted {
                assert!(began.elapsed() < PATIENCE, "it is not promoted\n{}", folder.log());
                // Refused while it is being promoted already, or measured anew.
                let _told = folder.run(&["rollout", "promote", "--actor", "ada", "--timeout", "10"]);
            }
        });
        assert_eq!(active(folder), wanted, "a flip is in the pointer");
    }

    /// Kills around a return; asked for again, it comes about and sticks (I-9).
    fn rollback(&mut self, wanted: &str) {
        let folder = self.folder;
        self.killed_in("rollback", 250, |server| {
            // The way back is open, or a return would have to wait.
            ready(folder);
            asked_to_be_cut_off(
                folder,
                server,
                &["rollout", "rollback", "--reason", "looks odd", "--actor", "ada"],
            );
        });
        let server = self.life();
        if active(folder) == wanted {
            ready(folder);
            let _told = folder
                .run(&["rollout", "rollback", "--reason", "looks odd"])
                .with_code(0);
        }
        let told = folder.run(&["rollout", "status"]).with_code(0);
        assert_ne!(told["active"]["lineage"], wanted, "{told}");
        assert_eq!(told["other"]["lineage"], wanted, "{told}");
        assert!(told["promotion_hold"].is_object(), "a return sticks: {told}");
        let _told = folder.run(&["rollout", "resume"]).with_code(0);
        drop(server);
    }
}

// === Looking ===

fn pointer(folder: &Folder) -> Value {
    let path = folder.data().join("store/products/latest");
    object(&path)
}

fn object(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&bytes).expect("objects are JSON")
}

fn manifest(folder: &Folder, lineage: &Value) -> Value {
    let path = lineage["manifest"]["path"]
        .as_str()
        .expect("a lineage names its manifest");
    object(&folder.data().join("store/products").join(path))
}

fn has_build(pointer: &Value) -> bool {
    pointer["builds"].as_array().is_some_and(|builds| !builds.is_empty())
}

fn has_other(pointer: &Value) -> bool {
    pointer["other"].is_object()
}

fn active(folder: &Folder) -> String {
    let active = pointer(folder)["active"]["lineage"].clone();
    active.as_str().expect("something answers").to_owned()
}

fn until(folder: &Folder, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let pointer = pointer(folder);
        if is_so(&pointer) {
            return pointer;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {pointer:#}\n{}", folder.log());
        thread::sleep(LOOK);
    }
}

/// The status once nothing more happens by itself.
fn settled(folder: &Folder) -> Value {
    let asked = ["rollout", "status", "--wait", "--timeout", "120"];
    folder.run(&asked).with_code(0)
}

/// Waits until the lineage beside is open.
fn ready(folder: &Folder) {
    let began = Instant::now();
    loop {
        let told = folder.run(&["rollout", "status"]).with_code(0);
        if told["other"]["ready"] == true {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it is not open: {told}");
    }
}

/// Begins a command that the end of its server may cut off.
fn asked_to_be_cut_off(folder: &Folder, server: &Server, command: &[&str]) {
    let mut child = folder.command();
    child.args(["--server", &server.url]).args(command);
    child
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = child.spawn().expect("the executable starts");
    // It ends with the server at the latest, and is waited for beside whatever comes next.
    thread::spawn(move || child.wait());
}

/// What a lineage answers is what the events say: document by document.
fn assert_answers(folder: &Folder, lineage: &str, accepted: u64) -> usize {
    const BATCHES: u64 = 100;
    let mut seen = 0;
    for first in (0..accepted).step_by(BATCHES as usize) {
        let last = (first + BATCHES).min(accepted);
        let filter = format!("batch >= {first} AND batch < {last}");
        let question = [
            "search",
            "thing",
            "--mode",
            "words",
            "--top-k",
            "1000",
            "--filter",
            &filter,
            "--lineage",
            lineage,
        ];
        let found = folder.run(&question).with_code(0);
        let hits = found["hits"].as_array().expect("an answer has hits");
        let mut held = BTreeMap::new();
        for hit in hits {
            let id = hit["id"].as_str().expect("a hit has an id").to_owned();
            assert!(
                held.insert(id, hit["document"].clone()).is_none(),
                "twice in {lineage}: {hit}"
            );
        }
        let wanted = expected(first..last, accepted);
        let differing: BTreeSet<&String> = wanted
            .keys()
            .chain(held.keys())
            .filter(|id| wanted.get(*id) != held.get(*id))
            .collect();
        let shown: Vec<_> = differing
            .iter()
            .map(|id| (id, wanted.get(*id), held.get(*id)))
            .collect();
        assert!(shown.is_empty(), "{lineage}, {filter}: {shown:#?}");
        seen += held.len();
    }
    let shared = folder.run(&["get", "shared", "--lineage", lineage]).with_code(0);
    assert_eq!(shared["document"]["count"], accepted - 1, "{lineage}");
    seen
}

/// Both lineages come to one generation, with the same documents in it.
fn assert_level(folder: &Folder) {
    let level = until(folder, "the lineages do not meet", |pointer| {
        let of = |lineage: &str| pointer[lineage]["generation"].as_u64();
        of("other").is_some() && of("active") == of("other")
    });
    let (active, other) = (manifest(folder, &level["active"]), manifest(folder, &level["other"]));
    for same in ["content", "documents", "checkpoint", "watermark"] {
        assert_eq!(active[same], other[same], "{same}");
    }
}

#[test]
fn rollouts_that_are_killed_in_every_phase_converge_to_every_accepted_event() {
    let folder = Folder::new();
    let first = folder.file("first.json", settings(64));
    let made = folder.run(&["collections", "create", "products", "--settings", &first]);
    assert_eq!(made.code, 0, "{}", made.text);
    let mut story = Story {
        folder: &folder,
        accepted: 0,
        pauses: Pauses::new("rollouts"),
        killed: BTreeMap::new(),
    };
    let catalog: String = (0..DOCUMENTS / BATCH).map(batch).collect();
    let catalog = folder.file("catalog.jsonl", catalog);
    let _told = folder.run(&["ingest", &catalog, "--wait"]).with_code(0);
    story.accepted = DOCUMENTS / BATCH;
    for round in 0..rollouts() {
        story.rebuild([96, 64][(round % 2) as usize]);
        story.follow();
        let wanted = story.flip();
        story.bake(&wanted);
        story.rollback(&wanted);
        let server = story.life();
        if round + 1 < rollouts() {
            // What was returned from makes way for the next one.
            let _told = folder.run(&["rollout", "abort"]).with_code(0);
        }
        drop(server);
    }
    let mut server = story.life();
    let _status = settled(&folder);
    assert_level(&folder);
    ready(&folder);
    assert_no_dead_letters(&folder);
    let seen = ["active", "other"].map(|lineage| assert_answers(&folder, lineage, story.accepted));
    assert_eq!(seen[0], seen[1]);
    let verified = folder.run(&["releases", "verify"]).with_code(0);
    assert_eq!(verified["problems"], serde_json::json!([]));
    assert_eq!(server.stop().code(), Some(0));
    assert_nothing_lies_about(&folder);
    println!(
        "{} batches and {} documents survived {:?}",
        story.accepted, seen[0], story.killed
    );
}

// === Windows that are candidates ===

fn windows(promotion: &str) -> (Folder, Server) {
    let folder = Folder::new();
    let settings = format!(
        r#"{{"embedder":{{"provider":"hash","dimension":64}},"window":{{"candidate_seconds":1}},
            "rollout":{{"promotion":"{promotion}","bake_seconds":0,"keep_seconds":0}}}}"#
    );
    let settings = folder.file("first.json", settings);
    let made = folder.run(&["collections", "create", "products", "--settings", &settings]);
    assert_eq!(made.code, 0, "{}", made.text);
    let server = folder.up();
    let file = folder.file("batch.jsonl", batch(0));
    // There is nothing to return to yet: the first window answers at once.
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_eq!(pointer(&folder)["other"], Value::Null);
    (folder, server)
}

fn sent(folder: &Folder, number: u64) {
    let file = folder.file("batch.jsonl", batch(number));
    let _told = folder.run(&["ingest", &file]).with_code(0);
}

fn found(folder: &Folder, id: &str, lineage: &str) -> Answer {
    folder.run(&["get", id, "--lineage", lineage])
}

#[test]
fn each_window_is_a_candidate_of_its_own_that_is_promoted_by_itself_through_kills() {
    let mut pauses = Pauses::new("windows");
    let (folder, mut server) = windows("automatic");
    let mut answered = vec![active(&folder)];
    for number in 1..=3 {
        sent(&folder, number);
        until(&folder, "no candidate came about", |pointer| {
            let active = pointer["active"]["lineage"].as_str();
            has_other(pointer) || active != answered.last().map(String::as_str)
        });
        after(pauses.next(0, 300), server.pid(), Signal::KILL)
            .join()
            .expect("the killer does not panic");
        server.wait();
        server = folder.up();
        let before = answered.last().cloned();
        let now = until(&folder, "the window was not promoted", |pointer| {
            pointer["active"]["lineage"].as_str() != before.as_deref()
        });
        assert_eq!(
            manifest(&folder, &now["active"])["documents"],
            manifest_documents(number + 1)
        );
        answered.push(active(&folder));
        // Nothing is kept as a way back: the next window has its place.
        until(&folder, "the way back was not retired", |pointer| !has_other(pointer));
    }
    let lineages: BTreeSet<&String> = answered.iter().collect();
    assert_eq!(lineages.len(), 4, "a lineage for each window: {answered:?}");
    let told = folder.run(&["rollout", "history"]).with_code(0);
    let by: BTreeSet<_> = told
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["actor"].to_string())
        .collect();
    assert_eq!(by, BTreeSet::from(["\"rollout\"".to_owned()]), "{told}");
    let file = folder.file("batch.jsonl", batch(4));
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_answers(&folder, "active", 5);
    assert_no_dead_letters(&folder);
    assert_eq!(server.stop().code(), Some(0));
}

/// The documents of so many batches, and the one that they share.
fn manifest_documents(accepted: u64) -> u64 {
    expected(0..accepted, accepted).len() as u64 + 1
}

#[test]
fn a_window_that_is_given_up_loses_no_event() {
    let (folder, mut server) = windows("manual");
    let first = active(&folder);
    sent(&folder, 1);
    let status = awaited(&folder);
    assert_eq!(found(&folder, "d-1-0", "active").reason(), "DOCUMENT_NOT_FOUND");
    assert_eq!(found(&folder, "d-1-0", "other").code, 0, "{status}");
    let given_up = status["other"]["lineage"].clone();
    let _told = folder.run(&["rollout", "abort", "--reason", "not yet"]).with_code(0);
    // Its events are read again, with those that came since.
    sent(&folder, 2);
    let status = until_told(&folder, |status| {
        status["phase"] == "awaiting_approval" && status["other"]["lineage"] != given_up
    });
    assert_eq!(active(&folder), first, "{status}");
    server.kill();
    server = folder.up();
    let _told = folder.run(&["get", "d-1-0"]);
    let status = awaited(&folder);
    let _told = folder.run(&["rollout", "promote"]).with_code(0);
    assert_eq!(
        active(&folder),
        status["other"]["lineage"].as_str().expect("a candidate")
    );
    // The second batch may come in a window of its own.
    until_told(&folder, |status| {
        if status["phase"] == "awaiting_approval" {
            let _told = folder.run(&["rollout", "promote"]);
        }
        found(&folder, "d-2-0", "active").code == 0
    });
    assert_answers(&folder, "active", 3);
    assert_no_dead_letters(&folder);
    assert_eq!(server.stop().code(), Some(0));
}

fn awaited(folder: &Folder) -> Value {
    until_told(folder, |status| status["phase"] == "awaiting_approval")
}

fn until_told(folder: &Folder, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = folder.run(&["rollout", "status"]).with_code(0);
        if is_so(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status:#}\n{}", folder.log());
    }
}
