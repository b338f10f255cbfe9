//! A document as its events left it: the floor, and for each field the newest write.
//!
//! Folding commutes and repeats without effect (I-13): the state is a function of the set of events, because each part
//! of it is a maximum over stamps, which are a total order. How a state is stored is [`encoding`]'s; the ids, rows and
//! vectors of a segment are not known here.

pub mod encoding;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::event::{Judged, VECTOR_FIELD, single_number};
use crate::names::DocumentId;
use crate::revision::{EventKind, Stamp};

/// The state of one document, existing or not.
///
/// ```
/// use verdigris_core::document::{DocumentState, Fold};
/// use verdigris_core::event::{Event, JudgeContext, VectorRule};
/// use verdigris_core::revision::RevisionKind;
/// let collection = "products".parse()?;
/// let judge = |text: &str| {
///     let context = JudgeContext {
///         collection: &collection,
///         revision_kind: RevisionKind::Number,
///         vectors: VectorRule::Forbidden,
///         accepted_at_ns: 0,
///     };
///     Event::parse(text.as_bytes()).and_then(|event| event.judge(&context))
/// };
/// let mut state = DocumentState::new("A-1".parse()?);
/// // The patch comes before the upsert that it belongs to, and waits.
/// state.fold(&judge(r#"{"id": "A-1", "_op": "patch", "_revision": 2, "price": 9}"#)?);
/// assert!(state.is_ghost());
/// assert_eq!(state.fold(&judge(r#"{"id": "A-1", "_revision": 1, "price": 10, "title": "Drill"}"#)?), Fold::Applied);
/// let document = serde_json::Value::Object(state.document().expect("exists"));
/// assert_eq!(document, serde_json::json!({"id": "A-1", "price": 9, "title": "Drill"}));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentState {
    id: DocumentId,
    /// The newest upsert or delete.
    floor: Option<Stamp>,
    /// Per field the newest write at or above the floor.
    fields: BTreeMap<String, FieldWrite>,
}

/// The newest write of a field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldWrite {
    /// Of the event that wrote it.
    pub stamp: Stamp,
    /// What it wrote.
    pub value: Written,
}

/// What a field was set to.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// This value.
    Value(Value),
    /// A patch removed it; remembered, so that an older patch that comes later does not bring the field back.
    Removed,
    /// The vector of a row, which the segment's `vectors.faiss` holds: see [`DocumentState::restore_vector`].
    InSegment,
}

/// What an event did to the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// The state changed, if only in its stamps: it must be stored, or an older event could still win.
    Applied,
    /// The event was there already, or says nothing.
    Unchanged,
    /// All that the event writes was overwritten by newer events.
    Stale,
}

impl DocumentState {
    /// A document that no event has touched.
    pub fn new(id: DocumentId) -> Self {
        Self {
            id,
            floor: None,
            fields: BTreeMap::new(),
        }
    }

    /// The document's id.
    pub fn id(&self) -> &DocumentId {
        &self.id
    }

    /// The stamp of the newest upsert or delete.
    pub fn floor(&self) -> Option<Stamp> {
        self.floor
    }

    /// The newest write of each field, at or above the floor; those that wait where the document does not exist.
    pub fn fields(&self) -> &BTreeMap<String, FieldWrite> {
        &self.fields
    }

    /// The newest stamp in the state: what a user is shown as the document's revision.
    pub fn newest(&self) -> Option<Stamp> {
        self.fields.values().map(|write| write.stamp).chain(self.floor).max()
    }

    /// Whether the document exists: its floor is an upsert.
    pub fn exists(&self) -> bool {
        self.floor.is_some_and(|floor| floor.kind == EventKind::Upsert)
    }

    /// Whether there is something to keep of a document that does not exist.
    pub fn is_ghost(&self) -> bool {
        !self.exists() && (self.floor.is_some() || !self.fields.is_empty())
    }

    /// Folds one event of this document into the state.
    pub fn fold(&mut self, judged: &Judged) -> Fold {
        debug_assert_eq!(&self.id, judged.id(), "an event is folded into its own document");
        match judged.stamp().kind {
            EventKind::Upsert | EventKind::Delete => self.raise_floor(judged),
            EventKind::Patch => self.patch(judged),
        }
    }

