//! How a document's fields become columns: one for each path and kind of value, without a declared schema.
//!
//! Kinds have columns of their own because Tantivy would turn a column of mixed numbers into floats, which would take
//! the last digits from large integers, and texts that look like times into times.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tantivy::schema::OwnedValue;
use verdigris_core::event::VECTOR_FIELD;

use crate::filter::FILTER_BYTES_MAX;
use crate::rows::FIELDS_COLUMN;

/// Longer texts are kept cut, followed by a digest of the whole: equality stays exact, and a column of descriptions does
/// not hold them twice.
pub(crate) const TEXT_BYTES_MAX: usize = 1_024;
/// Between a cut text and its digest.
const CUT_MARK: &str = "\u{0}";
/// Between the parts of a path; Tantivy's own separator.
const PATH_SEPARATOR: char = '\u{1}';
/// Begins the last part of a column's name, which tells the kind.
const KIND_MARK: char = '\u{2}';
/// Stands before a character of a key that has a meaning here.
const ESCAPE: char = '\u{3}';
/// Longer paths have no column: no filter is long enough to name them, and Tantivy's names end at 64 KiB.
const PATH_BYTES_MAX: usize = FILTER_BYTES_MAX;
/// The name under which the id is filtered; it has a column of its own, beside the fields.
pub(crate) const ID_FIELD: &str = "id";

/// The kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Texts, cut at [`TEXT_BYTES_MAX`].
    Text,
    /// Whole numbers that fit an `i64`, however they are written.
    Whole,
    /// Whole numbers above those that fit an `u64`.
    Large,
    /// All other numbers.
    Fraction,
    /// true and false.
    Truth,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Text => 't',
            Self::Whole => 'w',
            Self::Large => 'l',
            Self::Fraction => 'f',
            Self::Truth => 'b',
        }
    }
}

/// The columns of a document, as the object that is given to Tantivy: name of column to its values in this row. A vector
/// that the document brought has none: its numbers are in `vectors.faiss`.
pub(crate) fn columns_of(document: &Map<String, Value>, returned_only: &[String]) -> BTreeMap<String, OwnedValue> {
    let mut columns: BTreeMap<String, Vec<OwnedValue>> = BTreeMap::new();
    let mut path = String::new();
    for (key, value) in document {
        if key != ID_FIELD && key != VECTOR_FIELD && !returned_only.contains(key) {
            path.clear();
            push_part(&mut path, key);
            collect(&mut path, value, &mut columns);
        }
    }
    let value = |mut values: Vec<OwnedValue>| {
        if values.len() == 1 {
            values.remove(0)
        } else {
            OwnedValue::Array(values)
        }
    };
    columns
        .into_iter()
        .map(|(name, values)| (name, value(values)))
        .collect()
}

fn collect(path: &mut String, value: &Value, columns: &mut BTreeMap<String, Vec<OwnedValue>>) {
    if path.len() > PATH_BYTES_MAX {
        return;
    }
    let (kind, value) = match value {
        Value::Null => return,
        Value::Bool(truth) => (Kind::Truth, OwnedValue::Bool(*truth)),
        Value::Number(number) => number_value(number),
        Value::String(text) => (Kind::Text, OwnedValue::Str(stored_text(text).into_owned())),
        Value::Array(values) => return values.iter().for_each(|value| collect(path, value, columns)),
        Value::Object(fields) => {
            let length = path.len();
            for (key, value) in fields {
                path.push(PATH_SEPARATOR);
                push_part(path, key);
                collect(path, value, columns);
                path.truncate(length);
            }
            return;
        }
    };
    columns.entry(with_kind(path, kind)).or_default().push(value);
}

