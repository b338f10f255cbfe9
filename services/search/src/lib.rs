//! The search role: follows pointers, swaps releases of both lineages in one atomic handle, answers, and measures.
//!
//! An answer comes from exactly one release (I-7): a request takes the handle once and keeps what it got.
#![forbid(unsafe_code)]

mod answer;
mod discover;
mod follow;
mod following;
mod forgetting;
mod golden;
mod hiding;
mod line;
mod lineages;
mod log;
mod measure;
mod measurement_rpc;
pub mod metrics;
mod open;
mod page;
mod pod_rpc;
mod queries_rpc;
mod query;
mod rpc;
mod serving;
mod standing;
mod tenants;
mod usage;
mod warm;
mod window;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;
use verdigris_core::queries::LoggedQuery;
use verdigris_embed::Embedders;
use verdigris_engine::filter::FilterCache;
use verdigris_engine::release::open::OpenRelease;
use verdigris_proto::reason::Reason;
use verdigris_runtime::clock::Clock;
use verdigris_runtime::http::Readiness;
use verdigris_runtime::shutdown::Tasks;
use verdigris_store::{ReadError, Store, StoreError, collection as objects};

pub use following::{Collections, CollectionsError, Following, Start};
pub use measurement_rpc::MeasurementRpc;
pub use pod_rpc::{PodDeps, PodRpc};
pub use queries_rpc::QueryRpc;
pub use rpc::SearchRpc;
pub use serving::{LineageCondition, LineageFacts, Serving};
pub use tenants::OpenLimits;
pub use window::WindowFacts;

use crate::lineages::Followed;
use crate::log::QueryLog;
use crate::metrics::SearchMetrics;
use crate::open::QueryCaches;
use crate::usage::InUse;

/// Bytes of filter bitmaps that are kept.
pub const FILTER_CACHE_BYTES: u64 = 128 << 20;

/// Collections that are opened at once.
const OPENING_AT_ONCE: usize = 4;
/// How long a request waits for a look at a pointer that nobody has looked at for a while.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// The part that is not ready until collections are known.
const OPENING: &str = "search";

/// Why publishing stands still, for reads that wait for a position.
#[derive(Debug, Clone)]
pub struct Standstill {
    /// The stable reason.
    pub reason: Reason,
    /// What happened, and what to do.
    pub message: String,
}

/// Tells whether a collection's publishing stands still; the indexer of the same process knows.
pub type StandstillOf = Arc<dyn Fn(&CollectionName) -> Option<Standstill> + Send + Sync>;

/// What a search of a release takes beyond its work.
pub type DragOf = Arc<dyn Fn(&Manifest) -> Duration + Send + Sync>;

/// Bytes that the process has read from the store so far.
pub type Downloaded = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the search role works with.
pub struct SearchDeps {
    /// Where releases are.
    pub store: Arc<dyn Store>,
    /// Opens releases, shared with the indexer of the process.
    pub opener: Arc<dyn OpenRelease>,
    /// Models.
    pub embedders: Arc<Embedders>,
    /// Time.
    pub clock: Clock,
    /// How often the pointer is looked at.
    pub poll: Duration,
    /// Searches that run at once on threads of their own; more wait.
    pub parallel_searches: usize,
    /// Whether publishing stands still.
    pub standstill: StandstillOf,
    /// Told while a collection cannot be served.
    pub readiness: Readiness,
    /// Figures.
    pub metrics: SearchMetrics,
    /// Folder for samples of asked queries; without one they are kept in memory.
    pub query_log: Option<PathBuf>,
    /// Bytes of memory that this process may use, where that is limited.
    pub memory_limit: Option<u64>,
    /// What is followed.
    pub following: Following,
    /// Whether a line is logged for each search.
    pub log_searches: bool,
    /// Bytes that the process has read from the store, for these lines.
    pub downloaded: Downloaded,
    /// Counted on top of what searches of a release take, for tests of what becomes of a slow index: such a test must
    /// not depend on how busy its machine is.
    pub drag: Option<DragOf>,
}

/// The search role of a process.
pub struct Search {
    deps: SearchDeps,
    tasks: Tasks,
    filters: FilterCache,
    threads: Arc<tokio::sync::Semaphore>,
    log: Arc<QueryLog>,
    /// Collections that are opened at once: each fetches several files at once.
    opening: tokio::sync::Semaphore,
    /// Models of queries, shared by releases of the same: what was embedded for one is known to the others.
    queries: QueryCaches,
    /// Held by whoever measures: two at once would measure each other.
    measuring: tokio::sync::Mutex<()>,
    followed: Mutex<BTreeMap<CollectionName, Arc<Followed>>>,
}

