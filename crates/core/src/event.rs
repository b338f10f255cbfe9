//! An event as it comes from outside: an upsert, a patch or a delete of one document.
//!
//! [`Event::parse`] reads what the bytes say and nothing else; [`Event::judge`] compares it with the collection and
//! gives it its stamp. Neither reads a clock: an event is judged alike whenever it is read again. Cutting a file into
//! lines is the caller's; a JSON array of events is cut by [`split`].

mod cloudevent;
mod judge;

use std::str::FromStr;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub(crate) use self::judge::single_number;
pub use self::judge::{AHEAD_NS_MAX, JudgeContext, Judged, VectorRule};
use crate::json;
use crate::names::{CollectionName, DocumentId};
use crate::rejection::{Rejection, excerpt, kind_of};
use crate::revision::EventKind;
use crate::timestamp::Timestamp;

/// The largest event, in bytes: a product is some kilobytes, and whole windows of events are held in memory.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// What the attributes of a CloudEvent may add to that, so that a document that came in plain JSON still fits when it is
/// written again as a CloudEvent.
pub const ENVELOPE_BYTES_MAX: usize = 8 * 1024;
/// The most fields of a document: its own and the distinct paths of nested ones, since each becomes a column to filter by.
pub const FIELDS_MAX: usize = 1_000;
/// The most levels of objects and lists in a document, itself included.
pub const DEPTH_MAX: usize = 16;
/// The most events in one JSON array.
pub const BATCH_EVENTS_MAX: usize = 10_000;
/// The field that holds a document's vector, where the collection has no embedder.
pub const VECTOR_FIELD: &str = "_vector";

const ID_FIELD: &str = "id";
const OPERATION_FIELD: &str = "_op";
const TIME_FIELD: &str = "_time";
const REVISION_FIELD: &str = "_revision";

/// An upsert, a patch or a delete of one document, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The collection that it names, if it names one.
    pub collection: Option<CollectionName>,
    /// The document.
    pub id: DocumentId,
    /// What it does.
    pub kind: EventKind,
    /// When it happened, if it says so.
    pub time: Option<Timestamp>,
    /// Its number, if it has one.
    pub revision: Option<i64>,
    /// The document's fields without its id; of an upsert, those that are not null. Empty for a delete.
    pub fields: Map<String, Value>,
    /// Where a CloudEvent says that it comes from; for messages alone.
    pub origin: Option<Origin>,
}

/// Source and id of a CloudEvent. They do not take part in its stamp: the same change sent twice is the same event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The attribute `source`.
    pub source: String,
    /// The attribute `id`.
    pub id: String,
}

impl Event {
    /// Reads one event: a CloudEvent in structured mode, which is an object with `specversion`, or a plain document.
    ///
    /// ```
    /// use verdigris_core::event::Event;
    /// use verdigris_core::revision::EventKind;
    /// let event = Event::parse(br#"{"id": "A-1", "_op": "patch", "_time": "2026-05-01T12:00:00Z", "price": 9.5}"#)?;
    /// assert_eq!((event.id.as_str(), event.kind, event.fields.len()), ("A-1", EventKind::Patch, 1));
    /// assert_eq!(Event::parse(br#"{"title": "no id"}"#).unwrap_err().reason(), "MISSING_ID");
    /// # Ok::<(), verdigris_core::rejection::Rejection>(())
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > EVENT_BYTES_MAX + ENVELOPE_BYTES_MAX {
            return Err(Rejection::EventTooLarge { bytes: bytes.len() });
        }
        // One level more than a document has, for the envelope of a CloudEvent.
        let parsed = json::parse(bytes, DEPTH_MAX + 1)?;
        let Value::Object(object) = parsed.value else {
            return Err(Rejection::NotAnObject {
                found: kind_of(&parsed.value),
            });
        };
        if object.contains_key(cloudevent::SPECVERSION) {
            let (event, members) = cloudevent::from_structured(object)?;
            return event.check_shape(parsed.depth, parsed.members + members);
        }
        if bytes.len() > EVENT_BYTES_MAX {
            return Err(Rejection::EventTooLarge { bytes: bytes.len() });
        }
        Self::from_plain(object)?.check_shape(parsed.depth, parsed.members)
    }

    /// Reads one CloudEvent in binary mode: its attributes by name, without the prefix `ce-` that a transport puts
    /// before them, its content type as `datacontenttype`, and its data.
    pub fn parse_binary<'a>(
        attributes: impl IntoIterator<Item = (&'a str, &'a str)>,
        data: &[u8],
    ) -> Result<Self, Rejection> {
        let attributes: Map<String, Value> = attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect();
        let bytes = data.len()
            + attributes
                .iter()
                .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
                .sum::<usize>();
        if bytes > EVENT_BYTES_MAX + ENVELOPE_BYTES_MAX {
            return Err(Rejection::EventTooLarge { bytes });
        }
        let (event, parsed) = cloudevent::from_binary(attributes, data)?;
        event.check_shape(parsed.depth, parsed.members)
    }

    /// A delete of `id`, as a resync makes them.
    pub fn delete(id: DocumentId) -> Self {
        Self {
            collection: None,
            id,
            kind: EventKind::Delete,
            time: None,
            revision: None,
            fields: Map::new(),
            origin: None,
        }
    }

    /// The event as bytes for a bus: a CloudEvent in structured mode, which parses to this event again and, where it
    /// has a time or a revision, gets the same stamp.
    pub fn to_payload(&self) -> Vec<u8> {
        cloudevent::to_structured(self)
    }

    fn from_plain(mut object: Map<String, Value>) -> Result<Self, Rejection> {
        let id = match object.remove(ID_FIELD) {
            Some(value) => id_from(value)?,
            None => return Err(Rejection::MissingId { place: "the field id" }),
        };
        let kind = match object.remove(OPERATION_FIELD) {
            None => EventKind::Upsert,
            Some(value) => operation_from(&value)?,
        };
        let time = object.remove(TIME_FIELD).map(|value| time_from(&value)).transpose()?;
        let revision = object
            .remove(REVISION_FIELD)
            .map(|value| revision_from(&value))
            .transpose()?;
        let fields = fields_of(kind, object);
        Ok(Self {
            collection: None,
            id,
            kind,
            time,
            revision,
            fields,
            origin: None,
        })
    }

    /// Holds the limits on a document's shape. `depth` and `members` are those of the whole text: where they are small,
    /// as almost always, nothing is walked again.
    fn check_shape(self, depth: usize, members: usize) -> Result<Self, Rejection> {
        if depth > DEPTH_MAX
            && let Some((name, _)) = self.fields.iter().find(|(_, value)| levels(value) >= DEPTH_MAX)
        {
            return Err(Rejection::TooDeep { path: excerpt(name) });
        }
        if members > FIELDS_MAX {
            let fields = distinct_paths(&self.fields);
            if fields > FIELDS_MAX {
                return Err(Rejection::TooManyFields { fields });
            }
        }
        Ok(self)
    }
}

