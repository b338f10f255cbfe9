//! `kubectl verdigris`: the same executable under the name of a plugin. It asks the cluster's API alone: how a Collection
//! stands is in its status, and what a person wants is a command that the controller answers there.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use verdigris_controller::kubernetes::plugin::{Command, Plugin, PluginError, Verb};
use verdigris_controller::kubernetes::resource::{Collection, CollectionStatus, SlotStatus};

use crate::commands::looking::{self, LOOK, is_moving, until};
use crate::commands::{CommandError, user};
use crate::exit::Exit;
use crate::output::{Format, Output, pairs, table};

/// The name under which the executable is the plugin; with `_complete-` before it, kubectl asks for completions.
const NAME: &str = "kubectl-verdigris";
/// How long the controller may take to answer a command; going back itself is tried for a minute.
const ANSWER: Duration = Duration::from_secs(90);
/// How lines of a tenant's history begin.
const ANSWERED: &str = "answered:";

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
        /// One collection of its prefix, as its owner says
        #[arg(long, value_name = "NAME", conflicts_with_all = ["watch", "wait"])]
        tenant: Option<String>,
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
    /// Promote the candidate, as it was judged, and wait until it answers; a tenant's is not waited for
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
        /// One collection of its prefix
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
}

/// The Collection that is meant, and who asks.
#[derive(Debug, Args)]
struct Named {
    /// Name of the Collection
    name: String,
    /// Where the Collection has a prefix: the collection that is meant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Where the Collection has a prefix: image and settings of its pods are meant
    #[arg(long, conflicts_with = "tenant")]
    pods: bool,
    /// Target that is meant; that of the slot beside without it. Of a tenant its lineage
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
            output.error(reason(&error), &format!("{error:#}"), None);
            Exit::Error.into()
        }
    }
}

