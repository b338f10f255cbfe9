//! Golden queries: what people say must be found. Written as JSON Lines or as TSV, kept as JSON Lines.
//!
//! A query has documents that must be among its first hits, or graded documents and a floor for the ndcg of its ranking,
//! or both. Deliberately absent: a check of the filter's grammar, which the engine knows.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The most golden queries of a collection: each is asked of both lineages before a promotion.
pub const GOLDEN_MAX: usize = 1_000;
/// The most bytes of a golden file.
pub const GOLDEN_BYTES_MAX: usize = 1 << 20;
/// The longest text of a query, as a search takes it.
pub const TEXT_BYTES_MAX: usize = 8_192;
/// Hits that are looked at by default.
const WITHIN: u32 = 10;
/// The most hits that may be looked at.
const WITHIN_MAX: u32 = 100;
/// The most documents that one query may name.
const DOCUMENTS_MAX: usize = 1_000;
/// The largest gain.
const GAIN_MAX: f32 = 1_000.0;

/// A query, and what must be found by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenQuery {
    /// What is searched for.
    #[serde(rename = "query")]
    pub text: String,
    /// The filter; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Ids of documents that must be among the first `within` hits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub must_have: Vec<String>,
    /// How good documents are, by id, for the ndcg of the first `within` hits. A document that must be there and is not
    /// graded has gain 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gains: BTreeMap<String, f32>,
    /// The ndcg that a ranking must reach; none where only the documents that must be there count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ndcg_floor: Option<f32>,
    /// How many hits are looked at.
    #[serde(default = "within")]
    pub within: u32,
}

fn within() -> u32 {
    WITHIN
}

/// Where a version of the golden queries is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenName {
    /// Rises by one with every change.
    pub version: u64,
    /// The first digits of the digest of its content.
    pub digest: String,
}

/// A line of a golden file that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("line {line}: {mistake}")]
pub struct GoldenMistake {
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub mistake: Mistake,
}

/// What is wrong with a line, or with the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Mistake {
    /// Too many bytes.
    #[error("the file has {0} bytes; at most {GOLDEN_BYTES_MAX} are allowed")]
    Size(usize),
    /// Not text.
    #[error("the file is no UTF-8 text")]
    Encoding,
    /// Too many queries.
    #[error("{0} queries; at most {GOLDEN_MAX} are allowed")]
    Count(usize),
    /// No query at all.
    #[error("there is no query in the file; `queries golden clear` takes all away")]
    Empty,
    /// Not the JSON of a query.
    #[error("{0}")]
    Json(String),
    /// Too few or too many columns.
    #[error("{0} columns; 2 to 4 are needed, separated by tabs: query, ids that must be found, ndcg floor, filter")]
    Columns(usize),
    /// No text to search for.
    #[error("the query has no text")]
    NoText,
    /// Longer than a search takes.
    #[error("the query's text has {0} bytes; at most {TEXT_BYTES_MAX} are allowed")]
    Text(usize),
    /// Nothing that could be missed.
    #[error("the query says nothing that must be found: name ids, or gains with an ndcg floor")]
    NoJudgement,
    /// More ids than hits.
    #[error("{ids} ids must be among the first {within} hits")]
    TooManyIds {
        /// Ids.
        ids: usize,
        /// Hits.
        within: u32,
    },
    /// More documents than a query may name.
    #[error("{0} documents; at most {DOCUMENTS_MAX} may be named")]
    Documents(usize),
    /// An id that no document can have.
    #[error("an id is empty")]
    EmptyId,
    /// An id twice.
    #[error("id {0} is named twice")]
    Twice(String),
    /// A floor that is no share.
    #[error("the ndcg floor is {0}; it must be 0 to 1")]
    Floor(String),
    /// A gain out of range.
    #[error("the gain of {id} is {gain}; it must be 0 to {GAIN_MAX}")]
    Gain {
        /// The document.
        id: String,
        /// As it came.
        gain: f32,
    },
    /// A floor that no ranking can be held to.
    #[error("there is an ndcg floor, but no document with a gain above 0")]
    NoGain,
    /// Hits out of range.
    #[error("within is {0}; it must be 1 to {WITHIN_MAX}")]
    Within(u32),
    /// The same query twice.
    #[error("the query is the same as that of line {0}")]
    SameQuery(usize),
}

