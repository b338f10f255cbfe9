//! All roles in one process, put together: what `up` runs, and what a command runs on a folder that nobody serves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use verdigris_bus::{Bus, SqliteBus, SqliteOptions};
use verdigris_controller::metrics::ControllerMetrics;
use verdigris_controller::{Controller, ControllerDeps, RolloutRpc};
use verdigris_core::queries::LoggedQuery;
use verdigris_embed::{CACHE_VECTORS_MAX, Embedders, EmbeddingCache};
use verdigris_engine::release::open::OpenRelease;
use verdigris_indexer::metrics::IndexerMetrics;
use verdigris_indexer::{AdminRpc, ForgetQueries, Indexer, IndexerDeps, IngestRpc, collect_garbage};
use verdigris_proto::admin::admin_service_server::AdminServiceServer;
use verdigris_proto::ingest::ingest_service_server::IngestServiceServer;
use verdigris_proto::reason::Reason;
use verdigris_proto::rollout::rollout_service_server::RolloutServiceServer;
use verdigris_proto::search::measurement_service_server::MeasurementServiceServer;
use verdigris_proto::search::query_service_server::QueryServiceServer;
use verdigris_proto::search::search_service_server::SearchServiceServer;
use verdigris_runtime::authentication::{Scope, Tokens};
use verdigris_runtime::clock::Clock;
use verdigris_runtime::http::Readiness;
use verdigris_runtime::listening::{Drain, Server};
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_runtime::serving::{GuardConfig, GuardLayer, MESSAGE_BYTES_MAX, RETRY_AFTER, Refused};
use verdigris_runtime::shutdown::Tasks;
use verdigris_search::metrics::SearchMetrics;
use verdigris_search::{MeasurementRpc, QueryRpc, Search, SearchDeps, SearchRpc, Standstill, StandstillOf};
use verdigris_store::Store;
use verdigris_store::directory::DirectoryStore;

use crate::folder::Folder;
use crate::memory::memory_limit;
use crate::opener::Opener;
use crate::searchers::InProcess;

/// How often a reader looks at the pointer of a folder on its own machine.
const POLL: Duration = Duration::from_millis(50);

/// What a process of all roles is started with.
pub(crate) struct Start {
    pub(crate) folder: Folder,
    pub(crate) models: PathBuf,
    pub(crate) tokens: Tokens,
    pub(crate) concurrent_calls: usize,
    pub(crate) drain: Drain,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
}

/// A process of all roles that answers.
pub(crate) struct Running {
    /// Where gRPC listens.
    pub(crate) grpc: SocketAddr,
    /// Keeps the folder locked.
    _folder: Folder,
}

/// What the roles of a process share.
struct Parts {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    opener: Arc<dyn OpenRelease>,
    embedders: Arc<Embedders>,
    clock: Clock,
    threads: usize,
}

