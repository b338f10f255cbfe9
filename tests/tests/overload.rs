//! I-20: more calls than the real process takes are shed with a reason and a hint, probes and other scopes are answered
//! meanwhile, what was accepted is kept, and right after all is well.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use verdigris_proto::ingest::ingest_service_client::IngestServiceClient;
use verdigris_proto::ingest::{IngestRequest, IngestStreamResponse};
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_proto::search::{GetDocumentRequest, SearchRequest};
use verdigris_runtime::serving::CONCURRENT_CALLS;
use verdigris_tests::process::{Folder, Server};

/// How long something may take before the test says that it never happened.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(server.url.clone()).unwrap();
    endpoint.connect().await.unwrap()
}

fn one(id: &str) -> IngestRequest {
    let event = format!(r#"{{"id":"{id}","title":"thing"}}"#);
    IngestRequest {
        collection: "products".to_owned(),
        events: vec![Bytes::from(event)],
    }
}

async fn is_there(channel: &Channel, id: &str) -> Result<bool, Status> {
    let request = GetDocumentRequest {
        collection: "products".to_owned(),
        id: id.to_owned(),
        ..GetDocumentRequest::default()
    };
    match SearchServiceClient::new(channel.clone()).get_document(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound || reason_of(&status).as_deref() == Some("NOT_READY") => {
            Ok(false)
        }
        Err(status) => Err(status),
    }
}

/// Waits until all of these are in the answers.
async fn wait_for(channel: &Channel, ids: &[String]) {
    let all = tokio::time::timeout(PATIENCE, async {
        for id in ids {
            while !is_there(channel, id).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    all.await.expect("I-1: what was accepted is in the answers");
}

/// A client that sends now and then, and holds its call open meanwhile.
struct Slow {
    sender: mpsc::Sender<IngestRequest>,
    call: JoinHandle<Result<IngestStreamResponse, Status>>,
}

impl Slow {
    async fn begin(channel: Channel, id: &str) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(one(id)).await.unwrap();
        let call = tokio::spawn(async move {
            let mut client = IngestServiceClient::new(channel);
            let answer = client.ingest_stream(ReceiverStream::new(receiver)).await?;
            Ok(answer.into_inner())
        });
        Self { sender, call }
    }

    /// Sends once more, ends its stream, and hears how many were accepted.
    async fn end(self, id: &str) -> u64 {
        self.sender.send(one(id)).await.unwrap();
        drop(self.sender);
        self.call.await.unwrap().unwrap().accepted
    }
}

fn check_shed(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(reason_of(status).as_deref(), Some("OVERLOADED"));
    let hint = status.get_error_details().retry_info().cloned();
    assert!(
        hint.and_then(|hint| hint.retry_delay).is_some(),
        "it says when to try again"
    );
}

async fn health(channel: &Channel) -> i32 {
    let mut client = HealthClient::new(channel.clone());
    let answer = client.check(HealthCheckRequest::default()).await;
    answer.unwrap().into_inner().status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_up_to_the_limit_shed_others_and_lose_nothing() {
    let folder = Folder::new();
    let server = folder.up();
    folder.create_collection();
    let channels = [connect(&server).await, connect(&server).await];
    let ids: Vec<String> = (0..CONCURRENT_CALLS).map(|n| format!("slow-{n}")).collect();
    let mut slow = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        slow.push(Slow::begin(channels[n % 2].clone(), id).await);
    }
    // Each has its place once its first event is in the answers, which reads that are not shed tell.
    wait_for(&channels[0], &ids).await;
    for _ in 0..50 {
        let shed = IngestServiceClient::new(channels[1].clone()).ingest(one("shed")).await;
        check_shed(&shed.expect_err("every place is taken"));
    }
    assert_eq!(
        health(&connect(&server).await).await,
        ServingStatus::Serving as i32,
        "a probe is answered"
    );
    let mut late = Vec::new();
    for (n, client) in slow.into_iter().enumerate() {
        late.push(format!("late-{n}"));
        assert_eq!(client.end(&late[n]).await, 2);
    }
    let told = IngestServiceClient::new(channels[1].clone()).ingest(one("after")).await;
    assert_eq!(told.expect("it recovers").into_inner().accepted, 1);
    late.push("after".to_owned());
    wait_for(&channels[0], &late).await;
    assert!(
        !is_there(&channels[0], "shed").await.unwrap(),
        "what was shed was not taken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_answered_or_shed_and_what_was_accepted_is_kept() {
    let folder = Folder::new();
    let server = folder.up();
    folder.create_collection();
    let channels = [connect(&server).await, connect(&server).await];
    let seed = IngestServiceClient::new(channels[0].clone()).ingest(one("seed")).await;
    assert_eq!(seed.unwrap().into_inner().accepted, 1);
    wait_for(&channels[0], &["seed".to_owned()]).await;
    let mut calls = Vec::new();
    for n in 0..8 * CONCURRENT_CALLS {
        let channel = channels[n % 2].clone();
        calls.push(tokio::spawn(async move {
            if n % 2 == 0 {
                let id = format!("flood-{n}");
                let told = IngestServiceClient::new(channel).ingest(one(&id)).await;
                return told.map(|_| Some(id));
            }
            let request = SearchRequest {
                collection: "products".to_owned(),
                text: format!("thing {n}"),
                ..SearchRequest::default()
            };
            let told = SearchServiceClient::new(channel).search(request).await;
            told.map(|_| None)
        }));
    }
    let (mut accepted, mut shed) = (Vec::new(), 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(id) => accepted.extend(id),
            Err(status) => {
                check_shed(&status);
                shed += 1;
            }
        }
    }
    println!("{} events accepted, {shed} calls shed", accepted.len());
    assert_eq!(health(&channels[0]).await, ServingStatus::Serving as i32);
    wait_for(&channels[0], &accepted).await;
}
