//! A real server on loopback with a service of five methods, and a client of it.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::codegen::{BoxFuture, Service};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use verdigris_runtime::authentication::{Scope, Tokens};
use verdigris_runtime::busy_poll::BusyPoll;
use verdigris_runtime::deadline::Deadline;
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::http::Readiness;
use verdigris_runtime::listening::{Drain, Drained, Farewell, Listener, Server};
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_runtime::serving::{GuardConfig, GuardLayer, RETRY_AFTER, Refused};
use verdigris_runtime::tls::Tls;

/// What happens inside the service, for tests to wait for, and what they may let go on.
#[derive(Clone)]
pub(crate) struct Inside {
    began: mpsc::UnboundedSender<()>,
    pub(crate) go_on: Arc<Notify>,
}

/// `/test.v1.Test/…`: Echo answers at once, Wait when the test says so, Late at its deadline, Panic never, Count counts
/// the messages of a stream.
#[derive(Clone)]
struct TestService(Inside);

impl tonic::server::NamedService for TestService {
    const NAME: &'static str = "test.v1.Test";
}

impl Service<HttpRequest<Body>> for TestService {
    type Response = HttpResponse<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let inside = self.0.clone();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let mut grpc =
            tonic::server::Grpc::new(ProstCodec::<String, String>::default()).max_decoding_message_size(1 << 10);
        Box::pin(async move {
            if method == "Count" {
                let count =
                    tower::service_fn(move |request: Request<Streaming<String>>| count(inside.clone(), request));
                return Ok(grpc.client_streaming(count, request).await);
            }
            let answer = tower::service_fn(move |request| answer(inside.clone(), method.clone(), request));
            Ok(grpc.unary(answer, request).await)
        })
    }
}

async fn answer(inside: Inside, method: String, request: Request<String>) -> Result<Response<String>, Status> {
    match method.as_str() {
        "Echo" | "Administer" => {}
        "Wait" => {
            let go_on = inside.go_on.notified();
            inside.began.send(()).expect("the test listens");
            go_on.await;
        }
        "Late" => {
            let remaining = Deadline::remaining(request.extensions()).expect("the test sets a deadline");
            tokio::time::sleep(remaining).await;
            return Err(Status::deadline_exceeded("told by the handler"));
        }
        "Panic" => panic!("planted"),
        _ => return Err(Status::unimplemented("")),
    }
    Ok(Response::new(request.into_inner()))
}

async fn count(inside: Inside, request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
    let mut messages = request.into_inner();
    let mut count = 0;
    while let Some(message) = messages.next().await {
        message?;
        count += 1;
        inside.began.send(()).expect("the test listens");
    }
    Ok(Response::new(count.to_string()))
}

fn scope_of(path: &str) -> Option<Scope> {
    match path.strip_prefix("/test.v1.Test/")? {
        "Echo" | "Wait" | "Late" | "Panic" => Some(Scope::Read),
        "Administer" => Some(Scope::Admin),
        "Count" => Some(Scope::Ingest),
        _ => None,
    }
}

fn status_of(refused: Refused) -> Status {
    match refused {
        Refused::Unauthenticated => Status::unauthenticated("no token"),
        Refused::PermissionDenied(scope) => Status::permission_denied(scope.as_str()),
        Refused::Overloaded(_) => Status::resource_exhausted(format!("try again in {RETRY_AFTER:?}")),
        Refused::DeadlineExceeded => Status::deadline_exceeded("ended by the guard"),
        Refused::TooLarge => Status::invalid_argument("too large"),
        Refused::Panicked => Status::internal("panicked"),
    }
}

/// A server and a client of it.
pub(crate) struct Pair {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) readiness: Readiness,
    pub(crate) demotion: Demotion,
    pub(crate) registry: Registry,
    pub(crate) inside: Inside,
    pub(crate) began: mpsc::UnboundedReceiver<()>,
    pub(crate) token: CancellationToken,
    pub(crate) server: JoinHandle<Drained>,
}

/// What differs between tests.
pub(crate) struct Setup {
    pub(crate) tokens: Tokens,
    pub(crate) concurrent_calls: usize,
    pub(crate) limit: Duration,
    pub(crate) farewell: Farewell,
    pub(crate) tls: Option<Tls>,
    pub(crate) busy_poll: BusyPoll,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tokens: Tokens::open(),
            concurrent_calls: 8,
            limit: Duration::from_secs(60),
            farewell: Farewell::AtOnce,
            tls: None,
            busy_poll: BusyPoll::default(),
        }
    }
}

