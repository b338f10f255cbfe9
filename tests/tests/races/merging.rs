//! A merge runs beside publishes: what changed or went while it ran is dead in its result, and a fault at any call of
//! the store leaves a whole release.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use verdigris_core::manifest::{Manifest, PublishReason, SegmentId};
use verdigris_core::merge;
use verdigris_store::Store;
use verdigris_store::faults::{Fault, FaultyStore, Script};

use super::holding::{Model, newest};
use super::roles::{Process, Start, World, eventually, name, settings};

/// Segments of one tier.
const SEGMENTS: u64 = merge::SEGMENTS_PER_TIER as u64;

fn segments(manifest: &Manifest) -> BTreeSet<SegmentId> {
    manifest.segments.iter().map(|segment| segment.id.clone()).collect()
}

/// The sequence of events in the newest release, as the indexer has told.
fn wait_until(process: &Process, what: &str, mut is_so: impl FnMut() -> bool) {
    process.block_on(eventually(what, || is_so().then_some(())));
}

/// Documents of one large segment.
const ROWS: u64 = 300;

/// Changes to documents of the segments that a merge is reading: some anew, some in part, some gone, some back again.
fn changes(model: &mut Model, round: u64, n: u64) -> Vec<bytes::Bytes> {
    let id = |offset: u64| format!("r{round}-{}", (n * 37 + offset * 101) % (SEGMENTS * ROWS));
    let batch = 1_000 * (round + 1) + n;
    let mut events = vec![
        model.upsert(&id(0), batch),
        model.patch(&id(1), batch),
        model.delete(&id(2)),
    ];
    events.push(model.delete(&id(3)));
    events.push(model.upsert(&id(3), batch));
    events.push(model.patch(&id(4), batch));
    events
}

/// What raced with one merge: publishes between its beginning and its commit, and rows of its result that were dead.
#[derive(Debug, Default)]
struct Raced {
    publishes: u64,
    dead_at_birth: u64,
}

/// Looks at the releases from `first` on, the newest last: the merges among them, and what raced with each.
fn raced(manifests: &[Manifest]) -> Vec<Raced> {
    let merges = (1..manifests.len()).filter(|at| manifests[*at].reason == PublishReason::Merge);
    let of = |at: usize| {
        let (before, after) = (segments(&manifests[at - 1]), segments(&manifests[at]));
        let result = after
            .difference(&before)
            .next()
            .and_then(|id| manifests[at].segment(id));
        let inputs: BTreeSet<SegmentId> = before.difference(&after).cloned().collect();
        // It began with the first release whose plan it is.
        let is_planned = |manifest: &&Manifest| {
            let plan = merge::plan(&manifest.segments, &[]);
            plan.is_some_and(|plan| inputs.is_subset(&plan.segments.into_iter().collect()))
        };
        let publishes = manifests[..at]
            .iter()
            .rev()
            .take_while(is_planned)
            .count()
            .saturating_sub(1) as u64;
        let dead = result.map_or(0, |entry| entry.rows + entry.ghosts - entry.live - entry.live_ghosts);
        Raced {
            publishes,
            dead_at_birth: u64::from(dead),
        }
    };
    merges.map(of).collect()
}

#[test]
fn what_changes_while_a_merge_runs_is_dead_in_its_result() {
    let world = World::new();
    world.create(&settings());
    let process = world.process("a");
    let (mut model, mut manifests) = (Model::default(), Vec::<Manifest>::new());
    let (mut round, mut all) = (0, Raced::default());
    // A merge is as quick as the machine: rounds go on until enough was caught in the middle of one.
    while all.publishes < 20 || all.dead_at_birth < 20 {
        assert!(round < 30, "no publish meets a merge: {all:?}");
        let publish = |events, manifests: &mut Vec<Manifest>, model: &Model| {
            process.publish(events);
            let newest = newest(&world);
            // Merges publish as well: releases are told apart by their generations.
            let from = manifests.last().map_or(newest.generation, |last| last.generation + 1);
            manifests.extend((from..=newest.generation).map(|generation| world.manifest(generation)));
            if newest.reason == PublishReason::Merge {
                model.check(&world, &newest);
            }
        };
        for segment in 0..SEGMENTS {
            let ids = segment * ROWS..(segment + 1) * ROWS;
            let events = ids.map(|d| model.upsert(&format!("r{round}-{d}"), round)).collect();
            publish(events, &mut manifests, &model);
        }
        for n in 0..40 {
            let events = changes(&mut model, round, n);
            publish(events, &mut manifests, &model);
        }
        wait_until(&process, "merges are over", || {
            merge::plan(&read(&world).segments, &[]).is_none()
        });
        let newest = newest(&world);
        model.check(&world, &newest);
        let from = manifests.last().map_or(1, |last| last.generation + 1);
        manifests.extend((from..=newest.generation).map(|generation| world.manifest(generation)));
        let met = raced(&manifests);
        all.publishes = met.iter().map(|raced| raced.publishes).sum();
        all.dead_at_birth = met.iter().map(|raced| raced.dead_at_birth).sum();
        round += 1;
    }
    println!("{round} rounds, {} releases, {all:?}", manifests.len());
    process.stop();
    let process = world.process("b");
    model.check(&world, &newest(&world));
    process.stop();
}

