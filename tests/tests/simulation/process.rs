//! A process of a story: the real indexer with its collection of garbage, at a seat of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use tonic::Status;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_embed::{EmbedError, Embedder, Embedders, HashEmbedder, TextKind};
use verdigris_indexer::metrics::IndexerMetrics;
use verdigris_indexer::progress::Published;
use verdigris_indexer::{AdminRpc, Indexer, IndexerDeps, collect_garbage};
use verdigris_runtime::clock::Clock;
use verdigris_runtime::shutdown::Tasks;
use verdigris_store::Store;
use verdigris_store::fetch::VerifiedFiles;

use super::disk::Disk;
use super::log::{Ear, Log};
use super::opener::Opener;
use super::seat::Seat;
use super::{DIMENSION, name};

/// A document with this word in its embedded text makes the embedder panic.
pub(crate) const POISON: &str = "strychnine";

/// An embedder that panics at a word.
struct Squeamish(HashEmbedder);

#[async_trait]
impl Embedder for Squeamish {
    fn identity(&self) -> &EmbedderIdentity {
        self.0.identity()
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        assert!(!texts.iter().any(|text| text.contains(POISON)), "planted: {POISON}");
        self.0.embed(texts, kind).await
    }
}

/// A process of a story.
pub(crate) struct Process {
    pub(crate) seat: Arc<Seat>,
    pub(crate) clock: Clock,
    tasks: Tasks,
    started: Arc<OnceLock<Arc<Indexer>>>,
}

impl Process {
    /// Begins; it may be long before it has listed the store.
    pub(crate) fn start(seat: Arc<Seat>, log: &Arc<Log>, disk: &Arc<Disk>, is_squeamish: bool) -> Self {
        let mut embedders = Embedders::new(disk.folder().join("models"), 1, None);
        if is_squeamish {
            let inner = HashEmbedder::new(DIMENSION).expect("a dimension");
            embedders = embedders.with_hashes_by(Arc::new(Squeamish(inner)));
        }
        let clock = Clock::manual(disk.now());
        let store: Arc<dyn Store> = seat.clone();
        let scratch = disk.folder().join("scratch").join(&seat.name);
        std::fs::create_dir_all(&scratch).expect("there is room");
        let deps = IndexerDeps {
            store: store.clone(),
            bus: Ear::new(log, &seat),
            opener: Arc::new(Opener::new(store, VerifiedFiles::default())),
            embedders: Arc::new(embedders),
            clock: clock.clone(),
            scratch,
            threads: 1,
            metrics: IndexerMetrics::register(&Registry::new()).expect("a fresh registry"),
            forget_queries: Arc::new(|_, _| Box::pin(async { Ok(()) })),
        };
        let (tasks, _) = Tasks::new();
        let started = Arc::new(OnceLock::new());
        let (ours, own, slot) = (tasks.clone(), seat.clone(), started.clone());
        tokio::spawn(async move {
            match Indexer::start(deps, ours.clone(), own.name.clone()).await {
                Ok(indexer) => {
                    tokio::spawn(collect_garbage(indexer.clone(), ours.token()));
                    // Nobody else sets it.
                    let _ = slot.set(indexer);
                }
                Err(error) => {
                    own.disk.tell(|| format!("{} does not start: {error}", own.name));
                    own.kill();
                }
            }
        });
        Self {
            seat,
            clock,
            tasks,
            started,
        }
    }

    /// Whether it could still do something.
    pub(crate) fn is_alive(&self) -> bool {
        !self.seat.is_dead()
    }

    /// What it says to have published.
    pub(crate) fn published(&self) -> Option<Published> {
        let handle = self.started.get()?.handle(&name())?;
        Some(handle.progress.published())
    }

    /// Why it stands still.
    pub(crate) fn standstill(&self) -> Option<String> {
        let handle = self.started.get()?.handle(&name())?;
        handle
            .status
            .standstill()
            .map(|why| format!("{}: {}", why.reason.as_str(), why.message))
    }

    /// Asks the process for something; the answer goes to the trace. Nobody waits for it.
    pub(crate) fn ask<F>(&self, what: String, call: impl FnOnce(Arc<AdminRpc>) -> F + Send + 'static)
    where
        F: Future<Output = Result<String, Status>> + Send + 'static,
    {
        let Some(indexer) = self.started.get().cloned() else {
            return;
        };
        let (disk, by) = (self.seat.disk.clone(), self.seat.name.clone());
        disk.tell(|| format!("{by} is asked to {what}"));
        tokio::spawn(async move {
            let answer = call(Arc::new(AdminRpc::new(indexer))).await;
            disk.tell(|| match answer {
                Ok(done) => format!("{by} did {what}: {done}"),
                Err(status) => format!("{by} did not {what}: {}", status.message()),
            });
        });
    }

    /// Ends it as after SIGTERM, as far as it comes in this time.
    pub(crate) async fn stop(self, limit: Duration) {
        let ended = self.tasks.end(limit).await;
        self.seat
            .disk
            .tell(|| format!("{} was stopped: {ended}", self.seat.name));
        self.seat.kill();
    }
}
