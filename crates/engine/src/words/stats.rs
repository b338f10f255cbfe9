//! Statistics of a release's live rows: computed when it is opened, from what each segment knows of itself and the rows
//! that are dead. A release rebuilt from scratch has the same ones.

use roaring::RoaringBitmap;

use crate::ann::DenseBitmap;
use crate::rows::{AnalysedField, Rows};

/// Counts over the live rows of all segments of a release.
#[derive(Debug, Default)]
pub struct WordsStats {
    /// Live rows with a vector.
    rows: u64,
    words_tokens: u64,
    codes_tokens: u64,
    /// Of each segment that has any: postings ask for thousands of single rows.
    dead: Vec<Option<DenseBitmap>>,
}

impl WordsStats {
    /// Statistics of a release's segments, in the order in which they are searched.
    pub fn of<'a>(segments: impl IntoIterator<Item = (&'a Rows, &'a RoaringBitmap)>) -> Self {
        let mut stats = Self::default();
        for (rows, dead) in segments {
            let dead = DenseBitmap::from_roaring(dead, rows.vector_rows());
            let live = |field: &AnalysedField| field.tokens - dead.iter().map(|row| field.length(row)).sum::<u64>();
            stats.rows += u64::from(rows.vector_rows() - dead.count());
            stats.words_tokens += live(rows.words());
            stats.codes_tokens += live(rows.codes());
            stats.dead.push((dead.count() > 0).then_some(dead));
        }
        stats
    }

    /// Live rows with a vector, over all segments.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How many segments these statistics are of.
    pub(crate) fn segments(&self) -> usize {
        self.dead.len()
    }

    pub(crate) fn dead(&self, segment: usize) -> Option<&DenseBitmap> {
        self.dead[segment].as_ref()
    }

    /// Mean length of the field `words`.
    pub(crate) fn words_length(&self) -> f32 {
        self.mean(self.words_tokens)
    }

    /// Mean length of the field `codes`.
    pub(crate) fn codes_length(&self) -> f32 {
        self.mean(self.codes_tokens)
    }

    fn mean(&self, tokens: u64) -> f32 {
        (tokens as f64 / self.rows.max(1) as f64) as f32
    }

    /// Rarity of a term that this many live rows have: BM25's idf, never negative.
    pub(crate) fn idf(&self, rows_with_term: u64) -> f32 {
        let (all, with) = (self.rows as f64, rows_with_term as f64);
        (1.0 + (all - with + 0.5) / (with + 0.5)).ln() as f32
    }
}
