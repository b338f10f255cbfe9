//! How the active lineage answers since it became active: counts and durations, so that the rollout's owner can judge
//! a promotion while it is fresh.
//!
//! Durations go into buckets that are 10 % wide, each a counter: a search adds one and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use verdigris_core::manifest::LineageId;
use verdigris_core::timestamp::Timestamp;

/// The shortest duration that is told apart from shorter ones.
const FIRST_MICROS: f64 = 20.0;
/// Each bucket ends so many times later than the one before.
const WIDTH: f64 = 1.1;
/// Buckets: the last one takes all from about four minutes on.
const BUCKETS: usize = 172;

/// Answers of one lineage.
pub(crate) struct Window {
    lineage: LineageId,
    since: Timestamp,
    errors: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What a window came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowFacts {
    /// The lineage that answered.
    pub lineage: LineageId,
    /// Since when it is active, or since when this process answers.
    pub since: Timestamp,
    /// Searches, those with errors included.
    pub requests: u64,
    /// Searches that failed by no fault of the caller.
    pub errors: u64,
    /// Half of the answers took no longer; zero where there were none.
    pub p50: Duration,
    /// Of a hundred answers one took longer.
    pub p99: Duration,
}

impl Window {
    pub(crate) fn new(lineage: LineageId, since: Timestamp) -> Self {
        Self {
            lineage,
            since,
            errors: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }

    pub(crate) fn lineage(&self) -> &LineageId {
        &self.lineage
    }

    /// A search was answered.
    pub(crate) fn answered(&self, duration: Duration) {
        self.buckets[bucket(duration)].fetch_add(1, Ordering::Relaxed);
    }

    /// A search failed by no fault of the caller.
    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn facts(&self) -> WindowFacts {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let answers: u64 = counts.iter().sum();
        let errors = self.errors.load(Ordering::Relaxed);
        Self::facts_of(self, &counts, answers, errors)
    }

    fn facts_of(&self, counts: &[u64], answers: u64, errors: u64) -> WindowFacts {
        WindowFacts {
            lineage: self.lineage.clone(),
            since: self.since,
            requests: answers + errors,
            errors,
            p50: quantile(counts, answers, 0.50),
            p99: quantile(counts, answers, 0.99),
        }
    }
}

fn bucket(duration: Duration) -> usize {
    let widths = (duration.as_secs_f64() * 1e6 / FIRST_MICROS).ln() / WIDTH.ln();
    // Whatever is shorter than the first bound is in the first bucket: the logarithm of zero is below all.
    (widths.ceil().max(0.0) as usize).min(BUCKETS - 1)
}

/// The middle of the bucket that holds the quantile.
fn quantile(counts: &[u64], answers: u64, quantile: f64) -> Duration {
    if answers == 0 {
        return Duration::ZERO;
    }
    let wanted = (answers as f64 * quantile).ceil().max(1.0) as u64;
    let mut seen = 0;
    let holds = |count: &u64| {
        seen += count;
        seen >= wanted
    };
    let bucket = counts.iter().position(holds).unwrap_or(BUCKETS - 1);
    let micros = FIRST_MICROS * WIDTH.powf(bucket as f64 - 0.5);
    Duration::from_nanos((micros * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new("l".to_owned().into(), Timestamp(1))
    }

    #[test]
    fn quantiles_are_within_five_percent() {
        let window = window();
        for ms in 1..=1_000 {
            window.answered(Duration::from_millis(ms));
        }
        let facts = window.facts();
        assert_eq!((facts.requests, facts.errors), (1_000, 0));
        for (found, expect) in [(facts.p50, 0.5), (facts.p99, 0.99)] {
            let off = (found.as_secs_f64() / expect - 1.0).abs();
            assert!(off <= 0.05, "{found:?} instead of {expect} s");
        }
    }

    #[test]
    fn errors_are_counted_and_have_no_duration() {
        let window = window();
        window.answered(Duration::from_millis(2));
        window.failed();
        let facts = window.facts();
        assert_eq!((facts.requests, facts.errors), (2, 1));
        assert!(facts.p99 < Duration::from_millis(3));
        assert_eq!(self::window().facts().p99, Duration::ZERO);
    }

    #[test]
    fn the_shortest_and_the_longest_durations_have_a_bucket() {
        let window = window();
        window.answered(Duration::ZERO);
        window.answered(Duration::MAX);
        assert_eq!(window.facts().requests, 2);
    }
}
