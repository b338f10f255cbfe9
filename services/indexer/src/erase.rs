//! Asking for an erase, and what is left of erased documents: looked for in what the pointer names, not remembered.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;
use tonic::{Code, Request, Response, Status};
use verdigris_bus::{BusEvent, ReadLimits};
use verdigris_core::erasure::{ERASED_AT_ONCE_MAX, Erasure as Entry, is_about};
use verdigris_core::event::claimed_id;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::SegmentId;
use verdigris_core::names::{CollectionName, DocumentId};
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_core::position::StreamIdentity;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::admin::*;
use verdigris_proto::reason::Reason;
use verdigris_store::{ReadError, collection as objects};

use crate::Command;
use crate::admin::{AdminRpc, given};
use crate::error::{IndexerError, chain};
use crate::holders::open_some;
use crate::ingest::{name_of, settings_of, status_of_bus, status_of_read};
use crate::looking::LOOKED_THROUGH;

/// Erased documents that are told: by default, and at most.
const TOLD: (u32, u32) = (100, 1_000);
/// Events of one read.
const READ: ReadLimits = ReadLimits {
    events: 10_000,
    bytes: 64 << 20,
};

/// A wish for an erase.
pub(crate) struct Wish {
    pub(crate) ids: Vec<String>,
    /// Who asks.
    pub(crate) actor: String,
    /// Why, in that person's words.
    pub(crate) words: String,
    /// Told when they are hidden: how many were not erased before.
    pub(crate) done: oneshot::Sender<Result<u64, IndexerError>>,
}

/// What holds rows of some documents.
#[derive(Default)]
struct Left {
    /// Of each segment, the documents of which its files hold a row.
    segments: BTreeMap<SegmentId, BTreeSet<String>>,
}

