//! What garbage collection may take: nothing that is named or was within the grace (I-10); and what must be gone in the
//! end (I-11).

use std::collections::{BTreeMap, BTreeSet};

use verdigris_core::garbage::{GRACE_NS, keys_of};
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_store::keys;

use super::disk::Disk;
use super::reading::Reading;
use super::{Verdict, hold, name};

/// When each object was last needed; `i64::MAX` while it is.
#[derive(Default)]
pub(crate) struct Leftovers {
    manifests: BTreeMap<String, i64>,
    /// What each manifest needs, itself among it.
    needs: BTreeMap<String, BTreeSet<String>>,
    /// Files of builds under way.
    parts: BTreeMap<String, i64>,
    pub(crate) removed: u64,
}

/// The manifests that a pointer names.
pub(crate) fn references(pointer: &Pointer) -> impl Iterator<Item = &ManifestReference> {
    let lineages = [&pointer.active, &pointer.other]
        .into_iter()
        .flatten()
        .map(|lineage| &lineage.manifest);
    let kept = pointer.kept.iter().map(|kept| &kept.manifest);
    let staged = pointer.staged.iter().map(|staged| &staged.release.manifest);
    lineages
        .chain(kept)
        .chain(staged)
        .chain(pointer.builds.iter().map(|build| &build.source))
}

fn parts(pointer: &Pointer) -> impl Iterator<Item = String> {
    pointer
        .builds
        .iter()
        .flat_map(|build| &build.parts)
        .flat_map(|segment| {
            [&segment.files.vectors.path, &segment.files.rows.path].map(|path| keys::object(&name(), path))
        })
}

impl Leftovers {
    /// Notes what a swing names, and what it does not name any more.
    pub(crate) fn named(&mut self, pointer: &Pointer, at: i64, reading: &Reading) -> Verdict<()> {
        let list = pointer.erased.iter().map(|erased| &erased.list.path);
        let now: BTreeSet<&str> = references(pointer)
            .map(|reference| reference.path.as_str())
            .chain(list.clone().map(String::as_str))
            .collect();
        for (path, until) in &mut self.manifests {
            if *until == i64::MAX && !now.contains(path.as_str()) {
                *until = at;
            }
        }
        for path in list {
            self.manifests.insert(path.clone(), i64::MAX);
            self.needs.insert(path.clone(), [keys::object(&name(), path)].into());
        }
        for reference in references(pointer) {
            self.manifests.insert(reference.path.clone(), i64::MAX);
            if !self.needs.contains_key(&reference.path) {
                let manifest = reading.manifest(reference)?;
                let paths = keys_of(&manifest).chain([reference.path.as_str()]);
                let needs = paths.map(|path| keys::object(&name(), path)).collect();
                self.needs.insert(reference.path.clone(), needs);
            }
        }
        let now: BTreeSet<String> = parts(pointer).collect();
        for (key, until) in &mut self.parts {
            if *until == i64::MAX && !now.contains(key) {
                // Nobody reads the parts of a build that was given up.
                *until = i64::MIN / 2;
            }
        }
        self.parts.extend(now.into_iter().map(|key| (key, i64::MAX)));
        Ok(())
    }

    /// I-10.
    pub(crate) fn went(&mut self, key: &str, at: i64, _: &Reading) -> Verdict<()> {
        self.removed += 1;
        let needed = |until: i64| until == i64::MAX || at - until < GRACE_NS - SLACK_NS;
        for (path, _) in self.needs.iter().filter(|(_, needs)| needs.contains(key)) {
            let until = self.manifests.get(path).copied().unwrap_or(i64::MIN / 2);
            hold(!needed(until), || {
                let since = if until == i64::MAX {
                    "now".to_owned()
                } else {
                    format!("{} s ago", (at - until) / 1_000_000_000)
                };
                format!("I-10: {key} was removed; {path} needs it and was named {since}")
            })?;
        }
        let until = self.parts.get(key).copied().unwrap_or(i64::MIN / 2);
        hold(!needed(until), || {
            format!("I-10: {key} was removed, a part of a build under way")
        })
    }

    /// The parts of builds are there as long as they are named.
    pub(crate) fn builds_are_there(&self, pointer: &Pointer, disk: &Disk) -> Verdict<()> {
        let missing = parts(pointer).find(|key| disk.look(key).is_none());
        hold(missing.is_none(), || {
            format!("I-2: {missing:?} of a build is not there")
        })
    }

    /// I-11: nothing is there that nobody needs.
    pub(crate) fn nothing_else(&self, pointer: &Pointer, disk: &Disk) -> Verdict<()> {
        let mut needed: BTreeSet<String> = parts(pointer).collect();
        needed.extend(
            references(pointer)
                .filter_map(|reference| self.needs.get(&reference.path))
                .flatten()
                .cloned(),
        );
        needed.extend(
            pointer
                .erased
                .iter()
                .map(|erased| keys::object(&name(), &erased.list.path)),
        );
        let of_releases = |key: &String| {
            ["/releases/", "/segments/", "/dead/", "/erased/"]
                .iter()
                .any(|folder| key.contains(folder))
        };
        let over: Vec<String> = disk
            .keys()
            .into_iter()
            .filter(of_releases)
            .filter(|key| !needed.contains(key))
            .collect();
        hold(over.is_empty(), || format!("I-11: {over:?} should be gone"))
    }
}

/// How much earlier than the swing was asked for the time may be by which something is un-named.
const SLACK_NS: i64 = 60 * 1_000_000_000;
