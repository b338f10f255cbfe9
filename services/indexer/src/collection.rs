//! The indexer of one collection: windows of events become releases, one after the other, and merges beside them.
//!
//! It is the only writer of its collection. What it knows it knows from the pointer and the release, so that it can end
//! at any moment and another can go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use verdigris_bus::{BusError, BusEvent, facts};
use verdigris_core::checkpoint::check_checkpoint;
use verdigris_core::edit::PublishEdit;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::{
    Checkpoint, Genesis, LineageId, Manifest, PublishReason, SegmentEntry, SegmentId, SettingsReference, Stats,
};
use verdigris_core::merge;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Published as PublishedRelease};
use verdigris_core::position::StreamIdentity;
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::Embedder;
use verdigris_engine::release::Release;
use verdigris_engine::segment::merge::Merged;
use verdigris_engine::segment::write::{SegmentShape, WrittenSegment};
use verdigris_store::{CommitError, collection as objects, commit, publish};

use crate::error::IndexerError;
use crate::merge::{MergeContext, MergeJob};
use crate::order::{OrderContext, Ordered};
use crate::progress::{OutcomeCounts, Published};
use crate::window::{Caution, TRIAL_EVENTS, WindowContext, next_window};
use crate::{Command, Handle, IndexerDeps, dead_letters, embed, order, write_segment};

/// Unclean ends at one event after which it is set aside.
const UNCLEAN_ENDS_MAX: u32 = 2;
/// The first and the longest wait after an error.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// The indexer of one collection.
pub(crate) struct CollectionIndexer {
    pub(crate) deps: Arc<IndexerDeps>,
    pub(crate) name: CollectionName,
    pub(crate) handle: Arc<Handle>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) instance: String,
}

/// A turn as the writer: from a claim of the pointer to an error or the end.
struct Turn<'a> {
    deps: &'a IndexerDeps,
    name: &'a CollectionName,
    handle: &'a Handle,
    instance: &'a str,
    epoch: u64,
    settings: Settings,
    wanted_settings: SettingsReference,
    head: Arc<Release>,
    embedder: Option<Arc<dyn Embedder>>,
    caution: Caution,
    crashed_at: Option<u64>,
    merge: Option<MergeJob>,
}

/// What a publish changes, beside what follows from the head.
struct Change {
    add: Option<(WrittenSegment, TempDir)>,
    add_id: SegmentId,
    remove: Vec<SegmentId>,
    dead: BTreeMap<SegmentId, RoaringBitmap>,
    content: verdigris_core::digest::ContentSum,
    documents: u64,
    checkpoint: Checkpoint,
    watermark: Option<Timestamp>,
    stats: Stats,
    reason: PublishReason,
}

impl CollectionIndexer {
    /// Runs until the token is cancelled or the collection is gone.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut wait = RETRY.0;
        loop {
            let ended = self.turn(&token).await;
            let Err(error) = ended else { return };
            if let IndexerError::Stopped = error {
                return;
            }
            let standstill = error.standstill();
            self.deps.metrics.standstill(&self.name, true);
            if self.handle.status.stop(standstill.clone()) {
                tracing::error!(collection = %self.name, reason = standstill.reason.as_str(), "{}", standstill.message);
            }
            match error {
                IndexerError::Commit(CommitError::Refused(EditRefused::LostTurn { .. })) => {
                    // Whoever took over goes on; claiming again would only take it back and forth.
                    token.cancelled().await;
                    return;
                }
                IndexerError::Commit(CommitError::Refused(EditRefused::Deleted(_))) => {
                    self.handle.status.go_on();
                    return;
                }
                IndexerError::Stream(_) | IndexerError::Bus(BusError::Trimmed { .. }) => {
                    if !self.wait_for_repair(&token).await {
                        return;
                    }
                }
                _ => {
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
                    }
                }
            }
            if self.handle.status.standstill().is_none() {
                wait = RETRY.0;
            }
        }
    }

    /// The log does not fit: nothing but a resync, or new settings of somebody, helps. False when the process ends.
    async fn wait_for_repair(&mut self, token: &CancellationToken) -> bool {
        loop {
            let command = tokio::select! {
                () = token.cancelled() => return false,
                command = self.commands.recv() => command,
            };
            match command {
                None => return false,
                Some(Command::AdoptStream { done }) => {
                    let adopted = self.adopt_stream().await;
                    let ok = adopted.is_ok();
                    // The asker may have gone; the repair stands all the same.
                    let _ = done.send(adopted);
                    if ok {
                        return true;
                    }
                }
                Some(Command::Refresh) => return true,
            }
        }
    }

    /// Publishes the head again with a checkpoint before the first event of the log that is there now.
    async fn adopt_stream(&self) -> Result<(), IndexerError> {
        let mut turn = Turn::begin(&self.deps, &self.name, &self.handle, &self.instance).await?;
        let stream = self.deps.bus.open(&self.name).await?;
        turn.adopt(stream).await
    }

    async fn turn(&mut self, token: &CancellationToken) -> Result<(), IndexerError> {
        let mut turn = Turn::begin(&self.deps, &self.name, &self.handle, &self.instance).await?;
        turn.check_stream().await?;
        let result = turn.run(&mut self.commands, token).await;
        turn.stop_merge().await;
        match result {
            Ok(()) => {
                turn.goodbye().await?;
                Err(IndexerError::Stopped)
            }
            Err(error) => Err(error),
        }
    }
}

