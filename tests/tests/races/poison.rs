//! I-12 and I-1: an event that ends whoever reads it is set aside by name and the stream goes on; an embedder that is
//! away sets nothing aside; and whatever call of the store a crash comes at, nothing that was accepted is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tonic::Request;
use verdigris_core::dead_letter::{self, DeadLetter};
use verdigris_core::position::Position;
use verdigris_proto::admin::ListDeadLettersRequest;
use verdigris_proto::admin::admin_service_server::AdminService;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::GetDocumentRequest;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_store::faults::{Fault, FaultyStore, Script};
use verdigris_store::{Store, collection as objects, keys};

use super::roles::embedders::{POISON, Unreliable};
use super::roles::events::{delete, patch, upsert};
use super::roles::{Process, Start, World, eventually, name, settings};

fn world() -> World {
    let world = World::new();
    world.create(&settings());
    world
}

/// Waits until a release holds the position, whatever stands still meanwhile.
pub(crate) fn wait_for(process: &Process, position: &str) {
    let sequence = position.parse::<Position>().unwrap().sequence;
    let handle = process.indexer.handle(&name()).unwrap();
    process.block_on(eventually("the stream goes on", || {
        (handle.progress.published().sequence >= sequence).then_some(())
    }));
}

fn letters(world: &World) -> Vec<DeadLetter> {
    let prefix = keys::dead_letters(&name());
    let objects = world.block_on(objects::list_all(&*world.store, &prefix)).unwrap();
    let letters = objects.iter().flat_map(|object| {
        let bytes = world.block_on(objects::whole(&*world.store, &object.key)).unwrap();
        dead_letter::decode(&object.key, &bytes).unwrap()
    });
    letters.collect()
}

/// The letters as people see them.
fn shown_letters(process: &Process) -> Vec<verdigris_proto::admin::DeadLetter> {
    let request = ListDeadLettersRequest {
        collection: name().to_string(),
        page_size: 1_000,
        ..ListDeadLettersRequest::default()
    };
    let listed = process.block_on(process.admin.list_dead_letters(Request::new(request)));
    listed.unwrap().into_inner().dead_letters
}

/// The document's batch, or none where it does not exist.
pub(crate) fn batch(process: &Process, id: &str, position: &str) -> Option<u64> {
    let request = GetDocumentRequest {
        collection: name().to_string(),
        id: id.to_owned(),
        min_position: position.to_owned(),
        ..GetDocumentRequest::default()
    };
    match process.block_on(process.search.get_document(Request::new(request))) {
        Ok(answer) => {
            let document: serde_json::Value = serde_json::from_str(&answer.into_inner().document_json).unwrap();
            Some(document["batch"].as_u64().unwrap())
        }
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => panic!("{id}: {status}"),
    }
}

#[test]
fn a_text_at_which_the_embedder_panics_is_set_aside_and_the_stream_goes_on() {
    let world = world();
    let embedder = Arc::new(Unreliable::new(16));
    let process = Process::start(&world, Start::new("a").with_embedder(embedder.clone()));
    process.publish(vec![upsert("before", "a drill", 1)]);
    let poison = process.send(vec![upsert("first", "a hose", 2), upsert("bad", POISON, 3)]);
    let position = process.send(vec![upsert("last", "a lamp", 4), patch("before", 5)]);
    wait_for(&process, &position);
    let letters = letters(&world);
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.position.to_string(), letter.reason.as_str()))
        .collect();
    assert_eq!(told, [(poison, "CRASHED_INDEXER")], "I-12: set aside by name, once");
    let batches = ["before", "first", "bad", "last"].map(|id| batch(&process, id, &position));
    assert_eq!(batches, [Some(5), Some(2), None, Some(4)], "I-12: the others go on");
    // Once in its window and twice by itself.
    assert!(embedder.panicked.load(Ordering::SeqCst) <= 3);
    assert!(process.standstill().is_none());
    assert_eq!(process.publish(vec![patch("last", 6)]), world.pointer().generation);
    process.stop();
}

#[test]
fn a_poisoned_text_ends_the_indexer_but_once_more_after_a_kill_of_the_process() {
    let world = world();
    let embedder = Arc::new(Unreliable::new(16));
    let process = Process::start(&world, Start::new("a").with_embedder(embedder.clone()));
    process.send(vec![upsert("first", "a hose", 2), upsert("bad", POISON, 3)]);
    world.block_on(eventually("it panics", || {
        (embedder.panicked.load(Ordering::SeqCst) > 0).then_some(())
    }));
    process.kill();
    let process = Process::start(&world, Start::new("b").with_embedder(embedder));
    let position = process.send(vec![upsert("last", "a lamp", 4)]);
    wait_for(&process, &position);
    assert_eq!(letters(&world).len(), 1);
    let batches = ["first", "bad", "last"].map(|id| batch(&process, id, &position));
    assert_eq!(batches, [Some(2), None, Some(4)]);
    process.stop();
}

