//! The writer's claim: whose turn it is, and which event is held to blame if its process ends.

use serde::{Deserialize, Serialize};

use super::{EditRefused, Pointer};
use crate::position::Position;
use crate::timestamp::Timestamp;

/// The indexer that may publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterClaim {
    /// Name of the process.
    pub id: String,
    /// Rises with every claim; a lower one never writes again (I-4).
    pub epoch: u64,
    /// Whether it said goodbye.
    #[serde(default)]
    pub stopped_cleanly: bool,
    /// How many times in a row a writer ended without a goodbye.
    #[serde(default)]
    pub unclean_ends: u32,
    /// In how many lives of the process the event in `trying` was named: an end before it was touched does not count.
    #[serde(default)]
    pub tries: u32,
    /// The event that is being touched singly, after an unclean end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trying: Option<Position>,
}

impl WriterClaim {
    /// No event is held to blame.
    fn acquit(&mut self) {
        self.tries = 0;
        self.trying = None;
    }
}

impl Pointer {
    /// A writer begins: its epoch rises, and others end (I-4). An earlier writer that did not say goodbye leaves a
    /// count of unclean ends, as long as it was trying the same event.
    pub fn claim(&self, id: &str, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let (epoch, unclean_ends, tries, trying) = match &self.writer {
            None => (1, 0, 0, None),
            // The same process begins again after an error: that was no end.
            Some(writer) if writer.stopped_cleanly || writer.id == id => (writer.epoch + 1, 0, 0, None),
            Some(writer) => (writer.epoch + 1, writer.unclean_ends + 1, writer.tries, writer.trying),
        };
        next.writer = Some(WriterClaim {
            id: id.to_owned(),
            epoch,
            stopped_cleanly: false,
            unclean_ends,
            tries,
            trying,
        });
        Ok(next)
    }

    /// A writer that had the turn begins again after an error. One that meets another in its place never claims again by
    /// itself: that would only take the turn back and forth (I-4).
    pub fn claim_again(&self, epoch: u64, id: &str, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        match &self.writer {
            Some(writer) if writer.id == id => {}
            _ => self.check_turn(epoch)?,
        }
        self.claim(id, nonce, now)
    }

    /// The writer names the event that it is about to touch.
    pub fn try_event(&self, epoch: u64, event: Position, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        let mut next = self.next(nonce, now);
        if let Some(writer) = &mut next.writer {
            // Another event than the one that ended the process before: that one is past.
            writer.tries = if writer.trying == Some(event) {
                writer.tries + 1
            } else {
                1
            };
            writer.trying = Some(event);
        }
        Ok(next)
    }

    /// The writer met an error that is no event's fault: nobody's end from here on is the named one's.
    pub fn acquit_event(&self, epoch: u64, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        let mut next = self.next(nonce, now);
        if let Some(writer) = &mut next.writer {
            writer.acquit();
        }
        Ok(next)
    }

    /// The writer says goodbye.
    pub fn goodbye(&self, epoch: u64, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        let mut next = self.next(nonce, now);
        if let Some(writer) = &mut next.writer {
            writer.stopped_cleanly = true;
            writer.unclean_ends = 0;
            writer.acquit();
        }
        Ok(next)
    }

    /// Whether this writer has the turn.
    pub(super) fn check_turn(&self, epoch: u64) -> Result<(), EditRefused> {
        match &self.writer {
            Some(writer) if writer.epoch == epoch => Ok(()),
            writer => Err(EditRefused::LostTurn {
                ours: epoch,
                theirs: writer.as_ref().map_or(0, |writer| writer.epoch),
                holder: writer
                    .as_ref()
                    .map_or_else(|| "nobody".to_owned(), |writer| writer.id.clone()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pointer;
    use super::*;

    #[test]
    fn an_event_is_blamed_only_for_the_lives_in_which_it_was_named() {
        let event = crate::position::StreamIdentity(1).position(7);
        let claimed = |pointer: &Pointer, id: &str| pointer.claim(id, format!("c{id}"), Timestamp(1)).expect("a turn");
        let tries = |pointer: &Pointer| {
            pointer
                .writer
                .as_ref()
                .map(|writer| (writer.unclean_ends, writer.tries))
        };
        let first = claimed(&pointer(), "a")
            .try_event(1, event, "t1".to_owned(), Timestamp(1))
            .expect("its turn");
        // Two ends at the start of the next lives, before the event was touched again.
        let later = claimed(&claimed(&first, "b"), "c");
        assert_eq!(tries(&later), Some((2, 1)));
        let again = later
            .try_event(3, event, "t2".to_owned(), Timestamp(1))
            .expect("its turn");
        assert_eq!(tries(&claimed(&again, "d")), Some((3, 2)));
        let other = crate::position::StreamIdentity(1).position(8);
        assert_eq!(
            tries(
                &again
                    .try_event(3, other, "t3".to_owned(), Timestamp(1))
                    .expect("its turn")
            ),
            Some((2, 1))
        );
        let acquitted = again.acquit_event(3, "q".to_owned(), Timestamp(1)).expect("its turn");
        assert_eq!(
            tries(&claimed(&acquitted, "d")),
            Some((3, 0)),
            "an outage, and then an end"
        );
        assert!(
            acquitted.acquit_event(2, "q2".to_owned(), Timestamp(1)).is_err(),
            "not its turn"
        );
    }

    #[test]
    fn one_that_met_another_in_its_place_never_claims_again_by_itself() {
        let claimed = |pointer: &Pointer, id: &str| pointer.claim(id, format!("c{id}"), Timestamp(1)).expect("a turn");
        let again = |pointer: &Pointer| pointer.claim_again(1, "a", "again".to_owned(), Timestamp(2));
        let first = claimed(&pointer(), "a");
        assert!(again(&first).is_ok());
        assert!(
            again(&claimed(&first, "a")).is_ok(),
            "its own claim, of which it was not told"
        );
        let taken = again(&claimed(&first, "b"));
        assert!(
            matches!(taken, Err(EditRefused::LostTurn { ours: 1, theirs: 2, .. })),
            "{taken:?}"
        );
    }
}
