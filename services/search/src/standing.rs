//! Why publishing stands still, as far as the pointer tells: a process without an indexer lets no read wait in vain.
//!
//! Deliberately absent: what only the indexer knows, such as a log that does not fit or a disk that is full; a read that
//! waits for these meets its deadline.

use verdigris_core::pointer::Pointer;
use verdigris_proto::reason::Reason;

use crate::Standstill;

/// A person's hold, or a release that waits for a person.
pub(crate) fn by_pointer(pointer: &Pointer) -> Option<Standstill> {
    if let Some(hold) = pointer.publish_hold() {
        let message = format!(
            "publishing is held by {} since {}: {}; `verdigris releases resume` goes on with the events since",
            hold.actor, hold.since, hold.reason
        );
        let reason = Reason::PublishingHeld;
        return Some(Standstill { reason, message });
    }
    let staged = pointer.staged.as_ref()?;
    Some(Standstill {
        reason: Reason::PublishingStaged,
        message: format!(
            "release {} breached a guard and is staged since {}; look at it by `verdigris staged show`, then accept, retry \
             or reject it",
            staged.release.generation, staged.since
        ),
    })
}
