//! The controller: the owner of rollouts. It observes, asks `core::rollout::plan` what to do, and carries it out; it is
//! the only role that moves traffic from one lineage to another.
//!
//! It keeps nothing that it could not find again: what must outlast it lies in the pointer and in stored measurements.
//! In one process traffic goes where the pointer says; on Kubernetes, to where `kubernetes` moves it.
#![forbid(unsafe_code)]

mod carry_out;
pub mod kubernetes;
pub mod metrics;
mod owner;
mod rpc;
mod scope;
mod shown;
mod verdicts;

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::{OtherSeen, ServingWindow};
use verdigris_runtime::clock::Clock;
use verdigris_runtime::shutdown::Tasks;
use verdigris_store::{Store, StoreError, collection as objects};

pub use rpc::RolloutRpc;
pub use scope::{Pace, Scope, Wants, WantsOf};
pub use shown::window_of;

use crate::metrics::ControllerMetrics;
use crate::owner::{Owner, Standing, Wishes};

/// What the search role says of a collection.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The other lineage as the search role has it.
    pub other: OtherSeen,
    /// What the active lineage has answered since it was flipped to, or since the role began.
    pub window: Option<ServingWindow>,
    /// What the one before it answered.
    pub window_before: Option<ServingWindow>,
}

/// What the owner asks of the search role.
#[async_trait]
pub trait Searchers: Send + Sync {
    /// How far the lineages are.
    async fn seen(&self, name: &CollectionName) -> Seen;

    /// The same where it is open somewhere: what nobody has open is not opened for it.
    async fn seen_if_open(&self, name: &CollectionName) -> Seen {
        self.seen(name).await
    }

    /// Measures the other lineage; what went wrong in words.
    async fn measure(
        &self,
        name: &CollectionName,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, String>;
}

/// What the controller works with.
pub struct ControllerDeps {
    /// Where pointers and verdicts are.
    pub store: Arc<dyn Store>,
    /// The search role.
    pub searchers: Arc<dyn Searchers>,
    /// Time.
    pub clock: Clock,
    /// Figures.
    pub metrics: ControllerMetrics,
    /// Name of this owner in pointers: `up/{instance}`.
    pub id: String,
    /// Which collections are owned, and how.
    pub scope: Scope,
}

/// A collection whose rollouts are owned.
pub(crate) struct Owned {
    pub(crate) wishes: Wishes,
    pub(crate) standing: watch::Receiver<Standing>,
}

/// All rollouts of a store.
pub struct Controller {
    deps: Arc<ControllerDeps>,
    tasks: Tasks,
    owned: Mutex<BTreeMap<CollectionName, Arc<Owned>>>,
}

impl Controller {
    /// Owns the rollouts of every collection of the store, and of those that come.
    pub async fn start(deps: ControllerDeps, tasks: Tasks) -> Result<Arc<Self>, StoreError> {
        let controller = Arc::new(Self {
            deps: Arc::new(deps),
            tasks: tasks.clone(),
            owned: Mutex::default(),
        });
        controller.own_all().await?;
        let (looking, token) = (controller.clone(), tasks.token());
        tasks.spawn("rollouts of new collections", async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => return Ok(()),
                    () = tokio::time::sleep(looking.deps.scope.pace.list()) => {}
                }
                if let Err(error) = looking.own_all().await {
                    tracing::warn!("collections cannot be listed: {error}");
                }
            }
        });
        Ok(controller)
    }

    async fn own_all(self: &Arc<Self>) -> Result<(), StoreError> {
        let scope = &self.deps.scope;
        let names = match scope.pace {
            Pace::Near => objects::list(&*self.deps.store).await?,
            // Whether there is a pointer, the owner of each looks for itself.
            Pace::Far { .. } => objects::folders(&*self.deps.store, &scope.prefix).await?,
        };
        for name in names.iter().filter(|name| name.as_str().starts_with(&scope.prefix)) {
            self.own(name);
        }
        Ok(())
    }

    /// The rollout of a collection, owned from now on.
    fn own(self: &Arc<Self>, name: &CollectionName) -> Arc<Owned> {
        let mut all = self.lock();
        if let Some(owned) = all.get(name) {
            return owned.clone();
        }
        let (owner, owned) = Owner::new(self.deps.clone(), name.clone());
        let owned = Arc::new(owned);
        all.insert(name.clone(), owned.clone());
        let (controller, token) = (self.clone(), self.tasks.token());
        let name = name.clone();
        self.tasks.spawn_passing(format!("rollout of {name}"), async move {
            owner.run(&token).await;
            controller.lock().remove(&name);
            Ok(())
        });
        owned
    }

    /// The rollout of a collection that is there.
    pub(crate) async fn owned(self: &Arc<Self>, name: &CollectionName) -> Option<Arc<Owned>> {
        let known = self.lock().get(name).cloned();
        if known.is_some() {
            return known;
        }
        if !name.as_str().starts_with(&self.deps.scope.prefix) {
            return None;
        }
        objects::pointer(&*self.deps.store, name).await.ok()?;
        Some(self.own(name))
    }

    /// How each rollout stands.
    pub(crate) fn each(&self, mut look: impl FnMut(&CollectionName, &Standing)) {
        for (name, owned) in &*self.lock() {
            look(name, &owned.standing.borrow());
        }
    }

    pub(crate) fn deps(&self) -> &ControllerDeps {
        &self.deps
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CollectionName, Arc<Owned>>> {
        self.owned.lock().expect("no code panics while it holds this lock")
    }
}
