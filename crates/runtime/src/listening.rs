//! Listening for gRPC: an accept loop of our own over hyper, with health, reflection, and a drain that ends.
//!
//! tonic's server is not used because it waits for connections for ever at its end, and because each connection here
//! can be told to go (GOAWAY) by itself. Absent: TLS, which is the mesh's or the ingress's.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Layer, ServiceExt};

use crate::gather::Gathered;
use crate::http::Readiness;
use crate::serving::{Guard, GuardLayer};

/// Connections at once; more wait in the system's own queue. Each costs a file descriptor and some buffers.
pub const CONNECTIONS_MAX: usize = 2_000;
/// Calls at once on one connection: above the guard's limit, so that a client is told of overload and does not queue.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Bytes of one call's headers at most; tokens and traces need less than one kibibyte.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// What a client may send before it hears that it was read: a batch of events in one go, not a whole file.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A client that vanished without a word is noticed after this time, twice over.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Accepting failed, mostly for want of file descriptors: others must end first.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// What every HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A client that has not said it after this time gives its place to another.
const PREFACE_WAIT: Duration = Duration::from_secs(10);
/// A preface in several packets is rare, and has no event of its own: it is looked for again after this time.
const PREFACE_LOOK: Duration = Duration::from_millis(5);
/// How long tasks may take to notice that they were cut.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// The name under which the server says why it is not ready.
const PART: &str = "server";

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From "not ready" until connections are told to go: what balancers need to hear of it. None on one machine.
    pub notice: Duration,
    /// How long calls in flight may take after that; then they are cut.
    pub limit: Duration,
}

/// A gRPC server that is ready to be run.
pub struct Server {
    /// The services.
    pub routes: Routes,
    /// What stands in front of them.
    pub guard: GuardLayer,
    /// Their descriptors, for reflection.
    pub descriptors: &'static [u8],
    /// What health follows.
    pub readiness: Readiness,
    /// How it ends.
    pub drain: Drain,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when it began.
    pub connections: usize,
    /// Connections that were cut when the limit had passed.
    pub cut: usize,
}

/// Descriptors that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("reflection has no valid descriptors")]
pub struct DescriptorError(#[source] tonic_reflection::server::Error);

impl Server {
    /// Serves until the token is cancelled, and drains: not ready, notice, no new connections, GOAWAY, calls in flight
    /// finish, the rest is cut at the limit. Dropping the future cuts at once.
    pub async fn serve(self, listener: TcpListener, token: CancellationToken) -> Result<Drained, DescriptorError> {
        let mut reporter = HealthReporter::new();
        let routes = self
            .routes
            .clone()
            .add_service(tonic_health::pb::health_server::HealthServer::new(
                HealthService::from_health_reporter(reporter.clone()),
            ));
        let routes = with_reflection(routes, self.descriptors)
            .map_err(DescriptorError)?
            .prepare();
        let ending = Ending::default();
        let _cut_when_dropped = ending.cut.clone().drop_guard();
        let connections = Connections {
            service: self.guard.layer(routes),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tracker: TaskTracker::new(),
            gauge: self.guard.metrics().connections.clone(),
            ending: ending.clone(),
        };
        let mirrored = mirror(reporter.clone(), self.readiness.clone());
        let served = async {
            let noticed = async {
                token.cancelled().await;
                self.readiness.not_ready(PART, "shutting down");
                tracing::info!(notice = ?self.drain.notice, "server is going: not ready any more");
                tokio::time::sleep(self.drain.notice).await;
            };
            tokio::select! {
                () = noticed => {}
                // Both are cancel-safe: a connection that was accepted has its task before the next wait.
                () = connections.accept(&listener) => {}
            }
        };
        tokio::select! {
            () = served => {}
            () = mirrored => {}
        }
        drop(listener);
        // A client that watches the health holds a call open as long as there is something to tell.
        reporter.set_service_status("", ServingStatus::NotServing).await;
        reporter.clear_service_status("").await;
        Ok(connections.end(self.drain.limit).await)
    }
}

/// Tells of readiness as gRPC health, for as long as it is polled.
async fn mirror(reporter: HealthReporter, readiness: Readiness) {
    let mut changes = readiness.watch();
    loop {
        let ready = changes.borrow_and_update().is_empty();
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status("", status).await;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Both versions of reflection: current clients ask for v1, older ones for v1alpha.
fn with_reflection(routes: Routes, descriptors: &'static [u8]) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes
        .add_service(builder().build_v1()?)
        .add_service(builder().build_v1alpha()?))
}

/// The two words that end connections: go when you are done; go now.
#[derive(Clone, Default)]
struct Ending {
    goaway: CancellationToken,
    cut: CancellationToken,
}

// === impl Connections ===

struct Connections {
    service: Guard<Routes>,
    permits: Arc<Semaphore>,
    tracker: TaskTracker,
    gauge: IntGauge,
    ending: Ending,
}

impl Connections {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let permit = self
                .permits
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _peer)) => {
                    let held = Held::new(permit, self.gauge.clone());
                    self.tracker.spawn(self.attend(stream, held));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Answers one connection until it ends, or is told to.
    fn attend(&self, stream: TcpStream, held: Held) -> impl Future<Output = ()> + Send + 'static {
        let service = self.service.clone();
        let ending = self.ending.clone();
        let executor = Owned {
            tracker: self.tracker.clone(),
            cut: ending.cut.clone(),
        };
        async move {
            let _held = held;
            let begun = tokio::select! {
                begun = tokio::time::timeout(PREFACE_WAIT, speaks_http2(&stream)) => begun.unwrap_or(false),
                () = ending.goaway.cancelled() => false,
            };
            if !begun || prepare(&stream).is_err() {
                tracing::debug!("a connection ended before it began");
                return;
            }
            let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                service.clone().oneshot(request.map(Body::new))
            });
            let connection = http2::Builder::new(executor)
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
                .max_header_list_size(HEADER_BYTES_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .serve_connection(TokioIo::new(Gathered::new(stream)), answer);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = ending.goaway.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = ending.cut.cancelled() => return,
                    }
                }
                () = ending.cut.cancelled() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
        }
    }

    async fn end(self, limit: Duration) -> Drained {
        let open = || usize::try_from(self.gauge.get()).unwrap_or(0);
        let connections = open();
        self.ending.goaway.cancel();
        self.tracker.close();
        let in_time = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        let cut = if in_time { 0 } else { open() };
        self.ending.cut.cancel();
        if !in_time && tokio::time::timeout(CUT_GRACE, self.tracker.wait()).await.is_err() {
            tracing::warn!("calls go on after they were cut: their code does not wait anywhere");
        }
        tracing::info!(connections, cut, "server drained");
        Drained { connections, cut }
    }
}

/// What a connection holds while it is open.
struct Held {
    gauge: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    fn new(permit: OwnedSemaphorePermit, gauge: IntGauge) -> Self {
        gauge.inc();
        Self { gauge, _permit: permit }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Waits for the client's first words, without taking them. hyper would wait for ever, and its drain with it.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut said = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut said).await {
            Ok(0) | Err(_) => return false,
            Ok(bytes) if said[..bytes] != PREFACE[..bytes] => return false,
            Ok(bytes) if bytes == PREFACE.len() => return true,
            Ok(_) => tokio::time::sleep(PREFACE_LOOK).await,
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_INTERVAL)
        .with_interval(KEEPALIVE_TIMEOUT);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Runs hyper's tasks (one for each call) as owned ones, which end when connections are cut.
#[derive(Clone)]
struct Owned {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl<F> Executor<F> for Owned
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = task => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
