//! The indexer: events become releases. In reading order: `ingest` accepts, `window` consumes, `order` judges and folds,
//! `embed`, `write_segment`, `publish`; `turn` puts them together, `collection` repeats turns; `admin` answers people.
//!
//! It is the only writer of a collection's releases and the only collector of its garbage.
#![forbid(unsafe_code)]

mod admin;
mod beside;
mod building;
mod collection;
mod dead_letters;
mod embed;
mod erase;
mod erasing;
pub mod error;
mod follow;
mod garbage;
mod guard;
mod holders;
mod holding;
mod in_force;
mod ingest;
mod lag;
mod letters;
mod looking;
mod merge;
pub mod metrics;
mod order;
pub mod progress;
mod publish;
mod rebuild;
mod rebuilding;
mod recall;
mod releases;
mod resync;
mod settings_rpc;
mod shown;
mod staged;
pub mod status;
mod take_over;
mod traced;
mod turn;
mod window;
mod windows;
mod write_segment;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use verdigris_bus::Bus;
use verdigris_core::names::CollectionName;
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::Embedders;
use verdigris_engine::release::open::OpenRelease;
use verdigris_runtime::clock::Clock;
use verdigris_runtime::shutdown::Tasks;
use verdigris_store::{ReadError, Store, StoreError, chance, collection as objects, commit};

pub use admin::AdminRpc;
pub use ingest::IngestRpc;
pub use rebuild::BuildProgress;

use crate::collection::CollectionIndexer;
use crate::error::IndexerError;
use crate::metrics::IndexerMetrics;
use crate::progress::Progress;
use crate::status::Status;

/// Commands that wait for a collection's indexer: people send them one at a time.
const COMMANDS_MAX: usize = 64;

/// Takes logged queries away that have one of these texts in them, ids of erased documents; the search role of the same
/// process has the log. They are gone when the future is ready.
pub type ForgetQueries =
    Arc<dyn Fn(&CollectionName, Vec<String>) -> BoxFuture<'static, std::io::Result<()>> + Send + Sync>;

/// What the indexer works with.
pub struct IndexerDeps {
    /// Where releases go.
    pub store: Arc<dyn Store>,
    /// Where events come from.
    pub bus: Arc<dyn Bus>,
    /// Opens releases, shared with the search role of the process.
    pub opener: Arc<dyn OpenRelease>,
    /// Models.
    pub embedders: Arc<Embedders>,
    /// Time.
    pub clock: Clock,
    /// A folder for files under work, on the store's disk where it is local.
    pub scratch: PathBuf,
    /// Threads that build the structure over a window's vectors.
    pub threads: usize,
    /// Figures.
    pub metrics: IndexerMetrics,
    /// Takes logged queries away, for an erase.
    pub forget_queries: ForgetQueries,
}

/// What a collection's indexer is told.
pub(crate) enum Command {
    /// Look at the pointer again.
    Refresh,
    /// Publish an older release's content, and stand still.
    RollBack(holding::RollBack),
    /// Go on with the events since.
    Resume(holding::Resume),
    /// Write all rows anew as another lineage.
    Rebuild(rebuilding::Wish),
    /// Hide documents at once and for ever, and remove their bytes.
    Erase(erase::Wish),
    /// Decide about a staged release.
    Decide(guard::Decision),
    /// Go on from the beginning of the log that is there now.
    AdoptStream {
        /// Told when it is done.
        done: oneshot::Sender<Result<(), IndexerError>>,
    },
}

/// What the rest of the process sees of a collection's indexer.
pub struct Handle {
    /// How far it has come.
    pub progress: Progress,
    /// Whether it publishes.
    pub status: Status,
    /// How far a rebuild has come.
    pub building: Arc<BuildProgress>,
    commands: mpsc::Sender<Command>,
    /// What may yet be named, by how its paths begin.
    writing: Mutex<BTreeSet<String>>,
    /// Traces of events that are on their way.
    pub(crate) traced: traced::Traced,
    /// Documents that were erased, as far as the indexer has looked.
    erased: Mutex<Arc<BTreeSet<String>>>,
    /// The settings as they were last read, for events that come while the store is away.
    settings: Mutex<Option<Arc<Settings>>>,
}