/// Cuts a JSON array of events into its elements; anything else is one event. Each is parsed on its own afterwards, so
/// that one bad event of a batch does not take the others with it.
pub fn split(bytes: &[u8]) -> Result<Vec<&[u8]>, Rejection> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'[') {
        return Ok(vec![bytes]);
    }
    let items: Vec<&RawValue> = serde_json::from_str(json::text(bytes)?).map_err(|error| json::invalid(&error))?;
    if items.len() > BATCH_EVENTS_MAX {
        return Err(Rejection::BatchTooLarge { events: items.len() });
    }
    Ok(items.into_iter().map(|item| item.get().as_bytes()).collect())
}

/// The fields that an event of this kind writes. A null in an upsert is a field that is not there, and a delete says
/// nothing about fields: exports that send the last state along are common.
fn fields_of(kind: EventKind, mut fields: Map<String, Value>) -> Map<String, Value> {
    match kind {
        EventKind::Upsert => fields.retain(|_, value| !value.is_null()),
        EventKind::Patch => {}
        EventKind::Delete => fields.clear(),
    }
    fields
}

fn id_from(value: Value) -> Result<DocumentId, Rejection> {
    match value {
        Value::String(text) => DocumentId::try_from(text).map_err(Rejection::InvalidId),
        Value::Null => Err(Rejection::MissingId { place: "the field id" }),
        other => Err(Rejection::IdNotText { found: kind_of(&other) }),
    }
}

fn operation_from(value: &Value) -> Result<EventKind, Rejection> {
    let unknown = |found: &str| Rejection::UnknownEventType {
        found: excerpt(found),
        known: "upsert, patch and delete",
    };
    let Value::String(word) = value else {
        return Err(unknown(kind_of(value)));
    };
    EventKind::from_word(word).ok_or_else(|| unknown(word))
}

fn time_from(value: &Value) -> Result<Timestamp, Rejection> {
    let Value::String(text) = value else {
        return Err(Rejection::InvalidTime {
            found: kind_of(value).to_owned(),
        });
    };
    Timestamp::parse(text).map_err(|_| Rejection::InvalidTime {
        found: format!("{:?}", excerpt(text)),
    })
}

/// A revision is a JSON integer, or text of one: CloudEvents has integers of 32 bits alone.
fn revision_from(value: &Value) -> Result<i64, Rejection> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => i64::from_str(text).ok(),
        _ => None,
    };
    number.ok_or_else(|| {
        let found = match value {
            Value::String(text) => format!("{:?}", excerpt(text)),
            Value::Number(number) => number.to_string(),
            other => kind_of(other).to_owned(),
        };
        Rejection::InvalidRevision { found }
    })
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// Fields and nested fields, the same path in several list items once.
fn distinct_paths(fields: &Map<String, Value>) -> usize {
    fn children<'v>(value: &'v Value, found: &mut std::collections::BTreeMap<&'v str, Vec<&'v Value>>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| children(item, found)),
            Value::Object(members) => {
                members
                    .iter()
                    .for_each(|(name, value)| found.entry(name).or_default().push(value));
            }
            _ => {}
        }
    }
    fn count(values: &[&Value]) -> usize {
        let mut found = std::collections::BTreeMap::new();
        values.iter().for_each(|value| children(value, &mut found));
        found.values().map(|below| 1 + count(below)).sum()
    }
    fields.values().map(|value| 1 + count(&[value])).sum()
}

/// The id that a refused event claims, where so much of it can be read: who knows what exists by events alone must not
/// take a document for missing because its event is wrong elsewhere.
pub fn claimed_id(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Claim {
        specversion: Option<serde::de::IgnoredAny>,
        id: Option<Value>,
        subject: Option<Value>,
    }
    let claim: Claim = serde_json::from_slice(bytes).ok()?;
    let id = if claim.specversion.is_some() {
        claim.subject
    } else {
        claim.id
    };
    match id? {
        Value::String(id) if !id.is_empty() => Some(id),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
