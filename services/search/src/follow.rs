//! Refresh and swap: see the pointer move, verify and open what is new, warm it, swap the one handle.
//!
//! Requests in flight keep the release that they took; its files are unmapped when the last of them leaves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;
use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::LineagePointer;
use verdigris_core::settings::Settings;
use verdigris_embed::{QUERY_CACHE_ENTRIES, QueryCache};
use verdigris_engine::release::Release;
use verdigris_engine::release::open::OpenError;
use verdigris_store::collection::{self as objects, SeenPointer};
use verdigris_store::{ReadError, Tag};

use crate::Search;

/// Releases that stay open for page tokens after a swap, and for how long.
const PAGED_RELEASES_MAX: usize = 32;
const PAGED_FOR: Duration = Duration::from_secs(60);
/// Between two tries after an error.
const RETRY: Duration = Duration::from_secs(1);

/// A release that answers, and what answering needs beside it.
pub(crate) struct Served {
    pub(crate) release: Arc<Release>,
    pub(crate) settings: Arc<Settings>,
    /// Embeds queries; none where vectors come with the documents.
    pub(crate) embedder: Option<Arc<QueryCache>>,
}

/// Why a collection does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotServed {
    /// Nothing was published yet.
    Empty,
    /// It was deleted, or is not there.
    Gone,
    /// Its newest release cannot be opened, and there is none before it.
    Broken {
        /// Whether a file is damaged, or was embedded by another model.
        reason: verdigris_proto::reason::Reason,
        /// What happened.
        message: String,
    },
}

/// A collection that is followed.
pub(crate) struct Followed {
    pub(crate) name: CollectionName,
    pub(crate) first_look: OnceCell<()>,
    served: ArcSwapOption<Served>,
    not_served: Mutex<NotServed>,
    seen: Mutex<Option<Tag>>,
    swaps: watch::Sender<u64>,
    paged: Mutex<VecDeque<(Instant, Arc<Served>)>>,
}

impl Followed {
    pub(crate) fn new(name: CollectionName) -> Self {
        Self {
            name,
            first_look: OnceCell::new(),
            served: ArcSwapOption::empty(),
            not_served: Mutex::new(NotServed::Gone),
            seen: Mutex::new(None),
            swaps: watch::channel(0).0,
            paged: Mutex::default(),
        }
    }

    /// What answers now. A request takes it once.
    pub(crate) fn served(&self) -> Result<Arc<Served>, NotServed> {
        self.served
            .load_full()
            .ok_or_else(|| self.not_served.lock().expect("held for a moment only").clone())
    }

    /// The release of a page token, if it is still open.
    pub(crate) fn paged(&self, generation: u64) -> Option<Arc<Served>> {
        let is_meant = |served: &Arc<Served>| served.release.manifest().generation == generation;
        let current = self.served.load_full().filter(is_meant);
        current.or_else(|| {
            let paged = self.paged.lock().expect("held for a moment only");
            paged
                .iter()
                .map(|(_, served)| served)
                .find(|served| is_meant(served))
                .cloned()
        })
    }

    /// Told at each swap.
    pub(crate) fn swaps(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }

    fn swap(&self, served: Arc<Served>) {
        let generation = served.release.manifest().generation;
        let before = self.served.swap(Some(served));
        let now = Instant::now();
        let mut paged = self.paged.lock().expect("held for a moment only");
        paged.extend(before.map(|served| (now, served)));
        while paged
            .front()
            .is_some_and(|(at, _)| paged.len() > PAGED_RELEASES_MAX || now - *at > PAGED_FOR)
        {
            paged.pop_front();
        }
        drop(paged);
        self.swaps.send_replace(generation);
    }

    fn stop(&self, why: NotServed) {
        *self.not_served.lock().expect("held for a moment only") = why;
        self.served.store(None);
        self.paged.lock().expect("held for a moment only").clear();
    }

    /// Releases kept for page tokens go after a while, also when nothing is published.
    fn forget_paged(&self) {
        let now = Instant::now();
        self.paged
            .lock()
            .expect("held for a moment only")
            .retain(|(at, _)| now - *at <= PAGED_FOR);
    }
}

/// Follows the pointer until the token is cancelled or the collection is gone.
pub(crate) async fn run(search: &Arc<Search>, followed: &Arc<Followed>, token: &CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(search.deps.poll) => {}
        }
        if !look(search, followed).await {
            search.forget(&followed.name);
            return;
        }
        followed.forget_paged();
    }
}

