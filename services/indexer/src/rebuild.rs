//! A rebuild: the live rows of a release written as the first segments of another lineage, a part at a time.
//!
//! It runs beside publishing, on one thread, and leaves nothing in memory that the pointer does not have: a part that
//! is whole is named by a swing, and whoever is the writer goes on behind it. Vectors that are made anew go to the
//! embedding cache, so that a part that was not finished costs its graph alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Handle as Runtime;
use verdigris_core::digest::ContentSum;
use verdigris_core::manifest::{LineageId, SegmentEntry, SegmentId};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{Build, Part};
use verdigris_embed::Embedder;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::{Release, RowPlace};
use verdigris_engine::segment::write::{SegmentShape, SegmentWriter, WrittenSegment};
use verdigris_runtime::background;
use verdigris_store::{Store, publish};

use crate::embed;
use crate::error::IndexerError;
use crate::order::VectorSource;
use crate::take_over::{Between, slice};
use crate::write_segment;

/// Rows that are read and embedded at once.
const SLICE_ROWS: usize = 1_024;

/// How far a rebuild has come, for those who look.
#[derive(Debug, Default)]
pub struct BuildProgress {
    rows_done: AtomicU64,
    rows: AtomicU64,
    embedded: AtomicU64,
    /// Milliseconds since the work on it began in this process.
    millis: AtomicU64,
    /// Rows that were there when it began.
    rows_before: AtomicU64,
}

impl BuildProgress {
    pub(crate) fn begin(&self, done: u64, rows: u64) {
        self.rows.store(rows, Ordering::Relaxed);
        self.rows_done.store(done, Ordering::Relaxed);
        self.rows_before.store(done, Ordering::Relaxed);
        self.embedded.store(0, Ordering::Relaxed);
        self.millis.store(0, Ordering::Relaxed);
    }

    fn note(&self, done: u64, embedded: u64, began: Instant) {
        self.rows_done.store(done, Ordering::Relaxed);
        self.embedded.fetch_add(embedded, Ordering::Relaxed);
        let millis = began.elapsed().as_millis() as u64;
        self.millis.fetch_max(millis, Ordering::Relaxed);
    }

    /// Rows written, and all of them.
    pub fn rows(&self) -> (u64, u64) {
        (
            self.rows_done.load(Ordering::Relaxed),
            self.rows.load(Ordering::Relaxed),
        )
    }

    /// Texts that were embedded for it, from the cache or by the model.
    pub fn embedded(&self) -> u64 {
        self.embedded.load(Ordering::Relaxed)
    }

    /// Seconds that the rows left will take at the pace so far; none before there is one.
    pub fn seconds_left(&self) -> Option<f64> {
        let (done, rows) = self.rows();
        let new = done.saturating_sub(self.rows_before.load(Ordering::Relaxed));
        let seconds = self.millis.load(Ordering::Relaxed) as f64 / 1e3;
        (new > 0).then(|| seconds / new as f64 * rows.saturating_sub(done) as f64)
    }
}

/// What writing a part needs.
pub(crate) struct PartContext {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) name: CollectionName,
    pub(crate) source: Arc<Release>,
    pub(crate) between: Between,
    pub(crate) dimension: u32,
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
    pub(crate) id: SegmentId,
    pub(crate) folder: TempDir,
    pub(crate) progress: Arc<BuildProgress>,
}

/// A part under way.
pub(crate) struct PartJob {
    /// Whose part it is.
    pub(crate) lineage: LineageId,
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<Result<Part, IndexerError>>,
}

