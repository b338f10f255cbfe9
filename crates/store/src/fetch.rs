//! Verified fetch: a file of a segment on this machine, whose digest was checked before anybody opens it (I-16).
//!
//! Deliberately absent: what to do with a damaged object: its reader decides.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::{FileEntry, Manifest};
use verdigris_core::names::CollectionName;

use crate::cache::{Cache, Held};
use crate::download;
use crate::error::{ReadError, StoreError};
use crate::keys;
use crate::object::Store;

/// Segments whose two files are checked or downloaded at once: enough to hide the latency of a remote store, and few
/// enough to leave room for answers.
const SEGMENTS_AT_ONCE: usize = 2;
/// From this length on a file is hashed by all processors: below it, handing out the work costs more than it saves.
const PARALLEL_BYTES_MIN: u64 = 1 << 20;

/// With fewer files nobody looks which of them are gone.
const FORGET_FROM: usize = 64;

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

/// Digest of bytes that are in memory, or mapped.
fn digest_of(bytes: &[u8]) -> Digest {
    if (bytes.len() as u64) < PARALLEL_BYTES_MIN {
        return Digest::of(bytes);
    }
    blake3::Hasher::new().update_rayon(bytes).finalize().into()
}

/// A file on this machine whose digest is that of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedFile<M> {
    /// Where it lies.
    pub path: PathBuf,
    /// The very bytes that were hashed, where that was just now: whoever opens them opens what was checked, whatever
    /// becomes of the path, and maps nothing a second time. Absent if the file was checked earlier, or downloaded.
    pub bytes: Option<M>,
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
    /// How many were left when those that are gone were last forgotten.
    left: AtomicUsize,
    cache: Option<Arc<Cache>>,
}

/// Files of a release that stay in the cache as long as this lives. Whoever opens them keeps it until they are closed.
#[derive(Debug)]
pub struct Lease {
    _held: Option<Held>,
}

/// What there is to say of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cached {
    /// Bytes of whole files.
    pub bytes: u64,
    /// Files that left it to make room for others.
    pub removed: u64,
}

