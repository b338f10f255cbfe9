//! Searching a release: words and vectors over all segments, one list of hits.

use roaring::RoaringBitmap;
use verdigris_core::settings::{AnnSettings, Weights};

use crate::ann::{AnnSearch, DenseBitmap};
use crate::error::EngineError;
use crate::filter::{Filter, FilterCache};
use crate::release::fusion;
use crate::release::{Release, RowPlace};
use crate::words::{SegmentWords, WordsQuery, WordsScores, WordsWeights, score_words};

/// Candidates that each list gives at least: more gains nothing on three real catalogs, half as many costs little.
pub const CANDIDATES_MIN: usize = 100;

/// Hits that a search by vectors alone looks at beyond those asked for, so that equal scores at the end of a page are
/// ordered by id as well.
const TIES: usize = 10;

/// Coordinates that a brief search multiplies at most (measured: 0.2 ns each in a walk, so 0.2 ms).
const BRIEF_COORDINATES_MAX: usize = 1 << 20;

/// Which lists a search asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Both, added up.
    Hybrid,
    /// Vectors alone.
    Vector,
    /// Words alone.
    Words,
}

/// A search of one release.
pub struct Query<'a> {
    /// Which lists.
    pub mode: Mode,
    /// Words to search for; empty text finds nothing by words.
    pub text: Option<&'a str>,
    /// The query's vector, of the release's dimension, finite.
    pub vector: Option<&'a [f32]>,
    /// Hits wanted, those that a page skips included.
    pub top: usize,
    /// Which rows may be hits.
    pub filter: Option<&'a Filter>,
    /// Candidates a graph search keeps.
    pub ef_search: Option<u32>,
    /// Lists an inverted file visits.
    pub nprobe: Option<u32>,
    /// Hits below this score are left out.
    pub min_score: Option<f32>,
    /// How the parts add up.
    pub weights: Weights,
}

/// One hit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Where it is.
    pub place: RowPlace,
    /// What it is ranked by.
    pub score: f32,
    /// Its score by words, codes and coverage; none where words were not asked.
    pub words: Option<f32>,
    /// Its inner product with the query; none where vectors were not asked.
    pub vector: Option<f32>,
}

impl Query<'_> {
    /// Candidates of each list. Vectors alone need no more than what is asked for: a graph never keeps fewer candidates
    /// than hits are wanted, so that a fixed number would put a floor under every search, however little `ef_search`
    /// asks. Half of it costs nothing, with a filter or without.
    fn candidates(&self) -> usize {
        match self.mode {
            Mode::Hybrid | Mode::Words => self.top.max(CANDIDATES_MIN),
            Mode::Vector => {
                let ef_search = self.ef_search.unwrap_or_else(|| AnnSettings::default().ef_search);
                (self.top + TIES).max((ef_search as usize / 2).min(CANDIDATES_MIN))
            }
        }
    }
}

/// Rows that may be hits, of each segment; none where all rows may.
pub(crate) type Allowed = Vec<Option<DenseBitmap>>;

impl Release {
    /// The best hits, best first, at most `query.top`. Equal scores are ordered by document id.
    pub fn search(&self, query: &Query<'_>, filters: &FilterCache) -> Result<Vec<Hit>, EngineError> {
        let allowed = self.allowed(query.filter, filters)?;
        let candidates = query.candidates();
        let words = match query.mode {
            Mode::Vector => None,
            Mode::Hybrid | Mode::Words => query.text.map(|text| self.words(text, query, &allowed)),
        };
        let by_vector = match (query.mode, query.vector) {
            (Mode::Words, _) | (_, None) => None,
            (_, Some(vector)) => Some(self.nearest(vector, candidates, query, &allowed)?),
        };
        let mut hits = match (words, by_vector) {
            (Some(words), Some(nearest)) => {
                let vector = query.vector.expect("a vector list comes from a vector");
                self.fuse(&words, nearest, vector, candidates, query.weights.vector)?
            }
            (Some(words), None) => fusion::by_words(words.top(candidates)),
            (None, Some(nearest)) => fusion::by_vector(nearest),
            (None, None) => Vec::new(),
        };
        if let Some(min_score) = query.min_score {
            hits.retain(|hit| hit.score >= min_score);
        }
        self.sort(&mut hits)?;
        hits.truncate(query.top);
        Ok(hits)
    }

    /// How many rows a filter lets through, dead ones left out.
    pub fn count(&self, filter: &Filter, filters: &FilterCache) -> Result<u64, EngineError> {
        let mut count = 0;
        for part in &self.segments {
            let rows = filters.rows(part.segment.id(), part.segment.rows(), filter)?;
            count += (&*rows - &*part.dead).len();
        }
        Ok(count)
    }

