//! A store that misbehaves on demand: for tests of the commit protocol. Faults live here and never in product code.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::object::{Body, Get, ObjectMeta, Precondition, Store, Tag};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done, but the answer is lost.
    LostAnswer,
    /// It is not done, and the caller is told nothing.
    ErrorBefore,
    /// It is not done, and neither is anything after it: the process crashed.
    Crash,
}

/// Decides about the n-th call, counted from 0; `is_write` tells puts and deletes from reads.
pub type Script = dyn Fn(u64, bool) -> Option<Fault> + Send + Sync;

/// A store in front of another, with faults by script.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Box<Script>,
    calls: AtomicU64,
    crashed: AtomicU64,
}

impl FaultyStore {
    /// Faults by `script` in front of `inner`.
    pub fn new(inner: Arc<dyn Store>, script: Box<Script>) -> Self {
        Self {
            inner,
            script,
            calls: AtomicU64::new(0),
            crashed: AtomicU64::new(0),
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn fault(&self, key: &str, is_write: bool) -> Result<bool, StoreError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let no_answer = || StoreError::NoAnswer { key: key.to_owned() };
        if self.crashed.load(Ordering::SeqCst) > 0 {
            return Err(no_answer());
        }
        match (self.script)(call, is_write) {
            None => Ok(false),
            Some(Fault::LostAnswer) => Ok(true),
            Some(Fault::ErrorBefore) => Err(no_answer()),
            Some(Fault::Crash) => {
                self.crashed.store(1, Ordering::SeqCst);
                Err(no_answer())
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for FaultyStore {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let lost = self.fault(key, false)?;
        let result = self.inner.get(key, if_none_match).await;
        if lost {
            Err(StoreError::NoAnswer { key: key.to_owned() })
        } else {
            result
        }
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        let lost = self.fault(key, true)?;
        let result = self.inner.put(key, body, precondition).await;
        if lost {
            Err(StoreError::NoAnswer { key: key.to_owned() })
        } else {
            result
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let lost = self.fault(prefix, false)?;
        let result = self.inner.list(prefix, start_after, limit).await;
        if lost {
            Err(StoreError::NoAnswer { key: prefix.to_owned() })
        } else {
            result
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let lost = self.fault(key, true)?;
        let result = self.inner.delete(key).await;
        if lost {
            Err(StoreError::NoAnswer { key: key.to_owned() })
        } else {
            result
        }
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
