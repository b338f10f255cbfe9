//! The real indexer and the real edits of the pointer, on a store, a bus and a clock of which a seed decides what goes
//! wrong, beside a model that is too simple to be wrong. After each step the invariants are checked, with a look at the
//! store and the bus alone. `docs/testing.md` says what is simulated and what is not.
//!
//! `SIMULATION_SEED=n` tells one story again, with all that happened; `SEEDS=n` tells so many.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(clippy::print_stdout, reason = "a seed that failed is told, and how many did not")]

#[path = "simulation/beside.rs"]
mod beside;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/duties.rs"]
mod duties;
#[path = "simulation/ending.rs"]
mod ending;
#[path = "simulation/erasing.rs"]
mod erasing;
#[path = "simulation/events.rs"]
mod events;
#[path = "simulation/judge.rs"]
mod judge;
#[path = "simulation/leftovers.rs"]
mod leftovers;
#[path = "simulation/log.rs"]
mod log;
#[path = "simulation/model.rs"]
mod model;
#[path = "../../services/verdigris/src/opener.rs"]
mod opener;
#[path = "simulation/owner.rs"]
mod owner;
#[path = "simulation/people.rs"]
mod people;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/reading.rs"]
mod reading;
#[path = "simulation/seat.rs"]
mod seat;
#[path = "simulation/story.rs"]
mod story;
#[path = "simulation/turns.rs"]
mod turns;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use verdigris_core::digest::Digest;
use verdigris_core::names::CollectionName;

use process::POISON;
use story::Story;
use turns::Turns;

/// Seeds of `make test`.
const SEEDS: u64 = 200;
/// Steps of a story.
const STEPS: u64 = 40;
/// How threads of stories are named, before the seed.
const STORY: &str = "story-";
/// Failures after which no other story is begun.
const FAILURES: usize = 8;
/// Lines of a failure's story that are told.
const TOLD: usize = 60;

/// Coordinates of vectors, where no rebuild has changed it.
pub(crate) const DIMENSION: u32 = 8;

/// Holds, or says which invariant does not.
pub(crate) type Verdict<T> = Result<T, String>;

pub(crate) fn hold(is_so: bool, otherwise: impl FnOnce() -> String) -> Verdict<()> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

pub(crate) fn name() -> CollectionName {
    "products".parse().expect("valid")
}

struct Told {
    verdict: Verdict<()>,
    counts: BTreeMap<&'static str, u64>,
    trace: Vec<String>,
}

/// What panicked, by the name of its thread.
static PANICS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Remembers panics of all threads of a story: one that was caught is a bug all the same.
fn notice_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |told| {
        let thread = thread::current();
        if let Some(name) = thread.name().filter(|name| name.starts_with(STORY)) {
            if told.to_string().contains(POISON) {
                return;
            }
            let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            panics.entry(name.to_owned()).or_insert(format!("a panic: {told}"));
        }
        before(told);
    }));
}

/// Tells a story, on threads of its own.
fn tell(seed: u64) -> Told {
    let name = format!("{STORY}{seed}");
    let threads = name.clone();
    let telling = move || {
        let turns = Turns::new(threads);
        let mut story = Story::new(seed);
        let run = AssertUnwindSafe(|| turns.block_on(story.run(STEPS)));
        let verdict = catch_unwind(run).unwrap_or_else(|_| Err("a panic".to_owned()));
        let (counts, trace) = (story.counts().0.clone(), story.disk.trace());
        drop(turns);
        Told { verdict, counts, trace }
    };
    let told = thread::Builder::new().name(name.clone()).spawn(telling);
    let mut told = told.unwrap().join().unwrap();
    if let Some(panic) = PANICS.lock().unwrap_or_else(PoisonError::into_inner).remove(&name) {
        told.verdict = Err(panic);
    }
    told
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

fn tell_one(seed: u64) {
    let told = tell(seed);
    told.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {:?}", told.counts);
    told.verdict.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
}

/// The digest of what happened: the same for the same seed.
fn fingerprint(told: &Told) -> Digest {
    Digest::of(told.trace.join("\n").as_bytes())
}

#[test]
fn a_seed_tells_the_same_story_again() {
    for seed in [1, 2, 3] {
        let (first, second) = (tell(seed), tell(seed));
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(fingerprint(&first), fingerprint(&second), "seed {seed}");
    }
}

#[test]
fn whatever_goes_wrong_every_invariant_holds() {
    notice_panics();
    if let Some(seed) = number("SIMULATION_SEED") {
        return tell_one(seed);
    }
    let (seeds, began) = (number("SEEDS").unwrap_or(SEEDS), Instant::now());
    let first = number("FIRST_SEED").unwrap_or(1);
    let failures = number("FAILURES").map_or(FAILURES, |number| number as usize);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || failed.lock().unwrap().len() >= failures {
                        return;
                    }
                    let told = tell(seed);
                    let mut counts = counts.lock().unwrap();
                    for (what, count) in &told.counts {
                        *counts.entry(what).or_default() += count;
                    }
                    if let Err(why) = told.verdict {
                        failed.lock().unwrap().push((seed, why, told.trace));
                    }
                }
            });
        }
    });
    let told = next.into_inner().min(first + seeds) - first;
    println!(
        "{told} stories in {:.1} s: {:?}",
        began.elapsed().as_secs_f64(),
        counts.into_inner().unwrap()
    );
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    failed
        .iter()
        .skip(1)
        .for_each(|(seed, why, _)| println!("seed {seed}: {why}"));
    if let Some((seed, why, trace)) = failed.into_iter().next() {
        trace
            .iter()
            .skip(trace.len().saturating_sub(TOLD))
            .for_each(|line| println!("{line}"));
        panic!(
            "seed {seed} (story {} of this run): {why}\nto tell it again: SIMULATION_SEED={seed} make simulate",
            seed - first + 1
        );
    }
}
