//! The calls that look into releases: what differs between two, and where a document is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tonic::{Request, Response, Status};
use verdigris_bus::{BusEvent, ReadLimits};
use verdigris_core::dead_letter::DeadLetter as Letter;
use verdigris_core::document::DocumentState;
use verdigris_core::event::{Event, claimed_id};
use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{LineagePointer, LineageRole, Pointer};
use verdigris_core::position::StreamIdentity;
use verdigris_core::settings::Settings as CollectionSettings;
use verdigris_core::text::embedded_text;
use verdigris_core::timestamp::Timestamp;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::Release as Opened;
use verdigris_engine::release::diff::{Difference, diff};
use verdigris_proto::admin::*;
use verdigris_proto::reason::Reason;
use verdigris_store::collection as objects;

use crate::admin::AdminRpc;
use crate::error::chain;
use crate::ingest::{name_of, settings_of, status_of_bus, status_of_read};
use crate::order::judge_context;

/// Documents of a difference that are told one by one: by default, and at most.
const DOCUMENTS_TOLD: (u32, u32) = (1_000, 10_000);
/// Fields, and values of a field, that are counted in an answer.
const FIELDS_TOLD: usize = 100;
const VALUES_TOLD: usize = 20;
/// Fields that hold a brand, and a category: the first that a document has counts.
const BRAND: [&str; 2] = ["brand", "manufacturer"];
const CATEGORY: [&str; 2] = ["category", "categories"];
/// Events at the end of a log that are looked through for one document: about a second of reading.
pub(crate) const LOOKED_THROUGH: u64 = 200_000;
/// Events of one read.
const READ: ReadLimits = ReadLimits {
    events: 10_000,
    bytes: 64 << 20,
};
/// Events that are told.
const EVENTS_TOLD: usize = 20;

#[derive(Default)]
struct Sums {
    response: DiffReleasesResponse,
    fields: BTreeMap<String, u64>,
    brands: BTreeMap<String, u64>,
    categories: BTreeMap<String, u64>,
}