impl PartJob {
    /// Begins the next part of a build.
    pub(crate) fn begin(build: &Build, context: PartContext) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lineage = build.lineage.clone();
        let (told, build) = (stop.clone(), build.clone());
        let work = tokio::spawn(async move {
            let (store, name, segment) = (context.store.clone(), context.name.clone(), context.id.clone());
            let runtime = Runtime::current();
            let written = background::run(move || write(&build, context, &runtime, &told)).await;
            let (sums, written, folder) = written.map_err(IndexerError::Panicked)??;
            let entry = tokio::task::spawn_blocking(move || {
                let paths = written.paths.clone();
                write_segment::entry(segment, &written).map(|entry| (entry, paths))
            });
            let (entry, paths) = entry
                .await
                .map_err(IndexerError::Panicked)?
                .map_err(IndexerError::Scratch)?;
            publish::send_file(&*store, &name, &entry.files.vectors.path, &paths.vectors).await?;
            publish::send_file(&*store, &name, &entry.files.rows.path, &paths.rows).await?;
            drop(folder);
            Ok(sums.named(entry))
        });
        Self { lineage, stop, work }
    }

    /// Waits for it. Cancel safe: the work goes on.
    pub(crate) async fn finished(&mut self) -> Result<Part, IndexerError> {
        (&mut self.work).await.map_err(IndexerError::Panicked)?
    }

    /// Ends it at its next slice.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.work.await;
    }
}

/// What a build comes to with a part, before its files have a name.
struct Sums {
    rows_done: u64,
    content: ContentSum,
    documents: u64,
}

impl Sums {
    fn named(self, segment: SegmentEntry) -> Part {
        Part {
            segment,
            rows_done: self.rows_done,
            content: self.content,
            documents: self.documents,
        }
    }
}

fn write(
    build: &Build,
    context: PartContext,
    runtime: &Runtime,
    stop: &AtomicBool,
) -> Result<(Sums, WrittenSegment, TempDir), IndexerError> {
    let settings = &context.between.to;
    let shape = SegmentShape {
        index_type: settings.ann.index_type,
        dimension: context.dimension,
        text: &settings.text,
        // A rebuild leaves a processor to the answers.
        threads: 1,
    };
    let mut writer = SegmentWriter::new(context.folder.path(), shape)?;
    let mut sums = Sums {
        rows_done: build.rows_done,
        content: build.content,
        documents: build.documents,
    };
    let mut ghosts = Vec::new();
    let began = Instant::now();
    let mut places = context.source.live_rows().skip(build.rows_done as usize);
    let mut left = settings.rebuild.part_rows as usize;
    while left > 0 {
        let batch: Vec<RowPlace> = places.by_ref().take(SLICE_ROWS.min(left)).collect();
        if batch.is_empty() {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled.into());
        }
        left -= batch.len();
        let rows = slice(
            &context.source,
            &batch,
            &context.between,
            &mut sums.content,
            &mut sums.documents,
        )?;
        let sources: Vec<&VectorSource> = rows.iter().map(|row| &row.vector).collect();
        let vectors = runtime.block_on(embed::vectors(sources.into_iter(), context.embedder.as_ref(), None));
        let (vectors, embedded) = vectors?;
        for (taken, vector) in rows.into_iter().zip(vectors) {
            match vector {
                Some(vector) => writer.add(&taken.row, &vector)?,
                // They follow the last vector.
                None => ghosts.push(taken.row),
            }
        }
        sums.rows_done += batch.len() as u64;
        context.progress.note(sums.rows_done, embedded.embedded, began);
        let new = sums.rows_done - build.rows_done;
        slow_down(settings.rebuild.rows_per_second, new, began, runtime, stop);
    }
    for ghost in &ghosts {
        writer.add_ghost(ghost)?;
    }
    let written = writer.finish()?;
    context.progress.note(sums.rows_done, 0, began);
    Ok((sums, written, context.folder))
}

/// Waits until so many rows may be done, or until told to stop.
fn slow_down(rows_per_second: u32, rows: u64, began: Instant, runtime: &Runtime, stop: &AtomicBool) {
    /// How soon a stop is noticed.
    const LOOK: Duration = Duration::from_millis(100);
    if rows_per_second == 0 {
        return;
    }
    let due = Duration::from_secs_f64(rows as f64 / f64::from(rows_per_second));
    while began.elapsed() < due && !stop.load(Ordering::Relaxed) {
        let wait = LOOK.min(due.saturating_sub(began.elapsed()));
        // Its timer is made within the runtime: this thread is none of it.
        runtime.block_on(async { tokio::time::sleep(wait).await });
    }
}
