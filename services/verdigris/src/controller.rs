//! `controller`: owns rollouts; in a pod, those of the Collections of its namespace, until it is told to end.
//!
//! Deliberately absent: the store's and the pods' side; the controller's library has both, and here they are only opened.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use verdigris_controller::kubernetes::resource::StoreSpec;
use verdigris_controller::kubernetes::{self, GrpcPods, KubernetesDeps, LeaseOptions, OpenStore};
use verdigris_controller::metrics::ControllerMetrics;
use verdigris_runtime::clock::Clock;
use verdigris_runtime::config::process::Process;
use verdigris_runtime::http::{self, Readiness, bind};
use verdigris_runtime::shutdown::{Tasks, terminated};
use verdigris_runtime::{metrics, telemetry};
use verdigris_store::Store;

use crate::arguments::{Global, Serve};
use crate::client::token;
use crate::exit::Exit;
use crate::output::Output;
use crate::parts::store_at;
use crate::server::Role;
use crate::up;

/// How long tasks may take to end.
const END: std::time::Duration = std::time::Duration::from_secs(15);

/// `controller`.
#[derive(Debug, Args)]
pub(crate) struct Controller {
    /// As the role alone has them
    #[command(flatten)]
    serve: Serve,
    /// Print the resource definition as YAML, and end
    #[arg(long)]
    print_crd: bool,
    /// Namespace whose Collections are watched; without it, rollouts of the store alone are owned
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// Name of this process, in the lease and in events
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "verdigris-controller")]
    identity: String,
    /// Lease by which one of several controllers works; it lies in the namespace that is watched, or in default
    #[arg(long, value_name = "NAME", default_value = "verdigris-controller")]
    lease: String,
    /// Port of administration of search pods
    #[arg(long, value_name = "PORT", default_value_t = 7_702)]
    pods_port: u16,
    /// File with the token that is sent to search pods
    #[arg(long, value_name = "FILE")]
    pods_token_file: Option<std::path::PathBuf>,
}

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
pub(crate) async fn run(controller: &Controller, global: &Global, output: &Output) -> anyhow::Result<Exit> {
    if controller.print_crd {
        output.text(&kubernetes::crd_yaml())?;
        return Ok(Exit::Done);
    }
    if controller.namespace.is_none() {
        return up::run(Role::Controller, &controller.serve, global, output).await;
    }
    let process = Process::of(&up::configuration(controller.serve.config.as_deref(), Vec::new())?)?;
    let _telemetry = telemetry::begin(&process.telemetry)?;
    let (registry, readiness) = (metrics::registry()?, Readiness::default());
    let listener = bind(process.http).await?;
    let figures = ControllerMetrics::register(&registry)?;
    let (tasks, mut ended) = Tasks::new();
    let serving = http::serve(listener, registry, readiness, tasks.token());
    tasks.spawn("HTTP server", async move { Ok(serving.await?) });
    let deps = deps(controller, figures).await?;
    let end: CancellationToken = tasks.token();
    tasks.spawn("Collections", async move { Ok(kubernetes::run(deps, end).await?) });
    let exit = tokio::select! {
        signal = terminated() => {
            tracing::info!("{}: letting the lease go", signal?);
            Exit::Done
        }
        ended = ended.recv() => {
            let ended = ended.context("no task is left")?;
            tracing::error!("{ended}");
            Exit::Error
        }
    };
    tasks.end(END).await;
    Ok(exit)
}

async fn deps(controller: &Controller, metrics: ControllerMetrics) -> anyhow::Result<KubernetesDeps> {
    let client = kubernetes::client().await?;
    let mut pods = GrpcPods::new(controller.pods_port);
    if let Some(file) = &controller.pods_token_file {
        pods = pods
            .with_token(&token(file)?)
            .context("the token has characters that a header cannot hold")?;
    }
    let open_store: OpenStore =
        Arc::new(|spec| Box::pin(async move { open(&spec).await.map_err(|error| format!("{error:#}")) }));
    Ok(KubernetesDeps {
        client,
        open_store,
        pods: Arc::new(pods),
        clock: Clock::system(),
        metrics,
        lease: Some(LeaseOptions {
            namespace: controller.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: controller.lease.clone(),
        }),
        namespace: controller.namespace.clone(),
        tenants_every: kubernetes::TENANTS_EVERY,
        identity: controller.identity.clone(),
    })
}

async fn open(spec: &StoreSpec) -> anyhow::Result<Arc<dyn Store>> {
    store_at(&spec.url, |options| {
        (options.region, options.endpoint) = (spec.region.clone(), spec.endpoint.clone());
        options.path_style = spec.path_style.unwrap_or(false);
    })
    .await
}
