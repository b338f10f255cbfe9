//! Verified fetch: a file of a segment on this machine, whose digest was checked before anybody opens it (I-16).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use verdigris_core::digest::Digest;
use verdigris_core::manifest::{FileEntry, Manifest};
use verdigris_core::names::CollectionName;

use crate::error::{ReadError, StoreError};
use crate::keys;
use crate::object::Store;

/// Digest of a file, through a mapping.
pub fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(path)?;
    Ok(hasher.finalize().into())
}

/// A file as it was when its digest was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    digest: Digest,
    inode: u64,
    bytes: u64,
    modified: i64,
}

/// Files whose digests this process has checked. All roles of a process share one, so that a file is read once.
#[derive(Default)]
pub struct VerifiedFiles {
    seen: Mutex<HashMap<PathBuf, Seen>>,
}

impl VerifiedFiles {
    /// The path of a verified file of a collection.
    pub async fn local(
        self: &Arc<Self>,
        store: &dyn Store,
        collection: &CollectionName,
        entry: &FileEntry,
    ) -> Result<PathBuf, ReadError> {
        let key = keys::object(collection, &entry.path);
        let path = store
            .local_path(&key)
            .ok_or_else(|| ReadError::NotLocal { key: key.clone() })?;
        let (this, entry, checked) = (self.clone(), entry.clone(), path.clone());
        let work = tokio::task::spawn_blocking(move || this.check(&key, &checked, &entry));
        match work.await {
            Ok(result) => result.map(|()| path),
            Err(error) => Err(StoreError::Io {
                key: String::new(),
                source: io::Error::other(error),
            }
            .into()),
        }
    }

    /// Forgets files that are gone.
    pub fn forget_missing(&self) {
        self.lock().retain(|path, _| path.exists());
    }

    fn check(&self, key: &str, path: &Path, entry: &FileEntry) -> Result<(), ReadError> {
        let failed = |source| StoreError::of(key, source);
        let meta = fs::metadata(path).map_err(failed)?;
        let modified = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        let now = Seen {
            digest: entry.digest,
            inode: meta.ino(),
            bytes: meta.len(),
            modified,
        };
        if self.lock().get(path) == Some(&now) {
            return Ok(());
        }
        if meta.len() != entry.bytes {
            return Err(ReadError::Length {
                key: key.to_owned(),
                expected: entry.bytes,
                found: meta.len(),
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
        self.lock().insert(path.to_owned(), now);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Seen>> {
        self.seen.lock().expect("no code panics while it holds this lock")
    }
}

/// The verified files of a release, in the order of its segments: `vectors.faiss` and `rows.tar`.
pub async fn release_files(
    files: &Arc<VerifiedFiles>,
    store: &dyn Store,
    manifest: &Manifest,
) -> Result<Vec<(PathBuf, PathBuf)>, ReadError> {
    let mut paths = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        let vectors = files.local(store, &manifest.collection, &segment.files.vectors).await?;
        let rows = files.local(store, &manifest.collection, &segment.files.rows).await?;
        paths.push((vectors, rows));
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
    let fresh = Arc::new(VerifiedFiles::default());
    for segment in &manifest.segments {
        for entry in [&segment.files.vectors, &segment.files.rows] {
            verification.files += 1;
            verification.bytes += entry.bytes;
            if let Err(error) = fresh.local(store, &manifest.collection, entry).await {
                verification.problems.push(chain(&error));
            }
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
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
