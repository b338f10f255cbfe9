//! A store with two lineages that are written by hand, sound or damaged as a test wants them, and a search role that
//! follows it. Deliberately absent: an indexer, which would not write what is damaged.
#![allow(dead_code, reason = "each test binary uses its part of this module")]

#[path = "../../../verdigris/src/opener.rs"]
mod opener;
mod release;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use tempfile::TempDir;
use tonic::{Request, Status};
use verdigris_core::digest::Digest;
use verdigris_core::erasure::{ErasedBy, ErasedList};
use verdigris_core::manifest::{LineageId, Manifest, SettingsReference};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{Erased, KeptRelease, LineagePointer, LineageRole, ManifestReference, Pointer};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::{Embedder, Embedders};
use verdigris_engine::release::Release;
use verdigris_engine::release::open::{OpenRelease, Opening};
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{
    GetServingStatsRequest, GetServingStatsResponse, Lineage, LineageState, LineageStatus, SearchRequest,
    SearchResponse,
};
use verdigris_runtime::clock::Clock;
use verdigris_runtime::http::Readiness;
use verdigris_runtime::shutdown::Tasks;
use verdigris_search::metrics::SearchMetrics;
use verdigris_search::{DragOf, Following, Search, SearchDeps, SearchRpc};
use verdigris_store::directory::DirectoryStore;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::{Body, Precondition, Store, collection as objects, keys};

use opener::Opener;
#[allow(unused_imports, reason = "each test binary uses its part of this module")]
pub(crate) use release::{Draft, catalog, hash_settings};

/// How long a test waits for something that must happen before it says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn name() -> CollectionName {
    "products".parse().expect("valid")
}

/// An opener that counts what it is asked for.
struct Counting {
    inner: Opener,
    opened: Arc<AtomicU64>,
}

impl OpenRelease for Counting {
    fn open<'a>(&'a self, manifest: Arc<Manifest>, previous: Option<&'a Arc<Release>>) -> Opening<'a> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.inner.open(manifest, previous)
    }
}

/// A written release, as a pointer names it.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) manifest: Manifest,
    pub(crate) reference: ManifestReference,
}

impl Written {
    fn named(&self, role: LineageRole) -> LineagePointer {
        LineagePointer {
            lineage: self.manifest.lineage.clone(),
            generation: self.manifest.generation,
            manifest: self.reference.clone(),
            role,
            since: Timestamp(self.manifest.generation as i64),
        }
    }
}

/// A folder with a store.
pub(crate) struct World {
    pub(crate) folder: Arc<TempDir>,
    /// The collection that is written.
    pub(crate) collection: CollectionName,
    pub(crate) store: Arc<DirectoryStore>,
    pointer: Mutex<Pointer>,
}

impl World {
    /// A collection without a release.
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().expect("the temporary folder takes a folder");
        let store = Arc::new(DirectoryStore::open(&folder.path().join("store")).expect("an empty folder"));
        Self::of(name(), Arc::new(folder), store).await
    }

    /// Another collection without a release in the same store.
    pub(crate) async fn beside(&self, collection: &str) -> Self {
        let collection = collection.parse().expect("a name");
        Self::of(collection, self.folder.clone(), self.store.clone()).await
    }

    async fn of(collection: CollectionName, folder: Arc<TempDir>, store: Arc<DirectoryStore>) -> Self {
        let settings = hash_settings(16);
        let made = objects::create(&*store, &collection, &settings, "n0".to_owned(), Timestamp(0)).await;
        Self {
            folder,
            collection,
            store,
            pointer: Mutex::new(made.expect("created")),
        }
    }

    /// A path inside the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes settings, as a version of their own.
    pub(crate) async fn settings(&self, version: u64, settings: &Settings) -> SettingsReference {
        let put = objects::put_settings(&*self.store, &self.collection, version, settings).await;
        put.expect("written")
    }

    /// Names these as active and as other, whatever stood there before.
    pub(crate) async fn name(&self, active: &Written, other: Option<(&Written, LineageRole)>) {
        let next = {
            let mut pointer = self.pointer.lock().expect("whole");
            let mut next = pointer.next(format!("n{}", pointer.sequence), Timestamp(1));
            let other = other.map(|(written, role)| written.named(role));
            next.generation = active.manifest.generation.max(next.generation);
            next.generation = other.as_ref().map_or(0, |other| other.generation).max(next.generation);
            if !next.kept.iter().any(|kept| kept.manifest == active.reference) {
                next.kept.push(KeptRelease {
                    generation: active.manifest.generation,
                    lineage: active.manifest.lineage.clone(),
                    manifest: active.reference.clone(),
                    created_at: active.manifest.created_at,
                    checkpoint: active.manifest.checkpoint.sequence,
                    pinned: false,
                    facts: None,
                });
                next.kept.sort_by_key(|kept| kept.generation);
            }
            next.active = Some(active.named(LineageRole::Active));
            next.other = other;
            *pointer = next.clone();
            next
        };
        let body = Body::Bytes(Bytes::from(next.encode()));
        let put = self
            .store
            .put(&keys::pointer(&self.collection), body, Precondition::Any)
            .await;
        put.expect("written");
    }

    /// These are erased, as the pointer says that is written next.
    pub(crate) async fn erase_with_next(&self, ids: &[&str], removed: bool) {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let by = ErasedBy {
            actor: "ada",
            reason: "asked to",
            at: Timestamp(1),
        };
        let list = ErasedList::default().with(&ids, by, false).expect("new ones");
        let bytes = serde_json::to_vec(&list).expect("texts are JSON");
        let (path, digest) = (ErasedList::path(1, "n"), Digest::of(&bytes));
        let key = keys::object(&self.collection, &path);
        let put = self.store.put(&key, Body::Bytes(bytes.into()), Precondition::Any).await;
        put.expect("written");
        self.pointer.lock().expect("whole").erased = Some(Erased {
            list: ManifestReference { path, digest },
            removed,
            earlier: Vec::new(),
        });
    }

    /// The file of a release's first segment.
    pub(crate) fn file(&self, written: &Written, rows: bool) -> PathBuf {
        let files = &written.manifest.segments[0].files;
        let path = if rows { &files.rows.path } else { &files.vectors.path };
        let key = keys::object(&self.collection, path);
        self.store.local_path(&key).expect("a store of files")
    }
}

