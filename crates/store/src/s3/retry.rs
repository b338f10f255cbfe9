//! Trying again: waits that grow and are drawn at random, and a budget, so that a store in trouble is not given more to
//! do than it had before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::chance;

/// What a store may be asked again before anything succeeds.
const RETRIES_MAX: u32 = 100;
/// Successes that pay for one retry.
const SUCCESSES_PER_RETRY: u32 = 10;
/// The first wait.
const WAIT_FIRST: Duration = Duration::from_millis(50);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// How many retries there are left, in shares that one success pays. In a long outage retries so are a tenth of the
/// calls, not a multiple of them.
#[derive(Debug)]
pub(super) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(RETRIES_MAX * SUCCESSES_PER_RETRY))
    }
}

impl Budget {
    /// Takes a retry; false when none is left.
    pub(super) fn take(&self) -> bool {
        let less = |left: u32| left.checked_sub(SUCCESSES_PER_RETRY);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// A call succeeded.
    pub(super) fn earn(&self) {
        let more = |left: u32| (left < RETRIES_MAX * SUCCESSES_PER_RETRY).then(|| left + 1);
        // At the limit nothing more is earned.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

/// The wait after the n-th failure, from 0: twice as long each time up to a limit, and drawn between half and one and a
/// half of that, so that readers that failed together do not come back together.
pub(crate) fn wait(n: u32) -> Duration {
    let wait = WAIT_FIRST.saturating_mul(1 << n.min(16)).min(WAIT_MAX);
    wait.mul_f64(0.5 + chance::share())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_runs_out_and_is_earned_again() {
        let budget = Budget::default();
        let taken = (0..1_000).filter(|_| budget.take()).count();
        assert_eq!(taken as u32, RETRIES_MAX);
        (0..SUCCESSES_PER_RETRY - 1).for_each(|_| budget.earn());
        assert!(!budget.take());
        budget.earn();
        assert!(budget.take() && !budget.take());
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.take()).count() as u32, RETRIES_MAX);
    }

    #[test]
    fn waits_grow_and_end() {
        let at_most = |n| (0..100).map(|_| wait(n)).max().expect("some");
        assert!(at_most(0) <= WAIT_FIRST.mul_f64(1.5));
        assert!(at_most(40) <= WAIT_MAX.mul_f64(1.5) && at_most(40) > WAIT_MAX / 2);
    }
}
