//! What belongs to a collection: its pointer, its settings, its manifests, its dead rows, read and checked.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use roaring::RoaringBitmap;
use verdigris_core::dead;
use verdigris_core::digest::Digest;
use verdigris_core::erasure::ErasedList;
use verdigris_core::manifest::{Manifest, SettingsReference};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;

use crate::commit::Patience;
use crate::error::{ReadError, StoreError};
use crate::keys;
use crate::object::{Body, Get, Precondition, Store, Tag};

/// Objects per page of a listing.
const LIST_LIMIT: usize = 1_000;

/// A pointer as it was read.
#[derive(Debug, Clone)]
pub struct SeenPointer {
    /// The pointer.
    pub pointer: Pointer,
    /// Its tag, for a swing or the next poll.
    pub tag: Tag,
}

/// Makes a collection: settings, then the create-only pointer. A collection that is there already is
/// [`StoreError::PreconditionFailed`].
pub async fn create(
    store: &dyn Store,
    collection: &CollectionName,
    settings: &Settings,
    nonce: String,
    now: Timestamp,
) -> Result<Pointer, StoreError> {
    create_with(store, collection, settings, nonce, now, Patience::default()).await
}

/// [`create`] with a patience of one's own.
pub async fn create_with(
    store: &dyn Store,
    collection: &CollectionName,
    settings: &Settings,
    nonce: String,
    now: Timestamp,
    patience: Patience,
) -> Result<Pointer, StoreError> {
    let reference = put_settings_with(store, collection, 1, settings, patience).await?;
    let pointer = Pointer::first(collection.clone(), reference, nonce, now);
    let (key, body) = (keys::pointer(collection), Bytes::from(pointer.encode()));
    let mut is_sent = false;
    for n in 0..patience.tries {
        match store.put(&key, Body::Bytes(body.clone()), Precondition::Absent).await {
            Ok(_) => return made(store, collection, settings, pointer, patience).await,
            Err(error @ StoreError::PreconditionFailed { .. }) => {
                // Whose it is tells its history: ours, if a send without an answer landed.
                let history = self::pointer(store, collection).await;
                match history {
                    _ if !is_sent => return Err(error),
                    Ok(seen) if seen.pointer.remembers(&pointer.nonce) => {
                        return made(store, collection, settings, pointer, patience).await;
                    }
                    Err(ReadError::Store(error)) if error.may_pass() => {}
                    _ => return Err(error),
                }
            }
            Err(StoreError::NoAnswer { .. }) => is_sent = true,
            Err(error) if !error.may_pass() => return Err(error),
            Err(_) => {}
        }
        patience.wait(n).await;
    }
    Err(StoreError::no_answer(&key))
}

/// A maker that slept longer than the grace before it wrote the pointer may have lost its settings as strays.
async fn made(
    store: &dyn Store,
    collection: &CollectionName,
    settings: &Settings,
    pointer: Pointer,
    patience: Patience,
) -> Result<Pointer, StoreError> {
    put_settings_with(store, collection, 1, settings, patience).await?;
    Ok(pointer)
}

/// Writes settings as a version of their own; the same settings under the same version are no error.
pub async fn put_settings(
    store: &dyn Store,
    collection: &CollectionName,
    version: u64,
    settings: &Settings,
) -> Result<SettingsReference, StoreError> {
    put_settings_with(store, collection, version, settings, Patience::default()).await
}

async fn put_settings_with(
    store: &dyn Store,
    collection: &CollectionName,
    version: u64,
    settings: &Settings,
    patience: Patience,
) -> Result<SettingsReference, StoreError> {
    let (bytes, digest) = (settings.encode(), settings.digest());
    // Two clients may make one version at once; the digest in the name keeps both, and the swing chooses.
    let key = keys::settings(collection, version, &digest);
    create_once_with(store, &key, bytes.into(), patience).await?;
    Ok(SettingsReference { version, digest })
}

/// Writes a create-only object; that it is there already is no error, because its name says what is in it.
pub async fn create_once(store: &dyn Store, key: &str, bytes: Bytes) -> Result<(), StoreError> {
    create_once_with(store, key, bytes, Patience::default()).await
}

async fn create_once_with(store: &dyn Store, key: &str, bytes: Bytes, patience: Patience) -> Result<(), StoreError> {
    for n in 0..patience.tries {
        match store.put(key, Body::Bytes(bytes.clone()), Precondition::Absent).await {
            Ok(_) | Err(StoreError::PreconditionFailed { .. }) => return Ok(()),
            Err(error) if !error.may_pass() => return Err(error),
            Err(_) => patience.wait(n).await,
        }
    }
    Err(StoreError::no_answer(key))
}

/// Reads and checks settings.
pub async fn settings(
    store: &dyn Store,
    collection: &CollectionName,
    reference: &SettingsReference,
) -> Result<Settings, ReadError> {
    let key = keys::settings(collection, reference.version, &reference.digest);
    let bytes = checked(store, &key, &reference.digest).await?;
    let mistakes = |mistakes: Vec<_>| mistakes.iter().map(ToString::to_string).collect();
    Settings::parse(&bytes).map_err(|found: Vec<_>| ReadError::Settings {
        key,
        mistakes: mistakes(found),
    })
}

/// Reads and checks the pointer; none when it still has the tag that the reader knows.
pub async fn pointer_if_moved(
    store: &dyn Store,
    collection: &CollectionName,
    known: Option<&Tag>,
) -> Result<Option<SeenPointer>, ReadError> {
    let key = keys::pointer(collection);
    match store.get(&key, known).await {
        Ok(Get::NotModified) => Ok(None),
        Ok(Get::Found { bytes, tag, .. }) => match Pointer::decode(&bytes) {
            Err(source) => Err(ReadError::Pointer { key, source }),
            Ok(pointer) if pointer.collection != *collection => Err(ReadError::Misplaced {
                key,
                found: pointer.collection,
            }),
            Ok(pointer) => Ok(Some(SeenPointer { pointer, tag })),
        },
        Err(error) if error.is_not_found() => Err(ReadError::NoCollection(collection.clone())),
        Err(error) => Err(error.into()),
    }
}