impl VerifiedFiles {
    /// With a folder for the files of a store that is not on this machine. The folder belongs to this process alone;
    /// what an earlier one left half done is gone on with.
    pub fn with_cache(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            slots: Mutex::default(),
            left: AtomicUsize::new(0),
            cache: Some(Arc::new(Cache::open(folder)?)),
        })
    }

    /// With such a folder that holds at most so many bytes, whatever room the disk has. Where the limit is enforced from
    /// outside, as for a volume of a pod, this keeps below it.
    pub fn with_limited_cache(folder: &Path, bytes: u64) -> io::Result<Self> {
        let mut cache = Cache::open(folder)?;
        cache.set_limit(bytes);
        Ok(Self {
            slots: Mutex::default(),
            left: AtomicUsize::new(0),
            cache: Some(Arc::new(cache)),
        })
    }

    /// The path of a verified file of a collection. A file of the store's own folder is checked where it lies; one of
    /// a remote store is downloaded to the cache, or taken from there if it is whole. It stays as long as the process
    /// does.
    pub async fn local(
        &self,
        store: &dyn Store,
        collection: &CollectionName,
        entry: &FileEntry,
    ) -> Result<PathBuf, ReadError> {
        let key = keys::object(collection, &entry.path);
        if let Some(cache) = &self.cache {
            std::mem::forget(cache.hold(vec![cache.path(&key)]));
        }
        let file = self.verified(store, collection, entry, read_once).await?;
        Ok(file.path)
    }

    /// Keeps the files of a release that are in the cache, or will be.
    fn lease(&self, manifest: &Manifest) -> Lease {
        let held = self.cache.as_ref().map(|cache| {
            let paths = entries(manifest).map(|entry| cache.path(&keys::object(&manifest.collection, &entry.path)));
            cache.hold(paths.collect())
        });
        Lease { _held: held }
    }

    /// Makes room for all that a release lacks in the cache, before any of it is fetched.
    async fn make_room(&self, store: &dyn Store, manifest: &Manifest) -> Result<(), ReadError> {
        let Some(cache) = self.cache.clone() else {
            return Ok(());
        };
        let mut missing = 0;
        for entry in entries(manifest) {
            let key = keys::object(&manifest.collection, &entry.path);
            let is_there = fs::metadata(cache.path(&key)).is_ok_and(|meta| meta.len() == entry.bytes);
            if store.local_path(&key).is_none() && !is_there {
                missing += entry.bytes;
            }
        }
        let shown = format!("release {} of {}", manifest.generation, manifest.collection);
        apart(
            &shown,
            move || if missing > 0 { cache.make_room(missing) } else { Ok(()) },
        )
        .await?;
        Ok(())
    }

    async fn verified<M: Send + 'static>(
        &self,
        store: &dyn Store,
        collection: &CollectionName,
        entry: &FileEntry,
        read: impl Read<M>,
    ) -> Result<VerifiedFile<M>, ReadError> {
        let key = keys::object(collection, &entry.path);
        if !keys::is_key(&key) {
            return Err(StoreError::Key { key }.into());
        }
        let in_place = store.local_path(&key);
        let cached = || self.cache.as_ref().map(|cache| cache.path(&key));
        let path = in_place
            .clone()
            .or_else(cached)
            .ok_or_else(|| ReadError::NotLocal { key: key.clone() })?;
        let slot = self.lock().entry(path.clone()).or_default().clone();
        let mut seen = slot.lock().await;
        if seen.is_some_and(|seen| Seen::of(&path, entry.digest).is_ok_and(|now| now == seen)) {
            return Ok(VerifiedFile { path, bytes: None });
        }
        *seen = None;
        let checked = check_apart(&key, &path, entry, read).await;
        let (now, bytes) = match (checked, &self.cache) {
            (Ok((now, bytes)), _) => (now, Some(bytes)),
            // Absent from the cache, or damaged in it: the store's own is what counts.
            (Err(error), Some(cache)) if in_place.is_none() && is_of_content(&error) => {
                (fetch(cache, store, &key, &path, entry).await?, None)
            }
            (Err(error), _) => return Err(error),
        };
        *seen = Some(now);
        Ok(VerifiedFile { path, bytes })
    }

    /// What is in the cache; nothing where there is none.
    pub fn cached(&self) -> Cached {
        let (bytes, removed) = self.cache.as_ref().map_or((0, 0), |cache| cache.facts());
        Cached { bytes, removed }
    }

    /// Forgets files that are gone, once there are twice as many as were left the last time: each is looked for, and a
    /// process with thousands of small collections opens one after the other.
    pub fn forget_missing(&self) {
        let mut slots = self.lock();
        if slots.len() > 2 * self.left.load(Ordering::Relaxed) + FORGET_FROM {
            slots.retain(|path, _| path.exists());
            self.left.store(slots.len(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Slot>> {
        self.slots.lock().expect("no code panics while it holds this lock")
    }
}

fn entries(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    let segments = manifest.segments.iter();
    segments.flat_map(|segment| [&segment.files.vectors, &segment.files.rows])
}

/// Whether it is about what the file holds, and not about reading it.
fn is_of_content(error: &ReadError) -> bool {
    match error {
        ReadError::Store(error) => error.is_not_found(),
        _ => true,
    }
}

/// Fetches a file to the cache, and takes it for checked: it was hashed on its way to the disk, and nobody else writes
/// there.
async fn fetch(
    cache: &Arc<Cache>,
    store: &dyn Store,
    key: &str,
    path: &Path,
    entry: &FileEntry,
) -> Result<Seen, ReadError> {
    let (own, wanted, damaged) = (cache.clone(), entry.clone(), path.to_owned());
    let owned_key = key.to_owned();
    let begin = move || {
        // What lies there is damaged, and its room is needed.
        own.discard(&damaged)?;
        own.begin(&owned_key, &wanted)
    };
    let incoming = apart(key, begin).await?;
    download::to_file(store, key, entry, incoming.path()).await?;
    let (path, digest) = (path.to_owned(), entry.digest);
    let place = move || incoming.place(&path).and_then(|()| Seen::of(&path, digest));
    Ok(apart(key, place).await?)
}

/// Work on files, off the runtime.
async fn apart<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| match source.kind() {
        // A file of ours that is missing is not a missing object.
        io::ErrorKind::NotFound => StoreError::Io {
            key: key.to_owned(),
            source,
        },
        _ => StoreError::of(key, source),
    })
}

/// Reads a file once: its digest, and what is kept of its bytes.
trait Read<M>: FnOnce(&Path) -> io::Result<(Digest, M)> + Send + 'static {}
impl<M, F: FnOnce(&Path) -> io::Result<(Digest, M)> + Send + 'static> Read<M> for F {}

/// Keeps nothing.
fn read_once(path: &Path) -> io::Result<(Digest, ())> {
    Ok((digest_of_file(path)?, ()))
}

async fn check_apart<M: Send + 'static>(
    key: &str,
    path: &Path,
    entry: &FileEntry,
    read: impl Read<M>,
) -> Result<(Seen, M), ReadError> {
    let (key, path, entry) = (key.to_owned(), path.to_owned(), entry.clone());
    let shown = key.clone();
    match tokio::task::spawn_blocking(move || check(&key, &path, &entry, read)).await {
        Ok(checked) => checked,
        Err(error) => Err(StoreError::Io {
            key: shown,
            source: io::Error::other(error),
        }
        .into()),
    }
}

