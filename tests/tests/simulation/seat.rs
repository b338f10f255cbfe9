//! What one process sees of the store and of the bus: calls that fail, that are done without an answer, that land late,
//! that sleep; and the end of the process at any of them.
//!
//! A process that was killed makes no call any more: each of its calls waits for ever. That is all that anybody else
//! could see of a kill.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_bus::BusError;
use verdigris_store::{Body, Get, ObjectMeta, Part, Precondition, Store, StoreError, Tag};

use super::dice::Dice;
use super::disk::Disk;

/// How often things go wrong: once in so many calls; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) fault: u64,
    pub(crate) delay: u64,
    pub(crate) crash: u64,
    pub(crate) sleep: u64,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Not done, and the caller is told nothing.
    NotDone,
    /// Not done; the caller may try again.
    Conflict,
    /// Done, without an answer.
    NoAnswer,
    /// Without an answer, and done later.
    Late(Duration),
    /// A listing of before.
    Stale,
    /// Done, and answered after a time.
    Slow(Duration),
    /// Done after a time.
    Asleep(Duration),
    /// The process ends before the call.
    Crash,
    /// The process ends after it.
    CrashAfter,
}

type Listing = (String, Option<String>, usize);

struct State {
    dice: Dice,
    weather: Weather,
    is_dead: bool,
    /// The process ends at this call from now, counted down.
    crash_in: Option<u64>,
    /// It sleeps at this call so long.
    sleep_in: Option<(u64, Duration)>,
    listings: BTreeMap<Listing, Vec<ObjectMeta>>,
}

/// One process's way to the store and to the bus.
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) disk: Arc<Disk>,
    state: Mutex<State>,
}

