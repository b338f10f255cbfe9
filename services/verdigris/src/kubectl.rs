//! `kubectl verdigris`: the same executable under the name of a plugin. It asks the cluster's API alone: how a Collection
//! stands is in its status, and what a person wants is a command that the controller answers there.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use verdigris_controller::kubernetes::plugin::{Command, Plugin, PluginError, Verb};
use verdigris_controller::kubernetes::resource::{Collection, CollectionStatus, SlotStatus};

use crate::commands::{CommandError, user};
use crate::exit::Exit;
use crate::output::{Format, Output, pairs, table, to_the_second};

/// The name under which the executable is the plugin; with `_complete-` before it, kubectl asks for completions.
const NAME: &str = "kubectl-verdigris";
/// Between two looks while watching or waiting.
const LOOK: Duration = Duration::from_millis(500);
/// How long the controller may take to answer a command; going back itself is tried for a minute.
const ANSWER: Duration = Duration::from_secs(90);
/// Phases in which something more happens by itself, soon.
const MOVING: [&str; 7] = [
    "",
    "Building",
    "Warming",
    "Leveling",
    "Judging",
    "Promoting",
    "Returning",
];
/// Moves the cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Blue/green vector search on this cluster.
#[derive(Debug, Parser)]
#[command(name = "kubectl verdigris", version, about)]
struct Arguments {
    /// Namespace; that of the kubeconfig without it
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Asked,
}

#[derive(Debug, Subcommand)]
enum Asked {
    /// List Collections
    Get {
        /// One of them
        name: Option<String>,
    },
    /// Show both slots, pods, gates and where traffic goes
    Status {
        /// Name of the Collection
        name: String,
        /// Go on showing it until stopped
        #[arg(long)]
        watch: bool,
        /// Wait until nothing more happens by itself
        #[arg(long, conflicts_with = "watch")]
        wait: bool,
        /// Give up waiting after this many seconds
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<u64>,
    },
    /// Promote the candidate, as it was judged, and wait until it answers
    Promote {
        #[command(flatten)]
        of: Named,
        /// Generation at which it was judged; the newest verdict without it
        #[arg(long)]
        generation: Option<u64>,
        /// Give up waiting after this many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Give up the candidate, or the way back
    Abort(Named),
    /// Let the way back answer again; nothing is promoted until resumed
    Rollback(Named),
    /// Hold promotion: candidates wait until resumed
    Hold(Named),
    /// Let promotion go on
    Resume(Named),
    /// Show what answered since when, why, by whom
    History {
        /// Name of the Collection
        name: String,
    },
}

/// The Collection that is meant, and who asks.
#[derive(Debug, Args)]
struct Named {
    /// Name of the Collection
    name: String,
    /// Target that is meant; that of the slot beside without it
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Why; it is kept in the history, and shown as long as something is held
    #[arg(long, value_name = "WORDS", default_value = "by hand")]
    reason: String,
    /// Who asks, by default the user of this machine
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

/// Whether the process was started under the plugin's name.
pub(crate) fn is_called() -> bool {
    let program = std::env::args_os().next();
    let program = program.as_deref().map(std::path::Path::new);
    let name = program
        .and_then(std::path::Path::file_name)
        .and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(NAME))
}

/// Runs what was asked of the plugin.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::standard(match arguments.json {
        true => Format::Json,
        false => Format::People,
    });
    // One thing is asked after the other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(asked(&arguments, &output)),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            output.error("SERVER_UNREACHABLE", &format!("{error:#}"), None);
            Exit::Error.into()
        }
    }
}

