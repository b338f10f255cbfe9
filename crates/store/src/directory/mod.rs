//! Objects as files of a folder: temporary file, fsync, rename, fsync of the folder, and a lock for compare-and-swap
//! between processes. Local disks only.

mod files;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::object::{Body, Get, ObjectMeta, Precondition, Store, Tag};
use files::{TagParts, sync_folder};

/// What the marker file says.
const FORMAT: &str = "verdigris store 1";
const MARKER: &str = ".verdigris-store";
const TEMPORARY: &str = ".tmp";
const LOCK: &str = ".lock";

/// A store in a folder of this machine.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    counter: AtomicU64,
}

impl DirectoryStore {
    /// Opens a folder, made when it is not there. Temporary files of processes that are gone are removed.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let shown = root.display().to_string();
        let failed = |source| StoreError::of(&shown, source);
        let new = match fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed(error)),
        };
        fs::create_dir_all(root.join(TEMPORARY)).map_err(failed)?;
        let marker = root.join(MARKER);
        match fs::read_to_string(&marker) {
            Ok(found) if found.trim() == FORMAT => {}
            Ok(found) => {
                return Err(StoreError::Format {
                    path: shown,
                    found: found.trim().to_owned(),
                    known: FORMAT.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && (new || is_only_ours(root)) => {
                fs::write(&marker, format!("{FORMAT}\n")).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Foreign { path: shown }),
            Err(error) => return Err(failed(error)),
        }
        sweep(&root.join(TEMPORARY)).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                counter: AtomicU64::new(0),
            }),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Io {
                key: String::new(),
                source: io::Error::other(error),
            }),
        }
    }
}

/// Whether a crash between making the folder and writing the marker explains what is there.
fn is_only_ours(root: &Path) -> bool {
    fs::read_dir(root).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == TEMPORARY || entry.file_name() == LOCK))
    })
}

/// Removes temporary files of processes that are gone: their names begin with the process id.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let process: Option<u32> = name.split('-').next().and_then(|text| text.parse().ok());
        let alive = process.is_some_and(|id| id != std::process::id() && Path::new(&format!("/proc/{id}")).exists());
        if !alive {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

impl Inner {
    /// The file of a key. A key can name nothing outside the root, and none of the store's own files.
    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\0', '\\']);
        if key.len() <= 1_024 && key.split('/').all(part) {
            return Ok(self.root.join(key));
        }
        Err(StoreError::Key { key: key.to_owned() })
    }

    fn temporary(&self) -> PathBuf {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        self.root
            .join(TEMPORARY)
            .join(format!("{}-{n}-{:08x}", std::process::id(), rand::random::<u32>()))
    }

    /// Holds the lock of the whole store, between processes too, until the file is dropped.
    fn lock(&self, key: &str) -> Result<File, StoreError> {
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(self.root.join(LOCK));
        let file = file.map_err(|source| StoreError::of(key, source))?;
        file.lock().map_err(|source| StoreError::of(key, source))?;
        Ok(file)
    }

    fn get(&self, key: &str, known: Option<&Tag>) -> Result<Get, StoreError> {
        let path = self.path(key)?;
        let failed = |source| StoreError::of(key, source);
        let file = File::open(&path).map_err(failed)?;
        if known.is_some_and(|tag| TagParts::of(&file).is_ok_and(|parts| parts.is_of(tag))) {
            return Ok(Get::NotModified);
        }
        let (bytes, tag) = files::read(&file).map_err(failed)?;
        Ok(Get::Found {
            bytes: bytes.into(),
            tag,
        })
    }

    fn put(&self, key: &str, body: Body, precondition: &Precondition) -> Result<Tag, StoreError> {
        let path = self.path(key)?;
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        let failed = |source| StoreError::of(key, source);
        let temporary = self.temporary();
        let result = (|| {
            let tag = files::write(&temporary, body, &self.root).map_err(failed)?;
            files::make_folders(&self.root, &folder).map_err(failed)?;
            match precondition {
                Precondition::Any => fs::rename(&temporary, &path).map_err(failed)?,
                Precondition::Absent => {
                    // A link never replaces: of two writers one is told that the object is there.
                    fs::hard_link(&temporary, &path).map_err(failed)?;
                    fs::remove_file(&temporary).map_err(failed)?;
                }
                Precondition::Matches(expected) => {
                    let _lock = self.lock(key)?;
                    let current = File::open(&path).and_then(|file| files::read(&file)).map_err(failed)?.1;
                    if current != *expected {
                        return Err(StoreError::PreconditionFailed { key: key.to_owned() });
                    }
                    fs::rename(&temporary, &path).map_err(failed)?;
                }
            }
            sync_folder(&folder).map_err(failed)?;
            Ok(tag)
        })();
        if result.is_err() {
            // It may be gone already; a later start sweeps what stays.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let _lock = self.lock(key)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(StoreError::of(key, source)),
        }
        // Folders that became empty go as well; one that is in use again stays, because removing it does not succeed.
        let mut folder = path.parent();
        while let Some(empty) = folder.filter(|folder| *folder != self.root && fs::remove_dir(folder).is_ok()) {
            folder = empty.parent();
        }
        Ok(())
    }
}

#[async_trait]
impl Store for DirectoryStore {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let (key, known) = (key.to_owned(), if_none_match.cloned());
        self.blocking(move |inner| inner.get(&key, known.as_ref())).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.put(&key, body, &precondition)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.blocking(move |inner| {
            let mut found = files::list(&inner.root, &prefix).map_err(|source| StoreError::of(&prefix, source))?;
            found.retain(|object| after.as_ref().is_none_or(|after| object.key > *after));
            found.truncate(limit);
            Ok(found)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.delete(&key)).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.path(key).ok()
    }

    fn describe(&self) -> String {
        format!("folder {}", self.inner.root.display())
    }
}
