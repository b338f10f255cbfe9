//! Measuring a lineage before it may be promoted: facts for the gates, read from its files and asked of it beside the
//! active one.
//!
//! The same releases give the same numbers, latencies apart: what is sampled is drawn by a seed that comes from the
//! manifest. The work goes in pieces of some milliseconds that take a search's place each, one at a time, and after
//! whoever waits already, so that people do not feel it. Deliberately absent: limits and verdicts, which core has.

mod ask;
mod asked;
mod draws;
mod rows;
mod vectors;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Status;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::gates::{
    FilesVerified, LineageFacts, LoadedModel, Measured, Measurements, MemoryMeasured, SameGeneration,
};
use verdigris_core::manifest::{LineageId, Manifest};
use verdigris_core::pointer::LineagePointer;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::Lineage;
use verdigris_store::{collection as objects, fetch};

use self::draws::Draws;
use crate::Search;
use crate::answer::{chain, reason_of_read, status_of_not_served};
use crate::lineages::{Followed, Lineages, NotServed, Problem, Served};

/// How long a piece of work waits for searches that are under way before it takes its turn among them.
const PATIENCE: Duration = Duration::from_millis(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);

/// What is measured, and what is wanted of it.
pub(crate) struct Wanted {
    /// The lineage; none for the other one.
    pub(crate) lineage: Option<LineageId>,
    /// The least generation of it.
    pub(crate) generation: u64,
}

/// Why a part could not be measured, in words for the verdict.
pub(crate) type Unmeasured = String;

/// Two releases that are measured, and the means to do it.
pub(crate) struct Measuring {
    search: Arc<Search>,
    followed: Arc<Followed>,
    candidate: Arc<Served>,
    /// The active one; none where it is the one that is measured.
    active: Option<Arc<Served>>,
    /// How much is sampled for each part.
    samples: usize,
    draws: Draws,
}

/// Measures a lineage. One at a time: a second caller waits.
pub(crate) async fn measure(
    search: &Arc<Search>,
    followed: &Arc<Followed>,
    wanted: &Wanted,
) -> Result<Measurements, Status> {
    let _turn = search.measuring.lock().await;
    let began = Instant::now();
    let lineages = followed.lineages();
    let named = named(followed, &lineages, wanted)?;
    let measurements = match candidate(followed, &lineages, &named, wanted)? {
        Ok(candidate) => {
            let active = beside(search, followed, &lineages).await?;
            let active = Some(active).filter(|active| active.lineage() != candidate.lineage());
            let samples = candidate.settings.gates.samples as usize;
            let draws = Draws::new(&candidate.reference.digest);
            let (search, followed) = (search.clone(), followed.clone());
            let measuring = Measuring {
                search,
                followed,
                candidate,
                active,
                samples,
                draws,
            };
            measuring.all().await
        }
        Err(problem) => of_broken(search, followed, &lineages, &named, &problem).await?,
    };
    search.deps.metrics.measured(&followed.name, began.elapsed());
    Ok(measurements)
}

/// The active release. A process that follows one lineage alone opens it for as long as it measures.
async fn beside(search: &Arc<Search>, followed: &Followed, lineages: &Lineages) -> Result<Arc<Served>, Status> {
    if search.deps.following.lineage.is_none() {
        let active = lineages.served(Lineage::Active);
        return active.map_err(|why| status_of_not_served(&followed.name, &why));
    }
    let seen = objects::pointer(&*search.deps.store, &followed.name).await;
    let seen = seen.map_err(|error| reason_of_read(&error).status(chain(&error)))?;
    let nothing = || status_of_not_served(&followed.name, &NotServed::Empty);
    let named = seen.pointer.active.ok_or_else(nothing)?;
    if let Some(open) = lineages.open_of(&named.lineage) {
        return Ok(open.clone());
    }
    let opened = crate::open::open(search, followed, &named).await;
    let opened = opened.map_err(|problem| problem.reason.status(problem.message))?;
    Ok(Arc::new(opened))
}

