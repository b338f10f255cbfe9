//! The guard in front of all services: which scope a method needs, and how a refusal is told.

use prometheus::Registry;
use tonic::Status;
use verdigris_proto::reason::Reason;
use verdigris_runtime::authentication::{Scope, Tokens};
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_runtime::serving::{GuardConfig, GuardLayer, MESSAGE_BYTES_MAX, RETRY_AFTER, Refused};

/// The guard of a process, and the figures that it keeps.
pub(crate) fn guard(
    registry: &Registry,
    tokens: Tokens,
    concurrent_calls: usize,
) -> anyhow::Result<(GuardLayer, RpcMetrics)> {
    let metrics = RpcMetrics::register(registry)?;
    let layer = GuardLayer::new(GuardConfig {
        tokens,
        scope_of,
        status_of: status_of_refusal,
        concurrent_calls,
        metrics: metrics.clone(),
    });
    Ok((layer, metrics))
}

/// The scope that a method needs.
fn scope_of(path: &str) -> Option<Scope> {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match service {
        "verdigris.search.v1.SearchService" => Some(Scope::Read),
        "verdigris.ingest.v1.IngestService" => Some(Scope::Ingest),
        "verdigris.admin.v1.AdminService"
        | "verdigris.search.v1.MeasurementService"
        | "verdigris.search.v1.PodService"
        | "verdigris.search.v1.QueryService"
        | "verdigris.rollout.v1.RolloutService" => Some(Scope::Admin),
        _ => None,
    }
}

fn status_of_refusal(refused: Refused) -> Status {
    match refused {
        Refused::Unauthenticated => Reason::Unauthenticated.status("this server needs a token that it knows"),
        Refused::PermissionDenied(scope) => {
            let scope = scope.as_str();
            Reason::PermissionDenied.status(format!("the token does not have the scope {scope}"))
        }
        Refused::Overloaded(_) => {
            Reason::Overloaded.status_with_retry("too many calls are being answered; try again shortly", RETRY_AFTER)
        }
        Refused::DeadlineExceeded => Reason::DeadlineExceeded.status("the deadline passed before the answer was there"),
        Refused::TooLarge => Reason::TooLarge.status(format!("a message is larger than {MESSAGE_BYTES_MAX} bytes")),
        Refused::Panicked => Reason::Internal.status("a mistake of the server ended this call; its log says more"),
    }
}
