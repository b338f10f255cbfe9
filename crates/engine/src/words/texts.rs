//! Which texts of a document are searched by words.

use serde_json::{Map, Value};

/// The texts of a document's top-level `fields`, in that order: strings, and numbers as text, however deep in lists and
/// objects. Names of attributes, true, false and null are no words. Each text is analysed by itself, so that neighbours
/// in different fields are not joined.
///
/// ```
/// use serde_json::json;
/// use verdigris_engine::words::texts_for_words;
/// let document = json!({"title": "Toner", "attributes": {"pages": 3500.0, "colour": false, "inks": ["black"]}});
/// let fields = ["title".to_owned(), "attributes".to_owned()];
/// assert_eq!(texts_for_words(document.as_object().unwrap(), &fields), ["Toner", "black", "3500"]);
/// ```
pub fn texts_for_words(document: &Map<String, Value>, fields: &[String]) -> Vec<String> {
    let mut texts = Vec::new();
    fields
        .iter()
        .filter_map(|field| document.get(field))
        .for_each(|value| collect(value, &mut texts));
    texts
}

fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.trim().is_empty() => texts.push(text.clone()),
        Value::Number(number) => texts.push(text_of_number(number)),
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, texts)),
        Value::String(_) | Value::Null | Value::Bool(_) => {}
    }
}

/// As people type it: 3500.0 is 3500.
fn text_of_number(number: &serde_json::Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}
