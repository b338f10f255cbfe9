//! Canonical JSON (RFC 8785): one spelling for one value, so that a digest depends on the value alone.
//!
//! One difference from the RFC: it writes every number as a double, and so gives 2^53 and 2^53 + 1 the same text. Here
//! an integer of 64 bits is written digit for digit. What is within ±2^53 has the RFC's text. Not for printing: what
//! users see keeps its own layout.

use serde_json::{Map, Number, Value};

use crate::digest::Digest;

/// 2^63 and 2^64 as doubles, the ends of what fits an integer of 64 bits.
const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_POW_64: f64 = 18_446_744_073_709_551_616.0;

/// The canonical text of `value`.
///
/// ```
/// use serde_json::json;
/// let text = verdigris_core::canonical::to_text(&json!({"b": 1.0, "a": [1e21, "é\n"]}));
/// assert_eq!(text, r#"{"a":[1e+21,"é\n"],"b":1}"#);
/// ```
pub fn to_text(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

/// The digest of the canonical text of `value`.
pub fn digest(value: &Value) -> Digest {
    Digest::of(to_text(value).as_bytes())
}

/// Appends the canonical text of `value`.
pub(crate) fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(text, number),
        Value::String(string) => write_string(text, string),
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => write_object(text, members),
    }
}

/// Appends the canonical text of an object: members in the order of their names' UTF-16 code units.
pub(crate) fn write_object(text: &mut String, members: &Map<String, Value>) {
    let mut sorted: Vec<_> = members.iter().collect();
    // UTF-8 sorts as UTF-16 does, except above U+FFFF; names there are rare, so the cheap order comes first.
    if sorted.iter().all(|(name, _)| name.is_ascii()) {
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
    } else {
        sorted.sort_unstable_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
    }
    text.push('{');
    for (n, (name, value)) in sorted.into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        write_string(text, name);
        text.push(':');
        write_value(text, value);
    }
    text.push('}');
}

fn write_number(text: &mut String, number: &Number) {
    match number.as_f64() {
        Some(double) if number.is_f64() => match integer_of(double) {
            Some(integer) => text.push_str(&integer.to_string()),
            None => text.push_str(ryu_js::Buffer::new().format(double)),
        },
        _ => text.push_str(&number.to_string()),
    }
}

/// Appends `string` in quotes, escaped as RFC 8785 section 3.2.2.2 says.
pub(crate) fn write_string(text: &mut String, string: &str) {
    text.push('"');
    let mut clean = 0;
    for (at, byte) in string.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        text.push_str(&string[clean..at]);
        clean = at + 1;
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            0x08 => text.push_str("\\b"),
            0x09 => text.push_str("\\t"),
            0x0a => text.push_str("\\n"),
            0x0c => text.push_str("\\f"),
            0x0d => text.push_str("\\r"),
            control => text.push_str(&format!("\\u{control:04x}")),
        }
    }
    text.push_str(&string[clean..]);
    text.push('"');
}

/// The number that `double` is, as an integer where it is one of 64 bits: 1.0 and 1 are one value, and so must be one
/// text and one stored form, or the order of equal events would show.
pub(crate) fn number_of(double: f64) -> Option<Number> {
    integer_of(double).or_else(|| Number::from_f64(double))
}

fn integer_of(double: f64) -> Option<Number> {
    if double.fract() != 0.0 {
        return None;
    }
    if (0.0..TWO_POW_64).contains(&double) {
        return Some(Number::from(double as u64));
    }
    (-TWO_POW_63..0.0)
        .contains(&double)
        .then(|| Number::from(double as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// JSON whose integers a double can hold: there the RFC decides.
    fn interoperable() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1i64 << 53)..=(1i64 << 53)).prop_map(Value::from),
            any::<f64>()
                .prop_filter("beyond 2^53 the RFC's text is not exact", |f| f.is_finite()
                    && (f.abs() <= 9e15 || f.abs() >= 2e19))
                .prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_rfc_8785_where_integers_fit_a_double(value in interoperable()) {
            let theirs = serde_json_canonicalizer::to_string(&value).expect("serialisable");
            prop_assert_eq!(to_text(&value), theirs);
        }

        #[test]
        fn distinct_integers_have_distinct_texts(a in any::<i64>(), step in 1i64..4) {
            let b = a.wrapping_add(step);
            prop_assert_ne!(to_text(&json!(a)), to_text(&json!(b)));
            prop_assert_ne!(to_text(&json!(a as u64)), to_text(&json!(b as u64)));
        }

        #[test]
        fn a_double_shares_its_text_only_with_the_integer_it_equals(double in -2e19f64..2e19, near in -2i128..3) {
            let integer = double as i128 + near;
            let Some(other) = i64::try_from(integer).map(Value::from).ok()
                .or(u64::try_from(integer).map(Value::from).ok()) else { return Ok(()) };
            let equal = double.fract() == 0.0 && double as i128 == integer;
            prop_assert_eq!(to_text(&json!(double)) == to_text(&other), equal);
        }
    }

    #[test]
    fn integers_beyond_two_to_the_53_are_not_rounded() {
        for (value, text) in [
            (json!(9_007_199_254_740_993u64), "9007199254740993"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(i64::MIN), "-9223372036854775808"),
            (json!(1_152_921_504_606_847_000u64), "1152921504606847000"),
            (json!(1_152_921_504_606_846_976.0), "1152921504606846976"),
            (json!(-0.0), "0"),
            (json!(1e21), "1e+21"),
        ] {
            assert_eq!(to_text(&value), text);
        }
    }

    #[test]
    fn names_are_sorted_by_their_utf_16_code_units() {
        // U+1F600 is a surrogate pair (D83D …), so it comes before U+FB01 though its UTF-8 comes after.
        assert_eq!(
            to_text(&json!({"\u{fb01}": 1, "\u{1f600}": 2, "b": 3})),
            "{\"b\":3,\"\u{1f600}\":2,\"\u{fb01}\":1}"
        );
    }
}