/// How the pointer names the lineage that is wanted.
fn named(followed: &Followed, lineages: &Lineages, wanted: &Wanted) -> Result<LineagePointer, Status> {
    let views = lineages.views();
    let mut named = views.iter().map(|view| view.named);
    let found = match &wanted.lineage {
        Some(lineage) => named.find(|named| named.lineage == *lineage),
        None => named.nth(1),
    };
    found.cloned().ok_or_else(|| match &wanted.lineage {
        Some(lineage) => Reason::LineageNotFound.status(format!(
            "lineage {lineage} is neither the active nor the other one of collection {}",
            followed.name
        )),
        None => status_of_not_served(
            &followed.name,
            &lineages.served(Lineage::Other).err().unwrap_or(NotServed::NoOther),
        ),
    })
}

/// The release that is measured, or why it cannot be opened.
fn candidate(
    followed: &Followed,
    lineages: &Lineages,
    named: &LineagePointer,
    wanted: &Wanted,
) -> Result<Result<Arc<Served>, Problem>, Status> {
    let open = lineages.open_of(&named.lineage).cloned();
    let is_enough = |served: &Arc<Served>| served.release.manifest().generation >= wanted.generation;
    let views = lineages.views();
    let view = views.iter().find(|view| view.named.lineage == named.lineage);
    let problem = view.and_then(|view| view.problem.cloned());
    match (open.filter(is_enough), problem) {
        // What is open of it is older than what is broken: the judgement is of what is named.
        (_, Some(problem)) => Ok(Err(problem)),
        (Some(served), None) => Ok(Ok(served)),
        (None, None) => Err(Reason::NotReady.status(format!(
            "release {} of lineage {} of collection {} is not open yet",
            wanted.generation.max(named.generation),
            named.lineage,
            followed.name
        ))),
    }
}

impl Measuring {
    async fn all(&self) -> Measurements {
        let manifest = self.candidate.release.manifest();
        let mut measurements = Measurements {
            candidate: facts(manifest, &self.candidate.reference.digest),
            active: match &self.active {
                Some(active) => Measured::Value(facts(active.release.manifest(), &active.reference.digest)),
                None => Measured::NotApplicable("it is the lineage that answers".to_owned()),
            },
            measured_at: Timestamp(self.search.deps.clock.now_ns()),
            files: Measured::Value(files(&self.search, manifest).await),
            model: Measured::Value(self.model()),
            memory: self.memory(),
            ready_ms: Measured::Value(self.candidate.ready.as_millis() as u64),
            same_generation: part(self.same_generation().await),
            ..unmeasured(&self.candidate, "it was not measured")
        };
        // A file that is too short ends whoever reads its mapping: nothing more is read of a damaged release.
        if measurements
            .files
            .value()
            .is_some_and(|files| !files.damaged.is_empty())
        {
            return measurements;
        }
        measurements.rows = part(self.rows().await);
        measurements.vectors = part(self.vectors().await);
        measurements.texts = part(self.texts().await);
        measurements.deletes = part(self.deletes().await);
        measurements.recall = part(self.recall().await);
        measurements.golden = part(self.golden().await);
        measurements.known_items = part(self.known_items().await);
        let (queries, latency) = self.asked().await;
        measurements.queries = queries;
        measurements.latency = latency;
        measurements
    }

    fn model(&self) -> LoadedModel {
        let manifest = self.candidate.release.manifest();
        let embedder = self.candidate.embedder.as_ref();
        let identity = embedder.map(|cache| cache.embedder().identity().clone());
        let segments = self.candidate.release.segments().iter();
        let mut file_dimensions: Vec<u32> = segments.map(|part| part.segment.ann().dimension()).collect();
        file_dimensions.sort_unstable();
        file_dimensions.dedup();
        LoadedModel {
            embedder: identity.unwrap_or_else(|| EmbedderIdentity::none(manifest.dimension)),
            file_dimensions,
        }
    }

