//! The lineage beside the active one: built, brought level, followed, merged; and what its owner does to the pointer.
//!
//! Nothing here holds up the active lineage: what goes wrong is logged and tried again with the next follow. Only the
//! pause before a flip does, for a moment, so that the flip finds both at one generation.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use verdigris_core::manifest::{LineageId, PublishReason, SettingsReference};
use verdigris_core::merge::{self, MergePlan};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{Build, EditRefused, LineagePointer, LineageRole, Part, Pointer};
use verdigris_core::settings::{Provider, Settings, WindowSettings};
use verdigris_embed::Embedder;
use verdigris_engine::release::Release;
use verdigris_engine::segment::merge::Merged;
use verdigris_store::{CommitError, Tag, collection as objects, commit};

use crate::error::{IndexerError, chain};
use crate::merge::{MergeContext, MergeJob, Merges};
use crate::order::VectorSource;
use crate::rebuild::PartJob;
use crate::recall::Graph;
use crate::turn::{Turn, blocking};
use crate::{BeingWritten, IndexerDeps, fresh_name};

/// Between two follows, unless the owner wants the lineage level.
pub(crate) const FOLLOW_EVERY: Duration = Duration::from_secs(10);
/// How long publishing pauses for a flip, and how long it goes on before it pauses again.
const PAUSE: Duration = Duration::from_secs(2);
/// How often the pointer is looked at meanwhile.
const PAUSE_LOOK: Duration = Duration::from_millis(20);
/// How often it is looked at while there is a lineage beside, and while there is none.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_SELDOM: Duration = Duration::from_secs(2);
/// After an error of a build.
pub(crate) const BUILD_RETRY: Duration = Duration::from_secs(5);

/// What lies beside the active lineage.
pub(crate) struct Beside<'a> {
    seen: Option<Tag>,
    /// What the pointer says of the other lineage, whether or not it can be opened.
    named: Option<Named>,
    pub(crate) other: Option<Other>,
    pub(crate) build: Option<Build>,
    pub(crate) part: Option<(PartJob, BeingWritten<'a>)>,
    leveling: Option<LineageId>,
    pub(crate) next_follow: Instant,
    pub(crate) next_part: Instant,
    next_pause: Instant,
    /// Why the base should be written anew, if it should.
    due: Option<String>,
    pub(crate) graph: Graph,
}

/// The candidate, or the way back.
pub(crate) struct Other {
    pub(crate) release: Arc<Release>,
    pub(crate) settings: Settings,
    pub(crate) reference: SettingsReference,
    pub(crate) merges: Merges,
}

struct Named {
    generation: u64,
    is_candidate: bool,
    /// Whether it never answered. One that was returned from may be ahead too, and nobody waits for that one.
    is_new: bool,
}

impl Named {
    fn of(pointer: &Pointer) -> Option<Self> {
        let other = pointer.other.as_ref()?;
        let is_candidate = other.role == LineageRole::Candidate;
        let answered = pointer.served.iter().any(|served| served.lineage == other.lineage);
        Some(Self {
            generation: other.generation,
            is_candidate,
            is_new: is_candidate && !answered,
        })
    }
}

impl Other {
    pub(crate) fn lineage(&self) -> &LineageId {
        &self.release.manifest().lineage
    }
}

impl<'a> Beside<'a> {
    /// What the pointer names. A lineage that cannot be opened is left alone: the active one goes on.
    pub(crate) async fn begin(
        deps: &IndexerDeps,
        name: &CollectionName,
        pointer: &Pointer,
    ) -> Result<Self, IndexerError> {
        let now = Instant::now();
        Ok(Self {
            seen: None,
            named: Named::of(pointer),
            other: opened(deps, name, pointer).await,
            build: pointer.builds.first().cloned(),
            part: None,
            leveling: pointer.leveling.clone(),
            next_follow: now + FOLLOW_EVERY,
            next_part: now,
            next_pause: now,
            due: None,
            graph: Graph::default(),
        })
    }

    /// How soon to look at the pointer again.
    pub(crate) fn look_in(&self) -> Duration {
        if self.named.is_some() || self.other.is_some() || self.build.is_some() {
            LOOK
        } else {
            LOOK_SELDOM
        }
    }