impl Seat {
    pub(crate) fn new(name: &str, disk: &Arc<Disk>, dice: Dice, weather: Weather) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            disk: disk.clone(),
            state: Mutex::new(State {
                dice,
                weather,
                is_dead: false,
                crash_in: None,
                sleep_in: None,
                listings: BTreeMap::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    /// Ends the process, wherever it is.
    pub(crate) fn kill(&self) {
        self.lock().is_dead = true;
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        let mut state = self.lock();
        (state.weather, state.crash_in, state.sleep_in) = (weather, None, None);
    }

    pub(crate) fn crash_in(&self, calls: u64) {
        self.lock().crash_in = Some(calls);
    }

    pub(crate) fn sleep_in(&self, calls: u64, time: Duration) {
        self.lock().sleep_in = Some((calls, time));
    }

    fn fate(&self, is_write: bool, is_listing: bool) -> Fate {
        let mut state = self.lock();
        let counted = |left: &mut u64| {
            *left = left.saturating_sub(1);
            *left == 0
        };
        if state.crash_in.as_mut().is_some_and(counted) {
            state.crash_in = None;
            return if state.dice.once_in(2) {
                Fate::Crash
            } else {
                Fate::CrashAfter
            };
        }
        if let Some((left, time)) = &mut state.sleep_in
            && counted(left)
        {
            let time = *time;
            state.sleep_in = None;
            return Fate::Asleep(time);
        }
        let weather = state.weather;
        let dice = &mut state.dice;
        if dice.once_in(weather.crash) {
            return if dice.once_in(2) { Fate::Crash } else { Fate::CrashAfter };
        }
        if dice.once_in(weather.sleep) {
            return Fate::Asleep(Duration::from_millis(dice.within(100..20_000)));
        }
        if dice.once_in(weather.delay) {
            return Fate::Slow(Duration::from_millis(dice.within(1..400)));
        }
        if !dice.once_in(weather.fault) {
            return Fate::Fine;
        }
        if is_listing {
            return *dice.one_of(&[Fate::Stale, Fate::NotDone]);
        }
        if !is_write {
            return Fate::NotDone;
        }
        let late = Fate::Late(Duration::from_millis(dice.within(1..3_000)));
        *dice.one_of(&[Fate::NotDone, Fate::Conflict, Fate::NoAnswer, Fate::NoAnswer, late])
    }

    /// Before a call: waits, or never returns.
    async fn before(&self, call: &str, key: &str, is_write: bool, is_listing: bool) -> Fate {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        let fate = self.fate(is_write, is_listing);
        if fate != Fate::Fine {
            self.disk.tell(|| format!("{} {call} {key}: {fate:?}", self.name));
        } else if is_write {
            self.disk.tell(|| format!("{} {call} {key}", self.name));
        }
        match fate {
            Fate::Crash => {
                self.kill();
                std::future::pending::<()>().await;
            }
            Fate::Asleep(time) => {
                tokio::time::sleep(time).await;
                if self.is_dead() {
                    std::future::pending::<()>().await;
                }
            }
            _ => {}
        }
        fate
    }

    async fn after<T>(&self, key: &str, fate: Fate, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match fate {
            Fate::CrashAfter => {
                self.kill();
                std::future::pending().await
            }
            Fate::NoAnswer => Err(no_answer(key)),
            Fate::Slow(time) => {
                tokio::time::sleep(time).await;
                result
            }
            _ => result,
        }
    }

    /// A call of the bus.
    pub(crate) async fn bus_call(&self, call: &str) -> Result<(), BusError> {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        let fate = self.fate(false, false);
        match fate {
            Fate::Crash | Fate::CrashAfter => {
                self.disk.tell(|| format!("{} bus {call}: {fate:?}", self.name));
                self.kill();
                std::future::pending::<()>().await;
            }
            Fate::Slow(time) | Fate::Asleep(time) => tokio::time::sleep(time).await,
            Fate::NotDone => return Err(BusError::Closed),
            _ => {}
        }
        Ok(())
    }
}

fn no_answer(key: &str) -> StoreError {
    StoreError::NoAnswer {
        key: key.to_owned(),
        source: None,
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Seat {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let fate = self.before("get", key, false, false).await;
        if fate == Fate::NotDone {
            return Err(no_answer(key));
        }
        let result = self.disk.get(key, if_none_match);
        self.after(key, fate, result).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fate = self.before("get_range", key, false, false).await;
        if fate == Fate::NotDone {
            return Err(no_answer(key));
        }
        let missing = || StoreError::NotFound { key: key.to_owned() };
        let result = self.disk.look(key).ok_or_else(missing).map(|object| {
            let end = range.end.min(object.bytes.len() as u64);
            object.bytes.slice(range.start.min(end) as usize..end as usize)
        });
        self.after(key, fate, result).await
    }

    async fn get_part(&self, key: &str, range: Range<u64>, _of: Option<&Tag>) -> Result<Part, StoreError> {
        let bytes = self.get_range(key, range).await?;
        Ok(Part { bytes, tag: None })
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        self.disk.asked(key, &body);
        let fate = self.before("put", key, true, false).await;
        match fate {
            Fate::NotDone => return Err(no_answer(key)),
            Fate::Conflict => return Err(StoreError::Conflict { key: key.to_owned() }),
            Fate::Late(time) => {
                let (disk, by, key, at) = (self.disk.clone(), self.name.clone(), key.to_owned(), key.to_owned());
                // A file that is on its way is no longer the caller's.
                let body = match body {
                    Body::File(path) => {
                        let bytes = std::fs::read(&path).map_err(|source| StoreError::Body {
                            key: key.clone(),
                            path: path.display().to_string(),
                            source,
                        })?;
                        let aside = path.with_extension("on-its-way");
                        std::fs::write(&aside, bytes).expect("there is room");
                        Body::File(aside)
                    }
                    bytes @ Body::Bytes(_) => bytes,
                };
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    let landed = disk.put(&by, &key, body, &precondition).is_ok();
                    disk.tell(|| format!("{by} put {key} lands late: {landed}"));
                });
                return Err(no_answer(&at));
            }
            _ => {}
        }
        let result = self.disk.put(&self.name, key, body, &precondition);
        self.after(key, fate, result).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let fate = self.before("list", prefix, false, true).await;
        if fate == Fate::NotDone {
            return Err(no_answer(prefix));
        }
        let fresh = self.disk.list(prefix, start_after, limit);
        let listing = (prefix.to_owned(), start_after.map(str::to_owned), limit);
        let stale = self.lock().listings.insert(listing, fresh.clone()).unwrap_or_default();
        if fate == Fate::Stale {
            self.disk.mislist(prefix);
        }
        let result = Ok(if fate == Fate::Stale { stale } else { fresh });
        self.after(prefix, fate, result).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let fate = self.before("delete", key, true, false).await;
        match fate {
            Fate::NotDone | Fate::Conflict => return Err(no_answer(key)),
            _ => self.disk.delete(key),
        }
        self.after(key, fate, Ok(())).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.disk.local_path(key)
    }

    fn describe(&self) -> String {
        format!("the store as {} sees it", self.name)
    }
}
