//! Collecting what nobody needs: objects of let-go releases, events that every kept release holds, deleted collections,
//! dead letters of erased documents that came late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use verdigris_bus::Retention;
use verdigris_core::garbage::may_collect;
use verdigris_core::names::CollectionName;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::garbage::Collector;
use verdigris_store::{ReadError, collection as objects};

use crate::Indexer;
use crate::dead_letters::LateLetters;
use crate::error::{IndexerError, chain};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(60);
const DAY_NS: i64 = 24 * 3_600 * 1_000_000_000;

/// What is remembered of a collection between two rounds.
#[derive(Default)]
struct Rounds {
    collector: Collector,
    late_letters: LateLetters,
}

/// Collects until the token is cancelled.
pub async fn run(indexer: Arc<Indexer>, token: CancellationToken) {
    let mut collections: BTreeMap<CollectionName, Rounds> = BTreeMap::new();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = indexer.deps().clock.sleep(EVERY) => {}
        }
        let names: Vec<CollectionName> = indexer.lock().keys().cloned().collect();
        collections.retain(|name, _| names.contains(name));
        for name in names {
            let rounds = collections.entry(name.clone()).or_default();
            if let Err(error) = rounds.round(&indexer, &name).await {
                tracing::warn!(collection = %name, "garbage was not collected: {}", chain(&error));
            }
        }
    }
}

impl Rounds {
    async fn round(&mut self, indexer: &Indexer, name: &CollectionName) -> Result<(), IndexerError> {
        let deps = indexer.deps();
        let Some(handle) = indexer.handle(name) else {
            return Ok(());
        };
        // Before the look at whose turn it is: what another one writes from then on is too young to be collected, however
        // long this process sleeps between the two.
        let now = Timestamp(deps.clock.now_ns());
        match objects::pointer(&*deps.store, name).await {
            Ok(seen) if !may_collect(&seen.pointer, &indexer.instance) => return Ok(()),
            // What is left of a collection without a pointer goes as well.
            Ok(_) | Err(ReadError::NoCollection(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let removed = self
            .collector
            .collect(&*deps.store, name, now, |key| handle.is_being_written(key))
            .await?;
        if removed > 0 {
            tracing::debug!(collection = %name, removed, "garbage was collected");
        }
        deps.metrics.collected(name, removed);
        match objects::pointer(&*deps.store, name).await {
            Err(ReadError::NoCollection(_)) => {
                deps.bus.forget(name).await?;
                indexer.forget(name);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
            Ok(seen) => {
                let settings = objects::settings(&*deps.store, name, &seen.pointer.settings).await?;
                let kept = seen.pointer.kept.iter().chain(&seen.pointer.other_release);
                let oldest = kept.map(|release| release.checkpoint).min().unwrap_or(0);
                let age_ns = i64::from(settings.bus.days) * DAY_NS;
                let retention = Retention {
                    age_ns,
                    bytes: u64::from(settings.bus.mebibytes) << 20,
                    never_past: oldest,
                };
                while deps.bus.retain(name, retention, now.0).await? > 0 {}
                if let Some(erased) = &seen.pointer.erased {
                    let letters = self.late_letters.remove(&*deps.store, name, erased).await?;
                    if letters > 0 {
                        tracing::info!(collection = %name, letters, "late dead letters of erased documents were removed");
                    }
                }
            }
        }
        Ok(())
    }
}
