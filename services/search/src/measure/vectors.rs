//! Whether vectors are those of their documents, and whether the structure over them finds what an exact search finds.

use verdigris_core::gates::{Measured, RecallMeasured, SAME_VECTOR_COSINE, VectorsChecked};
use verdigris_core::index_type::IndexType;
use verdigris_core::text::embedded_text;
use verdigris_embed::TextKind;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::search::{Mode, Query};
use verdigris_engine::release::{Release, RowPlace};

use super::ask::shares_space;
use super::rows::words;
use super::{Measuring, Unmeasured};
use crate::answer::chain;
use crate::lineages::Served;

/// Texts that are embedded in one call: queries go between two calls.
const TEXTS_AT_ONCE: usize = 8;
/// Hits that are compared.
const TOP: usize = 10;
/// Rows that exact searches look at in all: seconds of work. Of a million rows it leaves fifty searches.
const EXACT_ROWS_MAX: usize = 50_000_000;
/// Names that are told.
const NAMES_MAX: usize = 10;

/// A sampled row: its document, and the vector that is stored.
struct Sampled {
    id: String,
    /// What is embedded; none where vectors are given.
    text: Option<String>,
    stored: Vec<f32>,
    /// What should be stored, where that is known without embedding.
    expected: Option<Vec<f32>>,
}

impl Measuring {
    /// Embeds sampled documents anew and compares: this finds rows that are out of order, and another model of the
    /// same dimension. Vectors that were given are compared with the active's.
    pub(super) async fn vectors(&self) -> Result<Measured<VectorsChecked>, Unmeasured> {
        let mut checked = VectorsChecked::default();
        let sampled = self.sampled_vectors().await?;
        if sampled.is_empty() {
            return Ok(Measured::NotApplicable("there are no vectors".to_owned()));
        }
        for some in sampled.chunks(TEXTS_AT_ONCE) {
            let texts: Vec<String> = some.iter().filter_map(|row| row.text.clone()).collect();
            let embedded = match &self.candidate.embedder {
                Some(cache) => {
                    // The model itself: the cache of documents' vectors would say what it said when they were built.
                    let embedded = cache.embedder().embed(&texts, TextKind::Document).await;
                    embedded.map_err(|error| chain(&error))?
                }
                None => Vec::new(),
            };
            let mut embedded = embedded.into_iter();
            for row in some {
                let again = if row.text.is_some() {
                    embedded.next()
                } else {
                    row.expected.clone()
                };
                let Some(again) = again else { continue };
                checked.sampled += 1;
                if cosine(&row.stored, &again) >= SAME_VECTOR_COSINE {
                    checked.right += 1;
                } else if checked.wrong.len() < NAMES_MAX {
                    checked.wrong.push(row.id.clone());
                }
            }
        }
        if checked.sampled == 0 {
            return Err("there is nothing to compare given vectors with".to_owned());
        }
        Ok(Measured::Value(checked))
    }

    async fn sampled_vectors(&self) -> Result<Vec<Sampled>, Unmeasured> {
        let (candidate, active) = (self.candidate.clone(), self.active.clone());
        let active = active.filter(|active| shares_space(&candidate, active));
        let (draws, wanted) = (self.draws.clone(), self.samples);
        let sampled = self.work(move || {
            let release = &candidate.release;
            let places: Vec<RowPlace> = release.live_rows().filter(|place| release.has_vector(*place)).collect();
            let chosen = draws.some("vectors", places.len(), wanted);
            chosen
                .into_iter()
                .map(|n| sampled(&candidate, active.as_deref(), places[n]))
                .collect::<Result<Vec<_>, EngineError>>()
        });
        sampled.await?.map_err(words)
    }

    /// Compares what the structures find with an exact search, for vectors of documents. A hit as good as the tenth is
    /// right, whichever of equal ones it is.
    pub(super) async fn recall(&self) -> Result<Measured<RecallMeasured>, Unmeasured> {
        if !has_structure(&self.candidate.release) {
            return Ok(Measured::NotApplicable("all segments are exact".to_owned()));
        }
        let (sampled, recall) = self.recall_of(0).await?;
        let active = self.active.as_ref().filter(|active| has_structure(&active.release));
        let active = match active {
            Some(_) => Some(self.recall_of(1).await?.1),
            None => None,
        };
        Ok(Measured::Value(RecallMeasured {
            sampled,
            recall,
            active,
        }))
    }

    async fn recall_of(&self, side: usize) -> Result<(u64, f64), Unmeasured> {
        let served = self.sides().swap_remove(side);
        let (draws, release) = (self.draws.clone(), served.release.clone());
        let rows = release.manifest().count.max(1) as usize;
        let wanted = self.samples.min((EXACT_ROWS_MAX / rows).max(TOP));
        let places = self.work(move || {
            let places: Vec<RowPlace> = release.live_rows().filter(|place| release.has_vector(*place)).collect();
            let chosen = draws.some("recall", places.len(), wanted);
            chosen.into_iter().map(|n| places[n]).collect::<Vec<_>>()
        });
        let (mut sampled, mut sum) = (0, 0.0);
        for place in places.await? {
            let (search, served) = (self.search.clone(), served.clone());
            let found = self.work(move || {
                let vector = served.release.vector(place);
                let exact = served.release.exact(&vector, TOP)?;
                let query = Query {
                    mode: Mode::Vector,
                    text: None,
                    vector: Some(&vector),
                    top: TOP,
                    filter: None,
                    ef_search: Some(served.settings.ann.ef_search),
                    nprobe: Some(served.settings.ann.nprobe),
                    min_score: None,
                    weights: served.settings.weights,
                };
                let found = served.release.search(&query, &search.filters)?;
                let worst = exact.last().map_or(f32::NEG_INFINITY, |(_, score)| *score);
                let right = found.iter().filter(|hit| hit.score >= worst).count();
                Ok::<_, EngineError>(right as f64 / exact.len().max(1) as f64)
            });
            sum += found.await?.map_err(words)?;
            sampled += 1;
        }
        if sampled == 0 {
            return Err("there is no vector to search for".to_owned());
        }
        Ok((sampled, sum / sampled as f64))
    }
}

fn sampled(candidate: &Served, active: Option<&Served>, place: RowPlace) -> Result<Sampled, EngineError> {
    let (stored, state) = candidate.release.state(place)?;
    let document = state.document().unwrap_or_default();
    let is_embedded = candidate.embedder.is_some();
    let expected = match active.filter(|_| !is_embedded) {
        None => None,
        Some(active) => {
            let there = active.release.find(&stored.id);
            let there = there.filter(|place| active.release.has_vector(*place));
            match there {
                // Of another state of the document the vector may be another.
                Some(there) if active.release.state(there)?.1.digest() == state.digest() => {
                    Some(active.release.vector(there))
                }
                _ => None,
            }
        }
    };
    Ok(Sampled {
        text: is_embedded.then(|| embedded_text(&document, &candidate.settings.text.embed)),
        id: stored.id,
        stored: candidate.release.vector(place),
        expected,
    })
}

fn has_structure(release: &Release) -> bool {
    let mut segments = release.manifest().segments.iter();
    segments.any(|segment| segment.index_type != IndexType::Flat)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let lengths = (product(a, a) * product(b, b)).sqrt();
    if a.len() != b.len() || lengths == 0.0 {
        return if a == b { 1.0 } else { 0.0 };
    }
    product(a, b) / lengths
}
