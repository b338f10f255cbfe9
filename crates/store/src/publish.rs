//! A publish: files first, then dead rows, then the manifest, each create-only; then the swing.

use std::path::PathBuf;

use bytes::Bytes;
use verdigris_core::digest::Digest;
use verdigris_core::edit::Edited;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, KeptRelease, ManifestReference, Pointer};

use crate::commit::swing;
use crate::error::{CommitError, StoreError};
use crate::keys;
use crate::object::{Body, Precondition, Store};

/// What is to be published.
pub struct Publication<'a> {
    /// The manifest and the dead rows.
    pub edited: &'a Edited,
    /// New files by their path in the collection; the store may move them away.
    pub files: Vec<(String, PathBuf)>,
    /// Told apart from other tries.
    pub nonce: String,
}

/// Writes everything that the manifest names, and then swings the pointer by `edit`, which is told the release.
pub async fn publish(
    store: &dyn Store,
    collection: &CollectionName,
    publication: Publication<'_>,
    mut edit: impl FnMut(&Pointer, &KeptRelease) -> Result<Pointer, EditRefused> + Send,
) -> Result<Pointer, CommitError> {
    let manifest = &publication.edited.manifest;
    for (path, file) in publication.files {
        put_file(store, &keys::object(collection, &path), file).await?;
    }
    if let Some((path, bytes)) = &publication.edited.dead {
        put_bytes(store, &keys::object(collection, path), bytes.clone().into()).await?;
    }
    let (path, bytes) = (manifest.path(&publication.nonce), Bytes::from(manifest.encode()));
    let reference = ManifestReference {
        path,
        digest: Digest::of(&bytes),
    };
    put_bytes(store, &keys::object(collection, &reference.path), bytes).await?;
    let release = KeptRelease {
        generation: manifest.generation,
        lineage: manifest.lineage.clone(),
        manifest: reference,
        created_at: manifest.created_at,
        checkpoint: manifest.checkpoint.sequence,
        pinned: false,
    };
    swing(store, collection, publication.nonce, |pointer| edit(pointer, &release)).await
}

/// Tries of one object: a write of new content under a new name can be repeated without harm.
const TRIES: u32 = 5;

async fn put_bytes(store: &dyn Store, key: &str, bytes: Bytes) -> Result<(), StoreError> {
    let mut sent = false;
    for _ in 0..TRIES {
        match store.put(key, Body::Bytes(bytes.clone()), Precondition::Absent).await {
            Ok(_) => return Ok(()),
            // The name holds a nonce of ours: it is there because an earlier try landed.
            Err(StoreError::PreconditionFailed { .. }) if sent => return Ok(()),
            Err(StoreError::NoAnswer { .. }) => sent = true,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::NoAnswer { key: key.to_owned() })
}

async fn put_file(store: &dyn Store, key: &str, file: PathBuf) -> Result<(), StoreError> {
    let mut sent = false;
    for _ in 0..TRIES {
        match store.put(key, Body::File(file.clone()), Precondition::Absent).await {
            Ok(_) => return Ok(()),
            Err(StoreError::PreconditionFailed { .. }) if sent => return Ok(()),
            // A store that moves files has moved this one when an earlier try landed.
            Err(StoreError::NotFound { .. }) if sent => return Ok(()),
            Err(StoreError::NoAnswer { .. }) => sent = true,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::NoAnswer { key: key.to_owned() })
}
