//! Every order in which indexers, a rollout owner and a store with faults can act, tried once.
//!
//! Method: a world of real `Commit` machines around a modelled store. A state is explored once, found again by its
//! digest. A writer that sleeps is one that is not chosen for long; one that crashed is one that is never chosen again:
//! both are among the orders. What must hold is checked in every state, so that orders need not end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::digest::Digest;
use crate::manifest::{LineageId, SettingsReference};
use crate::pointer::{KeptRelease, ManifestReference, Published};
use crate::timestamp::Timestamp;

/// What a swing is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    Claim {
        id: &'static str,
    },
    Publish {
        id: &'static str,
        epoch: u64,
        generation: u64,
    },
    Settings {
        version: u64,
    },
    Goodbye {
        id: &'static str,
        epoch: u64,
    },
}

impl Purpose {
    /// Whose turn it must be at the moment of the swing (I-4).
    fn turn(&self) -> Option<(&'static str, u64)> {
        match self {
            Self::Publish { id, epoch, .. } | Self::Goodbye { id, epoch } => Some((id, *epoch)),
            Self::Claim { .. } | Self::Settings { .. } => None,
        }
    }

    fn edit(&self, pointer: &Pointer, nonce: &str) -> Result<Pointer, EditRefused> {
        let (nonce, now) = (nonce.to_owned(), Timestamp(1));
        match self {
            Self::Claim { id } => pointer.claim(id, nonce, now),
            Self::Publish { epoch, generation, .. } => {
                let manifest = ManifestReference {
                    path: format!("releases/{nonce}.json"),
                    digest: Digest::of(b"m"),
                };
                let release = KeptRelease {
                    generation: *generation,
                    lineage: LineageId::from("l".to_owned()),
                    manifest,
                    created_at: now,
                    checkpoint: 0,
                    pinned: false,
                    facts: None,
                };
                let published = Published {
                    release,
                    settings: settings(1),
                    grace_ns: 0,
                    other: None,
                };
                pointer.publish(*epoch, &published, nonce, now)
            }
            Self::Settings { version } => pointer.set_settings(pointer, settings(*version), None, nonce, now),
            Self::Goodbye { epoch, .. } => pointer.goodbye(*epoch, nonce, now),
        }
    }
}

fn settings(version: u64) -> SettingsReference {
    SettingsReference {
        version,
        digest: Digest::of(b"s"),
    }
}

/// One swing of an actor, with what the machine knows of it.
#[derive(Clone)]
struct Swing {
    purpose: Purpose,
    nonce: String,
    commit: Commit<Edit>,
}

type Edit = &'static dyn Fn(&Pointer) -> Result<Pointer, EditRefused>;

/// The machine of a swing. Worlds are copied, so its edit is shared: made once for each purpose and nonce, and kept.
fn machine(purpose: &Purpose, nonce: &str) -> Commit<Edit> {
    thread_local! {
        static EDITS: RefCell<BTreeMap<String, Edit>> = const { RefCell::new(BTreeMap::new()) };
    }
    let (purpose, own) = (purpose.clone(), nonce.to_owned());
    let edit = EDITS.with_borrow_mut(|edits| {
        let made = edits.entry(format!("{purpose:?} {own}"));
        *made.or_insert_with(|| Box::leak(Box::new(move |p: &Pointer| purpose.edit(p, &own))))
    });
    Commit::new(nonce.to_owned(), edit)
}

/// An indexer (claims, publishes, says goodbye) or the owner of rollouts (changes settings).
#[derive(Clone)]
struct Actor {
    id: &'static str,
    is_indexer: bool,
    /// What it knows: epoch and generation, from the last committed swing.
    epoch: u64,
    generation: u64,
    swings_left: u32,
    restarts_left: u32,
    drawn: u32,
    swing: Option<Swing>,
}

impl Actor {
    fn begin(&mut self, purpose: Purpose) {
        self.drawn += 1;
        let nonce = format!("{}{}", self.id, self.drawn);
        self.swing = Some(Swing {
            commit: machine(&purpose, &nonce),
            purpose,
            nonce,
        });
    }

    /// The next swing after one that ended; none when the actor has ended.
    fn go_on(&mut self, ended: Option<&Outcome>) {
        self.swing = None;
        match ended {
            Some(Outcome::Committed(pointer)) => {
                self.generation = pointer.generation;
                if self.epoch == 0 {
                    self.epoch = pointer.writer.as_ref().map_or(0, |writer| writer.epoch);
                }
            }
            // One that meets a higher epoch ends and never claims again by itself.
            Some(Outcome::Lost(_)) => return,
            // Unknown: it starts again from the pointer, by a claim.
            Some(Outcome::Unknown) if self.restarts_left == 0 => return,
            Some(Outcome::Unknown) => (self.epoch, self.restarts_left) = (0, self.restarts_left - 1),
            None => {}
        }
        if self.swings_left == 0 {
            return;
        }
        self.swings_left -= 1;
        let purpose = match (self.is_indexer, self.epoch, self.swings_left) {
            (false, _, version) => Purpose::Settings {
                version: u64::from(version) + 2,
            },
            (true, 0, _) => Purpose::Claim { id: self.id },
            (true, epoch, 0) => Purpose::Goodbye { id: self.id, epoch },
            (true, epoch, _) => Purpose::Publish {
                id: self.id,
                epoch,
                generation: self.generation + 1,
            },
        };
        self.begin(purpose);
    }
}

