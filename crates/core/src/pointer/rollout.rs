//! Edits of the rollout owner: which lineage answers, and which may.
//!
//! The owner's epoch stands beside the indexer's: either swings between the other's swings, and each edit is applied
//! again to what the other left. Nothing here writes releases; that is the indexer's.

use serde::{Deserialize, Serialize};

use super::{
    EditRefused, Hold, HoldKind, KeptRelease, LineagePointer, LineageRole, ManifestReference, OwnerClaim, Pointer,
    UnnamedManifest,
};
use crate::manifest::LineageId;
use crate::timestamp::Timestamp;

/// Owners of this kind work under the lock of their folder: one that is there has outlived any other.
const LOCAL_OWNER: &str = "up/";
/// How many entries the history keeps.
pub const SERVED_KEPT: usize = 50;

/// A person's word that a candidate may be promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The candidate.
    pub lineage: LineageId,
    /// The generation that was judged when that person looked.
    pub generation: u64,
    /// Who.
    pub actor: String,
    /// When.
    pub at: Timestamp,
}

/// An entry of the history: from when on a lineage answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The lineage.
    pub lineage: LineageId,
    /// Its generation at that moment.
    pub generation: u64,
    /// Since when.
    pub since: Timestamp,
    /// Who moved traffic to it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Traffic is to be moved to the other lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The lineage that is to answer.
    pub lineage: LineageId,
    /// Who asks.
    pub actor: String,
    /// Why, in that person's words, or the gates'.
    pub reason: String,
    /// Whether it may lack the newest publishes: its events are then read again, and answers are older until they are.
    pub stale: bool,
}

impl Pointer {
    /// An owner of rollouts begins: its epoch rises, and others end. Another kind of owner, or another controller, is
    /// taken over from only `by_word`.
    pub fn claim_rollouts(&self, id: &str, by_word: bool, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_deleted()?;
        let epoch = match &self.owner {
            None => 1,
            Some(owner) => {
                let both_local = owner.id.starts_with(LOCAL_OWNER) && id.starts_with(LOCAL_OWNER);
                if owner.id != id && !both_local && !by_word {
                    return Err(EditRefused::OwnedBy(owner.id.clone()));
                }
                owner.epoch + 1
            }
        };
        let mut next = self.next(nonce, now);
        next.owner = Some(OwnerClaim {
            id: id.to_owned(),
            epoch,
        });
        Ok(next)
    }

    /// Asks the indexer to bring the other lineage to the newest generation and to pause until it is flipped to.
    pub fn want_level(
        &self,
        owner_epoch: u64,
        lineage: &LineageId,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        self.other_named(lineage)?;
        let mut next = self.next(nonce, now);
        next.leveling = Some(lineage.clone());
        Ok(next)
    }

    /// Takes that back.
    pub fn stop_leveling(&self, owner_epoch: u64, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        let mut next = self.next(nonce, now);
        next.leveling = None;
        Ok(next)
    }

    /// A person lets a candidate pass, as it was judged.
    pub fn approve(
        &self,
        owner_epoch: u64,
        lineage: &LineageId,
        judged_generation: u64,
        actor: &str,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        let other = self.other_named(lineage)?;
        if other.role != LineageRole::Candidate {
            return Err(EditRefused::NotCandidate(lineage.clone()));
        }
        let mut next = self.next(nonce, now);
        next.approval = Some(Approval {
            lineage: lineage.clone(),
            generation: judged_generation,
            actor: actor.to_owned(),
            at: now,
        });
        Ok(next)
    }

    /// A candidate is promoted: it answers from now on, and what answered before is the way back.
    pub fn flip(&self, owner_epoch: u64, flip: &Flip, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        let other = self.other_named(&flip.lineage)?;
        if other.role != LineageRole::Candidate {
            return Err(EditRefused::NotCandidate(flip.lineage.clone()));
        }
        let holds = [self.publish_hold(), self.promotion_hold.as_ref()];
        if let Some(hold) = holds.into_iter().flatten().next() {
            return Err(EditRefused::Held {
                actor: hold.actor.clone(),
                reason: hold.reason.clone(),
            });
        }
        self.flipped(owner_epoch, flip, LineageRole::WayBack, nonce, now)
    }

