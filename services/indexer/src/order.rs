//! The third and fourth step of an event: what it means for the documents of a release.
//!
//! Each event is judged by the log alone and folded into the state of its document; order and duplicates do not
//! matter. Synchronous: it reads mapped files and belongs on a blocking thread.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use verdigris_bus::BusEvent;
use verdigris_core::dead_letter::DeadLetter;
use verdigris_core::document::{DocumentState, Fold};
use verdigris_core::erasure::is_about;
use verdigris_core::event::{Event, JudgeContext, Judged, VectorRule};
use verdigris_core::manifest::Metric;
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;
use verdigris_core::rejection::Rejection;
use verdigris_core::revision::{EventKind, RevisionKind};
use verdigris_core::settings::{Provider, Settings};
use verdigris_core::text::embedded_text;
use verdigris_core::timestamp::Timestamp;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::{Release, RowPlace};

use crate::guard::Rejected;
use crate::progress::Outcome;

/// How far the squared length of a float32 unit vector strays from 1.
const UNIT_TOLERANCE: f64 = 1e-6;
/// Reason of an event that ended the indexer twice.
const CRASHED_INDEXER: &str = "CRASHED_INDEXER";

/// Reason of an event that a person rejected.
const REJECTED: &str = "REJECTED";

/// What a window of events comes to.
#[derive(Default)]
pub(crate) struct Ordered {
    /// Documents whose state changed, by id.
    pub(crate) changes: Vec<Change>,
    /// Events that were set aside.
    pub(crate) set_aside: Vec<DeadLetter>,
    /// What became of each event, in the order of the window.
    pub(crate) outcomes: Vec<Outcome>,
    /// The deletes by which documents of the release ceased to exist, in the order of the log.
    pub(crate) deletes: Vec<Counted>,
    /// Newest event time among the applied.
    pub(crate) watermark: Option<Timestamp>,
}

/// An event that guards count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// Its document.
    pub(crate) id: String,
}

/// A document whose state changed.
pub(crate) struct Change {
    /// Where it was.
    pub(crate) old: Option<OldRow>,
    /// What it is now.
    pub(crate) state: DocumentState,
    /// Where its vector comes from.
    pub(crate) vector: VectorSource,
}

/// The row that a change leaves behind.
pub(crate) struct OldRow {
    pub(crate) place: RowPlace,
    pub(crate) state: DocumentState,
    pub(crate) existed: bool,
}

/// Where the vector of a changed document comes from.
pub(crate) enum VectorSource {
    /// The document does not exist: none.
    Ghost,
    /// Its embedded text is the same: the vector that it had.
    Kept(Vec<f32>),
    /// It came with the document.
    Given(Vec<f32>),
    /// This text is to be embedded.
    Text(String),
}

/// What judging needs beside the event.
pub(crate) struct OrderContext<'a> {
    pub(crate) collection: &'a CollectionName,
    pub(crate) settings: &'a Settings,
    pub(crate) stream: StreamIdentity,
    pub(crate) now: Timestamp,
    /// The event that ended the indexer twice: set aside unread.
    pub(crate) crashed_at: Option<u64>,
    /// Events that a person rejected: set aside unread.
    pub(crate) rejected: Option<&'a Rejected>,
    /// Documents that were erased: what comes for them is set aside, and nothing of it kept.
    pub(crate) erased: &'a BTreeSet<String>,
}

/// Judges and folds a window of events against `release`.
pub(crate) fn order(
    release: &Release,
    window: &[BusEvent],
    context: &OrderContext<'_>,
) -> Result<Ordered, EngineError> {
    let mut ordered = Ordered::default();
    let mut documents: BTreeMap<String, Pending> = BTreeMap::new();
    for event in window {
        let outcome = order_one(release, event, context, &mut documents, &mut ordered)?;
        ordered.outcomes.push(outcome);
    }
    ordered.deletes = deletes(&documents);
    for pending in documents.into_values().filter(|pending| pending.changed) {
        ordered.changes.push(change(release, pending, context.settings)?);
    }
    Ok(ordered)
}

struct Pending {
    old: Option<OldRow>,
    state: DocumentState,
    changed: bool,
    /// The newest applied delete.
    deleted_by: Option<u64>,
}

fn deletes(documents: &BTreeMap<String, Pending>) -> Vec<Counted> {
    let existed = |pending: &Pending| pending.old.as_ref().is_some_and(|old| old.existed);
    let ended = documents
        .iter()
        .filter(|(_, pending)| existed(pending) && !pending.state.exists());
    let mut deletes: Vec<Counted> = ended
        .filter_map(|(id, pending)| {
            Some(Counted {
                sequence: pending.deleted_by?,
                id: id.clone(),
            })
        })
        .collect();
    deletes.sort_by_key(|counted| counted.sequence);
    deletes
}

