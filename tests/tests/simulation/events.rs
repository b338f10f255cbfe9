//! Events of a story: most are as they should be, some are late, twice, of another time, or unreadable.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use verdigris_core::event::{Event, JudgeContext, VectorRule};
use verdigris_core::revision::RevisionKind;
use verdigris_core::timestamp::Timestamp;

use super::dice::Dice;
use super::model::{Kind, Told};
use super::name;
use super::process::POISON;

const SECOND: i64 = 1_000_000_000;
const WORDS: [&str; 12] = [
    "copper", "pipe", "drill", "lamp", "oak", "steel", "blue", "small", "valve", "rope", "saw", "tin",
];

/// An event that will be accepted.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    pub(crate) payload: Bytes,
    id: String,
    kind: Kind,
    /// As it says; none where it has its accept time.
    revision: Option<i64>,
    fields: BTreeMap<String, Value>,
    bad: Option<&'static str>,
}

/// Draws events.
pub(crate) struct Events {
    pub(crate) dice: Dice,
    pub(crate) ids: u64,
    pub(crate) revisions: RevisionKind,
    pub(crate) is_poisoned: bool,
    sent: Vec<Drawn>,
    count: i64,
}

impl Events {
    pub(crate) fn new(dice: Dice, ids: u64, revisions: RevisionKind) -> Self {
        Self {
            dice,
            ids,
            revisions,
            is_poisoned: false,
            sent: Vec::new(),
            count: 0,
        }
    }

    pub(crate) fn id(&mut self) -> String {
        format!("d{}", self.dice.within(0..self.ids))
    }

    /// Any event.
    pub(crate) fn draw(&mut self, now: i64) -> Drawn {
        let what = self.dice.within(0..100);
        if what < 6 && !self.sent.is_empty() {
            return self.dice.one_of(&self.sent).clone();
        }
        if what < 11 {
            return self.bad(now);
        }
        let kind = match what {
            11..55 => Kind::Upsert,
            55..82 => Kind::Patch,
            _ => Kind::Delete,
        };
        let id = self.id();
        self.event(id, kind, now)
    }

    /// A delete of this document, newer than all.
    pub(crate) fn delete(&mut self, n: u64, now: i64) -> Drawn {
        self.event(format!("d{n}"), Kind::Delete, now)
    }

    fn event(&mut self, id: String, kind: Kind, now: i64) -> Drawn {
        self.count += 1;
        let revision = self.revision(now);
        let mut fields = self.fields(kind);
        if self.is_poisoned && kind != Kind::Delete && self.dice.once_in(25) {
            fields.insert("title".to_owned(), json!(format!("oak {POISON}")));
        }
        let mut object = Map::new();
        object.insert("id".to_owned(), json!(id));
        let operation = match kind {
            Kind::Upsert => None,
            Kind::Patch => Some("patch"),
            Kind::Delete => Some("delete"),
        };
        object.extend(operation.map(|operation| ("_op".to_owned(), json!(operation))));
        match (self.revisions, revision) {
            (RevisionKind::Number, revision) => {
                object.insert("_revision".to_owned(), json!(revision));
            }
            (RevisionKind::EventTime, Some(time)) => {
                object.insert("_time".to_owned(), json!(Timestamp(time).to_string()));
            }
            (RevisionKind::EventTime, None) => {}
        }
        object.extend(fields.clone());
        let drawn = Drawn {
            payload: Bytes::from(Value::Object(object).to_string()),
            id,
            kind,
            revision,
            fields,
            bad: None,
        };
        if revision.is_some() {
            self.sent.push(drawn.clone());
        }
        drawn
    }

    fn revision(&mut self, now: i64) -> Option<i64> {
        let back = match self.dice.within(0..10) {
            0 => self.dice.within(0..400) as i64,
            1 | 2 => self.dice.within(0..12) as i64,
            _ => 0,
        };
        match self.revisions {
            RevisionKind::Number => Some((self.count - back).max(1)),
            RevisionKind::EventTime if self.dice.once_in(3) => None,
            RevisionKind::EventTime if self.dice.once_in(12) => Some(now + 240 * SECOND),
            RevisionKind::EventTime => Some(now - back * SECOND + self.count),
        }
    }

