//! Which objects of a collection nobody needs any more.
//!
//! The listing is made first and the pointer read after it, so that what a publish names meanwhile is seen as named.

use std::collections::BTreeSet;

use crate::manifest::Manifest;
use crate::pointer::{ManifestReference, Pointer};
use crate::timestamp::Timestamp;

/// How long an object stays after nobody names it, in nanoseconds: longer than the longest request and the slowest
/// reader's start.
pub const GRACE_NS: i64 = 10 * 60 * 1_000_000_000;

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key relative to the collection.
    pub key: String,
    /// When the store last wrote it.
    pub modified: Timestamp,
}

/// The manifests whose files must stay: those that the pointer names, and those that it named within the grace.
pub fn needed_manifests(pointer: &Pointer, now: Timestamp, grace_ns: i64) -> Vec<ManifestReference> {
    let lineages = [&pointer.active, &pointer.other]
        .into_iter()
        .flatten()
        .map(|lineage| &lineage.manifest);
    let kept = pointer.kept.iter().map(|release| &release.manifest);
    let lately = pointer
        .unnamed
        .iter()
        .filter(|unnamed| now.since(unnamed.since) < grace_ns);
    let mut seen = BTreeSet::new();
    lineages
        .chain(kept)
        .chain(lately.map(|unnamed| &unnamed.manifest))
        .filter(|manifest| seen.insert(manifest.path.clone()))
        .cloned()
        .collect()
}

/// The keys that a manifest needs beside itself.
pub fn keys_of(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.segments.iter().flat_map(|segment| {
        let files = [segment.files.vectors.path.as_str(), segment.files.rows.path.as_str()];
        files
            .into_iter()
            .chain(segment.dead.as_ref().map(|dead| dead.path.as_str()))
    })
}

/// The keys of `listing` that can go: of releases, segments and dead rows, not needed, older than the grace, and not
/// just being written by this process.
pub fn garbage(
    listing: &[Listed],
    needed: &BTreeSet<String>,
    being_written: impl Fn(&str) -> bool,
    now: Timestamp,
    grace_ns: i64,
) -> Vec<String> {
    let collected = |key: &str| {
        ["releases/", "segments/", "dead/"]
            .iter()
            .any(|folder| key.starts_with(folder))
    };
    listing
        .iter()
        .filter(|object| collected(&object.key) && !needed.contains(&object.key))
        .filter(|object| now.since(object.modified) > grace_ns && !being_written(&object.key))
        .map(|object| object.key.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(key: &str, modified: i64) -> Listed {
        Listed {
            key: key.to_owned(),
            modified: Timestamp(modified),
        }
    }

    #[test]
    fn only_old_unneeded_objects_of_releases_go() {
        let listing = [
            listed("latest", 0),
            listed("settings/1.json", 0),
            listed("dead-letters/x.jsonl", 0),
            listed("releases/old.json", 0),
            listed("releases/new.json", 95),
            listed("segments/a/rows.tar", 0),
            listed("segments/b/rows.tar", 0),
            listed("segments/c/rows.tar", 0),
        ];
        let needed = BTreeSet::from(["segments/a/rows.tar".to_owned()]);
        let gone = garbage(
            &listing,
            &needed,
            |key| key.starts_with("segments/c/"),
            Timestamp(100),
            10,
        );
        assert_eq!(gone, ["releases/old.json", "segments/b/rows.tar"]);
    }
}
