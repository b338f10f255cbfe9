//! Erasing: documents are hidden by one swing, and then their bytes are removed, step by step.
//!
//! Level-triggered: what is left to do is found by looking at what the pointer names, so that whoever is the writer goes
//! on after a crash. While publishing stands still, or a candidate waits for its promotion, documents are hidden all the
//! same and the rest waits. Deliberately absent: the log; it keeps its events until its retention.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;
use tokio::time::Instant;
use verdigris_core::digest::ContentSum;
use verdigris_core::erasure::{ErasedBy, ErasedList};
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::{PublishReason, SegmentEntry, SegmentId};
use verdigris_core::merge::{self, MergePlan};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{BuildSource, EditRefused, Erased, Pointer};
use verdigris_core::settings::Settings;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::Release;
use verdigris_store::{CommitError, Store, collection as objects, commit};

use crate::erase::Wish;
use crate::error::{IndexerError, chain};
use crate::holders::Holders;
use crate::merge::MergeContext;
use crate::progress::Published;
use crate::take_over::found;
use crate::turn::{Turn, blocking};
use crate::{dead_letters, guard};

/// Between two steps of a removal, and after an error of one.
const STEP: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(5);

/// What a turn knows of erased documents.
pub(crate) struct Erasing {
    list: ErasedList,
    named: Option<Erased>,
    /// All of them: nothing is taken for them any more.
    pub(crate) ids: Arc<BTreeSet<String>>,
    /// Those whose bytes may be somewhere.
    pending: Arc<BTreeSet<String>>,
    holders: Holders,
    /// Dead letters and logged queries of them were removed since the list was named.
    is_forgotten: bool,
    next_step: Instant,
}

impl Erasing {
    /// As the pointer says.
    pub(crate) async fn begin(
        store: &dyn Store,
        name: &CollectionName,
        pointer: &Pointer,
    ) -> Result<Self, IndexerError> {
        let list = match &pointer.erased {
            Some(erased) => objects::erased_list(store, name, &erased.list).await?,
            None => ErasedList::default(),
        };
        Ok(Self::of(list, pointer.erased.clone()))
    }

    fn of(list: ErasedList, named: Option<Erased>) -> Self {
        let is_removed = named.as_ref().is_none_or(|erased| erased.removed);
        let pending = if is_removed { BTreeSet::new() } else { list.pending() };
        Self {
            ids: Arc::new(list.ids()),
            pending: Arc::new(pending),
            list,
            named,
            holders: Holders::default(),
            is_forgotten: false,
            next_step: Instant::now(),
        }
    }

    /// How soon there is something to do; none where nothing is left.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.is_pending()
            .then(|| self.next_step.saturating_duration_since(Instant::now()).max(STEP))
    }

    /// Those whose bytes may be somewhere.
    pub(crate) fn pending(&self) -> Arc<BTreeSet<String>> {
        self.pending.clone()
    }

    /// Whether bytes of erased documents may be in something that is named.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// What erased documents leave behind in a release.
pub(crate) struct Killed {
    pub(crate) dead: BTreeMap<SegmentId, RoaringBitmap>,
    pub(crate) content: ContentSum,
    pub(crate) documents: u64,
    /// Bytes of their states; or what guards take them for while the rows are dead, where that is more.
    pub(crate) bytes: u64,
}

fn killed(release: &Release, ids: &BTreeSet<String>, settings: &Settings) -> Result<Killed, EngineError> {
    let manifest = release.manifest();
    let mut killed = Killed {
        dead: BTreeMap::new(),
        content: manifest.content,
        documents: manifest.documents,
        bytes: 0,
    };
    let mut bytes: BTreeMap<SegmentId, (u64, u64)> = BTreeMap::new();
    for id in ids {
        let Some(place) = release.find(id) else { continue };
        let found = found(release, place, settings)?;
        let part = &release.segments()[place.segment];
        let dead = killed.dead.entry(part.segment.id().clone());
        dead.or_insert_with(|| (*part.dead).clone()).insert(place.row);
        killed.content.remove(&found.state.digest());
        killed.documents -= u64::from(found.exists);
        let (rows, of_states) = bytes.entry(part.segment.id().clone()).or_default();
        *rows += 1;
        *of_states += found.row.state.len() as u64;
    }
    let of_states: u64 = bytes.values().map(|(_, of_states)| of_states).sum();
    let by_share = manifest.segments.iter().filter_map(|segment| {
        let (gone, _) = bytes.get(&segment.id)?;
        let rows = u64::from(segment.rows) + u64::from(segment.ghosts);
        Some((segment.state_bytes * gone).div_ceil(rows.max(1)) + 1)
    });
    killed.bytes = of_states.max(by_share.sum());
    Ok(killed)
}

