//! Garbage collection beside publishes, in every order: nothing that is needed goes (I-10), everything else does (I-11).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::Manifest;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::faults::{Fault, FaultyStore, Operation, at};
use verdigris_store::garbage::{Collector, collect_strays};
use verdigris_store::memory::MemoryStore;
use verdigris_store::{Body, Precondition, Store, collection, keys};

use crate::scheduled::{Actor, Bounds, Desk, Fate, Run, Turnstile, at_once, explore};
use crate::world::{NOW, Purpose, Witness, claim, create, draft, head, name, named, publish};

/// Un-named so long ago that it may go at once.
const LONG_AGO: Timestamp = Timestamp(0);

/// What the process is writing; the collector asks here.
type Writing = Arc<Mutex<BTreeSet<String>>>;

/// Publishes from `release` on; what it writes is entered before it is written and taken out after the swing.
async fn publisher(
    store: &dyn Store,
    witness: &Witness,
    writing: &Writing,
    epoch: u64,
    mut release: Manifest,
    scratch: &Path,
    un_named_since: Timestamp,
) {
    for n in 0..2 {
        let nonce = format!("p{n}");
        witness.expect(
            &nonce,
            Purpose::Publish {
                id: "a".to_owned(),
                epoch,
            },
        );
        let draft = draft(&release, "a", &nonce);
        writing.lock().expect("one thread").extend(draft.paths.iter().cloned());
        let published = publish(store, &draft, epoch, scratch, Some(un_named_since)).await;
        witness.told(&nonce, &published);
        writing.lock().expect("one thread").clear();
        if published.is_err() {
            return;
        }
        release = draft.edited.manifest;
    }
}

/// Keys that are there, and keys that should be: the pointer, settings, and what the pointer needs.
fn present_and_needed(store: &MemoryStore, pointer: &verdigris_core::pointer::Pointer) -> [BTreeSet<String>; 2] {
    let present = store.keys().into_iter().collect();
    let mut needed: BTreeSet<String> = [keys::pointer(&name())].into();
    needed.extend(store.keys().into_iter().filter(|key| key.contains("/settings/")));
    for reference in named(pointer) {
        let bytes = store.look(&keys::object(&name(), &reference.path)).expect("named");
        let manifest = Manifest::decode(&bytes).expect("whole");
        needed.insert(keys::object(&name(), &reference.path));
        for segment in &manifest.segments {
            let files = [&segment.files.vectors.path, &segment.files.rows.path];
            let paths = files.into_iter().chain(segment.dead.as_ref().map(|dead| &dead.path));
            needed.extend(paths.map(|path| keys::object(&name(), path)));
        }
    }
    [present, needed]
}

/// A publisher of two more releases and a collector of two rounds; all objects are older than the grace all the time,
/// so that only being named, or being written, keeps one.
fn begin<'a>(scratch: &'a Path, un_named_since: Timestamp, collected: &'a Mutex<u64>) -> Run<'a> {
    let (inner, desk) = (Arc::new(MemoryStore::default()), Arc::new(Desk::default()));
    let witness = Witness::new(inner.clone());
    at_once(create(&*inner));
    witness.look();
    witness.expect("claim", Purpose::Claim);
    let epoch = at_once(claim(&*inner, "a", "claim"))
        .expect("claimed")
        .writer
        .expect("it claimed")
        .epoch;
    witness.look();
    let mut release = at_once(head(&*inner, &witness.pointer()));
    for n in 0..2 {
        let nonce = format!("before{n}");
        witness.expect(
            &nonce,
            Purpose::Publish {
                id: "a".to_owned(),
                epoch,
            },
        );
        let draft = draft(&release, "a", &nonce);
        at_once(publish(&*inner, &draft, epoch, scratch, Some(un_named_since))).expect("published");
        witness.look();
        release = draft.edited.manifest;
    }
    // Left by a crash long ago.
    at_once(inner.put(
        "products/segments/old/rows.tar",
        Body::Bytes("x".into()),
        Precondition::Any,
    ))
    .expect("written");

    let writing = Writing::default();
    let store = |actor| Turnstile {
        inner: inner.clone(),
        actor,
        desk: desk.clone(),
    };
    let (publishing, collecting) = (store(0), store(1));
    let (is_writing, looking, ending, told) = (writing.clone(), witness.clone(), witness.clone(), witness);
    let publishes: Actor<'a> = Box::pin(async move {
        publisher(&publishing, &told, &writing, epoch, release, scratch, un_named_since).await;
    });
    let collects: Actor<'a> = Box::pin(async move {
        let mut collector = Collector::default();
        for _ in 0..2 {
            let being_written = |path: &str| is_writing.lock().expect("one thread").contains(path);
            // A call that the store did not answer ends the round; the next one begins anew.
            let round = collector.collect(&collecting, &name(), NOW, being_written).await;
            *collected.lock().expect("one thread") += round.unwrap_or(0);
        }
    });
    let last = inner.clone();
    Run {
        inner,
        desk,
        actors: vec![publishes, collects],
        after_call: Box::new(move || looking.look()),
        at_end: Box::new(move || {
            let round = Collector::default();
            let mut round = round;
            at_once(round.collect(&*last, &name(), NOW, |_| false)).expect("collected");
            ending.look();
            let [present, needed] = present_and_needed(&last, &ending.pointer());
            assert_eq!(present, needed, "I-11: exactly what is needed stays");
        }),
    }
}

