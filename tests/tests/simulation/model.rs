//! What documents a set of events leaves, written without a look at how the product folds: for each document the newest
//! upsert or delete is its floor; of what is at or above it, each field shows its newest write.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Upsert,
    Patch,
    Delete,
}

/// An event that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) revision: i64,
    pub(crate) kind: Kind,
    /// Settles two events that are alike in revision and kind.
    pub(crate) tie: String,
    /// Null removes.
    pub(crate) fields: BTreeMap<String, Value>,
    /// Why it must be set aside, if it must.
    pub(crate) bad: Option<&'static str>,
    /// Whether an embedder panics at it.
    pub(crate) is_poison: bool,
}

impl Told {
    fn place(&self) -> (i64, Kind, &str) {
        (self.revision, self.kind, &self.tie)
    }
}

/// All events, by sequence from 1.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) events: Vec<Told>,
}

/// What a release must hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Documents {
    pub(crate) exist: BTreeMap<String, BTreeMap<String, Value>>,
    /// Ids of which something is known that do not exist.
    pub(crate) ghosts: BTreeSet<String>,
}

impl Model {
    pub(crate) fn event(&self, sequence: u64) -> &Told {
        &self.events[sequence as usize - 1]
    }

    /// Whether the embedder may panic at what an event makes: at its own text, or at that of a patch that came before its
    /// document was there.
    pub(crate) fn may_panic(&self, sequence: u64) -> bool {
        let event = self.event(sequence);
        let before = self.events.iter().take(sequence as usize - 1);
        let mut waiting = before.filter(|one| one.id == event.id && one.kind == Kind::Patch && one.is_poison);
        event.is_poison || waiting.next().is_some()
    }

    /// The documents after the events up to `checkpoint`, those in `left_out` apart, without those that are `absent`.
    pub(crate) fn documents(&self, checkpoint: u64, left_out: &BTreeSet<u64>, absent: &BTreeSet<String>) -> Documents {
        let mut by_id: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
        for (sequence, event) in (1..).zip(&self.events).take(checkpoint as usize) {
            if !left_out.contains(&sequence) && !absent.contains(&event.id) {
                by_id.entry(&event.id).or_default().push(event);
            }
        }
        let mut documents = Documents::default();
        for (id, mut events) in by_id {
            events.sort_by(|a, b| a.place().cmp(&b.place()));
            let floor = events.iter().rposition(|event| event.kind != Kind::Patch);
            let Some(floor) = floor.filter(|floor| events[*floor].kind == Kind::Upsert) else {
                documents.ghosts.insert(id.to_owned());
                continue;
            };
            let mut shown = BTreeMap::new();
            for event in &events[floor..] {
                for (field, value) in &event.fields {
                    if value.is_null() {
                        shown.remove(field);
                    } else {
                        shown.insert(field.clone(), value.clone());
                    }
                }
            }
            documents.exist.insert(id.to_owned(), shown);
        }
        documents
    }

    /// What of a document is embedded.
    pub(crate) fn text(fields: &BTreeMap<String, Value>) -> String {
        let parts = ["title", "brand", "category", "description"];
        let texts = parts.iter().filter_map(|part| fields.get(*part)?.as_str());
        let texts: Vec<&str> = texts.filter(|text| !text.trim().is_empty()).collect();
        texts.join(". ")
    }
}
