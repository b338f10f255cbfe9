//! Whether a collection publishes, and why not: waits and reads of a position fail at once with it.

use std::sync::Mutex;

use verdigris_proto::reason::Reason;

/// Why publishing stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standstill {
    /// The stable reason.
    pub reason: Reason,
    /// What happened, and what to do.
    pub message: String,
}

impl Standstill {
    /// Whether the log is not the one that the release was read from: its positions say nothing of the release then.
    pub(crate) fn is_misfit(&self) -> bool {
        self.reason == Reason::StreamMismatch
    }
}

/// The status of one collection's indexer.
#[derive(Default)]
pub struct Status {
    standstill: Mutex<Option<Standstill>>,
}

impl Status {
    /// Why publishing stands still, if it does.
    pub fn standstill(&self) -> Option<Standstill> {
        self.lock().clone()
    }

    /// Notes that publishing stands still; true when it did not for this reason before.
    pub(crate) fn stop(&self, standstill: Standstill) -> bool {
        let mut current = self.lock();
        let is_new = current.as_ref() != Some(&standstill);
        *current = Some(standstill);
        is_new
    }

    /// Notes that publishing goes on; true when it stood still.
    pub(crate) fn go_on(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Standstill>> {
        self.standstill.lock().expect("no code panics while it holds this lock")
    }
}
