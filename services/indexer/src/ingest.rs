//! The first step of an event: parsed, refused with a reason or appended to the bus. Accepted means durable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use verdigris_bus::nats::NatsError;
use verdigris_bus::{APPEND_BYTES_MAX, BusError, NewEvent};
use verdigris_core::event::{Event, split};
use verdigris_core::names::CollectionName;
use verdigris_core::position::{Position, StreamIdentity};
use verdigris_core::rejection::Rejection as Refused;
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::ingest::ingest_service_server::IngestService;
use verdigris_proto::ingest::{
    GetProgressRequest, GetProgressResponse, IngestRequest, IngestResponse, IngestStreamResponse, Rejection,
};
use verdigris_proto::reason::{Reason, reason_of};
use verdigris_runtime::deadline::Deadline;
use verdigris_runtime::traces::{self, Trace};
use verdigris_store::{ReadError, collection as objects};

use crate::error::{chain, reason_of_read};
use crate::order::judge_context;
use crate::progress::OutcomeCounts;
use crate::status::Standstill;
use crate::{Handle, Indexer, traced};

/// How long a call waits for its position when its caller gives no deadline.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long events wait for the store where the settings of their collection are known.
const STORE_PATIENCE: Duration = Duration::from_secs(1);
/// Rejections that a stream's answer holds at most.
const REJECTIONS_MAX: usize = 10_000;
/// Bytes of payloads in one append: a part of what the bus takes, so that a large batch does not hold others up.
const APPEND_BYTES: usize = APPEND_BYTES_MAX / 8;

/// The gRPC service.
pub struct IngestRpc {
    indexer: Arc<Indexer>,
}

/// What became of a batch.
#[derive(Default)]
pub(crate) struct Accepted {
    pub(crate) accepted: u64,
    pub(crate) first: Option<Position>,
    pub(crate) last: Option<Position>,
    pub(crate) rejections: Vec<(u64, Refused)>,
}

impl IngestRpc {
    /// The service over an indexer.
    pub fn new(indexer: Arc<Indexer>) -> Self {
        Self { indexer }
    }
}

/// Appends a batch: each event is accepted or refused by itself.
pub(crate) async fn accept(indexer: &Indexer, name: &CollectionName, events: Vec<Bytes>) -> Result<Accepted, Status> {
    let handle = indexer
        .ensure(name, &Settings::default())
        .await
        .map_err(|error| status_of_read(&error))?;
    let settings = settings_for_events(indexer, name, &handle).await?;
    let judging = Judging {
        name,
        settings: &settings,
        now: Timestamp(indexer.deps().clock.now_ns()),
        erased: handle.erased(),
    };
    let mut result = Accepted::default();
    let mut batch: Vec<NewEvent> = Vec::new();
    let mut bytes = 0;
    let mut index = 0;
    for payload in events {
        let parts = match split(&payload) {
            Ok(parts) => parts.into_iter().map(|part| payload.slice_ref(part)).collect(),
            Err(refused) => {
                result.rejections.push((index, refused));
                index += 1;
                continue;
            }
        };
        let parts: Vec<Bytes> = parts;
        for part in parts {
            match check(&part, &judging) {
                Ok(()) => {
                    bytes += part.len();
                    batch.push(NewEvent { payload: part });
                }
                Err(refused) => result.rejections.push((index, refused)),
            }
            index += 1;
            if bytes >= APPEND_BYTES || batch.len() >= verdigris_bus::APPEND_EVENTS_MAX {
                append(indexer, name, std::mem::take(&mut batch), &mut result).await?;
                bytes = 0;
            }
        }
    }
    append(indexer, name, batch, &mut result).await?;
    Ok(result)
}

/// What an event is judged by before it is accepted.
struct Judging<'a> {
    name: &'a CollectionName,
    settings: &'a Settings,
    now: Timestamp,
    erased: Arc<BTreeSet<String>>,
}

/// An event that is ahead of its time is accepted and set aside by the indexer, which judges it by its accept time.
fn check(payload: &[u8], judging: &Judging<'_>) -> Result<(), Refused> {
    let context = judge_context(judging.name, judging.settings, judging.now);
    match Event::parse(payload)?.judge(&context) {
        Ok(judged) if judging.erased.contains(judged.id().as_str()) => Err(Refused::Erased),
        Ok(_) | Err(Refused::AheadOfTime { .. }) => Ok(()),
        Err(refused) => Err(refused),
    }
}