fn parts(folder: &Folder, models: PathBuf) -> anyhow::Result<Parts> {
    let clock = Clock::system();
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(&folder.store())?);
    let of_bus = clock.clone();
    let options = SqliteOptions::default();
    let bus = SqliteBus::open(&folder.bus(), options, Arc::new(move || of_bus.now_ns()))?;
    let opener = Arc::new(Opener::new(store.clone()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cache = EmbeddingCache::open(&folder.cache().join("embeddings.sqlite"), CACHE_VECTORS_MAX);
    let cache = cache.context("the embedding cache cannot be opened")?;
    let embedders = Arc::new(Embedders::new(models, threads, Some(Arc::new(cache))));
    let bus: Arc<dyn Bus> = Arc::new(bus);
    Ok(Parts {
        store,
        bus,
        opener,
        embedders,
        clock,
        threads,
    })
}

/// Starts all roles and serves gRPC on `listener`.
pub(crate) async fn start(mut start: Start, listener: TcpListener, tasks: &Tasks) -> anyhow::Result<Running> {
    let Parts {
        store,
        bus,
        opener,
        embedders,
        clock,
        threads,
    } = parts(&start.folder, start.models)?;
    let instance = format!("up/{}-{:x}", std::process::id(), clock.now_ns());
    let searching: Arc<OnceLock<Arc<Search>>> = Arc::default();
    let deps = IndexerDeps {
        store: store.clone(),
        bus,
        opener: opener.clone(),
        embedders: embedders.clone(),
        clock: clock.clone(),
        scratch: start.folder.scratch(),
        threads,
        metrics: IndexerMetrics::register(&start.registry)?,
        forget_queries: forget_queries(searching.clone()),
    };
    let indexer = Indexer::start(deps, tasks.clone(), instance.clone()).await?;
    let (garbage, token) = (indexer.clone(), tasks.token());
    tasks.spawn("garbage collection", async move {
        collect_garbage(garbage, token).await;
        Ok(())
    });
    let (owned_store, owner_clock) = (store.clone(), clock.clone());
    let deps = SearchDeps {
        store,
        opener,
        embedders,
        clock,
        poll: POLL,
        parallel_searches: threads,
        standstill: standstill_of(indexer.clone()),
        readiness: start.readiness.clone(),
        metrics: SearchMetrics::register(&start.registry)?,
        query_log: Some(start.folder.cache().join("queries")),
        memory_limit: memory_limit(),
        drag: None,
    };
    let search = Search::start(deps, tasks.clone()).await?;
    // It is set once, here.
    let _ = searching.set(search.clone());
    let metrics = ControllerMetrics::register(&start.registry)?;
    let owner = owner(owned_store, search.clone(), owner_clock, metrics, instance);
    let controller = Controller::start(owner, tasks.clone()).await?;
    let guard = guard(&start.registry, start.tokens, start.concurrent_calls)?;
    let server = Server {
        routes: routes(search, indexer, controller),
        guard,
        descriptors: verdigris_proto::FILE_DESCRIPTORS,
        readiness: start.readiness,
        drain: start.drain,
    };
    let grpc = listener.local_addr()?;
    start
        .folder
        .announce(Some(grpc))
        .context("the lock file cannot be written")?;
    let token = tasks.token();
    tasks.spawn("gRPC server", serve(server, listener, token));
    Ok(Running {
        grpc,
        _folder: start.folder,
    })
}

/// What the owner of rollouts works with.
fn owner(
    store: Arc<dyn Store>,
    search: Arc<Search>,
    clock: Clock,
    metrics: ControllerMetrics,
    id: String,
) -> ControllerDeps {
    ControllerDeps {
        store,
        searchers: Arc::new(InProcess(search)),
        clock,
        metrics,
        id,
    }
}

/// Why publishing stands still, as the indexer knows.
fn standstill_of(indexer: Arc<Indexer>) -> StandstillOf {
    Arc::new(move |name| {
        let standstill = indexer.handle(name)?.status.standstill()?;
        Some(Standstill {
            reason: standstill.reason,
            message: standstill.message,
        })
    })
}

/// Takes logged queries away that name an erased document by its id.
fn forget_queries(searching: Arc<OnceLock<Arc<Search>>>) -> ForgetQueries {
    Arc::new(move |name, ids| {
        let (searching, name) = (searching.clone(), name.clone());
        Box::pin(async move {
            // The indexer begins first, and asks again.
            let search = searching.get().ok_or(std::io::ErrorKind::NotConnected)?;
            let says = move |query: &LoggedQuery| ids.iter().any(|id| query.names(id));
            search.delete_logged_queries(&name, says).await.map(|_| ())
        })
    })
}

/// The services of all roles.
fn routes(search: Arc<Search>, indexer: Arc<Indexer>, controller: Arc<Controller>) -> Routes {
    Routes::new(limited(SearchServiceServer::new(SearchRpc::new(search.clone()))))
        .add_service(
            QueryServiceServer::new(QueryRpc::new(search.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(MeasurementServiceServer::new(MeasurementRpc::new(search)))
        .add_service(
            IngestServiceServer::new(IngestRpc::new(indexer.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(AdminServiceServer::new(AdminRpc::new(indexer)).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(RolloutServiceServer::new(RolloutRpc::new(controller)))
}

async fn serve(server: Server, listener: TcpListener, token: CancellationToken) -> anyhow::Result<()> {
    let drained = server.serve(listener, token).await?;
    if drained.cut > 0 {
        tracing::warn!(cut = drained.cut, "connections were cut when the drain's time was over");
    }
    Ok(())
}

fn guard(registry: &Registry, tokens: Tokens, concurrent_calls: usize) -> anyhow::Result<GuardLayer> {
    let metrics = RpcMetrics::register(registry)?;
    Ok(GuardLayer::new(GuardConfig {
        tokens,
        scope_of,
        status_of: status_of_refusal,
        concurrent_calls,
        metrics,
    }))
}

fn limited(service: SearchServiceServer<SearchRpc>) -> SearchServiceServer<SearchRpc> {
    service
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX * 4)
}

/// The scope that a method needs.
fn scope_of(path: &str) -> Option<Scope> {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match service {
        "verdigris.search.v1.SearchService" => Some(Scope::Read),
        "verdigris.ingest.v1.IngestService" => Some(Scope::Ingest),
        "verdigris.admin.v1.AdminService"
        | "verdigris.search.v1.MeasurementService"
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
