//! I-4: an indexer falls asleep just before a swing, another takes over, the first wakes up and changes nothing.
//!
//! The one that took over is kept from its own first swing meanwhile: the generation then is what the sleeper expects,
//! and nothing but the epoch is in its way.

use std::sync::Arc;
use std::thread;

use verdigris_core::pointer::Pointer;
use verdigris_proto::reason::Reason;
use verdigris_store::Store;
use verdigris_store::faults::Operation;

use super::roles::events::upsert;
use super::roles::turnstile::{Asleep, Stop, Turnstile};
use super::roles::{Process, Start, World, eventually, settings};

fn world() -> World {
    let world = World::new();
    world.create(&settings());
    world
}

fn turnstile(world: &World) -> Arc<Turnstile> {
    let store: Arc<dyn Store> = world.store.clone();
    Turnstile::new(store)
}

/// Stops the `n`-th swing from now on, counted from 1.
fn stop_at_swing(turnstile: &Turnstile, mut n: u32) -> Stop {
    turnstile.stop_at(move |operation, key| {
        n -= u32::from(operation == Operation::Put && key.ends_with("/latest"));
        n == 0
    })
}

/// A second indexer that has claimed the turn and sleeps before its next swing.
fn successor(world: &World) -> (Process, Asleep) {
    let turnstile = turnstile(world);
    let stop = stop_at_swing(&turnstile, 2);
    let process = Process::start(world, Start::new("b").with_store(turnstile));
    let asleep = stop.wait();
    (process, asleep)
}

/// Wakes the sleeper and waits until it has said that it lost its turn. It has not changed the pointer.
fn wake(world: &World, sleeper: &Process, asleep: Asleep) {
    let before = world.pointer();
    assert_eq!(holder(&before).0, "b", "the second one has the turn");
    asleep.wake();
    let told = world.block_on(eventually("the sleeper ends, or does what it must not", || {
        let told = sleeper.standstill().map(|told| told.reason);
        told.or_else(|| (sequence(world) != before.sequence).then_some(Reason::Internal))
    }));
    assert_eq!(world.pointer(), before, "I-4: the sleeper changed the pointer");
    assert_eq!(told, Reason::LostTurn);
}

/// The pointer's sequence, read where the caller is in a runtime already.
fn sequence(world: &World) -> u64 {
    let bytes = std::fs::read(world.folder.path().join("store/products/latest")).expect("there is a pointer");
    Pointer::decode(&bytes).expect("whole").sequence
}

fn holder(pointer: &Pointer) -> (&str, u64) {
    let writer = pointer.writer.as_ref().expect("somebody has the turn");
    (&writer.id, writer.epoch)
}

#[test]
fn a_publish_that_slept_through_a_claim_is_never_made() {
    let world = world();
    let store = turnstile(&world);
    let a = Process::start(&world, Start::new("a").with_store(store.clone()));
    assert_eq!(a.publish(vec![upsert("d", "first", 1)]), 1);
    let stop = store.stop_at_swing();
    let position = a.send(vec![upsert("d", "second", 2)]);
    let asleep = stop.wait();
    let (b, awake) = successor(&world);
    wake(&world, &a, asleep);
    // The one that has the turn publishes the same event, and the other never comes back by itself.
    awake.wake();
    assert_eq!(b.searchable(&position).unwrap(), 2);
    assert_eq!(b.publish(vec![upsert("d", "third", 3)]), 3);
    assert_eq!(holder(&world.pointer()), ("b", 2));
    assert_eq!(a.standstill().unwrap().reason, Reason::LostTurn);
    assert_eq!(world.manifest(3).writer, "b");
    a.stop();
    assert_eq!(holder(&world.pointer()), ("b", 2), "a goodbye of nobody's turn");
    b.stop();
}

#[test]
fn an_event_is_not_named_by_a_writer_that_slept_through_a_claim() {
    let world = world();
    let before = world.process("before");
    world.block_on(eventually("it claims the turn", || {
        (sequence(&world) > 1).then_some(())
    }));
    before.kill();
    let store = turnstile(&world);
    // Its claim is the first swing; the second names the event, because the life before ended without a goodbye.
    let stop = stop_at_swing(&store, 2);
    let a = Process::start(&world, Start::new("a").with_store(store));
    let position = a.send(vec![upsert("d", "first", 1)]);
    let asleep = stop.wait();
    assert_eq!(holder(&world.pointer()), ("a", 2));
    let (b, awake) = successor(&world);
    assert_eq!(holder(&world.pointer()), ("b", 3));
    wake(&world, &a, asleep);
    awake.wake();
    assert_eq!(b.searchable(&position).unwrap(), 1);
    a.stop();
    b.stop();
}

#[test]
fn a_goodbye_that_slept_through_a_claim_is_not_said_for_another() {
    let world = world();
    let store = turnstile(&world);
    let a = Process::start(&world, Start::new("a").with_store(store.clone()));
    assert_eq!(a.publish(vec![upsert("d", "first", 1)]), 1);
    let stop = store.stop_at_swing();
    let ending = thread::spawn(move || a.stop());
    let asleep = stop.wait();
    let b = world.process("b");
    assert_eq!(b.publish(vec![upsert("d", "second", 2)]), 2);
    let before = world.pointer();
    assert_eq!(holder(&before), ("b", 2));
    asleep.wake();
    ending.join().expect("it ends");
    assert_eq!(world.pointer(), before, "I-4: the sleeper changed the pointer");
    b.stop();
}
