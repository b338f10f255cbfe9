//! Dead letters in the store: written before a checkpoint passes them, read, replayed, edited and dropped by people.

use std::collections::BTreeSet;

use verdigris_core::dead_letter::{self, DeadLetter};
use verdigris_core::erasure::is_about;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{Erased, ManifestReference};
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
        batches.extend(batch(store, object.key).await?);
    }
    batches.sort_by_key(|batch| batch.letters.first().map(|letter| letter.position.sequence));
    Ok(batches)
}

async fn batch(store: &dyn Store, key: String) -> Result<Option<Batch>, ReadError> {
    let bytes = objects::whole(store, &key).await?;
    let letters = dead_letter::decode(&key, &bytes);
    let letters = letters.inspect_err(|error| tracing::warn!("{}", crate::error::chain(error)));
    Ok(letters.ok().map(|letters| Batch { key, letters }))
}

/// Letters about erased documents that came after the erase had looked: whoever sleeps through the loss of its turn may
/// write a batch as late as it likes.
#[derive(Default)]
pub(crate) struct LateLetters {
    list: Option<ManifestReference>,
    erased: BTreeSet<String>,
    looked_through: BTreeSet<String>,
}

impl LateLetters {
    /// Removes them from the batches that were not looked through since the last erase; how many.
    pub(crate) async fn remove(
        &mut self,
        store: &dyn Store,
        name: &CollectionName,
        erased: &Erased,
    ) -> Result<u64, ReadError> {
        if self.list.as_ref() != Some(&erased.list) {
            self.erased = objects::erased_list(store, name, &erased.list).await?.ids();
            self.looked_through.clear();
            self.list = Some(erased.list.clone());
        }
        let listed = objects::list_all(store, &keys::dead_letters(name)).await?;
        let listed: BTreeSet<String> = listed.into_iter().map(|object| object.key).collect();
        self.looked_through.retain(|key| listed.contains(key));
        let mut positions = BTreeSet::new();
        for key in listed.difference(&self.looked_through).cloned().collect::<Vec<_>>() {
            let batch = batch(store, key.clone()).await?;
            let of_batch = batch.map(|batch| batch.about(&self.erased)).unwrap_or_default();
            // Batches never change: one without such letters needs no second look, one with them is on its way out.
            if of_batch.is_empty() {
                self.looked_through.insert(key);
            }
            positions.extend(of_batch);
        }
        remove(store, name, &positions).await
    }
}

impl Batch {
    /// Positions of the letters that are about these documents.
    fn about(&self, ids: &BTreeSet<String>) -> BTreeSet<String> {
        let letters = self.letters.iter();
        let about = letters.filter(|letter| is_about(&letter.payload_bytes(), ids));
        about.map(|letter| letter.position.to_string()).collect()
    }
}

/// Removes the letters that are about these documents; how many.
pub(crate) async fn remove_about(
    store: &dyn Store,
    name: &CollectionName,
    ids: &BTreeSet<String>,
) -> Result<u64, ReadError> {
    let batches = batches(store, name).await?;
    let positions: BTreeSet<String> = batches.iter().flat_map(|batch| batch.about(ids)).collect();
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
    if positions.is_empty() {
        return Ok(0);
    }
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

#[cfg(test)]
mod tests {
    use verdigris_core::erasure::{ErasedBy, ErasedList};
    use verdigris_core::position::StreamIdentity;
    use verdigris_core::timestamp::Timestamp;
    use verdigris_store::memory::MemoryStore;

    use super::*;
    use crate::guard;

    fn letter(sequence: u64, id: &str) -> DeadLetter {
        let payload = format!("{{\"id\":\"{id}\",\"price\":\"x\"}}");
        let position = StreamIdentity(7).position(sequence);
        let at = Timestamp(sequence.cast_signed());
        DeadLetter::new(position, at, at, "INVALID_EVENT", String::new(), payload.as_bytes())
    }

    async fn erased(store: &MemoryStore, name: &CollectionName, generation: u64, ids: &[&str]) -> Erased {
        let by = ErasedBy {
            actor: "a person",
            reason: "asked for",
            at: Timestamp(1),
        };
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let list = ErasedList::default().with(&ids, by, false).expect("new ones");
        let path = ErasedList::path(generation, "nonce");
        let list = guard::write(store, name, path, &list).await.expect("it can be written");
        Erased {
            list,
            removed: true,
            earlier: Vec::new(),
        }
    }

    async fn sequences(store: &MemoryStore, name: &CollectionName) -> Vec<u64> {
        let batches = batches(store, name).await.expect("they can be read");
        let letters = batches.iter().flat_map(|batch| &batch.letters);
        letters.map(|letter| letter.position.sequence).collect()
    }

    #[tokio::test]
    async fn letters_that_come_after_an_erase_are_removed_as_often_as_they_come() {
        let (store, name) = (MemoryStore::default(), "products".parse().expect("a name"));
        let late = [letter(1, "gone"), letter(2, "stays")];
        let other = [letter(3, "too")];
        let mut letters = LateLetters::default();
        let of = erased(&store, &name, 1, &["gone"]).await;
        write(&store, &name, &other).await.expect("it can be written");
        for _sleeper in 0..2 {
            write(&store, &name, &late).await.expect("it can be written");
            assert_eq!(letters.remove(&store, &name, &of).await.expect("read"), 1);
            assert_eq!(sequences(&store, &name).await, [2, 3]);
            assert_eq!(letters.remove(&store, &name, &of).await.expect("read"), 0);
        }
        let of = erased(&store, &name, 2, &["gone", "too"]).await;
        assert_eq!(
            letters.remove(&store, &name, &of).await.expect("read"),
            1,
            "looked through again"
        );
        assert_eq!(sequences(&store, &name).await, [2]);
    }
}
