//! Every order in which an owner, an indexer, a search role and people can act, tried once.
//!
//! Goal: I-8, I-9 and I-19 hold in each state that a rollout can reach, and from each state it comes to an end by itself.
//! Method: a world of a real pointer with its real edits and the real plan; a state is explored once, found again by
//! what it holds without names that are only counted up. The owner plans from what it saw and acts later, on what the
//! pointer has become; an owner that was succeeded wakes up with what it had planned.

mod explored;

use std::collections::BTreeSet;

use self::explored::measured;
use super::tests::{build, release, settings_reference};
use super::*;
use crate::digest::Digest;
use crate::gates::Measured;
use crate::gates::tests::{good, value};
use crate::pointer::{LineagePointer, LineageRole, Pointer, Published};

const SECOND: i64 = 1_000_000_000;

/// What a lineage is in truth; its name begins with the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    Good,
    Bad,
    /// One gate gets no data.
    Dumb,
}

impl Quality {
    fn of(lineage: &LineageId) -> Self {
        match lineage.as_str().as_bytes()[0] {
            b'b' => Self::Bad,
            b'd' => Self::Dumb,
            _ => Self::Good,
        }
    }
}

/// How many of each kind of event are left.
#[derive(Debug, Clone, Copy)]
struct Budget {
    publishes: u32,
    builds: u32,
    words: u32,
    crashes: u32,
    faults: u32,
    ticks: u32,
}