impl<'a> Turn<'a> {
    async fn begin(
        deps: &'a IndexerDeps,
        name: &'a CollectionName,
        handle: &'a Handle,
        instance: &'a str,
    ) -> Result<Self, IndexerError> {
        let (store, now) = (&*deps.store, Timestamp(deps.clock.now_ns()));
        let nonce = commit::nonce();
        let pointer = commit::swing(store, name, nonce.clone(), |p| p.claim(instance, nonce.clone(), now)).await?;
        let writer = pointer
            .writer
            .clone()
            .unwrap_or_else(|| unreachable!("a claim names its writer"));
        let settings = objects::settings(store, name, &pointer.settings).await?;
        let identity = deps.embedders.identity(&settings.embedder)?;
        let manifest = match &pointer.active {
            Some(active) => objects::manifest(store, name, &active.manifest).await?,
            None => Manifest::genesis(Genesis {
                collection: name.clone(),
                lineage: LineageId::from(ulid::Ulid::generate()),
                metric: settings.metric,
                embedder: identity.clone(),
                settings: pointer.settings.clone(),
                stream: deps.bus.open(name).await?,
            }),
        };
        if manifest.embedder != identity {
            let shown = |id: &verdigris_core::embedder::EmbedderIdentity| {
                format!("{}/{} {}", id.provider, id.model, id.revision)
            };
            return Err(IndexerError::Embedder {
                found: shown(&manifest.embedder),
                expected: shown(&identity),
            });
        }
        let manifest = Arc::new(manifest);
        let head = match manifest.generation {
            0 => Arc::new(Release::empty(manifest)),
            _ => deps.opener.open(manifest, None).await?,
        };
        let trying = writer.trying.map(|position| position.sequence);
        let crashed = writer.unclean_ends >= UNCLEAN_ENDS_MAX;
        let checkpoint = &head.manifest().checkpoint;
        handle.progress.begin(Published {
            sequence: checkpoint.sequence,
            generation: head.manifest().generation,
        });
        Ok(Self {
            deps,
            name,
            handle,
            instance,
            epoch: writer.epoch,
            wanted_settings: pointer.settings.clone(),
            settings,
            head,
            embedder: None,
            caution: if writer.unclean_ends > 0 {
                Caution::Singly(TRIAL_EVENTS)
            } else {
                Caution::None
            },
            crashed_at: trying.filter(|_| crashed),
            merge: None,
        })
    }

