//! Collecting garbage of a collection: list first, read the pointer after, delete what `core::garbage` says.

use std::collections::{BTreeMap, BTreeSet};

use verdigris_core::garbage::{GRACE_NS, Listed, garbage, keys_of, needed_manifests};
use verdigris_core::names::CollectionName;
use verdigris_core::timestamp::Timestamp;

use crate::collection;
use crate::error::{ReadError, StoreError};
use crate::keys;
use crate::object::Store;

/// Collects garbage of one collection. Remembers which keys each manifest needs, since manifests never change.
#[derive(Default)]
pub struct Collector {
    needs: BTreeMap<String, Vec<String>>,
}

impl Collector {
    /// Deletes what nobody needs; the number of objects. `being_written` tells keys that this process is writing and no
    /// manifest names yet. A manifest that cannot be read ends the round: nothing is deleted on a guess.
    pub async fn collect(
        &mut self,
        store: &dyn Store,
        name: &CollectionName,
        now: Timestamp,
        being_written: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<u64, ReadError> {
        let folder = keys::folder(name);
        let listing: Vec<Listed> = collection::list_all(store, &folder)
            .await?
            .into_iter()
            .filter_map(|object| {
                let key = object.key.strip_prefix(&folder)?.to_owned();
                Some(Listed {
                    key,
                    modified: object.modified,
                })
            })
            .collect();
        let pointer = collection::pointer(store, name).await?.pointer;
        if pointer.deleted_at.is_some_and(|at| now.since(at) > GRACE_NS) {
            return delete_all(store, name, &listing).await;
        }
        let manifests = needed_manifests(&pointer, now, GRACE_NS);
        let mut needed = BTreeSet::new();
        for reference in &manifests {
            if !self.needs.contains_key(&reference.path) {
                let manifest = collection::manifest(store, name, reference).await?;
                self.needs
                    .insert(reference.path.clone(), keys_of(&manifest).map(str::to_owned).collect());
            }
            needed.insert(reference.path.clone());
            needed.extend(self.needs[&reference.path].iter().cloned());
        }
        self.needs
            .retain(|path, _| manifests.iter().any(|reference| reference.path == *path));
        let gone = garbage(&listing, &needed, being_written, now, GRACE_NS);
        for key in &gone {
            store.delete(&keys::object(name, key)).await?;
        }
        Ok(gone.len() as u64)
    }
}

/// Removes a deleted collection; the pointer goes last, so that a crash leaves it marked.
async fn delete_all(store: &dyn Store, name: &CollectionName, listing: &[Listed]) -> Result<u64, ReadError> {
    for object in listing.iter().filter(|object| object.key != "latest") {
        store.delete(&keys::object(name, &object.key)).await?;
    }
    delete_pointer(store, name).await?;
    Ok(listing.len() as u64)
}

async fn delete_pointer(store: &dyn Store, name: &CollectionName) -> Result<(), StoreError> {
    store.delete(&keys::pointer(name)).await
}
