//! `up`, and each role alone: a process that serves, from configuration to a clean end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use verdigris_runtime::authentication::Tokens;
use verdigris_runtime::config::process::Process;
use verdigris_runtime::config::{self, FileText, Flag, Sources, Values};
use verdigris_runtime::http::{self, Readiness, bind};
use verdigris_runtime::listening::{Drain, Farewell};
use verdigris_runtime::metrics;
use verdigris_runtime::shutdown::{Tasks, terminated};
use verdigris_runtime::socket::Socket;
use verdigris_runtime::telemetry;
use verdigris_runtime::tls::Tls;

use crate::arguments::{Global, LogFormat, Serve};
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::folder::take_or_refuse;
use crate::keys::keys;
use crate::output::{Format, Output};
use crate::server::{self, Listeners, Role, Running, Start};

/// Beyond the drain's own limit: what tasks need to notice and to write their goodbyes.
const END_MARGIN: Duration = Duration::from_secs(10);
/// Where a role alone administers, unless it is said.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7702);
/// Environment variables with our prefix that are no configuration keys.
pub(crate) const OTHER_VARIABLES: &[&str] = &[
    "VERDIGRIS_SERVER",
    "VERDIGRIS_ADMIN_SERVER",
    "VERDIGRIS_DATA",
    "VERDIGRIS_COLLECTION",
    "VERDIGRIS_CLIENT_TOKEN_FILE",
    "VERDIGRIS_CLIENT_CERTIFICATE",
    "VERDIGRIS_CLIENT_KEY",
    "VERDIGRIS_CA_FILE",
    "VERDIGRIS_CACHE",
    "VERDIGRIS_CONFIG",
];

/// The configuration of a process that serves, from all layers.
pub(crate) fn configuration(file: Option<&std::path::Path>, flags: Vec<Flag>) -> anyhow::Result<Values> {
    let file = match file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| CommandError::Read {
                path: format!("configuration file {}", path.display()),
                source,
            })?;
            Some(FileText {
                path: path.to_owned(),
                text,
            })
        }
    };
    let environment = std::env::vars().collect();
    Ok(config::load(
        keys(),
        Sources {
            file,
            environment,
            other_variables: OTHER_VARIABLES,
            flags,
        },
    )?)
}

fn flags(serve: &Serve) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut add = |flag, key, text: Option<String>| flags.extend(text.map(|text| Flag { flag, key, text }));
    add("--grpc", "grpc.address", serve.grpc.map(|address| address.to_string()));
    add(
        "--socket",
        "grpc.socket",
        serve.socket.as_ref().map(|path| path.display().to_string()),
    );
    add("--http", "http.address", serve.http.map(|address| address.to_string()));
    add(
        "--admin",
        "admin.address",
        serve.admin.map(|address| address.to_string()),
    );
    add(
        "--token-file",
        "grpc.token_file",
        serve.token_file.as_ref().map(|path| path.display().to_string()),
    );
    add("--insecure", "grpc.insecure", serve.insecure.then(|| "true".to_owned()));
    let word = |format| if format == LogFormat::Json { "json" } else { "text" };
    add("--log", "log.format", serve.log.map(|format| word(format).to_owned()));
    flags
}

/// Runs until SIGTERM or SIGINT, or until a task ends unexpectedly.
pub(crate) async fn run(role: Role, serve: &Serve, global: &Global, output: &Output) -> anyhow::Result<Exit> {
    let values = configuration(serve.config.as_deref(), flags(serve))?;
    let process = Process::of(&values)?;
    let _telemetry = telemetry::begin(&process.telemetry)?;
    let addresses = Addresses::of(role, &process);
    let tokens = Tokens::for_addresses(&addresses.all(), process.token_file.as_deref(), process.insecure)?
        .beside(process.callers());
    let tls = process.tls.clone().map(Tls::read).transpose()?;
    let folder = take_or_refuse(&global.data)?;
    let (listeners, http_listener) = (addresses.listen().await?, bind(process.http).await?);
    let (registry, readiness) = (metrics::registry()?, Readiness::default());
    let (tasks, mut ended) = Tasks::new();
    readiness.not_ready("start", "starting");
    let http_address = http_listener.local_addr()?;
    let serving = http::serve(http_listener, registry.clone(), readiness.clone(), tasks.token());
    tasks.spawn("HTTP server", async move { Ok(serving.await?) });
    let start = Start {
        role,
        values,
        folder,
        models: crate::model_folder(global),
        tokens,
        tls,
        concurrent_calls: process.concurrent_calls,
        busy_poll: process.busy_poll,
        drain: drain(role, process.drain),
        registry,
        readiness: readiness.clone(),
    };
    let terminated = terminated();
    let running = server::start(start, listeners, &tasks).await?;
    readiness.ready("start");
    announce(output, role, &running, http_address)?;
    let exit = tokio::select! {
        signal = terminated => {
            tracing::info!("{}: finishing what is under way", signal?);
            Exit::Done
        }
        ended = ended.recv() => {
            let ended = ended.context("no task is left")?;
            tracing::error!("{ended}");
            Exit::Error
        }
    };
    if !tasks.end(process.drain.notice + process.drain.limit + END_MARGIN).await {
        tracing::warn!(tasks = ?tasks.running(), "some tasks did not end in time");
    }
    Ok(exit)
}

