//! `staged`: the release that breached a guard, and what to do about it.

use serde_json::json;
use verdigris_proto::admin::{
    AcceptStagedReleaseRequest, GetStagedReleaseRequest, RejectStagedReleaseRequest, RetryStagedReleaseRequest,
    StagedRelease,
};

use super::CommandError;
use super::releases::user;
use crate::arguments::{Decision, Staged};
use crate::client::{CALL, Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs};

/// Events that people are shown; programs get all that the server sends.
const EVENTS_SHOWN: usize = 20;

/// Runs a command about the staged release.
pub(crate) async fn run(
    command: &Staged,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    match command {
        Staged::Show => {
            let staged = waiting(&collection, client).await?;
            let events = staged.events.iter();
            let events = events.map(|event| json!({"position": event.position, "id": event.id}));
            let report = json!({
                "generation": staged.generation,
                "since": staged.since,
                "breaches": staged.breaches,
                "documents": staged.documents,
                "documents_served": staged.documents_served,
                "counted": staged.counted,
                "waiting": staged.waiting,
                "judged_to": staged.judged_to,
                "events": events.collect::<Vec<_>>(),
            });
            output.answer(&report, |_| shown(&staged))?;
        }
        Staged::Accept(decision) => {
            let request = AcceptStagedReleaseRequest {
                generation: generation(decision, &collection, client).await?,
                actor: actor(decision),
                collection,
            };
            let release = client.admin().accept_staged_release(within(LONG_CALL, request)).await?;
            let generation = release.into_inner().generation;
            output.answer(&json!({"accepted": generation}), |_| {
                format!("release {generation} is served, and what was judged with it passes")
            })?;
        }
        Staged::Retry(decision) => {
            let generation = generation(decision, &collection, client).await?;
            let request = RetryStagedReleaseRequest {
                generation,
                actor: actor(decision),
                collection,
            };
            client.admin().retry_staged_release(within(LONG_CALL, request)).await?;
            output.answer(&json!({"retried": generation}), |_| {
                format!("the events of release {generation} are judged anew")
            })?;
        }
        Staged::Reject {
            decision,
            reason,
            ids,
            events,
        } => {
            let positions = events.as_deref().map(lines).transpose()?.unwrap_or_default();
            let request = RejectStagedReleaseRequest {
                generation: generation(decision, &collection, client).await?,
                actor: actor(decision),
                collection,
                reason: reason.clone(),
                ids: ids.clone(),
                positions,
            };
            let answer = client.admin().reject_staged_release(within(LONG_CALL, request)).await?;
            let rejected = answer.into_inner().rejected;
            output.answer(&json!({"rejected": rejected}), |_| {
                format!("{rejected} events are set aside, see `verdigris dead-letters list`; the rest is applied")
            })?;
        }
    }
    Ok(Exit::Done)
}

async fn waiting(collection: &str, client: &Client) -> Result<StagedRelease, CommandError> {
    let request = GetStagedReleaseRequest {
        collection: collection.to_owned(),
    };
    Ok(client
        .admin()
        .get_staged_release(within(CALL, request))
        .await?
        .into_inner())
}

async fn generation(decision: &Decision, collection: &str, client: &Client) -> Result<u64, CommandError> {
    match decision.generation {
        Some(generation) => Ok(generation),
        None => Ok(waiting(collection, client).await?.generation),
    }
}

fn actor(decision: &Decision) -> String {
    decision.actor.clone().unwrap_or_else(user)
}

pub(super) fn lines(path: &std::path::Path) -> Result<Vec<String>, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|source| CommandError::Read {
        path: path.display().to_string(),
        source,
    })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

fn shown(staged: &StagedRelease) -> String {
    let mut text = pairs(&[
        ("generation", staged.generation.to_string()),
        ("since", staged.since.clone()),
        (
            "documents",
            format!("{}, served now {}", staged.documents, staged.documents_served),
        ),
        ("breached", staged.breaches.join("; ")),
        (
            "counted",
            format!(
                "{} events, {} waiting behind the release were judged too",
                staged.counted, staged.waiting
            ),
        ),
    ]);
    for event in staged.events.iter().take(EVENTS_SHOWN) {
        text.push_str(&format!("\n  {}  {}", event.position, event.id));
    }
    let more = staged.counted.saturating_sub(EVENTS_SHOWN as u64);
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text.push_str("\n\nverdigris staged accept | retry | reject --reason WORDS [--ids ID… | --events FILE]");
    text
}
