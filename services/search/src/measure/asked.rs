//! What both lineages answer: golden queries, documents looked for by their own texts, queries that people asked, and
//! how long answers take.

use std::sync::Arc;
use std::time::Instant;

use verdigris_core::gates::{GoldenResult, KnownItems, LatencyMeasured, Measured, SampledQueries};
use verdigris_core::queries::golden::GoldenQuery;
use verdigris_core::queries::ranking::{overlap, rank_change};
use verdigris_engine::error::EngineError;

use super::ask::{Ask, Question, shares_space};
use super::rows::{text_of, words};
use super::{Measuring, Unmeasured, is_common, part};
use crate::answer::chain;
use crate::lineages::Served;

/// Hits that are compared.
const TOP: usize = 10;
/// Words of a document's text that it is looked for by: about as many as people type.
const KNOWN_WORDS: usize = 8;
/// Rounds of latencies; each number is the median over them.
const ROUNDS: usize = 3;
/// Questions of a round: more would not tell more.
const LATENCY_QUESTIONS_MAX: usize = 200;
/// Queries that are named for their little overlap.
const NAMES_MAX: usize = 10;

impl Measuring {
    /// Asks the golden queries of both.
    pub(super) async fn golden(&self) -> Result<Measured<Vec<GoldenResult>>, Unmeasured> {
        let golden = crate::golden::read(&*self.search.deps.store, &self.followed.name).await;
        let golden = golden.map_err(|error| chain(&error))?;
        if golden.queries.is_empty() {
            return Ok(Measured::NotApplicable("there are no golden queries".to_owned()));
        }
        let mut results = Vec::with_capacity(golden.queries.len());
        for query in golden.queries {
            let question = Question::filtered(&query.text, &query.filter);
            let question = question.ok_or_else(|| format!("the filter of {:?} is not understood", query.text))?;
            let ask = self.embedded(vec![question]).await?.swap_remove(0);
            let rankings = self.rankings(&ask, query.within as usize).await?;
            results.push(self.golden_result(query, &rankings));
        }
        Ok(Measured::Value(results))
    }

    fn golden_result(&self, query: GoldenQuery, rankings: &[Vec<String>]) -> GoldenResult {
        let is_judged = !query.gains.is_empty() || query.ndcg_floor.is_some();
        let ndcg = |side: usize| {
            rankings
                .get(side)
                .filter(|_| is_judged)
                .and_then(|ranking| query.ndcg(ranking))
        };
        let mut missing = query.misses(&rankings[0]);
        missing.retain(|id| self.should_exist(id));
        GoldenResult {
            missing,
            ndcg: ndcg(0),
            ndcg_active: ndcg(1),
            floor: query.ndcg_floor.map(f64::from),
            query: query.text,
        }
    }

    /// Whether the candidate should have a document: a feed may have deleted it, and then it is not missed.
    fn should_exist(&self, id: &str) -> bool {
        let exists = |served: &Arc<Served>| {
            let place = served.release.find(id);
            place.is_some_and(|place| served.release.has_vector(place))
        };
        is_common(&self.sides(), id) && self.sides().iter().any(exists)
    }

    /// Looks for documents of the active by the beginning of their own texts.
    pub(super) async fn known_items(&self) -> Result<Measured<KnownItems>, Unmeasured> {
        if self.active.is_none() {
            return Ok(Measured::NotApplicable("it is the lineage that answers".to_owned()));
        }
        let items = self.items().await?;
        if items.is_empty() {
            return Ok(Measured::NotApplicable(
                "the active has no documents with texts".to_owned(),
            ));
        }
        let mut known = KnownItems::default();
        for (id, ask) in items {
            let rankings = self.rankings(&ask, TOP).await?;
            known.sampled += 1;
            known.found += u64::from(rankings[0].contains(&id));
            known.found_active += u64::from(rankings[1].contains(&id));
        }
        Ok(Measured::Value(known))
    }

    /// Documents of the active, each with a question by the beginning of its text.
    async fn items(&self) -> Result<Vec<(String, Ask)>, Unmeasured> {
        let places = self.sampled_of_active("known items").await?;
        let Some(active) = self.active.clone() else {
            return Ok(Vec::new());
        };
        let texts = self.work(move || {
            let mut texts = Vec::with_capacity(places.len());
            for place in places {
                let text = text_of(&active.release, &active.settings, place)?;
                let beginning: Vec<&str> = text.split_whitespace().take(KNOWN_WORDS).collect();
                if !beginning.is_empty() {
                    texts.push((active.release.id(place)?, beginning.join(" ")));
                }
            }
            Ok::<_, EngineError>(texts)
        });
        let texts = texts.await?.map_err(words)?;
        let questions = texts.iter().map(|(_, text)| Question::text(text)).collect();
        let asks = self.embedded(questions).await?;
        Ok(texts.into_iter().map(|(id, _)| id).zip(asks).collect())
    }

    /// Queries that people asked, and how long both take for them.
    pub(super) async fn asked(&self) -> (Measured<SampledQueries>, Measured<LatencyMeasured>) {
        if self.active.is_none() {
            let why = || "it is the lineage that answers".to_owned();
            return (Measured::NotApplicable(why()), Measured::NotApplicable(why()));
        }
        let asks = match self.asks().await {
            Ok(asks) => asks,
            Err(why) => return (Measured::Missing(why.clone()), Measured::Missing(why)),
        };
        let queries = part(self.compared(&asks).await);
        let latency = part(self.latency(asks).await);
        (queries, latency)
    }

