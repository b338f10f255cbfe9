//! What people ask of an indexer: collections, settings, releases, dead letters, resync, figures.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};
use verdigris_core::dead_letter::DeadLetter as Letter;
use verdigris_core::event::AHEAD_NS_MAX;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::Pointer;
use verdigris_core::position::Position;
use verdigris_core::rejection::Rejection;
use verdigris_core::resync::FeedMoment;
use verdigris_core::revision::{Revision, RevisionKind};
use verdigris_core::settings::Settings as CollectionSettings;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::admin::admin_service_server::AdminService;
use verdigris_proto::admin::*;
use verdigris_proto::reason::Reason;
use verdigris_store::{collection as objects, commit};

use crate::error::{IndexerError, chain, reason_of_store};
use crate::ingest::{accept, name_of, settings_of, status_of_bus, status_of_read};
use crate::resync::Resync;
use crate::shown::{parsed_settings, position_of, replayed, shown_letter, status_of_commit};
use crate::{Command, Indexer};

/// Dead letters of one page.
const PAGE_LETTERS: (u32, u32) = (100, 1_000);

/// The gRPC service.
pub struct AdminRpc {
    pub(crate) indexer: Arc<Indexer>,
}

impl AdminRpc {
    /// The service over an indexer.
    pub fn new(indexer: Arc<Indexer>) -> Self {
        Self { indexer }
    }

    pub(crate) async fn pointer(&self, name: &CollectionName) -> Result<Pointer, Status> {
        let seen = objects::pointer(&*self.indexer.deps().store, name).await;
        let pointer = seen.map_err(|error| status_of_read(&error))?.pointer;
        if pointer.deleted_at.is_some() {
            return Err(Reason::CollectionNotFound.status(format!("collection {name} was deleted")));
        }
        Ok(pointer)
    }

    async fn collection(&self, name: &CollectionName) -> Result<Collection, Status> {
        let pointer = self.pointer(name).await?;
        let mut shown = Collection {
            name: name.to_string(),
            generation: pointer.generation,
            settings_version: pointer.settings.version,
            ..Collection::default()
        };
        if let Some(active) = &pointer.active {
            let manifest = objects::manifest(&*self.indexer.deps().store, name, &active.manifest).await;
            let manifest = manifest.map_err(|error| status_of_read(&error))?;
            shown.documents = manifest.documents;
            shown.segments = manifest.segments.len() as u64;
            shown.bytes = manifest.bytes();
            shown.position = position_of(&manifest);
            shown.published_at = manifest.created_at.to_string();
        }
        if let Some(standstill) = self.indexer.handle(name).and_then(|handle| handle.status.standstill()) {
            shown.standstill_reason = standstill.reason.as_str().to_owned();
            shown.standstill_message = standstill.message;
        }
        Ok(shown)
    }

    /// Has a collection's indexer do something, and waits until it is done.
    pub(crate) async fn tell<T>(
        &self,
        name: &CollectionName,
        command: Command,
        ended: oneshot::Receiver<Result<T, IndexerError>>,
    ) -> Result<T, Status> {
        let Some(handle) = self.indexer.handle(name) else {
            return Err(Reason::CollectionNotFound.status(format!("collection {name} does not exist")));
        };
        handle.send(command).await;
        match ended.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(error.standstill().reason.status(chain(&error))),
            Err(_) => Err(Reason::ShuttingDown.status("the indexer ended before it had done this")),
        }
    }

    async fn append_one(&self, name: &CollectionName, payload: Bytes) -> Result<Position, Status> {
        let accepted = accept(&self.indexer, name, vec![payload]).await?;
        match (accepted.last, accepted.rejections.first()) {
            (Some(position), _) => Ok(position),
            (None, Some((_, refused @ Rejection::Erased))) => Err(Reason::Erased.status(refused.to_string())),
            (None, Some((_, refused))) => {
                Err(Reason::InvalidArgument.status(format!("{}: {refused}", refused.reason())))
            }
            (None, None) => Err(Reason::InvalidArgument.status("there is no event in it")),
        }
    }
}