    /// The way back answers again. Nothing is promoted until somebody resumes (I-9).
    pub fn return_to_way_back(
        &self,
        owner_epoch: u64,
        flip: &Flip,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        let other = self.other_named(&flip.lineage)?;
        if other.role != LineageRole::WayBack {
            return Err(EditRefused::NotWayBack(flip.lineage.clone()));
        }
        let mut next = self.flipped(owner_epoch, flip, LineageRole::Candidate, nonce, now)?;
        next.promotion_hold = Some(Hold {
            kind: HoldKind::Promotion,
            actor: flip.actor.clone(),
            reason: flip.reason.clone(),
            since: now,
        });
        Ok(next)
    }

    fn flipped(
        &self,
        owner_epoch: u64,
        flip: &Flip,
        left_as: LineageRole,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        let mut next = self.next(nonce, now);
        let (active, other) = (next.active.take(), next.other.take());
        let (Some(left), Some(comes)) = (active, other) else {
            return Err(EditRefused::NotNamed(flip.lineage.clone()));
        };
        if comes.generation < left.generation && !flip.stale {
            return Err(EditRefused::NotLevel {
                lineage: comes.lineage,
                generation: comes.generation,
                newest: left.generation,
            });
        }
        let left_release = next
            .kept
            .iter()
            .rfind(|kept| kept.generation == left.generation)
            .cloned();
        let comes_release = std::mem::replace(&mut next.other_release, left_release);
        next.keep_instead(comes_release, now);
        next.served.push(Served {
            lineage: comes.lineage.clone(),
            generation: comes.generation,
            since: now,
            actor: flip.actor.clone(),
            reason: flip.reason.clone(),
        });
        let over = next.served.len().saturating_sub(SERVED_KEPT);
        next.served.drain(..over);
        next.active = Some(LineagePointer {
            role: LineageRole::Active,
            since: now,
            ..comes
        });
        next.other = Some(LineagePointer {
            role: left_as,
            since: now,
            ..left
        });
        // A lineage without settings of its own shares those of the other.
        let theirs = next.other_settings.take().unwrap_or_else(|| next.settings.clone());
        next.other_settings = Some(std::mem::replace(&mut next.settings, theirs));
        next.leveling = None;
        next.approval = None;
        // Its events are read again by the lineage that answers now, and judged anew.
        let _ = next.unname_staged(now);
        Ok(next)
    }

    /// The list of releases shows what answered: a release of the same generation makes room, and may be read for the
    /// grace.
    fn keep_instead(&mut self, release: Option<KeptRelease>, now: Timestamp) {
        let Some(release) = release else { return };
        let at = self.kept.partition_point(|kept| kept.generation < release.generation);
        match self
            .kept
            .get_mut(at)
            .filter(|kept| kept.generation == release.generation)
        {
            Some(kept) => {
                let pinned = kept.pinned;
                let hidden = std::mem::replace(kept, KeptRelease { pinned, ..release });
                self.unname(hidden.manifest, now);
            }
            None => self.kept.insert(at, release),
        }
    }

    /// Nothing is promoted until resumed.
    pub fn hold_promotion(
        &self,
        owner_epoch: u64,
        actor: &str,
        reason: &str,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        let mut next = self.next(nonce, now);
        next.promotion_hold = Some(Hold {
            kind: HoldKind::Promotion,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            since: now,
        });
        Ok(next)
    }

    /// Promotion goes on.
    pub fn resume_promotion(&self, owner_epoch: u64, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        if self.promotion_hold.is_none() {
            return Err(EditRefused::PromotionNotHeld);
        }
        let mut next = self.next(nonce, now);
        next.promotion_hold = None;
        Ok(next)
    }