impl Turn<'_> {
    /// Hides documents by one swing. How many were not erased before.
    pub(crate) async fn erase(&mut self, wish: &Wish) -> Result<u64, IndexerError> {
        let (nonce, now, epoch) = (commit::nonce(), self.now(), self.epoch);
        let by = ErasedBy {
            actor: &wish.actor,
            reason: &wish.words,
            at: now,
        };
        let Some(list) = self.erasing.list.with(&wish.ids, by, !self.erasing.is_pending()) else {
            return Ok(0);
        };
        let new = list.erasures.len() - self.erasing.list.erasures.len();
        let path = ErasedList::path(self.generation, &nonce);
        let _being_written = self.handle.begin_writing(path.clone());
        let reference = guard::write(&*self.deps.store, self.name, path, &list).await?;
        let pointer = commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.erase(epoch, reference.clone(), GRACE_NS, nonce.clone(), self.now())
        })
        .await?;
        self.erasing = Erasing::of(list, pointer.erased);
        self.handle.note_erased(self.erasing.ids.clone());
        self.beside.stop_part().await;
        tracing::warn!(
            collection = %self.name, actor = wish.actor, reason = wish.words, documents = new,
            "documents were erased: they are hidden, and their bytes are removed from now on"
        );
        if let Err(error) = self.forget_around().await {
            tracing::warn!(collection = %self.name, "dead letters or queries of erased documents are left: {}", chain(&error));
        }
        Ok(new as u64)
    }

    /// Takes note of what another swing says about erased documents.
    pub(crate) async fn see_erased(&mut self, pointer: &Pointer) -> Result<(), IndexerError> {
        let list = |erased: &Option<Erased>| erased.as_ref().map(|erased| erased.list.clone());
        if list(&pointer.erased) != list(&self.erasing.named) {
            self.erasing = Erasing::begin(&*self.deps.store, self.name, pointer).await?;
            self.handle.note_erased(self.erasing.ids.clone());
        }
        Ok(())
    }

    /// The next step of a removal, when one is due.
    pub(crate) async fn erase_on(&mut self) -> Result<(), IndexerError> {
        if !self.erasing.is_pending() || Instant::now() < self.erasing.next_step {
            return Ok(());
        }
        self.erasing.next_step = Instant::now() + STEP;
        match self.remove_erased().await {
            Ok(true) => {
                tracing::info!(collection = %self.name, "nothing that is named holds bytes of erased documents any more");
                Ok(())
            }
            Ok(false) => Ok(()),
            // The swing and the store are the publishes' too.
            Err(error @ (IndexerError::Commit(_) | IndexerError::Store(_))) => Err(error),
            Err(IndexerError::NotEqual(lineage)) => self.drop_broken(&lineage).await,
            Err(error) => {
                self.erasing.next_step = Instant::now() + RETRY;
                tracing::warn!(collection = %self.name, "bytes of erased documents are left: {}", chain(&error));
                Ok(())
            }
        }
    }

    /// True when nothing is left.
    async fn remove_erased(&mut self) -> Result<bool, IndexerError> {
        if !self.kill_erased().await? {
            return Ok(false);
        }
        if !self.erasing.is_forgotten {
            self.forget_around().await?;
        }
        let pointer = objects::pointer(&*self.deps.store, self.name).await?.pointer;
        self.look_for_holders(&pointer).await?;
        let is_left = self.rewrite_holders()?;
        if is_left {
            return Ok(false);
        }
        self.restart_build(&pointer).await?;
        let holding = self
            .erasing
            .holders
            .holding(pointer.kept.iter().map(|kept| &kept.manifest));
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        if !holding.is_empty() {
            commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
                pointer.drop_kept(epoch, &holding, nonce.clone(), self.now())
            })
            .await?;
            tracing::info!(collection = %self.name, releases = holding.len(), "kept releases with erased documents were dropped");
            return Ok(false);
        }
        let clean = self.erasing.holders.clean();
        let swung = commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.finish_erasing(epoch, &clean, nonce.clone(), self.now())
        });
        match swung.await {
            Ok(pointer) => {
                self.erasing = Erasing::of(self.erasing.list.clone(), pointer.erased);
                Ok(true)
            }
            Err(CommitError::Refused(EditRefused::NotClean)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes the death of every row of theirs, in both lineages at once. False while these are not level.
    async fn kill_erased(&mut self) -> Result<bool, IndexerError> {
        let ours = self.killed_in(self.head.clone(), self.settings.clone()).await?;
        let Some(other) = &self.beside.other else {
            if !ours.dead.is_empty() {
                self.publish_death(ours).await?;
            }
            return Ok(true);
        };
        let theirs = self.killed_in(other.release.clone(), other.settings.clone()).await?;
        if ours.dead.is_empty() && theirs.dead.is_empty() {
            return Ok(true);
        }
        self.follow(PublishReason::Follow, 0).await?;
        let Some(other) = &self.beside.other else {
            return Ok(false);
        };
        if other.release.manifest().content != self.head.manifest().content {
            return Ok(false);
        }
        let theirs = self.killed_in(other.release.clone(), other.settings.clone()).await?;
        let ours = self.killed_in(self.head.clone(), self.settings.clone()).await?;
        if (ours.content, ours.documents) != (theirs.content, theirs.documents) {
            return Err(IndexerError::NotEqual(other.lineage().clone()));
        }
        self.publish_deaths(ours, theirs).await?;
        Ok(true)
    }

    async fn killed_in(&self, release: Arc<Release>, settings: Settings) -> Result<Killed, IndexerError> {
        let ids = self.erasing.pending.clone();
        Ok(blocking(move || killed(&release, &ids, &settings)).await??)
    }

    async fn publish_death(&mut self, killed: Killed) -> Result<(), IndexerError> {
        let manifest = self.head.manifest().clone();
        let mut change = self.unchanged(manifest.checkpoint.clone(), PublishReason::Erase);
        change.dead = killed.dead;
        change.content = killed.content;
        change.documents = killed.documents;
        change.stats.erased_bytes += killed.bytes;
        self.publish(change).await?;
        self.handle.progress.begin(Published {
            sequence: manifest.checkpoint.sequence,
            generation: self.generation,
        });
        Ok(())
    }

    /// Removes what is about them and is in no release: dead letters and logged queries.
    async fn forget_around(&mut self) -> Result<(), IndexerError> {
        let ids = self.erasing.pending.clone();
        let letters = dead_letters::remove_about(&*self.deps.store, self.name, &ids).await?;
        if letters > 0 {
            tracing::info!(collection = %self.name, letters, "dead letters of erased documents were removed");
        }
        let words: Vec<String> = ids.iter().cloned().collect();
        let forgotten = (self.deps.forget_queries)(self.name, words).await;
        forgotten.map_err(IndexerError::Scratch)?;
        self.erasing.is_forgotten = true;
        Ok(())
    }

    /// Finds what holds rows of theirs, and forgets the vectors of the texts in these.
    async fn look_for_holders(&mut self, pointer: &Pointer) -> Result<(), IndexerError> {
        let (deps, name) = (self.deps, self.name);
        let ids = self.erasing.pending.clone();
        let documents = self.erasing.holders.look(deps, name, pointer, &ids).await?;
        if documents.is_empty() {
            return Ok(());
        }
        let mut all = self.erasing.holders.settings(deps, name, pointer).await?;
        all.push(self.settings.clone());
        let embedders = deps.embedders.clone();
        blocking(move || {
            for settings in &all {
                let text = |document| verdigris_core::text::embedded_text(document, &settings.text.embed);
                let texts: Vec<String> = documents.iter().map(text).collect();
                embedders.forget(&settings.embedder, &texts)?;
            }
            Ok::<_, verdigris_embed::EmbedError>(())
        })
        .await??;
        Ok(())
    }

    /// Begins to write anew each segment, of either lineage, whose files hold a row of theirs, dead or alive. Whether
    /// there is any.
    fn rewrite_holders(&mut self) -> Result<bool, IndexerError> {
        let holds = |segments: &[SegmentEntry], holders: &Holders| -> Vec<SegmentId> {
            let ids = segments.iter().map(|segment| segment.id.clone());
            ids.filter(|id| holders.holds(id)).collect()
        };
        let ours = holds(&self.head.manifest().segments, &self.erasing.holders);
        for plan in plans(&self.head, &ours, &self.merges.in_work()) {
            if self.merges.has_room(&plan) {
                let context = self.erasing_context(&self.settings);
                let job = crate::merge::begin(&self.head, plan, context).map_err(IndexerError::Scratch)?;
                self.merges.add(job);
            }
        }
        let Some(other) = &self.beside.other else {
            return Ok(!ours.is_empty());
        };
        let theirs = holds(&other.release.manifest().segments, &self.erasing.holders);
        let mut jobs = Vec::new();
        for plan in plans(&other.release, &theirs, &other.merges.in_work()) {
            let is_first = jobs
                .iter()
                .all(|job: &crate::merge::MergeJob| job.plan.takes_base != plan.takes_base);
            if other.merges.has_room(&plan) && is_first {
                let context = self.erasing_context(&other.settings);
                jobs.push(crate::merge::begin(&other.release, plan, context).map_err(IndexerError::Scratch)?);
            }
        }
        if let Some(other) = &mut self.beside.other {
            jobs.into_iter().for_each(|job| other.merges.add(job));
        }
        Ok(!(ours.is_empty() && theirs.is_empty()))
    }

    fn erasing_context(&self, settings: &Settings) -> MergeContext {
        MergeContext {
            scratch: self.deps.scratch.clone(),
            id: crate::fresh_name(&self.deps.clock).into(),
            index_type: settings.ann.index_type,
            text: settings.text.clone(),
            threads: 1,
        }
    }

    /// A build that reads rows of theirs is begun anew from the release that has none, with the same wish.
    async fn restart_build(&mut self, pointer: &Pointer) -> Result<(), IndexerError> {
        let Some(build) = pointer.builds.first() else {
            return Ok(());
        };
        let active = pointer.active.as_ref().map(|active| active.generation);
        let head = self.head.manifest();
        if self.erasing.holders.is_clean(&build.source) || active != Some(head.generation) {
            return Ok(());
        }
        self.beside.stop_part().await;
        let live = |segment: &SegmentEntry| u64::from(segment.live) + u64::from(segment.live_ghosts);
        let rows = head.segments.iter().map(live).sum();
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        let swung = commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            let active = pointer.active.as_ref().ok_or(EditRefused::NothingToBuildFrom)?;
            let source = BuildSource {
                manifest: active.manifest.clone(),
                generation: active.generation,
                rows,
            };
            pointer.restart_build(epoch, &build.lineage, source, nonce.clone(), self.now())
        });
        match swung.await {
            Ok(pointer) => {
                self.beside.build = pointer.builds.into_iter().next();
                self.handle.building.begin(0, rows);
                tracing::info!(collection = %self.name, lineage = %build.lineage, rows, "a rebuild was begun anew without erased documents");
                Ok(())
            }
            // Its owner gave it up meanwhile.
            Err(CommitError::Refused(EditRefused::NotNamed(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A merge of each of these segments alone, but those that are in work.
fn plans(release: &Release, holding: &[SegmentId], in_work: &[SegmentId]) -> Vec<MergePlan> {
    let base = merge::base(&release.manifest().segments).map(|base| &base.id);
    let free = holding.iter().filter(|id| !in_work.contains(id));
    free.map(|id| MergePlan {
        segments: vec![id.clone()],
        takes_base: base == Some(id),
    })
    .collect()
}
