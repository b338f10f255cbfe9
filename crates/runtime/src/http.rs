//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics;

/// Why a process is not ready, by part; ready when there is no reason. Clones share the reasons.
#[derive(Clone, Default)]
pub struct Readiness {
    reasons: watch::Sender<BTreeMap<String, String>>,
}

impl Readiness {
    /// Notes that a part is not ready, and why.
    pub fn not_ready(&self, part: &str, reason: impl Into<String>) {
        self.reasons.send_modify(|reasons| {
            reasons.insert(part.to_owned(), reason.into());
        });
    }

    /// Notes that a part is ready.
    pub fn ready(&self, part: &str) {
        self.reasons.send_modify(|reasons| {
            reasons.remove(part);
        });
    }

    /// What is not ready, and why.
    pub fn reasons(&self) -> BTreeMap<String, String> {
        self.reasons.borrow().clone()
    }

    /// The same, and a way to wait for changes.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.reasons.subscribe()
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}{}", if source.kind() == std::io::ErrorKind::AddrInUse { ": the port is taken; choose another, or port 0 for a free one" } else { "" })]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// Listens on an address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError { address, source })
}

#[derive(Clone)]
struct Shared {
    registry: Registry,
    readiness: Readiness,
}

/// Serves until the token is cancelled.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: Readiness,
    token: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready_page))
        .with_state(Shared { registry, readiness });
    axum::serve(listener, app)
        .with_graceful_shutdown(token.cancelled_owned())
        .await
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    match metrics::text(&shared.registry) {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready_page(State(shared): State<Shared>) -> Response {
    let reasons = shared.readiness.reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let text: String = reasons
        .iter()
        .map(|(part, reason)| format!("{part}: {reason}\n"))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
