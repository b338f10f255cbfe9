//! From a broker's message to an event: both CloudEvents modes become one form, so that nothing behind sees a transport.
//!
//! What is written here goes into the digest at a checkpoint: the same message must give the same bytes in each later
//! version of this software, or every checkpoint at a binary event would look like a log that was replaced.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::value::RawValue;
use verdigris_core::digest::Digest;

use super::link::Raw;
use crate::bus::BusEvent;

/// The most messages of a batch that any server takes; beyond it the header is not the server's.
const BATCH_SEQUENCE_MAX: i64 = 100_000;

/// The event of a message.
pub(super) fn event(sequence: u64, time_ns: i64, headers: Option<&HeaderMap>, payload: Bytes) -> BusEvent {
    let binary = headers.and_then(|headers| structured(headers, &payload));
    BusEvent {
        sequence,
        accepted_at_ns: accepted_at_ns(time_ns, headers),
        payload: binary.map_or(payload, Bytes::from),
    }
}

impl Raw {
    /// What a checkpoint here is compared with. The message of another subject fits no checkpoint of `subject`.
    pub(super) fn digest(self, subject: &str) -> Digest {
        if self.subject == subject {
            return event(self.sequence, self.time_ns, Some(&self.headers), self.payload).digest();
        }
        let mut hasher = blake3::Hasher::new_derive_key("verdigris message of another collection");
        hasher.update(self.subject.as_bytes());
        hasher.update(&self.time_ns.to_le_bytes());
        hasher.update(&self.payload);
        hasher.finalize().into()
    }
}

/// A replicated stream gives all messages of one atomic batch the same time; their order is in their number.
pub(super) fn accepted_at_ns(time_ns: i64, headers: Option<&HeaderMap>) -> i64 {
    let number = headers
        .filter(|headers| headers.get("Nats-Batch-Id").is_some())
        .and_then(|headers| headers.get("Nats-Batch-Sequence"))
        .and_then(|number| number.as_str().parse::<i64>().ok())
        .filter(|number| (1..=BATCH_SEQUENCE_MAX).contains(number));
    time_ns.saturating_add(number.map_or(0, |number| number - 1))
}

/// A binary event as structured JSON, attributes sorted by name, data last; nothing for a message that is none.
fn structured(headers: &HeaderMap, data: &[u8]) -> Option<Vec<u8>> {
    let mut attributes = BTreeMap::new();
    let mut content_type = None;
    for (name, values) in headers.iter() {
        let name = AsRef::<str>::as_ref(name).to_ascii_lowercase();
        let Some(value) = values.first().map(|value| value.as_str()) else {
            continue;
        };
        if let Some(attribute) = name.strip_prefix("ce-") {
            let value = percent_decoded(value);
            // Headers that differ in case alone come in no order: one of them must win each time.
            let kept = attributes.entry(attribute.to_owned()).or_insert_with(|| value.clone());
            if value < *kept {
                *kept = value;
            }
        } else if name == "content-type" {
            content_type = content_type.into_iter().chain([value.to_owned()]).min();
        }
    }
    let is_structured = content_type
        .as_ref()
        .is_some_and(|content_type| content_type.starts_with("application/cloudevents"));
    if is_structured || !attributes.contains_key("specversion") {
        return None;
    }
    if let Some(content_type) = content_type {
        attributes.insert("datacontenttype".to_owned(), content_type);
    }
    let mut json = String::from("{");
    for (name, value) in &attributes {
        json.push_str(&format!("{}:{},", quoted(name), quoted(value)));
    }
    match std::str::from_utf8(data).ok().filter(|data| is_json(data)) {
        _ if data.is_empty() => {
            json.pop();
        }
        Some(data) => json.push_str(&format!("\"data\":{}", data.trim_ascii())),
        // What it is will be judged with all other events; here nothing may be lost.
        None => json.push_str(&format!("\"data_base64\":\"{}\"", base64(data))),
    }
    json.push('}');
    Some(json.into_bytes())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Header values are percent-encoded as in the HTTP binding; what is no such code stays as it is.
fn percent_decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let code = (*byte == b'%')
            .then(|| value.get(at + 1..at + 3))
            .flatten()
            .filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        decoded.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).unwrap_or_else(|_| value.to_owned())
}

fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdigris_core::event::Event;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        pairs.iter().for_each(|(name, value)| headers.insert(*name, *value));
        headers
    }

    const BINARY: [(&str, &str); 6] = [
        ("ce-specversion", "1.0"),
        ("ce-type", "dev.verdigris.document.upsert.v1"),
        ("ce-source", "/erp%20one"),
        ("CE-Id", "47"),
        ("ce-subject", "DW-%E2%82%AC \"x\""),
        ("Content-Type", "application/json"),
    ];

    #[track_caller]
    fn check(pairs: &[(&str, &str)], data: &str, expect: &str) {
        let event = event(7, 5, Some(&headers(pairs)), Bytes::from(data.to_owned()));
        assert_eq!(String::from_utf8_lossy(&event.payload), expect);
    }

    /// These bytes are in the digests of stored checkpoints: they must never change.
    #[test]
    fn a_binary_event_has_one_structured_form_for_ever() {
        let attributes = r#"{"datacontenttype":"application/json","id":"47","source":"/erp one","specversion":"1.0","subject":"DW-€ \"x\"","type":"dev.verdigris.document.upsert.v1""#;
        check(
            &BINARY,
            " {\"b\": 1, \"a\":2}\n",
            &format!("{attributes},\"data\":{{\"b\": 1, \"a\":2}}}}"),
        );
        check(&BINARY, "", &format!("{attributes}}}"));
        check(
            &BINARY,
            "{oops",
            &format!("{attributes},\"data_base64\":\"e29vcHM=\"}}"),
        );
    }

    #[test]
    fn a_binary_event_means_what_its_structured_form_means() {
        let data = br#"{"title": "Saw"}"#;
        let built = structured(&headers(&BINARY), data).expect("binary");
        let parsed = Event::parse(&built).expect("an event");
        assert_eq!((parsed.id.as_str(), parsed.fields.len()), ("DW-€ \"x\"", 1));
    }

    #[test]
    fn other_messages_stay_as_they_are() {
        check(&[], r#"{"id":"a"}"#, r#"{"id":"a"}"#);
        check(&[("content-type", "application/json")], "{}", "{}");
        let structured = [
            ("content-type", "application/cloudevents+json"),
            ("ce-specversion", "1.0"),
        ];
        check(&structured, "{}", "{}");
    }

    #[test]
    fn base64_has_its_padding() {
        for (text, expect) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(text.as_bytes()), expect);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn events_of_one_batch_differ_in_time() {
        let batch = |number| headers(&[("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", number)]);
        for (number, expect) in [("1", 100), ("9", 108), ("x", 100), ("-4", 100), ("999999999", 100)] {
            assert_eq!(accepted_at_ns(100, Some(&batch(number))), expect, "{number}");
        }
        let alone = headers(&[("Nats-Batch-Sequence", "9")]);
        assert_eq!(accepted_at_ns(100, Some(&alone)), 100);
    }

    #[test]
    fn a_message_of_another_collection_fits_no_checkpoint() {
        let raw = Raw {
            subject: "v.events.a".to_owned(),
            sequence: 1,
            time_ns: 5,
            headers: HeaderMap::new(),
            payload: Bytes::from_static(b"x"),
        };
        assert_ne!(raw.clone().digest("v.events.a"), raw.digest("v.events.b"));
    }
}