    /// Queries of the sample, with their vectors.
    async fn asks(&self) -> Result<Vec<Ask>, Unmeasured> {
        let logged = self.search.log.all(&self.followed.name);
        let chosen = self.draws.some("queries", logged.len(), self.samples);
        let questions = chosen.into_iter().filter_map(|n| Question::asked(&logged[n]));
        self.embedded(questions.collect()).await
    }

    async fn compared(&self, asks: &[Ask]) -> Result<Measured<SampledQueries>, Unmeasured> {
        if asks.is_empty() {
            let is_logged = self.search.log.facts(&self.followed.name).settings.log;
            let why = if is_logged {
                "nobody asked anything yet"
            } else {
                "queries are not logged"
            };
            return Ok(Measured::NotApplicable(why.to_owned()));
        }
        let mut queries = SampledQueries::default();
        let (mut overlaps, mut changes) = (Vec::new(), Vec::new());
        for ask in asks {
            let rankings = self.rankings(ask, TOP).await?;
            let [ours, theirs] = &rankings[..] else {
                return Err("there is nothing to compare with".to_owned());
            };
            queries.sampled += 1;
            queries.zero_hits += u64::from(ours.is_empty());
            queries.zero_hits_active += u64::from(theirs.is_empty());
            overlaps.push((overlap(theirs, ours, TOP).unwrap_or(1.0), ask.question.text.clone()));
            changes.extend(rank_change(theirs, ours, TOP));
        }
        queries.overlap = mean(overlaps.iter().map(|(overlap, _)| *overlap));
        queries.rank_change = mean(changes.into_iter());
        overlaps.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let least = overlaps.into_iter().filter(|(overlap, _)| *overlap < 1.0);
        queries.least = least.take(NAMES_MAX).map(|(_, text)| text).collect();
        Ok(Measured::Value(queries))
    }

    /// The ids of each side's best hits, the candidate's first.
    async fn rankings(&self, ask: &Ask, top: usize) -> Result<Vec<Vec<String>>, Unmeasured> {
        let (search, sides, ask) = (self.search.clone(), self.sides(), ask.clone());
        let asked = self.work(move || {
            let hits = |(side, served): (usize, &Arc<Served>)| ask.hits(&search, served, side, top);
            sides
                .iter()
                .enumerate()
                .map(hits)
                .collect::<Result<Vec<_>, EngineError>>()
        });
        asked.await?.map_err(words)
    }

    /// Asks in turn: now one side first, now the other, so that what else goes on meets both alike.
    async fn latency(&self, mut asks: Vec<Ask>) -> Result<Measured<LatencyMeasured>, Unmeasured> {
        if asks.is_empty() {
            asks = self.items().await?.into_iter().map(|(_, ask)| ask).collect();
        }
        if asks.is_empty() {
            asks = self.stored_vectors().await?;
        }
        if asks.is_empty() {
            return Ok(Measured::NotApplicable("there is nothing to search for".to_owned()));
        }
        asks.truncate(LATENCY_QUESTIONS_MAX);
        let asks: Arc<[Ask]> = asks.into();
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let mut took = [Vec::with_capacity(asks.len()), Vec::with_capacity(asks.len())];
            for n in 0..asks.len() {
                let first = (n + round) % 2;
                for side in [first, 1 - first] {
                    took[side].push(self.timed(&asks, n, side).await?);
                }
            }
            rounds.push(took.map(Quantiles::of));
        }
        let median = |side: usize, of: fn(&Quantiles) -> f64| {
            let mut numbers: Vec<f64> = rounds.iter().map(|round| of(&round[side])).collect();
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        Ok(Measured::Value(LatencyMeasured {
            sampled: asks.len() as u64,
            p50_ms: median(0, |q| q.p50),
            p99_ms: median(0, |q| q.p99),
            active_p50_ms: median(1, |q| q.p50),
            active_p99_ms: median(1, |q| q.p99),
        }))
    }

    /// Milliseconds that one side takes for a question; waiting for a place is no part of it.
    async fn timed(&self, asks: &Arc<[Ask]>, n: usize, side: usize) -> Result<f64, Unmeasured> {
        let (search, served, asks) = (self.search.clone(), self.sides().swap_remove(side), asks.clone());
        let timed = self.work(move || {
            let began = Instant::now();
            asks[n].hits(&search, &served, side, TOP)?;
            let took = began.elapsed() + asks[n].embedding(side);
            Ok::<_, EngineError>(search.dragged(served.release.manifest(), took))
        });
        Ok(timed.await?.map_err(words)?.as_secs_f64() * 1e3)
    }

    /// Questions by vectors of the active's documents, for catalogs without texts; none where spaces differ.
    async fn stored_vectors(&self) -> Result<Vec<Ask>, Unmeasured> {
        let Some(active) = self
            .active
            .clone()
            .filter(|active| shares_space(&self.candidate, active))
        else {
            return Ok(Vec::new());
        };
        let places = self.sampled_of_active("latency").await?;
        let vectors = places
            .into_iter()
            .map(|place| Question::vector(active.release.vector(place)));
        self.embedded(vectors.collect()).await
    }
}

#[derive(Debug, Clone, Copy)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

impl Quantiles {
    fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let at = |share: f64| numbers[((numbers.len() as f64 * share).ceil() as usize).clamp(1, numbers.len()) - 1];
        Self {
            p50: at(0.50),
            p99: at(0.99),
        }
    }
}

fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = numbers.fold((0, 0.0), |(count, sum), number| (count + 1, sum + number));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_least_numbers_that_enough_stay_within() {
        let quantiles = Quantiles::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((quantiles.p50, quantiles.p99), (100.0, 198.0));
        let one = Quantiles::of(vec![7.0]);
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
    }
}
