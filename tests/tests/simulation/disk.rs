//! The one store of a story, without faults: objects in memory, those that are mapped as files too, and a record of
//! every swing and every removal for those who judge.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tempfile::TempDir;
use verdigris_core::digest::Digest;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{Body, Get, ObjectMeta, Precondition, StoreError, Tag};

/// A swing, as the store saw it.
#[derive(Debug, Clone)]
pub(crate) struct Swing {
    /// Whose call it was.
    pub(crate) by: String,
    /// When it was first asked for.
    pub(crate) asked_at: i64,
    pub(crate) at: i64,
    pub(crate) before: Option<Bytes>,
    pub(crate) after: Bytes,
}

/// What the store did, in order.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Swung(Swing),
    /// An object came: its key.
    Came(String),
    /// An object went: its key, and when.
    Went(String, i64),
}

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    tag: Tag,
    pub(crate) modified: i64,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Object>,
    /// What went, for those who look back.
    gone: BTreeMap<String, Object>,
    /// When each body of a pointer was first asked for.
    asked: BTreeMap<Digest, i64>,
    /// When a listing of before was last given for a prefix.
    mislisted: BTreeMap<String, i64>,
    writes: u64,
    now: i64,
    deeds: Vec<Deed>,
    trace: Vec<String>,
}

/// Objects, time, and what happened.
pub(crate) struct Disk {
    inner: Mutex<Inner>,
    folder: TempDir,
}

impl Disk {
    pub(crate) fn new(now: i64) -> Arc<Self> {
        let in_memory = Path::new("/dev/shm");
        let builder = tempfile::Builder::new().prefix("verdigris-story-").to_owned();
        let folder = if in_memory.is_dir() {
            builder.tempdir_in(in_memory)
        } else {
            builder.tempdir()
        };
        let inner = Inner {
            now,
            ..Inner::default()
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            folder: folder.expect("there is room for a folder"),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn now(&self) -> i64 {
        self.lock().now
    }

    pub(crate) fn set_now(&self, now: i64) {
        self.lock().now = now;
    }

    /// Notes what happened, for whoever reads the story of a failure.
    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        let mut inner = self.lock();
        let now = inner.now;
        inner.trace.push(format!("{:>14.3}s {}", now as f64 / 1e9, line()));
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    pub(crate) fn take_deeds(&self) -> Vec<Deed> {
        std::mem::take(&mut self.lock().deeds)
    }

    pub(crate) fn look(&self, key: &str) -> Option<Object> {
        self.lock().objects.get(key).cloned()
    }

    /// An object that is there or was.
    pub(crate) fn look_back(&self, key: &str) -> Option<Object> {
        let inner = self.lock();
        inner.objects.get(key).or_else(|| inner.gone.get(key)).cloned()
    }

    /// The first of these keys under which there is nothing, or something else.
    pub(crate) fn missing<'f>(&self, files: &'f [(String, Option<(Digest, u64)>)]) -> Option<&'f str> {
        let inner = self.lock();
        let is_there = |key: &str, expected: &Option<(Digest, u64)>| {
            let object = inner.objects.get(key);
            object.is_some_and(|object| {
                expected.is_none_or(|(digest, bytes)| object.digest == digest && object.bytes.len() as u64 == bytes)
            })
        };
        let mut missing = files.iter().filter(|(key, expected)| !is_there(key, expected));
        missing.next().map(|(key, _)| key.as_str())
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("store").join(key)
    }

    /// Where a file that was removed lies for those who look back.
    pub(crate) fn path_back(&self, key: &str) -> PathBuf {
        let path = self.path(key);
        if path.exists() {
            path
        } else {
            self.folder.path().join("gone").join(key)
        }
    }

    /// Notes when a swing is first asked for: it may sleep on its way, and be sent again.
    pub(crate) fn asked(&self, key: &str, body: &Body) {
        if let (true, Body::Bytes(bytes)) = (key.ends_with("/latest"), body) {
            let mut inner = self.lock();
            let now = inner.now;
            inner.asked.entry(Digest::of(bytes)).or_insert(now);
        }
    }

