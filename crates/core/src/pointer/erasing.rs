//! Edits around an erase: documents are hidden by one swing, and what holds their bytes is un-named until nothing does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{EditRefused, ManifestReference, Pointer, UnnamedManifest};
use crate::digest::ContentSum;
use crate::manifest::LineageId;
use crate::timestamp::Timestamp;

/// The documents that were erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The object that lists them all.
    pub list: ManifestReference,
    /// Whether nothing that is named holds any of their bytes. Until then each reader hides them.
    pub removed: bool,
    /// Lists that were named before, for the grace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<UnnamedManifest>,
}

/// The release that a build is begun anew from.
#[derive(Debug, Clone)]
pub struct BuildSource {
    /// Its manifest.
    pub manifest: ManifestReference,
    /// Its generation.
    pub generation: u64,
    /// Its live rows, ghosts included.
    pub rows: u64,
}

impl Pointer {
    /// Hides documents at once, whatever is held or staged: `list` names them and all that were erased before.
    pub fn erase(
        &self,
        epoch: u64,
        list: ManifestReference,
        grace_ns: i64,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let mut earlier = Vec::new();
        if let Some(before) = next.erased.take() {
            earlier = before.earlier;
            earlier.retain(|unnamed| now.since(unnamed.since) < grace_ns);
            earlier.push(UnnamedManifest {
                manifest: before.list,
                since: now,
            });
        }
        next.erased = Some(Erased {
            list,
            removed: false,
            earlier,
        });
        Ok(next)
    }

    /// Lets kept releases go that hold bytes of erased documents, pinned ones too; those that answer or may answer stay,
    /// as they are rewritten instead.
    pub fn drop_kept(
        &self,
        epoch: u64,
        paths: &BTreeSet<String>,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let named: BTreeSet<String> = self.lineage_manifests().map(|named| named.path.clone()).collect();
        let goes = |path: &String| paths.contains(path) && !named.contains(path);
        for release in &self.kept {
            if goes(&release.manifest.path) {
                next.unnamed.push(UnnamedManifest {
                    manifest: release.manifest.clone(),
                    since: now,
                });
            }
        }
        next.kept.retain(|release| !goes(&release.manifest.path));
        Ok(next)
    }

    /// Begins a build anew from another release, with the same wish.
    pub fn restart_build(
        &self,
        epoch: u64,
        lineage: &LineageId,
        source: BuildSource,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let build = next.builds.iter_mut().find(|build| build.lineage == *lineage);
        let build = build.ok_or_else(|| EditRefused::NotNamed(lineage.clone()))?;
        let before = std::mem::replace(&mut build.source, source.manifest);
        build.source_generation = source.generation;
        build.rows = source.rows;
        build.parts.clear();
        build.rows_done = 0;
        build.content = ContentSum::default();
        build.documents = 0;
        next.unname(before, now);
        Ok(next)
    }

    /// Notes that nothing holds bytes of erased documents any more: each manifest that is named is among `clean`.
    pub fn finish_erasing(
        &self,
        epoch: u64,
        clean: &BTreeSet<String>,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let is_clean = self
            .manifests_that_may_answer()
            .all(|named| clean.contains(&named.path));
        let mut next = self.next(nonce, now);
        match &mut next.erased {
            Some(erased) if is_clean => erased.removed = true,
            _ => return Err(EditRefused::NotClean),
        }
        Ok(next)
    }

    /// Every manifest that answers, may answer, or is read for one that will.
    pub fn manifests_that_may_answer(&self) -> impl Iterator<Item = &ManifestReference> {
        let kept = self.kept.iter().map(|release| &release.manifest);
        let builds = self.builds.iter().map(|build| &build.source);
        let staged = self.staged.iter().map(|staged| &staged.release.manifest);
        let other = self.other_release.iter().map(|release| &release.manifest);
        self.lineage_manifests()
            .chain(other)
            .chain(kept)
            .chain(builds)
            .chain(staged)
    }

