//! The text of a document that is embedded: the settings' parts, in order, cut and joined.

use serde_json::{Map, Value};

use crate::settings::EmbedPart;

/// What stands between two parts.
const SEPARATOR: &str = ". ";

/// The embedded text of a document: for each part the first of its fields that is not empty, cut to the part's
/// characters, joined by `. `. Lists are joined by a space; numbers are printed; objects and booleans are left out.
///
/// ```
/// use serde_json::json;
/// use verdigris_core::{settings::Settings, text::embedded_text};
/// let document = json!({"title": "Cordless drill", "brand": "Kestrel", "price": 99});
/// let text = embedded_text(document.as_object().unwrap(), &Settings::default().text.embed);
/// assert_eq!(text, "Cordless drill. Kestrel");
/// ```
pub fn embedded_text(document: &Map<String, Value>, parts: &[EmbedPart]) -> String {
    let texts: Vec<String> = parts.iter().filter_map(|part| text_of_part(document, part)).collect();
    texts.join(SEPARATOR)
}

fn text_of_part(document: &Map<String, Value>, part: &EmbedPart) -> Option<String> {
    let text = part.fields.iter().find_map(|field| {
        let text = document.get(field).map(text_of_value).unwrap_or_default();
        (!text.trim().is_empty()).then_some(text)
    })?;
    match part.characters {
        Some(limit) => Some(text.chars().take(limit as usize).collect()),
        None => Some(text),
    }
}

fn text_of_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(values) => {
            let texts: Vec<String> = values
                .iter()
                .map(text_of_value)
                .filter(|text| !text.is_empty())
                .collect();
            texts.join(" ")
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TextSettings;
    use serde_json::json;

    fn check(document: &Value, expect: &str) {
        let parts = TextSettings::default().embed;
        assert_eq!(embedded_text(document.as_object().expect("an object"), &parts), expect);
    }

    #[test]
    fn parts_come_in_order_and_empty_ones_leave_no_separator() {
        check(
            &json!({"category": "Tools", "title": "Drill", "brand": " "}),
            "Drill. Tools",
        );
        check(&json!({}), "");
    }

    #[test]
    fn the_first_filled_field_of_a_part_is_taken_and_cut_by_characters() {
        let long = "ä".repeat(500);
        check(
            &json!({"title": "T", "description": long}),
            &format!("T. {}", "ä".repeat(400)),
        );
        check(
            &json!({"title": "T", "bullets": ["a", "b"], "description": "c"}),
            "T. a b",
        );
        check(&json!({"title": "T", "bullets": [], "description": "c"}), "T. c");
    }
}
