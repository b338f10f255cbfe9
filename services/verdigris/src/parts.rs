//! What roles are put together from, by configuration: a store, a bus, models, an opener. Each is opened by one function.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::{IntCounter, Registry};
use verdigris_bus::nats::{NatsBus, NatsOptions};
use verdigris_bus::{Bus, SqliteBus, SqliteOptions};
use verdigris_embed::{CACHE_VECTORS_MAX, Embedders, EmbeddingCache};
use verdigris_engine::release::open::OpenRelease;
use verdigris_runtime::clock::Clock;
use verdigris_runtime::config::Values;
use verdigris_store::Store;
use verdigris_store::directory::DirectoryStore;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::s3::{Encryption, S3Options, S3Store};

use crate::figures;
use crate::folder::Folder;
use crate::measured::{MeasuredStore, StoreMetrics};
use crate::opener::Opener;

/// How often a reader looks at the pointer of a folder on its own machine, and of a store far away.
const POLL: Duration = Duration::from_millis(50);
const POLL_REMOTE: Duration = Duration::from_secs(1);

/// How addresses of S3 begin.
const S3: &str = "s3://";

/// A value of the configuration that no part can be made of.
#[derive(Debug, thiserror::Error)]
#[error("{key} is {value:?}: expected {expected}")]
pub(crate) struct Unusable {
    key: &'static str,
    value: String,
    expected: &'static str,
}

impl Unusable {
    /// A key that a role cannot do without.
    pub(crate) fn absent(key: &'static str, expected: &'static str) -> Self {
        Self {
            key,
            value: String::new(),
            expected,
        }
    }
}

/// What a role does to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// It only reads, perhaps with credentials that allow no more.
    Read,
    /// It writes, and tries out before whether that is safe.
    Write,
}

/// What every role needs.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    /// How often the pointer is looked at.
    pub(crate) poll: Duration,
    /// Bytes that were read from the store.
    pub(crate) fetched: IntCounter,
}

/// What roles need that open releases.
pub(crate) struct Opening {
    pub(crate) opener: Arc<dyn OpenRelease>,
    pub(crate) embedders: Arc<Embedders>,
    pub(crate) threads: usize,
}

impl Parts {
    /// Opens the store, whose requests are measured.
    pub(crate) async fn open(
        values: &Values,
        folder: &Folder,
        rights: Rights,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let (store, poll) = open_store(values, &folder.store(), rights).await?;
        let metrics = StoreMetrics::register(registry)?;
        let fetched = metrics.fetched();
        Ok(Self {
            store: Arc::new(MeasuredStore::new(store, metrics)),
            fetched,
            poll,
            clock: Clock::system(),
        })
    }

    /// What opens releases of the store, with models from their folder.
    pub(crate) fn opening(
        &self,
        values: &Values,
        folder: &Folder,
        models: PathBuf,
        registry: &Registry,
    ) -> anyhow::Result<Opening> {
        let cached = values.path("cache.folder").map(PathBuf::from);
        let cached = cached.unwrap_or_else(|| folder.cache().join("objects"));
        let files = match (self.is_remote(), values.bytes("cache.limit")) {
            (false, _) => Ok(VerifiedFiles::default()),
            (true, None) => VerifiedFiles::with_cache(&cached),
            (true, Some(limit)) => VerifiedFiles::with_limited_cache(&cached, limit.0),
        };
        let files = files.with_context(|| format!("cache folder {} cannot be used", cached.display()))?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let cache = EmbeddingCache::open(&folder.cache().join("embeddings.sqlite"), CACHE_VECTORS_MAX);
        let cache = cache.context("the embedding cache cannot be opened")?;
        let embedders = Arc::new(Embedders::new(models, threads, Some(Arc::new(cache))));
        let files = Arc::new(files);
        figures::of_models(registry, embedders.clone())?;
        figures::of_cache(registry, files.clone())?;
        Ok(Opening {
            opener: Arc::new(Opener::new(self.store.clone(), files)),
            embedders,
            threads,
        })
    }

    fn is_remote(&self) -> bool {
        self.poll == POLL_REMOTE
    }
}

/// The store of a configuration, in this folder where it names none, and how often its pointers are looked at.
pub(crate) async fn open_store(
    values: &Values,
    folder: &Path,
    rights: Rights,
) -> anyhow::Result<(Arc<dyn Store>, Duration)> {
    let Some(url) = values.text("store.url") else {
        return Ok((Arc::new(DirectoryStore::open(folder)?), POLL));
    };
    let poll = if url.starts_with(S3) { POLL_REMOTE } else { POLL };
    Ok((store_at(url, |options| s3(values, rights, options)).await?, poll))
}

/// The store at an address; `more` says what S3 wants to know beside it.
pub(crate) async fn store_at(url: &str, more: impl FnOnce(&mut S3Options)) -> anyhow::Result<Arc<dyn Store>> {
    if url.starts_with(S3) {
        let mut options = S3Options::parse(url)?;
        more(&mut options);
        return Ok(Arc::new(S3Store::connect(options).await?));
    }
    // As people write it, `file:/path` and `file:///path` are one.
    let folder = url.strip_prefix("file:").filter(|path| !path.is_empty());
    let folder = folder.map(|path| path.strip_prefix("//").unwrap_or(path));
    let folder = folder.ok_or_else(|| Unusable {
        key: "store.url",
        value: url.to_owned(),
        expected: "file:DIR or s3://bucket/prefix",
    })?;
    Ok(Arc::new(DirectoryStore::open(Path::new(folder))?))
}

/// How S3 is spoken to.
fn s3(values: &Values, rights: Rights, options: &mut S3Options) {
    options.region = values.text("store.region").map(str::to_owned);
    options.endpoint = values.text("store.endpoint").map(str::to_owned);
    options.path_style = values.switch("store.path_style").unwrap_or(false);
    let key = || values.text("store.kms_key").unwrap_or_default().to_owned();
    options.encryption = match values.text("store.encryption") {
        Some("sse") => Encryption::Sse,
        Some("kms") => Encryption::Kms(key()),
        _ => Encryption::None,
    };
    options.probe = rights == Rights::Write;
}

/// How NATS is spoken to. One stream has one word for its subjects, so that two do not meet on a server.
fn nats(values: &Values, url: &str) -> NatsOptions {
    let mut options = NatsOptions::new(url);
    if let Some(stream) = values.text("bus.stream") {
        options.stream = stream.to_owned();
        options.prefix = format!("{}.", stream.to_lowercase());
    }
    options.credentials_file = values.path("bus.credentials_file").map(PathBuf::from);
    options.ca_file = values.path("bus.ca_file").map(PathBuf::from);
    options
}

/// The bus of a configuration.
pub(crate) async fn open_bus(values: &Values, folder: &Folder, clock: &Clock) -> anyhow::Result<Arc<dyn Bus>> {
    let url = values.text("bus.url");
    if let Some(url) = url.filter(|url| url.starts_with("nats://") || url.starts_with("tls://")) {
        return Ok(Arc::new(NatsBus::connect(nats(values, url)).await?));
    }
    let file = match url.unwrap_or("sqlite:").strip_prefix("sqlite:") {
        Some("") => folder.bus(),
        Some(path) => PathBuf::from(path),
        None => {
            return Err(Unusable {
                key: "bus.url",
                value: url.unwrap_or_default().to_owned(),
                expected: "sqlite:FILE or nats://host:port",
            }
            .into());
        }
    };
    let clock = clock.clone();
    let bus = SqliteBus::open(&file, SqliteOptions::default(), Arc::new(move || clock.now_ns()))?;
    Ok(Arc::new(bus))
}
