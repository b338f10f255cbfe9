//! Waiting between tries: growing, jittered, and with a budget, so that retries never multiply an overload.
//!
//! Randomness is an argument; sleeping is the caller's, by its clock.

use std::time::Duration;

/// Pauses between the tries of one piece of work.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    max: Duration,
    tries_left: u32,
}

impl Backoff {
    /// Pauses that begin at `first`, double up to `max`, and end after `tries` of them.
    pub fn new(first: Duration, max: Duration, tries: u32) -> Self {
        Self {
            next: first.min(max),
            max,
            tries_left: tries,
        }
    }

    /// The next pause: `random` (0 to 1) of the step, and at least what the server asked for (`hint`); none when it
    /// is time to give up. The whole step is random, because clients that failed together must not come back together.
    pub fn pause(&mut self, random: f64, hint: Option<Duration>) -> Option<Duration> {
        self.tries_left = self.tries_left.checked_sub(1)?;
        let step = self.next;
        self.next = (step * 2).min(self.max);
        let jittered = step.mul_f64(random.clamp(0.0, 1.0));
        Some(hint.map_or(jittered, |hint| hint + jittered))
    }
}

/// How many retries a client may make, as a share of its calls: while everything fails, traffic grows by a tenth and
/// not many times over.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    tenths: u32,
}

/// Retries that may be saved up, in tenths: enough to get over one restart of a server.
const SAVED_TENTHS_MAX: u32 = 100;

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            tenths: SAVED_TENTHS_MAX,
        }
    }
}

impl RetryBudget {
    /// Notes a call that was answered: ten of them allow one retry.
    pub fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(SAVED_TENTHS_MAX);
    }

    /// Takes one retry, where there is one.
    pub fn spend(&mut self) -> bool {
        let Some(left) = self.tenths.checked_sub(10) else {
            return false;
        };
        self.tenths = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_limit_and_end() {
        let mut backoff = Backoff::new(100 * MS, 300 * MS, 4);
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.pause(1.0, None)).collect();
        assert_eq!(pauses, [100 * MS, 200 * MS, 300 * MS, 300 * MS]);
    }

    #[test]
    fn a_pause_is_never_shorter_than_the_server_asked_and_never_the_same_for_all() {
        let pause = |random, hint| Backoff::new(100 * MS, 300 * MS, 1).pause(random, hint);
        assert_eq!(pause(0.0, Some(200 * MS)), Some(200 * MS));
        assert_eq!(pause(0.5, Some(200 * MS)), Some(250 * MS));
        assert_eq!(pause(0.25, None), Some(25 * MS));
    }

    #[test]
    fn while_everything_fails_retries_are_a_tenth_of_calls() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        for _ in 0..30 {
            budget.earn();
        }
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 3);
    }
}