impl Handle {
    /// Garbage collection leaves what begins with this path alone while the result lives.
    fn begin_writing(&self, path: String) -> BeingWritten<'_> {
        self.writing().insert(path.clone());
        BeingWritten { handle: self, path }
    }

    fn is_being_written(&self, key: &str) -> bool {
        self.writing().iter().any(|path| key.starts_with(path.as_str()))
    }

    /// The documents for which nothing is taken any more.
    pub(crate) fn erased(&self) -> Arc<BTreeSet<String>> {
        self.erased
            .lock()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    pub(crate) fn note_erased(&self, ids: Arc<BTreeSet<String>>) {
        *self.erased.lock().expect("no code panics while it holds this lock") = ids;
    }

    pub(crate) fn last_settings(&self) -> Option<Arc<Settings>> {
        self.settings
            .lock()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    pub(crate) fn note_settings(&self, settings: Arc<Settings>) {
        *self.settings.lock().expect("no code panics while it holds this lock") = Some(settings);
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.writing.lock().expect("no code panics while it holds this lock")
    }

    async fn send(&self, command: Command) {
        // The collection's indexer may have ended with the process; then nobody needs to be told.
        let _ = self.commands.send(command).await;
    }
}

struct BeingWritten<'a> {
    handle: &'a Handle,
    path: String,
}

impl Drop for BeingWritten<'_> {
    fn drop(&mut self) {
        self.handle.writing().remove(&self.path);
    }
}

/// All collections' indexers of a process.
pub struct Indexer {
    deps: Arc<IndexerDeps>,
    tasks: Tasks,
    instance: String,
    handles: Mutex<BTreeMap<CollectionName, Arc<Handle>>>,
    /// Collections are made one at a time, so that two first events do not race.
    making: tokio::sync::Mutex<()>,
}

impl Indexer {
    /// Starts an indexer for each collection of the store. `instance` names this start of the process.
    pub async fn start(deps: IndexerDeps, tasks: Tasks, instance: String) -> Result<Arc<Self>, StoreError> {
        let (deps, handles) = (Arc::new(deps), Mutex::default());
        let indexer = Arc::new(Self {
            deps,
            tasks,
            instance,
            handles,
            making: tokio::sync::Mutex::default(),
        });
        for name in objects::list(&*indexer.deps.store).await? {
            indexer.begin(&name);
        }
        let (looking, token) = (indexer.clone(), indexer.tasks.token());
        indexer.tasks.spawn("lag of publishing", async move {
            lag::run(looking, token).await;
            Ok(())
        });
        Ok(indexer)
    }

    /// The indexer of a collection, if there is one.
    pub fn handle(&self, name: &CollectionName) -> Option<Arc<Handle>> {
        self.lock().get(name).cloned()
    }

    /// What it works with.
    pub fn deps(&self) -> &IndexerDeps {
        &self.deps
    }

    /// The indexer of a collection, which is made with these settings where it is not there.
    pub(crate) async fn ensure(&self, name: &CollectionName, settings: &Settings) -> Result<Arc<Handle>, ReadError> {
        if let Some(handle) = self.handle(name) {
            return Ok(handle);
        }
        let _making = self.making.lock().await;
        if let Some(handle) = self.handle(name) {
            return Ok(handle);
        }
        let (store, now) = (&*self.deps.store, Timestamp(self.deps.clock.now_ns()));
        match objects::create(store, name, settings, commit::nonce(), now).await {
            Ok(_) | Err(StoreError::PreconditionFailed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.begin(name))
    }

    /// Forgets a collection whose objects are gone.
    pub(crate) fn forget(&self, name: &CollectionName) {
        self.lock().remove(name);
    }

    fn begin(&self, name: &CollectionName) -> Arc<Handle> {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (progress, status, writing) = (Progress::default(), Status::default(), Mutex::default());
        let handle = Arc::new(Handle {
            progress,
            status,
            building: Arc::default(),
            commands: sender,
            writing,
            traced: traced::Traced::default(),
            erased: Mutex::default(),
            settings: Mutex::default(),
        });
        self.lock().insert(name.clone(), handle.clone());
        let token = self.tasks.token();
        let worker = CollectionIndexer {
            deps: self.deps.clone(),
            name: name.clone(),
            handle: handle.clone(),
            commands,
            instance: self.instance.clone(),
            panics: crate::collection::Panics::default(),
            epoch: None,
        };
        self.tasks.spawn(format!("indexer of {name}"), async move {
            worker.run(token.clone()).await;
            // A deleted collection has no more work; the end of this task is not the end of the process.
            token.cancelled().await;
            Ok(())
        });
        handle
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CollectionName, Arc<Handle>>> {
        self.handles.lock().expect("no code panics while it holds this lock")
    }
}

/// A name for a segment or a lineage: later ones sort behind, and no two are alike.
pub(crate) fn fresh_name(clock: &Clock) -> ulid::Ulid {
    let milliseconds = u64::try_from(clock.now_ns() / 1_000_000).unwrap_or_default();
    ulid::Ulid::from_parts(milliseconds, chance::draw())
}

pub use garbage::run as collect_garbage;