impl GoldenQuery {
    /// The gains that a ranking's ndcg is taken by.
    pub fn judged(&self) -> BTreeMap<String, f32> {
        let mut gains = self.gains.clone();
        for id in &self.must_have {
            gains.entry(id.clone()).or_insert(1.0);
        }
        gains
    }

    /// The documents that must be among the first hits of a ranking and are not.
    pub fn misses(&self, ranking: &[impl AsRef<str>]) -> Vec<String> {
        let first = &ranking[..ranking.len().min(self.within as usize)];
        let missing = |id: &&String| !first.iter().any(|found| found.as_ref() == id.as_str());
        self.must_have.iter().filter(missing).cloned().collect()
    }

    /// How good a ranking is; none where nothing has a gain.
    pub fn ndcg(&self, ranking: &[impl AsRef<str>]) -> Option<f64> {
        super::ranking::ndcg(ranking, &self.judged(), self.within as usize)
    }

    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.text.trim().is_empty() {
            mistakes.push(Mistake::NoText);
        }
        if self.text.len() > TEXT_BYTES_MAX {
            mistakes.push(Mistake::Text(self.text.len()));
        }
        if !(1..=WITHIN_MAX).contains(&self.within) {
            mistakes.push(Mistake::Within(self.within));
        } else if self.must_have.len() > self.within as usize {
            let (ids, within) = (self.must_have.len(), self.within);
            mistakes.push(Mistake::TooManyIds { ids, within });
        }
        if self.must_have.is_empty() && (self.gains.is_empty() || self.ndcg_floor.is_none()) {
            mistakes.push(Mistake::NoJudgement);
        }
        if self.gains.len() > DOCUMENTS_MAX {
            mistakes.push(Mistake::Documents(self.gains.len()));
        }
        let mut seen = BTreeSet::new();
        if self.must_have.iter().chain(self.gains.keys()).any(String::is_empty) {
            mistakes.push(Mistake::EmptyId);
        }
        let twice = self.must_have.iter().find(|id| !seen.insert(id.as_str()));
        mistakes.extend(twice.map(|id| Mistake::Twice(id.clone())));
        let is_gain = |gain: f32| gain.is_finite() && (0.0..=GAIN_MAX).contains(&gain);
        let wrong = self.gains.iter().filter(|(_, gain)| !is_gain(**gain));
        mistakes.extend(wrong.map(|(id, gain)| Mistake::Gain {
            id: id.clone(),
            gain: *gain,
        }));
        if let Some(floor) = self.ndcg_floor {
            if !(floor.is_finite() && (0.0..=1.0).contains(&floor)) {
                mistakes.push(Mistake::Floor(floor.to_string()));
            }
            if !self.judged().values().any(|gain| *gain > 0.0) && !self.judged().is_empty() {
                mistakes.push(Mistake::NoGain);
            }
        }
        mistakes
    }
}

