//! Listening for gRPC: an accept loop of our own over hyper, with health, reflection, and a drain that ends.
//!
//! tonic's server is not used because it waits for connections for ever at its end, and because each connection here
//! can be told to go (GOAWAY) by itself, as a demoted server does. Absent: certificates, which `tls` reads.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Layer, ServiceExt};

use crate::busy_poll::BusyPoll;
use crate::demotion::{Demotion, GO_WITHIN, Member};
use crate::gather::Gathered;
use crate::http::Readiness;
use crate::lazily::AtFirstCall;
use crate::serving::{Guard, GuardLayer};
use crate::socket::Socket;
use crate::tls::{self, Tls, VerifiedCaller};

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
    /// When connections are told to go.
    pub farewell: Farewell,
}

/// When the connections of a server that ends are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Farewell {
    /// All at once, when the notice is over.
    #[default]
    AtOnce,
    /// As those of a demoted server, from the first moment on: others take over without a rush.
    Spread,
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
    /// Whether connections are told to go before the end; the caller keeps a clone to ask for it.
    pub demotion: Demotion,
    /// TLS, where it is served.
    pub tls: Option<Tls>,
    /// Whether a thread looks for the next message for a while.
    pub busy_poll: BusyPoll,
}

/// Where connections come from.
pub enum Listener {
    /// Other machines, or this one.
    Tcp(TcpListener),
    /// Programs on this machine.
    Unix(Socket),
}

/// A connection that was accepted.
enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _peer)| Accepted::Tcp(stream)),
            Self::Unix(socket) => socket.accept().await.map(Accepted::Unix),
        }
    }
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when it began.
    pub connections: usize,
    /// Connections that were cut when the limit had passed.
    pub cut: usize,
}