    /// Gives a candidate up, one that is still being built included, or the way back. Its files stay for the grace.
    pub fn drop_other(
        &self,
        owner_epoch: u64,
        lineage: &LineageId,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_owner(owner_epoch)?;
        let is_built = self.builds.iter().any(|build| build.lineage == *lineage);
        if !is_built {
            self.other_named(lineage)?;
        }
        let mut next = self.next(nonce, now);
        next.builds.retain(|build| build.lineage != *lineage);
        if next.other.as_ref().is_some_and(|other| other.lineage == *lineage) {
            next.unname_other(now);
        }
        Ok(next)
    }

    /// Forgets the other lineage and whatever was said of it; its files stay for the grace.
    pub(super) fn unname_other(&mut self, now: Timestamp) {
        if let Some(other) = self.other.take() {
            self.unname(other.manifest, now);
        }
        self.other_settings = None;
        self.other_release = None;
        self.leveling = None;
        self.approval = None;
    }

    /// Lets a manifest go, unless something names it still.
    pub(super) fn unname(&mut self, manifest: ManifestReference, now: Timestamp) {
        let is_kept = self.kept.iter().any(|kept| kept.manifest == manifest);
        if !is_kept {
            self.unnamed.push(UnnamedManifest { manifest, since: now });
        }
    }

    fn other_named(&self, lineage: &LineageId) -> Result<&LineagePointer, EditRefused> {
        let other = self.other.as_ref().filter(|other| other.lineage == *lineage);
        other.ok_or_else(|| EditRefused::NotNamed(lineage.clone()))
    }

