//! The gRPC service of the search role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};
use verdigris_core::names::CollectionName;
use verdigris_core::position::Position;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{
    BatchSearchRequest, BatchSearchResponse, GetDocumentRequest, GetDocumentResponse, GetServingStatsRequest,
    GetServingStatsResponse, Lineage, ReleaseInfo, SearchRequest, SearchResponse, Timings,
};
use verdigris_runtime::deadline::Deadline;
use verdigris_runtime::traces::ReleaseName;

use crate::Search;
use crate::answer::{document_json, release_info, status_of_engine, status_of_not_served, status_of_unknown};
use crate::line::Line;
use crate::lineages::{Followed, Lineages, NotServed, Served};
use crate::query::{self, Answer, Checked, check, lineage};
use crate::serving;
use crate::usage::InUse;

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

    async fn followed(&self, collection: &str) -> Result<InUse, Status> {
        let name: CollectionName = collection
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        let followed = self.search.collection(&name).await;
        followed.map_err(|error| status_of_unknown(&name, &error))
    }

    /// Waits for a release that holds the position: read your writes. Ends a little before the caller's deadline; where
    /// publishing stands still, it fails at once.
    async fn at_least(
        &self,
        followed: &Followed,
        lineage: Lineage,
        min_position: &str,
        limit: Option<Duration>,
    ) -> Result<(), Status> {
        let wait = self.wait_for(followed, lineage, min_position);
        match tokio::time::timeout(limit.unwrap_or(WAIT_MAX), wait).await {
            Ok(result) => result,
            Err(_) => {
                let message = format!("no release held position {min_position} before the deadline");
                Err(Reason::PositionNotReached.status(message))
            }
        }
    }

    async fn wait_for(&self, followed: &Followed, lineage: Lineage, min_position: &str) -> Result<(), Status> {
        /// How soon a standstill that begins while somebody waits is told.
        const LOOK: Duration = Duration::from_millis(100);
        if min_position.is_empty() {
            return Ok(());
        }
        let wrong = |message: String| Reason::InvalidPosition.status_for_field("min_position", message);
        let position: Position = min_position.parse().map_err(|error| wrong(format!("{error}")))?;
        let (mut swaps, began) = (followed.swaps(), Instant::now());
        let stopping = self.search.tasks.token();
        loop {
            let standstill = (self.search.deps.standstill)(&followed.name);
            // A log that does not fit counts anew: its positions say nothing about the release.
            if let Some(misfit) = standstill.filter(|standstill| standstill.reason == Reason::StreamMismatch) {
                return Err(misfit.reason.status(misfit.message));
            }
            if let Ok(served) = followed.lineages().served(lineage) {
                let checkpoint = &served.release.manifest().checkpoint;
                let sequence = checkpoint
                    .stream
                    .sequence_of(position)
                    .map_err(|error| wrong(error.to_string()))?;
                if checkpoint.sequence >= sequence {
                    return Ok(());
                }
            }
            let standstill = (self.search.deps.standstill)(&followed.name);
            if let Some(standstill) = standstill.or_else(|| followed.standstill(began)) {
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
        let limit = Deadline::remaining(request.extensions());
        let request = request.into_inner();
        let downloaded = (self.search.deps.downloaded)();
        let followed = self.followed(&request.collection).await?;
        let (text, filter) = (request.text.clone(), request.filter.clone());
        let min_position = request.min_position.clone();
        let checked = check(request)?;
        let (top_k, began) = (checked.top_k(), Instant::now());
        self.at_least(&followed, checked.lineage, &min_position, limit).await?;
        let waited = began.elapsed();
        let lineages = followed.lineages();
        // A preview and a page say nothing of what people ask, nor of how the active lineage answers.
        let is_asked = checked.lineage != Lineage::Other && checked.page.is_none();
        let answer = self.answer_from(&followed, &lineages, checked).await;
        if is_asked {
            self.remember(
                &followed,
                &lineages,
                (&text, &filter),
                answer.as_ref().err(),
                began.elapsed() - waited,
            );
        }
        let Answer { mut response, tokens } = answer?;
        if let Some(release) = &mut response.release {
            release.stale_milliseconds = followed.stale().as_millis() as u64;
            trace(&followed.name, release);
        }
        if self.search.deps.log_searches {
            let line = Line {
                k: top_k,
                latency: began.elapsed() - waited,
                tokens,
                downloaded: (self.search.deps.downloaded)() - downloaded,
                asked: (&text, &filter),
            };
            line.log(&followed.name, &response);
        }
        if let Some(timings) = &mut response.timings {
            timings.wait_micros = waited.as_micros() as u64;
            timings.total_micros = began.elapsed().as_micros() as u64;
        }
        Ok(response)
    }

    async fn answer_from(&self, followed: &Followed, lineages: &Lineages, checked: Checked) -> Result<Answer, Status> {
        let served = match &checked.page {
            None => lineages.served(checked.lineage),
            Some(page) => Ok(followed.paged(page.generation, &page.lineage).ok_or_else(|| {
                Reason::ReleaseGone.status(format!(
                    "release {} is not open any more: search again from the first page",
                    page.generation
                ))
            })?),
        };
        match served {
            Err(NotServed::Empty) => Ok(Answer {
                response: SearchResponse {
                    timings: Some(Timings::default()),
                    ..SearchResponse::default()
                },
                tokens: 0,
            }),
            Err(why) => Err(status_of_not_served(&followed.name, &why)),
            Ok(served) => query::search(&self.search, served, checked).await,
        }
    }

    /// Counts a search in the window of the lineage that answered it, and offers it to the sample of asked queries.
    fn remember(
        &self,
        followed: &Followed,
        lineages: &Lineages,
        (text, filter): (&str, &str),
        error: Option<&Status>,
        duration: Duration,
    ) {
        let window = lineages.windows().0;
        let dragged = lineages.served(Lineage::Active);
        let duration = dragged.map_or(duration, |served| {
            self.search.dragged(served.release.manifest(), duration)
        });
        match (window, error) {
            (Some(window), None) => window.answered(duration),
            (Some(window), Some(error)) if is_ours(error) => window.failed(),
            _ => {}
        }
        if error.is_none() && !self.search.log.asked(&followed.name, text, filter) {
            self.search.deps.metrics.query_left_out(&followed.name);
        }
    }

    fn served(followed: &Followed, lineage: Lineage) -> Result<Option<Arc<Served>>, Status> {
        match followed.lineages().served(lineage) {
            Ok(served) => Ok(Some(served)),
            Err(NotServed::Empty) => Ok(None),
            Err(why) => Err(status_of_not_served(&followed.name, &why)),
        }
    }
}

/// Links the call to the release that answers it.
fn trace(name: &CollectionName, release: &ReleaseInfo) {
    let release = ReleaseName {
        collection: name.as_str(),
        lineage: &release.lineage,
        generation: release.generation,
    };
    release.answers();
}

/// Whether a search failed by a fault of this server, and not of its caller.
fn is_ours(error: &Status) -> bool {
    matches!(
        error.code(),
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unavailable | Code::DeadlineExceeded
    )
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
        let (collection, asked) = (requests[0].collection.clone(), requests[0].lineage);
        let is_other = |request: &SearchRequest| request.collection != collection || request.lineage != asked;
        if requests
            .iter()
            .any(|request| is_other(request) || !request.page_token.is_empty())
        {
            let message = "all searches of a batch are of one collection and one lineage, and none goes on from a page";
            return Err(Reason::InvalidArgument.status_for_field("requests", message));
        }
        let followed = self.followed(&collection).await?;
        let asked = lineage(asked)?;
        for request in &requests {
            self.at_least(&followed, asked, &request.min_position, limit).await?;
        }
        let Some(served) = Self::served(&followed, asked)? else {
            let responses = requests.iter().map(|_| SearchResponse::default()).collect();
            return Ok(Response::new(BatchSearchResponse { responses }));
        };
        let lineages = followed.lineages();
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            let (text, filter) = (request.text.clone(), request.filter.clone());
            let (checked, began) = (check(request)?, Instant::now());
            let (top_k, downloaded) = (checked.top_k(), (self.search.deps.downloaded)());
            let answer = query::search(&self.search, served.clone(), checked).await;
            if asked != Lineage::Other {
                let error = answer.as_ref().err();
                self.remember(&followed, &lineages, (&text, &filter), error, began.elapsed());
            }
            let Answer { response, tokens } = answer?;
            if self.search.deps.log_searches {
                let line = Line {
                    k: top_k,
                    latency: began.elapsed(),
                    tokens,
                    downloaded: (self.search.deps.downloaded)() - downloaded,
                    asked: (&text, &filter),
                };
                line.log(&followed.name, &response);
            }
            responses.push(response);
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
        let lineage = lineage(request.lineage)?;
        self.at_least(&followed, lineage, &request.min_position, limit).await?;
        let missing = || Reason::DocumentNotFound.status(format!("document {:?} does not exist", request.id));
        let served = Self::served(&followed, lineage)?.ok_or_else(missing)?;
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
        let lineage = lineage(request.lineage)?;
        self.at_least(&followed, lineage, &request.min_position, limit).await?;
        let lineages = followed.lineages();
        let (now, before) = lineages.windows();
        let both = GetServingStatsResponse {
            lineages: serving::statuses(&lineages),
            window: now.map(|window| serving::window(window.facts())),
            window_before: before.map(|window| serving::window(window.facts())),
            ..GetServingStatsResponse::default()
        };
        let served = match lineages.served(lineage) {
            Ok(served) => served,
            Err(NotServed::Empty) => return Ok(Response::new(both)),
            Err(why) => return Err(status_of_not_served(&followed.name, &why)),
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
            ..both
        }))
    }
}
