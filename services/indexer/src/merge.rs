//! Merges, off the freshness path: they run on a blocking thread against the release of their beginning, and are
//! committed against the release of their end. Rows that died meanwhile are dead in the result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use roaring::RoaringBitmap;
use tempfile::TempDir;
use verdigris_core::index_type::IndexType;
use verdigris_core::manifest::SegmentId;
use verdigris_core::merge::{MergePlan, died_meanwhile};
use verdigris_core::settings::TextSettings;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::Release;
use verdigris_engine::segment::merge::{MergeInput, Merged, merge};
use verdigris_engine::segment::write::SegmentShape;
use verdigris_runtime::background;

/// A merge under way, or done and not yet committed.
pub(crate) struct MergeJob {
    /// What it merges.
    pub(crate) plan: MergePlan,
    /// Name of the segment that it writes.
    pub(crate) id: SegmentId,
    /// Where it writes.
    pub(crate) folder: TempDir,
    /// Told to stop early.
    pub(crate) stop: Arc<AtomicBool>,
    /// When it began.
    pub(crate) began: Instant,
    /// The work.
    pub(crate) work: tokio::task::JoinHandle<Result<Merged, EngineError>>,
}

/// What a merge needs beside the release.
pub(crate) struct MergeContext {
    pub(crate) scratch: PathBuf,
    pub(crate) id: SegmentId,
    pub(crate) index_type: IndexType,
    pub(crate) text: TextSettings,
    pub(crate) threads: usize,
}

/// Begins a merge on a blocking thread.
pub(crate) fn begin(release: &Arc<Release>, plan: MergePlan, context: MergeContext) -> std::io::Result<MergeJob> {
    let inputs: Vec<MergeInput> = plan
        .segments
        .iter()
        .filter_map(|id| release.segments().iter().find(|part| part.segment.id() == id))
        .map(|part| MergeInput {
            segment: part.segment.clone(),
            dead: part.dead.clone(),
        })
        .collect();
    assert_eq!(
        inputs.len(),
        plan.segments.len(),
        "a plan names segments of its release"
    );
    let folder = tempfile::Builder::new().prefix("merge-").tempdir_in(&context.scratch)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (path, told, dimension) = (folder.path().to_owned(), stop.clone(), release.manifest().dimension);
    let MergeContext {
        id,
        index_type,
        text,
        threads,
        ..
    } = context;
    let work = background::run(move || {
        let shape = SegmentShape {
            index_type,
            dimension,
            text: &text,
            threads,
        };
        merge(&inputs, &path, shape, &|| !told.load(Ordering::Relaxed))
    });
    Ok(MergeJob {
        plan,
        id,
        folder,
        stop,
        began: Instant::now(),
        work,
    })
}

/// Dead rows of the merged segment in `release`, which may be newer than the one that the merge began with.
pub(crate) fn dead_rows(
    release: &Release,
    job: &MergePlan,
    id: &SegmentId,
    merged: &Merged,
) -> BTreeMap<SegmentId, RoaringBitmap> {
    let part_of = |input| release.segments().iter().find(|part| part.segment.id() == input);
    let dead_now: Vec<Option<&RoaringBitmap>> = job
        .segments
        .iter()
        .map(|input| part_of(input).map(|part| &*part.dead))
        .collect();
    BTreeMap::from([(id.clone(), died_meanwhile(&merged.origins, &dead_now))])
}

/// The merges under way: one that takes the base, which is long, and one beside it, which is short.
#[derive(Default)]
pub(crate) struct Merges {
    base: Option<MergeJob>,
    beside: Option<MergeJob>,
}

impl Merges {
    /// Segments that are being merged.
    pub(crate) fn in_work(&self) -> Vec<SegmentId> {
        let jobs = [&self.base, &self.beside].into_iter().flatten();
        jobs.flat_map(|job| job.plan.segments.iter().cloned()).collect()
    }

    /// Whether no merge of this kind is under way.
    pub(crate) fn has_room(&self, plan: &MergePlan) -> bool {
        if plan.takes_base {
            self.base.is_none()
        } else {
            self.beside.is_none()
        }
    }

    /// Remembers a merge that was begun.
    pub(crate) fn add(&mut self, job: MergeJob) {
        let place = if job.plan.takes_base {
            &mut self.base
        } else {
            &mut self.beside
        };
        *place = Some(job);
    }

    /// Waits for either merge, for ever when there is none. Cancel safe: the work goes on, and its handle stays.
    pub(crate) async fn finished(&mut self) -> (MergeJob, Merged) {
        tokio::select! {
            biased;
            done = finished(&mut self.base) => done,
            done = finished(&mut self.beside) => done,
        }
    }

    /// Ends the merges at their next row; their results are of no use any more.
    pub(crate) async fn stop(&mut self) {
        let jobs = [self.base.take(), self.beside.take()];
        for job in jobs.iter().flatten() {
            job.stop.store(true, Ordering::Relaxed);
        }
        for job in jobs.into_iter().flatten() {
            let _ = job.work.await;
        }
    }
}

/// Waits for a merge, for ever when there is none. A merge that did not succeed is logged and planned again
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
