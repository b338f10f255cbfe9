//! The real roles in this process, put together as `up` does it: one folder, any number of processes on it, each with a
//! runtime of its own, so that it can be ended cleanly or as by a kill.
//!
//! Deliberately absent: the guard and the listener (`listening` has them) and any part that is made for tests, except
//! what stands in front of the store and in the place of the model.
#![allow(dead_code, reason = "each test binary uses its part of this module")]

pub(crate) mod embedders;
pub(crate) mod events;
pub(crate) mod listening;
#[path = "../../../services/verdigris/src/opener.rs"]
pub(crate) mod opener;
pub(crate) mod turnstile;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Request, Status};
use verdigris_bus::{Bus, NewEvent, SqliteBus, SqliteOptions};
use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::Pointer;
use verdigris_core::position::Position;
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::{Embedder, Embedders};
use verdigris_engine::release::open::OpenRelease;
use verdigris_indexer::metrics::IndexerMetrics;
use verdigris_indexer::{AdminRpc, Indexer, IndexerDeps, IngestRpc, collect_garbage};
use verdigris_proto::ingest::ingest_service_server::IngestService;
use verdigris_proto::ingest::{GetProgressRequest, IngestRequest};
use verdigris_proto::search::GetServingStatsRequest;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_runtime::clock::Clock;
use verdigris_runtime::http::Readiness;
use verdigris_runtime::shutdown::Tasks;
use verdigris_search::metrics::SearchMetrics;
use verdigris_search::{Following, Search, SearchDeps, SearchRpc, Standstill};
use verdigris_store::directory::DirectoryStore;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::{Store, StoreError, collection as objects};

use opener::Opener;

/// How long a test waits for something that must happen before it says that it did not. Nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Time that blocking work of a killed process may still take: a kill of a thread is not to be had.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn name() -> CollectionName {
    "products".parse().expect("valid")
}

/// Settings of a collection with small vectors of hashes and windows of one read.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::parse(br#"{"embedder":{"provider":"hash","dimension":16}}"#).expect("valid");
    settings.window.milliseconds = 1;
    settings
}

/// A data folder with its store, its bus and its time.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) store: Arc<DirectoryStore>,
    pub(crate) bus: Arc<SqliteBus>,
    pub(crate) clock: Clock,
    runtime: Runtime,
}

impl World {
    /// An empty folder; time is the system's.
    pub(crate) fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    pub(crate) fn with_clock(clock: Clock) -> Self {
        let folder = TempDir::new().expect("the temporary folder takes a folder");
        let store = DirectoryStore::open(&folder.path().join("store")).expect("an empty folder");
        let bus = open_bus(folder.path().join("bus.sqlite"), clock.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        std::fs::create_dir(folder.path().join("scratch")).expect("an empty folder");
        Self {
            folder,
            store: Arc::new(store),
            bus: Arc::new(bus),
            clock,
            runtime: runtime.expect("the system gives a runtime"),
        }
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// Runs something that belongs to no process.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Makes the collection.
    pub(crate) fn create(&self, settings: &Settings) {
        let nonce = verdigris_store::commit::nonce();
        let now = Timestamp(self.clock.now_ns());
        let name = name();
        let made = self.block_on(objects::create(&*self.store, &name, settings, nonce, now));
        made.expect("created");
    }

    pub(crate) fn pointer(&self) -> Pointer {
        let seen = self.block_on(objects::pointer(&*self.store, &name()));
        seen.expect("there is a pointer").pointer
    }

    /// The manifest of a kept release.
    pub(crate) fn manifest(&self, generation: u64) -> Manifest {
        let pointer = self.pointer();
        let kept = pointer.kept.iter().find(|kept| kept.generation == generation);
        let reference = &kept.expect("the release is kept").manifest;
        let manifest = self.block_on(objects::manifest(&*self.store, &name(), reference));
        manifest.expect("it is named")
    }

    /// Accepts events as of another process; the position of the last.
    pub(crate) fn append(&self, events: Vec<Bytes>) -> Position {
        let events = events.into_iter().map(|payload| NewEvent { payload }).collect();
        let appended = self
            .block_on(self.bus.append(&name(), events))
            .expect("the bus takes events");
        appended.stream.position(appended.last)
    }

    /// A process on this folder as it usually is.
    pub(crate) fn process(&self, instance: &str) -> Process {
        Process::start(self, Start::new(instance))
    }
}

/// A bus in this file.
pub(crate) fn open_bus(path: PathBuf, clock: Clock) -> SqliteBus {
    let bus = SqliteBus::open(&path, SqliteOptions::default(), Arc::new(move || clock.now_ns()));
    bus.expect("the folder takes a file")
}

/// How a process differs from the usual one.
pub(crate) struct Start {
    pub(crate) instance: String,
    /// What the indexer has in front of the store.
    pub(crate) store: Option<Arc<dyn Store>>,
    /// What the indexer takes for the bus.
    pub(crate) bus: Option<Arc<dyn Bus>>,
    /// What stands in the place of the hash embedder, for documents and queries.
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
}

impl Start {
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            store: None,
            bus: None,
            embedder: None,
        }
    }

