//! A turn as the writer: windows of events become releases, one after the other, until an error or the end.
//!
//! What becomes of a window lies in `windows`, what a publish does to the store in `publish`.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use roaring::RoaringBitmap;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use verdigris_bus::facts;
use verdigris_core::checkpoint::check_checkpoint;
use verdigris_core::digest::ContentSum;
use verdigris_core::manifest::{
    Checkpoint, Genesis, LineageId, Manifest, PublishReason, SegmentId, SettingsReference, Stats,
};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Hold, Pointer, StagedRelease};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::Embedder;
use verdigris_engine::release::Release;
use verdigris_engine::segment::write::WrittenSegment;
use verdigris_store::{CommitError, collection as objects, commit};

use crate::beside::Beside;
use crate::collection::Panics;
use crate::erasing::Erasing;
use crate::error::IndexerError;
use crate::guard::{self, Look, Rejected};
use crate::merge::Merges;
use crate::progress::Published;
use crate::window::{Caution, TRIAL_EVENTS, WindowContext, next_window};
use crate::{Command, Handle, IndexerDeps, fresh_name};

/// Lives of the process that ended with one event named, after which it is set aside.
pub(crate) const TRIES_MAX: u32 = 2;

/// A turn as the writer: from a claim of the pointer to an error or the end.
pub(crate) struct Turn<'a> {
    pub(crate) deps: &'a IndexerDeps,
    pub(crate) name: &'a CollectionName,
    pub(crate) handle: &'a Handle,
    pub(crate) instance: &'a str,
    pub(crate) epoch: u64,
    pub(crate) settings: Settings,
    pub(crate) wanted_settings: SettingsReference,
    pub(crate) head: Arc<Release>,
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
    pub(crate) caution: Caution,
    pub(crate) crashed_at: Option<u64>,
    /// The event that is read alone just now.
    pub(crate) named: Option<u64>,
    /// A window was published in this turn.
    pub(crate) has_published: bool,
    pub(crate) merges: Merges,
    /// The pointer's generation: that of the active lineage, unless a lineage that lacked publishes was returned to.
    pub(crate) generation: u64,
    /// The lineage beside the active one.
    pub(crate) beside: Beside<'a>,
    /// Documents that were erased.
    pub(crate) erasing: Erasing,
    /// Set while a person holds publishing.
    pub(crate) held: Option<Hold>,
    /// A release that breached a guard, while it waits for a person.
    pub(crate) staged: Option<StagedRelease>,
    /// Sequence up to which guards let everything pass.
    pub(crate) guards_passed_to: u64,
    /// Events that a person rejected.
    pub(crate) rejected: Option<Arc<Rejected>>,
}

/// What a publish changes, beside what follows from the head.
pub(crate) struct Change {
    pub(crate) add: Option<(WrittenSegment, TempDir)>,
    pub(crate) add_id: SegmentId,
    pub(crate) remove: Vec<SegmentId>,
    pub(crate) dead: BTreeMap<SegmentId, RoaringBitmap>,
    pub(crate) content: ContentSum,
    pub(crate) documents: u64,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) stats: Stats,
    pub(crate) reason: PublishReason,
    /// New vectors, and how many of them are alike.
    pub(crate) vectors: (u64, u64),
    /// What guards judge; none where the documents stay the same.
    pub(crate) look: Option<Look>,
    /// Whether it is published as a candidate, and the active lineage left as it is.
    pub(crate) as_candidate: bool,
}

async fn claimed(
    deps: &IndexerDeps,
    name: &CollectionName,
    instance: &str,
    before: Option<u64>,
) -> Result<Pointer, CommitError> {
    let (nonce, now) = (commit::nonce(), Timestamp(deps.clock.now_ns()));
    let edit = |pointer: &Pointer| match before {
        Some(epoch) => pointer.claim_again(epoch, instance, nonce.clone(), now),
        None => pointer.claim(instance, nonce.clone(), now),
    };
    commit::swing(&*deps.store, name, nonce.clone(), edit).await
}