async fn append(
    indexer: &Indexer,
    name: &CollectionName,
    batch: Vec<NewEvent>,
    result: &mut Accepted,
) -> Result<(), Status> {
    if batch.is_empty() {
        return Ok(());
    }
    let traces: Vec<Trace> = match traces::is_exporting() {
        true => batch
            .iter()
            .filter_map(|event| traced::named(&event.payload))
            .take(traces::EVENTS_MAX)
            .collect(),
        false => Vec::new(),
    };
    let events = batch.len() as u64;
    let appended = indexer
        .deps()
        .bus
        .append(name, batch)
        .await
        .map_err(|error| status_of_bus(&error))?;
    if let Some(handle) = indexer.handle(name) {
        handle.traced.accepted(appended.first, appended.last);
    }
    for trace in traces {
        trace.accepted(name.as_str());
    }
    // Not by the sequences: other collections may have some in between.
    result.accepted += events;
    result.first = result.first.or(Some(appended.stream.position(appended.first)));
    result.last = Some(appended.stream.position(appended.last));
    Ok(())
}

/// The settings that events are judged by: where the store is away, those that were read last. The bus is what makes an
/// event durable, and the indexer judges it again.
async fn settings_for_events(
    indexer: &Indexer,
    name: &CollectionName,
    handle: &Handle,
) -> Result<Arc<Settings>, Status> {
    let (last, read) = (handle.last_settings(), settings_of(indexer, name));
    let read = match last {
        None => read.await,
        Some(last) => match tokio::time::timeout(STORE_PATIENCE, read).await {
            Err(_) => return Ok(last),
            Ok(Err(status)) if is_away(&status) => return Ok(last),
            Ok(read) => read,
        },
    };
    let settings = Arc::new(read?);
    handle.note_settings(settings.clone());
    Ok(settings)
}

fn is_away(status: &Status) -> bool {
    reason_of(status).as_deref() == Some(Reason::StoreUnavailable.as_str())
}

/// The settings of a collection.
pub(crate) async fn settings_of(indexer: &Indexer, name: &CollectionName) -> Result<Settings, Status> {
    let store = &*indexer.deps().store;
    let pointer = objects::pointer(store, name)
        .await
        .map_err(|error| status_of_read(&error))?
        .pointer;
    if pointer.deleted_at.is_some() {
        let message = format!("collection {name} was deleted; its name is free again some minutes after that");
        return Err(Reason::CollectionDeleted.status(message));
    }
    objects::settings(store, name, &pointer.settings)
        .await
        .map_err(|error| status_of_read(&error))
}

/// A collection's name, or why it is none.
pub(crate) fn name_of(text: &str) -> Result<CollectionName, Status> {
    text.parse()
        .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))
}

/// The status for an object that cannot be used.
pub(crate) fn status_of_read(error: &ReadError) -> Status {
    reason_of_read(error).status(chain(error))
}

/// The status for a bus that does not take events.
pub(crate) fn status_of_bus(error: &BusError) -> Status {
    let reason = match error {
        BusError::Full { .. } | BusError::Nats(NatsError::Full { .. }) => Reason::DiskFull,
        BusError::ReadOnly { .. } => Reason::ReadOnly,
        BusError::PayloadTooLarge { .. }
        | BusError::AppendTooLarge { .. }
        | BusError::TooManyEvents { .. }
        | BusError::Nats(NatsError::PayloadTooLarge { .. }) => Reason::TooLarge,
        _ => Reason::StoreUnavailable,
    };
    reason.status(chain(error))
}

pub(crate) fn status_of_standstill(standstill: &Standstill) -> Status {
    standstill.reason.status(standstill.message.clone())
}

fn shown(position: Option<Position>) -> String {
    position.map(|position| position.to_string()).unwrap_or_default()
}

fn rejection((index, refused): &(u64, Refused)) -> Rejection {
    Rejection {
        index: *index,
        reason: refused.reason().to_owned(),
        message: refused.to_string(),
    }
}