/// Reads golden queries and reports every mistake at once. A file whose first line begins with `{` is JSON Lines, any
/// other TSV; empty lines and lines that begin with `#` are passed over.
pub fn parse(bytes: &[u8]) -> Result<Vec<GoldenQuery>, Vec<GoldenMistake>> {
    let whole = |mistake| vec![GoldenMistake { line: 0, mistake }];
    if bytes.len() > GOLDEN_BYTES_MAX {
        return Err(whole(Mistake::Size(bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| whole(Mistake::Encoding))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_said = |(_, line): &(usize, &str)| !line.trim().is_empty() && !line.starts_with('#');
    let lines: Vec<(usize, &str)> = text.lines().enumerate().filter(is_said).collect();
    match lines.len() {
        0 => return Err(whole(Mistake::Empty)),
        count if count > GOLDEN_MAX => return Err(whole(Mistake::Count(count))),
        _ => {}
    }
    let is_json = lines[0].1.trim_start().starts_with('{');
    let (mut queries, mut mistakes) = (Vec::new(), Vec::new());
    let mut first_line: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (n, line) in lines {
        let mut wrong = |mistake| mistakes.push(GoldenMistake { line: n + 1, mistake });
        let parsed = if is_json { json(line) } else { tsv(line) };
        match parsed {
            Err(mistake) => wrong(mistake),
            Ok(query) => {
                query.mistakes().into_iter().for_each(&mut wrong);
                let key = (query.text.clone(), query.filter.clone());
                let first = *first_line.entry(key).or_insert(n + 1);
                if first != n + 1 {
                    wrong(Mistake::SameQuery(first));
                }
                queries.push(query);
            }
        }
    }
    if mistakes.is_empty() {
        Ok(queries)
    } else {
        Err(mistakes)
    }
}

fn json(line: &str) -> Result<GoldenQuery, Mistake> {
    serde_json::from_str(line).map_err(|error| {
        // Its own line number would always be 1.
        let text = error.to_string();
        let words = text.split(" at line 1 ").next().unwrap_or_default().to_owned();
        Mistake::Json(format!("{words} (column {})", error.column()))
    })
}

/// Query, ids that must be found separated by commas, ndcg floor, filter.
fn tsv(line: &str) -> Result<GoldenQuery, Mistake> {
    let columns: Vec<&str> = line.trim_end_matches('\r').split('\t').map(str::trim).collect();
    if !(2..=4).contains(&columns.len()) {
        return Err(Mistake::Columns(columns.len()));
    }
    let floor = match columns.get(2).copied().unwrap_or_default() {
        "" => None,
        text => Some(text.parse().map_err(|_| Mistake::Floor(text.to_owned()))?),
    };
    let ids = columns[1].split(',').map(|id| id.trim().to_owned());
    Ok(GoldenQuery {
        text: columns[0].to_owned(),
        filter: columns.get(3).copied().unwrap_or_default().to_owned(),
        must_have: if columns[1].is_empty() {
            Vec::new()
        } else {
            ids.collect()
        },
        gains: BTreeMap::new(),
        ndcg_floor: floor,
        within: WITHIN,
    })
}

/// Golden queries as they are stored: a line each.
pub fn encode(queries: &[GoldenQuery]) -> Vec<u8> {
    let line = |query| serde_json::to_string(query).expect("texts and finite numbers are JSON") + "\n";
    queries.iter().map(line).collect::<String>().into_bytes()
}

impl GoldenName {
    /// The folder of all versions, relative to the collection.
    pub const FOLDER: &str = "queries/";

    /// The name of a version with this content.
    pub fn of(version: u64, content: &[u8]) -> Self {
        let digest = Digest::of(content).to_string();
        Self {
            version,
            digest: digest[..16].to_owned(),
        }
    }

    /// Its path, relative to the collection.
    pub fn path(&self) -> String {
        format!("{}golden-{:010}-{}.jsonl", Self::FOLDER, self.version, self.digest)
    }

    /// Reads a path; none for another object.
    pub fn parse(path: &str) -> Option<Self> {
        let name = path.strip_prefix(Self::FOLDER)?.strip_prefix("golden-")?;
        let (version, digest) = name.strip_suffix(".jsonl")?.split_once('-')?;
        let named = Self {
            version: version.parse().ok()?,
            digest: digest.to_owned(),
        };
        (named.path() == path).then_some(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let mistakes = parse(text.as_bytes()).expect_err("refused");
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_short_form_is_a_table_with_tabs() {
        let text = "\u{feff}# query\tids\r\ncordless drill\tA-1, B-2\r\n\nsaw\tC\t0.5\tprice < 100\n";
        let queries = parse(text.as_bytes()).expect("valid");
        assert_eq!(queries.len(), 2);
        assert_eq!(
            (queries[0].text.as_str(), &queries[0].must_have[..]),
            ("cordless drill", &["A-1".to_owned(), "B-2".to_owned()][..])
        );
        assert_eq!(
            (queries[1].ndcg_floor, queries[1].filter.as_str()),
            (Some(0.5), "price < 100")
        );
    }

    #[test]
    fn the_long_form_is_json_lines_and_is_read_back_as_it_is_stored() {
        let text = r#"{"query": "drill", "must_have": ["a"], "gains": {"a": 3, "b": 1}, "ndcg_floor": 0.8, "within": 5}
{"query": "saw", "filter": "brand = \"Bosch\"", "must_have": ["c"]}"#;
        let queries = parse(text.as_bytes()).expect("valid");
        assert_eq!((queries[0].within, queries[1].within), (5, 10));
        let stored = encode(&queries);
        assert_eq!(parse(&stored).expect("valid"), queries);
        assert_eq!(
            encode(&parse(&stored).expect("valid")),
            stored,
            "one content, one digest"
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_lines() {
        assert_eq!(
            mistakes("drill\ta\n\nsaw\n \ta,,a\t2\nsaw\tb\t0.5\t\t\ndrill\tb\n"),
            [
                "line 3: 1 columns; 2 to 4 are needed, separated by tabs: query, ids that must be found, ndcg floor, filter",
                "line 4: the query has no text",
                "line 4: an id is empty",
                "line 4: id a is named twice",
                "line 4: the ndcg floor is 2; it must be 0 to 1",
                "line 5: 5 columns; 2 to 4 are needed, separated by tabs: query, ids that must be found, ndcg floor, filter",
                "line 6: the query is the same as that of line 1",
            ]
        );
        assert_eq!(
            mistakes(
                "{\"query\": \"a\"}\n{\"query\": \"b\", \"must\": [\"x\"]}\n{\"query\": \"c\", \"gains\": {\"x\": -1}, \"ndcg_floor\": 0.1}\nplain\n"
            ),
            [
                "line 1: the query says nothing that must be found: name ids, or gains with an ndcg floor",
                "line 2: unknown field `must`, expected one of `query`, `filter`, `must_have`, `gains`, `ndcg_floor`, `within` (column 21)",
                "line 3: the gain of x is -1; it must be 0 to 1000",
                "line 3: there is an ndcg floor, but no document with a gain above 0",
                "line 4: expected value (column 1)",
            ]
        );
        assert_eq!(
            mistakes("drill\ta\thigh")[0],
            "line 1: the ndcg floor is high; it must be 0 to 1"
        );
        assert_eq!(
            mistakes("{\"query\": \"a\", \"must_have\": [\"x\", \"y\"], \"within\": 1}")[0],
            "line 1: 2 ids must be among the first 1 hits"
        );
        assert!(mistakes("\n# nothing\n")[0].contains("no query"));
        assert!(mistakes(&"q\ta\n".repeat(GOLDEN_MAX + 1))[0].contains("1001 queries"));
        assert!(parse(b"\xff\tfoo").is_err());
    }

    #[test]
    fn what_must_be_found_and_is_not_is_named_and_counts_for_ndcg() {
        let query = parse(b"{\"query\": \"a\", \"must_have\": [\"x\", \"y\"], \"gains\": {\"x\": 3}, \"within\": 2}");
        let query = query.expect("valid").remove(0);
        assert_eq!(query.misses(&["x", "z", "y"]), ["y"]);
        assert_eq!(query.misses(&["y", "x"]), Vec::<String>::new());
        assert_eq!(query.ndcg(&["x", "y"]), Some(1.0));
        assert!(query.ndcg(&["y", "x"]).unwrap() < 1.0);
    }

    #[test]
    fn names_are_read_back_and_sort_as_their_versions_do() {
        let (old, new) = (GoldenName::of(9, b"a"), GoldenName::of(10, b"b"));
        assert_eq!(GoldenName::parse(&old.path()), Some(old.clone()));
        assert!(old.path() < new.path());
        for other in ["queries/golden-9-a.jsonl", "queries/warm-up.jsonl", "latest"] {
            assert_eq!(GoldenName::parse(other), None, "{other}");
        }
    }
}
