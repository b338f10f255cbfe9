//! I-10 and I-11: garbage collection beside publishes and merges, each kept waiting at each of its calls of the store
//! while the other goes on. Nothing that is named, or was within the grace, goes; everything else does in the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use verdigris_core::garbage::{GRACE_NS, keys_of};
use verdigris_core::manifest::Manifest;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_core::retention::RELEASES_KEPT;
use verdigris_runtime::clock::Clock;
use verdigris_store::faults::Operation;
use verdigris_store::{Store, collection as objects, keys};

use super::holding::{Model, newest};
use super::roles::turnstile::{ROUND_NS, Turnstile};
use super::roles::{Process, Start, World, name, settings};

/// How often two rounds go by until everything that nobody needs must have gone: more than three times the grace.
const COLLECTIONS_MAX: i64 = 2 * (GRACE_NS / ROUND_NS);

/// A world whose time is moved by hand, with more releases than are kept.
struct Scene {
    world: World,
    clock: Clock,
    store: Arc<Turnstile>,
    process: Process,
    model: Model,
    batches: u64,
}

impl Scene {
    fn new() -> Self {
        let clock = Clock::manual(Clock::system().now_ns());
        let world = World::with_clock(clock.clone());
        world.create(&settings());
        let inner: Arc<dyn Store> = world.store.clone();
        let store = Turnstile::new(inner);
        let process = Process::start(&world, Start::new("a").with_store(store.clone()));
        let mut scene = Self {
            world,
            clock,
            store,
            process,
            model: Model::default(),
            batches: 0,
        };
        for _ in 0..RELEASES_KEPT + 10 {
            scene.publish();
        }
        scene
    }

    fn batch(&mut self) -> Vec<bytes::Bytes> {
        self.batches += 1;
        let n = self.batches;
        let mut events = vec![self.model.upsert(&format!("d{n}"), n), self.model.patch("moving", n)];
        events.push(self.model.upsert("moving", n));
        if n > 20 {
            events.push(self.model.delete(&format!("d{}", n - 20)));
        }
        events
    }

    fn publish(&mut self) {
        let events = self.batch();
        self.process.publish(events);
    }

    /// What the pointer names, or named within the grace, by its own words.
    fn named(&self, pointer: &Pointer) -> Vec<ManifestReference> {
        let now = self.clock.now_ns();
        let kept = pointer.kept.iter().map(|kept| &kept.manifest);
        let lately = pointer
            .unnamed
            .iter()
            .filter(|unnamed| now - unnamed.since.0 < GRACE_NS);
        kept.chain(lately.map(|unnamed| &unnamed.manifest)).cloned().collect()
    }

    /// I-10: everything that is named is there, and the newest release is as it must be.
    fn check(&self, when: &str) {
        let pointer = self.world.pointer();
        for reference in self.named(&pointer) {
            let manifest = self
                .world
                .block_on(objects::manifest(&*self.world.store, &name(), &reference));
            let manifest: Manifest =
                manifest.unwrap_or_else(|error| panic!("I-10: {when}: {}: {error}", reference.path));
            for path in keys_of(&manifest) {
                let file = self
                    .world
                    .store
                    .local_path(&keys::object(&name(), path))
                    .expect("a folder");
                assert!(file.exists(), "I-10: {when}: {path} of {} is gone", manifest.generation);
            }
        }
        self.model.check(&self.world, &newest(&self.world));
    }

    /// Every object of releases that is there.
    fn present(&self) -> BTreeSet<String> {
        let all = self
            .world
            .block_on(objects::list_all(&*self.world.store, &keys::folder(&name())));
        let path = |key: &str| key.split_once('/').map(|(_, path)| path.to_owned());
        let of_releases = |path: &String| {
            ["releases/", "segments/", "dead/"]
                .iter()
                .any(|part| path.starts_with(part))
        };
        let all = all
            .expect("it lists")
            .into_iter()
            .filter_map(|object| path(&object.key));
        all.filter(of_releases).collect()
    }

    /// Every object that something named needs.
    fn needed(&self) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        for reference in self.named(&self.world.pointer()) {
            let manifest = self
                .world
                .block_on(objects::manifest(&*self.world.store, &name(), &reference));
            needed.extend(keys_of(&manifest.expect("it is named")).map(str::to_owned));
            needed.insert(reference.path);
        }
        needed
    }

    /// Lets the collector do a whole round, whatever else sleeps.
    fn collect(&self) {
        self.store.let_collect(&self.clock, 2);
    }

    /// I-11: lets the collector go round until nothing is there but what is needed. A merge may be under way, whose
    /// segment nobody names yet, and the grace of what was let go last may end behind any round.
    fn collect_all(&self) {
        for _ in 0..COLLECTIONS_MAX {
            if self.present() == self.needed() {
                return;
            }
            self.collect();
        }
        assert_eq!(self.present(), self.needed(), "I-11");
    }
}

#[test]
fn publishes_and_merges_beside_a_collection_that_sleeps_at_any_call_lose_nothing() {
    let mut scene = Scene::new();
    let mut deletes = 0;
    // A round lists, reads the pointer and manifests, and deletes: each call in turn is the one that sleeps.
    for n in 0..120 {
        if n >= 40 && deletes > 0 {
            break;
        }
        let (mut calls, mut is_round) = (0, false);
        let stop = scene.store.stop_collector_at(move |operation, _| {
            is_round |= operation == Operation::List;
            calls += u64::from(is_round);
            calls == n + 1
        });
        let asleep = stop.wait_while(|| scene.clock.advance(ROUND_NS));
        deletes += u64::from(asleep.operation == Operation::Delete);
        let when = format!("{:?} {} asleep", asleep.operation, asleep.key);
        for _ in 0..4 {
            scene.publish();
        }
        scene.check(&when);
        asleep.wake();
        scene.publish();
        scene.check(&format!("{when}, and awake again"));
    }
    assert!(deletes > 0, "no round came to a delete");
    // I-11: what nobody names goes in the end.
    let before = scene.present().len();
    scene.clock.advance(GRACE_NS);
    scene.publish();
    scene.collect_all();
    scene.check("after the last round");
    println!(
        "{before} objects before the last rounds, {} after",
        scene.present().len()
    );
    scene.process.stop();
}

#[test]
fn collections_beside_a_publish_that_sleeps_at_any_call_take_nothing_of_it() {
    let mut scene = Scene::new();
    let mut asleep_at = Vec::new();
    // Two files, dead rows, the manifest, a look at the pointer and the swing; and again where merges come between.
    for n in 0..18 {
        let mut calls = 0;
        let stop = scene.store.stop_others_at(move |_, _| {
            calls += 1;
            calls == n % 6 + 1
        });
        let events = scene.batch();
        let position = scene.world.append(events).to_string();
        let asleep = stop.wait();
        asleep_at.push(format!(
            "{:?} {}",
            asleep.operation,
            asleep.key.split('/').nth(1).unwrap_or_default()
        ));
        // Longer than the grace: what it has written is old now, and named by nobody.
        scene.clock.advance(2 * GRACE_NS);
        scene.collect();
        asleep.wake();
        let told = scene.process.searchable(&position);
        assert!(told.is_ok(), "I-10: asleep at {asleep_at:?}: {told:?}");
        scene.check(&format!("asleep at {}", asleep_at.last().expect("it slept")));
    }
    println!("{asleep_at:?}");
    scene.process.stop();
}
