//! CloudEvents 1.0, structured and binary mode: the attributes that say what an event is, and where its document is.
//!
//! Extensions that are not ours are ignored, as the specification asks; batches are cut before they come here.

use serde_json::{Map, Value};

use super::{
    Event, ID_FIELD, OPERATION_FIELD, Origin, REVISION_FIELD, TIME_FIELD, fields_of, id_from, revision_from, time_from,
};
use crate::canonical;
use crate::digest::Digest;
use crate::event::DEPTH_MAX;
use crate::json::{self, Parsed};
use crate::names::DocumentId;
use crate::rejection::{Rejection, excerpt, kind_of};
use crate::revision::EventKind;

/// The attribute by which an object is known to be a CloudEvent.
pub(super) const SPECVERSION: &str = "specversion";
const SUPPORTED_SPECVERSION: &str = "1.0";
const TYPE_PREFIX: &str = "dev.verdigris.document.";
const TYPE_SUFFIX: &str = ".v1";
const KNOWN_TYPES: &str = "dev.verdigris.document.upsert.v1, …patch.v1 and …delete.v1";
/// The source of events that are written here.
const OWN_SOURCE: &str = "verdigris";

/// Reads the object of a structured event; also, how many members its `data_base64` has, which its own text hides.
pub(super) fn from_structured(mut attributes: Map<String, Value>) -> Result<(Event, usize), Rejection> {
    let mut members = 0;
    let data = match (attributes.remove("data"), attributes.remove("data_base64")) {
        (Some(_), Some(_)) => {
            return Err(Rejection::InvalidAttribute {
                name: "data",
                want: "there alone, not beside data_base64",
            });
        }
        (data, None) => data,
        (None, Some(Value::String(text))) => {
            let parsed = json::parse(&decode_base64(&text)?, DEPTH_MAX)?;
            members = parsed.members;
            Some(parsed.value)
        }
        (None, Some(_)) => {
            return Err(Rejection::InvalidAttribute {
                name: "data_base64",
                want: "text",
            });
        }
    };
    Ok((event_of(attributes, data)?, members))
}

/// Reads a binary event, whose attributes are all text.
pub(super) fn from_binary(attributes: Map<String, Value>, data: &[u8]) -> Result<(Event, Parsed), Rejection> {
    if data.is_empty() {
        let none = Parsed {
            value: Value::Null,
            depth: 0,
            members: 0,
        };
        return Ok((event_of(attributes, None)?, none));
    }
    let mut parsed = json::parse(data, DEPTH_MAX)?;
    let event = event_of(attributes, Some(parsed.value.take()))?;
    Ok((event, parsed))
}

fn event_of(attributes: Map<String, Value>, data: Option<Value>) -> Result<Event, Rejection> {
    let attributes = Attributes(attributes);
    attributes.check_specversion()?;
    let origin = Origin {
        source: attributes.required("source")?,
        id: attributes.required("id")?,
    };
    let kind = kind_from(&attributes.required("type")?)?;
    attributes.check_content_type()?;
    let collection = attributes
        .optional("collection")?
        .map(|name| name.parse().map_err(Rejection::InvalidCollection));
    let mut fields = match data {
        Some(Value::Object(fields)) => fields,
        None | Some(Value::Null) if kind == EventKind::Delete => Map::new(),
        None | Some(Value::Null) => return Err(Rejection::MissingData { kind: kind.word() }),
        Some(other) => return Err(Rejection::DataNotObject { found: kind_of(&other) }),
    };
    let id = document_id(attributes.optional("subject")?, fields.remove(ID_FIELD))?;
    refuse_plain_metadata(&fields)?;
    Ok(Event {
        collection: collection.transpose()?,
        id,
        kind,
        time: attributes.present("time").map(time_from).transpose()?,
        revision: attributes.present("revision").map(revision_from).transpose()?,
        fields: fields_of(kind, fields),
        origin: Some(origin),
    })
}

struct Attributes(Map<String, Value>);

impl Attributes {
    /// The value of an attribute; null is the same as absent.
    fn present(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn optional(&self, name: &'static str) -> Result<Option<String>, Rejection> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Rejection::InvalidAttribute { name, want: "text" }),
        }
    }

    fn required(&self, name: &'static str) -> Result<String, Rejection> {
        let text = self.optional(name)?.filter(|text| !text.is_empty());
        text.ok_or(Rejection::InvalidAttribute {
            name,
            want: "there, as text that is not empty",
        })
    }