/// Looks at the pointer once, and swaps if it has moved. False when the collection is gone.
pub(crate) async fn look(search: &Arc<Search>, followed: &Arc<Followed>) -> bool {
    let known = followed.seen.lock().expect("held for a moment only").clone();
    let seen = match objects::pointer_if_moved(&*search.deps.store, &followed.name, known.as_ref()).await {
        Ok(None) => return true,
        Ok(Some(seen)) => seen,
        Err(ReadError::NoCollection(_)) => {
            followed.stop(NotServed::Gone);
            search.deps.readiness.ready(followed.name.as_str());
            return false;
        }
        Err(error) => {
            // What is open goes on answering; the age of the release tells how stale it is.
            tracing::warn!(collection = %followed.name, "pointer: {}", crate::answer::chain(&error));
            search.deps.metrics.refresh_failed(&followed.name);
            if let ReadError::Pointer { .. } = error {
                broken(
                    search,
                    followed,
                    crate::answer::reason_of_read(&error),
                    crate::answer::chain(&error),
                );
            }
            tokio::time::sleep(RETRY).await;
            return true;
        }
    };
    if let Err((reason, message)) = follow_to(search, followed, &seen).await {
        search.deps.metrics.refresh_failed(&followed.name);
        tracing::error!(collection = %followed.name, reason = reason.as_str(), "{message}");
        broken(search, followed, reason, message);
        tokio::time::sleep(RETRY).await;
        return true;
    }
    *followed.seen.lock().expect("held for a moment only") = Some(seen.tag);
    true
}

/// A release that cannot be opened: the one before goes on answering, where there is one.
fn broken(search: &Search, followed: &Followed, reason: verdigris_proto::reason::Reason, message: String) {
    if followed.served.load().is_none() {
        search.deps.readiness.not_ready(followed.name.as_str(), message.clone());
        followed.stop(NotServed::Broken { reason, message });
    }
}

async fn follow_to(
    search: &Arc<Search>,
    followed: &Followed,
    seen: &SeenPointer,
) -> Result<(), (verdigris_proto::reason::Reason, String)> {
    let pointer = &seen.pointer;
    if pointer.deleted_at.is_some() {
        followed.stop(NotServed::Gone);
        return Ok(());
    }
    let Some(active) = &pointer.active else {
        followed.stop(NotServed::Empty);
        return Ok(());
    };
    let before = followed.served.load_full();
    let unmoved = before
        .as_ref()
        .is_some_and(|served| served.release.manifest().generation == active.generation);
    if unmoved {
        return Ok(());
    }
    let began = Instant::now();
    let served = open(search, followed, active, before.as_deref()).await?;
    search
        .deps
        .metrics
        .swapped(&followed.name, served.release.manifest(), began.elapsed());
    followed.swap(Arc::new(served));
    search.deps.readiness.ready(followed.name.as_str());
    Ok(())
}

async fn open(
    search: &Arc<Search>,
    followed: &Followed,
    active: &LineagePointer,
    before: Option<&Served>,
) -> Result<Served, (verdigris_proto::reason::Reason, String)> {
    let store = &*search.deps.store;
    let read = |error: ReadError| (crate::answer::reason_of_read(&error), crate::answer::chain(&error));
    let manifest = objects::manifest(store, &followed.name, &active.manifest)
        .await
        .map_err(read)?;
    let settings = match before.filter(|served| served.release.manifest().settings == manifest.settings) {
        Some(served) => served.settings.clone(),
        None => Arc::new(
            objects::settings(store, &followed.name, &manifest.settings)
                .await
                .map_err(read)?,
        ),
    };
    let embedder = match before.filter(|served| served.release.manifest().embedder == manifest.embedder) {
        Some(served) => served.embedder.clone(),
        None => query_embedder(search, &manifest, &settings).await?,
    };
    let opened = search
        .deps
        .opener
        .open(Arc::new(manifest), before.map(|served| &served.release))
        .await;
    let release = opened.map_err(|error| {
        let reason = match error {
            OpenError::Damaged(_) => verdigris_proto::reason::Reason::DataDamaged,
            OpenError::Unavailable(_) => verdigris_proto::reason::Reason::StoreUnavailable,
        };
        (reason, crate::answer::chain(&error))
    })?;
    Ok(Served {
        release,
        settings,
        embedder,
    })
}

/// Queries are embedded by the model that embedded the documents, or not at all (I-17).
async fn query_embedder(
    search: &Arc<Search>,
    manifest: &Manifest,
    settings: &Settings,
) -> Result<Option<Arc<QueryCache>>, (verdigris_proto::reason::Reason, String)> {
    use verdigris_proto::reason::Reason;
    let (embedders, wanted) = (search.deps.embedders.clone(), settings.embedder.clone());
    let loaded = tokio::task::spawn_blocking(move || embedders.queries(&wanted)).await;
    let loaded = loaded.map_err(|error| (Reason::Internal, error.to_string()))?;
    let embedder = loaded.map_err(|error| (Reason::EmbedderUnavailable, crate::answer::chain(&error)))?;
    let Some(embedder) = embedder else {
        return if manifest.embedder.is_none() {
            Ok(None)
        } else {
            Err(mismatch(manifest, "none"))
        };
    };
    if *embedder.identity() != manifest.embedder {
        return Err(mismatch(
            manifest,
            &format!("{}/{}", embedder.identity().provider, embedder.identity().model),
        ));
    }
    Ok(Some(Arc::new(QueryCache::new(embedder, QUERY_CACHE_ENTRIES))))
}

fn mismatch(manifest: &Manifest, ours: &str) -> (verdigris_proto::reason::Reason, String) {
    let theirs = &manifest.embedder;
    let message = format!(
        "release {} was embedded by {}/{} ({}), this server has {ours}: the two vector spaces must not meet",
        manifest.generation, theirs.provider, theirs.model, theirs.revision
    );
    (verdigris_proto::reason::Reason::EmbedderMismatch, message)
}
