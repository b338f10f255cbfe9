//! Collecting garbage: list, ask what is being written, read the pointer, delete what `core::garbage` says, in this
//! order.

use std::collections::{BTreeMap, BTreeSet};

use verdigris_core::garbage::{
    GRACE_NS, Listed, candidates, garbage, keys_of, keys_of_builds, keys_of_erased, needed_manifests,
};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::Pointer;
use verdigris_core::timestamp::Timestamp;

use crate::collection;
use crate::error::{ReadError, StoreError};
use crate::keys;
use crate::object::{ObjectMeta, Store};

/// Rounds of removing all of a deleted collection, in case somebody still writes into it.
const EMPTYING_ROUNDS_MAX: u32 = 8;

/// Collects garbage of one collection. Remembers which keys each manifest needs, since manifests never change.
#[derive(Default)]
pub struct Collector {
    needs: BTreeMap<String, Vec<String>>,
}

impl Collector {
    /// Deletes what nobody needs; the number of objects. `now` is taken before the call. `being_written` tells paths,
    /// relative to the collection, that this process may yet name: segments, and the manifest and dead rows of a publish
    /// under way. It is asked once for each old object, after the listing. A manifest that cannot be read ends the
    /// round: nothing is deleted on a guess.
    pub async fn collect(
        &mut self,
        store: &dyn Store,
        name: &CollectionName,
        now: Timestamp,
        being_written: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<u64, ReadError> {
        let folder = keys::folder(name);
        let listed = |object: ObjectMeta| {
            let key = object.key.strip_prefix(&folder)?.to_owned();
            Some(Listed {
                key,
                modified: object.modified,
            })
        };
        let listing: Vec<Listed> = collection::list_all(store, &folder)
            .await?
            .into_iter()
            .filter_map(listed)
            .collect();
        let candidates = candidates(listing, being_written, now, GRACE_NS);
        let pointer = collection::pointer(store, name).await?.pointer;
        if pointer.deleted_at.is_some_and(|at| now.since(at) > GRACE_NS) {
            return Ok(delete_all(store, name).await?);
        }
        let needed = self.needed(store, name, &pointer, now).await?;
        let gone = garbage(candidates, &needed);
        for key in &gone {
            store.delete(&keys::object(name, key)).await?;
        }
        Ok(gone.len() as u64)
    }

    async fn needed(
        &mut self,
        store: &dyn Store,
        name: &CollectionName,
        pointer: &Pointer,
        now: Timestamp,
    ) -> Result<BTreeSet<String>, ReadError> {
        let manifests = needed_manifests(pointer, now, GRACE_NS);
        let mut needed: BTreeSet<String> = keys_of_builds(pointer).map(str::to_owned).collect();
        needed.extend(keys_of_erased(pointer, now, GRACE_NS).map(str::to_owned));
        for reference in &manifests {
            if !self.needs.contains_key(&reference.path) {
                let manifest = collection::manifest(store, name, reference).await?;
                self.needs
                    .insert(reference.path.clone(), keys_of(&manifest).map(str::to_owned).collect());
            }
            needed.insert(reference.path.clone());
            needed.extend(self.needs[&reference.path].iter().cloned());
        }
        self.needs.retain(|path, _| needed.contains(path));
        Ok(needed)
    }
}

/// Removes a deleted collection. The pointer goes last, when nothing else is there, so that a crash leaves it marked.
async fn delete_all(store: &dyn Store, name: &CollectionName) -> Result<u64, StoreError> {
    let (folder, pointer) = (keys::folder(name), keys::pointer(name));
    let mut removed = 0;
    for _ in 0..EMPTYING_ROUNDS_MAX {
        let mut objects = collection::list_all(store, &folder).await?;
        objects.retain(|object| object.key != pointer);
        if objects.is_empty() {
            store.delete(&pointer).await?;
            return Ok(removed + 1);
        }
        for object in objects {
            store.delete(&object.key).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Deletes what lies under collections that have no pointer, once it is older than the grace: a crash while a
/// collection was made, or a writer that slept through its deletion, leaves such objects. The number of objects.
///
/// A collection that is just being made is safe: its settings are young, and [`collection::create`] writes them again
/// after the pointer.
pub async fn collect_strays(store: &dyn Store, now: Timestamp) -> Result<u64, StoreError> {
    let mut removed = 0;
    for name in collection::folders(store, "").await? {
        let objects = collection::list_all(store, &keys::folder(&name)).await?;
        if !objects.iter().all(|object| now.since(object.modified) > GRACE_NS) {
            continue;
        }
        // After the listing, as everywhere: a pointer that came meanwhile is seen.
        match store.get_range(&keys::pointer(&name), 0..0).await {
            Err(error) if error.is_not_found() => {}
            Ok(_) => continue,
            Err(error) => return Err(error),
        }
        for object in objects.iter().filter(|object| object.key != keys::pointer(&name)) {
            store.delete(&object.key).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