/// What the store does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is done and answered.
    Answered,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is not done, and never will be.
    Dropped,
    /// It is under way, and may be done at any later time.
    UnderWay,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    /// The actor does its next step; a write meets this fate.
    Step(usize, Fate),
    /// A write that was under way arrives.
    Arrive(usize),
}

#[derive(Clone)]
struct World {
    pointer: Pointer,
    tag: u64,
    actors: Vec<Actor>,
    under_way: Vec<(Vec<u8>, u64)>,
    faults_left: u32,
    /// Of each nonce, what it was for, whether it is in the pointer's past, and what was said of it.
    purposes: BTreeMap<String, Purpose>,
    landed: BTreeSet<String>,
    told: BTreeMap<String, &'static str>,
}

impl World {
    fn new(actors: Vec<Actor>, faults: u32) -> Self {
        let pointer = Pointer::first(
            "products".parse().expect("valid"),
            settings(1),
            "first".to_owned(),
            Timestamp(0),
        );
        let mut world = Self {
            pointer,
            tag: 1,
            actors,
            under_way: Vec::new(),
            faults_left: faults,
            purposes: BTreeMap::new(),
            landed: BTreeSet::new(),
            told: BTreeMap::new(),
        };
        (0..world.actors.len()).for_each(|n| world.go_on(n, None));
        world
    }

    fn go_on(&mut self, n: usize, ended: Option<&Outcome>) {
        self.actors[n].go_on(ended);
        if let Some(swing) = &self.actors[n].swing {
            self.purposes.insert(swing.nonce.clone(), swing.purpose.clone());
        }
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<_> = (0..self.under_way.len()).map(Choice::Arrive).collect();
        for (n, actor) in self.actors.iter().enumerate() {
            let Some(swing) = &actor.swing else { continue };
            choices.push(Choice::Step(n, Fate::Answered));
            if matches!(swing.commit.step(), Step::Write { .. }) && self.faults_left > 0 {
                choices.extend([Fate::AnswerLost, Fate::Dropped, Fate::UnderWay].map(|fate| Choice::Step(n, fate)));
            }
        }
        choices
    }

    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Arrive(n) => {
                let (body, tag) = self.under_way.remove(n);
                self.compare_and_swap(&body, tag);
            }
            Choice::Step(n, fate) => self.step(n, fate),
        }
    }

    fn step(&mut self, n: usize, fate: Fate) {
        let swing = self.actors[n]
            .swing
            .clone()
            .expect("only an actor with a swing is chosen");
        let reply = match swing.commit.step() {
            Step::Done(_) => unreachable!("a swing that is over was taken away"),
            Step::Read => Reply::Pointer {
                pointer: Box::new(self.pointer.clone()),
                tag: self.tag.to_string(),
            },
            Step::Write { body, tag } => self.write(&body, tag.parse().expect("a number"), fate),
        };
        let swing = self.actors[n].swing.as_mut().expect("it is still there");
        swing.commit.reply(reply);
        if let Step::Done(outcome) = swing.commit.step() {
            let nonce = swing.nonce.clone();
            self.tell(&nonce, &outcome);
            self.go_on(n, Some(&outcome));
        }
    }

    fn write(&mut self, body: &[u8], tag: u64, fate: Fate) -> Reply {
        if fate != Fate::Answered {
            self.faults_left -= 1;
        }
        match fate {
            Fate::Answered if self.compare_and_swap(body, tag) => Reply::Written,
            Fate::Answered => Reply::PreconditionFailed,
            Fate::AnswerLost => {
                self.compare_and_swap(body, tag);
                Reply::NoAnswer
            }
            Fate::Dropped => Reply::NoAnswer,
            Fate::UnderWay => {
                self.under_way.push((body.to_vec(), tag));
                Reply::NoAnswer
            }
        }
    }

    /// The store's part, and what must hold of every swing.
    fn compare_and_swap(&mut self, body: &[u8], tag: u64) -> bool {
        if tag != self.tag {
            return false;
        }
        let next = Pointer::decode(body).expect("whole");
        let before = &self.pointer;
        let purpose = &self.purposes[&next.nonce];
        assert_eq!(next.sequence, before.sequence + 1, "the sequence rises by one");
        let publishes = u64::from(matches!(purpose, Purpose::Publish { .. }));
        assert_eq!(
            next.generation,
            before.generation + publishes,
            "I-3: one generation per publish"
        );
        if let Some(turn) = purpose.turn() {
            let now = before.writer.as_ref().map(|writer| (writer.id.as_str(), writer.epoch));
            assert_eq!(now, Some(turn), "I-4: {} swung after it lost its turn", next.nonce);
        }
        assert!(self.landed.insert(next.nonce.clone()), "{} landed twice", next.nonce);
        let told = self.told.get(&next.nonce);
        assert_ne!(told, Some(&"lost"), "I-5: {} landed after it was told lost", next.nonce);
        (self.pointer, self.tag) = (next, self.tag + 1);
        true
    }

    fn tell(&mut self, nonce: &str, outcome: &Outcome) {
        let landed = self.landed.contains(nonce);
        let word = match outcome {
            Outcome::Committed(pointer) => {
                assert!(landed, "I-5: {nonce} is told committed, but is not in the history");
                assert_eq!(
                    pointer.nonce, nonce,
                    "a writer learns its epoch from the pointer that it made itself"
                );
                "committed"
            }
            Outcome::Lost(_) => {
                assert!(!landed, "I-5: {nonce} is told lost, but is in the history");
                "lost"
            }
            Outcome::Unknown => "unknown",
        };
        self.told.insert(nonce.to_owned(), word);
    }

    fn digest(&self) -> Digest {
        let mut text = format!("{} {} {:?}", self.pointer.nonce, self.faults_left, self.told);
        for (body, tag) in &self.under_way {
            text.push_str(&format!("{tag} {}", Digest::of(body)));
        }
        for actor in &self.actors {
            let swing = actor
                .swing
                .as_ref()
                .map(|s| (&s.nonce, &s.purpose, &s.commit.attempt, s.commit.step.clone()));
            let numbers = [actor.swings_left, actor.restarts_left, actor.drawn];
            text.push_str(&format!("{} {} {numbers:?} {swing:?}", actor.epoch, actor.generation));
        }
        text.push_str(&self.pointer.nonces.concat());
        Digest::of(text.as_bytes())
    }
}

