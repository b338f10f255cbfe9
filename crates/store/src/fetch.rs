//! Verified fetch: a file of a segment on this machine, whose digest was checked before anybody opens it (I-16).
//!
//! Deliberately absent: what to do with a damaged object (its reader decides), and making room in the cache of a remote
//! store (its owner knows what is open).

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::{FileEntry, Manifest};
use verdigris_core::names::CollectionName;

use crate::download::{self, Sink};
use crate::error::{ReadError, StoreError};
use crate::keys;
use crate::object::Store;

/// Files that are checked or downloaded at once: enough to hide the latency of a remote store, and few enough to leave
/// room for answers.
const FILES_AT_ONCE: usize = 4;
/// From this length on a file is hashed by all processors: below it, handing out the work costs more than it saves.
const PARALLEL_BYTES_MIN: u64 = 1 << 20;
/// Where files of the cache lie while they come in.
const INCOMING: &str = ".incoming";

/// Digest of a file, through a mapping. Nobody may cut the file short meanwhile.
pub fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    if fs::metadata(path)?.len() < PARALLEL_BYTES_MIN {
        hasher.update_mmap(path)?;
    } else {
        hasher.update_mmap_rayon(path)?;
    }
    Ok(hasher.finalize().into())
}

/// A file as it was when its digest was checked. The time of change is none that a program can set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    digest: Digest,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Seen {
    fn of(path: &Path, digest: Digest) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            digest,
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// What is known of one file. Its lock is held while it is checked, so that two who ask wait for one reading.
type Slot = Arc<tokio::sync::Mutex<Option<Seen>>>;

/// Files whose digests this process has checked. All roles of a process share one, so that a file is read once.
#[derive(Debug, Default)]
pub struct VerifiedFiles {
    slots: Mutex<HashMap<PathBuf, Slot>>,
    cache: Option<PathBuf>,
}

impl VerifiedFiles {
    /// With a folder for the files of a store that is not on this machine. The folder belongs to this process alone;
    /// what an earlier one left half done is removed.
    pub fn with_cache(folder: &Path) -> io::Result<Self> {
        let incoming = folder.join(INCOMING);
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(incoming)?;
        Ok(Self {
            slots: Mutex::default(),
            cache: Some(folder.to_owned()),
        })
    }

    /// The path of a verified file of a collection. A file of the store's own folder is checked where it lies; one of
    /// a remote store is downloaded to the cache, or taken from there if it is whole.
    pub async fn local(
        &self,
        store: &dyn Store,
        collection: &CollectionName,
        entry: &FileEntry,
    ) -> Result<PathBuf, ReadError> {
        let key = keys::object(collection, &entry.path);
        if !keys::is_key(&key) {
            return Err(StoreError::Key { key }.into());
        }
        let in_place = store.local_path(&key);
        let cached = || self.cache.as_ref().map(|cache| cache.join(&key));
        let path = in_place
            .clone()
            .or_else(cached)
            .ok_or_else(|| ReadError::NotLocal { key: key.clone() })?;
        let slot = self.lock().entry(path.clone()).or_default().clone();
        let mut seen = slot.lock().await;
        if seen.is_some_and(|seen| Seen::of(&path, entry.digest).is_ok_and(|now| now == seen)) {
            return Ok(path);
        }
        *seen = None;
        let checked = check_apart(&key, &path, entry).await;
        *seen = Some(match checked {
            Ok(now) => now,
            Err(error) if in_place.is_some() => return Err(error),
            Err(ReadError::Store(error)) if !error.is_not_found() => return Err(error.into()),
            // Absent from the cache, or damaged in it: the store's own is what counts.
            Err(_) => {
                self.download(store, &key, &path, entry).await?;
                check_apart(&key, &path, entry).await?
            }
        });
        Ok(path)
    }

    /// Forgets files that are gone.
    pub fn forget_missing(&self) {
        self.lock().retain(|path, _| path.exists());
    }

