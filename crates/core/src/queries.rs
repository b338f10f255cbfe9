//! Queries that releases are measured with: golden ones that people write, and a sample of the ones that were asked.
//!
//! Of an asked query nothing is kept but its text and its filter: not who asked, not when, not what was found.

pub mod golden;
pub mod ranking;

use serde::{Deserialize, Serialize};

/// The most queries that a collection's sample keeps.
pub const KEPT_MAX: u32 = 100_000;
/// A query that is longer than this, text and filter together, is left out of the sample: it says little about the
/// others, and the sample's size stays bounded.
pub const LOGGED_BYTES_MAX: usize = 2_048;
/// The sample leans towards the last so many times as many queries as it keeps: what people asked a year ago says
/// little about today.
const MEMORY: u64 = 10;

/// Which queries are kept for measuring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuerySettings {
    /// Whether a sample of the asked queries is kept on the machine that answers; when it is not, what was kept goes.
    pub log: bool,
    /// How many are kept.
    pub kept: u32,
}

impl Default for QuerySettings {
    fn default() -> Self {
        Self {
            log: true,
            kept: 10_000,
        }
    }
}

/// A query as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedQuery {
    /// What was searched for.
    pub text: String,
    /// The filter; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
}

impl LoggedQuery {
    /// Whether its text or its filter has this id as a word or a code of its own, in letters of either case. An id that is
    /// but a part of a longer word or code, such as `7` in `77` or `d-7-red`, is not named by it.
    pub fn names(&self, id: &str) -> bool {
        let id = id.to_lowercase();
        [&self.text, &self.filter]
            .into_iter()
            .any(|text| has_word(&text.to_lowercase(), &id))
    }

    /// Whether it is short enough to be kept.
    pub fn is_kept(&self) -> bool {
        self.text.len() + self.filter.len() <= LOGGED_BYTES_MAX
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let begins = |before: &str| !joins(before.chars().rev());
    let ends = |behind: &str| !joins(behind.chars());
    let mut places = text.match_indices(word);
    !word.is_empty() && places.any(|(at, _)| begins(&text[..at]) && ends(&text[at + word.len()..]))
}

/// Whether a word or code goes on with these characters: by a letter or a digit, or by one behind what codes are
/// written with.
fn joins(mut next: impl Iterator<Item = char>) -> bool {
    match next.next() {
        Some('-' | '_' | '.' | '/' | '+') => next.next().is_some_and(char::is_alphanumeric),
        Some(first) => first.is_alphanumeric(),
        None => false,
    }
}

/// A sample of the queries that were asked, of bounded size: each has the same chance to be in it, and the chance of one
/// that was asked long ago fades.
///
/// ```
/// use verdigris_core::queries::{LoggedQuery, QuerySample};
/// let query = |n: u64| LoggedQuery { text: n.to_string(), filter: String::new() };
/// let mut sample = QuerySample::default();
/// for n in 0..1_000 {
///     // Any source of numbers will do; here one that is easy to repeat.
///     sample.offer(query(n), 10, n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
/// }
/// assert_eq!(sample.queries().len(), 10);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuerySample {
    queries: Vec<LoggedQuery>,
    /// How many were offered, as far as that matters.
    offered: u64,
}

/// Why a stored sample cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A line is no query.
    #[error("line {line} is no logged query")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What the decoder said.
        #[source]
        source: serde_json::Error,
    },
}

/// The first line of a stored sample.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    offered: u64,
}

impl QuerySample {
    /// Offers a query to a sample of at most `kept`; `draw` is any random number. True where it is kept.
    pub fn offer(&mut self, query: LoggedQuery, kept: u32, draw: u64) -> bool {
        self.limit(kept);
        let kept = u64::from(kept);
        self.offered = (self.offered + 1).min(kept.saturating_mul(MEMORY));
        if (self.queries.len() as u64) < kept {
            self.queries.push(query);
            return true;
        }
        // The share of the draw's range, without the bias of a remainder.
        let place = (u128::from(draw) * u128::from(self.offered)) >> 64;
        match self.queries.get_mut(place as usize) {
            Some(replaced) => *replaced = query,
            None => return false,
        }
        true
    }

    /// Keeps no more than this.
    pub fn limit(&mut self, kept: u32) {
        self.queries.truncate(kept as usize);
    }

    /// Takes away what `gone` says; the number of queries that went.
    pub fn delete(&mut self, gone: impl Fn(&LoggedQuery) -> bool) -> usize {
        let before = self.queries.len();
        self.queries.retain(|query| !gone(query));
        before - self.queries.len()
    }

    /// What is kept, in no order that means anything.
    pub fn queries(&self) -> &[LoggedQuery] {
        &self.queries
    }

    /// As it is stored: a line that says how many were offered, then a line a query.
    pub fn encode(&self) -> String {
        let header = Header { offered: self.offered };
        let mut text = serde_json::to_string(&header).expect("a number is JSON");
        for query in &self.queries {
            text.push('\n');
            text.push_str(&serde_json::to_string(query).expect("texts are JSON"));
        }
        text.push('\n');
        text
    }

