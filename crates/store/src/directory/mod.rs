//! Objects as files of a folder: temporary file, fsync, rename, fsync of the folder, and a lock for compare-and-swap
//! between processes.
//!
//! Local disks only: the lock and the change of a file's time are not what network file systems promise. A removal is
//! not made durable by itself: what comes back after a power cut is garbage again, and goes again.

mod files;
mod format;
mod scratch;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;
use crate::keys;
use crate::object::{Body, Get, ObjectMeta, Precondition, Store, Tag};
use files::TagParts;
use scratch::{Scratch, Staged};

/// The lock of the whole store. Held for a rename, never for the writing of content.
const LOCK: &str = ".lock";
/// A store in a folder of this machine. Any number of handles and processes may use one folder.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Mode of new files: that of the marker, and so what the umask of its maker said.
    mode: u32,
    /// Made by the first write: a store that is only read needs no room and no right to write.
    scratch: Mutex<Option<Arc<Scratch>>>,
}

impl DirectoryStore {
    /// Opens a folder, made when it is not there. Temporary files of processes that are gone are removed.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let mode = format::open(root)?;
        let shown = root.display().to_string();
        let root = root.canonicalize().map_err(|source| StoreError::of(&shown, source))?;
        let inner = Inner {
            root,
            mode,
            scratch: Mutex::default(),
        };
        match inner.sweep() {
            // Readers of a full or read-only disk have nothing to sweep for.
            Ok(()) | Err(StoreError::ReadOnly { .. } | StoreError::OutOfSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Inner, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (inner, owned) = (self.inner.clone(), key.to_owned());
        match tokio::task::spawn_blocking(move || work(&inner, &owned)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::NoAnswer {
                key: key.to_owned(),
                source: Some(io::Error::other(error)),
            }),
        }
    }
}