#[test]
fn an_embedder_that_is_away_sets_nothing_aside_and_loses_nothing() {
    let world = world();
    let embedder = Arc::new(Unreliable::new(16));
    embedder.away.store(true, Ordering::SeqCst);
    let ids: Vec<String> = (0..25).map(|n| format!("d{n}")).collect();
    let mut position = String::new();
    // Each life is refused and killed, most of them before the next try: unclean ends that no event is to blame for.
    for (life, few) in ids.chunks(5).enumerate() {
        let start = Start::new(&format!("life-{life}")).with_embedder(embedder.clone());
        let process = Process::start(&world, start);
        position = process.send(few.iter().map(|id| upsert(id, id, life as u64)).collect());
        assert_eq!(process.wait_for_standstill().reason, Reason::EmbedderUnavailable);
        if life == 4 {
            let refused = embedder.refused.load(Ordering::SeqCst);
            world.block_on(eventually("it tries again and again", || {
                (embedder.refused.load(Ordering::SeqCst) > refused + 3).then_some(())
            }));
        }
        process.kill();
    }
    assert_eq!(world.pointer().generation, 0);
    embedder.away.store(false, Ordering::SeqCst);
    let process = Process::start(&world, Start::new("last").with_embedder(embedder));
    wait_for(&process, &position);
    assert!(letters(&world).is_empty(), "I-12: it is not what they are");
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(batch(&process, id, &position), Some(n as u64 / 5), "I-1: {id}");
    }
    process.stop();
}

/// Events of one life: some documents change, one goes, two events are set aside.
fn sent(life: &str) -> Vec<Bytes> {
    let id = |n: u64| format!("{life}-{n}");
    let ahead = |n| Bytes::from(format!(r#"{{"id":"{life}-ahead-{n}","_time":"2200-01-01T00:00:00Z"}}"#));
    let mut events: Vec<Bytes> = (0..6).map(|n| upsert(&id(n), "thing", 1)).collect();
    events.extend([patch(&id(1), 2), delete(&id(2)), ahead(1), upsert(&id(2), "again", 3)]);
    events.extend([delete(&id(3)), ahead(2), patch(&id(4), 4)]);
    events
}

/// The fault at call `n` about the collection, counted from 0.
fn at_call(n: u64, fault: Fault) -> Box<Script> {
    let calls = AtomicU64::new(0);
    let is_nth = move |key: &str| key.starts_with("products/") && calls.fetch_add(1, Ordering::SeqCst) == n;
    Box::new(move |call| is_nth(call.key).then_some(fault))
}

/// A life that crashes at call `n` of its indexer, and one after it. False where the first did not come that far.
fn crash(world: &World, n: u64, fault: Fault) -> bool {
    let (inner, life): (Arc<dyn Store>, _) = (world.store.clone(), format!("{fault:?}-{n}"));
    let store = Arc::new(FaultyStore::new(inner, at_call(n, fault)));
    let last = world.append(sent(&life));
    if let Ok(process) = Process::try_start(world, Start::new(&life).with_store(store.clone())) {
        let handle = process.indexer.handle(&name()).expect("it lists the collection");
        let is_done = || handle.progress.published().sequence >= last.sequence;
        process.block_on(eventually("a crash, or the end", || {
            (store.is_crashed() || is_done()).then_some(())
        }));
        process.kill();
    }
    let process = world.process("next");
    let position = last.to_string();
    wait_for(&process, &position);
    // The ninth and the twelfth of its thirteen events.
    let sequences: Vec<u64> = shown_letters(&process)
        .into_iter()
        .map(|letter| letter.position.parse::<Position>().unwrap().sequence)
        .filter(|sequence| *sequence > last.sequence - 13)
        .collect();
    assert_eq!(sequences, [last.sequence - 4, last.sequence - 1], "I-1, I-12: {life}");
    let batches: Vec<_> = (0..6)
        .map(|d| batch(&process, &format!("{life}-{d}"), &position))
        .collect();
    let expected = [Some(1), Some(2), Some(3), None, Some(4), Some(1)];
    assert_eq!(batches, expected, "I-1: {life}");
    process.stop();
    store.is_crashed()
}

#[test]
fn a_crash_at_any_call_of_the_store_loses_no_event_and_no_dead_letter() {
    let world = world();
    let before = world.process("before");
    before.publish(vec![upsert("before", "thing", 1)]);
    before.stop();
    for fault in [Fault::Crash, Fault::CrashAfter] {
        let crashes = (0..).take_while(|n| crash(&world, *n, fault)).count();
        assert!(crashes >= 10, "{crashes} calls are not a publish");
        println!("{fault:?}: {crashes} crashes");
    }
}