/// How a search role differs from the usual one.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
    pub(crate) drag: Option<DragOf>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) following: Following,
    /// What the role has in front of the store.
    pub(crate) store: Option<Arc<dyn Store>>,
}

/// A search role that follows the store.
pub(crate) struct Server {
    pub(crate) search: Arc<Search>,
    pub(crate) rpc: Arc<SearchRpc>,
    pub(crate) readiness: Readiness,
    pub(crate) opened: Arc<AtomicU64>,
    pub(crate) registry: Registry,
    pub(crate) tasks: Tasks,
}

impl Server {
    pub(crate) async fn start(world: &World) -> Self {
        Self::start_as(world, Start::default()).await
    }

    pub(crate) async fn start_as(world: &World, start: Start) -> Self {
        let (tasks, _ended) = Tasks::new();
        let store: Arc<dyn Store> = start.store.unwrap_or_else(|| world.store.clone());
        let opened = Arc::new(AtomicU64::new(0));
        let mut embedders = Embedders::new(world.path("models"), 1, None);
        if let Some(embedder) = start.embedder {
            embedders = embedders.with_hashes_by(embedder);
        }
        let (readiness, registry) = (Readiness::default(), Registry::new());
        let deps = SearchDeps {
            opener: Arc::new(Counting {
                inner: Opener::new(store.clone(), VerifiedFiles::default()),
                opened: opened.clone(),
            }),
            store,
            embedders: Arc::new(embedders),
            clock: Clock::system(),
            poll: Duration::from_millis(2),
            parallel_searches: 2,
            standstill: Arc::new(|_| None),
            readiness: readiness.clone(),
            metrics: SearchMetrics::register(&registry).expect("a fresh registry"),
            query_log: Some(world.path("queries")),
            memory_limit: Some(start.memory_limit.unwrap_or(1 << 40)),
            following: start.following,
            log_searches: false,
            downloaded: Arc::new(|| 0),
            drag: start.drag,
        };
        let search = Search::start(deps, tasks.clone()).await.expect("the store lists");
        search.opened().await;
        Self {
            rpc: Arc::new(SearchRpc::new(search.clone())),
            search,
            readiness,
            opened,
            registry,
            tasks,
        }
    }

    /// Searches for a text.
    pub(crate) async fn search(&self, text: &str, lineage: Lineage) -> Result<SearchResponse, Status> {
        self.ask(request(text, lineage)).await
    }

    pub(crate) async fn ask(&self, request: SearchRequest) -> Result<SearchResponse, Status> {
        let answer = self.rpc.search(Request::new(request)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn stats(&self) -> GetServingStatsResponse {
        let request = GetServingStatsRequest {
            collection: name().to_string(),
            ..GetServingStatsRequest::default()
        };
        let stats = self.rpc.get_serving_stats(Request::new(request)).await;
        stats.expect("it answers").into_inner()
    }

    /// Waits until the other lineage is in this state at this generation.
    pub(crate) async fn other_is(&self, state: LineageState, generation: u64) -> LineageStatus {
        eventually("the other lineage is so far", async || {
            let other = self.stats().await.lineages.into_iter().nth(1)?;
            (other.state() == state && other.generation == generation).then_some(other)
        })
        .await
    }

    /// Waits until this lineage answers, at this generation.
    pub(crate) async fn answers(&self, lineage: &str, generation: u64) {
        eventually("it answers", async || {
            let release = self.stats().await.release?;
            (release.lineage == lineage && release.generation == generation).then_some(())
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        assert!(self.tasks.end(PATIENCE).await, "{:?}", self.tasks.running());
    }
}

pub(crate) fn request(text: &str, lineage: Lineage) -> SearchRequest {
    SearchRequest {
        collection: name().to_string(),
        text: text.to_owned(),
        lineage: lineage.into(),
        ..SearchRequest::default()
    }
}

pub(crate) fn lineage_of(answer: &SearchResponse) -> (&str, u64) {
    let release = answer.release.as_ref().expect("there is a release");
    (&release.lineage, release.generation)
}

pub(crate) fn ids(answer: &SearchResponse) -> Vec<&str> {
    answer.hits.iter().map(|hit| hit.id.as_str()).collect()
}

pub(crate) fn lineage(name: &str) -> LineageId {
    name.to_owned().into()
}

/// Asks again and again until there is an answer. Patience is only for a test that will not succeed any more.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("this never happened: {what}"))
}