    fn memory(&self) -> Measured<MemoryMeasured> {
        match self.search.deps.memory_limit {
            None => Measured::NotApplicable("this process has no limit of memory".to_owned()),
            Some(limit_bytes) => Measured::Value(MemoryMeasured {
                bytes: self.candidate.release.memory_bytes(),
                limit_bytes,
            }),
        }
    }

    /// The active's release of the candidate's generation: it may be ahead, since most publishes carry it alone.
    async fn same_generation(&self) -> Result<Measured<SameGeneration>, Unmeasured> {
        let Some(active) = &self.active else {
            return Ok(Measured::NotApplicable("it is the lineage that answers".to_owned()));
        };
        let generation = self.candidate.release.manifest().generation;
        let same = |manifest: &Manifest| {
            Ok(Measured::Value(SameGeneration {
                generation: manifest.generation,
                content: manifest.content,
                documents: manifest.documents,
                checkpoint: manifest.checkpoint.clone(),
            }))
        };
        let theirs = active.release.manifest();
        if theirs.generation == generation {
            return same(theirs);
        }
        if self.is_ahead() {
            let ours = self.candidate.release.manifest();
            if ours.checkpoint.sequence < theirs.checkpoint.sequence {
                return Err("it was published later than the active, and has read less of the log".to_owned());
            }
            let why = "it holds events that the active does not have yet: there is nothing equal to compare with";
            return Ok(Measured::NotApplicable(why.to_owned()));
        }
        let (store, name) = (&*self.search.deps.store, &self.followed.name);
        let seen = objects::pointer(store, name).await.map_err(|error| chain(&error))?;
        let answers = seen.pointer.active.as_ref().map(|named| named.generation);
        let manifest = self.candidate.release.manifest();
        if manifest.parent.is_some() && manifest.parent == answers && answers < Some(generation) {
            return Ok(Measured::NotApplicable(
                "it is one publish ahead of what answers, which waits for it".to_owned(),
            ));
        }
        let is_meant = |kept: &&verdigris_core::pointer::KeptRelease| {
            kept.generation == generation && kept.lineage == *active.lineage()
        };
        let Some(kept) = seen.pointer.kept.iter().find(is_meant) else {
            return Err(format!("the active's release {generation} is not kept"));
        };
        let manifest = objects::manifest(store, name, &kept.manifest).await;
        same(&manifest.map_err(|error| chain(&error))?)
    }

    /// Whether the candidate was published alone, with events that the active does not have.
    fn is_ahead(&self) -> bool {
        let generation = |served: &Served| served.release.manifest().generation;
        let active = self.active.as_ref().map(|active| generation(active));
        active.is_some_and(|active| generation(&self.candidate) > active)
    }

    /// Does a piece of blocking work in a search's place. People go first: it waits a little while they take all.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        piece: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unmeasured> {
        let waits = Instant::now();
        while self.search.threads.available_permits() == 0 && waits.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
        }
        let permit = self.search.threads.clone().acquire_owned().await;
        let permit = permit.map_err(|_| "the server is shutting down".to_owned())?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            piece()
        });
        work.await
            .map_err(|error| format!("a piece of work did not end: {error}"))
    }

    /// Both releases, the candidate's first.
    fn sides(&self) -> Vec<Arc<Served>> {
        std::iter::once(&self.candidate).chain(&self.active).cloned().collect()
    }
}

/// Whether all should agree about a document: none has it from a publish that another has not had yet.
fn is_common(sides: &[Arc<Served>], id: &str) -> bool {
    let generations = sides.iter().map(|side| side.release.manifest().generation);
    let had_by_all = generations.min().unwrap_or(0);
    let mut rows = sides.iter().flat_map(|side| {
        side.release
            .live_rows_of(id)
            .into_iter()
            .map(|place| side.release.generation(place))
    });
    rows.all(|generation| generation <= had_by_all)
}

fn part<T>(measured: Result<Measured<T>, Unmeasured>) -> Measured<T> {
    measured.unwrap_or_else(Measured::Missing)
}

