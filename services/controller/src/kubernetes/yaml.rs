//! A JSON value as YAML in blocks: enough for manifests, with every text in quotes.

use serde_json::Value;

/// The text of a document.
pub(crate) fn text(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                text.push_str(&"  ".repeat(depth));
                text.push_str(&name(key));
                text.push(':');
                below(value, depth + 1, text);
            }
        }
        Value::Array(values) => {
            for value in values {
                text.push_str(&"  ".repeat(depth));
                text.push('-');
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        // The first key stands beside the dash.
                        let mut entry = String::new();
                        write(value, depth + 1, &mut entry);
                        text.push(' ');
                        text.push_str(entry.trim_start());
                    }
                    value => below(value, depth + 1, text),
                }
            }
        }
        value => text.push_str(&value.to_string()),
    }
}

fn below(value: &Value, depth: usize, text: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(values) => !values.is_empty(),
        _ => false,
    };
    if is_block {
        text.push('\n');
        write(value, depth, text);
    } else {
        text.push_str(&format!(" {value}\n"));
    }
}

/// A key, in quotes where it might be read as something else.
fn name(key: &str) -> String {
    let is_plain = key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&key.to_lowercase().as_str());
    match is_plain && is_word && !is_other {
        true => key.to_owned(),
        false => Value::from(key).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_lists_and_texts_are_written_as_blocks() {
        let value = serde_json::json!({
            "kind": "A: b", "list": [{"name": "x", "of": [1, true]}, "y", []], "empty": {}, "none": null, "on": "off",
        });
        let expected = "empty: {}\nkind: \"A: b\"\nlist:\n  - name: \"x\"\n    of:\n      - 1\n      - true\n  - \"y\"\n  - []\nnone: null\n\"on\": \"off\"\n";
        assert_eq!(text(&value), expected);
    }
}
