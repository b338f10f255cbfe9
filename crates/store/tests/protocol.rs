//! The commit protocol as it runs in production, on a store in memory: every call of every writer, in every order,
//! with every fault. `core::commit` has its own exploration of the machine alone.
#![allow(
    clippy::print_stdout,
    reason = "how much an exploration tried is part of what it tells"
)]

mod caching;
mod collecting;
mod fetching;
mod scheduled;
mod world;

use std::path::Path;
use std::sync::Arc;

use scheduled::{Actor, Bounds, Desk, Fate, Run, Turnstile, at_once, explore};
use verdigris_core::manifest::SettingsReference;
use verdigris_core::pointer::Pointer;
use verdigris_core::settings::Settings;
use verdigris_store::commit::{Patience, swing_with};
use verdigris_store::directory::DirectoryStore;
use verdigris_store::faults::{Fault, FaultyStore, at, seeded};
use verdigris_store::memory::MemoryStore;
use verdigris_store::{CommitError, Store, StoreError, collection, keys};
use world::{Purpose, Witness, claim, create, draft, head, name, publish};

/// A writer: claims, publishes so often, and ends when it is told that it lost its turn. Unknown, it starts again.
async fn writer(store: &dyn Store, witness: &Witness, id: &str, publishes: u32, scratch: &Path) {
    let mut left = publishes;
    for life in 0..3 {
        let nonce = format!("{id}-claim{life}");
        witness.expect(&nonce, Purpose::Claim);
        let claimed = claim(store, id, &nonce).await;
        witness.told(&nonce, &claimed);
        let pointer = match claimed {
            Ok(pointer) => pointer,
            Err(CommitError::Unknown(_)) => continue,
            Err(_) => return,
        };
        let epoch = pointer.writer.as_ref().expect("it claimed").epoch;
        let Ok(mut release) = try_head(store, &pointer).await else {
            return;
        };
        while left > 0 {
            let nonce = format!("{id}-publish{life}-{left}");
            witness.expect(
                &nonce,
                Purpose::Publish {
                    id: id.to_owned(),
                    epoch,
                },
            );
            let draft = draft(&release, id, &nonce);
            let published = publish(store, &draft, epoch, scratch, None).await;
            witness.told(&nonce, &published);
            match published {
                Ok(_) => (release, left) = (draft.edited.manifest, left - 1),
                Err(CommitError::Unknown(_)) => break,
                Err(_) => return,
            }
        }
        if left == 0 {
            return;
        }
    }
}

async fn try_head(store: &dyn Store, pointer: &Pointer) -> Result<verdigris_core::manifest::Manifest, ()> {
    match &pointer.active {
        Some(active) => collection::manifest(store, &name(), &active.manifest)
            .await
            .map_err(|_| ()),
        None => Ok(head(store, pointer).await),
    }
}

/// The other kind of swing: whatever it meets, its edit applies again.
async fn settings(store: &dyn Store, witness: &Witness, times: u64) {
    for version in 2..2 + times {
        let nonce = format!("settings{version}");
        witness.expect(&nonce, Purpose::Settings);
        let edit = |p: &Pointer| {
            let settings = SettingsReference {
                version,
                digest: p.settings.digest,
            };
            p.set_settings(p, settings, None, nonce.clone(), world::NOW)
        };
        let swung = swing_with(store, &name(), nonce.clone(), edit, Patience::AT_ONCE).await;
        witness.told(&nonce, &swung);
    }
}

/// Who swings.
#[derive(Debug, Clone, Copy)]
enum Who {
    Writer(&'static str, u32),
    Settings(u64),
}

fn begin<'a>(who: &'a [Who], scratch: &'a Path) -> Run<'a> {
    let (inner, desk) = (Arc::new(MemoryStore::default()), Arc::new(Desk::default()));
    at_once(create(&*inner));
    let witness = Witness::new(inner.clone());
    witness.look();
    let mut actors: Vec<Actor<'a>> = Vec::new();
    for (actor, who) in who.iter().enumerate() {
        let store = Turnstile {
            inner: inner.clone(),
            actor,
            desk: desk.clone(),
        };
        let witness = witness.clone();
        actors.push(match *who {
            Who::Writer(id, times) => Box::pin(async move { writer(&store, &witness, id, times, scratch).await }),
            Who::Settings(times) => Box::pin(async move { settings(&store, &witness, times).await }),
        });
    }
    let (looking, ending, last) = (witness.clone(), witness, inner.clone());
    Run {
        inner,
        desk,
        actors,
        after_call: Box::new(move || looking.look()),
        at_end: Box::new(move || {
            // Whatever happened, the next writer goes on.
            let before = ending.pointer().generation;
            at_once(writer(&*last, &ending, "next", 1, scratch));
            assert_eq!(ending.pointer().generation, before + 1, "the next writer publishes");
        }),
    }
}

/// Files of a segment, manifests and dead rows have names of one publish; the pointer is what all meet at.
fn is_private(key: &str) -> bool {
    !key.ends_with("/latest")
}

const FATES: &[Fate] = &[Fate::AnswerLost, Fate::Dropped, Fate::UnderWay, Fate::Refused];

fn check(title: &str, who: &[Who], faults: u32, preemptions: u32) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let bounds = Bounds {
        faults,
        preemptions,
        is_private,
        fates: FATES,
    };
    let explored = explore(bounds, || begin(who, folder.path()));
    let (schedules, calls) = (explored.schedules, explored.calls);
    println!("{title}, {faults} faults, {preemptions} preemptions: {schedules} schedules, {calls} calls");
}

