//! A collection of garbage, step by step, in the order of the real one: the turn and the time, the listing, the
//! pointer, and each removal by itself. It goes on beside the publishes of its process.

use std::collections::BTreeSet;

use super::store::Disk;
use super::{Verdict, World};
use crate::garbage::{
    GRACE_NS, Listed, candidates, garbage, keys_of, keys_of_builds, keys_of_erased, may_collect, needed_manifests,
};
use crate::timestamp::Timestamp;

/// How far a collection is.
#[derive(Debug, Clone)]
pub(super) enum Collecting {
    /// It has the turn, and lists next.
    Lists { now: Timestamp },
    /// It reads the pointer next.
    Reads { now: Timestamp, candidates: Vec<Listed> },
    /// It removes these, one by one.
    Removes { keys: Vec<String> },
}

impl World {
    pub(super) fn begins_to_collect(&mut self, n: usize) {
        self.budget.collections -= 1;
        let indexer = &mut self.indexers[n];
        if may_collect(&self.disk.pointer, &indexer.id()) {
            indexer.collecting = Some(Collecting::Lists { now: self.disk.now });
        }
    }

    pub(super) fn collects(&mut self, n: usize) -> Verdict<()> {
        let collecting = self.indexers[n]
            .collecting
            .take()
            .expect("only one that collects is chosen");
        let next = match collecting {
            Collecting::Lists { now } => {
                let writing = self.indexers[n].writing();
                let is_being_written = |key: &str| writing.iter().any(|prefix| key.starts_with(prefix.as_str()));
                let listing = self.disk.objects.iter().map(|(key, object)| Listed {
                    key: key.clone(),
                    modified: object.modified,
                });
                let candidates = candidates(listing.collect(), is_being_written, now, GRACE_NS);
                Some(Collecting::Reads { now, candidates })
            }
            Collecting::Reads { now, candidates } => needed(&self.disk, now).map(|needed| Collecting::Removes {
                keys: garbage(candidates, &needed),
            }),
            Collecting::Removes { mut keys } => {
                let key = keys.pop().expect("it ends with the last");
                self.disk.remove(&key)?;
                Some(Collecting::Removes { keys })
            }
        };
        let is_over = |next: &Collecting| matches!(next, Collecting::Removes { keys } if keys.is_empty());
        self.indexers[n].collecting = next.filter(|next| !is_over(next));
        Ok(())
    }
}

/// The keys that must stay; none where a manifest cannot be read, as nothing is removed on a guess.
fn needed(disk: &Disk, now: Timestamp) -> Option<BTreeSet<String>> {
    let pointer = &disk.pointer;
    let mut needed: BTreeSet<String> = keys_of_builds(pointer).map(str::to_owned).collect();
    needed.extend(keys_of_erased(pointer, now, GRACE_NS).map(str::to_owned));
    for reference in needed_manifests(pointer, now, GRACE_NS) {
        let (manifest, _) = disk.manifest(&reference.path)?;
        needed.extend(keys_of(manifest).map(str::to_owned));
        needed.insert(reference.path);
    }
    Some(needed)
}