    fn fields(&mut self, kind: Kind) -> BTreeMap<String, Value> {
        let mut fields = BTreeMap::new();
        if kind == Kind::Delete {
            return fields;
        }
        let share = if kind == Kind::Upsert { 1 } else { 3 };
        for field in ["title", "brand", "category", "description"] {
            if self.dice.once_in(share) && !self.dice.once_in(8) {
                let words: Vec<&str> = (0..self.dice.within(1..4)).map(|_| *self.dice.one_of(&WORDS)).collect();
                fields.insert(field.to_owned(), json!(words.join(" ")));
            } else if kind == Kind::Patch && self.dice.once_in(12) {
                fields.insert(field.to_owned(), Value::Null);
            }
        }
        if self.dice.once_in(2) {
            fields.insert("price".to_owned(), json!(self.dice.within(1..1_000)));
        }
        fields.insert("n".to_owned(), json!(self.count));
        fields
    }

    /// One that must be set aside.
    fn bad(&mut self, now: i64) -> Drawn {
        let id = self.id();
        let (payload, reason): (Vec<u8>, _) = match self.dice.within(0..7) {
            0 => (b"{".to_vec(), "INVALID_JSON"),
            1 => (b"\xff\xfe{}".to_vec(), "INVALID_UTF8"),
            2 => (br#"{"title":"nobody"}"#.to_vec(), "MISSING_ID"),
            3 => (
                format!(r#"{{"id":"{id}","_op":"explode"}}"#).into_bytes(),
                "UNKNOWN_EVENT_TYPE",
            ),
            4 => (format!(r#"{{"id":"{id}","id":"x"}}"#).into_bytes(), "DUPLICATE_KEY"),
            5 => match self.revisions {
                RevisionKind::Number => (format!(r#"{{"id":"{id}","n":1}}"#).into_bytes(), "MISSING_REVISION"),
                RevisionKind::EventTime => (
                    format!(r#"{{"id":"{id}","_revision":7}}"#).into_bytes(),
                    "WRONG_REVISION_KIND",
                ),
            },
            _ => match self.revisions {
                RevisionKind::Number => (b"17".to_vec(), "NOT_AN_OBJECT"),
                RevisionKind::EventTime => {
                    let time = Timestamp(now + 400 * SECOND);
                    (
                        format!(r#"{{"id":"{id}","_time":"{time}","title":"tomorrow"}}"#).into_bytes(),
                        "AHEAD_OF_TIME",
                    )
                }
            },
        };
        Drawn {
            payload: payload.into(),
            id,
            kind: Kind::Upsert,
            revision: None,
            fields: BTreeMap::new(),
            bad: Some(reason),
        }
    }
}

impl Drawn {
    /// What it is to the model, accepted at this moment.
    pub(crate) fn told(self, revisions: RevisionKind, accepted_at_ns: i64) -> Told {
        let collection = name();
        let context = JudgeContext {
            collection: &collection,
            revision_kind: revisions,
            vectors: VectorRule::Forbidden,
            accepted_at_ns,
        };
        // Only to settle two events of one document, kind and revision.
        let judged = Event::parse(&self.payload).and_then(|event| event.judge(&context));
        let is_poison = self
            .fields
            .values()
            .any(|value| value.as_str().is_some_and(|text| text.contains(POISON)));
        Told {
            id: self.id,
            revision: self.revision.unwrap_or(accepted_at_ns),
            kind: self.kind,
            tie: judged
                .map(|judged| judged.stamp().digest.to_string())
                .unwrap_or_default(),
            fields: self.fields,
            bad: self.bad,
            is_poison,
        }
    }
}
