//! A process's services on a real loopback listener, behind the real guard.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use verdigris_proto::admin::admin_service_server::AdminServiceServer;
use verdigris_proto::ingest::ingest_service_server::IngestServiceServer;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::search_service_server::SearchServiceServer;
use verdigris_runtime::authentication::{Scope, Tokens};
use verdigris_runtime::busy_poll::BusyPoll;
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::listening::{Drain, Farewell, Listener, Server};
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_runtime::serving::{GuardConfig, GuardLayer, MESSAGE_BYTES_MAX, RETRY_AFTER, Refused};

use super::Process;

/// Serves the process's roles; at most so many calls of each scope at once.
pub(crate) fn listen(process: &Process, concurrent_calls: usize) -> SocketAddr {
    let guard = GuardLayer::new(GuardConfig {
        tokens: Tokens::open(),
        scope_of,
        status_of,
        concurrent_calls,
        metrics: RpcMetrics::register(&process.registry).expect("a fresh registry"),
    });
    let routes = Routes::new(SearchServiceServer::from_arc(process.search.clone()))
        .add_service(IngestServiceServer::from_arc(process.ingest.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(AdminServiceServer::from_arc(process.admin.clone()));
    let server = Server {
        routes,
        guard,
        descriptors: verdigris_proto::FILE_DESCRIPTORS,
        readiness: process.readiness.clone(),
        drain: Drain {
            notice: Duration::ZERO,
            limit: Duration::from_secs(5),
            farewell: Farewell::AtOnce,
        },
        demotion: Demotion::default(),
        tls: None,
        busy_poll: BusyPoll::default(),
    };
    let listener = process
        .block_on(TcpListener::bind(("127.0.0.1", 0)))
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let token = process.tasks().token();
    let _inside = process.runtime().enter();
    process.tasks().spawn("gRPC server", async move {
        server.serve(Listener::Tcp(listener), token).await;
        Ok(())
    });
    address
}

/// A connection of one's own.
pub(crate) async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

fn scope_of(path: &str) -> Option<Scope> {
    let is = |service: &str| path.starts_with(&format!("/verdigris.{service}.v1."));
    [("search", Scope::Read), ("ingest", Scope::Ingest)]
        .into_iter()
        .find_map(|(service, scope)| is(service).then_some(scope))
}

fn status_of(refused: Refused) -> Status {
    match refused {
        Refused::Overloaded(_) => Reason::Overloaded.status_with_retry("too many calls", RETRY_AFTER),
        Refused::DeadlineExceeded => Reason::DeadlineExceeded.status("the deadline passed"),
        other => Reason::Internal.status(format!("{other:?}")),
    }
}
