//! Whether the structure over the base still finds what an exact search finds, looked at beside publishing.
//!
//! A base never changes, but rows of it die, and a walk through a graph of dead rows finds less and less. The indexer
//! looks itself: it has the release open, and decides about rebuilds; asking the search role would need one that runs,
//! and would be the same work. It looks only when a further twentieth of the base has died, at few vectors, on one
//! thread. Deliberately absent: small segments, which are written anew all the time, and the gates' own measurement.

use tokio::task::JoinHandle;
use verdigris_core::manifest::SegmentId;
use verdigris_core::merge;
use verdigris_core::rebuild::{is_graph_look_due, is_graph_worn};
use verdigris_engine::ann::{AnnSearch, DenseBitmap};
use verdigris_engine::error::EngineError;
use verdigris_engine::release::ReleaseSegment;

use crate::error::chain;
use crate::turn::Turn;

/// Hits that are compared.
const TOP: usize = 10;
/// Vectors that are searched for.
const SAMPLES: usize = 100;
/// Rows that exact searches look at in all: about two seconds of one thread.
const EXACT_ROWS_MAX: usize = 20_000_000;

/// What was seen of the base's structure, and the look under way.
#[derive(Default)]
pub(crate) struct Graph {
    looked: Option<(SegmentId, u32)>,
    look: Option<(SegmentId, JoinHandle<Result<f64, EngineError>>)>,
}

impl Turn<'_> {
    /// Begins a look at the base where one is due, and takes what one that has ended saw. Never waits.
    pub(crate) async fn look_at_graph(&mut self) {
        let has_ended = |(_, look): &mut (SegmentId, JoinHandle<_>)| look.is_finished();
        if let Some((id, look)) = self.beside.graph.look.take_if(has_ended) {
            match look.await {
                Ok(Ok(recall)) => self.graph_seen(&id, recall),
                Ok(Err(error)) => {
                    tracing::warn!(collection = %self.name, "the graph of the base was not looked at: {}", chain(&error));
                }
                Err(error) => {
                    tracing::warn!(collection = %self.name, "the graph of the base was not looked at: {}", chain(&error));
                }
            }
        }
        let Some(base) = merge::base(&self.head.manifest().segments) else {
            return;
        };
        let graph = &mut self.beside.graph;
        if graph.look.is_some() || !is_graph_look_due(&self.settings.rebuild, base, graph.looked.as_ref()) {
            return;
        }
        graph.looked = Some((base.id.clone(), base.live));
        let (head, id) = (self.head.clone(), base.id.clone());
        let search = AnnSearch {
            k: TOP,
            ef_search: Some(self.settings.ann.ef_search),
            nprobe: Some(self.settings.ann.nprobe),
        };
        let look = tokio::task::spawn_blocking(move || {
            let mut segments = head.segments().iter();
            let part = segments.find(|part| *part.segment.id() == id);
            part.map_or(Ok(1.0), |part| recall_of(part, &search))
        });
        self.beside.graph.look = Some((base.id.clone(), look));
    }

    fn graph_seen(&mut self, id: &SegmentId, recall: f64) {
        let base = merge::base(&self.head.manifest().segments).filter(|base| base.id == *id);
        tracing::info!(collection = %self.name, segment = %id, recall, "the graph of the base was looked at");
        if base.is_some() && is_graph_worn(&self.settings.rebuild, recall) {
            let limit = self.settings.rebuild.recall_min;
            self.beside.due_because(format!(
                "the graph of the base finds {recall:.3} of what is there, limit {limit}"
            ));
        }
    }
}

/// The share of the nearest live rows that a search through the structure finds, for vectors of live rows that lie
/// evenly over the segment: the same rows give the same number.
fn recall_of(part: &ReleaseSegment, search: &AnnSearch) -> Result<f64, EngineError> {
    let ann = part.segment.ann();
    let rows = part.segment.rows().vector_rows();
    let alive = DenseBitmap::full(rows).and_not(&DenseBitmap::from_roaring(&part.dead, rows));
    let live: Vec<u32> = alive.iter().collect();
    let samples = SAMPLES
        .min(EXACT_ROWS_MAX / live.len().max(1))
        .clamp(1, live.len().max(1));
    let (mut right, mut all) = (0, 0);
    for n in 0..samples.min(live.len()) {
        let vector = ann.vector(live[n * live.len() / samples]);
        let exact = ann.exact(&vector, TOP, Some(&alive))?;
        let found = ann.search(&vector, search, Some(&alive))?;
        // A hit as good as the last is right, whichever of equal ones it is.
        let worst = exact.last().map_or(f32::NEG_INFINITY, |(_, score)| *score);
        right += found
            .iter()
            .filter(|(_, score)| *score >= worst)
            .count()
            .min(exact.len());
        all += exact.len();
    }
    Ok(if all == 0 { 1.0 } else { right as f64 / all as f64 })
}