impl AdminRpc {
    pub(crate) async fn erase(
        &self,
        request: Request<EraseDocumentsRequest>,
    ) -> Result<Response<EraseDocumentsResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        self.pointer(&name).await?;
        let actor = given("actor", request.actor, "say who asks")?;
        let words = given("reason", request.reason, "say why, for those who ask later")?;
        let wrong = |message: String| Reason::InvalidArgument.status_for_field("ids", message);
        if request.ids.is_empty() || request.ids.len() > ERASED_AT_ONCE_MAX {
            return Err(wrong(format!("give 1 to {ERASED_AT_ONCE_MAX} ids")));
        }
        for id in &request.ids {
            id.parse::<DocumentId>()
                .map_err(|error| wrong(format!("{id:?}: {error}")))?;
        }
        let ids: BTreeSet<String> = request.ids.into_iter().collect();
        let asked = ids.len() as u64;
        let (done, ended) = oneshot::channel();
        let wish = Wish {
            ids: ids.into_iter().collect(),
            actor,
            words,
            done,
        };
        let hidden = self.tell(&name, Command::Erase(wish), ended).await?;
        let waits = if self.pointer(&name).await?.erased.is_some_and(|erased| erased.removed) {
            String::new()
        } else {
            self.waits(&name)
        };
        Ok(Response::new(EraseDocumentsResponse {
            hidden,
            already: asked - hidden,
            waits,
        }))
    }

    /// Why nothing is published, and so nothing removed.
    fn waits(&self, name: &CollectionName) -> String {
        let standstill = self.indexer.handle(name).and_then(|handle| handle.status.standstill());
        standstill.map(|standstill| standstill.message).unwrap_or_default()
    }

    pub(crate) async fn erasure(
        &self,
        request: Request<GetErasureRequest>,
    ) -> Result<Response<GetErasureResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let pointer = self.pointer(&name).await?;
        let Some(erased) = &pointer.erased else {
            return Ok(Response::new(GetErasureResponse {
                removed: true,
                ..GetErasureResponse::default()
            }));
        };
        let list = objects::erased_list(&*self.indexer.deps().store, &name, &erased.list).await;
        let list = list.map_err(|error| status_of_read(&error))?;
        let limit = match request.limit {
            0 => TOLD.0,
            limit => limit.min(TOLD.1),
        } as usize;
        let asked: BTreeSet<&String> = request.ids.iter().collect();
        let meant = |entry: &&Entry| asked.is_empty() || asked.contains(&entry.id);
        let entries: Vec<&Entry> = list.erasures.iter().rev().filter(meant).take(limit).collect();
        let ids: BTreeSet<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let mut erasures: BTreeMap<String, Erasure> = BTreeMap::new();
        for entry in &entries {
            erasures.insert(entry.id.clone(), shown(entry));
        }
        self.tell_files(&name, &pointer, &ids, &mut erasures).await?;
        for letter in self.letters(&name).await? {
            let payload = letter.payload_bytes();
            let about = match claimed_id(&payload) {
                Some(id) => Vec::from([id]),
                None => ids
                    .iter()
                    .filter(|id| is_about(&payload, &BTreeSet::from([(*id).clone()])))
                    .cloned()
                    .collect(),
            };
            for id in about {
                let erasure = erasures.get_mut(&id);
                erasure.into_iter().for_each(|erasure| erasure.dead_letters += 1);
            }
        }
        let looked_through = self.tell_events(&name, &mut erasures).await?;
        let settings = settings_of(&self.indexer, &name).await?;
        let told = entries.iter().filter_map(|entry| erasures.remove(&entry.id));
        Ok(Response::new(GetErasureResponse {
            erasures: told.collect(),
            total: list.erasures.len() as u64,
            removed: erased.removed,
            waits: if erased.removed {
                String::new()
            } else {
                self.waits(&name)
            },
            looked_through,
            bus_days: settings.bus.days,
        }))
    }

    /// Segments, kept releases and files that wait.
    async fn tell_files(
        &self,
        name: &CollectionName,
        pointer: &Pointer,
        ids: &BTreeSet<String>,
        erasures: &mut BTreeMap<String, Erasure>,
    ) -> Result<(), Status> {
        let mut left = Left::default();
        let lineages = [&pointer.active, &pointer.other].into_iter().flatten();
        let lineages = lineages.map(|lineage| &lineage.manifest);
        for manifest in lineages.chain(pointer.builds.iter().map(|build| &build.source)) {
            for (segment, of) in self.holding(name, manifest, ids, &mut left).await? {
                for id in of {
                    let segments = erasures.get_mut(&id).map(|erasure| &mut erasure.segments);
                    segments
                        .into_iter()
                        .filter(|segments| !segments.contains(&segment.to_string()))
                        .for_each(|segments| segments.push(segment.to_string()));
                }
            }
        }
        for kept in &pointer.kept {
            let held = match self.holding(name, &kept.manifest, ids, &mut left).await {
                Ok(held) => held.into_values().flatten().collect(),
                // What cannot be looked into is taken to hold them, and dropped.
                Err(status) if status.code() == Code::DataLoss => ids.clone(),
                Err(status) => return Err(status),
            };
            for id in held {
                let erasure = erasures.get_mut(&id);
                erasure
                    .into_iter()
                    .for_each(|erasure| erasure.releases.push(kept.generation));
            }
        }
        let now = Timestamp(self.indexer.deps().clock.now_ns());
        let waiting = pointer
            .unnamed
            .iter()
            .filter(|unnamed| now.since(unnamed.since) < GRACE_NS);
        for unnamed in waiting {
            // What cannot be looked into any more is on its way out.
            let held = self
                .holding(name, &unnamed.manifest, ids, &mut left)
                .await
                .unwrap_or_default();
            let until = Timestamp(unnamed.since.0 + GRACE_NS).to_string();
            for id in held.into_values().flatten() {
                let erasure = erasures.get_mut(&id);
                erasure
                    .into_iter()
                    .filter(|erasure| erasure.files_until < until)
                    .for_each(|erasure| erasure.files_until.clone_from(&until));
            }
        }
        Ok(())
    }

    /// The segments of a manifest that hold rows of documents, and of which.
    async fn holding(
        &self,
        name: &CollectionName,
        reference: &ManifestReference,
        ids: &BTreeSet<String>,
        left: &mut Left,
    ) -> Result<BTreeMap<SegmentId, BTreeSet<String>>, Status> {
        let deps = self.indexer.deps();
        let manifest = objects::manifest(&*deps.store, name, reference).await;
        let manifest = manifest.map_err(|error| match &error {
            // What is named and is not there is damaged, not away for a while.
            ReadError::Store(missing) if missing.is_not_found() => Reason::DataDamaged.status(chain(&error)),
            _ => status_of_read(&error),
        })?;
        let unknown = |id: &SegmentId| !left.segments.contains_key(id);
        let opened = open_some(&*deps.opener, &manifest, unknown).await;
        let opened = opened.map_err(|error| {
            let error = IndexerError::Open(error);
            error.standstill().reason.status(chain(&error))
        })?;
        let ids = ids.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let of = |part: &verdigris_engine::release::ReleaseSegment| {
                let held = ids.iter().filter(|id| !part.segment.rows().find(id).is_empty());
                (part.segment.id().clone(), held.cloned().collect())
            };
            opened
                .segments()
                .iter()
                .map(of)
                .collect::<Vec<(SegmentId, BTreeSet<String>)>>()
        });
        left.segments.extend(
            looked
                .await
                .map_err(|error| Reason::Internal.status(error.to_string()))?,
        );
        let segments = manifest.segments.iter().map(|segment| &segment.id);
        let held = segments.filter_map(|id| Some((id.clone(), left.segments.get(id)?.clone())));
        Ok(held.filter(|(_, ids)| !ids.is_empty()).collect())
    }

    /// Events at the end of the log; how many were looked through.
    async fn tell_events(
        &self,
        name: &CollectionName,
        erasures: &mut BTreeMap<String, Erasure>,
    ) -> Result<u64, Status> {
        let bus = &self.indexer.deps().bus;
        let stream = bus.open(name).await.map_err(|error| status_of_bus(&error))?;
        let state = bus.state(name).await.map_err(|error| status_of_bus(&error))?;
        let begin = state
            .last
            .saturating_sub(LOOKED_THROUGH)
            .max(state.first_kept.saturating_sub(1));
        let mut after = begin;
        while after < state.last {
            let read = bus.read(name, after, READ).await;
            let read = read.map_err(|error| status_of_bus(&error))?;
            let Some(last) = read.last() else { break };
            after = last.sequence;
            for event in &read {
                let erasure = claimed_id(&event.payload).and_then(|id| erasures.get_mut(&id));
                erasure.into_iter().for_each(|erasure| count(erasure, event, stream));
            }
        }
        Ok(state.last.saturating_sub(begin))
    }
}

fn shown(entry: &Entry) -> Erasure {
    Erasure {
        id: entry.id.clone(),
        actor: entry.actor.clone(),
        reason: entry.reason.clone(),
        hidden_since: entry.at.to_string(),
        ..Erasure::default()
    }
}

fn count(erasure: &mut Erasure, event: &BusEvent, stream: StreamIdentity) {
    let position = stream.position(event.sequence).to_string();
    if erasure.events == 0 {
        erasure.first_position.clone_from(&position);
    }
    erasure.last_position = position;
    erasure.events += 1;
}
