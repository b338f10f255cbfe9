//! A question that is asked of both lineages: each gets the vector of its own model (I-17).

use std::sync::Arc;
use std::time::{Duration, Instant};

use verdigris_core::queries::LoggedQuery;
use verdigris_embed::{Embedder, TextKind};
use verdigris_engine::error::EngineError;
use verdigris_engine::filter::Filter;
use verdigris_engine::release::search::{Mode, Query};

use super::{Measuring, Unmeasured};
use crate::Search;
use crate::answer::chain;
use crate::lineages::Served;

/// Something to search for.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// Empty where a stored vector is searched for.
    pub(super) text: String,
    filter: Option<Filter>,
    /// A stored vector, for lineages that share their vectors.
    vector: Option<Vec<f32>>,
}

/// A question with its vectors.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) question: Question,
    /// The vector for each side, and how long embedding took.
    vectors: Vec<(Option<Arc<[f32]>>, Duration)>,
}

impl Question {
    pub(super) fn text(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            filter: None,
            vector: None,
        }
    }

    pub(super) fn vector(vector: Vec<f32>) -> Self {
        Self {
            text: String::new(),
            filter: None,
            vector: Some(vector),
        }
    }

    /// A query as it was asked; none where its filter is not understood any more.
    pub(super) fn asked(query: &LoggedQuery) -> Option<Self> {
        Self::filtered(&query.text, &query.filter)
    }

    /// A text with a filter, which may be empty.
    pub(super) fn filtered(text: &str, filter: &str) -> Option<Self> {
        let filter = match filter.trim() {
            "" => None,
            filter => Some(Filter::parse(filter).ok()?),
        };
        Some(Self {
            filter,
            ..Self::text(text)
        })
    }
}

impl Ask {
    /// The ids of the best hits of one side, read as an answer reads them. Blocking.
    pub(super) fn hits(
        &self,
        search: &Search,
        served: &Served,
        side: usize,
        top: usize,
    ) -> Result<Vec<String>, EngineError> {
        let vector = self.vectors[side].0.as_deref();
        let mode = match (self.question.text.is_empty(), vector) {
            (true, _) => Mode::Vector,
            (false, Some(_)) => Mode::Hybrid,
            (false, None) => Mode::Words,
        };
        let query = Query {
            mode,
            text: Some(self.question.text.as_str()).filter(|text| !text.is_empty()),
            vector,
            top,
            filter: self.question.filter.as_ref(),
            ef_search: Some(served.settings.ann.ef_search),
            nprobe: Some(served.settings.ann.nprobe),
            min_score: None,
            weights: served.settings.weights,
        };
        let hits = served.release.search(&query, &search.filters)?;
        let stored = hits.iter().map(|hit| served.release.stored(hit.place));
        stored.map(|stored| stored.map(|stored| stored.id)).collect()
    }

    /// How long embedding took for one side.
    pub(super) fn embedding(&self, side: usize) -> Duration {
        self.vectors[side].1
    }
}

impl Measuring {
    /// Questions with the vectors of each side's own model. Where both have one model, a text is embedded once.
    pub(super) async fn embedded(&self, questions: Vec<Question>) -> Result<Vec<Ask>, Unmeasured> {
        let sides = self.sides();
        let mut asks = Vec::with_capacity(questions.len());
        for question in questions {
            let mut vectors: Vec<(Option<Arc<[f32]>>, Duration)> = Vec::with_capacity(sides.len());
            for served in &sides {
                let first = vectors.first().filter(|_| shares_space(&sides[0], served));
                let embedded = match first {
                    Some(first) => first.clone(),
                    None => self.vector(&question, served).await?,
                };
                vectors.push(embedded);
            }
            asks.push(Ask { question, vectors });
        }
        Ok(asks)
    }

    async fn vector(&self, question: &Question, served: &Served) -> Result<(Option<Arc<[f32]>>, Duration), Unmeasured> {
        if let Some(vector) = &question.vector {
            return Ok((Some(vector.as_slice().into()), Duration::ZERO));
        }
        let Some(cache) = served.embedder.as_ref().filter(|_| !question.text.is_empty()) else {
            return Ok((None, Duration::ZERO));
        };
        // Not through the cache: what people ask stays in it, and the time is the model's.
        let embedder: &Arc<dyn Embedder> = cache.embedder();
        let began = Instant::now();
        let embedded = embedder
            .embed(std::slice::from_ref(&question.text), TextKind::Query)
            .await;
        let took = began.elapsed();
        let mut vectors = embedded.map_err(|error| chain(&error))?;
        let vector = vectors.pop().ok_or("the embedder gave no vector")?;
        Ok((Some(vector.into()), took))
    }
}

/// Whether two lineages have vectors of one model.
pub(super) fn shares_space(one: &Served, other: &Served) -> bool {
    one.release.manifest().embedder == other.release.manifest().embedder
}
