//! Which objects of a collection nobody needs any more.
//!
//! The order of looking is what makes it safe beside publishes: first the listing, then what this process is writing,
//! then the pointer. Whatever a publish does meanwhile is seen as new, as being written, or as named.

use std::collections::BTreeSet;

use crate::manifest::{Manifest, SegmentEntry};
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
    let kept = pointer
        .kept
        .iter()
        .chain(pointer.staged.iter().map(|staged| &staged.release));
    let kept = kept.map(|release| &release.manifest);
    let lately = pointer
        .unnamed
        .iter()
        .filter(|unnamed| now.since(unnamed.since) < grace_ns);
    let sources = pointer.builds.iter().map(|build| &build.source);
    let mut seen = BTreeSet::new();
    lineages
        .chain(sources)
        .chain(kept)
        .chain(lately.map(|unnamed| &unnamed.manifest))
        .filter(|manifest| seen.insert(manifest.path.clone()))
        .cloned()
        .collect()
}

/// Whether the indexer of this name may collect: it has the turn, so that nothing is written that it does not know of.
/// One that lost its turn does not see what the other is writing. What was deleted has no turn any more.
pub fn may_collect(pointer: &Pointer, id: &str) -> bool {
    pointer.deleted_at.is_some() || pointer.writer.as_ref().is_some_and(|writer| writer.id == id)
}

/// The keys that a manifest needs beside itself.
pub fn keys_of(manifest: &Manifest) -> impl Iterator<Item = &str> {
    keys_of_segments(&manifest.segments)
}

/// The keys that builds under way need: no manifest names their parts yet.
pub fn keys_of_builds(pointer: &Pointer) -> impl Iterator<Item = &str> {
    pointer.builds.iter().flat_map(|build| keys_of_segments(&build.parts))
}

/// The lists of erased documents that must stay.
pub fn keys_of_erased(pointer: &Pointer, now: Timestamp, grace_ns: i64) -> impl Iterator<Item = &str> {
    pointer.erased.iter().flat_map(move |erased| {
        let earlier = erased.earlier.iter();
        let lately = earlier.filter(move |unnamed| now.since(unnamed.since) < grace_ns);
        [&erased.list]
            .into_iter()
            .chain(lately.map(|unnamed| &unnamed.manifest))
            .map(|list| list.path.as_str())
    })
}

fn keys_of_segments(segments: &[SegmentEntry]) -> impl Iterator<Item = &str> {
    segments.iter().flat_map(|segment| {
        let files = [segment.files.vectors.path.as_str(), segment.files.rows.path.as_str()];
        files
            .into_iter()
            .chain(segment.dead.as_ref().map(|dead| dead.path.as_str()))
    })
}

/// Which folders of a collection are collected: what releases are made of, and lists of erased documents. Settings, dead letters, verdicts and queries
/// are not: they stay as long as their collection.
const COLLECTED: [&str; 4] = ["releases/", "segments/", "dead/", "erased/"];

/// Objects of a listing that may be garbage, in the first of two steps: of releases, older than the grace, and not
/// just being written by this process.
///
/// Ask `being_written` after the listing and read the pointer after this, never the other way round: a publish that
/// ends between the two has left what is being written and is named in the pointer. Then nothing falls between.
pub fn candidates(
    listing: Vec<Listed>,
    being_written: impl Fn(&str) -> bool,
    now: Timestamp,
    grace_ns: i64,
) -> Vec<Listed> {
    let collected = |key: &str| COLLECTED.iter().any(|folder| key.starts_with(folder));
    let is_old = |object: &Listed| now.since(object.modified) > grace_ns;
    listing
        .into_iter()
        .filter(|object| collected(&object.key) && is_old(object) && !being_written(&object.key))
        .collect()
}