/// A text that must not be empty.
pub(crate) fn given(field: &str, text: String, why: &str) -> Result<String, Status> {
    if text.trim().is_empty() {
        return Err(Reason::InvalidArgument.status_for_field(field, format!("{field} is empty: {why}")));
    }
    Ok(text)
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn list_collections(
        &self,
        _request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        let names = objects::list(&*self.indexer.deps().store).await;
        let names = names.map_err(|error| reason_of_store(&error).status(chain(&error)))?;
        let mut collections = Vec::new();
        for name in names {
            match self.collection(&name).await {
                Ok(collection) => collections.push(collection),
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        Ok(Response::new(ListCollectionsResponse { collections }))
    }

    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<Collection>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.name)?;
        let settings = match request.settings_json.as_str() {
            "" => CollectionSettings::default(),
            json => parsed_settings(json)?,
        };
        if self.indexer.handle(&name).is_some() {
            self.pointer(&name).await.map_err(|_| {
                Reason::CollectionDeleted.status(format!("collection {name} was deleted; its name is not free yet"))
            })?;
            return Err(Reason::CollectionExists.status(format!("collection {name} exists already")));
        }
        self.indexer
            .ensure(&name, &settings)
            .await
            .map_err(|error| status_of_read(&error))?;
        Ok(Response::new(self.collection(&name).await?))
    }

    async fn get_collection(&self, request: Request<GetCollectionRequest>) -> Result<Response<Collection>, Status> {
        let name = name_of(&request.into_inner().name)?;
        Ok(Response::new(self.collection(&name).await?))
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Result<Response<DeleteCollectionResponse>, Status> {
        let name = name_of(&request.into_inner().name)?;
        self.pointer(&name).await?;
        let (nonce, now) = (commit::nonce(), Timestamp(self.indexer.deps().clock.now_ns()));
        let swung = commit::swing(&*self.indexer.deps().store, &name, nonce.clone(), |p| {
            p.delete(nonce.clone(), now)
        })
        .await;
        swung.map_err(|error| status_of_commit(&error))?;
        if let Some(handle) = self.indexer.handle(&name) {
            handle.send(Command::Refresh).await;
        }
        Ok(Response::new(DeleteCollectionResponse {}))
    }

    async fn get_settings(&self, request: Request<GetSettingsRequest>) -> Result<Response<Settings>, Status> {
        self.shown_settings(request).await
    }

    async fn update_settings(&self, request: Request<UpdateSettingsRequest>) -> Result<Response<Settings>, Status> {
        self.changed_settings(request).await
    }

    async fn list_releases(
        &self,
        request: Request<ListReleasesRequest>,
    ) -> Result<Response<ListReleasesResponse>, Status> {
        self.listed_releases(request).await
    }

    async fn get_release(&self, request: Request<GetReleaseRequest>) -> Result<Response<Release>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let (manifest, pointer, pinned) = self.manifest(&name, request.generation).await?;
        let mut release = self.release(&manifest, &pointer, pinned).await;
        release.manifest_json = String::from_utf8_lossy(&manifest.encode()).into_owned();
        Ok(Response::new(release))
    }

    async fn verify_release(
        &self,
        request: Request<VerifyReleaseRequest>,
    ) -> Result<Response<VerifyReleaseResponse>, Status> {
        self.verified_release(request).await
    }

    async fn roll_back_release(&self, request: Request<RollBackReleaseRequest>) -> Result<Response<Release>, Status> {
        self.roll_back(request).await
    }

    async fn resume_publishing(
        &self,
        request: Request<ResumePublishingRequest>,
    ) -> Result<Response<ResumePublishingResponse>, Status> {
        self.resume(request).await
    }

    async fn pin_release(&self, request: Request<PinReleaseRequest>) -> Result<Response<Release>, Status> {
        self.pin(request).await
    }

    async fn diff_releases(
        &self,
        request: Request<DiffReleasesRequest>,
    ) -> Result<Response<DiffReleasesResponse>, Status> {
        self.diff(request).await
    }

    async fn explain_document(
        &self,
        request: Request<ExplainDocumentRequest>,
    ) -> Result<Response<ExplainDocumentResponse>, Status> {
        self.explain(request).await
    }

    async fn rebuild(&self, request: Request<RebuildRequest>) -> Result<Response<RebuildResponse>, Status> {
        self.begin_rebuild(request).await
    }

    async fn get_rebuild(&self, request: Request<GetRebuildRequest>) -> Result<Response<GetRebuildResponse>, Status> {
        self.shown_rebuild(request).await
    }

    async fn erase_documents(
        &self,
        request: Request<EraseDocumentsRequest>,
    ) -> Result<Response<EraseDocumentsResponse>, Status> {
        self.erase(request).await
    }

    async fn get_erasure(&self, request: Request<GetErasureRequest>) -> Result<Response<GetErasureResponse>, Status> {
        self.erasure(request).await
    }

    async fn get_staged_release(
        &self,
        request: Request<GetStagedReleaseRequest>,
    ) -> Result<Response<StagedRelease>, Status> {
        self.staged_release(request).await
    }

    async fn accept_staged_release(
        &self,
        request: Request<AcceptStagedReleaseRequest>,
    ) -> Result<Response<Release>, Status> {
        self.accept(request).await
    }

    async fn retry_staged_release(
        &self,
        request: Request<RetryStagedReleaseRequest>,
    ) -> Result<Response<RetryStagedReleaseResponse>, Status> {
        self.retry(request).await
    }

    async fn reject_staged_release(
        &self,
        request: Request<RejectStagedReleaseRequest>,
    ) -> Result<Response<RejectStagedReleaseResponse>, Status> {
        self.reject(request).await
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let letters = self.letters(&name).await?;
        let size = if request.page_size == 0 {
            PAGE_LETTERS.0
        } else {
            request.page_size.min(PAGE_LETTERS.1)
        } as usize;
        let after = letters
            .iter()
            .position(|letter| letter.position.to_string() == request.page_token);
        let start = match (request.page_token.is_empty(), after) {
            (true, _) => 0,
            (false, Some(at)) => at + 1,
            (false, None) => {
                return Err(Reason::InvalidPageToken
                    .status_for_field("page_token", "this letter is not there any more; list from the start"));
            }
        };
        let page: Vec<&Letter> = letters.iter().skip(start).take(size).collect();
        let more = start + page.len() < letters.len();
        let next_page_token = page
            .last()
            .filter(|_| more)
            .map(|letter| letter.position.to_string())
            .unwrap_or_default();
        let dead_letters = page
            .into_iter()
            .map(|letter| shown_letter(letter, Vec::new()))
            .collect();
        Ok(Response::new(ListDeadLettersResponse {
            dead_letters,
            next_page_token,
        }))
    }

    async fn get_dead_letter(&self, request: Request<GetDeadLetterRequest>) -> Result<Response<DeadLetter>, Status> {
        let request = request.into_inner();
        let letter = self.letter(&name_of(&request.collection)?, &request.position).await?;
        Ok(Response::new(shown_letter(&letter, letter.payload_bytes())))
    }

    async fn edit_dead_letter(
        &self,
        request: Request<EditDeadLetterRequest>,
    ) -> Result<Response<EditDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        self.letter(&name, &request.position).await?;
        let position = self.append_one(&name, request.event).await?;
        self.remove(&name, vec![request.position]).await?;
        Ok(Response::new(EditDeadLetterResponse {
            position: position.to_string(),
        }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<ReplayDeadLettersRequest>,
    ) -> Result<Response<ReplayDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let kind = settings_of(&self.indexer, &name).await?.revision;
        let mut answer = ReplayDeadLettersResponse::default();
        for position in request.positions {
            let letter = self.letter(&name, &position).await?;
            if letter.reason == Rejection::Erased.reason() {
                return Err(Reason::Erased.status(letter.message));
            }
            let payload = replayed(&letter, kind);
            let appended = self.append_one(&name, payload).await?;
            self.remove(&name, vec![position]).await?;
            answer.replayed += 1;
            if answer.first_position.is_empty() {
                answer.first_position = appended.to_string();
            }
            answer.last_position = appended.to_string();
        }
        Ok(Response::new(answer))
    }

    async fn drop_dead_letters(
        &self,
        request: Request<DropDeadLettersRequest>,
    ) -> Result<Response<DropDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        for position in &request.positions {
            self.letter(&name, position).await?;
        }
        let dropped = self.remove(&name, request.positions).await?;
        Ok(Response::new(DropDeadLettersResponse { dropped }))
    }

    async fn resync(&self, request: Request<Streaming<ResyncRequest>>) -> Result<Response<ResyncResponse>, Status> {
        let mut stream = request.into_inner();
        let Some(first) = stream.message().await? else {
            return Err(
                Reason::InvalidArgument.status("the feed is empty: a resync from nothing would delete everything")
            );
        };
        let name = name_of(&first.collection)?;
        let settings = settings_of(&self.indexer, &name).await?;
        let revision = match settings.revision {
            RevisionKind::EventTime if first.feed_time.is_empty() => self.indexer.deps().clock.now_ns(),
            RevisionKind::EventTime => {
                let time = Timestamp::parse(&first.feed_time);
                time.map_err(|error| Reason::InvalidArgument.status_for_field("feed_time", error.to_string()))?
                    .0
            }
            RevisionKind::Number => first.feed_revision.ok_or_else(|| {
                Reason::InvalidArgument.status_for_field(
                    "feed_revision",
                    "this collection numbers its revisions: give the feed's",
                )
            })?,
        };
        if settings.revision == RevisionKind::EventTime && revision > self.indexer.deps().clock.now_ns() + AHEAD_NS_MAX
        {
            let message = "the feed's time is more than five minutes ahead of now: its events would all be set aside";
            return Err(Reason::InvalidArgument.status_for_field("feed_time", message));
        }
        let moment = FeedMoment {
            kind: settings.revision,
            revision: Revision(revision),
        };
        let mut resync = Resync::begin(self.indexer.clone(), name, moment).await?;
        let mut message = first;
        loop {
            resync.documents(message.documents).await?;
            if message.complete {
                return Ok(Response::new(resync.finish().await?));
            }
            // A caller that went away can look like the end of its stream.
            message = stream.message().await?.ok_or_else(|| {
                Reason::InvalidArgument.status_for_field(
                    "complete",
                    "the feed ended without its last message, which says that it is whole: nothing was deleted",
                )
            })?;
        }
    }

    async fn get_indexer_stats(
        &self,
        request: Request<GetIndexerStatsRequest>,
    ) -> Result<Response<GetIndexerStatsResponse>, Status> {
        let name = name_of(&request.into_inner().collection)?;
        let pointer = self.pointer(&name).await?;
        let deps = self.indexer.deps();
        let mut answer = GetIndexerStatsResponse::default();
        let mut read_up_to = 0;
        if let Some(active) = &pointer.active {
            let manifest = objects::manifest(&*deps.store, &name, &active.manifest).await;
            let manifest = manifest.map_err(|error| status_of_read(&error))?;
            let stats = manifest.stats;
            answer.applied = stats.applied;
            answer.unchanged = stats.unchanged;
            answer.stale = stats.stale;
            answer.set_aside = stats.set_aside;
            answer.embedded = stats.embedded;
            answer.vectors_kept = stats.vectors_kept;
            answer.bytes_published = stats.bytes_published;
            answer.bytes_merged = stats.bytes_merged;
            answer.bytes_rebuilt = stats.bytes_rebuilt;
            answer.segments = manifest.segments.len() as u64;
            answer.dead_rows = manifest
                .segments
                .iter()
                .map(|s| u64::from(s.rows - s.live) + u64::from(s.ghosts - s.live_ghosts))
                .sum();
            read_up_to = manifest.checkpoint.sequence;
        }
        deps.bus.open(&name).await.map_err(|error| status_of_bus(&error))?;
        let unread = deps.bus.unread(&name, read_up_to).await;
        answer.unread_events = unread.map_err(|error| status_of_bus(&error))?;
        let oldest = deps
            .bus
            .oldest_after(&name, read_up_to)
            .await
            .map_err(|error| status_of_bus(&error))?;
        answer.oldest_unread_seconds = oldest.map_or(0.0, |at| (deps.clock.now_ns() - at).max(0) as f64 / 1e9);
        if let Some(standstill) = self.indexer.handle(&name).and_then(|handle| handle.status.standstill()) {
            answer.standstill_reason = standstill.reason.as_str().to_owned();
            answer.standstill_message = standstill.message;
        }
        Ok(Response::new(answer))
    }
}
