//! BM25 of words and of codes, and coverage, added up over the postings of all segments of a release.
//!
//! Each posting is decoded once for its score, and once before that for the count of live rows where its segment has
//! dead rows. All three parts of the score are sums over terms, so one list of scores is enough.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::TermInfo;
use tantivy::schema::IndexRecordOption;

use crate::ann::DenseBitmap;
use crate::rows::{AnalysedField, Rows};
use crate::words::WordsQuery;
use crate::words::pages::PagedScores;
use crate::words::stats::WordsStats;

/// One segment of the release that is searched.
#[derive(Clone, Copy)]
pub struct SegmentWords<'a> {
    /// Its rows.
    pub rows: &'a Rows,
    /// Rows that may be hits; none where all live ones may. Statistics do not depend on it.
    pub allowed: Option<&'a DenseBitmap>,
}

/// How the parts of the score add up, and BM25's two constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WordsWeights {
    /// Of BM25 over words.
    pub words: f32,
    /// Of BM25 over codes.
    pub codes: f32,
    /// Of the share of the query's words, by rarity, that a row has.
    pub coverage: f32,
    /// How soon more of the same word counts no more.
    pub k1: f32,
    /// How much a long text is held against a row.
    pub b: f32,
}

impl Default for WordsWeights {
    fn default() -> Self {
        Self {
            words: 1.0,
            codes: 1.0,
            coverage: 10.0,
            k1: 1.2,
            b: 0.75,
        }
    }
}

/// The scores of one query over a release.
pub struct WordsScores {
    /// First place of each segment in the list, and the place after the last.
    starts: Vec<usize>,
    scores: PagedScores,
}

