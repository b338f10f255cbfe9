//! What the model is explored with.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use super::{Budget, Choice, TICK_NS, Verdict, World};
use crate::digest::Digest;

/// How a world came to be, the last choice first.
struct Way {
    choice: Choice,
    before: Option<Arc<Way>>,
}

impl Way {
    fn shown(way: Option<&Arc<Self>>) -> String {
        let mut choices = Vec::new();
        let mut next = way;
        while let Some(way) = next {
            choices.push(format!("{:?}", way.choice));
            next = way.before.as_ref();
        }
        choices.reverse();
        choices.join("\n")
    }
}

impl World {
    /// What may still come depends on nothing else.
    fn digest(&self) -> Digest {
        let disk = &self.disk;
        let mut text = format!("{} {:?} {}\n", disk.sketch, self.budget, disk.now.0 / TICK_NS);
        for (key, object) in &*disk.objects {
            let _ = write!(text, "{key} {} ", object.modified.0 / TICK_NS);
        }
        // One that is named is among those of the pointer.
        for (path, until) in disk.until.iter().filter(|(_, until)| until.0 != i64::MAX) {
            let _ = write!(text, "{path} {} ", until.0 / TICK_NS);
        }
        for indexer in &self.indexers {
            let _ = writeln!(text, "{}", indexer.state(disk));
        }
        if let Some(owner) = &self.owner {
            let _ = writeln!(text, "{}", owner.state(disk));
        }
        for landing in &self.under_way {
            let _ = writeln!(
                text,
                "{} {}",
                Digest::of(&landing.body),
                disk.lost.contains(&landing.nonce)
            );
        }
        Digest::of(text.as_bytes())
    }
}

/// What an exploration came to.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    steps: u64,
    swings: u64,
    removals: u64,
    flips: u64,
    rollbacks: u64,
}

fn explore(world: World) -> Explored {
    let mut explored = Explored::default();
    let mut known = BTreeSet::from([world.digest()]);
    let mut waiting: VecDeque<(World, Option<Arc<Way>>)> = VecDeque::from([(world, None)]);
    while let Some((world, way)) = waiting.pop_front() {
        for choice in world.choices() {
            let mut next = world.clone();
            let before = way.clone();
            let taken: Verdict<()> = next.take(choice);
            let way = Some(Arc::new(Way { choice, before }));
            if let Err(why) = taken {
                panic!("{why}, after\n{}", Way::shown(way.as_ref()));
            }
            explored.note(&world, &next);
            if known.insert(next.digest()) {
                waiting.push_back((next, way));
            }
        }
    }
    explored.states = known.len();
    explored
}

impl Explored {
    fn note(&mut self, before: &World, after: &World) {
        self.steps += 1;
        self.swings += after.disk.tag - before.disk.tag;
        self.removals += u64::from(after.disk.objects.len() < before.disk.objects.len());
        let (was, is) = (&before.disk.pointer, &after.disk.pointer);
        self.flips += u64::from(is.served.len() > was.served.len());
        self.rollbacks += u64::from(is.publish_hold().is_some() && was.publish_hold().is_none());
    }
}

/// Tries every order; `POINTER_MODEL_DEEPER=n` gives so many publishes more.
fn check(name: &str, budget: Budget, at_least: usize) -> Explored {
    let deeper: u32 = std::env::var("POINTER_MODEL_DEEPER").map_or(0, |text| text.parse().expect("a number"));
    let publishes = budget.publishes + deeper;
    let explored = explore(World::new(
        &["a", "b"],
        budget.flips + budget.drops > 0,
        Budget { publishes, ..budget },
    ));
    println!("{name}: {explored:?}");
    // Fewer were a model that has lost some of its choices.
    assert!(explored.states >= at_least, "{name}: only {} states", explored.states);
    explored
}

#[test]
fn indexers_that_are_killed_and_not_answered_keep_the_protocol() {
    let budget = Budget {
        claims: 3,
        publishes: 3,
        crashes: 1,
        faults: 2,
        ..Budget::default()
    };
    check("lost answers", budget, 30_000);
}

#[test]
fn two_indexers_publish_and_collect_while_time_passes() {
    let budget = Budget {
        claims: 2,
        publishes: 1,
        forgotten: 1,
        collections: 1,
        ticks: 2,
        ..Budget::default()
    };
    let explored = check("a collection", budget, 50_000);
    assert!(explored.removals > 0);
}

#[test]
fn a_rebuild_is_promoted_returned_from_and_given_up_by_an_owner_that_is_not_answered() {
    let budget = Budget {
        claims: 2,
        follows: 1,
        builds: 1,
        flips: 2,
        drops: 1,
        faults: 1,
        ..Budget::default()
    };
    let explored = check("a rollout", budget, 20_000);
    assert!(explored.flips > 0);
}

#[test]
fn a_rebuild_goes_on_whoever_is_killed() {
    let budget = Budget {
        claims: 3,
        follows: 1,
        builds: 1,
        flips: 1,
        crashes: 1,
        ..Budget::default()
    };
    let explored = check("a rollout with a kill", budget, 20_000);
    assert!(explored.flips > 0);
}

#[test]
fn what_a_rollout_leaves_is_collected_and_nothing_else() {
    let budget = Budget {
        claims: 1,
        follows: 1,
        builds: 1,
        flips: 1,
        drops: 1,
        collections: 1,
        ticks: 1,
        ..Budget::default()
    };
    let explored = check("a rollout and a collection", budget, 9_000);
    assert!(explored.flips > 0 && explored.removals > 0);
}

#[test]
fn going_back_meets_a_collection_and_a_sleeper() {
    let budget = Budget {
        claims: 2,
        rollbacks: 1,
        forgotten: 1,
        collections: 1,
        ticks: 1,
        ..Budget::default()
    };
    let explored = check("going back", budget, 20_000);
    assert!(explored.rollbacks > 0 && explored.removals > 0);
}

#[test]
fn going_back_and_on_without_answers_while_time_passes() {
    let budget = Budget {
        claims: 1,
        publishes: 1,
        rollbacks: 1,
        forgotten: 1,
        collections: 1,
        faults: 1,
        ticks: 2,
        ..Budget::default()
    };
    let explored = check("going back without answers", budget, 120_000);
    assert!(explored.rollbacks > 0 && explored.removals > 0);
}