    fn check_specversion(&self) -> Result<(), Rejection> {
        let found = match self.0.get(SPECVERSION) {
            Some(Value::String(text)) if text == SUPPORTED_SPECVERSION => return Ok(()),
            Some(Value::String(text)) => format!("{:?}", excerpt(text)),
            Some(other) => kind_of(other).to_owned(),
            None => "(none)".to_owned(),
        };
        Err(Rejection::UnsupportedSpecversion { found })
    }

    fn check_content_type(&self) -> Result<(), Rejection> {
        let Some(found) = self.optional("datacontenttype")? else {
            return Ok(());
        };
        let media_type = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type.ends_with("/json") || media_type.ends_with("+json") {
            return Ok(());
        }
        Err(Rejection::UnsupportedContentType { found: excerpt(&found) })
    }
}

fn kind_from(event_type: &str) -> Result<EventKind, Rejection> {
    event_type
        .strip_prefix(TYPE_PREFIX)
        .and_then(|rest| rest.strip_suffix(TYPE_SUFFIX))
        .and_then(EventKind::from_word)
        .ok_or_else(|| Rejection::UnknownEventType {
            found: excerpt(event_type),
            known: KNOWN_TYPES,
        })
}

/// The subject is the document's id; the document may repeat it, or say it where there is no subject.
fn document_id(subject: Option<String>, id: Option<Value>) -> Result<DocumentId, Rejection> {
    let Some(subject) = subject else {
        let id = id.ok_or(Rejection::MissingId {
            place: "the attribute subject",
        })?;
        return id_from(id);
    };
    let subject = DocumentId::try_from(subject).map_err(Rejection::InvalidId)?;
    match id.map(id_from).transpose()? {
        Some(id) if id != subject => Err(Rejection::IdMismatch {
            subject: excerpt(subject.as_str()),
            id: excerpt(id.as_str()),
        }),
        _ => Ok(subject),
    }
}

/// A plain event that is wrapped without being translated would lose its operation or revision without a word.
fn refuse_plain_metadata(fields: &Map<String, Value>) -> Result<(), Rejection> {
    let reserved = [
        (OPERATION_FIELD, "its type"),
        (TIME_FIELD, "its time"),
        (REVISION_FIELD, "the extension revision"),
    ];
    match reserved.into_iter().find(|(field, _)| fields.contains_key(*field)) {
        Some((field, instead)) => Err(Rejection::ReservedField { field, instead }),
        None => Ok(()),
    }
}

/// Writes a structured event.
pub(super) fn to_structured(event: &Event) -> Vec<u8> {
    let mut attributes = Map::new();
    let mut put = |name: &str, value: String| attributes.insert(name.to_owned(), Value::String(value));
    put(SPECVERSION, SUPPORTED_SPECVERSION.to_owned());
    put("type", format!("{TYPE_PREFIX}{}{TYPE_SUFFIX}", event.kind));
    put("subject", event.id.to_string());
    if let Some(collection) = &event.collection {
        put("collection", collection.to_string());
    }
    if let Some(time) = event.time {
        put("time", time.to_string());
    }
    if let Some(revision) = event.revision {
        put("revision", revision.to_string());
    }
    let mut data = String::new();
    canonical::write_object(&mut data, &event.fields);
    match &event.origin {
        Some(origin) => {
            put("source", origin.source.clone());
            put("id", origin.id.clone());
        }
        None => {
            put("source", OWN_SOURCE.to_owned());
            let digest = Digest::of(format!("{}\n{:?}\n{:?}\n{data}", event.id, event.time, event.revision).as_bytes());
            put("id", digest.to_string());
        }
    }
    let mut text = String::new();
    canonical::write_object(&mut text, &attributes);
    text.truncate(text.len() - 1);
    text.push_str(",\"data\":");
    text.push_str(&data);
    text.push('}');
    text.into_bytes()
}

/// Decodes base64 of the standard alphabet, padded or not.
fn decode_base64(text: &str) -> Result<Vec<u8>, Rejection> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0u32);
    for (offset, byte) in digits.bytes().enumerate() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(Rejection::InvalidBase64 { offset }),
        };
        (bits, count) = (bits << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // Six bits left over are half a byte of nothing; bits that are left must be zero, or two texts give the same bytes.
    if count == 6 || bits != 0 || text.len() - digits.len() > 2 {
        return Err(Rejection::InvalidBase64 { offset: digits.len() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_and_nonsense_refused() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm8", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ] {
            assert_eq!(decode_base64(text).expect(text), bytes.as_bytes());
        }
        for bad in ["Z", "Zm9v!", "Zg===", "Zh==", "Zm 9"] {
            assert!(decode_base64(bad).is_err(), "{bad}");
        }
    }
}
