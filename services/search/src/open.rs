//! Opening a release of a lineage: its manifest, its settings, its model, its files; and the first searches that warm
//! it. Whatever an open release of either lineage has already is lent.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::manifest::Manifest;
use verdigris_core::pointer::LineagePointer;
use verdigris_core::settings::Settings;
use verdigris_embed::{Embedder, QUERY_CACHE_ENTRIES, QueryCache};
use verdigris_engine::release::Release;
use verdigris_engine::release::open::OpenError;
use verdigris_proto::reason::Reason;
use verdigris_store::{ReadError, collection as objects};

use crate::Search;
use crate::answer::{chain, reason_of_read};
use crate::following::Start;
use crate::lineages::{Followed, Problem, Served};

/// Memory that a release needs, as a share of its files.
const MEMORY_NEEDED: [u64; 2] = [6, 5];

/// Opens the release that the pointer names. Cancel safe: what was verified meanwhile stays verified.
pub(crate) async fn open(search: &Arc<Search>, followed: &Followed, named: &LineagePointer) -> Result<Served, Problem> {
    let began = Instant::now();
    let store = &*search.deps.store;
    let lineages = followed.lineages();
    // Of its own lineage, or of the one that it was made from: segments may be the same in both.
    let same_lineage = lineages.open_of(&named.lineage).cloned();
    let before = same_lineage
        .clone()
        .or_else(|| lineages.served(verdigris_proto::search::Lineage::Active).ok());
    let manifest = objects::manifest(store, &followed.name, &named.manifest).await;
    let manifest = Arc::new(manifest.map_err(of_read)?);
    check_memory(search, &manifest)?;
    let previous = before.as_ref().map(|served| &served.release);
    // An error of either drops the other: what was verified meanwhile stays verified.
    let ((settings, embedder), opened) = tokio::try_join!(
        settings_and_embedder(search, followed, &manifest, before.as_deref()),
        opened_files(search, followed, &manifest, previous)
    )?;
    let hidden = followed.hidden();
    let release = hidden.hide(&opened);
    Ok(Served {
        release,
        settings,
        embedder,
        reference: named.manifest.clone(),
        hidden: hidden.list(),
        ready: same_lineage.map_or_else(|| began.elapsed(), |served| served.ready),
    })
}

/// The settings and the model of a release, those of the one before where they are the same.
async fn settings_and_embedder(
    search: &Arc<Search>,
    followed: &Followed,
    manifest: &Manifest,
    before: Option<&Served>,
) -> Result<(Arc<Settings>, Option<Arc<QueryCache>>), Problem> {
    let same = before.filter(|served| served.release.manifest().settings == manifest.settings);
    let settings = match same {
        Some(served) => served.settings.clone(),
        None => {
            let settings = objects::settings(&*search.deps.store, &followed.name, &manifest.settings).await;
            Arc::new(settings.map_err(of_read)?)
        }
    };
    let same = before.filter(|served| served.release.manifest().embedder == manifest.embedder);
    let embedder = match same {
        Some(served) => served.embedder.clone(),
        None => search.queries.of(search, manifest, &settings).await?,
    };
    Ok((settings, embedder))
}

/// The files of a release, verified and opened.
async fn opened_files(
    search: &Arc<Search>,
    followed: &Followed,
    manifest: &Arc<Manifest>,
    previous: Option<&Arc<Release>>,
) -> Result<Arc<Release>, Problem> {
    let open = || async {
        search
            .deps
            .opener
            .open(manifest.clone(), previous)
            .await
            .map_err(of_open)
    };
    match open().await {
        // Older releases that stay open for the next pages of searches have the room that this one needs.
        Err(problem) if problem.reason == Reason::DiskFull && followed.give_up_paged() => open().await,
        opened => opened,
    }
}

