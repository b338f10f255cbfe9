//! What orders the events of a document: the kinds of revision a collection may have.

use serde::{Deserialize, Serialize};

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