impl Server {
    /// Serves until the token is cancelled, and drains: not ready, notice, no new connections, GOAWAY, calls in flight
    /// finish, the rest is cut at the limit. Dropping the future cuts at once.
    pub async fn serve(self, listener: Listener, token: CancellationToken) -> Drained {
        let mut reporter = HealthReporter::new();
        let routes = self
            .routes
            .clone()
            .add_service(tonic_health::pb::health_server::HealthServer::new(
                HealthService::from_health_reporter(reporter.clone()),
            ));
        let routes = with_reflection(routes, self.descriptors).prepare();
        let ending = Ending::default();
        let _cut_when_dropped = ending.cut.clone().drop_guard();
        let connections = Connections {
            service: self.guard.layer(routes),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tracker: TaskTracker::new(),
            gauge: self.guard.metrics().connections.clone(),
            ending: ending.clone(),
            demotion: self.demotion.clone(),
            tls: self.tls.clone(),
            busy_poll: self.busy_poll.clone(),
        };
        let mirrored = mirror(reporter.clone(), self.readiness.clone());
        let certificates = follow(self.tls.as_ref());
        let served = async {
            let noticed = async {
                token.cancelled().await;
                self.readiness.not_ready(PART, "shutting down");
                tracing::info!(notice = ?self.drain.notice, "server is going: not ready any more");
                notice(&self.drain, &self.demotion).await;
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
            () = certificates => {}
        }
        drop(listener);
        // A client that watches the health holds a call open as long as there is something to tell.
        reporter.set_service_status("", ServingStatus::NotServing).await;
        reporter.clear_service_status("").await;
        connections.end(self.drain.limit).await
    }
}

/// From "not ready" until nobody is accepted any more.
async fn notice(drain: &Drain, demotion: &Demotion) {
    if drain.farewell == Farewell::Spread {
        demotion.demote(Duration::MAX, 1.0);
    }
    tokio::time::sleep(drain.notice).await;
    if drain.farewell == Farewell::Spread {
        // Whoever was open at the first moment has been told by then, and none open is the end of it.
        let left = GO_WITHIN.1.saturating_sub(drain.notice);
        let _ = tokio::time::timeout(left, demotion.all_gone()).await;
    }
}

async fn follow(tls: Option<&Tls>) {
    match tls {
        Some(tls) => tls.follow(tls::LOOK).await,
        None => std::future::pending().await,
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
fn with_reflection(routes: Routes, descriptors: &'static [u8]) -> Routes {
    let builder = move || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let valid = "descriptors are compiled in as a test wrote them";
    routes
        .add_service(AtFirstCall::new(move || builder().build_v1().expect(valid)))
        .add_service(AtFirstCall::new(move || builder().build_v1alpha().expect(valid)))
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
    demotion: Demotion,
    tls: Option<Tls>,
    busy_poll: BusyPoll,
}

/// What one connection is answered with.
struct Answering {
    service: Guard<Routes>,
    executor: Owned,
    ending: Ending,
    member: Member,
    caller: Option<VerifiedCaller>,
    busy_poll: BusyPoll,
}

impl Connections {
    async fn accept(&self, listener: &Listener) {
        loop {
            let permit = self
                .permits
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match listener.accept().await {
                Ok(stream) => {
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
    fn attend(&self, stream: Accepted, held: Held) -> impl Future<Output = ()> + Send + 'static {
        let acceptor = self.tls.as_ref().map(Tls::acceptor);
        let mut answering = Answering {
            service: self.service.clone(),
            executor: Owned {
                tracker: self.tracker.clone(),
                cut: self.ending.cut.clone(),
            },
            ending: self.ending.clone(),
            member: self.demotion.join(),
            caller: None,
            busy_poll: self.busy_poll.clone(),
        };
        async move {
            let _held = held;
            let stream = match stream {
                Accepted::Tcp(stream) => stream,
                Accepted::Unix(stream) => {
                    if let Some(Ok(stream)) = answering.in_time(begun(stream)).await {
                        answering.converse(stream).await;
                    }
                    return;
                }
            };
            if prepare(&stream).is_err() {
                return;
            }
            let Some(acceptor) = acceptor else {
                if answering.in_time(speaks_http2(&stream)).await == Some(true) {
                    answering.converse(stream).await;
                }
                return;
            };
            // One limit for both: a handshake gives no client more time to say something.
            let beginning = answering.in_time(async {
                let stream = acceptor.accept(stream).await.ok()?;
                let caller = stream.get_ref().1.peer_certificates().map(|_| VerifiedCaller);
                Some((begun(stream).await.ok()?, caller))
            });
            let Some(Some((stream, caller))) = beginning.await else {
                tracing::debug!("a connection ended before it began");
                return;
            };
            answering.caller = caller;
            answering.converse(stream).await;
        }
    }

    async fn end(self, limit: Duration) -> Drained {
        let open = || usize::try_from(self.demotion.connections()).unwrap_or(0);
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

// === impl Answering ===

impl Answering {
    /// What a connection begins with, unless that takes too long or the server ends.
    async fn in_time<T>(&self, beginning: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            begun = tokio::time::timeout(PREFACE_WAIT, beginning) => begun.ok(),
            () = self.ending.goaway.cancelled() => None,
        }
    }

    async fn converse(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (service, caller, busy_poll) = (self.service, self.caller, self.busy_poll);
        let answer = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            busy_poll.message();
            let (answered, busy_poll) = (service.clone().oneshot(request.map(Body::new)), busy_poll.clone());
            async move {
                let answer = answered.await;
                busy_poll.message();
                answer
            }
        });
        let connection = http2::Builder::new(self.executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .serve_connection(TokioIo::new(Gathered::new(stream)), answer);
        let mut connection = std::pin::pin!(connection);
        let told = async {
            tokio::select! {
                () = self.ending.goaway.cancelled() => {}
                () = self.member.is_to_go() => {}
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = told => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.ending.cut.cancelled() => return,
                }
            }
            () = self.ending.cut.cancelled() => return,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
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

/// Waits for the client's first words where they cannot be looked at without taking them; hyper wants them too.
async fn begun<S>(mut stream: S) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut said = [0; PREFACE.len()];
    stream.read_exact(&mut said).await?;
    let (reader, writer) = tokio::io::split(stream);
    Ok(tokio::io::join(std::io::Cursor::new(said).chain(reader), writer))
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
