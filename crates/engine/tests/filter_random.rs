//! Random filters over random documents let through the rows that a plain evaluator over JSON lets through.
//!
//! The evaluator knows nothing of columns: it walks each document. Filters are made as trees and written as text, so
//! that the parser is part of what is compared. Replay a failure with the seed that proptest prints.

mod rows_support;

use std::cmp::Ordering;
use std::fmt::Write;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use rows_support::rows_of_documents;
use serde_json::{Map, Number, Value};
use verdigris_engine::filter::Filter;

/// Keys with a meaning in filters or in Tantivy among them; few, so that paths meet.
const KEYS: [&str; 5] = ["a", "c d", "e.f", "AND", "x\u{1}y"];
/// Few texts and numbers, so that comparisons meet, and those where mistakes are near.
const TEXTS: [&str; 16] = [
    "",
    "a",
    "b",
    "Red Wine",
    "red",
    "wine cellar",
    "20",
    "1",
    "true",
    "null",
    "2024-05-01",
    "2024-05-01T02:00:00+02:00",
    "2024-05-01T10:00:00Z",
    "été*",
    "\"q\"\\",
    "9007199254740993",
];
const NUMBERS: [&str; 13] = [
    "0",
    "-0.0",
    "1",
    "1.0",
    "2.5",
    "-2.5",
    "9007199254740992.0",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "1e30",
    "0.1",
];

#[derive(Debug, Clone)]
enum Tree {
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Not(Box<Tree>),
    Test(Vec<String>, &'static str, Wanted),
}

#[derive(Debug, Clone)]
enum Wanted {
    Any,
    Bare(String),
    Quoted(String),
    /// Star before, text, star after.
    Pattern(bool, String, bool),
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop::sample::select(&NUMBERS[..]).prop_map(|text| Value::Number(text.parse::<Number>().expect(text)));
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        2 => any::<bool>().prop_map(Value::Bool),
        6 => number,
        6 => prop::sample::select(&TEXTS[..]).prop_map(|text| Value::String(text.to_owned())),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            object(inner).prop_map(Value::Object),
        ]
    })
}

fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key = prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
    prop::collection::vec((key, inner), 0..4).prop_map(|fields| fields.into_iter().collect())
}

fn tree() -> impl Strategy<Value = Tree> {
    test().prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::And),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::Or),
            inner.prop_map(|part| Tree::Not(Box::new(part))),
        ]
    })
}

fn test() -> impl Strategy<Value = Tree> {
    let key = prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
    let path = prop_oneof![3 => prop::collection::vec(key.clone(), 1), 1 => prop::collection::vec(key, 2..4)];
    let text = prop::sample::select(&TEXTS[..]).prop_map(str::to_owned);
    let bare = prop_oneof![
        prop::sample::select(&NUMBERS[..]).prop_map(str::to_owned),
        prop::sample::select(&["red", "true", "false", "20", "2024-05-01", "2024-05-01T00:00:00Z"][..])
            .prop_map(str::to_owned),
    ];
    let key = prop::sample::select(&["a", "c d", "AND"][..]).prop_map(|key| Wanted::Quoted(key.to_owned()));
    let exact = prop_oneof![bare.prop_map(Wanted::Bare), text.clone().prop_map(Wanted::Quoted)];
    let pattern = (any::<bool>(), text, any::<bool>())
        .prop_filter("a star and a text", |(before, text, after)| {
            (*before || *after) && !text.is_empty()
        })
        .prop_map(|(before, text, after)| Wanted::Pattern(before, text, after));
    let equality = (
        prop::sample::select(&["=", "!="][..]),
        prop_oneof![3 => exact.clone(), 1 => pattern],
    );
    let no_truth = |wanted: &Wanted| !matches!(wanted, Wanted::Bare(text) if text == "true" || text == "false");
    let order = (
        prop::sample::select(&["<", "<=", ">", ">="][..]),
        exact.clone().prop_filter("has an order", no_truth),
    );
    let not_empty = |wanted: &Wanted| !matches!(wanted, Wanted::Quoted(text) if text.is_empty());
    let has = prop_oneof![1 => Just(Wanted::Any), 1 => key, 3 => exact.prop_filter("not empty", not_empty)];
    let operation = prop_oneof![2 => equality, 2 => order, 2 => has.prop_map(|wanted| (":", wanted))];
    (path, operation).prop_map(|(path, (operator, wanted))| Tree::Test(path, operator, wanted))
}