/// Refuses what this process could only open to be ended by the system, before a byte of it is fetched.
fn check_memory(search: &Search, manifest: &Manifest) -> Result<(), Problem> {
    // In a process of all roles the release is there already, and a gate judges it.
    let Some(limit) = search
        .deps
        .memory_limit
        .filter(|_| search.deps.following.start == Start::Beside)
    else {
        return Ok(());
    };
    let (bytes, [needed, of]) = (manifest.bytes(), MEMORY_NEEDED);
    if bytes / of * needed <= limit {
        return Ok(());
    }
    let message = format!(
        "release {} has {bytes} bytes and needs {needed}/{of} of that in memory; this process may use {limit}",
        manifest.generation
    );
    Err(Problem {
        reason: Reason::MemoryTooSmall,
        message,
    })
}

pub(crate) fn of_read(error: ReadError) -> Problem {
    Problem {
        reason: reason_of_read(&error),
        message: chain(&error),
    }
}

fn of_open(error: OpenError) -> Problem {
    let reason = match &error {
        OpenError::Damaged(_) => Reason::DataDamaged,
        // No room in the cache is not the store's fault.
        OpenError::Unavailable(cause) => cause
            .downcast_ref::<ReadError>()
            .map_or(Reason::StoreUnavailable, reason_of_read),
    };
    Problem {
        reason,
        message: chain(&error),
    }
}

/// What embeds queries, by model.
#[derive(Default)]
pub(crate) struct QueryCaches(Mutex<Vec<(EmbedderIdentity, Weak<QueryCache>)>>);

impl QueryCaches {
    /// Queries are embedded by the model that embedded the documents, or not at all (I-17). Releases of one model share
    /// what they remember, so that a thousand small collections do not remember for each.
    async fn of(
        &self,
        search: &Arc<Search>,
        manifest: &Manifest,
        settings: &Settings,
    ) -> Result<Option<Arc<QueryCache>>, Problem> {
        if let Some(known) = self.known(&manifest.embedder) {
            return Ok(Some(known));
        }
        let Some(embedder) = query_embedder(search, manifest, settings).await? else {
            return Ok(None);
        };
        let mut caches = self.lock();
        caches.retain(|(_, cache)| cache.strong_count() > 0);
        // Somebody else may have been first.
        let known = caches.iter().find(|(identity, _)| *identity == manifest.embedder);
        if let Some(known) = known.and_then(|(_, cache)| cache.upgrade()) {
            return Ok(Some(known));
        }
        let cache = Arc::new(QueryCache::new(embedder, QUERY_CACHE_ENTRIES));
        caches.push((manifest.embedder.clone(), Arc::downgrade(&cache)));
        Ok(Some(cache))
    }

    fn known(&self, identity: &EmbedderIdentity) -> Option<Arc<QueryCache>> {
        let caches = self.lock();
        let known = caches.iter().find(|(known, _)| known == identity);
        known.and_then(|(_, cache)| cache.upgrade())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(EmbedderIdentity, Weak<QueryCache>)>> {
        self.0.lock().expect("held for a moment only")
    }
}

async fn query_embedder(
    search: &Arc<Search>,
    manifest: &Manifest,
    settings: &Settings,
) -> Result<Option<Arc<dyn Embedder>>, Problem> {
    let (embedders, wanted) = (search.deps.embedders.clone(), settings.embedder.clone());
    let loaded = tokio::task::spawn_blocking(move || embedders.queries(&wanted)).await;
    let problem = |reason, message| Problem { reason, message };
    let loaded = loaded.map_err(|error| problem(Reason::Internal, error.to_string()))?;
    let embedder = loaded.map_err(|error| problem(Reason::EmbedderUnavailable, chain(&error)))?;
    let Some(embedder) = embedder else {
        return if manifest.embedder.is_none() {
            Ok(None)
        } else {
            Err(mismatch(manifest, "none"))
        };
    };
    if *embedder.identity() != manifest.embedder {
        let ours = embedder.identity();
        return Err(mismatch(manifest, &format!("{}/{}", ours.provider, ours.model)));
    }
    Ok(Some(embedder))
}

fn mismatch(manifest: &Manifest, ours: &str) -> Problem {
    let theirs = &manifest.embedder;
    let message = format!(
        "release {} was embedded by {}/{} ({}), this server has {ours}: the two vector spaces must not meet",
        manifest.generation, theirs.provider, theirs.model, theirs.revision
    );
    Problem {
        reason: Reason::EmbedderMismatch,
        message,
    }
}