    /// Reads a stored sample.
    pub fn decode(text: &str) -> Result<Self, SampleError> {
        let failed = |line, source| SampleError::Line { line, source };
        let mut lines = text.lines().enumerate();
        let Some((_, first)) = lines.next() else {
            return Ok(Self::default());
        };
        let header: Header = serde_json::from_str(first).map_err(|source| failed(1, source))?;
        let query = |(n, line)| serde_json::from_str(line).map_err(|source| failed(n + 1, source));
        Ok(Self {
            queries: lines.map(query).collect::<Result<_, _>>()?,
            offered: header.offered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(n: u64) -> LoggedQuery {
        LoggedQuery {
            text: format!("query {n}"),
            filter: if n.is_multiple_of(2) {
                String::new()
            } else {
                "price < 5".to_owned()
            },
        }
    }

    /// A simple source of numbers that are spread evenly.
    fn draws() -> impl Iterator<Item = u64> {
        let mut state = 7_u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        })
    }

    #[test]
    fn queries_asked_long_ago_and_just_now_are_both_in_the_sample() {
        let mut sample = QuerySample::default();
        for (n, draw) in (0..5_000).zip(draws()) {
            sample.offer(query(n), 1_000, draw);
        }
        assert_eq!(sample.queries().len(), 1_000);
        let number = |query: &LoggedQuery| query.text["query ".len()..].parse::<u64>().unwrap();
        for fifth in 0..5 {
            let range = fifth * 1_000..(fifth + 1) * 1_000;
            let there = sample
                .queries()
                .iter()
                .filter(|query| range.contains(&number(query)))
                .count();
            assert!((150..250).contains(&there), "{there} of the fifth {fifth}");
        }
    }

    #[test]
    fn what_was_asked_very_long_ago_fades() {
        let mut sample = QuerySample::default();
        for (n, draw) in (0..10_000).zip(draws()) {
            sample.offer(query(n), 100, draw);
        }
        let old = sample
            .queries()
            .iter()
            .filter(|query| query.text.len() < "query 5000".len())
            .count();
        assert!(old < 20, "{old} of the first tenth");
    }

    #[test]
    fn a_sample_is_read_back_as_it_was_stored_and_holds_nothing_but_text_and_filter() {
        let mut sample = QuerySample::default();
        for (n, draw) in (0..3).zip(draws()) {
            sample.offer(query(n), 100, draw);
        }
        let stored = sample.encode();
        assert_eq!(
            stored,
            "{\"offered\":3}\n{\"text\":\"query 0\"}\n{\"text\":\"query 1\",\"filter\":\"price < 5\"}\n{\"text\":\"query 2\"}\n"
        );
        assert_eq!(QuerySample::decode(&stored).unwrap(), sample);
        assert_eq!(QuerySample::decode("").unwrap(), QuerySample::default());
        let damaged = QuerySample::decode("{\"offered\":3}\n{\"text\":\"a\"}\n{").unwrap_err();
        assert_eq!(damaged.to_string(), "line 3 is no logged query");
    }

    #[test]
    fn a_query_names_an_id_that_it_has_as_a_word_or_code_of_its_own() {
        let check = |text: &str, id: &str, expect: bool| {
            let (text, filter) = (text.to_owned(), String::new());
            let as_filter = LoggedQuery {
                text: "x".to_owned(),
                filter: text.clone(),
            };
            assert_eq!(LoggedQuery { text, filter }.names(id), expect, "{id} in {as_filter:?}");
            assert_eq!(as_filter.names(id), expect, "{id} in {as_filter:?}");
        };
        for (text, id, expect) in [
            ("7", "7", true),
            ("77", "7", false),
            ("room 7, please", "7", true),
            ("7.", "7", true),
            ("7.5 mm", "7", false),
            ("a d-7-red one", "d-7", false),
            ("a d-7 - red one", "d-7", true),
            ("DW-745/b", "dw-745/B", true),
            ("dw-745/b", "745", false),
            ("sku = \"DW-745\"", "dw-745", true),
            ("sku:dw-745,dw-746", "dw-746", true),
            ("größe 7ä", "7", false),
            ("77 and 7", "7", true),
            ("a red chair for jo", "red chair", true),
            ("", "7", false),
            ("anything", "", false),
        ] {
            check(text, id, expect);
        }
    }

    #[test]
    fn queries_are_deleted_by_what_they_say_and_a_smaller_sample_keeps_fewer() {
        let mut sample = QuerySample::default();
        for (n, draw) in (0..20).zip(draws()) {
            sample.offer(query(n), 100, draw);
        }
        assert_eq!(sample.delete(|query| query.text.ends_with('7')), 2);
        assert_eq!(sample.queries().len(), 18);
        sample.offer(query(99), 5, 0);
        assert_eq!(sample.queries().len(), 5);
        sample.offer(query(99), 0, 0);
        assert!(sample.queries().is_empty());
    }
}