/// Other search processes take over the clients of one that ends; `up` is the only one.
fn drain(role: Role, drain: Drain) -> Drain {
    match role {
        Role::Search => Drain {
            farewell: Farewell::Spread,
            ..drain
        },
        Role::All | Role::Indexer | Role::Controller => drain,
    }
}

/// Where a process is to listen.
struct Addresses {
    grpc: Option<SocketAddr>,
    socket: Option<PathBuf>,
    admin: Option<SocketAddr>,
    http: SocketAddr,
}

impl Addresses {
    fn of(role: Role, process: &Process) -> Self {
        let http = process.http;
        let (grpc, admin) = match role {
            Role::All => (Some(process.grpc), process.admin),
            Role::Indexer | Role::Search => (Some(process.grpc), Some(process.admin.unwrap_or(ADMIN))),
            Role::Controller => (None, Some(process.admin.unwrap_or(ADMIN))),
        };
        let socket = process.socket.clone().filter(|_| grpc.is_some());
        Self {
            grpc,
            socket,
            admin,
            http,
        }
    }

    fn all(&self) -> Vec<SocketAddr> {
        let of_grpc = self.grpc.into_iter().chain(self.admin);
        of_grpc.chain([self.http]).collect()
    }

    async fn listen(&self) -> anyhow::Result<Listeners> {
        let mut listeners = Listeners {
            grpc: None,
            socket: None,
            admin: None,
        };
        if let Some(grpc) = self.grpc {
            listeners.grpc = Some(bind(grpc).await?);
        }
        if let Some(socket) = &self.socket {
            listeners.socket = Some(Socket::bind(socket).await?);
        }
        if let Some(admin) = self.admin {
            listeners.admin = Some(bind(admin).await?);
        }
        Ok(listeners)
    }
}

fn announce(output: &Output, role: Role, running: &Running, http: SocketAddr) -> anyhow::Result<()> {
    let scheme = running.scheme;
    let url = |address: SocketAddr| format!("{scheme}://{address}");
    let (grpc, admin) = (running.grpc.map(url), running.admin.map(url));
    let socket = running.socket.as_ref().map(|path| format!("unix:{}", path.display()));
    let http = format!("http://{http}");
    let who = match role {
        Role::All => "verdigris",
        Role::Indexer => "verdigris indexer",
        Role::Search => "verdigris search",
        Role::Controller => "verdigris controller",
    };
    match output.format() {
        Format::Json => {
            let mut said = serde_json::json!({"http": http});
            let named = [("grpc", grpc), ("socket", socket), ("admin", admin)];
            for (name, url) in named.into_iter().filter_map(|(name, url)| Some((name, url?))) {
                said[name] = url.into();
            }
            output.text(&said.to_string())?;
        }
        Format::People => {
            let grpc = grpc.map(|url| format!("\n  gRPC            {url}")).unwrap_or_default();
            let socket = socket
                .map(|url| format!("\n  gRPC here       {url}"))
                .unwrap_or_default();
            let admin = admin
                .map(|url| format!("\n  administration  {url}"))
                .unwrap_or_default();
            output.text(&format!("{who} is up{grpc}{socket}{admin}\n  metrics, health {http}"))?;
        }
    }
    Ok(())
}