async fn asked(arguments: &Arguments, output: &Output) -> anyhow::Result<Exit> {
    let plugin = Plugin::connect(arguments.namespace.as_deref(), arguments.context.as_deref()).await?;
    match &arguments.verb {
        Asked::Get { name } => {
            let all = match name {
                Some(name) => vec![plugin.get(name).await?],
                None => plugin.list().await?,
            };
            output.answer(&all, |all| listed(all))?;
            Ok(Exit::Done)
        }
        Asked::Status { name, watch: true, .. } => watched(&plugin, name, output).await,
        Asked::Status {
            name, wait, timeout, ..
        } => {
            let limit = timeout.map(Duration::from_secs);
            let (collection, is_settled) = settled(&plugin, name, *wait, limit).await?;
            told(&collection, output)?;
            Ok(if is_settled { Exit::Done } else { Exit::NotSearchable })
        }
        Asked::Promote {
            of,
            generation,
            timeout,
        } => {
            let limit = Duration::from_secs(*timeout);
            promoted(&plugin, of, *generation, limit, output).await
        }
        Asked::Abort(of) => said(&plugin, of, Verb::Abort, &["candidate", "wayBack"], output).await,
        Asked::Rollback(of) => said(&plugin, of, Verb::Rollback, &["wayBack"], output).await,
        Asked::Hold(of) => said(&plugin, of, Verb::Hold, &[], output).await,
        Asked::Resume(of) => said(&plugin, of, Verb::Resume, &[], output).await,
        Asked::History { name } => {
            let status = plugin.get(name).await?.status.unwrap_or_default();
            output.answer(&status.history, |_| history(&status))?;
            Ok(Exit::Done)
        }
    }
}

/// The command with the target that is meant: of the first slot that has one of these roles.
async fn command(
    plugin: &Plugin,
    of: &Named,
    verb: Verb,
    roles: &[&str],
    generation: Option<u64>,
) -> Result<Command, PluginError> {
    let target = match (&of.target, roles.is_empty()) {
        (Some(target), _) => target.clone(),
        (None, true) => String::new(),
        (None, false) => {
            let slots = plugin.get(&of.name).await?.status.unwrap_or_default().slots;
            let slot = slots.into_iter().find(|slot| roles.contains(&slot.role.as_str()));
            slot.and_then(|slot| slot.target).unwrap_or_default()
        }
    };
    Ok(Command {
        id: format!("{:032x}", rand::random::<u128>()),
        verb,
        target,
        generation,
        actor: of.actor.clone().unwrap_or_else(user),
        reason: of.reason.clone(),
    })
}

async fn said(plugin: &Plugin, of: &Named, verb: Verb, roles: &[&str], output: &Output) -> anyhow::Result<Exit> {
    let command = command(plugin, of, verb, roles, None).await?;
    let answer = plugin.ask(&of.name, &command, ANSWER).await?;
    let is_done = answer.outcome == "Done";
    output.answer(&answer, |answer| format!("{}: {}", answer.verb, answer.message))?;
    Ok(if is_done { Exit::Done } else { Exit::Refused })
}