    /// Work on a build begins at the next look.
    pub(crate) fn due_now(&mut self) {
        self.next_part = Instant::now();
    }

    /// The base should be written anew.
    pub(crate) fn due_because(&mut self, why: String) {
        self.due = Some(why);
    }

    /// Why the base should be written anew; asked once for each time it is found so.
    pub(crate) fn take_due(&mut self) -> Option<String> {
        self.due.take()
    }

    /// Waits for the work under way, for ever where there is none. Cancel safe.
    pub(crate) async fn finished(&mut self) -> Done {
        let (part, other) = (&mut self.part, &mut self.other);
        tokio::select! {
            biased;
            (lineage, part) = part_finished(part) => Done::Part(lineage, Box::new(part)),
            merged = merge_finished(other) => Done::Merge(Box::new(merged)),
        }
    }

    /// Ends the part under way, if there is one.
    pub(crate) async fn stop_part(&mut self) {
        if let Some((job, _)) = self.part.take() {
            job.stop().await;
        }
    }

    /// Ends what is under way; nothing of it is named.
    pub(crate) async fn stop(&mut self) {
        self.stop_part().await;
        if let Some(other) = &mut self.other {
            other.merges.stop().await;
        }
    }
}

/// Work beside the active lineage that has ended.
pub(crate) enum Done {
    /// Of the build of this lineage, which may have been given up.
    Part(LineageId, Box<Result<Part, IndexerError>>),
    Merge(Box<(MergeJob, Merged)>),
}

async fn part_finished(part: &mut Option<(PartJob, BeingWritten<'_>)>) -> (LineageId, Result<Part, IndexerError>) {
    match part {
        Some((job, _)) => {
            let part = job.finished().await;
            (job.lineage.clone(), part)
        }
        None => std::future::pending().await,
    }
}

async fn merge_finished(other: &mut Option<Other>) -> (MergeJob, Merged) {
    match other {
        Some(other) => other.merges.finished().await,
        None => std::future::pending().await,
    }
}

async fn opened(deps: &IndexerDeps, name: &CollectionName, pointer: &Pointer) -> Option<Other> {
    let other = pointer.other.as_ref()?;
    match open(deps, name, pointer, other).await {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(
                collection = %name, lineage = %other.lineage,
                "the other lineage cannot be opened and is not followed: {}", chain(&error)
            );
            None
        }
    }
}

async fn open(
    deps: &IndexerDeps,
    name: &CollectionName,
    pointer: &Pointer,
    other: &LineagePointer,
) -> Result<Other, IndexerError> {
    let manifest = objects::manifest(&*deps.store, name, &other.manifest).await?;
    let reference = pointer
        .other_settings
        .clone()
        .unwrap_or_else(|| manifest.settings.clone());
    let settings = objects::settings(&*deps.store, name, &reference).await?;
    Ok(Other {
        release: deps.opener.open(Arc::new(manifest), None).await?,
        settings,
        reference,
        merges: Merges::default(),
    })
}

/// The model of a lineage whose rows need one.
pub(crate) async fn embedder_of(
    deps: &IndexerDeps,
    settings: &Settings,
) -> Result<Option<Arc<dyn Embedder>>, IndexerError> {
    if settings.embedder.provider == Provider::None {
        return Ok(None);
    }
    let (embedders, wanted) = (deps.embedders.clone(), settings.embedder.clone());
    Ok(blocking(move || embedders.documents(&wanted)).await??)
}