/// What an exploration came to.
#[derive(Debug, Default)]
struct Explored {
    states: BTreeSet<Digest>,
    steps: u64,
    ends: u64,
    committed: u64,
    told: BTreeMap<&'static str, u64>,
}

fn explore(world: World) -> Explored {
    let mut explored = Explored::default();
    explored.states.insert(world.digest());
    let mut waiting = vec![world];
    while let Some(world) = waiting.pop() {
        let choices = world.choices();
        if choices.is_empty() {
            explored.ends += 1;
            explored.committed = explored.committed.max(world.pointer.sequence - 1);
            world
                .told
                .values()
                .for_each(|word| *explored.told.entry(word).or_default() += 1);
        }
        for choice in choices {
            let mut next = world.clone();
            next.take(choice);
            explored.steps += 1;
            if explored.states.insert(next.digest()) {
                waiting.push(next);
            }
        }
    }
    explored
}

fn indexer(id: &'static str, swings: u32) -> Actor {
    Actor {
        id,
        is_indexer: true,
        epoch: 0,
        generation: 0,
        swings_left: swings,
        restarts_left: 1,
        drawn: 0,
        swing: None,
    }
}

fn owner(swings: u32) -> Actor {
    Actor {
        is_indexer: false,
        ..indexer("owner", swings)
    }
}

fn check(name: &str, actors: Vec<Actor>, faults: u32) {
    let all: u64 = actors.iter().map(|actor| u64::from(actor.swings_left)).sum();
    let explored = explore(World::new(actors, faults));
    println!(
        "{name}, {faults} faults: {} states, {} steps, {} ends, told {:?}",
        explored.states.len(),
        explored.steps,
        explored.ends,
        explored.told
    );
    assert_eq!(explored.committed, all, "in some order every swing is made");
}

#[test]
fn one_indexer_with_faults_at_every_step_keeps_the_protocol() {
    check("one indexer", vec![indexer("a", 5)], 4);
}

#[test]
fn two_indexers_and_a_sleeper_that_wakes_keep_the_protocol() {
    check("two indexers", vec![indexer("a", 3), indexer("b", 3)], 3);
}

#[test]
fn an_indexer_and_an_owner_never_undo_each_other() {
    check("indexer and owner", vec![indexer("a", 3), owner(2)], 2);
}

#[test]
fn two_indexers_and_an_owner_keep_the_protocol() {
    check(
        "two indexers and an owner",
        vec![indexer("a", 3), indexer("b", 2), owner(1)],
        1,
    );
}