/// Segments, dead rows and manifests are what the two meet at: none of them is private. Settings are nobody's business.
fn check(title: &str, un_named_since: Timestamp, faults: u32, preemptions: u32) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let fates = &[Fate::AnswerLost, Fate::Dropped];
    let bounds = Bounds {
        faults,
        preemptions,
        is_private: |_| false,
        fates,
    };
    let collected = Mutex::default();
    let explored = explore(bounds, || begin(folder.path(), un_named_since, &collected));
    let collected = *collected.lock().expect("one thread");
    println!(
        "{title}, {faults} faults, {preemptions} preemptions: {} schedules, {} calls, {collected} objects collected",
        explored.schedules, explored.calls
    );
    assert!(collected > 0);
}

#[test]
fn collecting_beside_publishes_takes_nothing_that_is_needed_and_leaves_nothing_else() {
    check("publishes and collection, un-named long ago", LONG_AGO, 0, 4);
}

#[test]
fn what_was_un_named_within_the_grace_stays() {
    check(
        "publishes and collection, un-named just now",
        Timestamp(NOW.0 - GRACE_NS + 1),
        0,
        3,
    );
}

#[test]
fn collecting_beside_publishes_with_a_fault_at_every_call_is_as_safe() {
    check("publishes and collection", LONG_AGO, 1, 1);
}

/// Goal: what a crash leaves goes in the end, and nothing else. Method: a crash after each call of a publish, then a
/// round of collection after the grace.
#[test]
fn what_a_crash_leaves_is_collected_after_the_grace() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut left_behind = 0;
    for n in 0..12 {
        let inner = Arc::new(MemoryStore::default());
        at_once(create(&*inner));
        let pointer = at_once(claim(&*inner, "a", "claim")).expect("claimed");
        let first = draft(&at_once(head(&*inner, &pointer)), "a", "first");
        at_once(publish(&*inner, &first, 1, folder.path(), None)).expect("published");
        inner.set_now(NOW);
        let faulty = FaultyStore::new(inner.clone(), at(n, Fault::Crash));
        let second = draft(&first.edited.manifest, "a", "second");
        let _ = at_once(publish(&faulty, &second, 1, folder.path(), None));
        let pointer = at_once(collection::pointer(&*inner, &name())).expect("whole").pointer;
        // Within the grace, nobody knows whether the writer lives.
        let mut collector = Collector::default();
        let young = at_once(collector.collect(&*inner, &name(), NOW.plus(GRACE_NS), |_| false)).expect("collected");
        assert_eq!(young, 0, "crash at {n}");
        let gone = at_once(collector.collect(&*inner, &name(), NOW.plus(GRACE_NS + 1), |_| false)).expect("collected");
        left_behind += gone;
        let [present, needed] = present_and_needed(&inner, &pointer);
        assert_eq!(present, needed, "I-11: crash at {n}");
    }
    assert!(left_behind >= 6, "{left_behind}");
}