impl Turn<'_> {
    /// Looks at the pointer, and does what is due beside the active lineage.
    pub(crate) async fn look_beside(&mut self) -> Result<(), IndexerError> {
        self.see_pointer().await?;
        if self.standing().is_some() || self.awaits_promotion() {
            return Ok(());
        }
        self.erase_on().await?;
        self.look_at_graph().await;
        self.begin_due_rebuild().await?;
        self.begin_part().await;
        let wants_level = self.beside.leveling.is_some() && self.beside.leveling.as_ref() == self.other_lineage();
        if wants_level && Instant::now() >= self.beside.next_pause {
            self.level().await
        } else if self.beside.other.is_some() && Instant::now() >= self.beside.next_follow {
            self.followed().await
        } else {
            Ok(())
        }
    }

    /// Whether windows are published as candidates: from the second release on, there is something to return to.
    pub(crate) fn publishes_candidates(&self) -> bool {
        self.settings.window.candidate_seconds > 0 && self.head.manifest().generation > 0
    }

    /// How wide windows are.
    pub(crate) fn window_settings(&self) -> WindowSettings {
        let mut settings = self.settings.window.clone();
        if self.publishes_candidates() {
            settings.events = settings.build_events;
            settings.milliseconds = settings.candidate_seconds.saturating_mul(1_000);
            settings.build_seconds = settings.candidate_seconds;
        }
        settings
    }

    /// Whether a candidate is ahead of what answers: until it is promoted or given up, nothing more is published.
    pub(crate) fn awaits_promotion(&self) -> bool {
        let newest = self.head.manifest().generation;
        let ahead = |named: &Named| named.is_new && named.generation > newest;
        self.beside.named.as_ref().is_some_and(ahead)
    }

    /// Whether the next window has to wait: it would be a candidate, and there is one, or one is being built.
    pub(crate) fn awaits_room(&self) -> bool {
        let is_taken = self.beside.named.as_ref().is_some_and(|named| named.is_candidate);
        self.publishes_candidates() && (is_taken || self.beside.build.is_some())
    }

    pub(crate) async fn candidate_published(&mut self, release: Arc<Release>) {
        self.beside.stop().await;
        self.beside.named = Some(Named {
            generation: release.manifest().generation,
            is_candidate: true,
            is_new: true,
        });
        tracing::info!(
            collection = %self.name, lineage = %release.manifest().lineage,
            generation = release.manifest().generation, "a window was published as a candidate"
        );
        self.beside.other = Some(Other {
            release,
            settings: self.settings.clone(),
            reference: self.wanted_settings.clone(),
            merges: Merges::default(),
        });
    }

    /// How soon to look at the pointer again.
    pub(crate) fn look_in(&self) -> Duration {
        let look = self.beside.look_in();
        self.erasing.due_in().map_or(look, |due| due.min(look))
    }

    fn other_lineage(&self) -> Option<&LineageId> {
        self.beside.other.as_ref().map(Other::lineage)
    }

    async fn see_pointer(&mut self) -> Result<(), IndexerError> {
        let store = &*self.deps.store;
        let Some(seen) = objects::pointer_if_moved(store, self.name, self.beside.seen.as_ref()).await? else {
            return Ok(());
        };
        let pointer = seen.pointer;
        self.beside.seen = Some(seen.tag);
        if pointer.deleted_at.is_some() {
            return Err(CommitError::Refused(EditRefused::Deleted(self.name.clone())).into());
        }
        self.see_erased(&pointer).await?;
        let store = &*self.deps.store;
        let head = &self.head.manifest().lineage;
        if let Some(active) = pointer.active.as_ref().filter(|active| active.lineage != *head) {
            return Err(CommitError::Refused(EditRefused::LineageMoved(active.lineage.clone())).into());
        }
        self.beside.named = Named::of(&pointer);
        let named = pointer.other.as_ref().map(|other| &other.lineage);
        if named != self.other_lineage() {
            self.beside.stop().await;
            self.beside.other = opened(self.deps, self.name, &pointer).await;
        }
        if let (Some(other), Some(reference)) = (&mut self.beside.other, &pointer.other_settings)
            && other.reference != *reference
        {
            other.settings = objects::settings(store, self.name, reference).await?;
            other.reference = reference.clone();
        }
        let build = pointer.builds.first();
        let is_same = build.map(|build| &build.lineage) == self.beside.build.as_ref().map(|build| &build.lineage);
        if !is_same {
            self.beside.stop_part().await;
        }
        self.beside.build = build.cloned();
        self.beside.leveling = pointer.leveling;
        Ok(())
    }

    /// Brings the other lineage level, and pauses until it is flipped to.
    async fn level(&mut self) -> Result<(), IndexerError> {
        self.followed().await?;
        let until = Instant::now() + PAUSE;
        while self.beside.leveling.is_some() && self.beside.other.is_some() && Instant::now() < until {
            tokio::time::sleep(PAUSE_LOOK).await;
            self.see_pointer().await?;
        }
        self.beside.next_pause = Instant::now() + PAUSE;
        Ok(())
    }

    /// Follows; what goes wrong with the other lineage is its own.
    async fn followed(&mut self) -> Result<(), IndexerError> {
        self.beside.next_follow = Instant::now() + FOLLOW_EVERY;
        match self.follow(PublishReason::Follow, 0).await {
            Ok(()) => self.begin_other_merge(),
            // The swing and the store are the active lineage's too.
            Err(error @ (IndexerError::Commit(_) | IndexerError::Store(_))) => Err(error),
            Err(IndexerError::NotEqual(lineage)) => self.drop_broken(&lineage).await,
            Err(error) => {
                tracing::warn!(collection = %self.name, "the other lineage could not follow: {}", chain(&error));
                Ok(())
            }
        }
    }

    /// A lineage that does not hold what it must can neither serve nor be mended.
    pub(crate) async fn drop_broken(&mut self, lineage: &LineageId) -> Result<(), IndexerError> {
        tracing::error!(
            collection = %self.name, %lineage,
            "the other lineage does not hold the documents of the active one and is given up"
        );
        self.beside.stop().await;
        self.beside.other = None;
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        let swung = commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.drop_broken(epoch, lineage, nonce.clone(), self.now())
        });
        match swung.await {
            Ok(_) | Err(CommitError::Refused(EditRefused::NotNamed(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn begin_other_merge(&mut self) -> Result<(), IndexerError> {
        let Some(other) = &mut self.beside.other else {
            return Ok(());
        };
        let mut in_work = other.merges.in_work();
        let segments = &other.release.manifest().segments;
        // Its base stays as it was judged.
        in_work.extend(merge::base(segments).map(|base| base.id.clone()));
        let Some(plan) = merge::plan(segments, &in_work).filter(|plan| other.merges.has_room(plan)) else {
            return Ok(());
        };
        let context = MergeContext {
            scratch: self.deps.scratch.clone(),
            id: fresh_name(&self.deps.clock).into(),
            index_type: other.settings.ann.index_type,
            text: other.settings.text.clone(),
            threads: 1,
        };
        let job = crate::merge::begin(&other.release, plan, context).map_err(IndexerError::Scratch)?;
        other.merges.add(job);
        Ok(())
    }

    /// Takes what has ended beside the active lineage.
    pub(crate) async fn commit_beside(&mut self, done: Done) -> Result<(), IndexerError> {
        match done {
            Done::Merge(merged) => self.commit_other_merge(*merged).await,
            Done::Part(lineage, part) => match *part {
                Ok(part) => self.commit_part(&lineage, part).await,
                Err(error) => {
                    self.beside.part = None;
                    self.build_failed(&error);
                    Ok(())
                }
            },
        }
    }

    /// The next merge of the active lineage. Where rebuilds come by themselves, its base is left to them, unless there
    /// is no place for one and too much of it is dead.
    pub(crate) fn next_merge(&mut self) -> Option<MergePlan> {
        let segments = &self.head.manifest().segments;
        let plan = merge::plan(segments, &self.merges.in_work())?;
        if !(plan.takes_base && self.settings.rebuild.automatic) || merge::is_overdue(segments) {
            return Some(plan);
        }
        self.beside
            .due_because("too many dead rows, or too much beside the base".to_owned());
        let mut in_work = self.merges.in_work();
        in_work.extend(merge::base(segments).map(|base| base.id.clone()));
        merge::plan(segments, &in_work)
    }

    /// Whether texts of these sources are to be embedded.
    pub(crate) fn needs_model<'b>(mut sources: impl Iterator<Item = &'b VectorSource>) -> bool {
        sources.any(|source| matches!(source, VectorSource::Text(_)))
    }
}
