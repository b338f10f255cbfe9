//! A publish: files first, then dead rows, then the manifest, each create-only; then the swing.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use verdigris_core::digest::Digest;
use verdigris_core::edit::Edited;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, KeptRelease, ManifestReference, Pointer};

use crate::commit::{Patience, swing_with};
use crate::error::{CommitError, StoreError};
use crate::keys;
use crate::object::{Body, Precondition, Store};

/// What is to be published.
pub struct Publication<'a> {
    /// The manifest and the dead rows.
    pub edited: &'a Edited,
    /// Those of the other lineage, where this publish carries it.
    pub other: Option<&'a Edited>,
    /// New files by their path in the collection; the store moves them away.
    pub files: Vec<(String, PathBuf)>,
    /// Told apart from other tries.
    pub nonce: String,
}

/// What was written, as the swing names it.
pub struct Releases {
    /// The active lineage's.
    pub release: KeptRelease,
    /// The other's, where it is carried.
    pub other: Option<KeptRelease>,
}

/// Writes everything that the manifests name, and then swings the pointer by `edit`, which is told the release.
/// Committed is said only if the swing is in the pointer's history (I-5). After an error, what was written stays and is
/// garbage, unless the outcome is unknown.
pub async fn publish(
    store: &dyn Store,
    collection: &CollectionName,
    publication: Publication<'_>,
    edit: impl FnMut(&Pointer, &Releases) -> Result<Pointer, EditRefused> + Send,
) -> Result<Pointer, CommitError> {
    publish_with(store, collection, publication, edit, Patience::default()).await
}

/// [`publish`] with a patience of one's own.
pub async fn publish_with(
    store: &dyn Store,
    collection: &CollectionName,
    publication: Publication<'_>,
    mut edit: impl FnMut(&Pointer, &Releases) -> Result<Pointer, EditRefused> + Send,
    patience: Patience,
) -> Result<Pointer, CommitError> {
    for (path, file) in &publication.files {
        put_file(store, &keys::object(collection, path), file, patience).await?;
    }
    let release = put_release(store, collection, publication.edited, &publication.nonce, patience).await?;
    let other = match publication.other {
        Some(other) => Some(put_release(store, collection, other, &publication.nonce, patience).await?),
        None => None,
    };
    let releases = Releases { release, other };
    swing_with(
        store,
        collection,
        publication.nonce,
        |pointer| edit(pointer, &releases),
        patience,
    )
    .await
}

/// Dead rows, then the manifest.
async fn put_release(
    store: &dyn Store,
    collection: &CollectionName,
    edited: &Edited,
    nonce: &str,
    patience: Patience,
) -> Result<KeptRelease, CommitError> {
    let manifest = &edited.manifest;
    if let Some((path, bytes)) = &edited.dead {
        put_new(store, &keys::object(collection, path), bytes.clone().into(), patience).await?;
    }
    let (path, bytes) = (manifest.path(nonce), Bytes::from(manifest.encode()));
    let reference = ManifestReference {
        path,
        digest: Digest::of(&bytes),
    };
    put_new(store, &keys::object(collection, &reference.path), bytes, patience).await?;
    Ok(KeptRelease {
        generation: manifest.generation,
        lineage: manifest.lineage.clone(),
        manifest: reference,
        created_at: manifest.created_at,
        checkpoint: manifest.checkpoint.sequence,
        pinned: false,
        facts: Some(manifest.facts()),
    })
}

/// Sends a new file of a release, create-only, before anything names it.
pub async fn send_file(
    store: &dyn Store,
    collection: &CollectionName,
    path: &str,
    file: &Path,
) -> Result<(), StoreError> {
    put_file(store, &keys::object(collection, path), file, Patience::default()).await
}

/// Creates an object whose name holds a nonce or a ULID of ours: once a send was not answered, one that is there
/// already is our own.
async fn put_new(store: &dyn Store, key: &str, bytes: Bytes, patience: Patience) -> Result<(), StoreError> {
    let mut is_sent = false;
    for n in 0..patience.tries {
        match store.put(key, Body::Bytes(bytes.clone()), Precondition::Absent).await {
            Ok(_) => return Ok(()),
            Err(StoreError::PreconditionFailed { .. }) if is_sent => return Ok(()),
            Err(StoreError::NoAnswer { .. }) => is_sent = true,
            Err(error) if !error.may_pass() => return Err(error),
            Err(_) => {}
        }
        patience.wait(n).await;
    }
    Err(StoreError::no_answer(key))
}

/// The same with a file. A send that was not answered may have taken the file away without leaving an object, so that
/// only the object itself tells.
async fn put_file(store: &dyn Store, key: &str, file: &Path, patience: Patience) -> Result<(), StoreError> {
    let read = |source| StoreError::Body {
        key: key.to_owned(),
        path: file.display().to_string(),
        source,
    };
    let length = std::fs::metadata(file).map_err(read)?.len();
    let mut is_sent = false;
    for n in 0..patience.tries {
        match store.put(key, Body::File(file.to_owned()), Precondition::Absent).await {
            Ok(_) => return Ok(()),
            Err(error @ (StoreError::PreconditionFailed { .. } | StoreError::Body { .. })) if is_sent => {
                // One byte is asked for and none behind it: one that is there with this length gives exactly that one.
                match store.get_range(key, length.saturating_sub(1)..length + 1).await {
                    Ok(end) if end.len() as u64 == length.min(1) => return Ok(()),
                    Ok(_) => return Err(error),
                    Err(missing) if missing.is_not_found() => return Err(error),
                    Err(error) if !error.may_pass() => return Err(error),
                    Err(_) => {}
                }
            }
            Err(StoreError::NoAnswer { .. }) => is_sent = true,
            Err(error) if !error.may_pass() => return Err(error),
            Err(_) => {}
        }
        patience.wait(n).await;
    }
    Err(StoreError::no_answer(key))
}
