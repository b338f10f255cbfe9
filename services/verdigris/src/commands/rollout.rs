//! `rollout`: which lineage answers, and how another comes to answer.

use std::time::Duration;

use serde_json::{Value, json};
use verdigris_proto::rollout::{
    AbortRequest, GetRolloutRequest, GetRolloutResponse, Hold, HoldRequest, Lineage, PromoteRequest, ResumeRequest,
    RollBackRequest, Verdict,
};

use super::CommandError;
use super::looking::{self, LOOK, is_moving, until};
use super::releases::user;
use crate::arguments::Rollout;
use crate::client::{CALL, Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs, table, to_the_second};

/// Between two looks at a promotion, which is a matter of a moment in one process.
const PROMOTED: Duration = Duration::from_millis(50);

/// Runs a command about rollouts.
pub(crate) async fn run(
    command: &Rollout,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    match command {
        Rollout::Status { watch: true, .. } => {
            looking::watch(output, async || status(collection, client).await, of, shown).await
        }
        Rollout::Status { wait, timeout, .. } => {
            let limit = timeout.map(Duration::from_secs);
            let look = async || status(collection, client).await;
            let (status, is_settled) = until(limit, LOOK, look, |status| !wait || !is_moving(&status.phase)).await?;
            output.answer(&of(&status), |_| shown(&status))?;
            Ok(if *wait {
                looking::ended(&status.phase, is_settled)
            } else {
                Exit::Done
            })
        }
        Rollout::History => {
            let status = status(collection, client).await?;
            output.answer(&of(&status)["served"], |_| history(&status))?;
            Ok(Exit::Done)
        }
        Rollout::Promote {
            lineage,
            generation,
            timeout,
        } => {
            let before = status(collection, client).await?;
            let request = PromoteRequest {
                collection: collection.to_owned(),
                lineage: lineage.lineage.clone().unwrap_or_else(|| other(&before)),
                generation: generation
                    .or(before.verdict.map(|verdict| verdict.generation))
                    .unwrap_or(0),
                actor: lineage.actor.clone().unwrap_or_else(user),
            };
            let wanted = request.lineage.clone();
            client.rollout().promote(within(CALL, request)).await?;
            let limit = Duration::from_secs(*timeout);
            promoted(&wanted, limit, collection, client, output).await
        }
        command => {
            let status = moved(command, collection, client).await?;
            output.answer(&of(&status), |_| shown(&status))?;
            Ok(Exit::Done)
        }
    }
}

/// Commands that are done when they are answered.
async fn moved(command: &Rollout, collection: &str, client: &Client) -> Result<GetRolloutResponse, CommandError> {
    let collection = collection.to_owned();
    let mut service = client.rollout();
    let by = |actor: &Option<String>| actor.clone().unwrap_or_else(user);
    let answer = match command {
        Rollout::Abort { lineage, reason } => {
            let before = status(&collection, client).await?;
            let building = before.build.as_ref().map(|build| build.lineage.clone());
            let request = AbortRequest {
                lineage: lineage.lineage.clone().or(building).unwrap_or_else(|| other(&before)),
                actor: by(&lineage.actor),
                reason: reason.clone(),
                collection,
            };
            service.abort(within(CALL, request)).await?
        }
        Rollout::Rollback { reason, actor } => {
            let request = RollBackRequest {
                actor: by(actor),
                reason: reason.clone(),
                collection,
            };
            service.roll_back(within(LONG_CALL, request)).await?
        }
        Rollout::Hold { reason, actor } => {
            let request = HoldRequest {
                actor: by(actor),
                reason: reason.clone(),
                collection,
            };
            service.hold(within(CALL, request)).await?
        }
        Rollout::Resume { actor } => {
            let request = ResumeRequest {
                actor: by(actor),
                collection,
            };
            service.resume(within(CALL, request)).await?
        }
        Rollout::Status { .. } | Rollout::History | Rollout::Promote { .. } => {
            return status(&collection, client).await;
        }
    };
    Ok(answer.into_inner())
}

async fn status(collection: &str, client: &Client) -> Result<GetRolloutResponse, CommandError> {
    let request = GetRolloutRequest {
        collection: collection.to_owned(),
    };
    Ok(client.rollout().get_rollout(within(CALL, request)).await?.into_inner())
}

fn other(status: &GetRolloutResponse) -> String {
    status
        .other
        .as_ref()
        .map(|other| other.lineage.clone())
        .unwrap_or_default()
}

async fn promoted(
    lineage: &str,
    limit: Duration,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let look = async || status(collection, client).await;
    let is_active = |now: &GetRolloutResponse| now.active.as_ref().is_some_and(|active| active.lineage == lineage);
    let (now, answers) = until(Some(limit), PROMOTED, look, is_active).await?;
    output.answer(&of(&now), |_| shown(&now))?;
    Ok(if answers { Exit::Done } else { Exit::NotSearchable })
}