impl Inner {
    /// The file of a key. A key can name nothing outside the root, and none of the store's own files.
    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        if keys::is_key(key) {
            return Ok(self.root.join(key));
        }
        Err(StoreError::Key { key: key.to_owned() })
    }

    /// Holds the lock of the whole store, between threads and processes, until the file is dropped; the system drops
    /// it for a process that dies.
    fn lock(&self) -> io::Result<File> {
        let path = self.root.join(LOCK);
        loop {
            let file = File::options().create(true).write(true).truncate(false).open(&path)?;
            file.lock()?;
            // Somebody who cleaned up may have removed the file meanwhile; a lock on it would exclude nobody.
            if fs::metadata(&path).is_ok_and(|meta| file.metadata().is_ok_and(|own| own.ino() == meta.ino())) {
                return Ok(file);
            }
        }
    }

    fn sweep(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::of(&self.root.display().to_string(), source);
        if !scratch::is_empty(&self.root) {
            let _lock = self.lock().map_err(failed)?;
            scratch::sweep(&self.root).map_err(failed)?;
        }
        Ok(())
    }

    fn scratch(&self) -> io::Result<Arc<Scratch>> {
        let mut scratch = self.scratch.lock().expect("no code panics while it holds this lock");
        if let Some(scratch) = &*scratch {
            return Ok(scratch.clone());
        }
        let _lock = self.lock()?;
        let made = Arc::new(Scratch::make(&self.root)?);
        *scratch = Some(made.clone());
        Ok(made)
    }

    fn open(&self, key: &str) -> Result<File, StoreError> {
        let path = self.path(key)?;
        let file = File::open(&path).map_err(|source| StoreError::of(key, source))?;
        match file.metadata() {
            Ok(meta) if meta.is_file() => Ok(file),
            Ok(_) => Err(StoreError::NotFound { key: key.to_owned() }),
            Err(source) => Err(StoreError::of(key, source)),
        }
    }

    fn get(&self, key: &str, known: Option<&Tag>) -> Result<Get, StoreError> {
        let file = self.open(key)?;
        if known.is_some_and(|tag| TagParts::of(&file).is_ok_and(|parts| parts.is_of(tag))) {
            return Ok(Get::NotModified);
        }
        let failed = |source| StoreError::of(key, source);
        let (bytes, tag) = files::read(&file).map_err(failed)?;
        let modified = files::modified(&file.metadata().map_err(failed)?);
        Ok(Get::Found {
            bytes: bytes.into(),
            tag,
            modified,
        })
    }

    fn get_range(&self, key: &str, range: &Range<u64>) -> Result<Bytes, StoreError> {
        let file = self.open(key)?;
        let failed = |source| StoreError::of(key, source);
        let end = file.metadata().map_err(failed)?.len().min(range.end);
        let mut bytes = vec![0; end.saturating_sub(range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        Ok(bytes.into())
    }

    fn put(&self, key: &str, body: &Body, precondition: &Precondition) -> Result<Tag, StoreError> {
        let path = self.path(key)?;
        let failed = |source| StoreError::of(key, source);
        let scratch = self.scratch().map_err(failed)?;
        let staged = match body {
            Body::Bytes(bytes) => scratch.write(bytes, self.mode).map_err(failed)?,
            Body::File(source) => scratch
                .take(source, self.mode)
                .map_err(|error| body_error(key, source, error))?,
        };
        let tag = self.place(key, &path, staged, precondition)?;
        // It has its name: from here on nothing can be said to be not written.
        let unsure = |source| StoreError::NoAnswer {
            key: key.to_owned(),
            source: Some(source),
        };
        files::sync_folder(path.parent().unwrap_or(&self.root)).map_err(unsure)?;
        if let Body::File(source) = body {
            // The object is there, and its file has a name of its own; a source that stays is its owner's to remove.
            let _ = fs::remove_file(source);
        }
        Ok(tag)
    }

    /// Gives a staged file its name, if the object is as expected.
    fn place(&self, key: &str, path: &Path, staged: Staged, precondition: &Precondition) -> Result<Tag, StoreError> {
        let failed = |source: io::Error| match source.kind() {
            // A part of the key is an object itself.
            ErrorKind::NotADirectory => StoreError::Io {
                key: key.to_owned(),
                source,
            },
            _ => StoreError::of(key, source),
        };
        // Held while folders are made, because a removal takes empty folders along.
        let _lock = self.lock().map_err(failed)?;
        files::make_folders(&self.root, path.parent().unwrap_or(&self.root)).map_err(failed)?;
        let current = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            opened => Some(opened.map_err(failed)?),
        };
        match (precondition, &current) {
            (Precondition::Absent, Some(_)) => return Err(StoreError::PreconditionFailed { key: key.to_owned() }),
            (Precondition::Matches(_), None) => return Err(StoreError::NotFound { key: key.to_owned() }),
            (Precondition::Matches(expected), Some(file)) if files::tag(file).map_err(failed)? != *expected => {
                return Err(StoreError::PreconditionFailed { key: key.to_owned() });
            }
            _ => {}
        }
        let tag = files::stamp(staged.path(), current.as_ref()).map_err(failed)?;
        match precondition {
            Precondition::Absent => staged.place_new(path).map_err(failed)?,
            Precondition::Any | Precondition::Matches(_) => staged.place(path).map_err(failed)?,
        }
        Ok(tag)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let failed = |source| StoreError::of(key, source);
        let _lock = self.lock().map_err(failed)?;
        match fs::remove_file(&path) {
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(()),
            removed => removed.map_err(failed)?,
        }
        // Folders that became empty go as well; the system keeps one that is not.
        let mut folder = path.parent();
        while let Some(empty) = folder.filter(|folder| *folder != self.root && fs::remove_dir(folder).is_ok()) {
            folder = empty.parent();
        }
        Ok(())
    }
}

fn body_error(key: &str, path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::NotFound => StoreError::Body {
            key: key.to_owned(),
            path: path.display().to_string(),
            source,
        },
        _ => StoreError::of(key, source),
    }
}

#[async_trait]
impl Store for DirectoryStore {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let known = if_none_match.cloned();
        self.blocking(key, move |inner, key| inner.get(key, known.as_ref()))
            .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.blocking(key, move |inner, key| inner.get_range(key, &range)).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        self.blocking(key, move |inner, key| inner.put(key, &body, &precondition))
            .await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let after = start_after.map(str::to_owned);
        self.blocking(prefix, move |inner, prefix| {
            files::list(&inner.root, prefix, after.as_deref(), limit).map_err(|source| StoreError::of(prefix, source))
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.blocking(key, |inner, key| inner.delete(key)).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.path(key).ok()
    }

    fn describe(&self) -> String {
        format!("folder {}", self.inner.root.display())
    }
}
