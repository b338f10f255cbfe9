//! Dead letters in the store: written before a checkpoint passes them, read, replayed, edited and dropped by people.

use std::collections::BTreeSet;

use verdigris_core::dead_letter::{self, DeadLetter};
use verdigris_core::erasure::is_about;
use verdigris_core::names::CollectionName;
use verdigris_core::position::Position;
use verdigris_store::{Body, Precondition, ReadError, Store, StoreError, collection as objects, keys};

/// Writes letters as one create-only object. The same letters written twice are one object.
pub(crate) async fn write(store: &dyn Store, name: &CollectionName, letters: &[DeadLetter]) -> Result<(), StoreError> {
    let Some((path, bytes)) = dead_letter::encode(letters) else {
        return Ok(());
    };
    objects::create_once(store, &keys::object(name, &path), bytes.into()).await
}

/// A batch of letters and its key.
pub(crate) struct Batch {
    key: String,
    pub(crate) letters: Vec<DeadLetter>,
}

/// All letters, in batches, by position of the first. A batch that cannot be read is logged and left out.
pub(crate) async fn batches(store: &dyn Store, name: &CollectionName) -> Result<Vec<Batch>, ReadError> {
    let mut batches = Vec::new();
    for object in objects::list_all(store, &keys::dead_letters(name)).await? {
        let bytes = objects::whole(store, &object.key).await?;
        match dead_letter::decode(&object.key, &bytes) {
            Ok(letters) => batches.push(Batch {
                key: object.key,
                letters,
            }),
            Err(error) => tracing::warn!("{}", crate::error::chain(&error)),
        }
    }
    batches.sort_by_key(|batch| batch.letters.first().map(|letter| letter.position.sequence));
    Ok(batches)
}

/// Removes the letters that are about these documents; how many.
pub(crate) async fn remove_about(
    store: &dyn Store,
    name: &CollectionName,
    ids: &BTreeSet<String>,
) -> Result<u64, ReadError> {
    let batches = batches(store, name).await?;
    let letters = batches.iter().flat_map(|batch| &batch.letters);
    let about = letters.filter(|letter| is_about(&letter.payload_bytes(), ids));
    let positions: BTreeSet<String> = about.map(|letter| letter.position.to_string()).collect();
    if positions.is_empty() {
        return Ok(0);
    }
    remove(store, name, &positions).await
}

/// Removes letters: what is left of a batch is written as another, and then the batch goes, so that a crash between the
/// two leaves letters twice and never none. The number that were there.
pub(crate) async fn remove(
    store: &dyn Store,
    name: &CollectionName,
    positions: &BTreeSet<String>,
) -> Result<u64, ReadError> {
    let mut removed = BTreeSet::new();
    for batch in batches(store, name).await? {
        let is_meant = |position: &Position| positions.contains(&position.to_string());
        let left: Vec<DeadLetter> = batch
            .letters
            .iter()
            .filter(|letter| !is_meant(&letter.position))
            .cloned()
            .collect();
        if left.len() == batch.letters.len() {
            continue;
        }
        let gone = batch.letters.iter().filter(|letter| is_meant(&letter.position));
        removed.extend(gone.map(|letter| letter.position.to_string()));
        if let Some((path, bytes)) = dead_letter::encode(&left) {
            let key = keys::object(name, &path);
            match store.put(&key, Body::Bytes(bytes.into()), Precondition::Absent).await {
                Ok(_) | Err(StoreError::PreconditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        store.delete(&batch.key).await?;
    }
    Ok(removed.len() as u64)
}
