//! `rollout`: which lineage answers, which may, and what people say about it.

mod shown;

use std::time::{Duration, Instant};

use serde_json::json;
use verdigris_proto::reason::Reason;
use verdigris_proto::rollout::{
    AbortRequest, GetRolloutRequest, HoldPromotionRequest, ListServedRequest, MeasureAgainRequest, PromoteRequest,
    ResumePromotionRequest, RollBackRolloutRequest, TakeOverRequest,
};

use super::CommandError;
use super::releases::user;
use crate::arguments::{Actor, Rollout};
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Format, Output, table, to_the_second};

type Standing = verdigris_proto::rollout::Rollout;

/// Between two looks while waiting or watching.
const LOOK: Duration = Duration::from_millis(200);

/// Runs a command about rollouts.
pub(crate) async fn run(
    command: &Rollout,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    match command {
        Rollout::Status { watch: false } => show(&standing(collection, client).await?, output),
        Rollout::Status { watch: true } => watch(collection, client, output).await,
        Rollout::History => history(collection, client, output).await,
        Rollout::Promote { .. } => promote(command, collection, client, output).await,
        Rollout::Abort { .. } => abort(command, collection, client, output).await,
        _ => say(command, collection, client, output).await,
    }
}

async fn standing(collection: &str, client: &Client) -> Result<Standing, CommandError> {
    let collection = collection.to_owned();
    let request = within(CALL, GetRolloutRequest { collection });
    Ok(client.rollout().get_rollout(request).await?.into_inner())
}

fn show(standing: &Standing, output: &Output) -> Result<Exit, CommandError> {
    output.answer(&shown::json(standing), |_| shown::people(standing))?;
    Ok(Exit::Done)
}

/// Shows it anew whenever it changes; a picture in its place on a terminal, one after the other elsewhere.
async fn watch(collection: &str, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let mut before: Option<Standing> = None;
    loop {
        let now = standing(collection, client).await?;
        if before.as_ref() != Some(&now) {
            match output.format() {
                Format::Json => output.text(&shown::json(&now).to_string())?,
                Format::People => output.picture(&shown::people(&now))?,
            }
            before = Some(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn history(collection: &str, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    let request = within(CALL, ListServedRequest { collection });
    let entries = client.rollout().list_served(request).await?.into_inner().entries;
    let served: Vec<_> = entries
        .iter()
        .map(|entry| {
            json!({
                "lineage": entry.lineage,
                "generation": entry.generation,
                "since": entry.since,
                "actor": entry.actor,
                "reason": entry.reason,
            })
        })
        .collect();
    output.answer(&json!({"served": served}), |_| {
        if entries.is_empty() {
            return "the lineage that was built first answers; nothing was ever promoted".to_owned();
        }
        let rows = entries.iter().map(|entry| {
            vec![
                to_the_second(&entry.since),
                entry.lineage.clone(),
                entry.generation.to_string(),
                entry.actor.clone(),
                entry.reason.clone(),
            ]
        });
        table(&["since", "lineage", "generation", "by", "why"], &["generation"], rows)
    })?;
    Ok(Exit::Done)
}

async fn promote(command: &Rollout, collection: &str, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let Rollout::Promote {
        lineage,
        generation,
        no_wait,
        timeout,
        actor: by,
    } = command
    else {
        unreachable!("the caller matched it");
    };
    let now = standing(collection, client).await?;
    let candidate = now.other.as_ref().filter(|other| other.role == "candidate");
    let lineage = lineage.clone().or(candidate.map(|other| other.lineage.clone()));
    let lineage = lineage.ok_or_else(|| Reason::LineageNotFound.status("there is no candidate to promote"))?;
    let judged = now.verdict.as_ref().map(|verdict| verdict.generation);
    let request = PromoteRequest {
        collection: collection.to_owned(),
        lineage: lineage.clone(),
        generation: generation.or(judged).unwrap_or(0),
        actor: actor(by),
    };
    let mut now = client.rollout().promote(within(CALL, request)).await?.into_inner();
    let until = Instant::now() + Duration::from_secs(*timeout);
    let answers = |now: &Standing| now.active.as_ref().is_some_and(|active| active.lineage == lineage);
    let is_there = |now: &Standing| now.other.as_ref().is_some_and(|other| other.lineage == lineage);
    while !no_wait && !answers(&now) && is_there(&now) && now.hold.is_none() && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        now = standing(collection, client).await?;
    }
    show(&now, output)?;
    Ok(if *no_wait || answers(&now) {
        Exit::Done
    } else {
        Exit::NotSearchable
    })
}

async fn abort(command: &Rollout, collection: &str, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let Rollout::Abort {
        lineage,
        reason,
        actor: by,
    } = command
    else {
        unreachable!("the caller matched it");
    };
    let lineage = match lineage {
        Some(lineage) => lineage.clone(),
        None => {
            let now = standing(collection, client).await?;
            // A way back is given up only by its name: without it, nobody can go back.
            let candidate = now
                .other
                .filter(|other| other.role == "candidate")
                .map(|other| other.lineage);
            let none = || Reason::LineageNotFound.status("nothing is being built, and there is no candidate");
            let there = candidate.or(now.build.map(|build| build.lineage));
            there.ok_or_else(none)?
        }
    };
    let request = AbortRequest {
        collection: collection.to_owned(),
        lineage,
        actor: actor(by),
        reason: reason.clone(),
    };
    let now = client.rollout().abort(within(CALL, request)).await?.into_inner();
    show(&now, output)
}

/// Words that need no look before.
async fn say(command: &Rollout, collection: &str, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let (collection, mut rollout) = (collection.to_owned(), client.rollout());
    let now = match command {
        Rollout::Rollback { reason, actor: by } => {
            let request = RollBackRolloutRequest {
                collection,
                lineage: String::new(),
                actor: actor(by),
                reason: reason.clone(),
            };
            rollout.roll_back_rollout(within(CALL, request)).await?
        }
        Rollout::Hold { reason, actor: by } => {
            let request = HoldPromotionRequest {
                collection,
                actor: actor(by),
                reason: reason.clone(),
            };
            rollout.hold_promotion(within(CALL, request)).await?
        }
        Rollout::Resume(by) => {
            let actor = actor(by);
            let request = ResumePromotionRequest { collection, actor };
            rollout.resume_promotion(within(CALL, request)).await?
        }
        Rollout::TakeOver(by) => {
            let actor = actor(by);
            rollout
                .take_over(within(CALL, TakeOverRequest { collection, actor }))
                .await?
        }
        Rollout::Measure => {
            rollout
                .measure_again(within(CALL, MeasureAgainRequest { collection }))
                .await?
        }
        _ => unreachable!("the caller runs the others"),
    };
    show(&now.into_inner(), output)
}

fn actor(by: &Actor) -> String {
    by.actor.clone().unwrap_or_else(user)
}
