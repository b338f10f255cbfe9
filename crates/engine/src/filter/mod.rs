//! Filters: the AIP-160 language over documents without a declared schema. A filter becomes a bitmap of rows.
//!
//! The language is described for its users in `docs/filters.md`. Deliberately absent: functions, durations, and bare
//! words that search all fields (that is what the query text is for).

mod cache;
mod columns;
mod contains;
mod error;
mod evaluate;
mod literal;
mod number;
mod parse;

pub use cache::FilterCache;
pub use error::{FilterError, FilterProblem};

pub(crate) use columns::columns_of;

use std::fmt::Write;

use crate::filter::literal::Literal;

/// The longest filter, in bytes: a hundred ids in a list, but no document.
pub const FILTER_BYTES_MAX: usize = 4 * 1024;
/// The deepest nesting of parentheses and negations.
pub const FILTER_DEPTH_MAX: usize = 32;
/// The most comparisons in one filter.
pub const FILTER_TERMS_MAX: usize = 256;

/// A parsed filter.
///
/// ```
/// use verdigris_engine::filter::Filter;
/// assert!(Filter::parse(r#"price < 20 AND brand = "Bosch" AND NOT category:toys"#).is_ok());
/// let error = Filter::parse("price < 20 AND brand").unwrap_err();
/// assert_eq!(error.column, 21);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    root: Expression,
    canonical: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    /// An empty filter.
    All,
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Test(Test),
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    path: Vec<String>,
    operator: Operator,
    literal: Literal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Has,
    /// `field:*`.
    Exists,
}

impl Filter {
    /// Parses a filter. An empty one lets everything through.
    ///
    /// # Errors
    /// What is wrong, at which column, and where it can be told, what to write instead.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let root = parse::parse(text)?;
        let mut canonical = String::new();
        write_canonical(&root, &mut canonical);
        Ok(Self { root, canonical })
    }

    /// The same text for filters that mean the same by their form: spaces, parentheses, order and repetition within AND
    /// and OR do not matter.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}

fn write_canonical(expression: &Expression, out: &mut String) {
    match expression {
        Expression::All => out.push_str("all"),
        Expression::And(parts) => write_sorted("and", parts, out),
        Expression::Or(parts) => write_sorted("or", parts, out),
        Expression::Not(part) => write_sorted("not", std::slice::from_ref(part), out),
        Expression::Test(test) => {
            // Debug of strings escapes quotes and control characters, so no two tests share a text.
            write!(out, "{:?}{:?}{:?}", test.path, test.operator, test.literal).expect("a String takes all text");
        }
    }
}

fn write_sorted(name: &str, parts: &[Expression], out: &mut String) {
    let mut texts: Vec<String> = parts
        .iter()
        .map(|part| {
            let mut text = String::new();
            write_canonical(part, &mut text);
            text
        })
        .collect();
    texts.sort_unstable();
    texts.dedup();
    write!(out, "{name}({})", texts.join(",")).expect("a String takes all text");
}