    /// Whether the log is the one that the head was read from (I-15).
    async fn check_stream(&self) -> Result<(), IndexerError> {
        let checkpoint = &self.head.manifest().checkpoint;
        self.deps.bus.open(self.name).await?;
        check_checkpoint(
            checkpoint,
            &facts(&*self.deps.bus, self.name, checkpoint.sequence).await?,
        )?;
        Ok(())
    }

    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        token: &CancellationToken,
    ) -> Result<(), IndexerError> {
        if self.head.manifest().generation > 0 && self.head.manifest().settings != self.wanted_settings {
            self.publish_settings().await?;
        }
        loop {
            self.begin_merge()?;
            if self.handle.status.go_on() {
                self.deps.metrics.standstill(self.name, false);
                tracing::info!(collection = %self.name, "publishing goes on");
            }
            let context = WindowContext {
                collection: self.name,
                settings: &self.settings.window,
                after: self.head.manifest().checkpoint.sequence,
                first_build: self.head.manifest().generation == 0,
                caution: self.caution,
            };
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                command = commands.recv() => match command {
                    None => return Ok(()),
                    Some(Command::Refresh) => self.refresh().await?,
                    Some(Command::AdoptStream { done }) => {
                        let stream = self.deps.bus.open(self.name).await?;
                        let fits = stream == self.head.manifest().checkpoint.stream;
                        let adopted = if fits { Ok(()) } else { self.adopt(stream).await };
                        // The asker may have gone; the repair stands all the same.
                        let _ = done.send(adopted);
                    }
                },
                merged = finished(&mut self.merge) => self.commit_merge(merged).await?,
                window = next_window(&*self.deps.bus, &self.deps.clock, &context) => {
                    let window = window?;
                    tokio::select! {
                        () = token.cancelled() => return Ok(()),
                        published = self.publish_window(window) => published?,
                    }
                }
            }
        }
    }

    /// Looks at the pointer again: settings may have changed, or the collection may be deleted.
    async fn refresh(&mut self) -> Result<(), IndexerError> {
        let pointer = objects::pointer(&*self.deps.store, self.name).await?.pointer;
        if pointer.deleted_at.is_some() {
            return Err(CommitError::Refused(EditRefused::Deleted(self.name.clone())).into());
        }
        if pointer.settings != self.wanted_settings {
            self.settings = objects::settings(&*self.deps.store, self.name, &pointer.settings).await?;
            self.wanted_settings = pointer.settings;
            if self.head.manifest().generation > 0 {
                self.publish_settings().await?;
            } else {
                self.begin_anew().await?;
            }
        }
        Ok(())
    }

    /// Before the first publish, new settings only change what the first release will be.
    async fn begin_anew(&mut self) -> Result<(), IndexerError> {
        self.embedder = None;
        let genesis = Genesis {
            collection: self.name.clone(),
            lineage: self.head.manifest().lineage.clone(),
            metric: self.settings.metric,
            embedder: self.deps.embedders.identity(&self.settings.embedder)?,
            settings: self.wanted_settings.clone(),
            stream: self.head.manifest().checkpoint.stream,
        };
        self.head = Arc::new(Release::empty(Arc::new(Manifest::genesis(genesis))));
        Ok(())
    }

    async fn publish_window(&mut self, window: Vec<BusEvent>) -> Result<(), IndexerError> {
        let Some(last) = window.last() else { return Ok(()) };
        let (first, last) = (window[0].sequence, last.clone());
        let checkpoint = Checkpoint {
            sequence: last.sequence,
            digest: Some(last.digest()),
            ..self.head.manifest().checkpoint.clone()
        };
        if let Caution::Singly(_) = self.caution {
            self.name_event(first).await?;
        }
        let count = window.len() as u64;
        let ordered = self.order(window).await?;
        dead_letters::write(&*self.deps.store, self.name, &ordered.set_aside).await?;
        let counts = OutcomeCounts::of(&ordered.outcomes);
        let outcomes = ordered.outcomes.clone();
        let change = self.written(ordered, checkpoint, counts).await?;
        self.publish(change).await?;
        let published = Published {
            sequence: last.sequence,
            generation: self.head.manifest().generation,
        };
        self.handle.progress.publish(published, first, &outcomes);
        self.deps.metrics.events(self.name, &counts);
        self.caution = self.caution.after(count);
        Ok(())
    }

    /// After an unclean end, names the event that is touched next in the pointer, so that one that ends the process is
    /// known by name.
    async fn name_event(&self, sequence: u64) -> Result<(), IndexerError> {
        let position = self.head.manifest().checkpoint.stream.position(sequence);
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |p| {
            p.try_event(epoch, position, nonce.clone(), now)
        })
        .await?;
        Ok(())
    }

    async fn order(&self, window: Vec<BusEvent>) -> Result<Ordered, IndexerError> {
        let (head, name, settings) = (self.head.clone(), self.name.clone(), self.settings.clone());
        let (crashed_at, now) = (self.crashed_at, Timestamp(self.deps.clock.now_ns()));
        blocking(move || {
            let stream = head.manifest().checkpoint.stream;
            let context = OrderContext {
                collection: &name,
                settings: &settings,
                stream,
                now,
                crashed_at,
            };
            order::order(&head, &window, &context)
        })
        .await?
        .map_err(Into::into)
    }

    /// Embeds and writes what changed.
    async fn written(
        &mut self,
        ordered: Ordered,
        checkpoint: Checkpoint,
        counts: OutcomeCounts,
    ) -> Result<Change, IndexerError> {
        let needs_model = ordered
            .changes
            .iter()
            .any(|change| matches!(change.vector, order::VectorSource::Text(_)));
        let embedder = if needs_model {
            Some(self.embedder().await?)
        } else {
            None
        };
        let (vectors, embedded) = embed::vectors(&ordered.changes, embedder.as_ref(), &self.handle.progress).await?;
        let mut stats = self.head.manifest().stats;
        stats.applied += counts.applied;
        stats.unchanged += counts.unchanged;
        stats.stale += counts.stale;
        stats.set_aside += counts.set_aside;
        stats.embedded += embedded.embedded;
        stats.vectors_kept += embedded.kept;
        let folder = self.scratch("segment-")?;
        let (head, settings, path) = (self.head.clone(), self.settings.clone(), folder.path().to_owned());
        let threads = self.deps.threads;
        let watermark = self.head.manifest().watermark.max(ordered.watermark);
        let written = blocking(move || {
            let dimension = head.manifest().dimension;
            let shape = SegmentShape {
                index_type: settings.ann.index_type,
                dimension,
                text: &settings.text,
                threads,
            };
            write_segment::write(
                &head,
                &ordered.changes,
                &vectors,
                head.manifest().generation + 1,
                &path,
                shape,
            )
        })
        .await??;
        Ok(Change {
            add: written.segment.map(|segment| (segment, folder)),
            add_id: ulid::Ulid::generate().into(),
            remove: Vec::new(),
            dead: written.dead,
            content: written.content,
            documents: written.documents,
            checkpoint,
            watermark,
            stats,
            reason: PublishReason::Publish,
        })
    }

    async fn embedder(&mut self) -> Result<Arc<dyn Embedder>, IndexerError> {
        if let Some(embedder) = &self.embedder {
            return Ok(embedder.clone());
        }
        let (embedders, settings) = (self.deps.embedders.clone(), self.settings.embedder.clone());
        let loaded = blocking(move || embedders.documents(&settings)).await??;
        let embedder =
            loaded.unwrap_or_else(|| unreachable!("texts are embedded only where settings name an embedder"));
        self.embedder = Some(embedder.clone());
        Ok(embedder)
    }

    async fn publish_settings(&mut self) -> Result<(), IndexerError> {
        let manifest = self.head.manifest().clone();
        self.publish(self.unchanged(manifest.checkpoint.clone(), PublishReason::Settings))
            .await?;
        self.handle.progress.begin(Published {
            sequence: manifest.checkpoint.sequence,
            generation: manifest.generation + 1,
        });
        Ok(())
    }

    /// The log was replaced, and a feed has repaired it: it is read from its beginning, which harms nothing, because
    /// events commute.
    async fn adopt(&mut self, stream: StreamIdentity) -> Result<(), IndexerError> {
        let state = self.deps.bus.state(self.name).await?;
        let sequence = state.first_kept.saturating_sub(1);
        let checkpoint = Checkpoint {
            stream,
            sequence,
            digest: self.deps.bus.digest_at(self.name, sequence).await?,
        };
        if self.head.manifest().generation == 0 {
            let mut manifest = (**self.head.manifest()).clone();
            manifest.checkpoint = checkpoint;
            self.head = Arc::new(Release::empty(Arc::new(manifest)));
            return Ok(());
        }
        let reason = PublishReason::Resync {
            actor: self.instance.to_owned(),
        };
        self.publish(self.unchanged(checkpoint, reason)).await?;
        self.handle.progress.begin(Published {
            sequence,
            generation: self.head.manifest().generation,
        });
        Ok(())
    }

    /// The head's content again, for another reason.
    fn unchanged(&self, checkpoint: Checkpoint, reason: PublishReason) -> Change {
        let manifest = self.head.manifest();
        Change {
            add: None,
            add_id: ulid::Ulid::generate().into(),
            remove: Vec::new(),
            dead: BTreeMap::new(),
            content: manifest.content,
            documents: manifest.documents,
            checkpoint,
            watermark: manifest.watermark,
            stats: manifest.stats,
            reason,
        }
    }

    fn begin_merge(&mut self) -> Result<(), IndexerError> {
        if self.merge.is_some() {
            return Ok(());
        }
        let Some(plan) = merge::plan(&self.head.manifest().segments) else {
            return Ok(());
        };
        let context = MergeContext {
            scratch: self.deps.scratch.clone(),
            id: ulid::Ulid::generate().into(),
            index_type: self.settings.ann.index_type,
            text: self.settings.text.clone(),
            // A merge leaves a processor to the answers.
            threads: 1,
        };
        let job = crate::merge::begin(&self.head, plan, context).map_err(IndexerError::Scratch)?;
        self.merge = Some(job);
        Ok(())
    }

    async fn commit_merge(&mut self, (job, merged): (MergeJob, Merged)) -> Result<(), IndexerError> {
        let manifest = self.head.manifest().clone();
        let dead = crate::merge::dead_rows(&self.head, &job.plan, &job.id, &merged);
        let takes_base = job.plan.takes_base;
        let mut change = self.unchanged(manifest.checkpoint.clone(), PublishReason::Merge);
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let written = bytes(&merged.written.paths.vectors) + bytes(&merged.written.paths.rows);
        if takes_base {
            change.stats.bytes_rebuilt += written
        } else {
            change.stats.bytes_merged += written
        };
        change.add_id = job.id;
        change.remove = job.plan.segments;
        change.dead = dead;
        change.add = Some((merged.written, job.folder));
        self.publish(change).await?;
        let generation = self.head.manifest().generation;
        self.handle.progress.begin(Published {
            sequence: manifest.checkpoint.sequence,
            generation,
        });
        Ok(())
    }

    async fn stop_merge(&mut self) {
        if let Some(job) = self.merge.take() {
            job.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            // It ends at the next row; its result is of no use any more.
            let _ = job.work.await;
        }
    }

    async fn publish(&mut self, mut change: Change) -> Result<(), IndexerError> {
        let began = std::time::Instant::now();
        let id = change.add_id.clone();
        let _being_written = self.handle.begin_writing(&id);
        let Some((written, folder)) = change.add.take() else {
            self.publish_edit(change, Vec::new(), Vec::new()).await?;
            self.deps
                .metrics
                .published(self.name, self.head.manifest(), began.elapsed(), 0);
            return Ok(());
        };
        let paths = written.paths.clone();
        let entry = blocking(move || write_segment::entry(id, &written))
            .await?
            .map_err(IndexerError::Scratch)?;
        let bytes = entry.bytes();
        let files = vec![
            (entry.files.vectors.path.clone(), paths.vectors),
            (entry.files.rows.path.clone(), paths.rows),
        ];
        if change.reason == PublishReason::Publish {
            change.stats.bytes_published += bytes;
        }
        self.publish_edit(change, vec![entry], files).await?;
        drop(folder);
        self.deps
            .metrics
            .published(self.name, self.head.manifest(), began.elapsed(), bytes);
        Ok(())
    }

    async fn publish_edit(
        &mut self,
        change: Change,
        add: Vec<SegmentEntry>,
        files: Vec<(String, PathBuf)>,
    ) -> Result<(), IndexerError> {
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        let edit = PublishEdit {
            generation: self.head.manifest().generation + 1,
            created_at: now,
            writer: self.instance.to_owned(),
            nonce: nonce.clone(),
            add,
            remove: change.remove,
            dead: change.dead,
            content: change.content,
            documents: change.documents,
            checkpoint: change.checkpoint,
            watermark: change.watermark,
            settings: self.wanted_settings.clone(),
            stats: change.stats,
            reason: change.reason,
        };
        let edited = self.head.manifest().apply(edit)?;
        let settings = self.wanted_settings.clone();
        let publication = publish::Publication {
            edited: &edited,
            files,
            nonce: nonce.clone(),
        };
        publish::publish(&*self.deps.store, self.name, publication, |pointer, release| {
            let published = PublishedRelease {
                release: release.clone(),
                settings: settings.clone(),
                grace_ns: GRACE_NS,
            };
            pointer.publish(epoch, &published, nonce.clone(), now)
        })
        .await?;
        let previous = self.head.clone();
        self.head = self
            .deps
            .opener
            .open(Arc::new(edited.manifest), Some(&previous))
            .await?;
        Ok(())
    }

    async fn goodbye(&mut self) -> Result<(), IndexerError> {
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |p| {
            p.goodbye(epoch, nonce.clone(), now)
        })
        .await?;
        Ok(())
    }

    fn scratch(&self, prefix: &str) -> Result<TempDir, IndexerError> {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&self.deps.scratch)
            .map_err(IndexerError::Scratch)
    }
}

/// Waits for the merge under way, for ever when there is none. A merge that did not succeed is logged and planned again
/// with the next publish. Cancel safe: the work goes on, and its handle stays in place.
async fn finished(merge: &mut Option<MergeJob>) -> (MergeJob, Merged) {
    loop {
        let Some(job) = merge else {
            return std::future::pending().await;
        };
        let result = (&mut job.work).await;
        let job = merge.take().unwrap_or_else(|| unreachable!("it was there just now"));
        match result {
            Ok(Ok(merged)) => return (job, merged),
            Ok(Err(error)) => tracing::warn!("a merge did not succeed: {}", crate::error::chain(&error)),
            Err(error) => tracing::warn!("a merge did not succeed: {error}"),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, IndexerError> {
    tokio::task::spawn_blocking(work).await.map_err(IndexerError::Panicked)
}
