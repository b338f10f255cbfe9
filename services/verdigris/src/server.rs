//! Roles put together in one process: all of them (`up`, or what a command runs on a folder that nobody serves), or one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use anyhow::Context;
use prometheus::{IntCounter, Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use verdigris_bus::Bus;
use verdigris_controller::metrics::ControllerMetrics;
use verdigris_controller::{Controller, ControllerDeps, RolloutRpc, Scope, Searchers};
use verdigris_core::queries::LoggedQuery;
use verdigris_indexer::metrics::IndexerMetrics;
use verdigris_indexer::{AdminRpc, ForgetQueries, Indexer, IndexerDeps, IngestRpc, collect_garbage};
use verdigris_proto::admin::admin_service_server::AdminServiceServer;
use verdigris_proto::ingest::ingest_service_server::IngestServiceServer;
use verdigris_proto::rollout::rollout_service_server::RolloutServiceServer;
use verdigris_proto::search::measurement_service_server::MeasurementServiceServer;
use verdigris_proto::search::pod_service_server::PodServiceServer;
use verdigris_proto::search::query_service_server::QueryServiceServer;
use verdigris_proto::search::search_service_server::SearchServiceServer;
use verdigris_runtime::authentication::Tokens;
use verdigris_runtime::busy_poll::BusyPoll;
use verdigris_runtime::config::Values;
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::http::Readiness;
use verdigris_runtime::listening::{Drain, Listener, Server};
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_runtime::serving::{GuardLayer, MESSAGE_BYTES_MAX};
use verdigris_runtime::shutdown::Tasks;
use verdigris_runtime::socket::Socket;
use verdigris_runtime::tls::Tls;
use verdigris_search::metrics::SearchMetrics;
use verdigris_search::{
    Collections, Downloaded, Following, MeasurementRpc, OpenLimits, PodDeps, PodRpc, QueryRpc, Search, SearchDeps,
    SearchRpc, Standstill, StandstillOf, Start as StartOf,
};

use crate::access;
use crate::figures;
use crate::folder::Folder;
use crate::memory::memory_limit;
use crate::parts::{Opening, Parts, Rights, open_bus};
use crate::remote::Remote;
use crate::searchers::InProcess;

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// All roles.
    All,
    /// Events in, releases out.
    Indexer,
    /// Answers.
    Search,
    /// The owner of rollouts.
    Controller,
}

impl Role {
    fn rights(self) -> Rights {
        match self {
            Self::Search => Rights::Read,
            Self::All | Self::Indexer | Self::Controller => Rights::Write,
        }
    }
}

/// What a process is started with.
pub(crate) struct Start {
    pub(crate) role: Role,
    pub(crate) values: Values,
    pub(crate) folder: Folder,
    pub(crate) models: PathBuf,
    pub(crate) tokens: Tokens,
    pub(crate) tls: Option<Tls>,
    pub(crate) concurrent_calls: usize,
    pub(crate) busy_poll: Duration,
    pub(crate) drain: Drain,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
}

/// Where a process listens.
pub(crate) struct Listeners {
    /// For searches and events; none in a process that has neither.
    pub(crate) grpc: Option<TcpListener>,
    /// For the same, of programs on this machine.
    pub(crate) socket: Option<Socket>,
    /// For administration, where it is not there as well.
    pub(crate) admin: Option<TcpListener>,
}

/// A process that answers.
pub(crate) struct Running {
    /// Where gRPC listens.
    pub(crate) grpc: Option<SocketAddr>,
    /// The socket that it listens on as well.
    pub(crate) socket: Option<PathBuf>,
    /// Where administration listens, where that is a port of its own.
    pub(crate) admin: Option<SocketAddr>,
    /// How both are spoken to.
    pub(crate) scheme: &'static str,
    /// Keeps the folder locked.
    _folder: Folder,
}

/// Services by the port that they are on.
struct Services {
    open: Routes,
    /// Of those who administer, where they have a port of their own.
    administration: Option<Routes>,
}

/// How long at most the other roles of a process let the search alone with a start: nobody waits for the first claim of
/// a pointer, and everybody for the first answer.
const HEAD_START: Duration = Duration::from_secs(1);