#[test]
fn one_writer_with_faults_at_every_call_keeps_the_protocol() {
    check("one writer", &[Who::Writer("a", 1)], 2, 0);
}

#[test]
fn two_writers_in_every_order_keep_the_protocol() {
    check("two writers", &[Who::Writer("a", 2), Who::Writer("b", 1)], 0, 20);
}

#[test]
fn two_writers_with_a_fault_at_every_call_and_a_sleeper_keep_the_protocol() {
    check("two writers", &[Who::Writer("a", 1), Who::Writer("b", 1)], 1, 2);
}

#[test]
fn a_writer_and_a_swing_of_the_other_kind_keep_the_protocol() {
    check("writer and settings", &[Who::Writer("a", 1), Who::Settings(1)], 1, 3);
}

// === Faults by number of the call ===

const FAULTS: [Fault; 5] = [
    Fault::LostAnswer,
    Fault::ErrorBefore,
    Fault::Conflict,
    Fault::Crash,
    Fault::CrashAfter,
];

/// Makes a collection, claims and publishes twice; what was told is checked by the witness.
async fn whole_way(store: &dyn Store, witness: Option<&Witness>, scratch: &Path) -> Result<(), CommitError> {
    let (name, settings, nonce) = (name(), Settings::default(), "create".to_owned());
    collection::create_with(store, &name, &settings, nonce, world::NOW, Patience::AT_ONCE).await?;
    if let Some(witness) = witness {
        witness.look();
        writer(store, witness, "a", 2, scratch).await;
    }
    Ok(())
}

/// Goal: no pair of faults anywhere breaks the protocol or stops the next writer. Method: the calls of an undisturbed
/// run are counted, and each pair of them meets each pair of faults.
#[test]
fn every_pair_of_faults_at_every_pair_of_calls_keeps_the_protocol() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let run = |script: Box<verdigris_store::faults::Script>| {
        let inner = Arc::new(MemoryStore::default());
        let faulty = FaultyStore::new(inner.clone(), script);
        let witness = Witness::new(inner.clone());
        let made = at_once(whole_way(&faulty, Some(&witness), folder.path()));
        let is_there = inner.look(&keys::pointer(&name())).is_some();
        assert!(
            made.is_err() || is_there,
            "a collection is said to be made only if it is there"
        );
        if is_there {
            witness.look();
            let before = witness.pointer().generation;
            at_once(writer(&*inner, &witness, "next", 1, folder.path()));
            assert_eq!(witness.pointer().generation, before + 1, "the next writer publishes");
        }
        (faulty.calls(), faulty.is_crashed(), witness.outcomes())
    };
    let (calls, ..) = run(Box::new(|_| None));
    let (mut runs, mut crashes) = (0, 0);
    // A fault makes calls more: twice as many are enough for all that a pair can cause.
    for first in 0..calls * 2 {
        for second in first..calls * 2 {
            for fault in FAULTS {
                for other in FAULTS {
                    let (_, is_crashed, _) = run(Box::new(move |call| match call.n {
                        n if n == first => Some(fault),
                        n if n == second => Some(other),
                        _ => None,
                    }));
                    (runs, crashes) = (runs + 1, crashes + u64::from(is_crashed));
                }
            }
        }
    }
    println!("{calls} calls, {runs} runs, {crashes} of them crashed");
}

#[test]
fn a_store_that_fails_one_call_in_four_is_written_in_the_end() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for seed in 0..200 {
        let inner = Arc::new(MemoryStore::default());
        at_once(create(&*inner));
        let witness = Witness::new(inner.clone());
        witness.look();
        let faulty = FaultyStore::new(inner, seeded(seed, 4));
        at_once(writer(&faulty, &witness, "a", 2, folder.path()));
        assert_eq!(witness.pointer().generation, 2, "seed {seed}: {:?}", witness.errors());
    }
}

#[test]
fn a_store_that_never_answers_leaves_the_outcome_unknown() {
    let inner = Arc::new(MemoryStore::default());
    at_once(create(&*inner));
    let is_put = |call: &verdigris_store::faults::Call<'_>| call.operation == verdigris_store::faults::Operation::Put;
    let faulty = FaultyStore::new(
        inner.clone(),
        Box::new(move |call| is_put(call).then_some(Fault::ErrorBefore)),
    );
    let claimed = at_once(claim(&faulty, "a", "n"));
    assert!(matches!(claimed, Err(CommitError::Unknown(_))), "{claimed:?}");
    // Before anything was sent, nothing is unknown.
    let faulty = FaultyStore::new(inner, Box::new(|_| Some(Fault::ErrorBefore)));
    let claimed = at_once(claim(&faulty, "a", "n"));
    assert!(
        matches!(claimed, Err(CommitError::Store(StoreError::NoAnswer { .. }))),
        "{claimed:?}"
    );
}

