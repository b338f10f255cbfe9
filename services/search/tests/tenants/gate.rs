//! A store that counts what is read of it, and that can be away or wait.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use verdigris_store::{Body, Get, ObjectMeta, Precondition, Store, StoreError, Tag};

/// What the store lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// All.
    Open,
    /// Nothing: each request fails.
    Away,
    /// All but manifests, which are waited for.
    Releases,
}

/// In front of a store.
pub(crate) struct Gate {
    inner: Arc<dyn Store>,
    at: watch::Sender<At>,
    reads: AtomicU64,
    waiting: watch::Sender<u64>,
}

impl Gate {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            at: watch::channel(At::Open).0,
            reads: AtomicU64::new(0),
            waiting: watch::channel(0).0,
        }
    }

    pub(crate) fn set(&self, at: At) {
        self.at.send_replace(at);
    }

    /// Requests so far.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    pub(crate) async fn somebody_waits(&self) {
        self.waiting.subscribe().wait_for(|count| *count > 0).await.unwrap();
    }

    async fn pass(&self, key: &str) -> Result<(), StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let mut at = self.at.subscribe();
        if *at.borrow_and_update() == At::Releases && key.contains("/releases/") {
            self.waiting.send_modify(|count| *count += 1);
            at.wait_for(|at| *at != At::Releases).await.unwrap();
        }
        match *at.borrow() {
            At::Away => Err(StoreError::Io {
                key: key.to_owned(),
                source: std::io::ErrorKind::TimedOut.into(),
            }),
            At::Open | At::Releases => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Gate {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        self.pass(key).await?;
        self.inner.get(key, if_none_match).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.pass(key).await?;
        self.inner.get_range(key, range).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        self.inner.put(key, body, precondition).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.pass(prefix).await?;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