    fn check_owner(&self, epoch: u64) -> Result<(), EditRefused> {
        self.check_deleted()?;
        match &self.owner {
            Some(owner) if owner.epoch == epoch => Ok(()),
            owner => Err(EditRefused::LostOwnership {
                ours: epoch,
                theirs: owner.as_ref().map_or(0, |owner| owner.epoch),
                holder: owner
                    .as_ref()
                    .map_or_else(|| "nobody".to_owned(), |owner| owner.id.clone()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::garbage::{GRACE_NS, needed_manifests};
    use crate::manifest::SettingsReference;
    use crate::pointer::{Build, Published};

    fn reference(path: &str) -> ManifestReference {
        ManifestReference {
            path: path.to_owned(),
            digest: Digest::of(path.as_bytes()),
        }
    }

    fn settings(version: u64) -> SettingsReference {
        SettingsReference {
            version,
            digest: Digest::of(b"settings"),
        }
    }

    fn release(lineage: &str, generation: u64) -> KeptRelease {
        KeptRelease {
            generation,
            lineage: lineage.to_owned().into(),
            manifest: reference(&format!("releases/{generation}-{lineage}")),
            created_at: Timestamp(1),
            checkpoint: generation,
            pinned: false,
            facts: None,
        }
    }

    fn published(lineage: &str, generation: u64, other: Option<&str>) -> Published {
        Published {
            release: release(lineage, generation),
            settings: settings(1),
            grace_ns: GRACE_NS,
            other: other.map(|other| release(other, generation)),
        }
    }

    fn publish(pointer: &Pointer, lineage: &str, other: Option<&str>) -> Pointer {
        let generation = pointer.generation + 1;
        let next = pointer.publish(
            1,
            &published(lineage, generation, other),
            format!("p{generation}"),
            Timestamp(1),
        );
        next.expect("its turn")
    }

    /// Active a at generation 1, with a build of b, claimed by indexer and owner, both of epoch 1.
    fn building() -> Pointer {
        let first = Pointer::first(
            "products".parse().expect("valid"),
            settings(1),
            "n".to_owned(),
            Timestamp(0),
        );
        let claimed = first.claim("i", "c".to_owned(), Timestamp(0)).expect("free");
        let owned = claimed
            .claim_rollouts("up/1", false, "o".to_owned(), Timestamp(0))
            .expect("free");
        let one = publish(&owned, "a", None);
        let build = Build {
            lineage: "b".to_owned().into(),
            settings: settings(2),
            source: reference("releases/1-a"),
            source_generation: 1,
            parts: Vec::new(),
            rows_done: 0,
            rows: 0,
            content: crate::digest::ContentSum::default(),
            documents: 0,
            actor: "ada".to_owned(),
            reason: "a new index".to_owned(),
            since: Timestamp(1),
        };
        one.begin_build(1, build, "b".to_owned(), Timestamp(1)).expect("free")
    }

    fn candidate() -> Pointer {
        publish(&building(), "a", Some("b"))
    }

    fn flip(lineage: &str) -> Flip {
        Flip {
            lineage: lineage.to_owned().into(),
            actor: "ada".to_owned(),
            reason: "it passed".to_owned(),
            stale: false,
        }
    }

    fn promoted() -> Pointer {
        candidate()
            .flip(1, &flip("b"), "f".to_owned(), Timestamp(2))
            .expect("level")
    }

    fn roles(pointer: &Pointer) -> (String, Option<(String, LineageRole)>) {
        let active = pointer.active.as_ref().expect("published").lineage.to_string();
        (
            active,
            pointer
                .other
                .as_ref()
                .map(|other| (other.lineage.to_string(), other.role)),
        )
    }

    #[test]
    fn a_build_is_named_as_the_candidate_by_the_publish_that_brings_it_level() {
        assert!(building().other.is_none());
        let pointer = candidate();
        assert_eq!(
            roles(&pointer),
            ("a".to_owned(), Some(("b".to_owned(), LineageRole::Candidate)))
        );
        assert!(pointer.builds.is_empty());
        assert_eq!(pointer.other_settings, Some(settings(2)));
    }

    #[test]
    fn a_flip_changes_places_and_settings_and_leaves_the_way_back() {
        let pointer = promoted();
        assert_eq!(
            roles(&pointer),
            ("b".to_owned(), Some(("a".to_owned(), LineageRole::WayBack)))
        );
        assert_eq!(
            (&pointer.settings, &pointer.other_settings),
            (&settings(2), &Some(settings(1)))
        );
        assert_eq!(pointer.kept.last().expect("kept").lineage.as_str(), "b");
        assert_eq!(pointer.served.last().expect("noted").actor, "ada");
        pointer.check().expect("consistent");
    }

    #[test]
    fn a_lineage_that_lacks_a_publish_is_not_flipped_to_but_by_word() {
        let behind = publish(&candidate(), "a", None);
        let refused = behind.flip(1, &flip("b"), "f".to_owned(), Timestamp(2));
        assert!(matches!(refused, Err(EditRefused::NotLevel { .. })), "{refused:?}");
        let stale = Flip {
            stale: true,
            ..flip("b")
        };
        let forced = behind.flip(1, &stale, "f".to_owned(), Timestamp(2)).expect("by word");
        assert_eq!(
            (forced.generation, forced.active.as_ref().expect("named").generation),
            (3, 2)
        );
        let next = publish(&forced, "b", None);
        assert_eq!(next.generation, 4, "generations only grow");
    }

    #[test]
    fn a_release_that_a_stale_return_takes_out_of_the_list_stays_for_the_grace() {
        let later = publish(&promoted(), "b", None);
        let stale = Flip {
            stale: true,
            ..flip("a")
        };
        let back = later
            .return_to_way_back(1, &stale, "r".to_owned(), Timestamp(4))
            .expect("by word");
        let needed = needed_manifests(&back, Timestamp(5), GRACE_NS);
        assert!(needed.contains(&reference("releases/2-b")), "{needed:?}");
    }

    #[test]
    fn a_publish_for_the_lineage_that_was_active_is_refused_after_a_flip() {
        let pointer = promoted();
        let late = pointer.publish(
            1,
            &published("a", pointer.generation + 1, None),
            "p".to_owned(),
            Timestamp(3),
        );
        assert_eq!(late, Err(EditRefused::LineageMoved("b".to_owned().into())));
    }

    #[test]
    fn a_publish_leaves_out_a_lineage_that_was_given_up_meanwhile() {
        let given_up = candidate()
            .drop_other(1, &"b".to_owned().into(), "d".to_owned(), Timestamp(2))
            .expect("named");
        assert!(given_up.other.is_none() && given_up.other_settings.is_none());
        let next = publish(&given_up, "a", Some("b"));
        assert_eq!(roles(&next), ("a".to_owned(), None));
        let needed = needed_manifests(&given_up, Timestamp(3), GRACE_NS);
        assert!(
            needed.contains(&reference("releases/2-b")),
            "its files stay for the grace"
        );
    }

    #[test]
    fn a_return_to_the_way_back_sticks_until_resumed() {
        let back = promoted()
            .return_to_way_back(1, &flip("a"), "r".to_owned(), Timestamp(3))
            .expect("level");
        assert_eq!(
            roles(&back),
            ("a".to_owned(), Some(("b".to_owned(), LineageRole::Candidate)))
        );
        let again = back.flip(1, &flip("b"), "f2".to_owned(), Timestamp(4));
        assert!(matches!(again, Err(EditRefused::Held { .. })), "{again:?}");
        let resumed = back.resume_promotion(1, "u".to_owned(), Timestamp(4)).expect("held");
        assert!(resumed.flip(1, &flip("b"), "f3".to_owned(), Timestamp(5)).is_ok());
    }

    #[test]
    fn a_release_that_is_a_candidate_alone_waits_and_takes_the_place_of_a_way_back() {
        let alone = |pointer: &Pointer, lineage: &str| {
            let release = published(lineage, pointer.generation + 1, None);
            pointer.publish_candidate(1, &release, "k".to_owned(), Timestamp(3))
        };
        let waits = alone(&promoted(), "c").expect("a way back makes room");
        assert_eq!(
            roles(&waits),
            ("b".to_owned(), Some(("c".to_owned(), LineageRole::Candidate)))
        );
        assert_eq!(
            (waits.generation, waits.active.as_ref().map(|active| active.generation)),
            (3, Some(2))
        );
        assert_eq!(alone(&waits, "d"), Err(EditRefused::OtherTaken("c".to_owned().into())));
        let flipped = waits
            .flip(1, &flip("c"), "f2".to_owned(), Timestamp(4))
            .expect("it is ahead");
        assert_eq!(
            flipped.kept.last().map(|kept| kept.generation),
            Some(3),
            "it is kept from now on"
        );
        flipped.check().expect("consistent");
    }

    #[test]
    fn only_a_candidate_is_promoted_and_only_the_way_back_returned_to() {
        let back = candidate().return_to_way_back(1, &flip("b"), "r".to_owned(), Timestamp(2));
        assert_eq!(back, Err(EditRefused::NotWayBack("b".to_owned().into())));
        let forth = promoted().flip(1, &flip("a"), "f".to_owned(), Timestamp(3));
        assert_eq!(forth, Err(EditRefused::NotCandidate("a".to_owned().into())));
    }

    #[test]
    fn an_owner_that_lost_its_epoch_moves_nothing_and_another_kind_takes_over_only_by_word() {
        let pointer = candidate();
        let controller = |by_word| pointer.claim_rollouts("controller/ns/c", by_word, "k".to_owned(), Timestamp(2));
        assert_eq!(controller(false), Err(EditRefused::OwnedBy("up/1".to_owned())));
        let taken = controller(true).expect("by word");
        let late = taken.flip(1, &flip("b"), "f".to_owned(), Timestamp(3));
        assert!(matches!(late, Err(EditRefused::LostOwnership { .. })), "{late:?}");
        assert!(
            pointer
                .claim_rollouts("up/2", false, "u".to_owned(), Timestamp(2))
                .is_ok()
        );
    }

    #[test]
    fn the_source_of_a_build_stays() {
        let needed = needed_manifests(&building(), Timestamp(9), GRACE_NS);
        assert!(needed.contains(&reference("releases/1-a")));
        let gone = building()
            .drop_build(1, &"b".to_owned().into(), "d".to_owned(), Timestamp(2))
            .expect("there");
        assert!(gone.builds.is_empty());
        let late = gone.add_part(
            1,
            &"b".to_owned().into(),
            crate::pointer::Part {
                segment: crate::merge::tests::segment("s", 1, 1),
                rows_done: 1,
                content: crate::digest::ContentSum::default(),
                documents: 1,
            },
            "l".to_owned(),
            Timestamp(3),
        );
        assert_eq!(late, Err(EditRefused::NotNamed("b".to_owned().into())));
    }
}