/// Starts the role and serves what it has.
pub(crate) async fn start(mut start: Start, listeners: Listeners, tasks: &Tasks) -> anyhow::Result<Running> {
    let (guard, calls) = access::guard(&start.registry, start.tokens.clone(), start.concurrent_calls)?;
    let demotion = Demotion::default();
    figures::of_demotion(&start.registry, &demotion)?;
    let mut services = Services {
        open: Routes::default(),
        administration: listeners.admin.as_ref().map(|_| Routes::default()),
    };
    let opening = add_roles(&start, &mut services, calls, &demotion, tasks).await?;
    let address = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
    let (grpc, admin) = (address(&listeners.grpc)?, address(&listeners.admin)?);
    let (folder, announced) = (&mut start.folder, grpc.or(admin));
    folder
        .announce(announced, admin)
        .context("the lock file cannot be written")?;
    let busy_poll = BusyPoll::new(start.busy_poll);
    let server = |routes: Routes, demotion: &Demotion, guard: &GuardLayer| Server {
        routes,
        guard: guard.clone(),
        descriptors: verdigris_proto::FILE_DESCRIPTORS,
        readiness: start.readiness.clone(),
        drain: start.drain,
        demotion: demotion.clone(),
        tls: start.tls.clone(),
        busy_poll: busy_poll.clone(),
    };
    if let Some((listener, routes)) = listeners.admin.zip(services.administration) {
        // Whoever administers is not demoted.
        let server = server(routes, &Demotion::default(), &guard);
        tasks.spawn("administration", serve(server, Listener::Tcp(listener), tasks.token()));
    }
    let socket = listeners.socket.as_ref().map(|socket| socket.path().to_owned());
    if let Some(socket) = listeners.socket {
        let server = server(services.open.clone(), &demotion, &guard);
        tasks.spawn(
            "gRPC server on a socket",
            serve(server, Listener::Unix(socket), tasks.token()),
        );
    }
    if let Some(listener) = listeners.grpc {
        let server = server(services.open, &demotion, &guard);
        tasks.spawn("gRPC server", serve(server, Listener::Tcp(listener), tasks.token()));
    }
    if let Some((search, others)) = opening {
        before_others(search.opened(), &others).await;
    }
    Ok(Running {
        grpc,
        socket,
        admin,
        scheme: if start.tls.is_some() { "https" } else { "http" },
        _folder: start.folder,
    })
}

/// Waits until the search has opened what it finds. The other roles begin then, or when it takes long.
async fn before_others(opened: impl Future<Output = ()>, others: &CancellationToken) {
    tokio::pin!(opened);
    if tokio::time::timeout(HEAD_START, &mut opened).await.is_err() {
        others.cancel();
        opened.await;
    }
    others.cancel();
}

