//! Random walks of a controller, a platform, an indexer and people over two slots.
//!
//! Goal: I-6, I-8, I-9 and I-19 hold in each state that is reached, whoever ends or says what at any moment, and from
//! each state all comes to an end by itself. Method: a world of a real pointer with its real edits, the real plan, and
//! a platform that refuses a write to an object which has changed since it was seen. The controller plans from what it
//! saw and acts later; one that was succeeded wakes up with what it still had in hand. A walk is a seed: the message
//! of a failure names it.

mod acts;
mod walks;

use std::collections::BTreeSet;

use super::*;
use crate::gates::tests::{good, value};
use crate::gates::{Measured, Measurements};
use crate::pointer::{LineagePointer, LineageRole, Pointer, Published};
use crate::rollout::tests::{build, release, settings_reference};
use crate::rollout::{Observation, Tries};

const SECOND: i64 = 1_000_000_000;
/// Name of the template whose pods never get ready.
const BROKEN: &str = "broken";

/// One slot as it is.
#[derive(Debug, Clone, Default)]
struct Place {
    seen: SlotSeen,
    /// Rises with each change.
    version: u64,
    /// Whether something that is no swap took its pods away.
    is_faulted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Publish,
    Follow,
    Names(char),
    /// Pods are made and ended as asked, and become ready where they can.
    Settles(Slot),
    Opens(Slot),
    /// Pods end that nobody asked to end.
    Fails(Slot),
    Endpoints,
    Measured,
    Errors,
    Plans,
    Acts,
    /// The next write is lost on its way, or done without an answer.
    Loses,
    DoneUnheard,
    Crashes,
    SleeperActs,
    Approves,
    ApprovesTemplate,
    Aborts,
    GoesBack,
    Holds,
    Resumes,
    NewTemplate(usize),
    /// A person gives up what gates speak against.
    GivesUp,
    ScalesTo(u32),
    StepsBecome(usize),
    /// So many pods fit, of both slots together.
    Fit(u32),
    Ticks(i64),
}

/// What was planned, with the versions of what was seen then.
#[derive(Debug, Clone)]
struct InHand {
    epoch: u64,
    versions: [u64; 3],
    /// Whether promotion was held when it was planned.
    was_held: bool,
    actions: Vec<Action>,
}

#[derive(Clone)]
struct World {
    pointer: Pointer,
    now: Timestamp,
    blue: Place,
    green: Place,
    traffic: Option<Traffic>,
    traffic_version: u64,
    template: String,
    replicas: u32,
    steps: Steps,
    fit: u32,
    names: u32,
    // The controller.
    epoch: u64,
    in_hand: Option<InHand>,
    sleeper: Option<InHand>,
    memory: Observation,
    measuring: Option<(LineageId, u64)>,
    demoted_at: Option<Timestamp>,
    wish: Option<Wish>,
    // What really happened, to check by.
    stored: Option<(LineageId, u64, Timestamp)>,
    failing: Option<TargetId>,
    approved: BTreeSet<String>,
    returned: bool,
    way_back: Option<(TargetId, Timestamp)>,
    moves: u64,
    steps_taken: u64,
    /// Returns before the last step.
    narrowed: u64,
    planned_ready: BTreeSet<TargetId>,
}

impl World {
    fn new() -> Self {
        let start = Timestamp(1_000 * SECOND);
        let name = "products".parse().expect("valid");
        let first = Pointer::first(name, settings_reference(), "first".to_owned(), start);
        let claimed = first.claim("i", "c".to_owned(), start).expect("free");
        let owned = claimed.claim_rollouts("controller/1", false, "o".to_owned(), start);
        let mut world = Self {
            pointer: owned.expect("free"),
            now: start,
            blue: Place::default(),
            green: Place::default(),
            traffic: None,
            traffic_version: 0,
            template: "one".to_owned(),
            replicas: 2,
            steps: Steps::default(),
            fit: u32::MAX,
            names: 0,
            epoch: 1,
            in_hand: None,
            sleeper: None,
            memory: Observation::default(),
            measuring: None,
            demoted_at: None,
            wish: None,
            stored: None,
            failing: None,
            approved: BTreeSet::new(),
            returned: false,
            way_back: None,
            moves: 0,
            steps_taken: 0,
            narrowed: 0,
            planned_ready: BTreeSet::new(),
        };
        world.publish("g0", None);
        world
    }

    fn place(&mut self, slot: Slot) -> &mut Place {
        match slot {
            Slot::Blue => &mut self.blue,
            Slot::Green => &mut self.green,
        }
    }

    fn at(&self, slot: Slot) -> &Place {
        match slot {
            Slot::Blue => &self.blue,
            Slot::Green => &self.green,
        }
    }

