//! What can be wrong with a configuration, told so that it can be put right.

use std::fmt;
use std::path::PathBuf;

use super::Origin;

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message beside each variant says what its fields are")]
pub enum Mistake {
    #[error("{origin}: there is no key {key}{}", suggestion.as_ref().map(|key| format!("; did you mean {key}?")).unwrap_or_default())]
    UnknownKey {
        origin: Origin,
        key: String,
        suggestion: Option<String>,
    },
    #[error("{origin}: {key} is {text:?}, expected {expected}")]
    Wrong {
        key: &'static str,
        origin: Origin,
        text: String,
        expected: String,
    },
    #[error("{}:{line}: not TOML: {what}", path.display())]
    Syntax { path: PathBuf, line: usize, what: String },
    #[error("{origin}: {key} is {found}, expected one value")]
    NotOneValue {
        origin: Origin,
        key: String,
        found: &'static str,
    },
}

/// Every mistake of a configuration, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "the configuration has a mistake\n  {one}"),
            many => {
                write!(f, "the configuration has {} mistakes", many.len())?;
                many.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}