impl<'a> Turn<'a> {
    /// Claims. `epoch` is that of this process's last turn, and of this one as soon as it has claimed, whether or not it
    /// then begins.
    pub(crate) async fn begin(
        deps: &'a IndexerDeps,
        name: &'a CollectionName,
        handle: &'a Handle,
        instance: &'a str,
        epoch: &mut Option<u64>,
    ) -> Result<Self, IndexerError> {
        let store = &*deps.store;
        let pointer = claimed(deps, name, instance, *epoch).await?;
        let writer = pointer
            .writer
            .clone()
            .unwrap_or_else(|| unreachable!("a claim names its writer"));
        *epoch = Some(writer.epoch);
        let settings = objects::settings(store, name, &pointer.settings).await?;
        let identity = deps.embedders.identity(&settings.embedder)?;
        let manifest = match &pointer.active {
            Some(active) => objects::manifest(store, name, &active.manifest).await?,
            None => Manifest::genesis(Genesis {
                collection: name.clone(),
                lineage: LineageId::from(fresh_name(&deps.clock)),
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
        let crashed = writer.tries >= TRIES_MAX;
        let erasing = Erasing::begin(store, name, &pointer).await?;
        handle.note_erased(erasing.ids.clone());
        handle.note_settings(Arc::new(settings.clone()));
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
            named: None,
            has_published: false,
            merges: Merges::default(),
            generation: pointer.generation,
            beside: Beside::begin(deps, name, &pointer).await?,
            erasing,
            held: pointer.publish_hold().cloned(),
            guards_passed_to: pointer.guards_passed_to,
            rejected: guard::rejected(store, name, &pointer).await?.map(Arc::new),
            staged: pointer.staged,
        })
    }

    /// Takes panics of earlier turns into account.
    pub(crate) fn beware(&mut self, panics: Panics) {
        if panics.any {
            self.caution = Caution::Singly(TRIAL_EVENTS);
        }
        self.crashed_at = self.crashed_at.or(panics.culprit());
    }

    /// Whether the log is the one that the head was read from (I-15).
    pub(crate) async fn check_stream(&self) -> Result<(), IndexerError> {
        let checkpoint = &self.head.manifest().checkpoint;
        self.deps.bus.open(self.name).await?;
        check_checkpoint(
            checkpoint,
            &facts(&*self.deps.bus, self.name, checkpoint.sequence).await?,
        )?;
        // Not before: a sequence says nothing to those who wait for one of a log that does not fit.
        self.handle.progress.begin(Published {
            sequence: checkpoint.sequence,
            generation: self.head.manifest().generation,
        });
        Ok(())
    }

    pub(crate) async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        token: &CancellationToken,
    ) -> Result<(), IndexerError> {
        self.settings_into_force().await?;
        loop {
            if let Some(standstill) = self.standing() {
                self.handle.status.stop(standstill);
                self.deps.metrics.standstill(self.name, true);
                self.deps.metrics.staged(self.name, self.staged.is_some());
                let command = tokio::select! {
                    biased;
                    () = token.cancelled() => return Ok(()),
                    command = commands.recv() => command,
                    () = tokio::time::sleep(self.look_in()) => {
                        self.look_beside().await?;
                        continue;
                    }
                };
                match command {
                    None => return Ok(()),
                    Some(command) => self.obey(command).await?,
                }
                continue;
            }
            self.go_on();
            if self.awaits_promotion() {
                tokio::select! {
                    () = token.cancelled() => return Ok(()),
                    command = commands.recv() => match command {
                        None => return Ok(()),
                        Some(command) => self.obey(command).await?,
                    },
                    () = tokio::time::sleep(self.look_in()) => self.look_beside().await?,
                }
                continue;
            }
            if !self.read_on(commands, token).await? {
                return Ok(());
            }
        }
    }

