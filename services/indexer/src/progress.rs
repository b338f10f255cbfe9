//! What became of each event, for those who wait until theirs are searchable.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Outcomes that are remembered, a byte each: enough for the largest feed that somebody waits for.
const OUTCOMES_MAX: usize = 4_000_000;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It changed its document.
    Applied,
    /// It was there already.
    Unchanged,
    /// It is older than what it met.
    Stale,
    /// It is in the dead letters.
    SetAside,
}

/// Counts of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutcomeCounts {
    /// Events that changed their document.
    pub applied: u64,
    /// Events that were there already.
    pub unchanged: u64,
    /// Events older than what they met.
    pub stale: u64,
    /// Events in the dead letters.
    pub set_aside: u64,
}

impl OutcomeCounts {
    /// Counts outcomes.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut counts = Self::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Applied => counts.applied += 1,
                Outcome::Unchanged => counts.unchanged += 1,
                Outcome::Stale => counts.stale += 1,
                Outcome::SetAside => counts.set_aside += 1,
            }
        }
        counts
    }
}

/// How far a collection's log has been read into releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Sequence of the last event in the newest release.
    pub sequence: u64,
    /// The newest generation.
    pub generation: u64,
}

/// The progress of one collection.
pub struct Progress {
    published: watch::Sender<Published>,
    kept: Mutex<Kept>,
    embedding_done: AtomicU64,
    embedding_total: AtomicU64,
}

#[derive(Default)]
struct Kept {
    /// Sequence of the first outcome.
    first: u64,
    outcomes: VecDeque<Outcome>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            published: watch::channel(Published::default()).0,
            kept: Mutex::default(),
            embedding_done: AtomicU64::new(0),
            embedding_total: AtomicU64::new(0),
        }
    }
}

impl Progress {
    /// Notes how far the newest release has come, where no events were read for it.
    pub(crate) fn begin(&self, published: Published) {
        self.published.send_replace(published);
    }

    /// Notes that a release holds the events from `first` on, with these outcomes.
    pub(crate) fn publish(&self, published: Published, first: u64, outcomes: &[Outcome]) {
        self.note(first, outcomes);
        self.published.send_replace(published);
    }

    /// Notes what became of the events from `first` on, in a release that does not answer yet.
    pub(crate) fn note(&self, first: u64, outcomes: &[Outcome]) {
        let mut kept = self.kept.lock().expect("no code panics while it holds this lock");
        if kept.first + kept.outcomes.len() as u64 != first {
            kept.outcomes.clear();
        }
        if kept.outcomes.is_empty() {
            kept.first = first;
        }
        kept.outcomes.extend(outcomes);
        let over = kept.outcomes.len().saturating_sub(OUTCOMES_MAX);
        kept.outcomes.drain(..over);
        kept.first += over as u64;
    }

    /// Notes how far the texts of the current window are embedded.
    pub(crate) fn embedding(&self, done: u64, total: u64) {
        self.embedding_done.store(done, Ordering::Relaxed);
        self.embedding_total.store(total, Ordering::Relaxed);
    }

    /// Texts of the current window that are embedded, and how many it has; both 0 when none is.
    pub fn embedded(&self) -> (u64, u64) {
        (
            self.embedding_done.load(Ordering::Relaxed),
            self.embedding_total.load(Ordering::Relaxed),
        )
    }

    /// Watches how far releases have come.
    pub fn watch(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// How far releases have come.
    pub fn published(&self) -> Published {
        *self.published.borrow()
    }

    /// What became of the events `from..=to`, as far as it is remembered.
    pub fn counts(&self, from: u64, to: u64) -> OutcomeCounts {
        let kept = self.kept.lock().expect("no code panics while it holds this lock");
        let index = |sequence: u64| sequence.saturating_sub(kept.first).min(kept.outcomes.len() as u64) as usize;
        let range = index(from)..index(to.saturating_add(1)).max(index(from));
        OutcomeCounts::of(kept.outcomes.range(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_for_the_range_that_is_asked() {
        let progress = Progress::default();
        let published = |sequence| Published {
            sequence,
            generation: 1,
        };
        progress.publish(published(12), 10, &[Outcome::Applied, Outcome::Stale, Outcome::Applied]);
        progress.publish(published(14), 13, &[Outcome::SetAside, Outcome::Unchanged]);
        let counts = progress.counts(11, 13);
        assert_eq!(
            counts,
            OutcomeCounts {
                applied: 1,
                unchanged: 0,
                stale: 1,
                set_aside: 1
            }
        );
        assert_eq!(progress.counts(1, 9), OutcomeCounts::default());
        assert_eq!(progress.counts(1, 100).applied, 2);
        assert_eq!(progress.published().sequence, 14);
    }

    #[test]
    fn a_log_that_begins_anew_forgets_the_old_outcomes() {
        let progress = Progress::default();
        progress.publish(
            Published {
                sequence: 12,
                generation: 1,
            },
            12,
            &[Outcome::Applied],
        );
        progress.publish(
            Published {
                sequence: 1,
                generation: 2,
            },
            1,
            &[Outcome::Stale],
        );
        assert_eq!(
            progress.counts(1, 12),
            OutcomeCounts {
                stale: 1,
                ..OutcomeCounts::default()
            }
        );
    }
}