#[test]
fn a_file_that_went_without_becoming_an_object_is_never_published() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    at_once(create(&*inner));
    let pointer = at_once(claim(&*inner, "a", "claim")).expect("claimed");
    let draft = draft(&at_once(head(&*inner, &pointer)), "a", "first");
    // A store that takes the file, and then neither stores it nor answers.
    let scratch = folder.path().to_owned();
    let lossy = move |call: &verdigris_store::faults::Call<'_>| {
        let is_vectors = call.n == 0 && call.key.ends_with("vectors.faiss");
        is_vectors.then(|| std::fs::remove_file(scratch.join("first-0")).expect("removed"));
        is_vectors.then_some(Fault::ErrorBefore)
    };
    let published = at_once(publish(
        &FaultyStore::new(inner.clone(), Box::new(lossy)),
        &draft,
        1,
        folder.path(),
        None,
    ));
    assert!(
        matches!(published, Err(CommitError::Store(StoreError::Body { .. }))),
        "{published:?}"
    );
    assert_eq!(
        at_once(collection::pointer(&*inner, &name()))
            .expect("whole")
            .pointer
            .generation,
        0
    );
}

#[test]
fn a_collection_that_is_gone_leaves_an_unanswered_swing_unknown() {
    let inner = Arc::new(MemoryStore::default());
    at_once(create(&*inner));
    let faulty = FaultyStore::new(inner.clone(), at(1, Fault::ErrorBefore));
    let edit = |p: &Pointer| {
        // The collection is removed between the edit and the answer.
        at_once(inner.delete(&keys::pointer(&name()))).expect("removed");
        p.claim("a", "n".to_owned(), world::NOW)
    };
    let claimed = at_once(swing_with(&faulty, &name(), "n".to_owned(), edit, Patience::AT_ONCE));
    assert!(matches!(claimed, Err(CommitError::Unknown(_))), "{claimed:?}");
}

/// The same on files: each fault at each call, once, on the directory store.
#[tokio::test]
async fn every_fault_at_every_call_on_files_leaves_a_store_that_goes_on() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut runs = 0;
    for (n, fault) in (0..24).flat_map(|n| FAULTS.map(|fault| (n, fault))) {
        let root = folder.path().join(format!("{n}-{fault:?}"));
        let inner = Arc::new(DirectoryStore::open(&root).expect("opened"));
        let faulty = FaultyStore::new(inner.clone(), at(n, fault));
        create(&*inner).await;
        for (store, id) in [(&faulty as &dyn Store, "first"), (&*inner as &dyn Store, "second")] {
            let Ok(pointer) = claim(store, id, &format!("{id}-claim")).await else {
                continue;
            };
            let epoch = pointer.writer.as_ref().expect("it claimed").epoch;
            let Ok(release) = try_head(store, &pointer).await else {
                continue;
            };
            let draft = draft(&release, id, &format!("{id}-publish"));
            let published = publish(store, &draft, epoch, folder.path(), None).await;
            let now = collection::pointer(&*inner, &name()).await.expect("whole").pointer;
            match published {
                Ok(_) => assert!(now.remembers(&draft.nonce), "I-5: {n} {fault:?}"),
                Err(CommitError::Unknown(_)) => {}
                Err(_) => assert!(!now.remembers(&draft.nonce), "I-5: {n} {fault:?}"),
            }
        }
        let now = collection::pointer(&*inner, &name()).await.expect("whole").pointer;
        let active = now.active.as_ref().expect("the second writer published");
        let manifest = collection::manifest(&*inner, &name(), &active.manifest)
            .await
            .expect("whole");
        let verified = verdigris_store::fetch::verify_release(&*inner, &manifest).await;
        assert!(
            verified.problems.is_empty(),
            "I-2: {n} {fault:?}: {:?}",
            verified.problems
        );
        runs += 1;
    }
    println!("{runs} runs");
}

/// Eight writers of the other kind swing together on files; each swing is made once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swings_of_many_tasks_are_all_made_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Arc::new(DirectoryStore::open(&folder.path().join("store")).expect("opened"));
    create(&*store).await;
    let mut tasks = Vec::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..10 {
                let nonce = format!("{task}-{n}");
                let edit = |p: &Pointer| Ok(p.next(nonce.clone(), world::NOW));
                verdigris_store::commit::swing(&*store, &name(), nonce.clone(), edit)
                    .await
                    .expect("swung");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let pointer = collection::pointer(&*store, &name()).await.expect("whole").pointer;
    assert_eq!(pointer.sequence, 81);
}
