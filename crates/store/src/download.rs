//! Reading an object of a remote store: ranges in parallel, hashed in order as they complete, each of the same object as
//! the first. What came before an error is kept, and the next reading goes on behind it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use futures::StreamExt;
use verdigris_core::manifest::FileEntry;

use crate::error::{ReadError, StoreError};
use crate::object::{Part, Store, Tag};
use crate::s3::retry;

/// Bytes of one range: long enough that its latency does not count.
const RANGE_BYTES: u64 = 8 << 20;
/// Ranges of one object under way at once; with their length this bounds the memory of a download to 32 MiB.
const RANGES_AT_ONCE: usize = 4;
/// Tries of one range.
const TRIES: u32 = 4;
/// Bytes that are read at once of what is there already.
const CHUNK_BYTES: usize = 1 << 20;

/// What there is of an object, and where it goes.
#[derive(Default)]
struct Progress {
    hasher: blake3::Hasher,
    /// None: it is only checked.
    file: Option<File>,
    found: u64,
}

/// Downloads an object to a file and checks its length and digest on the way. What the file holds already is taken for
/// the object's beginning; if it turns out that it is not, all of it is read again.
pub(crate) async fn to_file(store: &dyn Store, key: &str, entry: &FileEntry, path: &Path) -> Result<(), ReadError> {
    let progress = begin(path, entry.bytes).await?;
    let is_resumed = progress.found > 0;
    let read = read_on(store, key, entry, progress).await;
    if !is_damaged(&read) {
        return read;
    }
    remove(path)?;
    if !is_resumed {
        return read;
    }
    let read = read_on(store, key, entry, begin(path, entry.bytes).await?).await;
    if is_damaged(&read) {
        remove(path)?;
    }
    read
}

/// Reads an object and checks its length and digest.
pub(crate) async fn check(store: &dyn Store, key: &str, entry: &FileEntry) -> Result<(), ReadError> {
    read_on(store, key, entry, Progress::default()).await
}

fn is_damaged(read: &Result<(), ReadError>) -> bool {
    matches!(read, Err(ReadError::Length { .. } | ReadError::Digest { .. }))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).map_err(|source| StoreError::of(&path.display().to_string(), source))
}

/// Opens the file, and hashes what is there.
async fn begin(path: &Path, bytes: u64) -> Result<Progress, StoreError> {
    let owned = path.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&owned)?;
        if file.metadata()?.len() > bytes {
            file.set_len(0)?;
        }
        let (mut hasher, mut found) = (blake3::Hasher::new(), 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                n => {
                    hasher.update(&chunk[..n]);
                    found += n as u64;
                }
            }
        }
        let file = Some(file);
        Ok(Progress { hasher, file, found })
    });
    let begun: io::Result<_> = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    begun.map_err(|source| StoreError::of(&path.display().to_string(), source))
}

async fn read_on(store: &dyn Store, key: &str, entry: &FileEntry, mut progress: Progress) -> Result<(), ReadError> {
    // One byte more than expected is asked for, so that a longer object is found.
    let end = entry.bytes + 1;
    let first_end = (progress.found + RANGE_BYTES).min(end);
    let first = range(store, key, progress.found, first_end, None).await?;
    let tag = first.tag.clone();
    progress = take(key, progress, first, entry.bytes).await?;
    let mut reads = Vec::new();
    for start in (first_end..end).step_by(RANGE_BYTES as usize) {
        reads.push(range(store, key, start, (start + RANGE_BYTES).min(end), tag.as_ref()));
    }
    let mut ranges = futures::stream::iter(reads).buffered(RANGES_AT_ONCE);
    while progress.found <= entry.bytes
        && let Some(part) = ranges.next().await
    {
        progress = take(key, progress, part?, entry.bytes).await?;
    }
    let Progress { hasher, found, .. } = progress;
    if found != entry.bytes {
        return Err(ReadError::Length {
            key: key.to_owned(),
            expected: entry.bytes,
            found,
        });
    }
    let found = hasher.finalize().into();
    if found != entry.digest {
        return Err(ReadError::Digest {
            key: key.to_owned(),
            expected: entry.digest,
            found,
        });
    }
    Ok(())
}

async fn range(store: &dyn Store, key: &str, start: u64, end: u64, of: Option<&Tag>) -> Result<Part, StoreError> {
    let mut failures = 0;
    loop {
        match store.get_part(key, start..end, of).await {
            Err(error) if error.may_pass() && failures + 1 < TRIES => {
                tokio::time::sleep(retry::wait(failures)).await;
                failures += 1;
            }
            result => return result,
        }
    }
}

/// Hashing and writing leave the runtime: a range takes milliseconds. Of an object that is too long nothing is written.
async fn take(key: &str, mut progress: Progress, part: Part, expected: u64) -> Result<Progress, StoreError> {
    progress.found += part.bytes.len() as u64;
    if progress.found > expected {
        return Ok(progress);
    }
    let work = tokio::task::spawn_blocking(move || {
        progress.hasher.update(&part.bytes);
        if let Some(file) = &mut progress.file {
            file.write_all(&part.bytes)?;
        }
        Ok(progress)
    });
    let done: io::Result<_> = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| StoreError::of(key, source))
}
