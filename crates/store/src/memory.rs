//! A store in memory, for tests: the same contract, without a disk, a thread or a wait. Its calls are over when they
//! are first polled, so that a test decides about their order.
//!
//! Deliberately absent: files on this machine; it stands for every remote store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_core::timestamp::Timestamp;

use crate::error::StoreError;
use crate::keys;
use crate::object::{Body, Get, ObjectMeta, Part, Precondition, Store, Tag};

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    tag: Tag,
    modified: Timestamp,
}

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Object>,
    writes: u64,
    now: Timestamp,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<Objects>,
}

impl MemoryStore {
    /// Sets the time that objects written from now on have.
    pub fn set_now(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// All keys, for a test's look at what is there.
    pub fn keys(&self) -> Vec<String> {
        self.lock().by_key.keys().cloned().collect()
    }

    /// The content of an object, for a test's look at what is there.
    pub fn look(&self, key: &str) -> Option<Bytes> {
        self.lock().by_key.get(key).map(|object| object.bytes.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.objects.lock().expect("no code panics while it holds this lock")
    }

    fn found(&self, key: &str) -> Result<Object, StoreError> {
        self.lock()
            .by_key
            .get(key)
            .cloned()
            .ok_or_else(|| StoreError::NotFound { key: key.to_owned() })
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if keys::is_key(key) {
        return Ok(());
    }
    Err(StoreError::Key { key: key.to_owned() })
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        check_key(key)?;
        let Object { bytes, tag, modified } = self.found(key)?;
        Ok(if if_none_match == Some(&tag) {
            Get::NotModified
        } else {
            Get::Found { bytes, tag, modified }
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.get_part(key, range, None).await?.bytes)
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        check_key(key)?;
        let Object { bytes, tag, .. } = self.found(key)?;
        if of.is_some_and(|of| *of != tag) {
            return Err(StoreError::PreconditionFailed { key: key.to_owned() });
        }
        let end = range.end.min(bytes.len() as u64);
        Ok(Part {
            bytes: bytes.slice(range.start.min(end) as usize..end as usize),
            tag: Some(tag),
        })
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        check_key(key)?;
        let bytes = match &body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::File(path) => std::fs::read(path)
                .map_err(|source| StoreError::Body {
                    key: key.to_owned(),
                    path: path.display().to_string(),
                    source,
                })?
                .into(),
        };
        let mut objects = self.lock();
        match (&precondition, objects.by_key.get(key)) {
            (Precondition::Absent, Some(_)) => return Err(StoreError::PreconditionFailed { key: key.to_owned() }),
            (Precondition::Matches(_), None) => return Err(StoreError::NotFound { key: key.to_owned() }),
            (Precondition::Matches(expected), Some(object)) if object.tag != *expected => {
                return Err(StoreError::PreconditionFailed { key: key.to_owned() });
            }
            _ => {}
        }
        objects.writes += 1;
        let (tag, modified) = (Tag(format!("write-{}", objects.writes)), objects.now);
        objects.by_key.insert(
            key.to_owned(),
            Object {
                bytes,
                tag: tag.clone(),
                modified,
            },
        );
        if let Body::File(path) = body {
            // It was read; what cannot be removed stays with its owner.
            let _ = std::fs::remove_file(path);
        }
        Ok(tag)
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.lock();
        let listed = objects
            .by_key
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && start_after.is_none_or(|after| key.as_str() > after))
            .take(limit)
            .map(|(key, object)| ObjectMeta {
                key: key.clone(),
                bytes: object.bytes.len() as u64,
                modified: object.modified,
            });
        Ok(listed.collect())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        self.lock().by_key.remove(key);
        Ok(())
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