#[test]
fn a_stale_listing_takes_nothing_that_is_needed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    at_once(create(&*inner));
    let stale =
        |call: &verdigris_store::faults::Call<'_>| (call.operation == Operation::List).then_some(Fault::StaleList);
    let faulty = FaultyStore::new(inner.clone(), Box::new(stale));
    let witness = Witness::new(inner.clone());
    witness.look();
    witness.expect("claim", Purpose::Claim);
    let pointer = at_once(claim(&*inner, "a", "claim")).expect("claimed");
    let mut release = at_once(head(&*inner, &pointer));
    let mut collector = Collector::default();
    for n in 0..6 {
        let nonce = format!("p{n}");
        witness.look();
        witness.expect(
            &nonce,
            Purpose::Publish {
                id: "a".to_owned(),
                epoch: 1,
            },
        );
        let draft = draft(&release, "a", &nonce);
        at_once(publish(&*inner, &draft, 1, folder.path(), Some(LONG_AGO))).expect("published");
        at_once(collector.collect(&faulty, &name(), NOW, |_| false)).expect("collected");
        witness.look();
        release = draft.edited.manifest;
    }
    at_once(collector.collect(&faulty, &name(), NOW, |_| false)).expect("collected");
    let [present, needed] = present_and_needed(&inner, &witness.pointer());
    assert_eq!(present, needed, "I-11: the listing came up in the end");
}

#[test]
fn a_damaged_manifest_ends_the_round_before_anything_goes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    at_once(create(&*inner));
    let pointer = at_once(claim(&*inner, "a", "claim")).expect("claimed");
    let first = draft(&at_once(head(&*inner, &pointer)), "a", "first");
    let pointer = at_once(publish(&*inner, &first, 1, folder.path(), None)).expect("published");
    let key = keys::object(&name(), &pointer.active.expect("named").manifest.path);
    at_once(inner.put(&key, Body::Bytes("{}".into()), Precondition::Any)).expect("written");
    at_once(inner.put("products/dead/old", Body::Bytes("x".into()), Precondition::Any)).expect("written");
    let before = inner.keys();
    let round = at_once(Collector::default().collect(&*inner, &name(), NOW, |_| false));
    assert!(round.expect_err("refused").to_string().contains("is damaged"));
    assert_eq!(inner.keys(), before);
}

/// A deletion with a crash at each call, gone on with by the next round; the pointer goes last.
#[test]
fn a_deleted_collection_goes_whole_after_the_grace_whatever_crashes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for n in 0..20 {
        let inner = Arc::new(MemoryStore::default());
        at_once(create(&*inner));
        let pointer = at_once(claim(&*inner, "a", "claim")).expect("claimed");
        let first = draft(&at_once(head(&*inner, &pointer)), "a", "first");
        let pointer = at_once(publish(&*inner, &first, 1, folder.path(), None)).expect("published");
        let deleted = pointer.delete("deleted".to_owned(), NOW).expect("deleted");
        let body = Body::Bytes(deleted.encode().into());
        at_once(inner.put(&keys::pointer(&name()), body, Precondition::Any)).expect("written");
        let all = inner.keys().len();
        let mut collector = Collector::default();
        at_once(collector.collect(&*inner, &name(), NOW.plus(GRACE_NS), |_| false)).expect("collected");
        assert_eq!(inner.keys().len(), all, "within the grace all of it stays");
        let faulty = FaultyStore::new(inner.clone(), at(n, Fault::Crash));
        let _ = at_once(collector.collect(&faulty, &name(), NOW.plus(GRACE_NS + 1), |_| false));
        let is_named = inner.keys().contains(&keys::pointer(&name()));
        assert!(
            is_named || inner.keys().is_empty(),
            "crash at {n}: the pointer goes last"
        );
        if is_named {
            at_once(collector.collect(&*inner, &name(), NOW.plus(GRACE_NS + 1), |_| false)).expect("collected");
        }
        assert!(inner.keys().is_empty(), "crash at {n}: {:?}", inner.keys());
    }
}

#[test]
fn objects_of_no_collection_go_and_those_of_one_being_made_stay() {
    let inner = MemoryStore::default();
    let put = |key: &str| at_once(inner.put(key, Body::Bytes("x".into()), Precondition::Any)).expect("written");
    put("orphan/settings/1.json");
    put("orphan/segments/a/rows.tar");
    at_once(create(&inner));
    put("products/segments/a/rows.tar");
    inner.set_now(NOW);
    put("young/settings/1.json");
    put("mixed/segments/a/rows.tar");
    inner.set_now(LONG_AGO);
    put("mixed/settings/1.json");
    let gone = at_once(collect_strays(&inner, NOW.plus(1))).expect("collected");
    assert_eq!(gone, 2);
    assert!(
        inner.keys().iter().all(|key| !key.starts_with("orphan/")),
        "{:?}",
        inner.keys()
    );
    assert_eq!(inner.keys().len(), 6);
    let names: Vec<_> = at_once(collection::list(&inner))
        .expect("listed")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["products"], "what has no pointer is no collection");
}