    async fn download(&self, store: &dyn Store, key: &str, path: &Path, entry: &FileEntry) -> Result<(), ReadError> {
        let failed = |source| StoreError::of(&path.display().to_string(), source);
        let cache = self.cache.as_deref().unwrap_or(Path::new(""));
        let incoming = cache.join(INCOMING).join(format!("{:016x}", rand::random::<u64>()));
        let downloaded = download::to_file(store, key, entry, &incoming).await;
        let placed = match downloaded {
            Ok(()) => path
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::rename(&incoming, path))
                .map_err(|source| failed(source).into()),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            // What stays is removed by the next start.
            let _ = fs::remove_file(&incoming);
        }
        placed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Slot>> {
        self.slots.lock().expect("no code panics while it holds this lock")
    }
}

async fn check_apart(key: &str, path: &Path, entry: &FileEntry) -> Result<Seen, ReadError> {
    let (key, path, entry) = (key.to_owned(), path.to_owned(), entry.clone());
    let shown = key.clone();
    match tokio::task::spawn_blocking(move || check(&key, &path, &entry)).await {
        Ok(checked) => checked,
        Err(error) => Err(StoreError::Io {
            key: shown,
            source: io::Error::other(error),
        }
        .into()),
    }
}

fn check(key: &str, path: &Path, entry: &FileEntry) -> Result<Seen, ReadError> {
    let failed = |source| StoreError::of(key, source);
    let before = Seen::of(path, entry.digest).map_err(failed)?;
    if before.bytes != entry.bytes {
        return Err(ReadError::Length {
            key: key.to_owned(),
            expected: entry.bytes,
            found: before.bytes,
        });
    }
    let found = digest_of_file(path).map_err(failed)?;
    if found != entry.digest {
        return Err(ReadError::Digest {
            key: key.to_owned(),
            expected: entry.digest,
            found,
        });
    }
    // Of a file that changed while it was read nobody knows what was read.
    if Seen::of(path, entry.digest).map_err(failed)? != before {
        let changed = io::Error::other("the file changed while it was checked");
        return Err(StoreError::Io {
            key: key.to_owned(),
            source: changed,
        }
        .into());
    }
    Ok(before)
}

/// The verified files of a release, in the order of its segments: `vectors.faiss` and `rows.tar`.
pub async fn release_files(
    files: &Arc<VerifiedFiles>,
    store: &dyn Store,
    manifest: &Manifest,
) -> Result<Vec<(PathBuf, PathBuf)>, ReadError> {
    let mut fetches = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        fetches.push(async move {
            let vectors = files.local(store, &manifest.collection, &segment.files.vectors).await?;
            let rows = files.local(store, &manifest.collection, &segment.files.rows).await?;
            Ok::<_, ReadError>((vectors, rows))
        });
    }
    let mut fetched = futures::stream::iter(fetches).buffered(FILES_AT_ONCE);
    let mut paths = Vec::with_capacity(manifest.segments.len());
    while let Some(pair) = fetched.next().await {
        paths.push(pair?);
    }
    Ok(paths)
}

/// What reading every file of a release came to.
#[derive(Debug, Default)]
pub struct Verification {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// One line for each damaged or missing file.
    pub problems: Vec<String>,
}

/// Reads every file of a release and compares it with its digest, whatever was checked before.
pub async fn verify_release(store: &dyn Store, manifest: &Manifest) -> Verification {
    let mut verification = Verification::default();
    for segment in &manifest.segments {
        for entry in [&segment.files.vectors, &segment.files.rows] {
            verification.files += 1;
            verification.bytes += entry.bytes;
            let key = keys::object(&manifest.collection, &entry.path);
            let checked = match store.local_path(&key) {
                Some(path) => check_apart(&key, &path, entry).await.map(|_| ()),
                None => download::read(store, &key, entry, Sink::Nowhere).await,
            };
            verification.problems.extend(checked.err().map(|error| chain(&error)));
        }
    }
    if let Err(error) = crate::collection::dead_rows(store, manifest).await {
        verification.problems.push(chain(&error));
    }
    verification
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error says what its cause says.
        if !text.ends_with(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}