    /// Whether a search takes well below half a millisecond while its files are in memory: one by vectors alone, without
    /// a filter, through few structures.
    pub fn is_brief(&self, query: &Query<'_>) -> bool {
        if query.mode != Mode::Vector || query.filter.is_some() {
            return false;
        }
        let search = AnnSearch {
            k: query.candidates(),
            ef_search: query.ef_search,
            nprobe: query.nprobe,
        };
        let scores = self.segments.iter().map(|part| {
            let rows = part.segment.rows.vector_rows();
            let alive = part.alive().map_or(rows, DenseBitmap::count);
            part.segment.ann.scores_for(&search, alive)
        });
        scores.sum::<usize>().saturating_mul(self.manifest.dimension as usize) <= BRIEF_COORDINATES_MAX
    }

    fn allowed(&self, filter: Option<&Filter>, filters: &FilterCache) -> Result<Allowed, EngineError> {
        let Some(filter) = filter else {
            return Ok(self.segments.iter().map(|_| None).collect());
        };
        let mut allowed = Vec::with_capacity(self.segments.len());
        for part in &self.segments {
            let rows = filters.rows(part.segment.id(), part.segment.rows(), filter)?;
            let live: RoaringBitmap = &*rows - &*part.dead;
            allowed.push(Some(DenseBitmap::from_roaring(&live, part.segment.rows.vector_rows())));
        }
        Ok(allowed)
    }

    fn words(&self, text: &str, query: &Query<'_>, allowed: &Allowed) -> WordsScores {
        let segments: Vec<SegmentWords<'_>> = self
            .segments
            .iter()
            .zip(allowed)
            .map(|(part, allowed)| SegmentWords {
                rows: part.segment.rows(),
                allowed: allowed.as_ref(),
            })
            .collect();
        let Weights {
            words, codes, coverage, ..
        } = query.weights;
        let weights = WordsWeights {
            words,
            codes,
            coverage,
            ..WordsWeights::default()
        };
        score_words(&segments, &self.stats, &WordsQuery::parse(text), &weights)
    }

    fn nearest(
        &self,
        vector: &[f32],
        k: usize,
        query: &Query<'_>,
        allowed: &Allowed,
    ) -> Result<Vec<(RowPlace, f32)>, EngineError> {
        let search = AnnSearch {
            k,
            ef_search: query.ef_search,
            nprobe: query.nprobe,
        };
        let mut nearest = Vec::new();
        for (segment, part) in self.segments.iter().enumerate() {
            let allowed = allowed[segment].as_ref().or(part.alive());
            let rows = part.segment.ann.search(vector, &search, allowed)?;
            nearest.extend(rows.into_iter().map(|(row, score)| (RowPlace { segment, row }, score)));
        }
        nearest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        nearest.truncate(k);
        Ok(nearest)
    }

    fn fuse(
        &self,
        words: &WordsScores,
        nearest: Vec<(RowPlace, f32)>,
        vector: &[f32],
        candidates: usize,
        weight: f32,
    ) -> Result<Vec<Hit>, EngineError> {
        let scores_of = |segment: usize, rows: &[u32]| self.segments[segment].segment.ann.scores(vector, rows);
        fusion::hybrid(words, nearest, candidates, weight, scores_of)
    }

    /// By score, and by id where scores are equal, so that the order does not depend on how rows lie in segments.
    fn sort(&self, hits: &mut [Hit]) -> Result<(), EngineError> {
        hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        for equal in hits
            .chunk_by_mut(|a, b| a.score.total_cmp(&b.score).is_eq())
            .filter(|equal| equal.len() > 1)
        {
            let mut by_id = Vec::with_capacity(equal.len());
            for hit in equal.iter() {
                by_id.push((self.id(hit.place)?, *hit));
            }
            by_id.sort_by(|a, b| a.0.cmp(&b.0));
            equal.iter_mut().zip(by_id).for_each(|(hit, (_, sorted))| *hit = sorted);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: Mode, top: usize, ef_search: Option<u32>, expect: usize) {
        let query = Query {
            mode,
            text: None,
            vector: None,
            top,
            filter: None,
            ef_search,
            nprobe: None,
            min_score: None,
            weights: Weights::default(),
        };
        assert_eq!(
            query.candidates(),
            expect,
            "{mode:?}, top {top}, ef_search {ef_search:?}"
        );
    }

    #[test]
    fn vectors_alone_take_no_more_candidates_than_the_graph_keeps_anyway() {
        check(Mode::Vector, 11, Some(56), 28);
        check(Mode::Vector, 11, Some(16), 21);
        check(Mode::Vector, 11, None, 64);
        check(Mode::Vector, 11, Some(4_000), 100);
        check(Mode::Vector, 500, Some(16), 510);
    }

    #[test]
    fn lists_that_are_added_up_have_a_hundred_candidates_at_least() {
        check(Mode::Hybrid, 11, Some(16), 100);
        check(Mode::Words, 500, None, 500);
    }
}