    pub(crate) fn get(&self, key: &str, known: Option<&Tag>) -> Result<Get, StoreError> {
        let missing = || StoreError::NotFound { key: key.to_owned() };
        let object = self.look(key).ok_or_else(missing)?;
        if known == Some(&object.tag) {
            return Ok(Get::NotModified);
        }
        Ok(Get::Found {
            bytes: object.bytes,
            tag: object.tag,
            modified: Timestamp(object.modified),
        })
    }

    pub(crate) fn put(&self, by: &str, key: &str, body: Body, expected: &Precondition) -> Result<Tag, StoreError> {
        let bytes = read(key, &body)?;
        let mut inner = self.lock();
        let before = inner.objects.get(key).cloned();
        match (expected, &before) {
            (Precondition::Absent, Some(_)) => return Err(StoreError::PreconditionFailed { key: key.to_owned() }),
            (Precondition::Matches(_), None) => return Err(StoreError::NotFound { key: key.to_owned() }),
            (Precondition::Matches(tag), Some(object)) if object.tag != *tag => {
                return Err(StoreError::PreconditionFailed { key: key.to_owned() });
            }
            _ => {}
        }
        inner.writes += 1;
        let (tag, now) = (Tag(format!("w{}", inner.writes)), inner.now);
        let digest = Digest::of(&bytes);
        let asked_at = inner.asked.get(&digest).copied().unwrap_or(now);
        let object = Object {
            digest,
            bytes: bytes.clone(),
            tag: tag.clone(),
            modified: now,
        };
        inner.objects.insert(key.to_owned(), object);
        inner.deeds.push(if key.ends_with("/latest") {
            Deed::Swung(Swing {
                by: by.to_owned(),
                asked_at,
                at: now,
                before: before.map(|object| object.bytes),
                after: bytes,
            })
        } else {
            Deed::Came(key.to_owned())
        });
        drop(inner);
        if let Body::File(path) = body {
            let to = self.path(key);
            fs::create_dir_all(to.parent().expect("a key has a folder")).expect("there is room");
            fs::rename(path, to).expect("one file system");
        }
        Ok(tag)
    }

    pub(crate) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<ObjectMeta> {
        let inner = self.lock();
        let from = after.unwrap_or_default().max(prefix).to_owned();
        let listed = inner
            .objects
            .range(from..)
            .take_while(|(key, _)| key.starts_with(prefix));
        let meta = |(key, object): (&String, &Object)| ObjectMeta {
            key: key.clone(),
            bytes: object.bytes.len() as u64,
            modified: Timestamp(object.modified),
        };
        listed
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
            .take(limit)
            .map(meta)
            .collect()
    }

    /// Notes that somebody is given a listing of before.
    pub(crate) fn mislist(&self, prefix: &str) {
        let mut inner = self.lock();
        let now = inner.now;
        inner.mislisted.insert(prefix.to_owned(), now);
    }

    pub(crate) fn mislisted_at(&self, prefix: &str) -> Option<i64> {
        self.lock().mislisted.get(prefix).copied()
    }

    pub(crate) fn delete(&self, key: &str) {
        let mut inner = self.lock();
        let Some(object) = inner.objects.remove(key) else {
            return;
        };
        let now = inner.now;
        inner.gone.insert(key.to_owned(), object);
        inner.deeds.push(Deed::Went(key.to_owned(), now));
        drop(inner);
        let (from, to) = (self.path(key), self.folder.path().join("gone").join(key));
        if from.exists() {
            fs::create_dir_all(to.parent().expect("a key has a folder")).expect("there is room");
            fs::rename(from, to).expect("one file system");
        }
    }

    pub(crate) fn local_path(&self, key: &str) -> Option<PathBuf> {
        key.contains("/segments/").then(|| self.path(key))
    }
}

fn read(key: &str, body: &Body) -> Result<Bytes, StoreError> {
    match body {
        Body::Bytes(bytes) => Ok(bytes.clone()),
        Body::File(path) => {
            let bytes = fs::read(path).map_err(|source| StoreError::Body {
                key: key.to_owned(),
                path: path.display().to_string(),
                source,
            });
            Ok(bytes?.into())
        }
    }
}