async fn promoted(
    plugin: &Plugin,
    of: &Named,
    generation: Option<u64>,
    limit: Duration,
    output: &Output,
) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let command = command(plugin, of, Verb::Promote, &["candidate"], generation).await?;
    let answer = plugin.ask(&of.name, &command, ANSWER).await?;
    if answer.outcome != "Done" {
        output.answer(&answer, |answer| format!("{}: {}", answer.verb, answer.message))?;
        return Ok(Exit::Refused);
    }
    loop {
        let collection = plugin.get(&of.name).await?;
        let active = collection
            .status
            .as_ref()
            .and_then(|status| status.active_target.as_ref());
        let answers = active == Some(&command.target);
        if answers || began.elapsed() >= limit {
            told(&collection, output)?;
            return Ok(if answers { Exit::Done } else { Exit::NotSearchable });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The Collection, where asked once nothing more happens by itself; and whether that came about in time.
async fn settled(
    plugin: &Plugin,
    name: &str,
    wait: bool,
    limit: Option<Duration>,
) -> Result<(Collection, bool), PluginError> {
    let began = Instant::now();
    loop {
        let collection = plugin.get(name).await?;
        let status = collection.status.as_ref();
        let is_of_now = status.map(|status| status.observed_generation) == collection.metadata.generation;
        let is_moving = status.is_none_or(|status| MOVING.contains(&status.phase.as_str()));
        let is_settled = !wait || (is_of_now && !is_moving);
        if is_settled || limit.is_some_and(|limit| began.elapsed() >= limit) {
            return Ok((collection, is_settled));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A live picture, until the process is told to end.
async fn watched(plugin: &Plugin, name: &str, output: &Output) -> anyhow::Result<Exit> {
    let mut before: Option<CollectionStatus> = None;
    loop {
        let collection = plugin.get(name).await?;
        if collection.status != before {
            match output.format() {
                Format::Json => output.text(&json!(collection.status).to_string())?,
                Format::People => output.text(&format!("{CLEAR}{}", shown(&collection)))?,
            }
            before = collection.status;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn told(collection: &Collection, output: &Output) -> Result<(), CommandError> {
    let status: Value = json!(collection.status);
    output.answer(&status, |_| shown(collection))
}

fn named(collection: &Collection) -> String {
    collection.metadata.name.clone().unwrap_or_default()
}

fn listed(all: &[Collection]) -> String {
    let rows = all.iter().map(|collection| {
        let status = collection.status.clone().unwrap_or_default();
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        vec![
            named(collection),
            status.phase,
            status.active_slot.unwrap_or_default(),
            number(status.generation),
            status.replicas.to_string(),
            status.message,
        ]
    });
    let header = ["name", "phase", "slot", "generation", "pods", "message"];
    table(&header, &["generation", "pods"], rows)
}

fn shown(collection: &Collection) -> String {
    let status = collection.status.clone().unwrap_or_default();
    let mut facts = vec![("collection", named(collection)), ("phase", status.phase.clone())];
    facts.extend((!status.message.is_empty()).then(|| ("because", status.message.clone())));
    for condition in &status.conditions {
        let name = match condition.kind.as_str() {
            "Available" => "available",
            "Degraded" if condition.status == "True" => "degraded",
            "Held" if condition.status == "True" => "held",
            _ => continue,
        };
        facts.push((
            name,
            format!("{} {}", condition.status, condition.message).trim().to_owned(),
        ));
    }
    let mut text = pairs(&facts);
    let slot = |slot: &SlotStatus| {
        let generation = slot.generation.map(|generation| generation.to_string());
        vec![
            slot.name.clone(),
            slot.role.clone(),
            format!("{}/{}", slot.ready, slot.replicas),
            slot.lineage.clone().unwrap_or_default(),
            generation.unwrap_or_default(),
            slot.target.clone().unwrap_or_default(),
        ]
    };
    let header = ["slot", "role", "ready", "lineage", "generation", "target"];
    text.push_str("\n\n");
    text.push_str(&table(&header, &["ready", "generation"], status.slots.iter().map(slot)));
    if let Some(verdict) = &status.verdict {
        let word = match verdict.passed {
            true => "nothing speaks against it".to_owned(),
            false => format!("against it: {}", verdict.against.join("; ")),
        };
        text.push_str(&format!(
            "\n\nlineage {} was judged at generation {}: {word}",
            verdict.lineage, verdict.generation
        ));
    }
    text
}

fn history(status: &CollectionStatus) -> String {
    if status.history.is_empty() {
        return "the first lineage answers since the beginning".to_owned();
    }
    let rows = status.history.iter().map(|entry| {
        vec![
            to_the_second(&entry.since),
            entry.lineage.clone(),
            entry.generation.to_string(),
            entry.actor.clone(),
            entry.reason.clone(),
        ]
    });
    table(&["since", "lineage", "generation", "by", "why"], &["generation"], rows)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_status_shows_slots_and_what_speaks_against_a_candidate() {
        let collection: Collection = serde_json::from_value(json!({
            "apiVersion": "verdigris.dev/v1alpha1", "kind": "Collection", "metadata": {"name": "products"},
            "spec": {"store": {"url": "s3://b"}, "collections": {"name": "products"}, "image": "i"},
            "status": {
                "phase": "Refused", "message": "gates speak against it: recall",
                "slots": [
                    {"name": "blue", "role": "active", "lineage": "a", "generation": 3, "replicas": 2, "ready": 2},
                    {"name": "green", "role": "candidate", "lineage": "b", "replicas": 2, "ready": 1},
                ],
                "verdict": {"lineage": "b", "generation": 3, "passed": false, "against": ["recall: too low"]},
            },
        }))
        .unwrap();
        let text = shown(&collection);
        for part in [
            "Refused",
            "blue",
            "2/2",
            "1/2",
            "candidate",
            "against it: recall: too low",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
