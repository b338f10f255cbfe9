//! Strict JSON: what a digest cannot bear is refused instead of silently mended.
//!
//! A member's name may occur once (serde_json keeps the last), an integer must fit 64 bits (serde_json rounds it),
//! and a number is kept by value: `10.0` is `10`. Limits on size are the event's, not this module's, except for depth.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::canonical;
use crate::rejection::{Rejection, excerpt};

/// A JSON text as a value, with what only the parser sees.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) value: Value,
    /// Levels of arrays and objects; a scalar has none.
    pub(crate) depth: usize,
    /// Members of all objects, at any depth.
    pub(crate) members: usize,
}

/// Parses one JSON text with at most `depth_max` levels.
pub(crate) fn parse(bytes: &[u8], depth_max: usize) -> Result<Parsed, Rejection> {
    let text = text(bytes)?;
    let seen = Seen {
        depth_max,
        depth: Cell::new(0),
        members: Cell::new(0),
        huge: Cell::new(false),
        fault: RefCell::new(None),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { seen: &seen, level: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| seen.fault.take().unwrap_or_else(|| invalid(&error)))?;
    if seen.huge.get() {
        refuse_rounded_integers(text)?;
    }
    Ok(Parsed {
        value,
        depth: seen.depth.get(),
        members: seen.members.get(),
    })
}

/// The bytes as UTF-8, without the byte order mark that some exports begin with.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Rejection> {
    let text = std::str::from_utf8(bytes).map_err(|error| Rejection::InvalidUtf8 {
        offset: error.valid_up_to(),
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// serde_json's words for a syntax error, with its place taken out of the words.
pub(crate) fn invalid(error: &serde_json::Error) -> Rejection {
    let words = error.to_string();
    let what = words
        .rsplit_once(" at line ")
        .map_or(words.as_str(), |(what, _)| what)
        .to_owned();
    Rejection::InvalidJson {
        what,
        line: error.line(),
        column: error.column(),
    }
}

struct Seen {
    depth_max: usize,
    depth: Cell<usize>,
    members: Cell<usize>,
    huge: Cell<bool>,
    fault: RefCell<Option<Rejection>>,
}

#[derive(Clone, Copy)]
struct Strict<'s> {
    seen: &'s Seen,
    level: usize,
}

impl Strict<'_> {
    fn enter<E: Error>(&self) -> Result<Self, E> {
        let level = self.level + 1;
        self.seen.depth.set(self.seen.depth.get().max(level));
        if level > self.seen.depth_max {
            return self.refuse(Rejection::TooDeep { path: String::new() });
        }
        Ok(Self { level, ..*self })
    }

    fn refuse<T, E: Error>(&self, rejection: Rejection) -> Result<T, E> {
        self.seen.fault.replace(Some(rejection));
        Err(E::custom("refused"))
    }

    /// Names the member on the way out of a fault, so that a whole path is there at the top and costs nothing before.
    fn inside<T, E>(&self, name: &str, result: Result<T, E>) -> Result<T, E> {
        if result.is_err()
            && let Some(fault) = self.seen.fault.borrow_mut().as_mut()
        {
            fault.prepend(name);
        }
        result
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.abs() >= i64::MAX as f64 {
            self.seen.huge.set(true);
        }
        canonical::number_of(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.enter()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.enter()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                return self.refuse(Rejection::DuplicateKey { path: excerpt(&name) });
            }
            let value = self.inside(&name, members.next_value_seed(inner))?;
            map.insert(name, value);
        }
        self.seen.members.set(self.seen.members.get() + map.len());
        Ok(Value::Object(map))
    }
}

/// Finds an integer literal that 64 bits cannot hold. Called only where a number was that large: `text` is valid JSON.
fn refuse_rounded_integers(text: &str) -> Result<(), Rejection> {
    let mut in_string = false;
    let mut escaped = false;
    let mut literal_from = None;
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        let in_number = matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        match literal_from {
            None if matches!(byte, b'0'..=b'9' | b'-') => literal_from = Some(at),
            Some(from) if !in_number => {
                let literal = &text[from..at];
                literal_from = None;
                let integer = !literal.contains(['.', 'e', 'E']);
                if integer && literal.parse::<i64>().is_err() && literal.parse::<u64>().is_err() {
                    return Err(Rejection::NumberOutOfRange {
                        literal: excerpt(literal),
                        offset: from,
                    });
                }
            }
            _ => {}
        }
        in_string = byte == b'"';
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check_refused(text: &str, expect: &str) {
        assert_eq!(parse(text.as_bytes(), 16).expect_err(text).to_string(), expect);
    }

    #[test]
    fn a_name_that_occurs_twice_is_refused_with_its_path() {
        check_refused(
            r#"{"a":1,"a":2}"#,
            "field a is there twice; JSON readers disagree which one counts",
        );
        check_refused(
            r#"{"x":[{"b":{"c":1,"c":1}}]}"#,
            "field x.b.c is there twice; JSON readers disagree which one counts",
        );
    }

    #[test]
    fn an_integer_that_64_bits_cannot_hold_is_refused_and_a_double_is_not() {
        for literal in [
            "18446744073709551616",
            "-9223372036854775809",
            "100000000000000000000000000001",
        ] {
            let rejection = parse(format!(r#"{{"s":"\"1","n":[{literal}]}}"#).as_bytes(), 16).expect_err(literal);
            assert!(matches!(&rejection, Rejection::NumberOutOfRange { literal: found, .. } if found == literal));
        }
        for literal in [
            "18446744073709551615",
            "-9223372036854775808",
            "1e30",
            "9223372036854775808.0",
            "1e19",
        ] {
            assert!(parse(literal.as_bytes(), 16).is_ok(), "{literal}");
        }
        assert!(
            parse(br#"{"s":"184467440737095516160","n":1e30}"#, 16).is_ok(),
            "digits in a text are text"
        );
    }

    #[test]
    fn a_number_is_kept_by_value_not_by_spelling() {
        let parsed = parse(b"[10.0, 1e2, -0, -0.0, 0.5, 1e18, 1e300, -3.0]", 16).expect("valid");
        assert_eq!(
            parsed.value,
            json!([10, 100, 0, 0, 0.5, 1_000_000_000_000_000_000u64, 1e300, -3])
        );
    }

    #[test]
    fn syntax_errors_name_line_and_column() {
        check_refused(
            "{\"a\": 1,\n \"b\": nope}",
            "not JSON: expected ident at line 2 column 8",
        );
        check_refused("", "not JSON: EOF while parsing a value at line 1 column 0");
        check_refused("{} {}", "not JSON: trailing characters at line 1 column 4");
        check_refused("[1e999]", "not JSON: number out of range at line 1 column 6");
    }

    #[test]
    fn depth_and_members_are_counted_and_depth_is_limited() {
        let parsed = parse(br#"{"a":[{"b":1},{"b":2,"c":3}]}"#, 16).expect("valid");
        assert_eq!((parsed.depth, parsed.members), (3, 4));
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(deep(16).as_bytes(), 16).is_ok());
        assert!(matches!(parse(deep(17).as_bytes(), 16), Err(Rejection::TooDeep { .. })));
        assert!(matches!(
            parse(deep(1_000_000).as_bytes(), 16),
            Err(Rejection::TooDeep { .. })
        ));
    }
}
