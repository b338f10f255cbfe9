//! The clock: the only place that reads the system's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of time: the system's, or one that a test moves by hand.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now_ns` until it is moved.
    pub fn manual(now_ns: i64) -> Self {
        Self { manual: Some(Arc::new(AtomicI64::new(now_ns))) }
    }

    /// Moves a manual clock; no effect on the system's.
    pub fn advance(&self, nanoseconds: i64) {
        if let Some(manual) = &self.manual {
            manual.fetch_add(nanoseconds, Ordering::SeqCst);
        }
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub fn now_ns(&self) -> i64 {
        if let Some(manual) = &self.manual {
            return manual.load(Ordering::SeqCst);
        }
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's time")]
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_until_it_is_moved() {
        let clock = Clock::manual(5);
        let same = clock.clone();
        clock.advance(7);
        assert_eq!(same.now_ns(), 12);
        assert!(Clock::system().now_ns() > 1_700_000_000_000_000_000);
    }
}