fn check<M>(key: &str, path: &Path, entry: &FileEntry, read: impl Read<M>) -> Result<(Seen, M), ReadError> {
    let failed = |source| StoreError::of(key, source);
    let before = Seen::of(path, entry.digest).map_err(failed)?;
    if before.bytes != entry.bytes {
        return Err(ReadError::Length {
            key: key.to_owned(),
            expected: entry.bytes,
            found: before.bytes,
        });
    }
    let (found, bytes) = read(path).map_err(failed)?;
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
    Ok((before, bytes))
}

/// The verified files of a release, in the order of its segments: `vectors.faiss` and `rows.tar`. Those of a cache stay
/// there as long as the process does; see [`leased_release_files`].
pub async fn release_files(
    files: &Arc<VerifiedFiles>,
    store: &dyn Store,
    manifest: &Manifest,
) -> Result<Vec<(PathBuf, PathBuf)>, ReadError> {
    let (files, lease) = fetched(files, store, manifest, read_once).await?;
    std::mem::forget(lease);
    Ok(files
        .into_iter()
        .map(|[vectors, rows]| (vectors.path, rows.path))
        .collect())
}

/// The verified files of a release, in the order of its segments: `vectors.faiss` and `rows.tar`; and what keeps them in
/// the cache. Each is hashed through what `map` makes of it, and comes with that. A release that does not fit is refused
/// before any of it is fetched; what nobody holds makes room for it.
pub async fn leased_release_files<M: AsRef<[u8]> + Send + 'static>(
    files: &Arc<VerifiedFiles>,
    store: &dyn Store,
    manifest: &Manifest,
    map: fn(&File) -> io::Result<M>,
) -> Result<(Vec<[VerifiedFile<M>; 2]>, Lease), ReadError> {
    let read = move |path: &Path| {
        let bytes = map(&File::open(path)?)?;
        Ok((digest_of(bytes.as_ref()), bytes))
    };
    fetched(files, store, manifest, read).await
}

async fn fetched<M: Send + 'static>(
    files: &Arc<VerifiedFiles>,
    store: &dyn Store,
    manifest: &Manifest,
    read: impl Read<M> + Copy,
) -> Result<(Vec<[VerifiedFile<M>; 2]>, Lease), ReadError> {
    let lease = files.lease(manifest);
    files.make_room(store, manifest).await?;
    let mut fetches = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        fetches.push(async move {
            let verified = |entry| files.verified(store, &manifest.collection, entry, read);
            futures::try_join!(verified(&segment.files.vectors), verified(&segment.files.rows))
        });
    }
    let mut fetched = futures::stream::iter(fetches).buffered(SEGMENTS_AT_ONCE);
    let mut segments = Vec::with_capacity(manifest.segments.len());
    while let Some(pair) = fetched.next().await {
        let (vectors, rows) = pair?;
        segments.push([vectors, rows]);
    }
    Ok((segments, lease))
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
                Some(path) => check_apart(&key, &path, entry, read_once).await.map(|_| ()),
                None => download::check(store, &key, entry).await,
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