/// The search that is to have all collections open before the process is ready, where there is one, and what the other
/// roles wait for.
async fn add_roles(
    start: &Start,
    services: &mut Services,
    calls: RpcMetrics,
    demotion: &Demotion,
    tasks: &Tasks,
) -> anyhow::Result<Option<(Arc<Search>, CancellationToken)>> {
    let parts = Parts::open(&start.values, &start.folder, start.role.rights(), &start.registry).await?;
    let instance = format!("up/{}-{:x}", std::process::id(), parts.clock.now_ns());
    let bus = || open_bus(&start.values, &start.folder, &parts.clock);
    let opening = || parts.opening(&start.values, &start.folder, start.models.clone(), &start.registry);
    let pods = PodDeps {
        demotion: demotion.clone(),
        calls,
    };
    match start.role {
        Role::All => {
            let opening = opening()?;
            let bus = bus().await?;
            let indexing: Arc<OnceLock<Weak<Indexer>>> = Arc::default();
            // Releases are what a start takes longest for: they are hashed and opened while the rest is put together.
            // What may refuse the folder comes before.
            let search = start_search(start, &parts, &opening, standstill_of(indexing.clone()), tasks).await?;
            let forget = forget_queries(search.clone());
            let (later, others) = tasks.later();
            let indexer = start_indexer(start, &parts, &opening, bus, forget, instance.clone(), &later).await?;
            // It is set once, here.
            let _ = indexing.set(Arc::downgrade(&indexer));
            let searchers = Arc::new(InProcess(search.clone()));
            let controller = start_controller(start, &parts, searchers, instance, &later).await?;
            services.add_search(search.clone(), pods);
            services.add_indexer(indexer);
            services.add_controller(controller);
            return Ok(Some((search, others)));
        }
        Role::Indexer => {
            // A search process takes erased documents from its own sample, by the list that the pointer names.
            let forget: ForgetQueries = Arc::new(|_, _| Box::pin(async { Ok(()) }));
            let instance = instance.replacen("up/", "indexer/", 1);
            let bus = bus().await?;
            let indexer = start_indexer(start, &parts, &opening()?, bus, forget, instance, tasks).await?;
            services.add_indexer(indexer);
        }
        Role::Search => {
            // What the pointer says of publishing, the role reads by itself.
            let search = start_search(start, &parts, &opening()?, Arc::new(|_| None), tasks).await?;
            services.add_search(search, pods);
        }
        Role::Controller => {
            let searchers = Arc::new(Remote::of(&start.values)?);
            let instance = "controller/local/verdigris".to_owned();
            let controller = start_controller(start, &parts, searchers, instance, tasks).await?;
            services.add_controller(controller);
        }
    }
    Ok(None)
}

