//! Finding collections to open, while the process answers already whether it is ready: as many at once as the store and
//! this machine can bear, and new ones as they come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use verdigris_core::names::CollectionName;
use verdigris_store::{StoreError, collection as objects};

use crate::{LOOK_WAIT, OPENING, Search};

/// How often collections are looked for, as so many looks at a pointer: a listing costs more than one.
const LOOKS: u32 = 10;

/// Opens what is to be followed, and looks again from time to time.
pub(crate) async fn run(search: &Arc<Search>) {
    let mut known = BTreeSet::new();
    let mut opening = JoinSet::new();
    loop {
        match wanted(search).await {
            Ok(names) => {
                known.retain(|name| names.contains(name));
                for name in names {
                    if !known.insert(name.clone()) {
                        continue;
                    }
                    // Before the next word of readiness: what is not open yet must not pass for ready.
                    search.deps.readiness.not_ready(name.as_str(), "it is being opened");
                    let search = search.clone();
                    opening.spawn(async move { search.follow(&name).fresh(LOOK_WAIT).await });
                }
                search.deps.readiness.ready(OPENING);
            }
            Err(error) => tracing::warn!("collections cannot be listed: {error}"),
        }
        let pause = (LOOKS * search.deps.poll).max(Duration::from_millis(200));
        tokio::time::sleep(pause).await;
        while let Some(opened) = opening.try_join_next() {
            if let Err(error) = opened {
                // A collection that nobody opens would leave the process unready without a word.
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Collections that are there and are to be open before somebody asks.
async fn wanted(search: &Search) -> Result<BTreeSet<CollectionName>, StoreError> {
    let names = objects::list(&*search.deps.store).await?;
    let following = &search.deps.following.collections;
    Ok(names.into_iter().filter(|name| following.has(name)).collect())
}
