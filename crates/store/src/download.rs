//! Reading an object of a remote store: ranges in parallel, hashed in order as they complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use verdigris_core::manifest::FileEntry;

use crate::error::{ReadError, StoreError};
use crate::object::Store;

/// Bytes of one range: long enough that its latency does not count.
const RANGE_BYTES: u64 = 8 << 20;
/// Ranges of one object under way at once; with their length this bounds the memory of a download to 32 MiB.
const RANGES_AT_ONCE: usize = 4;
/// Tries of one range.
const TRIES: u32 = 4;

/// Where the bytes go, beside the digest.
pub(crate) enum Sink {
    /// Nowhere: they are only checked.
    Nowhere,
    /// To a new file.
    File(File),
}

/// Downloads an object to a new file and checks its length and digest on the way.
pub(crate) async fn to_file(store: &dyn Store, key: &str, entry: &FileEntry, path: &Path) -> Result<(), ReadError> {
    let file = File::create_new(path).map_err(|source| StoreError::of(&path.display().to_string(), source))?;
    read(store, key, entry, Sink::File(file)).await
}

/// Reads an object and checks its length and digest.
pub(crate) async fn read(store: &dyn Store, key: &str, entry: &FileEntry, sink: Sink) -> Result<(), ReadError> {
    let mut reads = Vec::new();
    // One byte more than expected is asked for, so that a longer object is found.
    for start in (0..entry.bytes + 1).step_by(RANGE_BYTES as usize) {
        reads.push(range(store, key, start, (start + RANGE_BYTES).min(entry.bytes + 1)));
    }
    let mut ranges = futures::stream::iter(reads).buffered(RANGES_AT_ONCE);
    let (mut hasher, mut sink, mut found) = (blake3::Hasher::new(), sink, 0);
    while let Some(bytes) = ranges.next().await {
        let bytes = bytes?;
        found += bytes.len() as u64;
        if found > entry.bytes {
            break;
        }
        (hasher, sink) = take(key, hasher, sink, bytes).await?;
    }
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

async fn range(store: &dyn Store, key: &str, start: u64, end: u64) -> Result<Bytes, StoreError> {
    let mut tries = 1;
    loop {
        match store.get_range(key, start..end).await {
            Err(error) if error.may_pass() && tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Hashing and writing leave the runtime: a range takes milliseconds.
async fn take(
    key: &str,
    mut hasher: blake3::Hasher,
    mut sink: Sink,
    bytes: Bytes,
) -> Result<(blake3::Hasher, Sink), StoreError> {
    let work = tokio::task::spawn_blocking(move || {
        hasher.update(&bytes);
        if let Sink::File(file) = &mut sink {
            file.write_all(&bytes)?;
        }
        Ok((hasher, sink))
    });
    let done: io::Result<_> = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| StoreError::of(key, source))
}