#[tonic::async_trait]
impl IngestService for IngestRpc {
    async fn ingest(&self, request: Request<IngestRequest>) -> Result<Response<IngestResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let accepted = accept(&self.indexer, &name, request.events).await?;
        Ok(Response::new(IngestResponse {
            accepted: accepted.accepted,
            first_position: shown(accepted.first),
            last_position: shown(accepted.last),
            rejections: accepted.rejections.iter().map(rejection).collect(),
        }))
    }

    async fn ingest_stream(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<IngestStreamResponse>, Status> {
        let mut stream = request.into_inner();
        let mut answer = IngestStreamResponse::default();
        let mut index = 0;
        while let Some(request) = stream.message().await? {
            let name = name_of(&request.collection)?;
            let accepted = accept(&self.indexer, &name, request.events).await?;
            let seen = accepted.accepted + accepted.rejections.len() as u64;
            answer.accepted += accepted.accepted;
            answer.rejected += accepted.rejections.len() as u64;
            if answer.first_position.is_empty() {
                answer.first_position = shown(accepted.first);
            }
            if accepted.last.is_some() {
                answer.last_position = shown(accepted.last);
            }
            let room = REJECTIONS_MAX.saturating_sub(answer.rejections.len());
            answer.rejections.extend(
                accepted
                    .rejections
                    .iter()
                    .take(room)
                    .map(|(at, refused)| rejection(&(index + at, refused.clone()))),
            );
            index += seen;
        }
        Ok(Response::new(answer))
    }

    async fn get_progress(
        &self,
        request: Request<GetProgressRequest>,
    ) -> Result<Response<GetProgressResponse>, Status> {
        let limit = Deadline::remaining(request.extensions()).unwrap_or(WAIT_MAX);
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let Some(handle) = self.indexer.handle(&name) else {
            return Err(Reason::CollectionNotFound.status(format!("collection {name} does not exist")));
        };
        let stream = self
            .indexer
            .deps()
            .bus
            .open(&name)
            .await
            .map_err(|error| status_of_bus(&error))?;
        let from = sequence(stream, "from_position", &request.from_position)?;
        let to = sequence(stream, "to_position", &request.to_position)?;
        if request.wait {
            let wait =
                tokio::time::timeout(limit, wait_until(&handle, to.unwrap_or(0), self.indexer.tasks.token())).await;
            wait.unwrap_or_else(|_| {
                let message = format!("no release held position {} before the deadline", request.to_position);
                Err(Reason::PositionNotReached.status(message))
            })?;
        }
        let published = handle.progress.published();
        let fits = !handle.status.standstill().is_some_and(|why| why.is_misfit());
        let counts = match (from, to) {
            (Some(from), Some(to)) => handle.progress.counts(from, to),
            _ => OutcomeCounts::default(),
        };
        let (embedding_done, embedding_total) = handle.progress.embedded();
        Ok(Response::new(GetProgressResponse {
            searchable: fits && published.sequence >= to.unwrap_or(0),
            generation: published.generation,
            position: stream.position(published.sequence).to_string(),
            applied: counts.applied,
            unchanged: counts.unchanged,
            stale: counts.stale,
            set_aside: counts.set_aside,
            embedding_done,
            embedding_total,
        }))
    }
}

fn sequence(stream: StreamIdentity, field: &str, text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let position: Result<Position, _> = text.parse();
    let sequence = position.and_then(|position| stream.sequence_of(position));
    sequence
        .map(Some)
        .map_err(|error| Reason::InvalidPosition.status_for_field(field, error.to_string()))
}

/// Waits until a release holds the event; fails at once where publishing stands still. The deadline is the caller's.
async fn wait_until(handle: &Handle, sequence: u64, stopping: CancellationToken) -> Result<(), Status> {
    /// How soon a standstill that begins while somebody waits is told.
    const LOOK: Duration = Duration::from_millis(100);
    let mut published = handle.progress.watch();
    loop {
        let reached = published.borrow_and_update().sequence >= sequence;
        match handle.status.standstill() {
            // What was published was read from another log, whose positions say nothing of this one.
            Some(standstill) if !reached || standstill.is_misfit() => return Err(status_of_standstill(&standstill)),
            _ if reached => return Ok(()),
            _ => {}
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() {
                return Err(Reason::ShuttingDown.status("the server is shutting down"));
            },
            () = stopping.cancelled() => return Err(Reason::ShuttingDown.status("the server is shutting down")),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