impl Pair {
    pub(crate) async fn new(setup: Setup) -> Self {
        let is_plain = setup.tls.is_none();
        let registry = Registry::new();
        let (readiness, demotion) = (Readiness::default(), Demotion::default());
        let (sender, began) = mpsc::unbounded_channel();
        let inside = Inside {
            began: sender,
            go_on: Arc::default(),
        };
        let guard = GuardLayer::new(GuardConfig {
            tokens: setup.tokens,
            scope_of,
            status_of,
            concurrent_calls: setup.concurrent_calls,
            metrics: RpcMetrics::register(&registry).expect("registered"),
        });
        let server = Server {
            routes: Routes::new(TestService(inside.clone())),
            guard,
            descriptors: tonic_health::pb::FILE_DESCRIPTOR_SET,
            readiness: readiness.clone(),
            drain: Drain {
                notice: Duration::ZERO,
                limit: setup.limit,
                farewell: setup.farewell,
            },
            demotion: demotion.clone(),
            tls: setup.tls,
            busy_poll: setup.busy_poll,
        };
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let listener = verdigris_runtime::http::bind(loopback).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let token = CancellationToken::new();
        let serving = server.serve(Listener::Tcp(listener), token.clone());
        let server = tokio::spawn(serving);
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
        // A server of TLS is asked by channels of the test's own.
        let channel = match is_plain {
            true => endpoint.connect().await.expect("the server listens"),
            false => endpoint.connect_lazy(),
        };
        Self {
            address,
            channel,
            readiness,
            demotion,
            registry,
            inside,
            began,
            token,
            server,
        }
    }

    /// Calls a method; the error is the status's code and message.
    pub(crate) async fn call(&self, method: &str, request: Request<String>) -> Result<String, (Code, String)> {
        call(self.channel.clone(), method.to_owned(), request).await
    }

    /// Begins a call and returns when the service is in it.
    pub(crate) async fn begin_waiting(&mut self) -> JoinHandle<Result<String, (Code, String)>> {
        let waiting = tokio::spawn(call(
            self.channel.clone(),
            "Wait".to_owned(),
            Request::new("waited".to_owned()),
        ));
        self.began.recv().await.expect("the service lives");
        waiting
    }

    pub(crate) fn metrics(&self) -> String {
        verdigris_runtime::metrics::text(&self.registry).expect("encoded")
    }
}

pub(crate) async fn call(channel: Channel, method: String, request: Request<String>) -> Result<String, (Code, String)> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| (Code::Unavailable, error.to_string()))?;
    let path = format!("/test.v1.Test/{method}").parse().expect("a path");
    let answer = grpc.unary(request, path, ProstCodec::<String, String>::default()).await;
    answer
        .map(Response::into_inner)
        .map_err(|status| (status.code(), status.message().to_owned()))
}

/// The same on a connection of its own, without the timer that tonic's channel sets for `grpc-timeout`: what ends the
/// call is the server.
pub(crate) async fn call_untimed(
    address: std::net::SocketAddr,
    method: &str,
    request: Request<String>,
) -> Result<String, (Code, String)> {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("the server listens");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Body>(executor, io)
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let origin = format!("http://{address}").parse().expect("a URL");
    let service = tower::service_fn(move |request| sender.clone().send_request(request));
    let mut grpc = tonic::client::Grpc::with_origin(service, origin);
    let path = format!("/test.v1.Test/{method}").parse().expect("a path");
    let answer = grpc.unary(request, path, ProstCodec::<String, String>::default()).await;
    connection.abort();
    answer
        .map(Response::into_inner)
        .map_err(|status| (status.code(), status.message().to_owned()))
}

/// Sends what comes by `messages` as one stream, and returns what the service answers.
pub(crate) async fn stream(channel: Channel, messages: mpsc::Receiver<String>) -> Result<String, (Code, String)> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| (Code::Unavailable, error.to_string()))?;
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let path = "/test.v1.Test/Count".parse().expect("a path");
    let answer = grpc
        .client_streaming(Request::new(messages), path, ProstCodec::<String, String>::default())
        .await;
    answer
        .map(Response::into_inner)
        .map_err(|status| (status.code(), status.message().to_owned()))
}