impl Search {
    /// Begins to open every collection of the store, and follows them from then on. Answers wait for what they need;
    /// [`Search::opened`] waits for all of it.
    pub async fn start(deps: SearchDeps, tasks: Tasks) -> Result<Arc<Self>, StoreError> {
        let threads = Arc::new(tokio::sync::Semaphore::new(deps.parallel_searches));
        let filters = FilterCache::new(FILTER_CACHE_BYTES);
        let log = Arc::new(QueryLog::new(deps.query_log.clone()));
        let (keeper, token) = (log.clone(), tasks.token());
        tasks.spawn("sample of asked queries", async move {
            keeper.keep(token).await;
            Ok(())
        });
        let search = Arc::new(Self {
            deps,
            tasks,
            filters,
            threads,
            log,
            opening: tokio::sync::Semaphore::new(OPENING_AT_ONCE),
            queries: QueryCaches::default(),
            measuring: tokio::sync::Mutex::default(),
            followed: Mutex::default(),
        });
        match search.deps.following.start {
            Start::First => {
                for name in objects::list(&*search.deps.store).await? {
                    search.follow(&name);
                }
            }
            Start::Beside => {
                search.deps.readiness.not_ready(OPENING, "collections are looked for");
                let (opening, token) = (search.clone(), search.tasks.token());
                search.tasks.spawn("opening of collections", async move {
                    let opened = async {
                        match tenants::is_for_tenants(&opening) {
                            true => tenants::run(&opening).await,
                            false => discover::run(&opening).await,
                        }
                    };
                    token.run_until_cancelled(opened).await;
                    Ok(())
                });
            }
        }
        Ok(search)
    }

    /// Waits until each collection that is followed by now is open, or is known to be broken.
    pub async fn opened(&self) {
        let followed: Vec<Arc<Followed>> = self.lock().values().cloned().collect();
        for followed in followed {
            InUse::begin(followed).fresh(LOOK_WAIT).await;
        }
    }

    /// Both lineages of a collection as this server has them; none where there is no such collection.
    pub async fn serving(self: &Arc<Self>, name: &CollectionName) -> Option<Serving> {
        let followed = self.collection(name).await.ok()?;
        Some(Serving::of(&followed.lineages()))
    }

    /// Takes logged queries away by what they say, for `erase`: they are gone from the file when this returns. How many
    /// they were.
    ///
    /// # Errors
    /// The file cannot be written; the queries are not used any more all the same, and are tried to be taken from the
    /// file again later.
    pub async fn delete_logged_queries(
        self: &Arc<Self>,
        name: &CollectionName,
        gone: impl Fn(&LoggedQuery) -> bool + Send,
    ) -> io::Result<usize> {
        // The first look at a collection reads its sample.
        let _in_use = self.collection(name).await;
        self.log.delete(name, gone).await
    }

    /// How long a search of this release took, by all accounts.
    fn dragged(&self, manifest: &Manifest, took: Duration) -> Duration {
        match &self.deps.drag {
            Some(drag) => took + drag(manifest),
            None => took,
        }
    }

    /// The collection, followed from its first use on.
    ///
    /// # Errors
    /// There is no such collection, or nobody knows whether there is.
    async fn collection(self: &Arc<Self>, name: &CollectionName) -> Result<InUse, ReadError> {
        let known = self.lock().get(name).cloned().map(InUse::begin);
        let in_use = match known {
            Some(in_use) => in_use,
            None if !self.deps.following.collections.has(name) => {
                return Err(ReadError::NoCollection(name.clone()));
            }
            None => {
                // Only a collection that is there is followed, so that made-up names cost nothing.
                objects::pointer(&*self.deps.store, name).await?;
                self.follow(name)
            }
        };
        in_use.fresh(LOOK_WAIT).await;
        Ok(in_use)
    }

    /// Follows a collection, by a task of its own: whoever asked first may go before it is open.
    fn follow(self: &Arc<Self>, name: &CollectionName) -> InUse {
        let mut all = self.lock();
        if let Some(followed) = all.get(name) {
            return InUse::begin(followed.clone());
        }
        let followed = Arc::new(Followed::new(name.clone()));
        all.insert(name.clone(), followed.clone());
        self.deps.metrics.open(all.len());
        let in_use = InUse::begin(followed.clone());
        drop(all);
        let (search, token) = (self.clone(), self.tasks.token());
        self.tasks.spawn_passing(format!("search of {name}"), async move {
            let ended = followed.usage.ended.clone().drop_guard();
            let following = followed.usage.ends.run_until_cancelled(follow::run(&search, &followed));
            token.run_until_cancelled(following).await;
            drop(ended);
            Ok(())
        });
        in_use
    }

    /// The collection is gone from the store.
    fn forget(&self, followed: &Arc<Followed>) {
        let mut all = self.lock();
        if all
            .get(&followed.name)
            .is_some_and(|known| Arc::ptr_eq(known, followed))
        {
            all.remove(&followed.name);
            self.deps
                .metrics
                .forget(&followed.name, followed.lineages().answering());
            self.deps.metrics.open(all.len());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CollectionName, Arc<Followed>>> {
        self.followed.lock().expect("no code panics while it holds this lock")
    }
}
