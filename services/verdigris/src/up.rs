//! `up`: all roles in one process, from configuration to a clean end.

use std::time::Duration;

use anyhow::Context;
use verdigris_runtime::authentication::Tokens;
use verdigris_runtime::config::process::{KEYS, Process};
use verdigris_runtime::config::{self, FileText, Flag, Sources, Values};
use verdigris_runtime::http::{self, Readiness, bind};
use verdigris_runtime::metrics;
use verdigris_runtime::shutdown::{Tasks, terminated};
use verdigris_runtime::telemetry;

use crate::arguments::{Global, LogFormat, Up};
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::folder::take_or_refuse;
use crate::output::{Format, Output};
use crate::server::{self, Start};

/// Beyond the drain's own limit: what tasks need to notice and to write their goodbyes.
const END_MARGIN: Duration = Duration::from_secs(10);
/// Environment variables with our prefix that are no configuration keys.
pub(crate) const OTHER_VARIABLES: &[&str] = &[
    "VERDIGRIS_SERVER",
    "VERDIGRIS_DATA",
    "VERDIGRIS_COLLECTION",
    "VERDIGRIS_CLIENT_TOKEN_FILE",
    "VERDIGRIS_CACHE",
    "VERDIGRIS_CONFIG",
];

/// The configuration of `up`, from all layers.
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
        KEYS,
        Sources {
            file,
            environment,
            other_variables: OTHER_VARIABLES,
            flags,
        },
    )?)
}

fn flags(up: &Up) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut add = |flag, key, text: Option<String>| flags.extend(text.map(|text| Flag { flag, key, text }));
    add("--grpc", "grpc.address", up.grpc.map(|address| address.to_string()));
    add("--http", "http.address", up.http.map(|address| address.to_string()));
    add(
        "--token-file",
        "grpc.token_file",
        up.token_file.as_ref().map(|path| path.display().to_string()),
    );
    add("--insecure", "grpc.insecure", up.insecure.then(|| "true".to_owned()));
    let word = |format| if format == LogFormat::Json { "json" } else { "text" };
    add("--log", "log.format", up.log.map(|format| word(format).to_owned()));
    flags
}

/// Runs until SIGTERM or SIGINT, or until a task ends unexpectedly.
pub(crate) async fn run(up: &Up, global: &Global, output: &Output) -> anyhow::Result<Exit> {
    let process = Process::of(&configuration(up.config.as_deref(), flags(up))?);
    let _telemetry = telemetry::begin(&process.telemetry)?;
    let addresses = [process.grpc, process.http];
    let tokens = Tokens::for_addresses(&addresses, process.token_file.as_deref(), process.insecure)?;
    let folder = take_or_refuse(&global.data)?;
    let (grpc, http_listener) = (bind(process.grpc).await?, bind(process.http).await?);
    let (registry, readiness) = (metrics::registry()?, Readiness::default());
    let (tasks, mut ended) = Tasks::new();
    readiness.not_ready("start", "starting");
    let http_address = http_listener.local_addr()?;
    let serving = http::serve(http_listener, registry.clone(), readiness.clone(), tasks.token());
    tasks.spawn("HTTP server", async move { Ok(serving.await?) });
    let start = Start {
        folder,
        models: crate::model_folder(global),
        tokens,
        concurrent_calls: process.concurrent_calls,
        drain: process.drain,
        registry,
        readiness: readiness.clone(),
    };
    let terminated = terminated();
    let running = server::start(start, grpc, &tasks).await?;
    readiness.ready("start");
    announce(output, running.grpc, http_address)?;
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

fn announce(output: &Output, grpc: std::net::SocketAddr, http: std::net::SocketAddr) -> anyhow::Result<()> {
    let (grpc, http) = (format!("http://{grpc}"), format!("http://{http}"));
    match output.format() {
        Format::Json => output.text(&serde_json::json!({"grpc": grpc, "http": http}).to_string())?,
        Format::People => {
            output.text(&format!(
                "verdigris is up\n  gRPC            {grpc}\n  metrics, health {http}"
            ))?;
        }
    }
    Ok(())
}