    fn publish(&mut self, lineage: &str, other: Option<&str>) {
        let generation = self.pointer.generation + 1;
        let published = Published {
            release: release(lineage, generation, 20_000),
            settings: settings_reference(),
            grace_ns: 0,
            other: other.map(|other| release(other, generation, 20_000)),
        };
        let next = self.pointer.publish(1, &published, format!("p{generation}"), self.now);
        self.pointer = next.expect("one indexer");
    }

    fn spec(&self) -> Spec {
        Spec {
            rollout: crate::rollout::Spec::default(),
            template: self.template.clone().into(),
            replicas: self.replicas,
            steps: self.steps.clone(),
            is_paused: false,
        }
    }

    fn seen(&self) -> Seen {
        let mut memory = self.memory.clone();
        memory.is_measuring = self.measuring.is_some();
        let named = self.pointer.other.as_ref().map(|other| &other.lineage);
        let stored = self.stored.as_ref().filter(|stored| Some(&stored.0) == named);
        memory.measured = stored.map(|(lineage, generation, at)| measured(lineage, *generation, *at));
        let slot = |place: &Place| {
            let mut seen = place.seen.clone();
            for pod in &mut seen.pods {
                let fails = self.failing.as_ref() == Some(&pod.target);
                if let Some(report) = pod.report.as_mut() {
                    (report.requests, report.errors) = (100, if fails { 50 } else { 0 });
                }
            }
            seen
        };
        Seen {
            blue: slot(&self.blue),
            green: slot(&self.green),
            traffic: self.traffic.clone(),
            memory,
            wish: self.wish.clone(),
            idle_quiet_since: Some(Timestamp(0)),
            demoted_at: self.demoted_at,
            grants: vec![Grant {
                quota: "q".to_owned(),
                resource: "pods".to_owned(),
                left: Amount(self.free()),
                per_pod: Amount(1),
            }],
            epoch: self.epoch,
        }
    }

    /// How many more pods fit.
    fn free(&self) -> i128 {
        let there = self.blue.seen.pods.len() + self.green.seen.pods.len();
        i128::from(self.fit) - there as i128
    }

    fn versions(&self) -> [u64; 3] {
        [self.blue.version, self.green.version, self.traffic_version]
    }

    fn selected(&self) -> Option<Slot> {
        self.seen().selected()
    }

    /// Generation that pods of a lineage can have open now.
    fn generation(&self, lineage: &LineageId) -> Option<u64> {
        let named = [&self.pointer.active, &self.pointer.other];
        let named = named.into_iter().flatten();
        named
            .filter(|named| named.lineage == *lineage)
            .map(|named| named.generation)
            .next()
    }

    fn ready(&self, target: &TargetId) -> usize {
        let places = [&self.blue, &self.green];
        let pods = places.into_iter().flat_map(|place| &place.seen.pods);
        pods.filter(|pod| pod.is_ready && pod.target == *target).count()
    }

    /// What must hold in each state.
    fn check(&self) {
        let Some(target) = self.traffic.as_ref().and_then(|traffic| traffic.target.as_ref()) else {
            assert_eq!(self.moves, 0, "I-8: something is selected from the first rollout on");
            return;
        };
        let is_it = |slot: &Slot| self.at(*slot).seen.target.as_ref().map(Target::id).as_ref() == Some(target);
        let slots: Vec<Slot> = Slot::ALL.into_iter().filter(is_it).collect();
        assert_eq!(slots.len(), 1, "I-6: one slot holds what is selected");
        let place = self.at(slots[0]);
        assert!(place.seen.replicas > 0, "I-6: what is selected has pods");
        let is_ready = self.ready(target) > 0 || place.is_faulted;
        assert!(is_ready, "I-6: a pod of what is selected is ready: {place:?}");
        if let Some(widened) = self.traffic.as_ref().and_then(|traffic| traffic.widened.as_ref()) {
            let slot = self
                .seen()
                .widened()
                .expect("I-6: a slot holds what is selected beside");
            assert!(self.at(slot).seen.replicas > 0, "I-6: {widened:?} has pods");
            assert_ne!(slot, slots[0], "two slots share traffic");
        }
    }
}

fn quality(lineage: &LineageId) -> char {
    lineage.as_str().chars().next().unwrap_or('g')
}

fn measured(lineage: &LineageId, generation: u64, when: Timestamp) -> Measurements {
    let mut m = good();
    (m.candidate.lineage, m.candidate.generation, m.measured_at) = (lineage.clone(), generation, when);
    value(&mut m.same_generation).generation = generation;
    match quality(lineage) {
        'b' => value(&mut m.recall).recall = 0.3,
        'd' => m.deletes = Measured::default(),
        _ => {}
    }
    m
}