fn unmeasured(served: &Served, why: &str) -> Measurements {
    of_manifest(served.release.manifest(), &served.reference.digest, why)
}

fn of_manifest(manifest: &Manifest, digest: &verdigris_core::digest::Digest, why: &str) -> Measurements {
    Measurements {
        candidate: facts(manifest, digest),
        active: Measured::Missing(why.to_owned()),
        measured_at: Timestamp(0),
        files: Measured::Missing(why.to_owned()),
        rows: Measured::Missing(why.to_owned()),
        same_generation: Measured::Missing(why.to_owned()),
        model: Measured::Missing(why.to_owned()),
        vectors: Measured::Missing(why.to_owned()),
        texts: Measured::Missing(why.to_owned()),
        known_items: Measured::Missing(why.to_owned()),
        deletes: Measured::Missing(why.to_owned()),
        recall: Measured::Missing(why.to_owned()),
        golden: Measured::Missing(why.to_owned()),
        queries: Measured::Missing(why.to_owned()),
        latency: Measured::Missing(why.to_owned()),
        memory: Measured::Missing(why.to_owned()),
        ready_ms: Measured::Missing(why.to_owned()),
    }
}

fn facts(manifest: &Manifest, digest: &verdigris_core::digest::Digest) -> LineageFacts {
    let mut index_types = Vec::new();
    for segment in &manifest.segments {
        if !index_types.contains(&segment.index_type) {
            index_types.push(segment.index_type);
        }
    }
    LineageFacts {
        lineage: manifest.lineage.clone(),
        generation: manifest.generation,
        manifest: *digest,
        documents: manifest.documents,
        chunks: manifest.count,
        live_bytes: manifest.facts().live_bytes,
        ghosts: manifest
            .segments
            .iter()
            .map(|segment| u64::from(segment.live_ghosts))
            .sum(),
        content: manifest.content,
        checkpoint: manifest.checkpoint.clone(),
        dimension: manifest.dimension,
        embedder: manifest.embedder.clone(),
        settings: manifest.settings.clone(),
        index_types,
    }
}

/// Reads every file again, whatever was verified when it was opened.
async fn files(search: &Search, manifest: &Manifest) -> FilesVerified {
    let verification = fetch::verify_release(&*search.deps.store, manifest).await;
    let dead = manifest.segments.iter().filter_map(|segment| segment.dead.as_ref());
    let dead: std::collections::BTreeSet<&str> = dead.map(|range| range.path.as_str()).collect();
    let named = verification.files + dead.len() as u64;
    FilesVerified {
        verified: named.saturating_sub(verification.problems.len() as u64),
        named,
        damaged: verification.problems,
    }
}

/// What can be told of a release that cannot be opened: its manifest, its files, and the model that should embed for it.
async fn of_broken(
    search: &Arc<Search>,
    followed: &Followed,
    lineages: &Lineages,
    named: &LineagePointer,
    problem: &Problem,
) -> Result<Measurements, Status> {
    let store = &*search.deps.store;
    let manifest = objects::manifest(store, &followed.name, &named.manifest).await;
    let manifest = manifest.map_err(|error| reason_of_read(&error).status(chain(&error)))?;
    let why = format!("the release cannot be opened: {}", problem.message);
    let mut measurements = of_manifest(&manifest, &named.manifest.digest, &why);
    measurements.measured_at = Timestamp(search.deps.clock.now_ns());
    measurements.files = Measured::Value(files(search, &manifest).await);
    if let Ok(active) = lineages.served(Lineage::Active) {
        measurements.active = Measured::Value(facts(active.release.manifest(), &active.reference.digest));
    }
    let settings = objects::settings(store, &followed.name, &manifest.settings).await;
    let identity = settings
        .ok()
        .map(|settings| search.deps.embedders.identity(&settings.embedder));
    if let Some(Ok(embedder)) = identity {
        measurements.model = Measured::Value(LoadedModel {
            embedder,
            file_dimensions: Vec::new(),
        });
    }
    Ok(measurements)
}