#[derive(Debug, Clone)]
enum Event {
    /// A publish of the active lineage alone.
    Publish,
    /// A publish of both.
    Follow,
    /// A candidate is named.
    Named(&'static str),
    /// A window is published as a candidate alone.
    Alone,
    /// The search role opens what the pointer names beside.
    Opens,
    /// The search role begins anew.
    Closes,
    /// What is being measured is stored.
    Measured,
    /// Measuring comes to nothing.
    MeasuringFails,
    /// Requests fail from now on.
    Errors,
    /// The owner looks and plans.
    Plans,
    /// The owner does the first thing that it planned.
    Acts,
    /// The owner ends; another begins. What was planned may still be done by the one that ended.
    Crashes,
    /// The owner that ended wakes up.
    SleeperActs,
    /// A person's word.
    Approves,
    Aborts,
    GoesBack,
    Holds,
    Resumes,
    /// Time passes: to the next wake, and to the end of bake and keep.
    Ticks(i64),
}

#[derive(Clone)]
struct World {
    pointer: Pointer,
    now: Timestamp,
    budget: Budget,
    /// Newest stored measurement: lineage, generation, when.
    stored: Option<(LineageId, u64, Timestamp)>,
    ready: Option<(LineageId, u64)>,
    /// The lineage whose answers fail.
    failing: Option<LineageId>,
    // The owner's memory.
    epoch: u64,
    memory: Observation,
    in_work: Option<(LineageId, u64)>,
    planned: Vec<Action>,
    sleeper: Option<(u64, Action)>,
    // What really happened, to check by.
    approved: BTreeSet<(LineageId, u64)>,
    answered: BTreeSet<LineageId>,
    returned: bool,
    aborted: BTreeSet<LineageId>,
}

impl World {
    fn new(budget: Budget) -> Self {
        let start = Timestamp(1_000 * SECOND);
        let first = Pointer::first(
            "products".parse().expect("valid"),
            settings_reference(),
            "first".to_owned(),
            start,
        );
        let claimed = first.claim("i", "c".to_owned(), start).expect("free");
        let owned = claimed
            .claim_rollouts("up/1", false, "o".to_owned(), start)
            .expect("free");
        let mut world = Self {
            pointer: owned,
            now: start,
            budget,
            stored: None,
            ready: None,
            failing: None,
            epoch: 1,
            memory: Observation::default(),
            in_work: None,
            planned: Vec::new(),
            sleeper: None,
            approved: BTreeSet::new(),
            answered: BTreeSet::new(),
            returned: false,
            aborted: BTreeSet::new(),
        };
        world.publish("a0", None);
        world.answered.insert("a0".to_owned().into());
        world
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

    fn active(&self) -> &LineagePointer {
        self.pointer.active.as_ref().expect("something answers")
    }

    fn other(&self) -> Option<&LineagePointer> {
        self.pointer.other.as_ref()
    }

    fn is_level(&self) -> bool {
        self.other()
            .is_some_and(|other| other.generation == self.active().generation)
    }

    /// What the owner sees now.
    fn seen(&self) -> Observation {
        let measurements =
            |(lineage, generation, when): &(LineageId, u64, Timestamp)| measured(lineage, *generation, *when);
        let named = self.other().map(|other| &other.lineage);
        let stored = self.stored.as_ref().filter(|stored| Some(&stored.0) == named);
        let open = self.ready.clone();
        Observation {
            other: open.map_or(OtherSeen::NotOpen, |(lineage, generation)| OtherSeen::Ready {
                lineage,
                generation,
            }),
            measured: stored.map(measurements),
            is_measuring: self.in_work.is_some(),
            window: self.failing.clone().map(|lineage| ServingWindow {
                lineage,
                requests: 100,
                errors: 50,
                p50_ms: 1.0,
                p99_ms: 1.0,
            }),
            ..self.memory.clone()
        }
    }

    fn events(&self) -> Vec<Event> {
        let (budget, other) = (&self.budget, self.other());
        let mut events = vec![Event::Plans];
        let mut may = |is_possible: bool, event: Event| {
            if is_possible {
                events.push(event);
            }
        };
        let is_candidate = other.is_some_and(|other| other.role == LineageRole::Candidate);
        let is_behind = other.is_some_and(|other| other.generation < self.active().generation);
        may(!self.planned.is_empty(), Event::Acts);
        may(self.sleeper.is_some(), Event::SleeperActs);
        may(budget.publishes > 0, Event::Publish);
        may(is_behind, Event::Follow);
        let opened = other.map(|other| (other.lineage.clone(), other.generation));
        may(opened != self.ready, Event::Opens);
        // The owner takes a result between a plan's last action and its next look, never within.
        may(self.in_work.is_some() && self.planned.is_empty(), Event::Measured);
        for name in ["g", "b", "d"] {
            may(budget.builds > 0 && other.is_none(), Event::Named(name));
        }
        if budget.faults > 0 {
            may(self.ready.is_some(), Event::Closes);
            may(self.in_work.is_some(), Event::MeasuringFails);
            may(self.failing.is_none() && self.answered.len() > 1, Event::Errors);
        }
        may(budget.builds > 0 && other.is_none(), Event::Alone);
        may(budget.crashes > 0, Event::Crashes);
        if budget.words > 0 {
            let judged = self.stored.as_ref().map(|stored| &stored.0);
            may(
                is_candidate && judged == other.map(|other| &other.lineage),
                Event::Approves,
            );
            may(other.is_some(), Event::Aborts);
            may(other.is_some() && !is_candidate, Event::GoesBack);
            may(self.pointer.promotion_hold.is_none(), Event::Holds);
            may(self.pointer.promotion_hold.is_some(), Event::Resumes);
        }
        if budget.ticks > 0 {
            let plan = self.plan();
            let wake = plan.wake_at.map(|wake| wake.since(self.now)).filter(|wait| *wait > 0);
            events.extend(wake.map(Event::Ticks));
            // A pause that is over.
            let is_leveling = self.pointer.leveling.is_some();
            events.extend(is_leveling.then_some(Event::Ticks(5 * SECOND)));
        }
        events
    }

    fn plan(&self) -> Plan {
        plan(&Spec::default(), &self.pointer, &self.seen(), self.now)
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Publish => {
                self.budget.publishes -= 1;
                let active = self.active().lineage.to_string();
                self.publish(&active, None);
            }
            Event::Follow => {
                let (active, other) = (
                    self.active().lineage.to_string(),
                    self.other().map(|other| other.lineage.to_string()),
                );
                self.publish(&active, other.as_deref());
            }
            Event::Named(letter) => self.name_candidate(letter),
            Event::Alone => self.publish_alone(),
            Event::Opens => self.ready = self.other().map(|other| (other.lineage.clone(), other.generation)),
            Event::Closes => {
                self.budget.faults -= 1;
                (self.ready, self.failing) = (None, None);
            }
            Event::Measured => {
                let (lineage, generation) = self.in_work.take().expect("it is in work");
                self.stored = Some((lineage, generation, self.now));
                self.memory.measuring = Tries::default();
            }
            Event::MeasuringFails => {
                self.budget.faults -= 1;
                self.in_work = None;
                self.memory.measuring.fail(self.now);
            }
            Event::Errors => {
                self.budget.faults -= 1;
                self.failing = Some(self.active().lineage.clone());
            }
            Event::Plans => self.planned = self.checked_plan().actions,
            Event::Acts => {
                let action = self.planned.remove(0);
                self.act(self.epoch, action);
            }
            Event::Crashes => self.crash(),
            Event::SleeperActs => {
                let (epoch, action) = self.sleeper.take().expect("it sleeps");
                self.act(epoch, action);
            }
            Event::Ticks(wait) => {
                self.budget.ticks -= 1;
                self.now = self.now.plus(*wait);
            }
            Event::Approves | Event::Aborts | Event::GoesBack | Event::Holds | Event::Resumes => self.word(event),
        }
        self.pointer.check().expect("consistent");
    }

