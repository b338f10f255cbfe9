//! What is wrong with a filter: a problem, its column, and where it can be told, what to write instead.

use std::fmt;

use crate::filter::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX};

/// A filter that cannot be understood. Displayed with the filter's text and a caret under the column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The filter as it came; cut where it is too long.
    pub text: String,
    /// Where, in characters, from 1. One past the end where something is missing there.
    pub column: usize,
    /// What.
    pub problem: FilterProblem,
    /// What to write instead.
    pub hint: Option<&'static str>,
}

/// The kinds of mistakes in a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterProblem {
    /// Longer than [`FILTER_BYTES_MAX`].
    #[error("the filter has {0} bytes; at most {FILTER_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Nested deeper than [`FILTER_DEPTH_MAX`].
    #[error("the filter is nested deeper than {FILTER_DEPTH_MAX} levels")]
    TooDeep,
    /// More comparisons than [`FILTER_TERMS_MAX`].
    #[error("the filter has more than {FILTER_TERMS_MAX} comparisons")]
    TooMany,
    /// Nothing stands where a comparison should.
    #[error("a comparison is missing after {0}")]
    ComparisonMissing(&'static str),
    /// AND or OR without something before it.
    #[error("nothing stands before {0}")]
    NothingBefore(&'static str),
    /// Something that begins no comparison.
    #[error("a comparison cannot begin with {0:?}")]
    NotAComparison(char),
    /// A field without an operator.
    #[error("an operator is missing after {0}")]
    OperatorMissing(String),
    /// An operator of another language.
    #[error("{0} is not an operator")]
    UnknownOperator(&'static str),
    /// A field and an operator without a value.
    #[error("a value is missing after {0}")]
    ValueMissing(&'static str),
    /// A path with nothing between two dots, before the first or after the last.
    #[error("a part of the field's name is empty")]
    EmptyPart,
    /// A parenthesis that is not closed.
    #[error("this parenthesis is never closed")]
    NeverClosed,
    /// A parenthesis that was not opened.
    #[error("this parenthesis was never opened")]
    NeverOpened,
    /// Parentheses around nothing.
    #[error("the parentheses are empty")]
    EmptyParentheses,
    /// A quotation mark that is not closed.
    #[error("this text is never closed; its {0} is missing")]
    QuoteNeverClosed(char),
    /// A backslash before something that needs none.
    #[error("a backslash cannot stand before {0:?}")]
    UnknownEscape(char),
    /// A character that unquoted values cannot have.
    #[error("an unquoted value cannot have {0:?} in it")]
    UnquotedCharacter(char),
    /// Text right behind a closing quotation mark.
    #[error("a space is missing after the closing {0}")]
    SpaceMissing(char),
    /// A star within a value.
    #[error("a star within a value has no meaning")]
    StarWithin,
    /// A star where the operator takes none.
    #[error("{0} takes no star")]
    StarNotAllowed(&'static str),
    /// A star and nothing else.
    #[error("a star alone has no meaning after {0}")]
    StarAlone(&'static str),
    /// true or false with an order.
    #[error("{0} has no order")]
    NoOrder(String),
    /// A value that is never stored.
    #[error("null equals nothing")]
    Null,
    /// A call.
    #[error("{0} is not a function; filters have none")]
    Function(String),
    /// Parentheses as a value.
    #[error("a value cannot be in parentheses")]
    ValueInParentheses,
}

impl std::error::Error for FilterError {}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (column {})", self.problem, self.column)?;
        // Tabs and line breaks would part the caret from its place.
        let line: String = self
            .text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        writeln!(f, "  {line}")?;
        write!(f, "  {:>width$}", '^', width = self.column)?;
        match self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}
