//! The gRPC service of the search role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status};
use verdigris_core::names::CollectionName;
use verdigris_core::position::Position;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{
    BatchSearchRequest, BatchSearchResponse, GetDocumentRequest, GetDocumentResponse, GetServingStatsRequest,
    GetServingStatsResponse, SearchRequest, SearchResponse, Timings,
};
use verdigris_runtime::deadline::Deadline;

use crate::Search;
use crate::answer::{document_json, release_info, status_of_engine, status_of_not_served};
use crate::follow::{Followed, NotServed, Served};
use crate::query::{self, check};

/// How long a read waits for its position when its caller gives no deadline.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Searches of one batch.
const BATCH_MAX: usize = 100;

/// The gRPC service.
pub struct SearchRpc {
    search: Arc<Search>,
}

impl SearchRpc {
    /// The service over the role.
    pub fn new(search: Arc<Search>) -> Self {
        Self { search }
    }

    async fn followed(&self, collection: &str) -> Result<Arc<Followed>, Status> {
        let name: CollectionName = collection
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        let followed = self.search.collection(&name).await;
        followed.ok_or_else(|| Reason::CollectionNotFound.status(format!("collection {name} does not exist")))
    }

    /// Waits for a release that holds the position: read your writes. Ends a little before the caller's deadline; where
    /// publishing stands still, it fails at once.
    async fn at_least(&self, followed: &Followed, min_position: &str, limit: Option<Duration>) -> Result<(), Status> {
        let wait = self.wait_for(followed, min_position);
        match tokio::time::timeout(limit.unwrap_or(WAIT_MAX), wait).await {
            Ok(result) => result,
            Err(_) => {
                let message = format!("no release held position {min_position} before the deadline");
                Err(Reason::PositionNotReached.status(message))
            }
        }
    }

