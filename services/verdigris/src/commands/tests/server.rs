//! A server that answers as a test says, and keeps what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use verdigris_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use verdigris_proto::ingest::ingest_service_server::{IngestService, IngestServiceServer};
use verdigris_proto::reason::Reason;
use verdigris_proto::search::search_service_server::{SearchService, SearchServiceServer};
use verdigris_proto::{admin, ingest, search};

use crate::client::{Access, Client};

/// What the server answers and what it was asked.
#[derive(Default)]
pub(super) struct Script {
    /// Refusals of whole calls to ingest, in order; then calls are taken.
    pub(super) ingest_fails: Mutex<VecDeque<Status>>,
    /// An event that holds this text is refused.
    pub(super) refuses: Option<&'static str>,
    /// Answers to questions about progress, in order; the last one stays.
    pub(super) progress: Mutex<VecDeque<Result<ingest::GetProgressResponse, Status>>>,
    /// The answer to every search.
    pub(super) search: search::SearchResponse,
    /// The answer of the other lineage, where there is one.
    pub(super) other: Option<search::SearchResponse>,
    /// The answer to every look at a document.
    pub(super) document: search::GetDocumentResponse,
    /// Pages of dead letters.
    pub(super) letters: Vec<Vec<admin::DeadLetter>>,
    /// What is wrong with a release.
    pub(super) problems: Vec<String>,
    /// Refuses a resync after its first message.
    pub(super) refuses_resync: Option<Status>,
    /// Events that were taken, in order.
    pub(super) taken: Mutex<Vec<String>>,
    /// Questions about progress.
    pub(super) asked: Mutex<Vec<ingest::GetProgressRequest>>,
    /// Texts that were searched for.
    pub(super) searched: Mutex<Vec<search::SearchRequest>>,
    /// How resyncs ended: true for one whose end was told.
    pub(super) resyncs: Mutex<Option<mpsc::UnboundedSender<bool>>>,
}

#[derive(Clone)]
struct Scripted(Arc<Script>);