impl AdminRpc {
    pub(crate) async fn diff(
        &self,
        request: Request<DiffReleasesRequest>,
    ) -> Result<Response<DiffReleasesResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let before = self.opened(&name, request.before).await?;
        let after = self.opened(&name, request.after).await?;
        let limit = match request.limit {
            0 => DOCUMENTS_TOLD.0,
            limit => limit.min(DOCUMENTS_TOLD.1),
        } as usize;
        let work = tokio::task::spawn_blocking(move || {
            let mut sums = Sums::default();
            sums.response.before = before.manifest().generation;
            sums.response.after = after.manifest().generation;
            diff(&before, &after, |difference| sums.add(&difference, limit))?;
            Ok::<_, EngineError>(sums.finish())
        });
        let done = work.await.map_err(|error| Reason::Internal.status(error.to_string()))?;
        Ok(Response::new(
            done.map_err(|error| Reason::DataDamaged.status(chain(&error)))?,
        ))
    }

    pub(crate) async fn explain(
        &self,
        request: Request<ExplainDocumentRequest>,
    ) -> Result<Response<ExplainDocumentResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let settings = settings_of(&self.indexer, &name).await?;
        let (manifest, pointer, _) = self.manifest(&name, 0).await?;
        let release = self.shown(manifest, &pointer).await?;
        let mut answer = ExplainDocumentResponse {
            id: request.id.clone(),
            generation: release.manifest().generation,
            state: "unknown".to_owned(),
            ..ExplainDocumentResponse::default()
        };
        let handle = self.indexer.handle(&name);
        if handle
            .as_ref()
            .is_some_and(|handle| handle.erased().contains(&request.id))
        {
            answer.state = "erased".to_owned();
        }
        let state = found_in(&release, &settings, &mut answer)?;
        answer.lineages = self.in_lineages(&name, &pointer, &answer, &settings).await;
        if let Some(standstill) = handle.and_then(|handle| handle.status.standstill()) {
            answer.standstill = standstill.message;
        }
        let (events, looked_through) = self.events_of(&name, &request.id).await?;
        answer.looked_through = looked_through;
        let letters: BTreeMap<u64, Letter> = self
            .letters(&name)
            .await?
            .into_iter()
            .map(|letter| (letter.position.sequence, letter))
            .collect();
        let checkpoint = &release.manifest().checkpoint;
        let told = events.iter().rev().take(EVENTS_TOLD).map(|event| Explained {
            event,
            letter: letters.get(&event.sequence),
            state: state.as_ref(),
            stream: checkpoint.stream,
            is_read: event.sequence <= checkpoint.sequence,
        });
        answer.events = told.map(|event| event.shown(&name, &settings)).collect();
        Ok(Response::new(answer))
    }

    /// The same in each lineage. What is wrong with the other one is told, and is no error of the question.
    async fn in_lineages(
        &self,
        name: &CollectionName,
        pointer: &Pointer,
        found: &ExplainDocumentResponse,
        settings: &CollectionSettings,
    ) -> Vec<DocumentInLineage> {
        let active = pointer.active.as_ref().map(|active| DocumentInLineage {
            lineage: active.lineage.to_string(),
            role: "active".to_owned(),
            generation: found.generation,
            state: found.state.clone(),
            segment: found.segment.clone(),
            row: found.row,
            written_generation: found.written_generation,
            floor: found.floor.clone(),
            embedded_text: found.embedded_text.clone(),
            problem: String::new(),
        });
        let mut lineages: Vec<DocumentInLineage> = active.into_iter().collect();
        if let Some(other) = &pointer.other {
            let looked = self.in_other(name, pointer, other, &found.id, settings).await;
            let mut told = looked.unwrap_or_else(|status| DocumentInLineage {
                generation: other.generation,
                state: "unreadable".to_owned(),
                problem: status.message().to_owned(),
                ..DocumentInLineage::default()
            });
            if found.state == "erased" {
                told.state.clone_from(&found.state);
            }
            told.lineage = other.lineage.to_string();
            told.role = match other.role {
                LineageRole::WayBack => "way_back",
                LineageRole::Candidate | LineageRole::Active => "candidate",
            }
            .to_owned();
            lineages.push(told);
        }
        lineages
    }

    async fn in_other(
        &self,
        name: &CollectionName,
        pointer: &Pointer,
        other: &LineagePointer,
        id: &str,
        settings: &CollectionSettings,
    ) -> Result<DocumentInLineage, Status> {
        let store = &*self.indexer.deps().store;
        let manifest = objects::manifest(store, name, &other.manifest).await;
        let manifest = manifest.map_err(|error| status_of_read(&error))?;
        let own = match &pointer.other_settings {
            Some(reference) => objects::settings(store, name, reference).await,
            None => Ok(settings.clone()),
        };
        let own = own.map_err(|error| status_of_read(&error))?;
        let release = self.shown(manifest, pointer).await?;
        let mut answer = ExplainDocumentResponse {
            id: id.to_owned(),
            state: "unknown".to_owned(),
            ..ExplainDocumentResponse::default()
        };
        found_in(&release, &own, &mut answer)?;
        Ok(DocumentInLineage {
            generation: release.manifest().generation,
            state: answer.state,
            segment: answer.segment,
            row: answer.row,
            written_generation: answer.written_generation,
            floor: answer.floor,
            embedded_text: answer.embedded_text,
            ..DocumentInLineage::default()
        })
    }

    /// A kept release as readers see it.
    async fn opened(&self, name: &CollectionName, generation: u64) -> Result<Arc<Opened>, Status> {
        let (manifest, pointer, _) = self.manifest(name, generation).await?;
        self.shown(manifest, &pointer).await
    }

    /// A release without what is erased.
    async fn shown(&self, manifest: Manifest, pointer: &Pointer) -> Result<Arc<Opened>, Status> {
        let deps = self.indexer.deps();
        let opened = deps.opener.open(Arc::new(manifest), None).await;
        let opened = opened.map_err(|error| Reason::DataDamaged.status(chain(&error)))?;
        let hidden = objects::hidden(&*deps.store, pointer).await;
        let hidden = hidden.map_err(|error| status_of_read(&error))?;
        Ok(opened.hiding(hidden.iter().map(String::as_str)))
    }

    /// The events of a document at the end of the log, and how many were looked through.
    async fn events_of(&self, name: &CollectionName, id: &str) -> Result<(Vec<BusEvent>, u64), Status> {
        let bus = &self.indexer.deps().bus;
        let state = bus.state(name).await.map_err(|error| status_of_bus(&error))?;
        let begin = state
            .last
            .saturating_sub(LOOKED_THROUGH)
            .max(state.first_kept.saturating_sub(1));
        let (mut after, mut found) = (begin, Vec::new());
        while after < state.last {
            let read = bus
                .read(name, after, READ)
                .await
                .map_err(|error| status_of_bus(&error))?;
            let Some(last) = read.last() else { break };
            after = last.sequence;
            found.extend(
                read.into_iter()
                    .filter(|event| claimed_id(&event.payload).as_deref() == Some(id)),
            );
        }
        Ok((found, state.last.saturating_sub(begin)))
    }
}