fn reason(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref() {
        Some(PluginError::NotFound(_)) => "COLLECTION_NOT_FOUND",
        _ => "SERVER_UNREACHABLE",
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
        Asked::Status {
            name,
            tenant: Some(tenant),
            ..
        } => tenant_shown(&plugin, name, tenant, "", output).await,
        Asked::Status { name, watch: true, .. } => {
            let look = async || Ok(plugin.get(name).await?);
            looking::watch(output, look, |collection| json!(collection.status), shown).await
        }
        Asked::Status {
            name, wait, timeout, ..
        } => {
            let limit = timeout.map(Duration::from_secs);
            let look = async || plugin.get(name).await;
            let (collection, is_settled) = until(limit, LOOK, look, |seen| !wait || is_settled(seen)).await?;
            told(&collection, output)?;
            let phase = collection.status.map(|status| status.phase).unwrap_or_default();
            Ok(if *wait {
                looking::ended(&phase, is_settled)
            } else {
                Exit::Done
            })
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
        Asked::History {
            name,
            tenant: Some(tenant),
        } => tenant_shown(&plugin, name, tenant, ANSWERED, output).await,
        Asked::History { name, .. } => {
            let status = plugin.get(name).await?.status.unwrap_or_default();
            output.answer(&status.history, |_| history(&status))?;
            Ok(Exit::Done)
        }
    }
}

/// The command with the target that is meant: of the slot that has the first of these roles which one has.
async fn command(
    plugin: &Plugin,
    of: &Named,
    verb: Verb,
    roles: &[&str],
    generation: Option<u64>,
) -> Result<Command, PluginError> {
    let target = match (&of.target, roles.is_empty() || of.tenant.is_some()) {
        (Some(target), _) => target.clone(),
        (None, true) => String::new(),
        (None, false) => {
            let status = plugin.get(&of.name).await?.status.unwrap_or_default();
            // Until traffic has followed the pointer all the way, what it never left is the way back.
            let newest = status.history.first().map(|served| &served.lineage);
            let is_leaving = status.step.is_some() || newest != status.lineage.as_ref();
            let roles = if verb == Verb::Rollback && is_leaving {
                &["wayBack", "active"]
            } else {
                roles
            };
            let of = |role: &&str| status.slots.iter().find(|slot| slot.role == **role);
            let slot = roles.iter().find_map(of).cloned();
            slot.and_then(|slot| slot.target).unwrap_or_default()
        }
    };
    Ok(Command {
        id: format!("{:032x}", rand::random::<u128>()),
        verb,
        target,
        tenant: of.tenant.clone().unwrap_or_default(),
        pods: of.pods,
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

/// How a tenant stands: the lines of its owner's answer that begin so.
async fn tenant_shown(
    plugin: &Plugin,
    name: &str,
    tenant: &str,
    begins: &str,
    output: &Output,
) -> anyhow::Result<Exit> {
    let of = Named {
        name: name.to_owned(),
        tenant: Some(tenant.to_owned()),
        pods: false,
        target: None,
        reason: String::new(),
        actor: None,
    };
    let command = command(plugin, &of, Verb::Show, &[], None).await?;
    let mut answer = plugin.ask(name, &command, ANSWER).await?;
    let is_done = answer.outcome == "Done";
    if is_done {
        let lines = answer.message.lines().filter(|line| line.starts_with(begins));
        answer.message = lines.collect::<Vec<_>>().join("\n");
    }
    output.answer(&answer, |answer| answer.message.clone())?;
    Ok(if is_done { Exit::Done } else { Exit::Refused })
}

async fn promoted(
    plugin: &Plugin,
    of: &Named,
    generation: Option<u64>,
    limit: Duration,
    output: &Output,
) -> anyhow::Result<Exit> {
    let began = std::time::Instant::now();
    let command = command(plugin, of, Verb::Promote, &["candidate"], generation).await?;
    let answer = plugin.ask(&of.name, &command, ANSWER).await?;
    if answer.outcome != "Done" || of.tenant.is_some() {
        output.answer(&answer, |answer| format!("{}: {}", answer.verb, answer.message))?;
        let is_done = answer.outcome == "Done";
        return Ok(if is_done { Exit::Done } else { Exit::Refused });
    }
    let look = async || plugin.get(&of.name).await;
    let is_active = |collection: &Collection| {
        let status = collection.status.as_ref();
        status.and_then(|status| status.active_target.as_ref()) == Some(&command.target)
    };
    let left = limit.saturating_sub(began.elapsed());
    let (collection, answers) = until(Some(left), LOOK, look, is_active).await?;
    told(&collection, output)?;
    Ok(if answers { Exit::Done } else { Exit::NotSearchable })
}

/// Whether the controller has seen the spec as it is, and nothing more happens by itself.
fn is_settled(collection: &Collection) -> bool {
    let Some(status) = &collection.status else { return false };
    // Empty without a reason: the controller has only begun.
    let has_begun = status.phase == "Empty" && status.message.is_empty();
    // A step that is watched is followed by another.
    let is_moving = is_moving(&status.phase) || (status.step.is_some() && status.phase == "Baking");
    !has_begun && Some(status.observed_generation) == collection.metadata.generation && !is_moving
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
    if let Some(step) = &status.step {
        facts.push((
            "step",
            format!("{} % to slot {} since {}", step.percent, step.slot, step.since),
        ));
    }
    if let Some(tenants) = &status.tenants {
        facts.push((
            "tenants",
            format!(
                "{}: {} open, {} with a candidate, {} refused, {} held, {} in need of a person",
                tenants.count, tenants.open, tenants.candidates, tenants.refused, tenants.held, tenants.troubled
            ),
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
    let troubled = status.tenants.iter().flat_map(|tenants| &tenants.first_troubled);
    let mut troubled = troubled
        .map(|one| vec![one.name.clone(), one.phase.clone(), one.message.clone()])
        .peekable();
    if troubled.peek().is_some() {
        text.push_str("\n\n");
        text.push_str(&table(&["tenant", "phase", "message"], &[], troubled));
    }
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
    looking::history(status.history.iter().map(|entry| {
        [
            entry.since.clone(),
            entry.lineage.clone(),
            entry.generation.to_string(),
            entry.actor.clone(),
            entry.reason.clone(),
        ]
    }))
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
    fn a_collection_is_settled_once_its_spec_was_seen_and_nothing_moves() {
        let check = |phase: &str, message: &str, seen: i64, expect: bool| {
            let collection: Collection = serde_json::from_value(json!({
                "apiVersion": "verdigris.dev/v1alpha1", "kind": "Collection",
                "metadata": {"name": "products", "generation": 2},
                "spec": {"store": {"url": "s3://b"}, "collections": {"name": "products"}, "image": "i"},
                "status": {"phase": phase, "message": message, "observedGeneration": seen},
            }))
            .unwrap();
            assert_eq!(is_settled(&collection), expect, "{phase} {message:?} at {seen}");
        };
        check("Steady", "", 2, true);
        check("Steady", "", 1, false);
        check("Warming", "", 2, false);
        check("Empty", "", 2, false);
        check("Empty", "nothing was published yet", 2, true);
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