/// Reads and checks the pointer.
pub async fn pointer(store: &dyn Store, collection: &CollectionName) -> Result<SeenPointer, ReadError> {
    let seen = pointer_if_moved(store, collection, None).await?;
    Ok(seen.expect("without a known tag the pointer is always read"))
}

/// Reads a manifest and checks its digest and its numbers.
pub async fn manifest(
    store: &dyn Store,
    collection: &CollectionName,
    reference: &ManifestReference,
) -> Result<Manifest, ReadError> {
    let key = keys::object(collection, &reference.path);
    let bytes = checked(store, &key, &reference.digest).await?;
    match Manifest::decode(&bytes) {
        Err(source) => Err(ReadError::Manifest { key, source }),
        // Its files are looked for under the collection that it names.
        Ok(manifest) if manifest.collection != *collection => Err(ReadError::Misplaced {
            key,
            found: manifest.collection,
        }),
        Ok(manifest) => Ok(manifest),
    }
}

/// Reads and checks a list of erased documents.
pub async fn erased_list(
    store: &dyn Store,
    collection: &CollectionName,
    reference: &ManifestReference,
) -> Result<ErasedList, ReadError> {
    let key = keys::object(collection, &reference.path);
    let bytes = checked(store, &key, &reference.digest).await?;
    serde_json::from_slice(&bytes).map_err(|source| ReadError::Erased { key, source })
}

/// The documents that whoever reads a release of this pointer hides: erased ones whose bytes may be there still.
pub async fn hidden(store: &dyn Store, pointer: &Pointer) -> Result<BTreeSet<String>, ReadError> {
    match &pointer.erased {
        Some(erased) if !erased.removed => {
            let list = erased_list(store, &pointer.collection, &erased.list).await?;
            Ok(list.pending())
        }
        _ => Ok(BTreeSet::new()),
    }
}

/// Dead rows of each segment of a release, in the manifest's order; each object is read once.
pub async fn dead_rows(store: &dyn Store, manifest: &Manifest) -> Result<Vec<RoaringBitmap>, ReadError> {
    let mut objects: BTreeMap<&str, Bytes> = BTreeMap::new();
    let mut rows = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        let Some(range) = &segment.dead else {
            rows.push(RoaringBitmap::new());
            continue;
        };
        if !objects.contains_key(range.path.as_str()) {
            objects.insert(
                &range.path,
                whole(store, &keys::object(&manifest.collection, &range.path)).await?,
            );
        }
        let decoded = dead::decode(&objects[range.path.as_str()], range);
        rows.push(decoded.map_err(|source| ReadError::Dead {
            segment: segment.id.to_string(),
            source,
        })?);
    }
    Ok(rows)
}

/// Names of all collections, deleted ones among them until their name is free.
pub async fn list(store: &dyn Store) -> Result<Vec<CollectionName>, StoreError> {
    let mut names = Vec::new();
    for name in folders(store, "").await? {
        match store.get_range(&keys::pointer(&name), 0..0).await {
            Ok(_) => names.push(name),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// Names that begin with `prefix` and that objects lie under, with or without a pointer: one step a collection, however
/// many objects it has.
pub async fn folders(store: &dyn Store, prefix: &str) -> Result<Vec<CollectionName>, StoreError> {
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(prefix, after.as_deref(), 1).await?;
        let Some(object) = page.first() else { return Ok(names) };
        after = Some(match object.key.split_once('/') {
            // The character after '/': past everything under this name.
            Some((folder, _)) => format!("{folder}0"),
            None => object.key.clone(),
        });
        names.extend(keys::collection_of(&object.key));
    }
}

/// A whole listing.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<crate::object::ObjectMeta>, StoreError> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|object: &crate::object::ObjectMeta| object.key.clone());
        let page = store.list(prefix, after.as_deref(), LIST_LIMIT).await?;
        let is_last = page.len() < LIST_LIMIT;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// The newest manifest whose objects are all there with the right digests, for a person whose pointer is damaged.
pub async fn newest_whole_manifest(
    store: &dyn Store,
    collection: &CollectionName,
) -> Result<Option<(String, Manifest)>, StoreError> {
    let mut manifests = list_all(store, &keys::releases(collection)).await?;
    manifests.sort_by(|a, b| b.key.cmp(&a.key));
    for object in manifests {
        let Ok(bytes) = whole(store, &object.key).await else {
            continue;
        };
        let Ok(manifest) = Manifest::decode(&bytes) else {
            continue;
        };
        if manifest.collection != *collection {
            continue;
        }
        let problems = crate::fetch::verify_release(store, &manifest).await.problems;
        if problems.is_empty() {
            return Ok(Some((object.key, manifest)));
        }
    }
    Ok(None)
}

/// Reads an object whole.
pub async fn whole(store: &dyn Store, key: &str) -> Result<Bytes, StoreError> {
    match store.get(key, None).await? {
        Get::Found { bytes, .. } => Ok(bytes),
        Get::NotModified => Err(StoreError::no_answer(key)),
    }
}

async fn checked(store: &dyn Store, key: &str, expected: &Digest) -> Result<Bytes, ReadError> {
    let bytes = whole(store, key).await?;
    let found = Digest::of(&bytes);
    if found == *expected {
        return Ok(bytes);
    }
    Err(ReadError::Digest {
        key: key.to_owned(),
        expected: *expected,
        found,
    })
}