/// The candidates that nobody needs: these can go.
pub fn garbage(candidates: Vec<Listed>, needed: &BTreeSet<String>) -> Vec<String> {
    let keys = candidates.into_iter().map(|object| object.key);
    keys.filter(|key| !needed.contains(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::{LineageId, SettingsReference};
    use crate::pointer::{KeptRelease, LineagePointer, LineageRole, UnnamedManifest};

    fn listed(key: &str, modified: i64) -> Listed {
        Listed {
            key: key.to_owned(),
            modified: Timestamp(modified),
        }
    }

    #[test]
    fn only_old_unneeded_objects_of_releases_that_nobody_writes_go() {
        let listing = vec![
            listed("latest", 0),
            listed("settings/1.json", 0),
            listed("dead-letters/x.jsonl", 0),
            listed("releases/old.json", 0),
            listed("releases/new.json", 95),
            listed("dead/edge.roaring", 90),
            listed("dead/old.roaring", 89),
            listed("segments/a/rows.tar", 0),
            listed("segments/b/rows.tar", 0),
            listed("segments/c/rows.tar", 0),
            listed("segments/of-a-fast-clock/rows.tar", 1_000),
        ];
        let needed = BTreeSet::from(["segments/a/rows.tar".to_owned()]);
        let candidates = candidates(listing, |key| key.starts_with("segments/c/"), Timestamp(100), 10);
        assert_eq!(
            garbage(candidates, &needed),
            ["releases/old.json", "dead/old.roaring", "segments/b/rows.tar"]
        );
    }

    #[test]
    fn only_who_has_the_turn_collects() {
        let settings = SettingsReference {
            version: 1,
            digest: Digest::of(b"s"),
        };
        let name = "products".parse().expect("valid");
        let first = Pointer::first(name, settings, "n".to_owned(), Timestamp(0));
        assert!(!may_collect(&first, "a"));
        let taken = first
            .claim("a", "c".to_owned(), Timestamp(0))
            .and_then(|pointer| pointer.claim("b", "d".to_owned(), Timestamp(0)));
        let taken = taken.expect("free");
        assert!(may_collect(&taken, "b") && !may_collect(&taken, "a"));
        let deleted = taken.delete("e".to_owned(), Timestamp(0)).expect("there");
        assert!(may_collect(&deleted, "a"));
    }

    fn manifest(name: &str) -> ManifestReference {
        ManifestReference {
            path: format!("releases/{name}.json"),
            digest: Digest::of(name.as_bytes()),
        }
    }

    #[test]
    fn needed_are_both_lineages_kept_releases_and_those_un_named_within_the_grace() {
        let lineage = |name: &str, role| LineagePointer {
            lineage: LineageId::from(name.to_owned()),
            generation: 3,
            manifest: manifest(name),
            role,
            since: Timestamp(0),
        };
        let settings = SettingsReference {
            version: 1,
            digest: Digest::of(b"s"),
        };
        let mut pointer = Pointer::first(
            "products".parse().expect("valid"),
            settings,
            "n".to_owned(),
            Timestamp(0),
        );
        pointer.active = Some(lineage("active", LineageRole::Active));
        pointer.other = Some(lineage("other", LineageRole::WayBack));
        pointer.kept = ["active", "kept"]
            .map(|name| KeptRelease {
                generation: 3,
                lineage: LineageId::from(name.to_owned()),
                manifest: manifest(name),
                created_at: Timestamp(0),
                checkpoint: 0,
                pinned: false,
                facts: None,
            })
            .to_vec();
        let unnamed = |name: &str, since| UnnamedManifest {
            manifest: manifest(name),
            since: Timestamp(since),
        };
        pointer.unnamed = vec![
            unnamed("long-ago", 90),
            unnamed("lately", 91),
            unnamed("by-a-fast-clock", 200),
        ];
        let needed = needed_manifests(&pointer, Timestamp(100), 10);
        let names: Vec<_> = needed.iter().map(|reference| reference.path.as_str()).collect();
        assert_eq!(
            names,
            ["active", "other", "kept", "lately", "by-a-fast-clock"].map(|n| format!("releases/{n}.json"))
        );
    }
}