    fn raise_floor(&mut self, judged: &Judged) -> Fold {
        let stamp = judged.stamp();
        match self.floor {
            Some(floor) if floor == stamp => return Fold::Unchanged,
            Some(floor) if floor > stamp => return Fold::Stale,
            _ => {}
        }
        self.floor = Some(stamp);
        self.fields.retain(|_, write| write.stamp > stamp);
        for (name, value) in judged.fields() {
            let write = FieldWrite {
                stamp,
                value: Written::Value(value.clone()),
            };
            self.fields.entry(name.clone()).or_insert(write);
        }
        Fold::Applied
    }

    fn patch(&mut self, judged: &Judged) -> Fold {
        let stamp = judged.stamp();
        if self.floor.is_some_and(|floor| floor > stamp) {
            return Fold::Stale;
        }
        let mut fold = if judged.fields().is_empty() {
            Fold::Unchanged
        } else {
            Fold::Stale
        };
        for (name, value) in judged.fields() {
            let value = if value.is_null() {
                Written::Removed
            } else {
                Written::Value(value.clone())
            };
            match self.fields.entry(name.clone()) {
                Entry::Occupied(entry) if entry.get().stamp > stamp => {}
                Entry::Occupied(entry) if entry.get().stamp == stamp => {
                    if fold == Fold::Stale {
                        fold = Fold::Unchanged;
                    }
                }
                Entry::Occupied(mut entry) => {
                    entry.insert(FieldWrite { stamp, value });
                    fold = Fold::Applied;
                }
                Entry::Vacant(entry) => {
                    entry.insert(FieldWrite { stamp, value });
                    fold = Fold::Applied;
                }
            }
        }
        fold
    }

    /// The document as users see it, with its `id`; nothing where it does not exist. A vector that is still in its
    /// segment is left out.
    pub fn document(&self) -> Option<Map<String, Value>> {
        self.exists().then(|| self.visible(|_| true))
    }

    /// The values of the fields that `keep` names, and the id.
    fn visible(&self, keep: impl Fn(&str) -> bool) -> Map<String, Value> {
        let values = self
            .fields
            .iter()
            .filter(|(name, _)| keep(name))
            .filter_map(|(name, write)| match &write.value {
                Written::Value(value) => Some((name.clone(), value.clone())),
                Written::Removed | Written::InSegment => None,
            });
        values
            .chain([("id".to_owned(), Value::from(self.id.as_str()))])
            .collect()
    }

    /// The vector that the document brought, if it did and it is here.
    pub fn vector(&self) -> Option<Vec<f32>> {
        let Written::Value(Value::Array(numbers)) = &self.fields.get(VECTOR_FIELD)?.value else {
            return None;
        };
        // Judged as finite float32, so that nothing is lost here.
        numbers
            .iter()
            .map(|number| number.as_f64().map(|double| double as f32))
            .collect()
    }

    /// Puts the vector back that the document's row has in `vectors.faiss`; no effect where none was left out.
    pub fn restore_vector(&mut self, vector: &[f32]) {
        let Some(write) = self
            .fields
            .get_mut(VECTOR_FIELD)
            .filter(|write| write.value == Written::InSegment)
        else {
            return;
        };
        let numbers = vector
            .iter()
            .map(|single| single_number(*single).map_or(Value::Null, Value::Number));
        write.value = Written::Value(numbers.collect());
    }

    /// The document's part in the content sum of a manifest: id, floor, and the stamp of every field, waiting ones too.
    /// Values need no part: a stamp holds the digest of what its event wrote.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let text = |hasher: &mut blake3::Hasher, text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        let stamp = |hasher: &mut blake3::Hasher, stamp: &Stamp| {
            hasher.update(&stamp.revision.0.to_le_bytes());
            hasher.update(&[stamp.kind as u8]);
            hasher.update(stamp.digest.as_bytes());
        };
        hasher.update(b"verdigris document 1\n");
        text(&mut hasher, self.id.as_str());
        hasher.update(&[u8::from(self.floor.is_some())]);
        if let Some(floor) = &self.floor {
            stamp(&mut hasher, floor);
        }
        for (name, write) in &self.fields {
            text(&mut hasher, name);
            stamp(&mut hasher, &write.stamp);
        }
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wiki;
