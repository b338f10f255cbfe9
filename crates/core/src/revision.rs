//! What orders the events of a document: revisions, and the stamp that settles equal ones.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::timestamp::Timestamp;

/// What a revision is in a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionKind {
    /// The event's time; accept time where it has none.
    #[default]
    EventTime,
    /// A number that the catalog system counts up.
    Number,
}

impl fmt::Display for RevisionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventTime => "event time",
            Self::Number => "a number",
        })
    }
}

/// A revision: nanoseconds since the epoch, or a number, as the collection has it. The greater is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub i64);

impl Revision {
    /// As users read it: an RFC 3339 time, or the number.
    pub fn text(self, kind: RevisionKind) -> String {
        match kind {
            RevisionKind::EventTime => Timestamp(self.0).to_string(),
            RevisionKind::Number => self.0.to_string(),
        }
    }
}

/// What an event does to its document. The order settles equal revisions: a deletion wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// The document is now this.
    Upsert,
    /// These fields are now this; null removes one.
    Patch,
    /// The document is gone.
    Delete,
}

impl EventKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 3] = [Self::Upsert, Self::Patch, Self::Delete];

    /// The word for it in `_op`, in event types and in digests.
    pub fn word(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    /// The kind that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The place of an event among all events of its document: a total order, the same wherever and whenever it is read.
///
/// The fields are compared in this order; the digest is of the canonical JSON of collection, id, kind, revision and
/// fields, so that only equal events are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// The revision.
    pub revision: Revision,
    /// The kind, which settles equal revisions.
    pub kind: EventKind,
    /// The digest, which settles the rest.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_ordered_by_revision_then_kind_then_digest() {
        let stamp = |revision, kind, digest| Stamp {
            revision: Revision(revision),
            kind,
            digest: Digest::from_bytes([digest; 32]),
        };
        let ordered = [
            stamp(-1, EventKind::Delete, 9),
            stamp(0, EventKind::Upsert, 1),
            stamp(0, EventKind::Upsert, 2),
            stamp(0, EventKind::Patch, 0),
            stamp(0, EventKind::Delete, 0),
            stamp(1, EventKind::Upsert, 0),
        ];
        assert!(ordered.is_sorted());
        assert_eq!(
            Revision(1).text(RevisionKind::EventTime),
            "1970-01-01T00:00:00.000000001Z"
        );
        assert_eq!(Revision(1).text(RevisionKind::Number), "1");
    }
}
