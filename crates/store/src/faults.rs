//! A store that misbehaves on demand: for tests of everything that stands on a store. Faults live here and never in
//! product code.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;
use crate::object::{Body, Get, ObjectMeta, Part, Precondition, Store, Tag};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done, but the answer is lost.
    LostAnswer,
    /// It is not done, and the caller is told nothing.
    ErrorBefore,
    /// It is not done, and the caller is told to try again.
    Conflict,
    /// It is done and answered after this time.
    Delay(Duration),
    /// A listing as this store gave it before: what came since is missing, what went is still there. The first listing
    /// of a prefix is empty. No fault for other calls.
    StaleList,
    /// It is not done, and neither is anything after it: the process crashed.
    Crash,
    /// It is done, and nothing after it: the process crashed before it heard of it.
    CrashAfter,
}

/// Which call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading an object.
    Get,
    /// Reading a range of one.
    GetRange,
    /// Writing.
    Put,
    /// Listing.
    List,
    /// Removing.
    Delete,
}

/// A call that a script decides about.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Counted from 0.
    pub n: u64,
    /// What is done.
    pub operation: Operation,
    /// The key, or the prefix of a listing.
    pub key: &'a str,
}

/// Decides what goes wrong with a call.
pub type Script = dyn Fn(&Call<'_>) -> Option<Fault> + Send + Sync;

/// A fault of this kind at call `n` and no other.
pub fn at(n: u64, fault: Fault) -> Box<Script> {
    Box::new(move |call| (call.n == n).then_some(fault))
}

/// Faults in about one call of `every`, the same for the same seed.
pub fn seeded(seed: u64, every: u64) -> Box<Script> {
    const KINDS: [Fault; 5] = [
        Fault::LostAnswer,
        Fault::ErrorBefore,
        Fault::Conflict,
        Fault::StaleList,
        Fault::Delay(Duration::ZERO),
    ];
    Box::new(move |call| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&call.n.to_le_bytes());
        let digest = hasher.finalize();
        let drawn = |from: usize| u64::from_le_bytes(digest.as_bytes()[from..from + 8].try_into().expect("8 bytes"));
        drawn(0)
            .is_multiple_of(every)
            .then(|| KINDS[(drawn(8) % KINDS.len() as u64) as usize])
    })
}

/// The parameters of a listing.
type Listing = (String, Option<String>, usize);

/// A store in front of another, with faults by script.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Box<Script>,
    calls: AtomicU64,
    is_crashed: AtomicBool,
    listings: Mutex<HashMap<Listing, Vec<ObjectMeta>>>,
}

impl FaultyStore {
    /// Faults by `script` in front of `inner`.
    pub fn new(inner: Arc<dyn Store>, script: Box<Script>) -> Self {
        Self {
            inner,
            script,
            calls: AtomicU64::new(0),
            is_crashed: AtomicBool::new(false),
            listings: Mutex::default(),
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Whether a fault ended the process that uses this store.
    pub fn is_crashed(&self) -> bool {
        self.is_crashed.load(Ordering::SeqCst)
    }

    /// The fault of the next call, where the call is made all the same.
    fn before(&self, operation: Operation, key: &str) -> Result<Option<Fault>, StoreError> {
        if self.is_crashed() {
            return Err(StoreError::no_answer(key));
        }
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        match (self.script)(&Call { n, operation, key }) {
            Some(Fault::ErrorBefore) => Err(StoreError::no_answer(key)),
            Some(Fault::Conflict) => Err(StoreError::Conflict { key: key.to_owned() }),
            Some(Fault::Crash) => {
                self.is_crashed.store(true, Ordering::SeqCst);
                Err(StoreError::no_answer(key))
            }
            fault => Ok(fault),
        }
    }

    async fn after<T>(&self, key: &str, fault: Option<Fault>, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match fault {
            Some(Fault::LostAnswer) => Err(StoreError::no_answer(key)),
            Some(Fault::CrashAfter) => {
                self.is_crashed.store(true, Ordering::SeqCst);
                Err(StoreError::no_answer(key))
            }
            Some(Fault::Delay(time)) if !time.is_zero() => {
                tokio::time::sleep(time).await;
                result
            }
            _ => result,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for FaultyStore {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let fault = self.before(Operation::Get, key)?;
        let result = self.inner.get(key, if_none_match).await;
        self.after(key, fault, result).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fault = self.before(Operation::GetRange, key)?;
        let result = self.inner.get_range(key, range).await;
        self.after(key, fault, result).await
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        let fault = self.before(Operation::GetRange, key)?;
        let result = self.inner.get_part(key, range, of).await;
        self.after(key, fault, result).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        let fault = self.before(Operation::Put, key)?;
        let result = self.inner.put(key, body, precondition).await;
        self.after(key, fault, result).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let fault = self.before(Operation::List, prefix)?;
        let listing = (prefix.to_owned(), start_after.map(str::to_owned), limit);
        let fresh = self.inner.list(prefix, start_after, limit).await?;
        let stale = {
            let mut listings = self.listings.lock().expect("no code panics while it holds this lock");
            listings.insert(listing, fresh.clone()).unwrap_or_default()
        };
        let result = Ok(if fault == Some(Fault::StaleList) { stale } else { fresh });
        self.after(prefix, fault, result).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let fault = self.before(Operation::Delete, key)?;
        let result = self.inner.delete(key).await;
        self.after(key, fault, result).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
