//! Edits around a staged release: one that breached a guard is written and named, and waits for a person.

use serde::{Deserialize, Serialize};

use super::{EditRefused, ManifestReference, Pointer, Published, UnnamedManifest};
use crate::pointer::{KeptRelease, SettingsReference};
use crate::timestamp::Timestamp;

/// A release that waits for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRelease {
    /// The release, as it would be kept.
    pub release: KeptRelease,
    /// The settings that it would put into force.
    pub settings: SettingsReference,
    /// What was breached, and the events that count for it.
    pub verdict: ManifestReference,
    /// Sequence up to which the log was looked at, waiting events included.
    pub judged_to: u64,
    /// Since when.
    pub since: Timestamp,
}

/// Events that a person rejected, as long as they may be read again: a kept release ends before the last of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedEvents {
    /// The object that lists them.
    pub list: ManifestReference,
    /// Sequence of the last of them.
    pub to: u64,
}

impl Pointer {
    /// Names a release that is not served yet; publishing waits from now on.
    pub fn stage(&self, epoch: u64, staged: StagedRelease, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        if let Some(waiting) = &self.staged {
            return Err(EditRefused::Staged(waiting.release.generation));
        }
        if self.generation + 1 != staged.release.generation {
            return Err(EditRefused::Generation {
                expected: staged.release.generation.saturating_sub(1),
                found: self.generation,
            });
        }
        let mut next = self.next(nonce, now);
        next.staged = Some(staged);
        Ok(next)
    }

    /// The staged release is served, and what was judged with it passes.
    pub fn accept_staged(&self, epoch: u64, grace_ns: i64, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        let mut without = self.clone();
        let staged = without.staged.take().ok_or(EditRefused::NotStaged)?;
        let published = Published {
            release: staged.release,
            settings: staged.settings,
            grace_ns,
            other: None,
        };
        let mut next = without.publish(epoch, &published, nonce, now)?;
        next.guards_passed_to = next.guards_passed_to.max(staged.judged_to);
        Ok(next)
    }

    /// The staged release goes, and its events are read again, those that were `rejected` to be set aside.
    pub fn drop_staged(
        &self,
        epoch: u64,
        rejected: Option<RejectedEvents>,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        next.unname_staged(now).ok_or(EditRefused::NotStaged)?;
        next.rejected = rejected.or(next.rejected);
        Ok(next)
    }

    /// Forgets the staged release; its files stay for the grace.
    pub(super) fn unname_staged(&mut self, now: Timestamp) -> Option<()> {
        let staged = self.staged.take()?;
        self.unnamed.push(UnnamedManifest {
            manifest: staged.release.manifest,
            since: now,
        });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::garbage::{GRACE_NS, needed_manifests};

    fn reference(path: &str) -> ManifestReference {
        ManifestReference {
            path: path.to_owned(),
            digest: Digest::of(b""),
        }
    }

    fn staged(generation: u64) -> StagedRelease {
        StagedRelease {
            release: KeptRelease {
                generation,
                lineage: "l".to_owned().into(),
                manifest: reference("releases/staged"),
                created_at: Timestamp(1),
                checkpoint: 10,
                pinned: false,
                facts: None,
            },
            settings: settings(),
            verdict: reference("verdicts/1"),
            judged_to: 40,
            since: Timestamp(1),
        }
    }

    fn settings() -> SettingsReference {
        SettingsReference {
            version: 1,
            digest: Digest::of(b"settings"),
        }
    }

    fn waiting() -> Pointer {
        let first = Pointer::first(
            "products".parse().expect("valid"),
            settings(),
            "n".to_owned(),
            Timestamp(0),
        );
        let claimed = first.claim("a", "c".to_owned(), Timestamp(0)).expect("a turn");
        claimed
            .stage(1, staged(1), "s".to_owned(), Timestamp(1))
            .expect("its turn")
    }

    #[test]
    fn a_staged_release_is_named_and_not_served_and_nothing_passes_it() {
        let pointer = waiting();
        assert!(pointer.active.is_none() && pointer.kept.is_empty());
        assert_eq!(needed_manifests(&pointer, Timestamp(i64::MAX), GRACE_NS).len(), 1);
        let published = Published {
            release: staged(1).release,
            settings: settings(),
            grace_ns: GRACE_NS,
            other: None,
        };
        let refused = pointer.publish(1, &published, "p".to_owned(), Timestamp(2));
        assert_eq!(refused, Err(EditRefused::Staged(1)));
        let again = pointer.stage(1, staged(1), "t".to_owned(), Timestamp(2));
        assert_eq!(again, Err(EditRefused::Staged(1)));
    }

    #[test]
    fn accepting_serves_it_and_lets_pass_what_was_judged_with_it() {
        let accepted = waiting()
            .accept_staged(1, GRACE_NS, "y".to_owned(), Timestamp(2))
            .expect("staged");
        assert_eq!((accepted.generation, accepted.guards_passed_to), (1, 40));
        assert!(accepted.staged.is_none() && accepted.active.is_some());
        let again = accepted.accept_staged(1, GRACE_NS, "z".to_owned(), Timestamp(3));
        assert_eq!(again, Err(EditRefused::NotStaged));
    }

    #[test]
    fn rejected_events_are_remembered_as_long_as_they_may_be_read_again() {
        let rejected = RejectedEvents {
            list: reference("verdicts/rejected"),
            to: 12,
        };
        let dropped = waiting()
            .drop_staged(1, Some(rejected.clone()), "d".to_owned(), Timestamp(2))
            .expect("staged");
        assert_eq!((dropped.generation, dropped.unnamed.len()), (0, 1));
        let publish = |from: &Pointer, generation, checkpoint, nonce: &str| {
            let mut release = staged(generation).release;
            release.checkpoint = checkpoint;
            let published = Published {
                release,
                settings: settings(),
                grace_ns: GRACE_NS,
                other: None,
            };
            from.publish(1, &published, nonce.to_owned(), Timestamp(3))
                .expect("its turn")
        };
        let one = publish(&dropped, 1, 11, "p1");
        let two = publish(&one, 2, 12, "p2");
        assert_eq!(two.rejected, Some(rejected), "somebody may go back to release 1");
        let mut alone = two;
        alone.kept.remove(0);
        assert_eq!(publish(&alone, 3, 13, "p3").rejected, None);
    }

    #[test]
    fn who_lost_the_turn_decides_nothing() {
        let taken = waiting().claim("b", "c2".to_owned(), Timestamp(2)).expect("a turn");
        assert!(taken.staged.is_some(), "another indexer keeps it");
        let accepted = taken.accept_staged(1, GRACE_NS, "y".to_owned(), Timestamp(3));
        assert!(matches!(accepted, Err(EditRefused::LostTurn { .. })));
        let dropped = taken.drop_staged(1, None, "d".to_owned(), Timestamp(3));
        assert!(matches!(dropped, Err(EditRefused::LostTurn { .. })));
    }
}
