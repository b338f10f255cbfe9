//! The guard in front of every gRPC call: tokens, load shedding, deadline, panics, metrics, trace.
//!
//! What a refusal says is the caller's: reasons of errors belong to the interface, which is not known here.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::authentication::{Refusal, Scope, Tokens};
use crate::deadline::{self, Deadline};
use crate::metrics::{OTHER_METHOD, RpcMetrics};
use crate::telemetry;

/// Calls of one scope answered at once, unless configured: more only wait for a processor.
pub const CONCURRENT_CALLS: usize = 256;
/// How soon a client that was shed should try again.
pub const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The largest message that a service takes or gives; services are built with it. It holds a hundred searches with a
/// thousand hits of a usual product each, or sixteen events of the largest size.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Services that need no token and are never shed: a probe must be answered under load too.
const OPEN_SERVICES: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// Why the guard refused a call, or ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No token, or none that is known.
    Unauthenticated,
    /// The token lacks this scope.
    PermissionDenied(Scope),
    /// Too many calls of this scope are being answered.
    Overloaded(Scope),
    /// The time that the client allowed is over.
    DeadlineExceeded,
    /// A message is larger than [`MESSAGE_BYTES_MAX`].
    TooLarge,
    /// The call's code panicked.
    Panicked,
}

/// What the guard goes by.
#[derive(Clone)]
pub struct GuardConfig {
    /// Known tokens.
    pub tokens: Tokens,
    /// The scope that a method needs, by its path `/package.Service/Method`. A method that is not known (none) needs
    /// [`Scope::Admin`], so that a forgotten one is closed, not open. Health and reflection are always open.
    pub scope_of: fn(&str) -> Option<Scope>,
    /// How a refusal is told.
    pub status_of: fn(Refused) -> Status,
    /// Calls of one scope answered at once. Each scope has its own count: a flood of events sheds no search.
    pub concurrent_calls: usize,
    /// Where calls are counted.
    pub metrics: RpcMetrics,
}

/// Puts the guard in front of services.
#[derive(Clone)]
pub struct GuardLayer {
    config: Arc<GuardConfig>,
    in_flight: Arc<[AtomicUsize; Scope::ALL.len()]>,
}

impl GuardLayer {
    /// A guard; clones count calls together.
    pub fn new(config: GuardConfig) -> Self {
        Self {
            config: Arc::new(config),
            in_flight: Arc::default(),
        }
    }

    pub(crate) fn metrics(&self) -> &RpcMetrics {
        &self.config.metrics
    }

    /// Lets a call in, or says why not.
    fn admit(&self, request: &Request<Body>, scope: Scope) -> Result<InFlight, Refused> {
        self.config
            .tokens
            .check(request.headers(), request.extensions().get().copied(), scope)
            .map_err(|refusal| match refusal {
                Refusal::Unauthenticated => Refused::Unauthenticated,
                Refusal::PermissionDenied => Refused::PermissionDenied(scope),
            })?;
        let before = self.in_flight[scope as usize].fetch_add(1, Ordering::SeqCst);
        let call = InFlight {
            layer: self.clone(),
            scope,
        };
        self.config.metrics.in_flight(scope).inc();
        if before >= self.config.concurrent_calls {
            return Err(Refused::Overloaded(scope));
        }
        Ok(call)
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard {
            inner,
            layer: self.clone(),
        }
    }
}

/// Counts a call for as long as it lives, also when its future is dropped.
struct InFlight {
    layer: GuardLayer,
    scope: Scope,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.layer.in_flight[self.scope as usize].fetch_sub(1, Ordering::SeqCst);
        self.layer.config.metrics.in_flight(self.scope).dec();
    }
}

/// Notes how a call ended; one that is dropped unanswered was cancelled by its client.
struct Observation {
    config: Arc<GuardConfig>,
    method: String,
    began: tokio::time::Instant,
    code: i32,
}

/// What a call counts as until it is answered.
const CANCELLED: i32 = tonic::Code::Cancelled as i32;

impl Drop for Observation {
    fn drop(&mut self) {
        self.config
            .metrics
            .observe(&self.method, code_name(self.code), self.began.elapsed());
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to call; a clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let path = request.uri().path();
        if OPEN_SERVICES.iter().any(|open| path.starts_with(open)) {
            return Box::pin(inner.call(request));
        }
        let config = self.layer.config.clone();
        let scope = (config.scope_of)(path);
        // A path that is not known is the client's text, and no label.
        let method = scope.map_or(OTHER_METHOD, |_| path).to_owned();
        let span = telemetry::call_span(&method, request.headers());
        let mut observation = Observation {
            config: config.clone(),
            method,
            began: tokio::time::Instant::now(),
            code: CANCELLED,
        };
        let admitted = self.layer.admit(&request, scope.unwrap_or(Scope::Admin));
        let answer = async move {
            let outcome = match admitted {
                Err(refused) => Err(refused),
                Ok(_in_flight) => {
                    let allowed = deadline::allowed(request.headers());
                    if let Some(deadline) = allowed.and_then(Deadline::after) {
                        request.extensions_mut().insert(deadline);
                    }
                    // A message is sent whole before the answer's future ends, except on open streams of answers,
                    // which no guarded method has: so the count may end here.
                    within(allowed, unwinding(async move { inner.call(request).await })).await
                }
            };
            let response = outcome.and_then(checked_size).unwrap_or_else(|refused| {
                if let Refused::Overloaded(scope) = refused {
                    config.metrics.shed(scope).inc();
                }
                (config.status_of)(refused).into_http()
            });
            observation.code = code_of(&response);
            drop(observation);
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// Ends a call when the client's time is over; its future is dropped then.
async fn within<T>(allowed: Option<Duration>, call: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
    match allowed {
        Some(allowed) => tokio::time::timeout(allowed, call)
            .await
            .unwrap_or(Err(Refused::DeadlineExceeded)),
        None => call.await,
    }
}

/// Turns a panic into an answer: without one, the client would wait for its deadline.
async fn unwinding<T>(call: impl Future<Output = Result<T, Infallible>>) -> Result<T, Refused> {
    let mut call = std::pin::pin!(call);
    std::future::poll_fn(|context| {
        // The future is dropped after a panic and never polled again, so nothing sees a half-changed state of its own.
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(answer))) => Poll::Ready(Ok(answer)),
            Ok(Poll::Ready(Err(never))) => match never {},
            Err(_) => {
                tracing::error!("a call panicked; its message is above");
                Poll::Ready(Err(Refused::Panicked))
            }
        }
    })
    .await
}

/// tonic says OUT_OF_RANGE for a message above the limit, and nothing else here does.
fn checked_size(response: Response<Body>) -> Result<Response<Body>, Refused> {
    if code_of(&response) == tonic::Code::OutOfRange as i32 {
        Err(Refused::TooLarge)
    } else {
        Ok(response)
    }
}

/// The code of an answer: in the headers where a call failed before its first message.
fn code_of(response: &Response<Body>) -> i32 {
    response
        .headers()
        .get("grpc-status")
        .and_then(|code| code.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

pub(crate) fn code_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        1 => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "OTHER",
    }
}