fn write_tree(tree: &Tree, out: &mut String) {
    let many = |parts: &[Tree], word: &str, out: &mut String| {
        for (n, part) in parts.iter().enumerate() {
            out.push_str(if n == 0 { "(" } else { word });
            write_tree(part, out);
        }
        out.push(')');
    };
    match tree {
        Tree::And(parts) => many(parts, if parts.len() == 2 { " " } else { " AND " }, out),
        Tree::Or(parts) => many(parts, " OR ", out),
        Tree::Not(part) => {
            out.push_str("NOT (");
            write_tree(part, out);
            out.push(')');
        }
        Tree::Test(path, operator, wanted) => {
            let path: Vec<String> = path
                .iter()
                .map(|part| if part == "a" { part.clone() } else { quoted(part) })
                .collect();
            write!(out, "{} {operator} ", path.join(".")).expect("a String");
            match wanted {
                Wanted::Any => out.push('*'),
                Wanted::Bare(text) => out.push_str(text),
                Wanted::Quoted(text) => out.push_str(&quoted(text)),
                Wanted::Pattern(before, text, after) => {
                    let star = |star: &bool| if *star { "*" } else { "" };
                    let text = quoted(text);
                    write!(out, "\"{}{}{}\"", star(before), &text[1..text.len() - 1], star(after)).expect("a String");
                }
            }
        }
    }
}

fn quoted(text: &str) -> String {
    format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"").replace('*', "\\*")
    )
}

fn passes(tree: &Tree, document: &Value) -> bool {
    match tree {
        Tree::And(parts) => parts.iter().all(|part| passes(part, document)),
        Tree::Or(parts) => parts.iter().any(|part| passes(part, document)),
        Tree::Not(part) => !passes(part, document),
        Tree::Test(path, operator, wanted) => {
            let mut values = Vec::new();
            collect(document, path, &mut values);
            test_passes(&values, operator, wanted)
        }
    }
}

/// Everything at a path, lists taken apart.
fn collect<'a>(value: &'a Value, path: &[String], values: &mut Vec<&'a Value>) {
    match (value, path) {
        (Value::Array(elements), _) => elements.iter().for_each(|element| collect(element, path, values)),
        (value, []) => values.push(value),
        (Value::Object(fields), [key, rest @ ..]) => {
            if let Some(value) = fields.get(key) {
                collect(value, rest, values);
            }
        }
        _ => {}
    }
}

fn test_passes(values: &[&Value], operator: &str, wanted: &Wanted) -> bool {
    let any = |orders: &[Ordering]| {
        values.iter().any(|value| {
            compared(value, wanted, orders == [Ordering::Equal]).is_some_and(|order| orders.contains(&order))
        })
    };
    match operator {
        ":" => values.iter().any(|value| has(value, wanted)),
        "=" => any(&[Ordering::Equal]),
        "!=" => values.iter().any(|value| is_scalar(value)) && !any(&[Ordering::Equal]),
        "<" => any(&[Ordering::Less]),
        "<=" => any(&[Ordering::Less, Ordering::Equal]),
        ">" => any(&[Ordering::Greater]),
        _ => any(&[Ordering::Greater, Ordering::Equal]),
    }
}

fn is_scalar(value: &Value) -> bool {
    value.is_string() || value.is_number() || value.is_boolean()
}

fn holds_a_scalar(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(holds_a_scalar),
        Value::Object(fields) => fields.values().any(holds_a_scalar),
        value => is_scalar(value),
    }
}