/// Tells where a release has the document, and what it holds there.
fn found_in(
    release: &Opened,
    settings: &CollectionSettings,
    answer: &mut ExplainDocumentResponse,
) -> Result<Option<DocumentState>, Status> {
    let Some(place) = release.find(&answer.id) else {
        return Ok(None);
    };
    let found = release.state(place);
    let (stored, state) = found.map_err(|error| Reason::DataDamaged.status(chain(&error)))?;
    answer.segment = release.segments()[place.segment].segment.id().to_string();
    answer.row = place.row;
    answer.written_generation = stored.generation;
    show(answer, &state, settings);
    Ok(Some(state))
}

fn show(answer: &mut ExplainDocumentResponse, state: &DocumentState, settings: &CollectionSettings) {
    answer.state = if state.exists() { "exists" } else { "deleted" }.to_owned();
    let text = |stamp: verdigris_core::revision::Stamp| stamp.revision.text(settings.revision);
    answer.floor = state.floor().map(text).unwrap_or_default();
    let fields = state.fields().iter().map(|(name, write)| FieldStamp {
        name: name.clone(),
        revision: text(write.stamp),
    });
    answer.fields = fields.collect();
    let document = state.document();
    answer.embedded_text = document
        .map(|document| embedded_text(&document, &settings.text.embed))
        .unwrap_or_default();
}

/// An event of a document beside what the newest release says of it.
struct Explained<'a> {
    event: &'a BusEvent,
    letter: Option<&'a Letter>,
    state: Option<&'a DocumentState>,
    stream: StreamIdentity,
    is_read: bool,
}

impl Explained<'_> {
    fn shown(&self, name: &CollectionName, settings: &CollectionSettings) -> ExplainedEvent {
        let accepted_at = Timestamp(self.event.accepted_at_ns);
        let mut shown = ExplainedEvent {
            position: self.stream.position(self.event.sequence).to_string(),
            accepted_at: accepted_at.to_string(),
            ..ExplainedEvent::default()
        };
        let judged = Event::parse(&self.event.payload)
            .and_then(|event| event.judge(&judge_context(name, settings, accepted_at)));
        let stamp = judged.as_ref().ok().map(|judged| judged.stamp());
        if let Some(stamp) = stamp {
            shown.kind = stamp.kind.word().to_owned();
            shown.revision = stamp.revision.text(settings.revision);
        }
        let is_current = |state: &DocumentState| {
            let mut stamps = state.fields().values().map(|write| write.stamp).chain(state.floor());
            stamps.any(|of_state| Some(of_state) == stamp)
        };
        shown.outcome = match (self.letter, self.is_read) {
            (Some(_), _) => "set_aside",
            (None, false) => "waiting",
            (None, true) if self.state.is_some_and(is_current) => "current",
            (None, true) => "superseded",
        }
        .to_owned();
        if let Some(letter) = self.letter {
            shown.reason = format!("{}: {}", letter.reason, letter.message);
        }
        shown
    }
}

// === impl Sums ===

impl Sums {
    fn add(&mut self, difference: &Difference, limit: usize) {
        let fields: Vec<String> = difference.fields().into_iter().map(str::to_owned).collect();
        let (kind, count) = match (&difference.before, &difference.after) {
            (None, _) => ("added", &mut self.response.added),
            (_, None) => ("removed", &mut self.response.removed),
            _ => ("changed", &mut self.response.changed),
        };
        *count += 1;
        let is_change = kind == "changed";
        for field in fields.iter().filter(|_| is_change) {
            *self.fields.entry(field.clone()).or_default() += 1;
        }
        let document = difference.after.as_ref().or(difference.before.as_ref());
        for (names, counts) in [(BRAND, &mut self.brands), (CATEGORY, &mut self.categories)] {
            if let Some(value) = document.and_then(|document| first_text(document, names)) {
                *counts.entry(value).or_default() += 1;
            }
        }
        if self.response.documents.len() < limit {
            self.response.documents.push(DocumentDifference {
                id: difference.id.clone(),
                kind: kind.to_owned(),
                fields: if is_change { fields } else { Vec::new() },
            });
        }
    }

    fn finish(self) -> DiffReleasesResponse {
        DiffReleasesResponse {
            fields: most(self.fields, FIELDS_TOLD),
            brands: most(self.brands, VALUES_TOLD),
            categories: most(self.categories, VALUES_TOLD),
            ..self.response
        }
    }
}

/// The first of these fields as a text; of a list, its first entry.
fn first_text(document: &Map<String, Value>, names: [&str; 2]) -> Option<String> {
    names
        .iter()
        .filter_map(|name| document.get(*name))
        .find_map(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Array(list) => list.first().and_then(Value::as_str).map(str::to_owned),
            _ => None,
        })
}

fn most(counts: BTreeMap<String, u64>, limit: usize) -> Vec<ValueCount> {
    let mut counts: Vec<ValueCount> = counts
        .into_iter()
        .map(|(value, documents)| ValueCount { value, documents })
        .collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.documents));
    counts.truncate(limit);
    counts
}