async fn start_indexer(
    start: &Start,
    parts: &Parts,
    opening: &Opening,
    bus: Arc<dyn Bus>,
    forget_queries: ForgetQueries,
    instance: String,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Indexer>> {
    let deps = IndexerDeps {
        store: parts.store.clone(),
        bus,
        opener: opening.opener.clone(),
        embedders: opening.embedders.clone(),
        clock: parts.clock.clone(),
        scratch: start.folder.scratch(),
        threads: opening.threads,
        metrics: IndexerMetrics::register(&start.registry)?,
        forget_queries,
    };
    let indexer = Indexer::start(deps, tasks.clone(), instance).await?;
    let (garbage, token) = (indexer.clone(), tasks.token());
    tasks.spawn("garbage collection", async move {
        collect_garbage(garbage, token).await;
        Ok(())
    });
    Ok(indexer)
}

async fn start_search(
    start: &Start,
    parts: &Parts,
    opening: &Opening,
    standstill: StandstillOf,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Search>> {
    let is_alone = start.role == Role::Search;
    let deps = SearchDeps {
        store: parts.store.clone(),
        opener: opening.opener.clone(),
        embedders: opening.embedders.clone(),
        clock: parts.clock.clone(),
        poll: parts.poll,
        parallel_searches: opening.threads,
        standstill,
        readiness: start.readiness.clone(),
        metrics: SearchMetrics::register(&start.registry)?,
        query_log: Some(start.folder.cache().join("queries")),
        memory_limit: memory_limit(),
        following: if is_alone {
            following(&start.values)?
        } else {
            Following::default()
        },
        log_searches: start.values.switch("search.log").unwrap_or(is_alone),
        downloaded: downloaded_by(parts.fetched.clone()),
        drag: None,
    };
    Ok(Search::start(deps, tasks.clone()).await?)
}

fn downloaded_by(fetched: IntCounter) -> Downloaded {
    Arc::new(move || fetched.get())
}

fn following(values: &Values) -> anyhow::Result<Following> {
    let collections = values.text("search.collections").map(Collections::parse).transpose()?;
    let collections = collections.unwrap_or_default();
    let lineage = values.text("search.lineage");
    anyhow::ensure!(
        lineage.is_none() || !matches!(collections, Collections::Prefix(_)),
        "search.lineage names a lineage of one collection, and search.collections is a prefix of many"
    );
    let usual = OpenLimits::default();
    Ok(Following {
        lineage: lineage.map(|lineage| lineage.to_owned().into()),
        collections,
        start: StartOf::Beside,
        limits: OpenLimits {
            idle: values.duration("search.idle").unwrap_or(usual.idle),
            open_max: values
                .count("search.open_max")
                .map_or(usual.open_max, |count| count as usize),
        },
    })
}

async fn start_controller(
    start: &Start,
    parts: &Parts,
    searchers: Arc<dyn Searchers>,
    id: String,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Controller>> {
    let deps = ControllerDeps {
        store: parts.store.clone(),
        searchers,
        clock: parts.clock.clone(),
        metrics: ControllerMetrics::register(&start.registry)?,
        id,
        scope: Scope::default(),
    };
    Ok(Controller::start(deps, tasks.clone()).await?)
}

/// Why publishing stands still, as the indexer knows once it has begun. The indexer has the search in its hands as well:
/// one of the two must let the other go, or neither is ever closed.
fn standstill_of(indexing: Arc<OnceLock<Weak<Indexer>>>) -> StandstillOf {
    Arc::new(move |name| {
        let standstill = indexing.get()?.upgrade()?.handle(name)?.status.standstill()?;
        Some(Standstill {
            reason: standstill.reason,
            message: standstill.message,
        })
    })
}

/// Takes logged queries away that name an erased document by its id.
fn forget_queries(search: Arc<Search>) -> ForgetQueries {
    Arc::new(move |name, ids| {
        let (search, name) = (search.clone(), name.clone());
        Box::pin(async move {
            let says = move |query: &LoggedQuery| ids.iter().any(|id| query.names(id));
            search.delete_logged_queries(&name, says).await.map(|_| ())
        })
    })
}

// === impl Services ===

impl Services {
    fn add_search(&mut self, search: Arc<Search>, pods: PodDeps) {
        let answers = SearchServiceServer::new(SearchRpc::new(search.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX * 4);
        let queries = QueryServiceServer::new(QueryRpc::new(search.clone()));
        add(&mut self.open, |routes| routes.add_service(answers));
        add(self.administration(), |routes| {
            routes
                .add_service(queries.max_decoding_message_size(MESSAGE_BYTES_MAX))
                .add_service(MeasurementServiceServer::new(MeasurementRpc::new(search.clone())))
                .add_service(PodServiceServer::new(PodRpc::new(search, pods)))
        });
    }

    fn add_indexer(&mut self, indexer: Arc<Indexer>) {
        let ingest = IngestServiceServer::new(IngestRpc::new(indexer.clone()));
        let admin = AdminServiceServer::new(AdminRpc::new(indexer));
        add(&mut self.open, |routes| {
            routes.add_service(ingest.max_decoding_message_size(MESSAGE_BYTES_MAX))
        });
        add(self.administration(), |routes| {
            routes.add_service(admin.max_decoding_message_size(MESSAGE_BYTES_MAX))
        });
    }

    fn add_controller(&mut self, controller: Arc<Controller>) {
        let rollouts = RolloutServiceServer::new(RolloutRpc::new(controller));
        add(self.administration(), |routes| routes.add_service(rollouts));
    }

    fn administration(&mut self) -> &mut Routes {
        self.administration.as_mut().unwrap_or(&mut self.open)
    }
}

fn add(routes: &mut Routes, more: impl FnOnce(Routes) -> Routes) {
    *routes = more(std::mem::take(routes));
}

async fn serve(server: Server, listener: Listener, token: CancellationToken) -> anyhow::Result<()> {
    let drained = server.serve(listener, token).await;
    if drained.cut > 0 {
        tracing::warn!(cut = drained.cut, "connections were cut when the drain's time was over");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_other_roles_begin_after_the_search_or_a_moment_later() {
        for (takes, begin_after) in [(HEAD_START / 2, HEAD_START / 2), (HEAD_START * 10, HEAD_START)] {
            let (others, began) = (CancellationToken::new(), tokio::time::Instant::now());
            let search = before_others(tokio::time::sleep(takes), &others);
            let (begun, ()) = tokio::join!(
                async {
                    others.cancelled().await;
                    began.elapsed()
                },
                search
            );
            assert_eq!(begun.as_millis(), begin_after.as_millis(), "opened after {takes:?}");
            assert_eq!(
                began.elapsed().as_millis(),
                takes.as_millis(),
                "ready when it is opened"
            );
        }
    }
}
