//! Edits that people ask for: going back to an older release's content, holding and resuming, pinning.
//!
//! Going back and holding are one swing, so that there is no moment in which the events since could be read again
//! before somebody looked at them.

use super::{EditRefused, Hold, HoldKind, LineagePointer, LineageRole, Pointer, Published, RejectedEvents};
use crate::timestamp::Timestamp;

impl Pointer {
    /// An older release's content is published again, as `published`, and publishing is held until resumed. The other
    /// lineage goes: it holds what is being gone back from.
    pub fn roll_back(
        &self,
        epoch: u64,
        published: &Published,
        hold: Hold,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let release = &published.release;
        if self.generation + 1 != release.generation {
            return Err(EditRefused::Generation {
                expected: release.generation.saturating_sub(1),
                found: self.generation,
            });
        }
        let mut next = self.next(nonce, now);
        next.generation = release.generation;
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.lineage != release.lineage)
        {
            // Rows of another lineage are read and written by that lineage's settings.
            next.settings = published.settings.clone();
        }
        next.active = Some(LineagePointer {
            lineage: release.lineage.clone(),
            generation: release.generation,
            manifest: release.manifest.clone(),
            role: LineageRole::Active,
            since: now,
        });
        next.unname_other(now);
        next.builds.clear();
        next.unname_staged(now);
        next.hold = Some(hold);
        next.kept.push(release.clone());
        next.forget(published.grace_ns, now);
        Ok(next)
    }

    /// Lifts the hold on publishing; events that were `rejected` are set aside when they are read again.
    pub fn resume(
        &self,
        epoch: u64,
        rejected: Option<RejectedEvents>,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        if self.publish_hold().is_none() {
            return Err(EditRefused::NotHeld);
        }
        let mut next = self.next(nonce, now);
        next.hold = None;
        next.rejected = rejected.or(next.rejected);
        Ok(next)
    }

    /// Keeps a release until it is let go by word, or lets it go.
    pub fn pin(&self, generation: u64, pinned: bool, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let kept = next.kept.iter_mut().find(|kept| kept.generation == generation);
        kept.ok_or(EditRefused::NotKept(generation))?.pinned = pinned;
        Ok(next)
    }

    /// The hold on publishing, if there is one.
    pub fn publish_hold(&self) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.kind == HoldKind::Publish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::garbage::GRACE_NS;
    use crate::manifest::SettingsReference;
    use crate::pointer::{KeptRelease, ManifestReference};

    fn published(generation: u64) -> Published {
        let settings = SettingsReference {
            version: 1,
            digest: Digest::of(b"settings"),
        };
        Published {
            release: KeptRelease {
                generation,
                lineage: "l".to_owned().into(),
                manifest: ManifestReference {
                    path: format!("releases/{generation}"),
                    digest: Digest::of(b""),
                },
                created_at: Timestamp(generation as i64),
                checkpoint: generation * 10,
                pinned: false,
                facts: None,
            },
            settings,
            grace_ns: GRACE_NS,
            other: None,
        }
    }

    fn at_two() -> Pointer {
        let first = Pointer::first(
            "products".parse().expect("valid"),
            published(0).settings,
            "n".to_owned(),
            Timestamp(0),
        );
        let claimed = first.claim("a", "c".to_owned(), Timestamp(0)).expect("a turn");
        let one = claimed
            .publish(1, &published(1), "p1".to_owned(), Timestamp(1))
            .expect("its turn");
        one.publish(1, &published(2), "p2".to_owned(), Timestamp(2))
            .expect("its turn")
    }

    fn held() -> Pointer {
        let hold = Hold {
            kind: HoldKind::Publish,
            actor: "ada".to_owned(),
            reason: "a bad feed".to_owned(),
            since: Timestamp(3),
        };
        at_two()
            .roll_back(1, &published(3), hold, "r".to_owned(), Timestamp(3))
            .expect("its turn")
    }

    #[test]
    fn going_back_is_a_publish_that_holds_the_next_ones_until_resumed() {
        let held = held();
        assert_eq!((held.generation, held.kept.len()), (3, 3));
        let refused = held.publish(1, &published(4), "p4".to_owned(), Timestamp(4));
        assert!(matches!(refused, Err(EditRefused::Held { .. })), "{refused:?}");
        let resumed = held.resume(1, None, "u".to_owned(), Timestamp(5)).expect("held");
        assert!(resumed.publish(1, &published(4), "p4".to_owned(), Timestamp(6)).is_ok());
        assert_eq!(
            resumed.resume(1, None, "v".to_owned(), Timestamp(6)),
            Err(EditRefused::NotHeld)
        );
    }

    #[test]
    fn who_lost_the_turn_neither_goes_back_nor_resumes() {
        let taken = held().claim("b", "c2".to_owned(), Timestamp(4)).expect("a turn");
        assert!(taken.publish_hold().is_some(), "another indexer keeps the hold");
        assert!(matches!(
            taken.resume(1, None, "u".to_owned(), Timestamp(5)),
            Err(EditRefused::LostTurn { .. })
        ));
    }

    #[test]
    fn a_pinned_release_stays_when_its_time_is_over() {
        let pinned = at_two().pin(1, true, "i".to_owned(), Timestamp(3)).expect("kept");
        let late = Timestamp(40 * 24 * 3_600 * 1_000_000_000);
        let grown = |from: &Pointer| {
            (3..=60).fold(from.clone(), |pointer, generation| {
                let next = pointer.publish(1, &published(generation), format!("p{generation}"), late);
                next.expect("its turn")
            })
        };
        let holds_one = |pointer: &Pointer| pointer.kept.iter().any(|kept| kept.generation == 1);
        assert!(holds_one(&grown(&pinned)) && !holds_one(&grown(&at_two())));
        assert_eq!(pinned.pin(9, true, "j".to_owned(), late), Err(EditRefused::NotKept(9)));
    }
}