fn order_one(
    release: &Release,
    bus_event: &BusEvent,
    context: &OrderContext<'_>,
    documents: &mut BTreeMap<String, Pending>,
    ordered: &mut Ordered,
) -> Result<Outcome, EngineError> {
    let accepted_at = Timestamp(bus_event.accepted_at_ns);
    let mut set_aside = |reason: &str, message: String| {
        let position = context.stream.position(bus_event.sequence);
        let payload = &bus_event.payload;
        let letter = DeadLetter::new(position, accepted_at, context.now, reason, message, payload);
        ordered.set_aside.push(letter);
    };
    // First of all: no other reason may keep a byte of it.
    if is_about(&bus_event.payload, context.erased) {
        let position = context.stream.position(bus_event.sequence);
        let (reason, message) = (Rejection::Erased.reason(), Rejection::Erased.to_string());
        let letter = DeadLetter::new(position, accepted_at, context.now, reason, message, &[]);
        ordered.set_aside.push(letter.without_payload());
        return Ok(Outcome::SetAside);
    }
    if context.crashed_at == Some(bus_event.sequence) {
        set_aside(
            CRASHED_INDEXER,
            "the indexer ended twice while it read this event alone".to_owned(),
        );
        return Ok(Outcome::SetAside);
    }
    if let Some(rejected) = context.rejected.filter(|rejected| rejected.holds(bus_event.sequence)) {
        set_aside(REJECTED, format!("rejected by {}: {}", rejected.actor, rejected.reason));
        return Ok(Outcome::SetAside);
    }
    let judge_context = judge_context(context.collection, context.settings, accepted_at);
    let judged = Event::parse(&bus_event.payload).and_then(|event| event.judge(&judge_context));
    let judged = match judged {
        Ok(judged) => judged,
        Err(rejection) => {
            set_aside(rejection.reason(), rejection.to_string());
            return Ok(Outcome::SetAside);
        }
    };
    let id = judged.id().as_str();
    if !documents.contains_key(id) {
        documents.insert(id.to_owned(), pending(release, &judged, context.settings)?);
    }
    let pending = documents.get_mut(id).expect("put there just now");
    Ok(match pending.state.fold(&judged) {
        Fold::Applied => {
            pending.changed = true;
            if judged.stamp().kind == EventKind::Delete {
                pending.deleted_by = Some(bus_event.sequence);
            }
            if context.settings.revision == RevisionKind::EventTime {
                ordered.watermark = ordered.watermark.max(Some(Timestamp(judged.stamp().revision.0)));
            }
            Outcome::Applied
        }
        Fold::Unchanged => Outcome::Unchanged,
        Fold::Stale => Outcome::Stale,
    })
}

/// What judging an event of a collection with these settings needs.
pub(crate) fn judge_context<'a>(
    collection: &'a CollectionName,
    settings: &Settings,
    accepted_at: Timestamp,
) -> JudgeContext<'a> {
    JudgeContext {
        collection,
        revision_kind: settings.revision,
        vectors: vector_rule(settings),
        accepted_at_ns: accepted_at.0,
    }
}

/// Whether documents of these settings bring their vectors.
fn vector_rule(settings: &Settings) -> VectorRule {
    match settings.embedder.provider {
        Provider::None => VectorRule::Required {
            dimension: settings.embedder.dimension,
            cosine: settings.metric == Metric::Cosine,
        },
        Provider::Minilm | Provider::Hash => VectorRule::Forbidden,
    }
}

/// The state of a document as the release has it, or an empty one.
fn pending(release: &Release, judged: &Judged, settings: &Settings) -> Result<Pending, EngineError> {
    let Some(place) = release.find(judged.id().as_str()) else {
        return Ok(Pending {
            old: None,
            state: DocumentState::new(judged.id().clone()),
            changed: false,
            deleted_by: None,
        });
    };
    let (_, mut state) = release.state(place)?;
    let existed = release.has_vector(place);
    if existed && settings.embedder.provider == Provider::None {
        state.restore_vector(&release.vector(place));
    }
    Ok(Pending {
        old: Some(OldRow {
            place,
            state: state.clone(),
            existed,
        }),
        state,
        changed: false,
        deleted_by: None,
    })
}

fn change(release: &Release, pending: Pending, settings: &Settings) -> Result<Change, EngineError> {
    let Pending { old, state, .. } = pending;
    let Some(document) = state.document() else {
        return Ok(Change {
            old,
            state,
            vector: VectorSource::Ghost,
        });
    };
    if settings.embedder.provider == Provider::None {
        let mut vector = state.vector().expect("judged events of this collection bring a vector");
        if settings.metric == Metric::Cosine {
            normalise(&mut vector);
        }
        return Ok(Change {
            old,
            state,
            vector: VectorSource::Given(vector),
        });
    }
    let text = embedded_text(&document, &settings.text.embed);
    let old_text = old
        .as_ref()
        .and_then(|old| old.state.document())
        .map(|old| embedded_text(&old, &settings.text.embed));
    let vector = match &old {
        Some(old) if old.existed && old_text.as_ref() == Some(&text) => VectorSource::Kept(release.vector(old.place)),
        _ => VectorSource::Text(text),
    };
    Ok(Change { old, state, vector })
}

/// Scales a vector to length 1; zero vectors were refused before. One that has it already, as a vector that comes back
/// from its segment, stays as it is, so that rewriting a document never moves its last bits.
pub(crate) fn normalise(vector: &mut [f32]) {
    let squared = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    if (squared - 1.0).abs() > UNIT_TOLERANCE {
        let length = squared.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