fn has(value: &Value, wanted: &Wanted) -> bool {
    let text = match wanted {
        Wanted::Any => return holds_a_scalar(value),
        Wanted::Bare(text) | Wanted::Quoted(text) | Wanted::Pattern(_, text, _) => text,
    };
    match value {
        Value::Object(fields) => fields.get(text).is_some_and(holds_a_scalar),
        Value::String(found) => {
            let words = |text: &str| -> Vec<String> {
                let plain = text.to_lowercase().replace('é', "e");
                plain
                    .split(|c: char| !c.is_alphanumeric())
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            let (found_words, wanted_words) = (words(found), words(text));
            wanted_words.iter().all(|word| found_words.contains(word))
        }
        value => compared(value, wanted, true) == Some(Ordering::Equal),
    }
}

/// How a value compares with what is wanted; none where the two have nothing to do with each other.
fn compared(value: &Value, wanted: &Wanted, equality: bool) -> Option<Ordering> {
    match (value, wanted) {
        (Value::String(found), Wanted::Pattern(before, text, after)) => {
            let matches = match (before, after) {
                (true, true) => found.contains(text),
                (true, false) => found.ends_with(text),
                _ => found.starts_with(text),
            };
            matches.then_some(Ordering::Equal)
        }
        (Value::String(found), Wanted::Bare(text) | Wanted::Quoted(text)) => {
            if let Some(wanted_moment) = moment(text) {
                return moment(found).map(|found| found.cmp(&wanted_moment));
            }
            let is_number = matches!(wanted, Wanted::Bare(_)) && text.parse::<Number>().is_ok();
            if is_number && !equality {
                None
            } else {
                Some(found.as_bytes().cmp(text.as_bytes()))
            }
        }
        (Value::Number(found), Wanted::Bare(text)) => text
            .parse::<Number>()
            .ok()
            .map(|wanted| compare_numbers(&found.to_string(), &wanted.to_string())),
        (Value::Bool(found), Wanted::Bare(text)) => (found.to_string() == *text).then_some(Ordering::Equal),
        _ => None,
    }
}

fn moment(text: &str) -> Option<Timestamp> {
    if let (10, Ok(date)) = (text.len(), text.parse::<Date>()) {
        return date.to_zoned(TimeZone::UTC).ok().map(|date| date.timestamp());
    }
    text.parse().ok()
}

/// By value: whole numbers as such, whole floats as what they are exactly.
fn compare_numbers(a: &str, b: &str) -> Ordering {
    let whole = |text: &str| -> Option<i128> {
        text.parse().ok().or_else(|| {
            let float: f64 = text.parse().expect("a number");
            (float.fract() == 0.0).then_some(float as i128)
        })
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // One is no whole number, so it is small enough for floats to order them.
        _ => a
            .parse::<f64>()
            .expect("a number")
            .total_cmp(&b.parse().expect("a number")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]
    #[test]
    fn filters_let_through_what_a_plain_evaluator_lets_through(
        documents in prop::collection::vec(object(value()), 1..40),
        trees in prop::collection::vec(tree(), 1..30),
        ghosts in 0_usize..3,
    ) {
        let documents: Vec<Value> = documents.into_iter().map(Value::Object).collect();
        let (_folder, rows) = rows_of_documents(&documents, ghosts);
        for tree in &trees {
            let mut text = String::new();
            write_tree(tree, &mut text);
            let filter = Filter::parse(&text).unwrap_or_else(|error| panic!("{error}"));
            let found: Vec<u32> = rows.filter(&filter).expect("rows").iter().collect();
            let expect: Vec<u32> = (0_u32..).zip(&documents).filter(|(_, document)| passes(tree, document)).map(|(row, _)| row).collect();
            let shown: Vec<_> = (0_u32..).zip(&documents)
                .filter(|(row, _)| found.contains(row) != expect.contains(row)).map(|(_, document)| document.to_string()).collect();
            prop_assert_eq!(&found, &expect, "{} differs on {:?}", text, shown);
        }
    }
}