fn of(status: &GetRolloutResponse) -> Value {
    let lineage = |lineage: &Option<Lineage>| {
        lineage.as_ref().map(|lineage| {
            json!({
                "lineage": lineage.lineage, "generation": lineage.generation, "role": lineage.role,
                "since": lineage.since, "ready": lineage.ready, "problem": lineage.problem,
            })
        })
    };
    let hold = |hold: &Option<Hold>| {
        let hold = hold.as_ref();
        hold.map(|hold| json!({"actor": hold.actor, "reason": hold.reason, "since": hold.since}))
    };
    let served = status.served.iter().map(|entry| {
        json!({
            "lineage": entry.lineage, "generation": entry.generation, "since": entry.since, "actor": entry.actor,
            "reason": entry.reason,
        })
    });
    json!({
        "phase": status.phase,
        "reasons": status.reasons,
        "active": lineage(&status.active),
        "other": lineage(&status.other),
        "build": status.build.as_ref().map(|build| json!({
            "lineage": build.lineage, "rows_done": build.rows_done, "rows": build.rows, "since": build.since,
            "actor": build.actor, "reason": build.reason,
        })),
        "verdict": status.verdict.as_ref().map(of_verdict),
        "promotion_hold": hold(&status.promotion_hold),
        "publish_hold": hold(&status.publish_hold),
        "approval": status.approval.as_ref().map(|approval| json!({
            "lineage": approval.lineage, "generation": approval.generation, "actor": approval.actor, "at": approval.at,
        })),
        "bake_until": status.bake_until,
        "keep_until": status.keep_until,
        "owner": status.owner,
        "window": status.window.as_ref().map(|window| json!({
            "requests": window.requests, "errors": window.errors, "p50_ms": window.p50_ms, "p99_ms": window.p99_ms,
        })),
        "served": served.collect::<Vec<_>>(),
    })
}

fn of_verdict(verdict: &Verdict) -> Value {
    let gates = verdict.gates.iter().map(|gate| {
        json!({
            "gate": gate.gate, "outcome": gate.outcome, "measured": gate.measured, "limit": gate.limit,
            "text": gate.text,
        })
    });
    json!({
        "lineage": verdict.lineage, "generation": verdict.generation, "measured_at": verdict.measured_at,
        "promotable": verdict.promotable, "gates": gates.collect::<Vec<_>>(),
    })
}

fn shown(status: &GetRolloutResponse) -> String {
    let named = |lineage: &Lineage| {
        let ready = match (lineage.ready, lineage.problem.as_str()) {
            (true, _) => String::new(),
            (false, "") => ", not open yet".to_owned(),
            (false, problem) => format!(", cannot be opened: {problem}"),
        };
        let (role, since) = (lineage.role.replace('_', " "), to_the_second(&lineage.since));
        format!(
            "{} generation {}, {role} since {since}{ready}",
            lineage.lineage, lineage.generation
        )
    };
    let mut facts = vec![("phase", status.phase.replace('_', " "))];
    facts.extend(status.reasons.iter().map(|reason| ("because", reason.clone())));
    facts.extend(status.active.iter().map(|active| ("answers", named(active))));
    facts.extend(status.other.iter().map(|other| ("beside", named(other))));
    if let Some(build) = &status.build {
        let built = format!("{}, {} of {} rows named", build.lineage, build.rows_done, build.rows);
        facts.push(("being built", built));
    }
    for (what, hold) in [
        ("promotion held", &status.promotion_hold),
        ("publishing held", &status.publish_hold),
    ] {
        if let Some(hold) = hold {
            let since = to_the_second(&hold.since);
            facts.push((what, format!("by {} since {since}: {}", hold.actor, hold.reason)));
        }
    }
    if let Some(approval) = &status.approval {
        facts.push((
            "approved",
            format!("generation {} by {}", approval.generation, approval.actor),
        ));
    }
    if let Some(window) = status.window.as_ref().filter(|window| window.requests > 0) {
        let text = format!(
            "{} requests, {} errors, p50 {:.1} ms, p99 {:.1} ms",
            window.requests, window.errors, window.p50_ms, window.p99_ms
        );
        facts.push(("since then", text));
    }
    if !status.keep_until.is_empty() {
        facts.push(("watched until", to_the_second(&status.bake_until)));
        facts.push(("way back until", to_the_second(&status.keep_until)));
    }
    let mut text = pairs(&facts);
    if let Some(verdict) = &status.verdict {
        let word = if verdict.promotable {
            "nothing speaks against it"
        } else {
            "something speaks against it"
        };
        text.push_str(&format!("\n\njudged at generation {}: {word}\n", verdict.generation));
        let gates = verdict.gates.iter();
        let rows = gates.map(|gate| vec![gate.gate.clone(), gate.outcome.replace('_', " "), gate.text.clone()]);
        text.push_str(&table(&["gate", "", ""], &[], rows));
    }
    text
}

fn history(status: &GetRolloutResponse) -> String {
    looking::history(status.served.iter().map(|entry| {
        [
            entry.since.clone(),
            entry.lineage.clone(),
            entry.generation.to_string(),
            entry.actor.clone(),
            entry.reason.clone(),
        ]
    }))
}