/// Starts a server, and a client of it. The server ends with the test's runtime.
pub(super) async fn scripted(script: Script) -> (Client, Arc<Script>) {
    let script = Arc::new(script);
    let server = Scripted(script.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = Server::builder()
        .add_service(IngestServiceServer::new(server.clone()))
        .add_service(SearchServiceServer::new(server.clone()))
        .add_service(AdminServiceServer::new(server))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let client = Client::connect(&address.to_string(), &Access::default())
        .await
        .expect("a server");
    (client, script)
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks this"))
}

// === impl Scripted ===

#[tonic::async_trait]
impl IngestService for Scripted {
    async fn ingest(
        &self,
        request: Request<ingest::IngestRequest>,
    ) -> Result<Response<ingest::IngestResponse>, Status> {
        if let Some(status) = self
            .0
            .ingest_fails
            .lock()
            .expect("whole")
            .pop_front()
            .filter(|s| s.code() != tonic::Code::Ok)
        {
            return Err(status);
        }
        let mut taken = self.0.taken.lock().expect("whole");
        let before = taken.len();
        let mut answer = ingest::IngestResponse::default();
        for (index, event) in request.into_inner().events.iter().enumerate() {
            let event = String::from_utf8(event.to_vec()).expect("text");
            if self.0.refuses.is_some_and(|text| event.contains(text)) {
                let (reason, message) = ("MISSING_ID".to_owned(), "no id".to_owned());
                answer.rejections.push(ingest::Rejection {
                    index: index as u64,
                    reason,
                    message,
                });
            } else {
                taken.push(event);
            }
        }
        answer.accepted = (taken.len() - before) as u64;
        if answer.accepted > 0 {
            answer.first_position = format!("0000abcd-{}", before + 1);
            answer.last_position = format!("0000abcd-{}", taken.len());
        }
        Ok(Response::new(answer))
    }

    async fn ingest_stream(
        &self,
        _: Request<Streaming<ingest::IngestRequest>>,
    ) -> Result<Response<ingest::IngestStreamResponse>, Status> {
        unused()
    }

    async fn get_progress(
        &self,
        request: Request<ingest::GetProgressRequest>,
    ) -> Result<Response<ingest::GetProgressResponse>, Status> {
        self.0.asked.lock().expect("whole").push(request.into_inner());
        let mut progress = self.0.progress.lock().expect("whole");
        let next = if progress.len() > 1 {
            progress.pop_front()
        } else {
            progress.front().cloned()
        };
        next.unwrap_or_else(|| Ok(ingest::GetProgressResponse::default()))
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl SearchService for Scripted {
    async fn search(
        &self,
        request: Request<search::SearchRequest>,
    ) -> Result<Response<search::SearchResponse>, Status> {
        let request = request.into_inner();
        let is_other = request.lineage() == search::Lineage::Other;
        self.0.searched.lock().expect("whole").push(request);
        let answer = match (is_other, &self.0.other) {
            (false, _) => self.0.search.clone(),
            (true, Some(other)) => other.clone(),
            (true, None) => return Err(Reason::NoOtherLineage.status("one lineage")),
        };
        Ok(Response::new(answer))
    }

    async fn batch_search(
        &self,
        _: Request<search::BatchSearchRequest>,
    ) -> Result<Response<search::BatchSearchResponse>, Status> {
        unused()
    }

    async fn get_document(
        &self,
        _: Request<search::GetDocumentRequest>,
    ) -> Result<Response<search::GetDocumentResponse>, Status> {
        Ok(Response::new(self.0.document.clone()))
    }

    async fn get_serving_stats(
        &self,
        _: Request<search::GetServingStatsRequest>,
    ) -> Result<Response<search::GetServingStatsResponse>, Status> {
        Ok(Response::new(search::GetServingStatsResponse::default()))
    }
}

#[tonic::async_trait]
impl AdminService for Scripted {
    async fn verify_release(
        &self,
        _: Request<admin::VerifyReleaseRequest>,
    ) -> Result<Response<admin::VerifyReleaseResponse>, Status> {
        let problems = self.0.problems.clone();
        Ok(Response::new(admin::VerifyReleaseResponse {
            generation: 3,
            files: 2,
            bytes: 10,
            problems,
        }))
    }

    async fn roll_back_release(
        &self,
        _: Request<admin::RollBackReleaseRequest>,
    ) -> Result<Response<admin::Release>, Status> {
        unused()
    }

    async fn resume_publishing(
        &self,
        _: Request<admin::ResumePublishingRequest>,
    ) -> Result<Response<admin::ResumePublishingResponse>, Status> {
        unused()
    }

    async fn pin_release(&self, _: Request<admin::PinReleaseRequest>) -> Result<Response<admin::Release>, Status> {
        unused()
    }

    async fn get_staged_release(
        &self,
        _: Request<admin::GetStagedReleaseRequest>,
    ) -> Result<Response<admin::StagedRelease>, Status> {
        unused()
    }

    async fn accept_staged_release(
        &self,
        _: Request<admin::AcceptStagedReleaseRequest>,
    ) -> Result<Response<admin::Release>, Status> {
        unused()
    }

    async fn retry_staged_release(
        &self,
        _: Request<admin::RetryStagedReleaseRequest>,
    ) -> Result<Response<admin::RetryStagedReleaseResponse>, Status> {
        unused()
    }

    async fn reject_staged_release(
        &self,
        _: Request<admin::RejectStagedReleaseRequest>,
    ) -> Result<Response<admin::RejectStagedReleaseResponse>, Status> {
        unused()
    }

    async fn rebuild(&self, _: Request<admin::RebuildRequest>) -> Result<Response<admin::RebuildResponse>, Status> {
        unused()
    }

    async fn get_rebuild(
        &self,
        _: Request<admin::GetRebuildRequest>,
    ) -> Result<Response<admin::GetRebuildResponse>, Status> {
        unused()
    }

    async fn erase_documents(
        &self,
        _: Request<admin::EraseDocumentsRequest>,
    ) -> Result<Response<admin::EraseDocumentsResponse>, Status> {
        unused()
    }

    async fn get_erasure(
        &self,
        _: Request<admin::GetErasureRequest>,
    ) -> Result<Response<admin::GetErasureResponse>, Status> {
        unused()
    }

    async fn diff_releases(
        &self,
        _: Request<admin::DiffReleasesRequest>,
    ) -> Result<Response<admin::DiffReleasesResponse>, Status> {
        unused()
    }

    async fn explain_document(
        &self,
        _: Request<admin::ExplainDocumentRequest>,
    ) -> Result<Response<admin::ExplainDocumentResponse>, Status> {
        unused()
    }

    async fn list_dead_letters(
        &self,
        request: Request<admin::ListDeadLettersRequest>,
    ) -> Result<Response<admin::ListDeadLettersResponse>, Status> {
        let page: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let dead_letters = self.0.letters.get(page).cloned().unwrap_or_default();
        let next = Some(page + 1).filter(|next| *next < self.0.letters.len());
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        Ok(Response::new(admin::ListDeadLettersResponse {
            dead_letters,
            next_page_token,
        }))
    }

    async fn resync(
        &self,
        request: Request<Streaming<admin::ResyncRequest>>,
    ) -> Result<Response<admin::ResyncResponse>, Status> {
        /// Tells how the call ended, also when it is dropped half way.
        struct Ended(Option<mpsc::UnboundedSender<bool>>, bool);
        impl Drop for Ended {
            fn drop(&mut self) {
                if let Some(resyncs) = &self.0 {
                    let _ = resyncs.send(self.1);
                }
            }
        }
        let mut ended = Ended(self.0.resyncs.lock().expect("whole").clone(), false);
        let mut stream = request.into_inner();
        let mut answer = admin::ResyncResponse::default();
        // A cancelled stream looks like one that came to its end, so the end is a message without documents.
        while let Some(message) = stream.message().await? {
            ended.1 = message.documents.is_empty();
            answer.accepted += message.documents.len() as u64;
            if let Some(status) = &self.0.refuses_resync {
                return Err(status.clone());
            }
        }
        answer.deleted = 4;
        answer.first_position = "0000abcd-1".to_owned();
        answer.last_position = format!("0000abcd-{}", answer.accepted);
        Ok(Response::new(answer))
    }

    async fn list_collections(
        &self,
        _: Request<admin::ListCollectionsRequest>,
    ) -> Result<Response<admin::ListCollectionsResponse>, Status> {
        unused()
    }

    async fn create_collection(
        &self,
        _: Request<admin::CreateCollectionRequest>,
    ) -> Result<Response<admin::Collection>, Status> {
        unused()
    }

    async fn get_collection(
        &self,
        _: Request<admin::GetCollectionRequest>,
    ) -> Result<Response<admin::Collection>, Status> {
        unused()
    }

    async fn delete_collection(
        &self,
        _: Request<admin::DeleteCollectionRequest>,
    ) -> Result<Response<admin::DeleteCollectionResponse>, Status> {
        unused()
    }

    async fn get_settings(&self, _: Request<admin::GetSettingsRequest>) -> Result<Response<admin::Settings>, Status> {
        unused()
    }

    async fn update_settings(
        &self,
        _: Request<admin::UpdateSettingsRequest>,
    ) -> Result<Response<admin::Settings>, Status> {
        unused()
    }

    async fn list_releases(
        &self,
        _: Request<admin::ListReleasesRequest>,
    ) -> Result<Response<admin::ListReleasesResponse>, Status> {
        unused()
    }

    async fn get_release(&self, _: Request<admin::GetReleaseRequest>) -> Result<Response<admin::Release>, Status> {
        unused()
    }

    async fn get_dead_letter(
        &self,
        _: Request<admin::GetDeadLetterRequest>,
    ) -> Result<Response<admin::DeadLetter>, Status> {
        unused()
    }

    async fn edit_dead_letter(
        &self,
        _: Request<admin::EditDeadLetterRequest>,
    ) -> Result<Response<admin::EditDeadLetterResponse>, Status> {
        unused()
    }

    async fn replay_dead_letters(
        &self,
        _: Request<admin::ReplayDeadLettersRequest>,
    ) -> Result<Response<admin::ReplayDeadLettersResponse>, Status> {
        unused()
    }

    async fn drop_dead_letters(
        &self,
        _: Request<admin::DropDeadLettersRequest>,
    ) -> Result<Response<admin::DropDeadLettersResponse>, Status> {
        unused()
    }

    async fn get_indexer_stats(
        &self,
        _: Request<admin::GetIndexerStatsRequest>,
    ) -> Result<Response<admin::GetIndexerStatsResponse>, Status> {
        unused()
    }
}