    pub(crate) fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    pub(crate) fn with_bus(mut self, bus: Arc<dyn Bus>) -> Self {
        self.bus = Some(bus);
        self
    }

    pub(crate) fn with_embedder(mut self, embedder: Arc<dyn Embedder>) -> Self {
        self.embedder = Some(embedder);
        self
    }
}

/// Indexer and search of one process.
pub(crate) struct Process {
    runtime: Option<Runtime>,
    tasks: Tasks,
    pub(crate) indexer: Arc<Indexer>,
    pub(crate) ingest: Arc<IngestRpc>,
    pub(crate) admin: Arc<AdminRpc>,
    pub(crate) search: Arc<SearchRpc>,
    pub(crate) readiness: Readiness,
    pub(crate) registry: Registry,
}

impl Process {
    pub(crate) fn start(world: &World, start: Start) -> Self {
        Self::try_start(world, start).expect("the store lists")
    }

    /// The same where the store may not even list.
    pub(crate) fn try_start(world: &World, start: Start) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the system gives a runtime");
        let (registry, readiness) = (Registry::new(), Readiness::default());
        let (tasks, _ended) = Tasks::new();
        let store: Arc<dyn Store> = world.store.clone();
        let opener: Arc<dyn OpenRelease> = Arc::new(Opener::new(store.clone(), VerifiedFiles::default()));
        let mut embedders = Embedders::new(world.folder.path().join("models"), 1, None);
        if let Some(embedder) = start.embedder {
            embedders = embedders.with_hashes_by(embedder);
        }
        let embedders = Arc::new(embedders);
        let deps = IndexerDeps {
            store: start.store.unwrap_or_else(|| store.clone()),
            bus: start.bus.unwrap_or_else(|| world.bus.clone()),
            opener: opener.clone(),
            embedders: embedders.clone(),
            clock: world.clock.clone(),
            scratch: world.scratch(),
            threads: 1,
            metrics: IndexerMetrics::register(&registry).expect("a fresh registry"),
            forget_queries: Arc::new(|_, _| Box::pin(async { Ok(()) })),
        };
        let indexer = runtime.block_on(Indexer::start(deps, tasks.clone(), start.instance));
        let indexer = indexer?;
        let status_of = indexer.clone();
        let deps = SearchDeps {
            store,
            opener,
            embedders,
            clock: world.clock.clone(),
            poll: Duration::from_millis(2),
            parallel_searches: 2,
            standstill: Arc::new(move |name| {
                let standstill = status_of.handle(name)?.status.standstill()?;
                Some(Standstill {
                    reason: standstill.reason,
                    message: standstill.message,
                })
            }),
            readiness: readiness.clone(),
            metrics: SearchMetrics::register(&registry).expect("a fresh registry"),
            query_log: Some(world.folder.path().join("queries")),
            memory_limit: Some(1 << 40),
            following: Following::default(),
            log_searches: false,
            downloaded: Arc::new(|| 0),
            drag: None,
        };
        let search = runtime.block_on(Search::start(deps, tasks.clone()))?;
        runtime.block_on(search.opened());
        let (garbage, token) = (indexer.clone(), tasks.token());
        runtime.block_on(async {
            tasks.spawn("garbage collection", async move {
                turnstile::collecting(collect_garbage(garbage, token)).await;
                Ok(())
            });
        });
        Ok(Self {
            runtime: Some(runtime),
            tasks,
            ingest: Arc::new(IngestRpc::new(indexer.clone())),
            admin: Arc::new(AdminRpc::new(indexer.clone())),
            search: Arc::new(SearchRpc::new(search)),
            indexer,
            readiness,
            registry,
        })
    }

    /// The process's runtime.
    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the end")
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Runs something in this process that ends soon.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        let work = async { tokio::time::timeout(2 * PATIENCE, work).await };
        self.runtime().block_on(work).expect("it ends")
    }

    /// Sends events in one call; the position of the last.
    pub(crate) fn send(&self, events: Vec<Bytes>) -> String {
        self.block_on(send(&self.ingest, events))
    }

    /// Waits until a release holds the position.
    pub(crate) fn searchable(&self, position: &str) -> Result<u64, Status> {
        self.block_on(searchable(&self.ingest, position))
    }

    /// Sends events and waits until a release holds them; its generation.
    pub(crate) fn publish(&self, events: Vec<Bytes>) -> u64 {
        let position = self.send(events);
        let told = self.searchable(&position);
        told.unwrap_or_else(|status| panic!("{position} is not searchable: {status}"))
    }

    /// Publishes, and waits until the search role answers from a release that holds it.
    pub(crate) fn serve(&self, events: Vec<Bytes>) -> u64 {
        let min_position = self.send(events);
        let collection = name().to_string();
        let request = GetServingStatsRequest {
            collection,
            min_position,
            ..GetServingStatsRequest::default()
        };
        let stats = self.block_on(self.search.get_serving_stats(Request::new(request)));
        let release = stats.expect("the search role follows").into_inner().release;
        release.expect("there is a release").generation
    }

    /// Why publishing stands still.
    pub(crate) fn standstill(&self) -> Option<verdigris_indexer::status::Standstill> {
        self.indexer.handle(&name())?.status.standstill()
    }

    /// Waits until publishing stands still.
    pub(crate) fn wait_for_standstill(&self) -> verdigris_indexer::status::Standstill {
        self.block_on(eventually("publishing stands still", || self.standstill()))
    }

    /// Ends as after SIGTERM.
    pub(crate) fn stop(mut self) {
        let runtime = self.runtime.take().expect("it is there until the end");
        assert!(runtime.block_on(self.tasks.end(PATIENCE)), "{:?}", self.tasks.running());
        runtime.shutdown_timeout(KILL_PATIENCE);
    }

    /// Ends as after a kill: no task says goodbye.
    pub(crate) fn kill(mut self) {
        let runtime = self.runtime.take().expect("it is there until the end");
        runtime.shutdown_timeout(KILL_PATIENCE);
    }
}

pub(crate) async fn send(ingest: &IngestRpc, events: Vec<Bytes>) -> String {
    let (collection, count) = (name().to_string(), events.len() as u64);
    let request = IngestRequest { collection, events };
    let answer = ingest.ingest(Request::new(request)).await;
    let answer = answer.expect("the bus takes events").into_inner();
    assert_eq!(answer.accepted, count, "{:?}", answer.rejections);
    answer.last_position
}

pub(crate) async fn searchable(ingest: &IngestRpc, position: &str) -> Result<u64, Status> {
    let request = GetProgressRequest {
        collection: name().to_string(),
        to_position: position.to_owned(),
        wait: true,
        ..GetProgressRequest::default()
    };
    let told = ingest.get_progress(Request::new(request)).await?;
    Ok(told.into_inner().generation)
}

/// Asks again and again until there is an answer. Patience is only for a test that will not succeed any more.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("this never happened: {what}"))
}