    fn name_candidate(&mut self, letter: &str) {
        let name = format!("{letter}{}", self.budget.builds);
        self.budget.builds -= 1;
        let begun = self
            .pointer
            .begin_build(1, build(&name, self.now), format!("b{name}"), self.now);
        self.pointer = begun.expect("there is a place");
        let active = self.active().lineage.to_string();
        self.publish(&active, Some(&name));
        self.memory = Observation::default();
    }

    fn publish_alone(&mut self) {
        let name = format!("w{}", self.budget.builds);
        self.budget.builds -= 1;
        let generation = self.pointer.generation + 1;
        let published = Published {
            release: release(&name, generation, 20_000),
            settings: settings_reference(),
            grace_ns: 0,
            other: None,
        };
        let next = self
            .pointer
            .publish_candidate(1, &published, format!("p{generation}"), self.now);
        self.pointer = next.expect("there is a place");
        self.memory = Observation::default();
    }

    fn crash(&mut self) {
        self.budget.crashes -= 1;
        let sleeps = (!self.planned.is_empty()).then(|| self.planned.remove(0));
        self.sleeper = sleeps.map(|action| (self.epoch, action));
        self.planned.clear();
        (self.memory, self.in_work) = (Observation::default(), None);
        let nonce = format!("o{}", self.pointer.sequence);
        self.pointer = self
            .pointer
            .claim_rollouts("up/2", false, nonce, self.now)
            .expect("local");
        self.epoch += 1;
    }

    fn word(&mut self, word: &Event) {
        self.budget.words -= 1;
        let (nonce, epoch) = (format!("w{}", self.pointer.sequence), self.epoch);
        let other = self.other().map(|other| other.lineage.clone());
        let named = other.clone().unwrap_or_else(|| "none".to_owned().into());
        let next = match word {
            Event::Approves => {
                let generation = self.stored.as_ref().expect("judged").1;
                self.approved.insert((named.clone(), generation));
                self.pointer.approve(epoch, &named, generation, "ada", nonce, self.now)
            }
            Event::Aborts => {
                self.aborted.insert(named.clone());
                self.pointer.drop_other(epoch, &named, nonce, self.now)
            }
            Event::Holds => self.pointer.hold_promotion(epoch, "ada", "wait", nonce, self.now),
            Event::Resumes => {
                self.returned = false;
                self.pointer.resume_promotion(epoch, nonce, self.now)
            }
            _ => {
                self.memory.return_wish = Some(ReturnWish {
                    lineage: named,
                    actor: "ada".to_owned(),
                    reason: "odd".to_owned(),
                });
                return;
            }
        };
        self.pointer = next.expect("a word that applies");
    }

