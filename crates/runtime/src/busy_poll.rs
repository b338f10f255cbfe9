//! Busy polling: after a message a thread of the server looks for the next one for a while, instead of sleeping.
//!
//! Waking a processor that sleeps takes longer than a short search, in a virtual machine above all. Looking costs that
//! processor's time, so it is off unless somebody asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// Looks at the sockets between two at the clock.
const LOOKS: usize = 8;

/// Keeps one thread of the runtime looking for messages after each that came; clones do so together. The default does
/// nothing.
#[derive(Debug, Clone, Default)]
pub struct BusyPoll(Option<Arc<State>>);

#[derive(Debug)]
struct State {
    window: Duration,
    origin: Instant,
    /// Nanoseconds from the origin to the last message.
    last: AtomicU64,
    is_looking: AtomicBool,
}

impl BusyPoll {
    /// Looks for so long after each message; zero never looks.
    pub fn new(window: Duration) -> Self {
        let state = || State {
            window,
            origin: Instant::now(),
            last: AtomicU64::default(),
            is_looking: AtomicBool::default(),
        };
        Self((!window.is_zero()).then(|| Arc::new(state())))
    }

    /// A message came or went; called inside a runtime.
    pub(crate) fn message(&self) {
        let Some(state) = &self.0 else { return };
        state.last.store(state.now(), Ordering::Relaxed);
        if !state.is_looking.swap(true, Ordering::Relaxed) {
            tokio::spawn(look(state.clone()));
        }
    }
}

impl State {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_over(&self) -> bool {
        let idle = self.now().saturating_sub(self.last.load(Ordering::Relaxed));
        u128::from(idle) >= self.window.as_nanos()
    }
}

/// A task that yields goes on once the runtime has looked at its sockets, which it does without waiting then.
async fn look(state: Arc<State>) {
    while !state.is_over() {
        // The clock is looked at less often: that takes time too.
        for _ in 0..LOOKS {
            yield_now().await;
        }
    }
    // A message right before this line is looked after by the one that follows it.
    state.is_looking.store(false, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_looking(poll: &BusyPoll) -> bool {
        poll.0
            .as_ref()
            .is_some_and(|state| state.is_looking.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn it_looks_after_a_message_until_the_window_is_over_and_again_after_the_next() {
        let poll = BusyPoll::new(Duration::from_millis(20));
        for _ in 0..2 {
            assert!(!is_looking(&poll));
            let began = Instant::now();
            poll.message();
            while is_looking(&poll) {
                yield_now().await;
            }
            assert!(began.elapsed() >= Duration::from_millis(20));
        }
    }

    #[test]
    fn it_does_nothing_unless_it_is_asked_for() {
        // Outside a runtime, where a task could not even be begun.
        BusyPoll::default().message();
        BusyPoll::new(Duration::ZERO).message();
    }
}
