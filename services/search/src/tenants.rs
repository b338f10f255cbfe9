//! Many small collections in one process: each is opened on its first use and closed when nobody has used it for a while,
//! or when others need its room.
//!
//! Whoever uses a collection keeps it open, so that no request meets a closing. What a closed one had is given back:
//! files are unmapped, its sample of queries goes to its file, its figures go, and nobody looks at its pointer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Search;
use crate::following::Collections;
use crate::lineages::{Followed, LineageState};

/// How long open collections may stay unused, as shares of that which pass between two looks for such.
const LOOKS: u32 = 10;
/// Bounds of that time.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(10)];
/// After an error.
const RETRY: Duration = Duration::from_secs(1);
/// How long a measurement waits for what it opens: a small collection is open in moments.
const OPEN_WAIT: Duration = Duration::from_secs(60);
/// Share of the memory that files of open releases may take before another is opened.
const MEMORY: [u64; 2] = [5, 6];

/// How many collections of a prefix are open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLimits {
    /// One that nobody used for so long is closed.
    pub idle: Duration,
    /// With so many open the one that is unused longest is closed before another is opened.
    pub open_max: usize,
}

impl Default for OpenLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15 * 60),
            // Each takes a mapping for two files of each segment, and a process may have 65,530.
            open_max: 1_000,
        }
    }
}

/// Why a collection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Nobody used it for a while.
    Idle,
    /// Another needs its room.
    Room,
}

impl Closed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Room => "room",
        }
    }
}

/// Whether collections come and go with their use.
pub(crate) fn is_for_tenants(search: &Search) -> bool {
    matches!(search.deps.following.collections, Collections::Prefix(_))
}

/// Ready once the store can be read, and from then on closes what nobody uses.
pub(crate) async fn run(search: &Arc<Search>) {
    let Collections::Prefix(prefix) = &search.deps.following.collections else {
        return;
    };
    while let Err(error) = search.deps.store.list(prefix, None, 1).await {
        tracing::warn!("the store cannot be listed: {error}");
        tokio::time::sleep(RETRY).await;
    }
    search.deps.readiness.ready(crate::OPENING);
    let idle = search.deps.following.limits.idle;
    let [least, most] = LOOK_EVERY;
    loop {
        tokio::time::sleep((idle / LOOKS).clamp(least, most)).await;
        let is_idle = |since: Instant| since.elapsed() >= idle;
        let gone = take(search, |unused| unused.is_some_and(is_idle));
        close(search, gone, Closed::Idle).await;
    }
}

/// Closes what is unused longest until another may be opened. What is in use stays, also beyond the limits: how much
/// that can be, the limit of calls at once says.
pub(crate) async fn make_room(search: &Arc<Search>, other: &Arc<Followed>) {
    if !is_for_tenants(search) {
        return;
    }
    let mut gone = Vec::new();
    {
        let mut all = search.lock();
        let bytes = |followed: &Arc<Followed>| followed.lineages().bytes();
        let mut taken: u64 = all.values().map(bytes).sum();
        let [share, of] = MEMORY;
        let memory = search.deps.memory_limit.map_or(u64::MAX, |limit| limit / of * share);
        while all.len() > search.deps.following.limits.open_max.max(1) || taken > memory {
            let unused = all.values().filter(|followed| !Arc::ptr_eq(followed, other));
            let unused = unused.filter_map(|followed| Some((followed.usage.unused_since()?, followed)));
            let Some((_, longest)) = unused.min_by_key(|(since, _)| *since) else {
                break;
            };
            let longest = longest.clone();
            taken -= bytes(&longest).min(taken);
            all.remove(&longest.name);
            gone.push(longest);
        }
    }
    close(search, gone, Closed::Room).await;
}

/// Takes out of what is followed what nobody uses and `is_due`: nobody can begin to use it after that.
fn take(search: &Search, is_due: impl Fn(Option<Instant>) -> bool) -> Vec<Arc<Followed>> {
    let mut gone = Vec::new();
    search.lock().retain(|_, followed| {
        let stays = !is_due(followed.usage.unused_since());
        if !stays {
            gone.push(followed.clone());
        }
        stays
    });
    gone
}

async fn close(search: &Arc<Search>, gone: Vec<Arc<Followed>>, why: Closed) {
    if gone.is_empty() {
        return;
    }
    gone.iter().for_each(|followed| followed.usage.ends.cancel());
    for followed in gone {
        let name = &followed.name;
        followed.usage.ended.cancelled().await;
        search.log.write_out(name).await;
        search.deps.metrics.closed(why);
        tracing::debug!(collection = %name, why = why.name(), "closed");
        let all = search.lock();
        // Somebody may have used it again: then all of this is another one's.
        if !all.contains_key(name) {
            search.log.close(name);
            search.deps.metrics.forget(name, followed.lineages().answering());
        }
        search.deps.metrics.open(all.len());
    }
}

/// Waits until both lineages are open, or cannot be: a measurement opens what nobody has asked for.
pub(crate) async fn both_opened(followed: &Arc<Followed>) {
    let mut swaps = followed.swaps();
    let is_opening = || {
        let lineages = followed.lineages();
        let views = lineages.views();
        views.iter().any(|view| view.state == LineageState::Opening)
    };
    let opened = async {
        while is_opening() {
            // What cannot be opened is told to nobody.
            let _ = tokio::time::timeout(LOOK_EVERY[0], swaps.changed()).await;
        }
    };
    let _ = tokio::time::timeout(OPEN_WAIT, opened).await;
}