    async fn wait_for(&self, followed: &Followed, min_position: &str) -> Result<(), Status> {
        /// How soon a standstill that begins while somebody waits is told.
        const LOOK: Duration = Duration::from_millis(100);
        if min_position.is_empty() {
            return Ok(());
        }
        let wrong = |message: String| Reason::InvalidPosition.status_for_field("min_position", message);
        let position: Position = min_position.parse().map_err(|error| wrong(format!("{error}")))?;
        let mut swaps = followed.swaps();
        let stopping = self.search.tasks.token();
        loop {
            let standstill = (self.search.deps.standstill)(&followed.name);
            // A log that does not fit counts anew: its positions say nothing about the release.
            if let Some(misfit) = standstill.filter(|standstill| standstill.reason == Reason::StreamMismatch) {
                return Err(misfit.reason.status(misfit.message));
            }
            if let Ok(served) = followed.served() {
                let checkpoint = &served.release.manifest().checkpoint;
                let sequence = checkpoint
                    .stream
                    .sequence_of(position)
                    .map_err(|error| wrong(error.to_string()))?;
                if checkpoint.sequence >= sequence {
                    return Ok(());
                }
            }
            if let Some(standstill) = (self.search.deps.standstill)(&followed.name) {
                return Err(standstill.reason.status(standstill.message));
            }
            tokio::select! {
                changed = swaps.changed() => if changed.is_err() {
                    return Err(Reason::ShuttingDown.status("the server is shutting down"));
                },
                () = stopping.cancelled() => return Err(Reason::ShuttingDown.status("the server is shutting down")),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn answer(&self, request: Request<SearchRequest>) -> Result<SearchResponse, Status> {
        let began = Instant::now();
        let limit = Deadline::remaining(request.extensions());
        let request = request.into_inner();
        let followed = self.followed(&request.collection).await?;
        let min_position = request.min_position.clone();
        let checked = check(request)?;
        self.at_least(&followed, &min_position, limit).await?;
        let waited = began.elapsed();
        let served = match checked.generation {
            None => followed.served(),
            Some(generation) => Ok(followed.paged(generation).ok_or_else(|| {
                Reason::ReleaseGone.status(format!(
                    "release {generation} is not open any more: search again from the first page"
                ))
            })?),
        };
        let served = match served {
            Err(NotServed::Empty) => {
                return Ok(SearchResponse {
                    timings: Some(Timings::default()),
                    ..SearchResponse::default()
                });
            }
            Err(why) => return Err(status_of_not_served(&followed.name, &why)),
            Ok(served) => served,
        };
        let mut response = query::search(&self.search, served, checked).await?;
        if let Some(timings) = &mut response.timings {
            timings.wait_micros = waited.as_micros() as u64;
            timings.total_micros = began.elapsed().as_micros() as u64;
        }
        Ok(response)
    }

    fn served(followed: &Followed) -> Result<Option<Arc<Served>>, Status> {
        match followed.served() {
            Ok(served) => Ok(Some(served)),
            Err(NotServed::Empty) => Ok(None),
            Err(why) => Err(status_of_not_served(&followed.name, &why)),
        }
    }
}

#[tonic::async_trait]
impl SearchService for SearchRpc {
    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        self.answer(request).await.map(Response::new)
    }

    async fn batch_search(
        &self,
        request: Request<BatchSearchRequest>,
    ) -> Result<Response<BatchSearchResponse>, Status> {
        let limit = Deadline::remaining(request.extensions());
        let requests = request.into_inner().requests;
        if !(1..=BATCH_MAX).contains(&requests.len()) {
            let message = format!("{} searches in the batch; 1 to {BATCH_MAX} are allowed", requests.len());
            return Err(Reason::InvalidArgument.status_for_field("requests", message));
        }
        let collection = requests[0].collection.clone();
        if requests
            .iter()
            .any(|request| request.collection != collection || !request.page_token.is_empty())
        {
            let message = "all searches of a batch are of one collection, and none goes on from a page";
            return Err(Reason::InvalidArgument.status_for_field("requests", message));
        }
        let followed = self.followed(&collection).await?;
        for request in &requests {
            self.at_least(&followed, &request.min_position, limit).await?;
        }
        let Some(served) = Self::served(&followed)? else {
            let responses = requests.iter().map(|_| SearchResponse::default()).collect();
            return Ok(Response::new(BatchSearchResponse { responses }));
        };
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            responses.push(query::search(&self.search, served.clone(), check(request)?).await?);
        }
        Ok(Response::new(BatchSearchResponse { responses }))
    }

    async fn get_document(
        &self,
        request: Request<GetDocumentRequest>,
    ) -> Result<Response<GetDocumentResponse>, Status> {
        let limit = Deadline::remaining(request.extensions());
        let request = request.into_inner();
        let followed = self.followed(&request.collection).await?;
        self.at_least(&followed, &request.min_position, limit).await?;
        let missing = || Reason::DocumentNotFound.status(format!("document {:?} does not exist", request.id));
        let served = Self::served(&followed)?.ok_or_else(missing)?;
        let release = &served.release;
        let place = release
            .find(&request.id)
            .filter(|place| release.has_vector(*place))
            .ok_or_else(missing)?;
        let (stored, state) = release.state(place).map_err(|error| status_of_engine(&error))?;
        let newest = state
            .newest()
            .map(|stamp| stamp.revision.text(served.settings.revision));
        Ok(Response::new(GetDocumentResponse {
            document_json: document_json(&stored.state, &[])?,
            revision: newest.unwrap_or_default(),
            written_generation: stored.generation,
            release: Some(release_info(release.manifest())),
            id: stored.id,
        }))
    }

    async fn get_serving_stats(
        &self,
        request: Request<GetServingStatsRequest>,
    ) -> Result<Response<GetServingStatsResponse>, Status> {
        let limit = Deadline::remaining(request.extensions());
        let request = request.into_inner();
        let followed = self.followed(&request.collection).await?;
        self.at_least(&followed, &request.min_position, limit).await?;
        let Some(served) = Self::served(&followed)? else {
            return Ok(Response::new(GetServingStatsResponse::default()));
        };
        let manifest = served.release.manifest();
        Ok(Response::new(GetServingStatsResponse {
            release: Some(release_info(manifest)),
            documents: manifest.documents,
            segments: manifest.segments.len() as u64,
            bytes: manifest.bytes(),
            dead_rows: manifest
                .segments
                .iter()
                .map(|segment| u64::from(segment.rows - segment.live))
                .sum(),
            dimension: manifest.dimension,
            embedder: format!("{}/{}", manifest.embedder.provider, manifest.embedder.model),
        }))
    }
}
