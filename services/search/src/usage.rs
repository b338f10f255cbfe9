//! Who uses a collection, and since when nobody does: what nobody uses may sleep, and be closed.
//!
//! Deliberately absent: closing, which `tenants` does.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::lineages::Followed;

/// Use of one followed collection.
pub(crate) struct Usage {
    /// Requests and measurements that are under way.
    in_flight: AtomicUsize,
    used_at: Mutex<Instant>,
    /// Whether whoever follows it waits for the next use instead of looking at the pointer.
    is_asleep: AtomicBool,
    wake: Notify,
    /// Looks at the pointer that have ended, well or not.
    looks: watch::Sender<u64>,
    /// Cancelled when it is to be followed no more.
    pub(crate) ends: CancellationToken,
    /// Cancelled when it is followed no more.
    pub(crate) ended: CancellationToken,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            used_at: Mutex::new(Instant::now()),
            is_asleep: AtomicBool::new(false),
            wake: Notify::new(),
            looks: watch::channel(0).0,
            ends: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }
}

impl Usage {
    /// Since when nobody uses it; none while somebody does.
    pub(crate) fn unused_since(&self) -> Option<Instant> {
        let used_at = *self.used_at();
        (self.in_flight.load(Ordering::SeqCst) == 0).then_some(used_at)
    }

    /// A look at the pointer has ended.
    pub(crate) fn looked(&self) {
        self.looks.send_modify(|looks| *looks += 1);
    }

    /// Waits for the first look.
    pub(crate) async fn first_look(&self) {
        let mut looks = self.looks.subscribe();
        // Both may be dropped at any time. One that ends before the first look ends with its process.
        tokio::select! {
            _ = looks.wait_for(|looks| *looks > 0) => {}
            () = self.ended.cancelled() => {}
        }
    }

    /// Returns at once while the collection is in use, or was within `awake`; otherwise when it is used again.
    pub(crate) async fn used_within(&self, awake: Duration) {
        let is_awake = || self.unused_since().is_none_or(|since| since.elapsed() <= awake);
        if is_awake() {
            return;
        }
        self.is_asleep.store(true, Ordering::SeqCst);
        // A use that came before it was asleep did not wake it.
        while !is_awake() {
            self.wake.notified().await;
        }
        self.is_asleep.store(false, Ordering::SeqCst);
    }

    /// Wakes who follows it, and waits for a look at the pointer, at most so long: what is open answers even so.
    async fn wake(&self, limit: Duration) {
        if !self.is_asleep.load(Ordering::SeqCst) {
            return;
        }
        let mut looks = self.looks.subscribe();
        looks.mark_unchanged();
        self.wake.notify_one();
        let _ = tokio::time::timeout(limit, looks.changed()).await;
    }

    fn used_at(&self) -> MutexGuard<'_, Instant> {
        self.used_at.lock().expect("held for a moment only")
    }
}

/// A followed collection while somebody uses it: it is not closed meanwhile.
pub(crate) struct InUse(Arc<Followed>);

impl InUse {
    /// To be called where the collection cannot be closed at the same moment.
    pub(crate) fn begin(followed: Arc<Followed>) -> Self {
        followed.usage.in_flight.fetch_add(1, Ordering::SeqCst);
        *followed.usage.used_at() = Instant::now();
        Self(followed)
    }

    /// Open, as far as it can be, and as the pointer was when it was used, or at most `limit` of waiting later.
    pub(crate) async fn fresh(&self, limit: Duration) {
        self.usage.first_look().await;
        self.usage.wake(limit).await;
    }
}

impl Deref for InUse {
    type Target = Arc<Followed>;

    fn deref(&self) -> &Arc<Followed> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        *self.usage.used_at() = Instant::now();
        self.usage.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
