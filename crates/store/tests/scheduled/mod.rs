//! Real asynchronous code, one call of the store at a time, in every order: each call waits at a turnstile until the
//! schedule lets it through, and the schedule is tried again with another choice until there is none left.
//!
//! Deliberately absent: threads, timers and chance.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_store::memory::MemoryStore;
use verdigris_store::{Body, Get, ObjectMeta, Part, Precondition, Store, StoreError, Tag};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done and answered.
    Answered,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is not done, and the caller is told nothing.
    Dropped,
    /// The caller is told nothing; a write is done at any later time, or never.
    UnderWay,
    /// The store says why it does not do it.
    Refused,
}

#[derive(Debug)]
enum Slot {
    Idle,
    Waiting { key: String, is_write: bool },
    Granted(Fate),
}

/// Where calls wait.
#[derive(Default)]
pub(crate) struct Desk {
    slots: Mutex<BTreeMap<usize, Slot>>,
    under_way: Mutex<Vec<(String, Body, Precondition)>>,
}

/// The store as one actor sees it.
pub(crate) struct Turnstile {
    pub(crate) inner: Arc<MemoryStore>,
    pub(crate) actor: usize,
    pub(crate) desk: Arc<Desk>,
}

impl Turnstile {
    async fn pass(&self, key: &str, is_write: bool) -> Fate {
        poll_fn(|_| {
            let mut slots = self.desk.slots.lock().expect("one thread");
            let slot = slots.entry(self.actor).or_insert(Slot::Idle);
            match slot {
                Slot::Idle => {
                    *slot = Slot::Waiting {
                        key: key.to_owned(),
                        is_write,
                    }
                }
                Slot::Waiting { .. } => {}
                Slot::Granted(fate) => {
                    let fate = *fate;
                    *slot = Slot::Idle;
                    return Poll::Ready(fate);
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn call<T>(
        &self,
        key: &str,
        is_write: bool,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let no_answer = || StoreError::NoAnswer {
            key: key.to_owned(),
            source: None,
        };
        match self.pass(key, is_write).await {
            Fate::Answered => work.await,
            Fate::AnswerLost => {
                let _ = work.await;
                Err(no_answer())
            }
            Fate::Dropped | Fate::UnderWay => Err(no_answer()),
            Fate::Refused => Err(StoreError::OutOfSpace {
                key: key.to_owned(),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Turnstile {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        self.call(key, false, self.inner.get(key, if_none_match)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.call(key, false, self.inner.get_range(key, range)).await
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        self.call(key, false, self.inner.get_part(key, range, of)).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        let fate = self.pass(key, true).await;
        let no_answer = StoreError::NoAnswer {
            key: key.to_owned(),
            source: None,
        };
        match fate {
            Fate::Answered => self.inner.put(key, body, precondition).await,
            Fate::AnswerLost => {
                let _ = self.inner.put(key, body, precondition).await;
                Err(no_answer)
            }
            Fate::Dropped => Err(no_answer),
            Fate::UnderWay => {
                let mut under_way = self.desk.under_way.lock().expect("one thread");
                under_way.push((key.to_owned(), body, precondition));
                Err(no_answer)
            }
            Fate::Refused => Err(StoreError::OutOfSpace {
                key: key.to_owned(),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.call(prefix, false, self.inner.list(prefix, start_after, limit))
            .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call(key, true, self.inner.delete(key)).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// The choices of one schedule: those of the last one up to the last that has another way, and that way.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    taken: Vec<(usize, usize)>,
    next: usize,
}

impl Choices {
    fn choose(&mut self, ways: usize) -> usize {
        assert!(ways > 0, "there is always a way");
        if self.next == self.taken.len() {
            self.taken.push((0, ways));
        }
        let (way, known) = self.taken[self.next];
        assert_eq!(known, ways, "a schedule repeats itself up to where it is changed");
        self.next += 1;
        way
    }

    /// Goes to the next schedule; false when all were tried.
    fn advance(&mut self) -> bool {
        self.next = 0;
        while let Some((way, ways)) = self.taken.pop() {
            if way + 1 < ways {
                self.taken.push((way + 1, ways));
                return true;
            }
        }
        false
    }
}

/// Which schedules are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Faults in one schedule.
    pub(crate) faults: u32,
    /// How often an actor that could go on is kept waiting for another one, in one schedule. One that waits may wait to
    /// the end: that is a sleeper, or a crash.
    pub(crate) preemptions: u32,
    /// Keys that only one actor uses: the order of calls about them does not matter, and is not tried.
    pub(crate) is_private: fn(&str) -> bool,
    /// Which faults.
    pub(crate) fates: &'static [Fate],
}

/// What an exploration came to.
#[derive(Debug, Default)]
pub(crate) struct Explored {
    pub(crate) schedules: u64,
    pub(crate) calls: u64,
}

pub(crate) type Actor<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One run: its store, its actors, and what to look at after each call and at the end.
pub(crate) struct Run<'a> {
    pub(crate) inner: Arc<MemoryStore>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) actors: Vec<Actor<'a>>,
    pub(crate) after_call: Box<dyn FnMut() + 'a>,
    pub(crate) at_end: Box<dyn FnOnce() + 'a>,
}

/// Tries every schedule within the bounds; `begin` makes a new world for each.
pub(crate) fn explore<'a>(bounds: Bounds, mut begin: impl FnMut() -> Run<'a>) -> Explored {
    let (mut explored, mut choices) = (Explored::default(), Choices::default());
    loop {
        let run = begin();
        explored.calls += play(run, bounds, &mut choices);
        explored.schedules += 1;
        if !choices.advance() {
            return explored;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Call(usize, Fate),
    Arrive(usize),
}

fn play(mut run: Run<'_>, bounds: Bounds, choices: &mut Choices) -> u64 {
    let mut context = Context::from_waker(Waker::noop());
    let (mut faults, mut preemptions, mut last, mut calls) = (bounds.faults, bounds.preemptions, None, 0);
    let mut actors: Vec<Option<Actor<'_>>> = run.actors.drain(..).map(Some).collect();
    loop {
        for actor in &mut actors {
            if actor
                .as_mut()
                .is_some_and(|future| future.as_mut().poll(&mut context).is_ready())
            {
                *actor = None;
            }
        }
        (run.after_call)();
        let ways = ways(
            &run.desk,
            bounds,
            faults,
            if preemptions > 0 { None } else { Some(last) },
        );
        if ways.is_empty() {
            (run.at_end)();
            return calls;
        }
        calls += 1;
        match ways[choices.choose(ways.len())] {
            Way::Arrive(n) => {
                let (key, body, precondition) = run.desk.under_way.lock().expect("one thread").remove(n);
                // Whether it comes in time is the store's to say; nobody hears it.
                let _ = at_once(run.inner.put(&key, body, precondition));
            }
            Way::Call(actor, fate) => {
                let was_waiting = last.is_some_and(|last| last != actor && is_waiting(&run.desk, last));
                preemptions -= u32::from(was_waiting && preemptions > 0);
                faults -= u32::from(fate != Fate::Answered);
                last = Some(actor);
                run.desk
                    .slots
                    .lock()
                    .expect("one thread")
                    .insert(actor, Slot::Granted(fate));
            }
        }
    }
}

fn is_waiting(desk: &Desk, actor: usize) -> bool {
    matches!(
        desk.slots.lock().expect("one thread").get(&actor),
        Some(Slot::Waiting { .. })
    )
}

/// All ways to go on. `only`: the actor that may not be kept waiting any more.
fn ways(desk: &Desk, bounds: Bounds, faults: u32, only: Option<Option<usize>>) -> Vec<Way> {
    let slots = desk.slots.lock().expect("one thread");
    let fates = |is_write: bool| {
        let fates = bounds.fates.iter().copied();
        let faulty = fates.filter(move |fate| faults > 0 && (is_write || *fate == Fate::Dropped));
        std::iter::once(Fate::Answered).chain(faulty)
    };
    let waiting = || {
        slots.iter().filter_map(|(actor, slot)| match slot {
            Slot::Waiting { key, is_write } => Some((*actor, key, *is_write)),
            _ => None,
        })
    };
    if let Some((actor, _, is_write)) = waiting().find(|(_, key, _)| (bounds.is_private)(key)) {
        return fates(is_write).map(|fate| Way::Call(actor, fate)).collect();
    }
    let held = only
        .flatten()
        .filter(|last| waiting().any(|(actor, ..)| actor == *last));
    let under_way = desk.under_way.lock().expect("one thread").len();
    waiting()
        .filter(|(actor, ..)| held.is_none_or(|held| *actor == held))
        .flat_map(|(actor, _, is_write)| fates(is_write).map(move |fate| Way::Call(actor, fate)))
        .chain((0..under_way).map(Way::Arrive))
        .collect()
}

/// The result of a future that never waits, as those of a store in memory are.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for something"),
    }
}
