//! Knowing that a stream grew: at once for appends of this process, by looking for those of others.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;
use tokio::time::Instant;
use verdigris_core::names::CollectionName;

use super::file;
use crate::error::BusError;

/// How often another process's appends are looked for, by all waiters together.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Where each stream ends, as far as is known here.
pub(super) struct Watcher {
    lasts: watch::Sender<BTreeMap<CollectionName, u64>>,
    poll: Mutex<Poll>,
}

struct Poll {
    connection: Connection,
    /// SQLite's count of commits by other connections, as it was before the last look.
    data_version: Option<i64>,
    next: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(path: &Path) -> Result<Self, BusError> {
        let poll = Poll {
            connection: file::open_reader(path)?,
            data_version: None,
            next: None,
        };
        Ok(Self {
            lasts: watch::Sender::new(BTreeMap::new()),
            poll: Mutex::new(poll),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<CollectionName, u64>> {
        self.lasts.subscribe()
    }

    /// These streams end here now.
    pub(super) fn moved(&self, lasts: BTreeMap<CollectionName, u64>) {
        self.lasts.send_modify(|known| known.extend(lasts));
    }

    /// All streams, as the file has them. A commit in between may be hidden by that until the next look.
    pub(super) fn found(&self, lasts: BTreeMap<CollectionName, u64>) {
        self.lasts.send_replace(lasts);
    }

    /// This stream is gone.
    pub(super) fn forgotten(&self, collection: &CollectionName) {
        self.lasts.send_modify(|known| {
            known.remove(collection);
        });
    }

    /// Whether a look is due; true for one waiter per interval, who then looks.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        // Held by another waiter means that the look is under way.
        let Ok(mut poll) = self.poll.try_lock() else {
            return false;
        };
        if poll.next.is_some_and(|next| now < next) {
            return false;
        }
        poll.next = Some(now + POLL_INTERVAL);
        true
    }

    /// Whether another connection has committed since the last look that was noted. Blocking.
    pub(super) fn look(&self, path: &Path) -> Result<bool, BusError> {
        let mut poll = self.poll.lock().expect("nothing panics while it holds the connection");
        let version = poll
            .connection
            .pragma_query_value(None, "data_version", |row| row.get(0));
        // Noted before the streams are read: what is committed in between shows at the next look.
        let version = Some(version.map_err(|error| file::failure(path, error))?);
        let changed = poll.data_version != version;
        poll.data_version = version;
        Ok(changed)
    }
}