    /// What the owner plans, and what must hold of it at that moment.
    fn checked_plan(&self) -> Plan {
        let plan = self.plan();
        for action in &plan.actions {
            if let Action::Flip(flip) | Action::Return(flip) = action {
                let open = self.ready.as_ref().filter(|(lineage, _)| *lineage == flip.lineage);
                let (_, generation) = open.expect("I-8: traffic is moved only to what is open");
                let named = self.other().map(|other| other.generation);
                assert!(flip.stale || Some(*generation) == named, "I-8: and only to its newest");
            }
        }
        plan
    }

    fn act(&mut self, epoch: u64, action: Action) {
        let (nonce, now, before) = (format!("x{}", self.pointer.sequence), self.now, self.pointer.clone());
        let next = match &action {
            Action::Level { lineage } => before.want_level(epoch, lineage, nonce, now),
            Action::StopLeveling | Action::LevelLater => before.stop_leveling(epoch, nonce, now),
            Action::Flip(flip) => before.flip(epoch, flip, nonce, now),
            Action::Return(flip) => before.return_to_way_back(epoch, flip, nonce, now),
            Action::Retire { lineage } => before.drop_other(epoch, lineage, nonce, now),
            Action::Measure { lineage, generation } => {
                if epoch == self.epoch {
                    self.in_work = Some((lineage.clone(), *generation));
                }
                return;
            }
        };
        // The pointer has moved since it was planned.
        let Ok(next) = next else { return };
        assert_eq!(epoch, self.epoch, "an owner that was succeeded moves nothing");
        self.remember(&action);
        match &action {
            Action::Flip(flip) => self.check_flip(flip),
            Action::Return(flip) => {
                self.returned = true;
                assert!(next.promotion_hold.is_some(), "I-9: a return sticks");
                assert!(self.answered.contains(&flip.lineage), "it has answered before");
            }
            Action::Retire { lineage } => {
                let other = before
                    .other
                    .as_ref()
                    .filter(|other| other.lineage == *lineage)
                    .expect("it was named");
                assert_eq!(other.role, LineageRole::WayBack, "only a way back is retired");
                assert!(now.since(other.since) >= 3_600 * SECOND, "I-9: it is warm for keep");
            }
            _ => {}
        }
        if let Action::Flip(flip) | Action::Return(flip) = &action {
            self.answered.insert(flip.lineage.clone());
            let served = next.served.last().expect("it is in the history");
            assert_eq!((&served.lineage, &served.actor), (&flip.lineage, &flip.actor));
            // The search role still has what answered before: they change places.
            let left = before.active.as_ref().expect("it answered");
            self.ready = Some((left.lineage.clone(), left.generation));
            self.failing = None;
        }
        self.pointer = next;
    }

    /// What the owner keeps in mind of what it did.
    fn remember(&mut self, action: &Action) {
        match action {
            Action::Level { .. } => self.memory.leveling_since = Some(self.now),
            Action::StopLeveling => self.memory.leveling_since = None,
            Action::LevelLater => {
                self.memory.leveling_since = None;
                self.memory.leveling.fail(self.now);
            }
            Action::Flip(_) | Action::Return(_) => {
                self.memory = Observation::default();
            }
            Action::Measure { .. } | Action::Retire { .. } => {}
        }
    }

    fn check_flip(&self, flip: &Flip) {
        let lineage = &flip.lineage;
        assert!(
            !self.returned,
            "I-9: nothing is promoted after a return until somebody resumes"
        );
        assert!(
            self.pointer.promotion_hold.is_none(),
            "I-9: nothing is promoted while it is held"
        );
        assert!(!self.aborted.contains(lineage), "what was given up stays so");
        let stored = self.stored.as_ref().filter(|stored| stored.0 == *lineage);
        let (_, judged, _) = stored.expect("I-19: nothing is promoted unseen");
        if flip.actor == BY_ITSELF {
            assert_eq!(
                Quality::of(lineage),
                Quality::Good,
                "I-19: {lineage} is promoted by itself"
            );
            assert!(!self.answered.contains(lineage), "I-9: {lineage} was returned from");
        } else {
            assert!(
                self.approved.contains(&(lineage.clone(), *judged)),
                "nobody said so of what was judged"
            );
        }
    }
}
