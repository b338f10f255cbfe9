//! The owner of rollouts: looks at the pointer and at the search role, asks `core::rollout` what to do, and does it.
//!
//! It decides nothing and keeps nothing that matters: whatever must outlast it lies in the pointer and in stored
//! verdicts, so that it may end between any two steps. Deliberately absent: building, following and leveling, which are
//! the indexer's, and measuring, which is the search role's; the latter is handed in as [`Serving`].
#![forbid(unsafe_code)]

mod act;
mod collection;
mod error;
pub mod metrics;
mod owner;
mod rpc;
mod serving;
mod shown;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use verdigris_core::names::CollectionName;
use verdigris_runtime::clock::Clock;
use verdigris_runtime::shutdown::Tasks;
use verdigris_store::{Store, StoreError, collection as objects};

use crate::collection::Collection;
pub use crate::error::ControllerError;
use crate::metrics::ControllerMetrics;
pub use crate::rpc::RolloutRpc;
pub use crate::serving::{Seen, Serving};

/// How often new collections are looked for; one that is asked about is found at once.
const DISCOVER: Duration = Duration::from_secs(2);

/// What the owner of rollouts works with.
pub struct ControllerDeps {
    /// Where pointers and verdicts are.
    pub store: Arc<dyn Store>,
    /// The search role's side.
    pub serving: Arc<dyn Serving>,
    /// Time.
    pub clock: Clock,
    /// Figures.
    pub metrics: ControllerMetrics,
}

/// The owner of rollouts of a process.
pub struct Controller {
    deps: ControllerDeps,
    /// The owner's name in pointers.
    instance: String,
    tasks: Tasks,
    collections: Mutex<BTreeMap<CollectionName, Arc<Collection>>>,
}

impl Controller {
    /// Begins to look after every collection of the store. `instance` is `up/{instance}` or
    /// `controller/{namespace}/{name}`.
    pub async fn start(deps: ControllerDeps, tasks: Tasks, instance: String) -> Result<Arc<Self>, StoreError> {
        let controller = Arc::new(Self {
            deps,
            instance,
            tasks: tasks.clone(),
            collections: Mutex::default(),
        });
        controller.discover().await?;
        let (discoverer, token) = (controller.clone(), tasks.token());
        tasks.spawn("collections of the rollout owner", async move {
            discover(&discoverer, &token).await;
            Ok(())
        });
        Ok(controller)
    }

    /// The collection, looked after from now on; none where there is no such collection.
    pub(crate) async fn collection(self: &Arc<Self>, name: &CollectionName) -> Option<Arc<Collection>> {
        let known = self.lock().get(name).cloned();
        if known.is_some() {
            return known;
        }
        // Only a collection that is there is looked after, so that made-up names cost nothing.
        objects::pointer(&*self.deps.store, name).await.ok()?;
        Some(self.look_after(name))
    }

    async fn discover(self: &Arc<Self>) -> Result<(), StoreError> {
        for name in objects::list(&*self.deps.store).await? {
            self.look_after(&name);
        }
        Ok(())
    }

    fn look_after(self: &Arc<Self>, name: &CollectionName) -> Arc<Collection> {
        let mut collections = self.lock();
        if let Some(known) = collections.get(name) {
            return known.clone();
        }
        let collection = Arc::new(Collection::new(name.clone()));
        collections.insert(name.clone(), collection.clone());
        drop(collections);
        let (controller, looked_after, token) = (self.clone(), collection.clone(), self.tasks.token());
        self.tasks.spawn(format!("rollouts of {name}"), async move {
            owner::run(&controller, &looked_after, &token).await;
            controller.lock().remove(&looked_after.name);
            // A deleted collection has no more work; the end of this task is not the end of the process.
            token.cancelled().await;
            Ok(())
        });
        collection
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CollectionName, Arc<Collection>>> {
        self.collections
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

async fn discover(controller: &Arc<Controller>, token: &CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(DISCOVER) => {}
        }
        if let Err(error) = controller.discover().await {
            tracing::warn!("collections cannot be listed: {}", error::chain(&error));
        }
    }
}
