//! Judging: an event against its collection. What comes out can be folded into a document.
//!
//! It depends on the event, the collection's settings and the accept time alone, all of them kept: a second read, years
//! later, ends the same way. The reader's clock is deliberately absent.

use serde_json::{Map, Number, Value};

use super::{Event, VECTOR_FIELD};
use crate::canonical;
use crate::digest::Digest;
use crate::names::{CollectionName, DocumentId};
use crate::rejection::{Rejection, kind_of};
use crate::revision::{EventKind, Revision, RevisionKind, Stamp};
use crate::timestamp::Timestamp;

/// How far an event's time may be ahead of its accept time, in nanoseconds: clocks of a catalog differ by seconds, and
/// an event from next year would silence its document until then.
pub const AHEAD_NS_MAX: i64 = 5 * 60 * 1_000_000_000;

/// What an event is judged by.
#[derive(Debug, Clone, Copy)]
pub struct JudgeContext<'a> {
    /// The collection whose log it is in.
    pub collection: &'a CollectionName,
    /// What orders that collection.
    pub revision_kind: RevisionKind,
    /// Whether documents bring their vectors.
    pub vectors: VectorRule,
    /// When the bus accepted the event, in nanoseconds since the epoch.
    pub accepted_at_ns: i64,
}

/// Whether documents bring their vectors. Either or: two vector spaces never meet in one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorRule {
    /// The collection's embedder makes the vectors.
    Forbidden,
    /// Each document brings one in `_vector`.
    Required {
        /// Its numbers.
        dimension: u32,
        /// Whether vectors are compared by cosine, which a zero vector cannot be.
        cosine: bool,
    },
}

/// An event that fits its collection, with its stamp. Only [`Event::judge`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    id: DocumentId,
    stamp: Stamp,
    fields: Map<String, Value>,
}

impl Judged {
    /// The document.
    pub fn id(&self) -> &DocumentId {
        &self.id
    }

    /// Its place among all events of its document; the kind is in it.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// What it writes; null removes.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

impl Event {
    /// Judges the event against its collection.
    pub fn judge(self, context: &JudgeContext<'_>) -> Result<Judged, Rejection> {
        if let Some(named) = &self.collection
            && named != context.collection
        {
            let (found, expected) = (named.to_string(), context.collection.to_string());
            return Err(Rejection::WrongCollection { found, expected });
        }
        let revision = self.revision_in(context.revision_kind, Timestamp(context.accepted_at_ns))?;
        let Self {
            id, kind, mut fields, ..
        } = self;
        let stamp = Stamp {
            revision,
            kind,
            digest: digest(context.collection, &id, kind, revision, &fields),
        };
        match context.vectors {
            VectorRule::Forbidden if fields.contains_key(VECTOR_FIELD) => return Err(Rejection::VectorNotAllowed),
            VectorRule::Forbidden => {}
            VectorRule::Required { dimension, cosine } => check_vector(kind, &mut fields, dimension, cosine)?,
        }
        Ok(Judged { id, stamp, fields })
    }

    /// The event with the revision that it got when it was accepted, so that it keeps its place when it is appended
    /// again: what `replay` of a dead letter does.
    pub fn pinned(mut self, kind: RevisionKind, accepted_at: Timestamp) -> Self {
        if kind == RevisionKind::EventTime && self.revision.is_none() {
            self.time = self.time.or(Some(accepted_at));
        }
        self
    }

    fn revision_in(&self, kind: RevisionKind, accepted: Timestamp) -> Result<Revision, Rejection> {
        match (kind, self.revision) {
            (RevisionKind::EventTime, Some(revision)) => Err(Rejection::WrongRevisionKind { revision, kind }),
            (RevisionKind::EventTime, None) => {
                let time = self.time.unwrap_or(accepted);
                if time > accepted.plus(AHEAD_NS_MAX) {
                    return Err(Rejection::AheadOfTime { time, accepted });
                }
                Ok(Revision(time.0))
            }
            (RevisionKind::Number, Some(revision)) => Ok(Revision(revision)),
            (RevisionKind::Number, None) => Err(Rejection::MissingRevision),
        }
    }
}

/// The digest of a stamp. The revision is text in it: a time in nanoseconds is beyond 2^53, where other writers of
/// canonical JSON round.
fn digest(
    collection: &CollectionName,
    id: &DocumentId,
    kind: EventKind,
    revision: Revision,
    fields: &Map<String, Value>,
) -> Digest {
    let mut text = format!("{{\"collection\":\"{collection}\",\"fields\":");
    canonical::write_object(&mut text, fields);
    text.push_str(",\"id\":");
    canonical::write_string(&mut text, id.as_str());
    text.push_str(&format!(",\"kind\":\"{kind}\",\"revision\":\"{}\"}}", revision.0));
    Digest::of(text.as_bytes())
}

fn check_vector(
    kind: EventKind,
    fields: &mut Map<String, Value>,
    dimension: u32,
    cosine: bool,
) -> Result<(), Rejection> {
    let vector = match (kind, fields.get_mut(VECTOR_FIELD)) {
        (EventKind::Delete, _) | (EventKind::Patch, None) => return Ok(()),
        (EventKind::Upsert, None) | (_, Some(Value::Null)) => return Err(Rejection::MissingVector),
        (_, Some(Value::Array(numbers))) => numbers,
        (_, Some(other)) => {
            return Err(Rejection::InvalidVector {
                place: "it".to_owned(),
                found: kind_of(other),
            });
        }
    };
    if vector.len() != dimension as usize {
        return Err(Rejection::WrongDimension {
            found: vector.len(),
            expected: dimension,
        });
    }
    let mut squares = 0.0;
    for (n, value) in vector.iter_mut().enumerate() {
        let Value::Number(number) = &*value else {
            return Err(Rejection::InvalidVector {
                place: format!("number {n}"),
                found: kind_of(value),
            });
        };
        let single = number.as_f64().unwrap_or(f64::NAN) as f32;
        let Some(rounded) = single_number(single) else {
            return Err(Rejection::VectorNotFinite {
                place: format!("number {n}"),
            });
        };
        squares += f64::from(single) * f64::from(single);
        // Rounded at once, so that a document is the same before and after its vector went through the segment.
        *value = Value::Number(rounded);
    }
    // FAISS sums squares in float32: what over- or underflows there has no distance to anything.
    if squares > f64::from(f32::MAX) {
        return Err(Rejection::VectorNotFinite {
            place: "its length".to_owned(),
        });
    }
    if cosine && squares < f64::from(f32::MIN_POSITIVE) {
        return Err(Rejection::ZeroVector);
    }
    Ok(())
}

/// A float32 as the JSON number that a document holds it by.
pub(crate) fn single_number(single: f32) -> Option<Number> {
    canonical::number_of(f64::from(single))
}
