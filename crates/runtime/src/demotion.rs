//! Demoted: a state in which each connection, open or new, is told to go within a random one to five seconds, and what
//! comes by it until then is answered.
//!
//! Whoever demotes renews it; it ends by itself. Absent: telling a client where to go, which the balancer knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// When a connection is told to go, after it was chosen: spread, so that clients do not come back to others all at once.
pub const GO_WITHIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Whether a server is demoted, and its connections. Clones share both.
#[derive(Clone, Default)]
pub struct Demotion {
    wanted: watch::Sender<Wanted>,
    open: watch::Sender<u64>,
    told: Arc<AtomicU64>,
}

/// What was asked.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    until: Option<Instant>,
    /// Of the connections, from 0 to 1.
    share: f64,
    /// Rises each time that a server which was not demoted is: connections draw their lots anew then.
    episode: u64,
}

/// A connection of a server that may be demoted.
pub(crate) struct Member {
    wanted: watch::Receiver<Wanted>,
    demotion: Demotion,
    lot: Lot,
}

/// What a connection drew in an episode: a renewal must not shed connections that an earlier one spared.
#[derive(Debug, Clone, Copy)]
struct Lot {
    episode: u64,
    place: f64,
    due: Option<Instant>,
}

// === impl Demotion ===

impl Demotion {
    /// Demotes for so long from now on, or ends it where the time is zero. Of the connections, `share` (0 to 1) are told
    /// to go; asking again with a larger share chooses more beside those that were chosen before.
    pub fn demote(&self, time: Duration, share: f64) {
        let now = Instant::now();
        self.wanted.send_modify(|wanted| {
            if !wanted.is_in_force(now) {
                wanted.episode += 1;
            }
            wanted.share = share.clamp(0.0, 1.0);
            // A time that no clock reaches is one without an end.
            let far = now + Duration::from_secs(u64::from(u32::MAX));
            wanted.until = (!time.is_zero()).then(|| now.checked_add(time).unwrap_or(far));
        });
    }

    /// Whether it is in force.
    pub fn is_demoted(&self) -> bool {
        self.wanted.borrow().is_in_force(Instant::now())
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        *self.open.borrow()
    }

    /// Connections that were told to go since the start.
    pub fn told_to_go(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_gone(&self) {
        // The sender is here, so it cannot end.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    pub(crate) fn join(&self) -> Member {
        self.open.send_modify(|open| *open += 1);
        Member {
            wanted: self.wanted.subscribe(),
            demotion: self.clone(),
            lot: Lot::draw(0),
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn is_in_force(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }
}

// === impl Member ===

impl Member {
    /// Waits until this connection is to go; it is counted as told then. Cancel safe.
    pub(crate) async fn is_to_go(&mut self) {
        loop {
            let (wanted, now) = (*self.wanted.borrow_and_update(), Instant::now());
            if self.lot.episode != wanted.episode {
                self.lot = Lot::draw(wanted.episode);
            }
            let is_chosen = wanted.is_in_force(now) && self.lot.place < wanted.share;
            if !is_chosen {
                self.lot.due = None;
                self.changed().await;
                continue;
            }
            let due = *self.lot.due.get_or_insert_with(|| now + delay());
            if due <= now {
                self.demotion.told.fetch_add(1, Ordering::SeqCst);
                return;
            }
            let look = due.min(wanted.until.unwrap_or(due));
            tokio::select! {
                () = tokio::time::sleep_until(look) => {}
                () = self.changed() => {}
            }
        }
    }

    async fn changed(&mut self) {
        self.wanted.changed().await.expect("a member holds the sender");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.demotion.open.send_modify(|open| *open -= 1);
    }
}

// === impl Lot ===

impl Lot {
    fn draw(episode: u64) -> Self {
        let place = rand::random::<f64>();
        Self {
            episode,
            place,
            due: None,
        }
    }
}

fn delay() -> Duration {
    let (least, most) = GO_WITHIN;
    least + (most - least).mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn members(demotion: &Demotion, count: usize) -> Vec<Member> {
        (0..count).map(|_| demotion.join()).collect()
    }

    /// How many of them go within so long; the others are left.
    async fn going(members: &mut Vec<Member>, within: Duration) -> usize {
        let until = Instant::now() + within;
        let mut waiting = JoinSet::new();
        for mut member in members.drain(..) {
            waiting.spawn(async move {
                let is_gone = tokio::time::timeout_at(until, member.is_to_go()).await.is_ok();
                (!is_gone).then_some(member)
            });
        }
        let all = waiting.len();
        let left = waiting.join_all().await;
        members.extend(left.into_iter().flatten());
        all - members.len()
    }

    #[tokio::test(start_paused = true)]
    async fn each_connection_goes_after_one_second_at_the_earliest_and_five_at_the_latest() {
        let demotion = Demotion::default();
        let mut all = members(&demotion, 50);
        assert_eq!(going(&mut all, LONG).await, 0);
        demotion.demote(LONG, 1.0);
        assert_eq!(going(&mut all, Duration::from_millis(990)).await, 0);
        assert_eq!(going(&mut all, Duration::from_millis(4_020)).await, 50);
        assert_eq!((demotion.told_to_go(), demotion.connections()), (50, 0));
        // A new one as well.
        assert_eq!(going(&mut members(&demotion, 1), GO_WITHIN.1).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_demotion_that_is_not_renewed_ends_and_one_of_no_time_ends_at_once() {
        let demotion = Demotion::default();
        let mut all = members(&demotion, 20);
        demotion.demote(Duration::from_millis(900), 1.0);
        assert!(demotion.is_demoted());
        assert_eq!(going(&mut all, LONG).await, 0);
        assert!(!demotion.is_demoted());
        demotion.demote(LONG, 1.0);
        demotion.demote(Duration::ZERO, 1.0);
        assert!(!demotion.is_demoted());
        assert_eq!(going(&mut all, LONG).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_sheds_no_more_and_a_larger_share_sheds_the_rest() {
        let demotion = Demotion::default();
        let mut all = members(&demotion, 400);
        demotion.demote(LONG, 0.25);
        going(&mut all, GO_WITHIN.1).await;
        let mut left = all;
        assert!((240..=360).contains(&left.len()), "{} of 400 stay", left.len());
        for _ in 0..3 {
            demotion.demote(LONG, 0.25);
            assert_eq!(going(&mut left, GO_WITHIN.1).await, 0);
        }
        demotion.demote(LONG, 1.0);
        going(&mut left, GO_WITHIN.1).await;
        assert!(left.is_empty());
    }
}
