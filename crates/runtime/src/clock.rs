//! The clock: the only place that reads the system's time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// A source of time: the system's, or one that a test moves by hand.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<watch::Sender<i64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now_ns` until it is moved.
    pub fn manual(now_ns: i64) -> Self {
        Self {
            manual: Some(watch::Sender::new(now_ns)),
        }
    }

    /// Moves a manual clock; no effect on the system's.
    pub fn advance(&self, nanoseconds: i64) {
        if let Some(manual) = &self.manual {
            manual.send_modify(|now| *now += nanoseconds);
        }
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub fn now_ns(&self) -> i64 {
        if let Some(manual) = &self.manual {
            return *manual.borrow();
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that reads the system's time"
        )]
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(since) => nanoseconds(since),
            Err(before) => -nanoseconds(before.duration()),
        }
    }

    /// Waits for `duration` of this clock's time: until the test has moved a manual clock that far. Safe to cancel.
    pub async fn sleep(&self, duration: Duration) {
        let Some(manual) = &self.manual else {
            return tokio::time::sleep(duration).await;
        };
        let mut moves = manual.subscribe();
        let until = self.now_ns().saturating_add(nanoseconds(duration));
        // An error would say that the sender is gone, and `self` holds one.
        let _ = moves.wait_for(|now| *now >= until).await;
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
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

    #[tokio::test]
    async fn a_sleeper_on_a_manual_clock_wakes_when_it_was_moved_far_enough() {
        let clock = Clock::manual(0);
        let mut sleeper = std::pin::pin!(clock.sleep(Duration::from_nanos(10)));
        let mut poll = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(sleeper.as_mut().poll(&mut poll).is_pending());
        clock.advance(9);
        assert!(sleeper.as_mut().poll(&mut poll).is_pending());
        clock.advance(1);
        assert!(sleeper.as_mut().poll(&mut poll).is_ready());
    }
}