    fn lineage_manifests(&self) -> impl Iterator<Item = &ManifestReference> {
        let lineages = [&self.active, &self.other].into_iter().flatten();
        lineages.map(|lineage| &lineage.manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::garbage::{GRACE_NS, keys_of_erased, needed_manifests};
    use crate::manifest::SettingsReference;
    use crate::pointer::{Build, Hold, HoldKind, KeptRelease, LineagePointer, LineageRole};

    fn reference(path: &str) -> ManifestReference {
        ManifestReference {
            path: path.to_owned(),
            digest: Digest::of(path.as_bytes()),
        }
    }

    fn settings() -> SettingsReference {
        SettingsReference {
            version: 1,
            digest: Digest::of(b"settings"),
        }
    }

    /// Releases 1 (pinned) to 3; 3 answers, and a build reads 2.
    fn served() -> Pointer {
        let collection = "products".parse().expect("valid");
        let first = Pointer::first(collection, settings(), "n".to_owned(), Timestamp(0));
        let mut pointer = first.claim("a", "c".to_owned(), Timestamp(0)).expect("a turn");
        pointer.generation = 3;
        pointer.kept = (1..=3)
            .map(|generation| KeptRelease {
                generation,
                lineage: "l".to_owned().into(),
                manifest: reference(&format!("releases/{generation}")),
                created_at: Timestamp(0),
                checkpoint: generation,
                pinned: generation == 1,
                facts: None,
            })
            .collect();
        pointer.active = Some(LineagePointer {
            lineage: "l".to_owned().into(),
            generation: 3,
            manifest: reference("releases/3"),
            role: LineageRole::Active,
            since: Timestamp(0),
        });
        pointer.builds = vec![Build {
            lineage: "m".to_owned().into(),
            settings: settings(),
            source: reference("releases/2"),
            source_generation: 2,
            parts: Vec::new(),
            rows_done: 40,
            rows: 90,
            content: ContentSum::default(),
            documents: 40,
            actor: "ada".to_owned(),
            reason: "a new model".to_owned(),
            since: Timestamp(0),
        }];
        pointer
    }

    fn erased(from: &Pointer, list: &str, at: i64) -> Pointer {
        let edit = from.erase(1, reference(list), GRACE_NS, format!("e{at}"), Timestamp(at));
        edit.expect("its turn")
    }

    fn paths(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn hiding_is_a_swing_that_no_hold_stops() {
        let mut held = served();
        held.hold = Some(Hold {
            kind: HoldKind::Publish,
            actor: "ada".to_owned(),
            reason: "a bad feed".to_owned(),
            since: Timestamp(0),
        });
        let hidden = erased(&held, "erased/1", 5);
        let read = Pointer::decode(&hidden.encode()).expect("whole");
        let expect = Erased {
            list: reference("erased/1"),
            removed: false,
            earlier: Vec::new(),
        };
        assert_eq!((read.erased, read.generation), (Some(expect), 3));
    }

    #[test]
    fn a_list_stays_for_the_grace_after_another_took_its_place() {
        let two = erased(&erased(&served(), "erased/1", 5), "erased/2", 9);
        let keys = |pointer: &Pointer, now| {
            let keys = keys_of_erased(pointer, Timestamp(now), GRACE_NS);
            keys.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(keys(&two, 9 + GRACE_NS - 1), ["erased/2", "erased/1"]);
        assert_eq!(keys(&two, 9 + GRACE_NS), ["erased/2"]);
        let three = erased(&two, "erased/3", 9 + GRACE_NS);
        assert_eq!(three.erased.expect("listed").earlier.len(), 1);
    }

    #[test]
    fn kept_releases_go_pinned_ones_too_and_the_one_that_answers_stays() {
        let dropped = served()
            .drop_kept(1, &paths(&["releases/1", "releases/3"]), "d".to_owned(), Timestamp(7))
            .expect("its turn");
        let kept: Vec<u64> = dropped.kept.iter().map(|kept| kept.generation).collect();
        assert_eq!(kept, [2, 3]);
        let needed = |now| needed_manifests(&dropped, Timestamp(now), GRACE_NS).len();
        assert_eq!((needed(7 + GRACE_NS - 1), needed(7 + GRACE_NS)), (3, 2));
    }

    #[test]
    fn a_build_is_begun_anew_from_another_release_with_the_same_wish() {
        let source = BuildSource {
            manifest: reference("releases/3"),
            generation: 3,
            rows: 89,
        };
        let lineage: LineageId = "m".to_owned().into();
        let anew = served()
            .restart_build(1, &lineage, source.clone(), "r".to_owned(), Timestamp(7))
            .expect("its turn");
        let build = &anew.builds[0];
        assert_eq!((build.rows_done, build.rows, build.source_generation), (0, 89, 3));
        assert_eq!((build.actor.as_str(), build.reason.as_str()), ("ada", "a new model"));
        let other = served().restart_build(1, &"x".to_owned().into(), source, "r".to_owned(), Timestamp(7));
        assert!(matches!(other, Err(EditRefused::NotNamed(_))));
    }

    #[test]
    fn it_is_finished_only_when_everything_named_was_found_clean() {
        let hidden = erased(&served(), "erased/1", 5);
        let all = paths(&["releases/1", "releases/2", "releases/3"]);
        let finish =
            |from: &Pointer, clean: &BTreeSet<String>| from.finish_erasing(1, clean, "f".to_owned(), Timestamp(8));
        let done = finish(&hidden, &all).expect("all clean");
        assert!(done.erased.as_ref().is_some_and(|erased| erased.removed));
        for missing in &all {
            let mut clean = all.clone();
            clean.remove(missing);
            assert_eq!(finish(&hidden, &clean), Err(EditRefused::NotClean), "{missing}");
        }
        assert_eq!(
            finish(&served(), &all),
            Err(EditRefused::NotClean),
            "nothing was erased"
        );
        let more = erased(&done, "erased/2", 9);
        assert!(more.erased.is_some_and(|erased| !erased.removed));
    }

    #[test]
    fn who_lost_the_turn_erases_nothing() {
        let taken = served().claim("b", "c2".to_owned(), Timestamp(2)).expect("a turn");
        let lost = |edit: Result<Pointer, EditRefused>| matches!(edit, Err(EditRefused::LostTurn { .. }));
        let (nonce, now) = (|| "x".to_owned(), Timestamp(3));
        assert!(lost(taken.erase(1, reference("erased/1"), GRACE_NS, nonce(), now)));
        assert!(lost(taken.drop_kept(1, &paths(&[]), nonce(), now)));
        assert!(lost(taken.finish_erasing(1, &paths(&[]), nonce(), now)));
    }
}