/// Scores each live row of `segments` that has a term of the query:
/// `words · BM25(words) + codes · BM25(codes) + coverage · Σ idf(matched words) / Σ idf(all query words)`.
///
/// `stats` are of the same segments in the same order.
pub fn score_words(
    segments: &[SegmentWords<'_>],
    stats: &WordsStats,
    query: &WordsQuery,
    weights: &WordsWeights,
) -> WordsScores {
    assert_eq!(segments.len(), stats.segments(), "statistics of another release");
    let mut starts = vec![0];
    for segment in segments {
        starts.push(starts[starts.len() - 1] + segment.rows.vector_rows() as usize);
    }
    let mut scores = WordsScores {
        scores: PagedScores::new(starts[segments.len()]),
        starts,
    };
    let words = Terms::find(segments, stats, &query.words, Rows::words);
    let all_idf: f32 = words.0.iter().map(|term| term.idf).sum();
    let coverage = if all_idf > 0.0 { weights.coverage / all_idf } else { 0.0 };
    let lengths = length_factors(weights, stats.words_length());
    words.score(
        segments,
        Rows::words,
        &lengths,
        weights.words * (weights.k1 + 1.0),
        coverage,
        &mut scores,
    );
    let codes = Terms::find(segments, stats, &query.codes, Rows::codes);
    let lengths = length_factors(weights, stats.codes_length());
    codes.score(
        segments,
        Rows::codes,
        &lengths,
        weights.codes * (weights.k1 + 1.0),
        0.0,
        &mut scores,
    );
    scores.keep_hits(segments, stats);
    scores
}

impl WordsScores {
    /// The `n` best rows as (segment, row, score), best first; equal scores in the order of segments and rows.
    pub fn top(&self, n: usize) -> Vec<(usize, u32, f32)> {
        let mut best: BinaryHeap<Reverse<Scored>> = BinaryHeap::with_capacity(n.saturating_add(1).min(1 << 16));
        let mut threshold = 0.0;
        self.scores.for_each_page(|start, scores| {
            for (row, score) in scores.iter().enumerate() {
                if *score <= threshold {
                    continue;
                }
                best.push(Reverse(Scored {
                    score: *score,
                    place: start + row,
                }));
                if best.len() > n {
                    best.pop();
                }
                if best.len() == n {
                    threshold = best.peek().map_or(f32::INFINITY, |worst| worst.0.score).max(threshold);
                }
            }
        });
        let place = |Reverse(Scored { score, place }): Reverse<Scored>| {
            let segment = self.starts.partition_point(|start| *start <= place) - 1;
            (segment, (place - self.starts[segment]) as u32, score)
        };
        best.into_sorted_vec().into_iter().map(place).collect()
    }

    /// A row's score; 0 for one that has no term of the query, is dead, or may not be a hit.
    pub fn get(&self, segment: usize, row: u32) -> f32 {
        let place = self.starts[segment] + row as usize;
        if place < self.starts[segment + 1] {
            self.scores.get(place)
        } else {
            0.0
        }
    }

    /// Takes the scores of dead rows and of rows that may not be hits out again, at a cost that goes with the dead and
    /// with the allowed rows, not with all.
    fn keep_hits(&mut self, segments: &[SegmentWords<'_>], stats: &WordsStats) {
        for (segment, start) in self.starts[..segments.len()].iter().enumerate() {
            for row in stats.dead(segment).iter().flat_map(|dead| dead.iter()) {
                self.scores.clear(start + row as usize);
            }
        }
        if segments.iter().all(|segment| segment.allowed.is_none()) {
            return;
        }
        let mut kept = PagedScores::new(self.starts[segments.len()]);
        let mut keep = |place: usize| match self.scores.get(place) {
            0.0 => {}
            score => kept.add(place, score),
        };
        for (segment, words) in segments.iter().enumerate() {
            let (start, end) = (self.starts[segment], self.starts[segment + 1]);
            match words.allowed {
                Some(allowed) => allowed.iter().for_each(|row| keep(start + row as usize)),
                None => (start..end).for_each(&mut keep),
            }
        }
        self.scores = kept;
    }
}

/// A place with its score. The better one is the greater: higher score, and of equal ones the earlier place.
#[derive(PartialEq)]
struct Scored {
    score: f32,
    place: usize,
}

impl Eq for Scored {}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Where a query's terms are, and how rare each is.
struct Terms(Vec<FoundTerm>);

struct FoundTerm {
    idf: f32,
    /// Its postings in each segment.
    postings: Vec<Option<TermInfo>>,
}

type FieldOf = for<'a> fn(&'a Rows) -> &'a AnalysedField;

impl Terms {
    fn find(segments: &[SegmentWords<'_>], stats: &WordsStats, terms: &[String], field: FieldOf) -> Self {
        let find = |term: &String| {
            let mut rows = 0;
            let mut postings = Vec::with_capacity(segments.len());
            for (number, segment) in segments.iter().enumerate() {
                let field = field(segment.rows);
                let found = field.find(term);
                rows += found
                    .as_ref()
                    .map_or(0, |found| live_rows(field, found, stats.dead(number)));
                postings.push(found);
            }
            FoundTerm {
                idf: stats.idf(rows),
                postings,
            }
        };
        Self(terms.iter().map(find).collect())
    }

    /// Adds `idf · (gain · tf / (tf + length factor) + constant)` for each posting.
    fn score(
        &self,
        segments: &[SegmentWords<'_>],
        field: FieldOf,
        lengths: &[f32; 256],
        gain: f32,
        constant: f32,
        scores: &mut WordsScores,
    ) {
        for term in &self.0 {
            for (segment, found) in term.postings.iter().enumerate() {
                let Some(found) = found else { continue };
                let field = field(segments[segment].rows);
                let start = scores.starts[segment];
                let (gain, constant) = (term.idf * gain, term.idf * constant);
                field.for_each_posting(found, IndexRecordOption::WithFreqs, |rows, frequencies| {
                    for (row, frequency) in rows.iter().zip(frequencies) {
                        let frequency = *frequency as f32;
                        let length = lengths[usize::from(field.lengths[*row as usize])];
                        scores.scores.add(
                            start + *row as usize,
                            gain * frequency / (frequency + length) + constant,
                        );
                    }
                });
            }
        }
    }
}

fn live_rows(field: &AnalysedField, found: &TermInfo, dead: Option<&DenseBitmap>) -> u64 {
    let mut rows = u64::from(found.doc_freq);
    if let Some(dead) = dead {
        field.for_each_posting(found, IndexRecordOption::Basic, |block, _| {
            rows -= block.iter().filter(|row| dead.contains(**row)).count() as u64;
        });
    }
    rows
}

/// `k1 · (1 - b + b · length / mean)` for each of Tantivy's 256 rounded lengths.
fn length_factors(weights: &WordsWeights, mean: f32) -> [f32; 256] {
    let mean = mean.max(f32::MIN_POSITIVE);
    std::array::from_fn(|length| {
        let length = FieldNormReader::id_to_fieldnorm(length as u8) as f32;
        weights.k1 * (1.0 - weights.b + weights.b * length / mean)
    })
}
