//! A client that searches all the time: each of its searches must be answered with what it looks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::transport::Endpoint;
use verdigris_proto::search::SearchRequest;
use verdigris_proto::search::search_service_client::SearchServiceClient;

const PATIENCE: Duration = Duration::from_secs(60);
/// Answers that show that searches go on.
const ENOUGH: u64 = 20;

/// The client, searching.
pub(crate) struct Searching {
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Searching {
    /// Begins to search for a text that finds this document.
    pub(crate) async fn start(url: &str, text: &'static str, id: &'static str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (answered.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut service = SearchServiceClient::new(channel);
            while !told.load(Ordering::SeqCst) {
                let request = SearchRequest {
                    collection: "products".to_owned(),
                    text: text.to_owned(),
                    ..SearchRequest::default()
                };
                let answer = service.search(request).await;
                let answer = answer.unwrap_or_else(|status| panic!("a search failed: {status}"));
                assert_eq!(answer.into_inner().hits[0].id, id);
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { answered, stop, task }
    }

    /// Returns when it was answered some times more.
    pub(crate) async fn goes_on(&self) {
        let (before, began) = (self.answered.load(Ordering::SeqCst), Instant::now());
        while self.answered.load(Ordering::SeqCst) < before + ENOUGH {
            assert!(
                !self.task.is_finished() && began.elapsed() < PATIENCE,
                "searches stopped"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; none of its searches may have failed.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}
