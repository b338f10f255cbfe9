//! Traces as a collector receives them: an event's way to the release that holds it, and from an answer to its release.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};
use verdigris_proto::ingest::IngestRequest;
use verdigris_proto::ingest::ingest_service_client::IngestServiceClient;
use verdigris_proto::search::SearchRequest;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_tests::process::Folder;

const PATIENCE: Duration = Duration::from_secs(60);
/// The trace of the catalog system that made the event, and that of the call which brought it.
const OF_EVENT: &str = "0af7651916cd43dd8448eb211c80319c";
const OF_CALL: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter();
        let spans = spans.flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (collector, format!("http://{address}"))
    }

    /// The spans of this name in this trace.
    fn named(&self, name: &str, trace: Option<&str>) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        let in_trace = |span: &&Span| trace.is_none_or(|trace| hex(&span.trace_id) == trace);
        spans
            .iter()
            .filter(|span| span.name == name)
            .filter(in_trace)
            .cloned()
            .collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a span links to another.
fn links(from: &Span, to: &Span) -> bool {
    let is_it = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
        link.trace_id == to.trace_id && link.span_id == to.span_id
    };
    from.links.iter().any(is_it)
}

// Goal: from the trace of either, a person comes to the release, and from an answer as well. All spans are there after
// the process has ended, since it flushes them.
#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_an_event_to_its_release_and_from_an_answer_too() {
    let (collector, endpoint) = Collector::start().await;
    let folder = Folder::new();
    folder.create_collection();
    let mut command = folder.command();
    command
        .args(["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .env("VERDIGRIS_TRACE_ENDPOINT", endpoint)
        // A filter of logs says nothing of traces.
        .env("VERDIGRIS_LOG_FILTER", "error");
    let mut server = folder.try_up_by(&mut command).unwrap();
    let channel = Endpoint::from_shared(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let event = format!(
        r#"{{"specversion":"1.0","id":"1","source":"/erp","type":"dev.verdigris.document.upsert.v1","subject":"A-1",
        "time":"2026-05-01T12:00:00Z","traceparent":"00-{OF_EVENT}-b7ad6b7169203331-01","data":{{"title":"table saw"}}}}"#
    );
    let mut request = Request::new(IngestRequest {
        collection: "products".to_owned(),
        events: vec![Bytes::from(event)],
    });
    let parent = format!("00-{OF_CALL}-00f067aa0ba902b7-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    let accepted = IngestServiceClient::new(channel.clone())
        .ingest(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(accepted.accepted, 1, "{:?}", accepted.rejections);
    let search = SearchRequest {
        collection: "products".to_owned(),
        text: "saw".to_owned(),
        min_position: accepted.last_position,
        ..SearchRequest::default()
    };
    let answer = SearchServiceClient::new(channel)
        .search(search)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.hits.len(), 1);
    assert!(server.stop().success());

    let began = Instant::now();
    while collector.named("release", None).is_empty() {
        assert!(
            began.elapsed() < PATIENCE,
            "no span of a release came: {}",
            folder.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let release = &collector.named("release", None)[0];
    for trace in [OF_EVENT, OF_CALL] {
        let published = collector.named("publish", Some(trace));
        assert_eq!(published.len(), 1, "in {trace}");
        assert!(links(&published[0], release), "{trace} leads to the release");
        let from_release = release.links.iter().any(|link| hex(&link.trace_id) == trace);
        assert!(from_release, "the release leads to {trace}");
    }
    assert_eq!(collector.named("accept", Some(OF_EVENT)).len(), 1);
    let ingest = &collector.named("call", Some(OF_CALL))[0];
    assert_eq!(hex(&ingest.parent_span_id), "00f067aa0ba902b7");
    let calls = collector.named("call", None);
    let answered = calls.iter().filter(|call| links(call, release)).count();
    assert_eq!(answered, 1, "the answer leads to its release");
}
