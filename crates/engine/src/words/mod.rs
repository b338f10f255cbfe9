//! Words: what becomes a term, and how rows are scored by terms. The same analysis reads documents and queries, and finds
//! part numbers however they are typed.
//!
//! Deliberately absent: spelling, highlights, other languages than English stems, and Tantivy's own queries: statistics
//! must be those of the live rows of a whole release, which Tantivy's searcher does not know.

mod analysis;
mod pages;
mod score;
mod stats;
mod texts;
mod tokenizer;

pub use analysis::WordsQuery;
pub use score::{SegmentWords, WordsScores, WordsWeights, score_words};
pub use stats::WordsStats;
pub use texts::texts_for_words;

pub(crate) use analysis::normalise;
pub(crate) use tokenizer::{CodesTokenizer, WordsTokenizer};
