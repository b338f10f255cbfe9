//! FAISS index types that a segment may have. Every one of them keeps exact float32 vectors.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Below this many rows a segment's vectors are scanned: a graph would cost more to build than it saves.
pub const EXACT_BELOW_ROWS: u32 = 2_048;
/// The most inverted lists that a setting may ask for; more than this needs more vectors than one segment holds.
pub const LISTS_MAX: u32 = 65_536;

/// How the vectors of a segment are compressed beside the exact copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codes {
    /// None: the structure holds the exact vectors itself.
    Exact,
    /// One byte a coordinate, re-ranked by the exact vectors (`SQ8,RFlat`).
    Sq8,
    /// Product quantiser of that many sub-vectors, fast scan, re-ranked (`PQ…x4fs,RFlat`).
    Pq(u32),
}

/// A FAISS factory string from the allow-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IndexType {
    /// Exact scan.
    Flat,
    /// A graph with 32 links a node; codes are exact or SQ8.
    Hnsw(Codes),
    /// That many inverted lists.
    Ivf {
        /// Number of lists.
        lists: u32,
        /// How vectors lie in the lists.
        codes: Codes,
    },
}

/// A factory string that is not on the allow-list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "index type {0:?} is not allowed; use Flat, HNSW32, HNSW32,SQ8,RFlat, IVF<lists>,Flat, IVF<lists>,SQ8,RFlat or IVF<lists>,PQ<parts>x4fs,RFlat"
)]
pub struct IndexTypeError(pub String);

impl IndexType {
    /// The type that a new segment of `rows` vectors gets under this setting.
    pub fn for_rows(self, rows: u32) -> Self {
        match self {
            _ if rows < EXACT_BELOW_ROWS => Self::Flat,
            // FAISS wants at least 39 vectors a list to train on; fewer lists are as good then.
            Self::Ivf { lists, codes } => Self::Ivf {
                lists: lists.min(rows / 39).max(1),
                codes,
            },
            other => other,
        }
    }
}

impl Default for IndexType {
    fn default() -> Self {
        Self::Hnsw(Codes::Exact)
    }
}

impl fmt::Display for IndexType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes = |codes: &Codes| match codes {
            Codes::Exact => String::new(),
            Codes::Sq8 => ",SQ8,RFlat".to_owned(),
            Codes::Pq(parts) => format!(",PQ{parts}x4fs,RFlat"),
        };
        match self {
            Self::Flat => f.write_str("Flat"),
            Self::Hnsw(kind) => write!(f, "HNSW32{}", codes(kind)),
            Self::Ivf {
                lists,
                codes: Codes::Exact,
            } => write!(f, "IVF{lists},Flat"),
            Self::Ivf { lists, codes: kind } => write!(f, "IVF{lists}{}", codes(kind)),
        }
    }
}

impl FromStr for IndexType {
    type Err = IndexTypeError;

    fn from_str(text: &str) -> Result<Self, IndexTypeError> {
        parse(text).ok_or_else(|| IndexTypeError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<IndexType> {
    match text {
        "Flat" => return Some(IndexType::Flat),
        "HNSW32" => return Some(IndexType::Hnsw(Codes::Exact)),
        "HNSW32,SQ8,RFlat" => return Some(IndexType::Hnsw(Codes::Sq8)),
        _ => {}
    }
    let (lists, codes) = text.strip_prefix("IVF")?.split_once(',')?;
    let lists = number(lists).filter(|lists| *lists <= LISTS_MAX)?;
    let codes = match codes {
        "Flat" => Codes::Exact,
        "SQ8,RFlat" => Codes::Sq8,
        other => Codes::Pq(number(other.strip_prefix("PQ")?.strip_suffix("x4fs,RFlat")?)?),
    };
    Some(IndexType::Ivf { lists, codes })
}

/// A positive number in the one way that it can be printed, so that parsing and printing are inverse.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| *n > 0 && n.to_string() == text)
}

impl TryFrom<String> for IndexType {
    type Error = IndexTypeError;

    fn try_from(text: String) -> Result<Self, IndexTypeError> {
        text.parse()
    }
}

impl From<IndexType> for String {
    fn from(index_type: IndexType) -> String {
        index_type.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_types_are_read_back_as_printed_and_others_refused() {
        for text in [
            "Flat",
            "HNSW32",
            "HNSW32,SQ8,RFlat",
            "IVF256,Flat",
            "IVF1024,SQ8,RFlat",
            "IVF64,PQ96x4fs,RFlat",
        ] {
            assert_eq!(text.parse::<IndexType>().expect("allowed").to_string(), text);
        }
        for text in [
            "",
            "flat",
            "HNSW64",
            "HNSW32,SQ8",
            "IVF0,Flat",
            "IVF,Flat",
            "IVF+1,Flat",
            "IVF8,PQ96x4fs",
            "IDMap2,Flat",
        ] {
            assert!(text.parse::<IndexType>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_small_segment_is_scanned_and_lists_fit_the_rows() {
        assert_eq!(IndexType::default().for_rows(2_047), IndexType::Flat);
        assert_eq!(IndexType::default().for_rows(2_048).to_string(), "HNSW32");
        let ivf: IndexType = "IVF1024,Flat".parse().expect("allowed");
        assert_eq!(ivf.for_rows(3_900).to_string(), "IVF100,Flat");
    }
}