/// The newest manifest, read where the caller is in a runtime already.
fn read(world: &World) -> Manifest {
    let folder = world.folder.path().join("store/products");
    loop {
        let bytes = std::fs::read(folder.join("latest")).expect("there is a pointer");
        let pointer = verdigris_core::pointer::Pointer::decode(&bytes).expect("whole");
        let active = pointer.active.expect("there is a release");
        if let Ok(bytes) = std::fs::read(folder.join(&active.manifest.path)) {
            return Manifest::decode(&bytes).expect("whole");
        }
    }
}

/// The fault at call `n` about the collection after `armed` was set, counted from 0.
fn at_call(n: u64, fault: Fault, armed: Arc<AtomicBool>) -> Box<Script> {
    let calls = AtomicU64::new(0);
    let is_nth = move || armed.load(Ordering::SeqCst) && calls.fetch_add(1, Ordering::SeqCst) == n;
    Box::new(move |_| is_nth().then_some(fault))
}

/// Brings a tier to the brink of a merge, and lets publishes go on with a fault at call `n` from there. False where
/// there were not so many calls.
fn with_fault(world: &World, model: &mut Model, n: u64, fault: Fault) -> bool {
    let inner: Arc<dyn Store> = world.store.clone();
    let (armed, hit) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (script, was_hit) = (at_call(n, fault, armed.clone()), hit.clone());
    let script =
        move |call: &verdigris_store::faults::Call<'_>| script(call).inspect(|_| was_hit.store(true, Ordering::SeqCst));
    let store = Arc::new(FaultyStore::new(inner, Box::new(script)));
    let life = format!("{fault:?}-{n}");
    let process = Process::start(world, Start::new(&life).with_store(store.clone()));
    for d in 0..SEGMENTS - 1 {
        process.publish(vec![model.upsert(&format!("{life}-{d}"), n), model.patch("waits", n)]);
    }
    armed.store(true, Ordering::SeqCst);
    let handle = process.indexer.handle(&name()).expect("it lists the collection");
    let first = vec![
        model.upsert(&format!("{life}-last"), n),
        model.delete(&format!("{life}-0")),
    ];
    let again = vec![
        model.patch(&format!("{life}-1"), 1_000 + n),
        model.upsert(&format!("{life}-0"), n),
    ];
    let mut last = None;
    for events in [first, again] {
        let position = world.append(events);
        wait_until(&process, "a crash, or a release", || {
            store.is_crashed() || handle.progress.published().sequence >= position.sequence
        });
        last = Some(position.to_string());
    }
    wait_until(&process, "a crash, or the end of merges", || {
        store.is_crashed() || merge::plan(&read(world).segments, &[]).is_none()
    });
    if store.is_crashed() {
        process.kill();
        let process = world.process("next");
        let told = process.searchable(&last.expect("both were sent"));
        assert!(told.is_ok(), "{fault:?} at call {n}: {told:?}");
        process.stop();
    } else {
        process.stop();
    }
    model.check(world, &newest(world));
    hit.load(Ordering::SeqCst)
}

#[test]
fn a_fault_at_any_call_of_a_merge_and_the_publishes_beside_it_leaves_a_whole_release() {
    let world = World::new();
    world.create(&settings());
    let mut model = Model::default();
    for fault in [Fault::Crash, Fault::LostAnswer] {
        let hit = (0..24).filter(|n| with_fault(&world, &mut model, *n, fault)).count();
        println!("{fault:?} at {hit} calls");
        assert!(hit >= 14, "{hit} calls are no publishes and merges");
    }
}
