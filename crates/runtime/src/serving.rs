//! Serving gRPC: a guard in front of every call (tokens, load shedding, metrics), health, reflection, and a drain.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::metadata::MetadataMap;
use tower::{Layer, Service};

use crate::authentication::{Refusal, Scope, Tokens};
use crate::metrics::RpcMetrics;

/// Calls answered at once, unless configured: more only wait for a processor.
pub const CONCURRENT_CALLS: usize = 256;
/// How soon a client that was shed should try again.
pub const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Why the guard refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No token, or none that is known.
    Unauthenticated,
    /// The token lacks this scope.
    PermissionDenied(Scope),
    /// Too many calls are being answered.
    Overloaded,
}

/// What the guard goes by.
#[derive(Clone)]
pub struct GuardConfig {
    /// Known tokens.
    pub tokens: Tokens,
    /// The scope that a method needs, by its path `/package.Service/Method`; none for open ones.
    pub scope_of: fn(&str) -> Option<Scope>,
    /// How a refusal is told.
    pub status_of: fn(Refused) -> Status,
    /// Calls answered at once.
    pub concurrent_calls: usize,
    /// Where calls are counted.
    pub metrics: RpcMetrics,
}

/// Puts the guard in front of services.
#[derive(Clone)]
pub struct GuardLayer {
    config: Arc<GuardConfig>,
    in_flight: Arc<AtomicUsize>,
}

impl GuardLayer {
    /// A guard; clones count calls together.
    pub fn new(config: GuardConfig) -> Self {
        Self { config: Arc::new(config), in_flight: Arc::new(AtomicUsize::new(0)) }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, layer: self.clone() }
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

/// Counts a call for as long as it lives, also when its future is dropped.
struct InFlight {
    layer: GuardLayer,
}

impl InFlight {
    fn begin(layer: &GuardLayer) -> Option<Self> {
        let before = layer.in_flight.fetch_add(1, Ordering::SeqCst);
        let call = Self { layer: layer.clone() };
        layer.config.metrics.in_flight.set(before as i64 + 1);
        (before < layer.config.concurrent_calls).then_some(call)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.layer.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.layer.config.metrics.in_flight.set(before as i64 - 1);
    }
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let config = self.layer.config.clone();
        let path = request.uri().path().to_owned();
        let Some(scope) = (config.scope_of)(&path) else {
            return Box::pin(self.inner.call(request));
        };
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let refused = match config.tokens.check(&metadata, scope) {
            Ok(()) => None,
            Err(Refusal::Unauthenticated) => Some(Refused::Unauthenticated),
            Err(Refusal::PermissionDenied) => Some(Refused::PermissionDenied(scope)),
        };
        let in_flight = InFlight::begin(&self.layer);
        let began = Instant::now();
        let refused = refused.or(in_flight.is_none().then_some(Refused::Overloaded));
        if let Some(refused) = refused {
            if refused == Refused::Overloaded {
                config.metrics.shed.inc();
            }
            let status = (config.status_of)(refused);
            config.metrics.observe(&path, code_name(status.code() as i32), began.elapsed());
            return Box::pin(async move { Ok(status.into_http()) });
        }
        // The service that was polled ready is the one to call; a clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let _in_flight = in_flight;
            let response = inner.call(request).await?;
            let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
            config.metrics.observe(&path, code_name(code.unwrap_or(0)), began.elapsed());
            Ok(response)
        })
    }
}

fn code_name(code: i32) -> &'static str {
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
