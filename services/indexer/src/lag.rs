//! How far publishing is behind the log, for alerts: looked at from time to time, since nothing happens where it stands
//! still.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use verdigris_core::names::CollectionName;

use crate::{Handle, Indexer};

/// How often: an alert needs a minute, and a look at a broker costs two requests.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at every collection until the token is cancelled.
pub(crate) async fn run(indexer: Arc<Indexer>, token: CancellationToken) {
    while token.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let handles: Vec<_> = indexer
            .lock()
            .iter()
            .map(|(name, handle)| (name.clone(), handle.clone()))
            .collect();
        for (name, handle) in handles {
            look(&indexer, &name, &handle).await;
        }
    }
}

/// Where the bus does not answer, the newest figure stays: that it does not answer is told elsewhere.
async fn look(indexer: &Indexer, name: &CollectionName, handle: &Handle) {
    let deps = indexer.deps();
    let published = handle.progress.published().sequence;
    let (Ok(events), Ok(oldest)) = (
        deps.bus.unread(name, published).await,
        deps.bus.oldest_after(name, published).await,
    ) else {
        return;
    };
    let age = oldest.map_or(0, |accepted_at| deps.clock.now_ns().saturating_sub(accepted_at).max(0));
    deps.metrics.lag(name, events, age as f64 / 1e9);
}
