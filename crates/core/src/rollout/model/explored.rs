//! What the model is explored with, and what must hold in every state and at every end.

use super::*;

impl World {
    /// Without whatever is only counted up.
    pub(super) fn digest(&self) -> Digest {
        let pointer = &self.pointer;
        let age = |at: Timestamp| self.now.since(at) / SECOND;
        let lineage = |named: &Option<LineagePointer>| {
            let named = named.as_ref();
            named.map(|named| {
                (
                    named.lineage.to_string(),
                    pointer.generation - named.generation,
                    named.role,
                    age(named.since),
                )
            })
        };
        let newest = pointer.generation;
        let text = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?}",
            (lineage(&pointer.active), lineage(&pointer.other), &pointer.leveling),
            pointer
                .approval
                .as_ref()
                .map(|approval| (&approval.lineage, newest - approval.generation)),
            pointer
                .served
                .iter()
                .map(|served| &served.lineage)
                .collect::<BTreeSet<_>>(),
            pointer.promotion_hold.as_ref().map(|hold| &hold.actor),
            self.budget,
            self.stored
                .as_ref()
                .map(|(lineage, generation, at)| (lineage, newest - generation, age(*at))),
            self.memory.leveling_since.map_or(-1, age),
            (
                self.memory.leveling.failed,
                self.memory.leveling.last_failed_at.map(age)
            ),
            (
                self.memory.measuring.failed,
                self.memory.measuring.last_failed_at.map(age)
            ),
            self.memory.return_wish,
            self.ready
                .as_ref()
                .map(|(lineage, generation)| (lineage, newest - generation)),
            self.failing,
            self.in_work
                .as_ref()
                .map(|(lineage, generation)| (lineage, newest - generation)),
            self.planned
                .iter()
                .map(|action| in_short(action, newest))
                .collect::<Vec<_>>(),
            self.sleeper.as_ref().map(|(_, action)| in_short(action, newest)),
            self.returned,
            self.approved
                .iter()
                .map(|(lineage, generation)| (lineage, newest - generation))
                .collect::<Vec<_>>(),
            (&self.answered, &self.aborted),
        );
        Digest::of(text.as_bytes())
    }

    /// Where it all ends if nothing more goes wrong and nobody says anything.
    pub(super) fn ends(mut self) -> (Phase, Self) {
        self.budget.ticks = 1;
        for _ in 0..400 {
            self.take(&Event::Plans);
            while !self.planned.is_empty() {
                self.take(&Event::Acts);
            }
            if self.pointer.leveling.is_some()
                && !self.is_level()
                && self
                    .other()
                    .is_some_and(|other| other.generation < self.active().generation)
            {
                self.take(&Event::Follow);
            }
            self.take(&Event::Opens);
            if self.in_work.is_some() {
                self.take(&Event::Measured);
            }
            let plan = self.plan();
            if plan.actions.is_empty() {
                match plan.wake_at {
                    // Measured again and again: that is where it stands.
                    Some(_) if plan.phase == Phase::Refused => return (plan.phase, self),
                    Some(wake) => self.now = wake,
                    None => return (plan.phase, self),
                }
            }
        }
        panic!("it never ends: {:?}", self.plan());
    }
}

/// An action without generations that only grow.
pub(super) fn in_short(action: &Action, newest: u64) -> String {
    match action {
        Action::Measure { lineage, generation } => format!("measure {lineage} {}", newest - generation),
        Action::Flip(flip) => format!("flip {} {}", flip.lineage, flip.actor),
        Action::Return(flip) => format!("return {} {} {}", flip.lineage, flip.actor, flip.stale),
        other => format!("{other:?}"),
    }
}

pub(super) fn measured(lineage: &LineageId, generation: u64, when: Timestamp) -> Measurements {
    let mut m = good();
    (m.candidate.lineage, m.candidate.generation, m.measured_at) = (lineage.clone(), generation, when);
    value(&mut m.same_generation).generation = generation;
    match Quality::of(lineage) {
        Quality::Good => {}
        Quality::Bad => value(&mut m.recall).recall = 0.3,
        Quality::Dumb => m.deletes = Measured::default(),
    }
    m
}

struct Explored {
    states: BTreeSet<Digest>,
    steps: u64,
    flips: u64,
    ends: std::collections::BTreeMap<&'static str, u64>,
}

fn explore(budget: Budget, ends_of_each: u64) -> Explored {
    let world = World::new(budget);
    let mut explored = Explored {
        states: BTreeSet::from([world.digest()]),
        steps: 0,
        flips: 0,
        ends: Default::default(),
    };
    let mut waiting = vec![world];
    while let Some(world) = waiting.pop() {
        if (explored.states.len() as u64).is_multiple_of(ends_of_each) {
            check_end(world.clone(), &mut explored);
        }
        for event in world.events() {
            let mut next = world.clone();
            next.take(&event);
            explored.steps += 1;
            explored.flips += u64::from(next.pointer.served.len() > world.pointer.served.len());
            if explored.states.insert(next.digest()) {
                waiting.push(next);
            }
        }
    }
    explored
}

/// From wherever a rollout stands, it comes by itself to a place where only a person, or nobody, is waited for.
fn check_end(world: World, explored: &mut Explored) {
    let (phase, ended) = world.ends();
    let other = ended.other().map(|other| Quality::of(&other.lineage));
    let is_held = ended.pointer.promotion_hold.is_some();
    let is_right = match phase {
        Phase::Steady => other.is_none(),
        Phase::Held => is_held && other.is_some(),
        Phase::KeepingWayBack => is_held,
        Phase::Refused => matches!(other, Some(Quality::Bad | Quality::Dumb)),
        Phase::AwaitingApproval => ended
            .other()
            .is_some_and(|other| ended.answered.contains(&other.lineage)),
        _ => false,
    };
    assert!(is_right, "it ends as {phase:?} beside {other:?}");
    assert_eq!(ended.pointer.leveling, None, "nobody pauses for nothing");
    *explored.ends.entry(phase.name()).or_default() += 1;
}

fn check(name: &str, budget: Budget, ends_of_each: u64) {
    let explored = explore(budget, ends_of_each);
    println!(
        "{name}: {} states, {} steps, {} flips, ends {:?}",
        explored.states.len(),
        explored.steps,
        explored.flips,
        explored.ends
    );
    assert!(explored.flips > 0, "something was promoted");
}

/// One candidate of each kind, and time enough for its whole way.
const QUIET: Budget = Budget {
    publishes: 1,
    builds: 1,
    words: 0,
    crashes: 0,
    faults: 0,
    ticks: 3,
};

#[test]
fn a_rollout_that_nobody_disturbs_comes_to_its_end() {
    let budget = Budget {
        publishes: 2,
        ticks: 5,
        ..QUIET
    };
    check("alone", budget, 16);
}

#[test]
fn people_may_say_what_they_want_at_any_time() {
    check("words", Budget { words: 3, ..QUIET }, 64);
}

#[test]
fn an_owner_that_ends_anywhere_goes_on_by_looking() {
    let budget = Budget {
        crashes: 2,
        words: 1,
        ..QUIET
    };
    check("crashes", budget, 64);
}

#[test]
fn search_roles_that_begin_anew_and_requests_that_fail_promote_nothing_bad() {
    let budget = Budget {
        faults: 2,
        words: 1,
        ..QUIET
    };
    check("faults", budget, 64);
}

#[test]
fn a_second_candidate_inherits_nothing_of_the_first() {
    let budget = Budget {
        publishes: 0,
        builds: 2,
        words: 2,
        ticks: 2,
        ..QUIET
    };
    check("two candidates", budget, 64);
}