    /// Gathers one window and publishes it, and does meanwhile what comes due; false when the process ends.
    async fn read_on(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        token: &CancellationToken,
    ) -> Result<bool, IndexerError> {
        let settings = self.window_settings();
        let context = WindowContext {
            collection: self.name,
            settings: &settings,
            after: self.head.manifest().checkpoint.sequence,
            first_build: self.head.manifest().generation == 0,
            caution: if self.publishes_candidates() {
                self.caution.of_candidates()
            } else {
                self.caution
            },
        };
        // One window, however often something else is due beside it.
        let mut window = pin!(next_window(&*self.deps.bus, &self.deps.clock, &context));
        loop {
            self.begin_merges()?;
            let look = tokio::time::sleep(self.look_in());
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(false),
                command = commands.recv() => match command {
                    None => return Ok(false),
                    Some(command) => {
                        self.obey(command).await?;
                        return Ok(true);
                    }
                },
                merged = self.merges.finished() => self.commit_merge(merged).await?,
                () = look => self.look_beside().await?,
                done = self.beside.finished() => self.commit_beside(done).await?,
                window = &mut window, if !self.awaits_room() => {
                    let window = window?;
                    return tokio::select! {
                        biased;
                        () = token.cancelled() => Ok(false),
                        published = self.publish_window(window) => published.map(|()| true),
                    };
                }
            }
            if self.standing().is_some() {
                return Ok(true);
            }
        }
    }

    /// Says that publishing goes on. To be called before whoever decided so is told: what that person asks next must not
    /// meet the standstill.
    pub(crate) fn go_on(&self) {
        if self.handle.status.go_on() {
            self.deps.metrics.standstill(self.name, false);
            self.deps.metrics.staged(self.name, false);
            tracing::info!(collection = %self.name, "publishing goes on");
        }
    }

    /// Does what somebody asked. What goes wrong with a wish is the asker's; the turn goes on.
    async fn obey(&mut self, command: Command) -> Result<(), IndexerError> {
        // Whoever asked may have gone; what was done stands all the same.
        match command {
            Command::Refresh => self.refresh().await?,
            Command::RollBack(wish) => {
                let before = self.head.manifest().lineage.clone();
                let result = self.roll_back(&wish).await;
                let _ = wish.done.send(result);
                // Another lineage is written by its own settings and embedder: the next turn reads them.
                let now = &self.head.manifest().lineage;
                if *now != before {
                    return Err(CommitError::Refused(EditRefused::LineageMoved(now.clone())).into());
                }
            }
            Command::Resume(wish) => {
                let result = self.resume(&wish).await;
                let resumed = result.is_ok();
                let _ = wish.done.send(result);
                if resumed {
                    self.settings_into_force().await?;
                }
            }
            Command::Decide(decision) => {
                let result = self.decide(&decision).await;
                let decided = result.is_ok();
                let _ = decision.done.send(result);
                if decided {
                    self.settings_into_force().await?;
                }
            }
            Command::Rebuild(wish) => {
                let result = self.begin_rebuild(&wish).await;
                let _ = wish.done.send(result);
            }
            Command::Erase(wish) => {
                let result = self.erase(&wish).await;
                let failed = result.is_err();
                let _ = wish.done.send(result);
                if failed {
                    // Whether it was done after all must be known before the next event is read.
                    let pointer = objects::pointer(&*self.deps.store, self.name).await?.pointer;
                    self.see_erased(&pointer).await?;
                }
            }
            Command::AdoptStream { done } => {
                let stream = self.deps.bus.open(self.name).await?;
                let fits = stream == self.head.manifest().checkpoint.stream;
                let adopted = if fits { Ok(()) } else { self.adopt(stream).await };
                let _ = done.send(adopted);
            }
        }
        Ok(())
    }

    /// The head's content again, for another reason.
    pub(crate) fn unchanged(&self, checkpoint: Checkpoint, reason: PublishReason) -> Change {
        let manifest = self.head.manifest();
        Change {
            add: None,
            add_id: fresh_name(&self.deps.clock).into(),
            remove: Vec::new(),
            dead: BTreeMap::new(),
            content: manifest.content,
            documents: manifest.documents,
            checkpoint,
            watermark: manifest.watermark,
            stats: manifest.stats,
            reason,
            vectors: (0, 0),
            look: None,
            as_candidate: false,
        }
    }
}

/// Runs work that takes a processor or waits for the disk on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, IndexerError> {
    tokio::task::spawn_blocking(work).await.map_err(IndexerError::Panicked)
}