fn number_value(number: &serde_json::Number) -> (Kind, OwnedValue) {
    if let Some(whole) = number.as_i64() {
        return (Kind::Whole, OwnedValue::I64(whole));
    }
    if let Some(large) = number.as_u64() {
        return (Kind::Large, OwnedValue::U64(large));
    }
    let fraction = number.as_f64().unwrap_or_default();
    // 2^63 and 2^64 are exact as floats; every whole float below them converts exactly.
    const ABOVE_I64: f64 = 9_223_372_036_854_775_808.0;
    const ABOVE_U64: f64 = 18_446_744_073_709_551_616.0;
    if fraction.fract() != 0.0 || !(-ABOVE_I64..ABOVE_U64).contains(&fraction) {
        (Kind::Fraction, OwnedValue::F64(fraction))
    } else if fraction < ABOVE_I64 {
        (Kind::Whole, OwnedValue::I64(fraction as i64))
    } else {
        (Kind::Large, OwnedValue::U64(fraction as u64))
    }
}

/// The text as a column holds it.
pub(crate) fn stored_text(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let cut = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    Cow::Owned([cut, CUT_MARK, &blake3::hash(text.as_bytes()).to_hex()].concat())
}

/// What of a stored text is the document's own: all, or the part before the cut.
pub(crate) fn readable_text(stored: &str) -> &str {
    if stored.len() <= TEXT_BYTES_MAX {
        return stored;
    }
    stored.rsplit_once(CUT_MARK).map_or(stored, |(text, _)| text)
}

/// The name of the column of a path and kind.
pub(crate) fn column_name(path: &[String], kind: Kind) -> String {
    with_kind(&path_name(path), kind)
}

/// The name below which the columns of a path and of all deeper ones lie.
pub(crate) fn path_name(path: &[String]) -> String {
    let mut name = String::from(FIELDS_COLUMN);
    for part in path {
        name.push(PATH_SEPARATOR);
        push_part(&mut name, part);
    }
    name
}

fn with_kind(path: &str, kind: Kind) -> String {
    format!("{path}{PATH_SEPARATOR}{KIND_MARK}{}", kind.letter())
}

fn push_part(path: &mut String, part: &str) {
    for c in part.chars() {
        match c {
            '\u{0}'..=ESCAPE => path.extend([ESCAPE, char::from(b'0' + c as u8)]),
            c => path.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(document: &Value) -> Vec<String> {
        let columns = columns_of(document.as_object().expect("an object"), &["secret".to_owned()]);
        columns
            .into_keys()
            .map(|name| name.replace('\u{1}', "/").replace('\u{2}', "#"))
            .collect()
    }

    #[test]
    fn each_path_and_kind_has_a_column() {
        let document =
            json!({"id": "x", "a": [1, 1.0, 2.5, "1", true, null], "b": {"c.d": [{"e": 1}, {"e": "f"}]}, "secret": 1});
        assert_eq!(
            names(&document),
            ["a/#b", "a/#f", "a/#t", "a/#w", "b/c.d/e/#t", "b/c.d/e/#w"]
        );
    }

    #[test]
    fn keys_with_control_characters_do_not_meet_other_paths() {
        let a = names(&json!({"a\u{1}b": 1}));
        let b = names(&json!({"a": {"b": 1}}));
        assert_ne!(a, b);
        assert_ne!(names(&json!({"a\u{3}1": 1})), names(&json!({"a\u{1}": 1})));
    }

    #[test]
    fn long_texts_are_cut_and_stay_distinct() {
        let (a, b) = ("é".repeat(600), format!("{}x", "é".repeat(600)));
        assert_ne!(stored_text(&a), stored_text(&b));
        assert_eq!(readable_text(&stored_text(&a)), "é".repeat(512));
        assert_eq!(readable_text(&stored_text("short\u{0}text")), "short\u{0}text");
    }

    #[test]
    fn numbers_are_kept_by_value_not_by_form() {
        let kind = |text: &str| number_value(&serde_json::from_str(text).expect("a number")).0;
        assert_eq!(kind("1.0"), Kind::Whole);
        assert_eq!(kind("-9223372036854775808"), Kind::Whole);
        assert_eq!(kind("9223372036854775807"), Kind::Whole);
        assert_eq!(kind("9223372036854775808.0"), Kind::Large);
        assert_eq!(kind("18446744073709551615"), Kind::Large);
        assert_eq!(kind("18446744073709551616"), Kind::Fraction);
        assert_eq!(kind("0.5"), Kind::Fraction);
    }
}
