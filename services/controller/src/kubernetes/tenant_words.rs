//! What is said to a command about one tenant of a prefix: what a controller without Kubernetes would say to it.

use std::sync::Arc;

use tonic::{Request, Status};
use verdigris_core::names::CollectionName;
use verdigris_proto::rollout::rollout_service_server::RolloutService;
use verdigris_proto::rollout::{
    AbortRequest, GetRolloutRequest, GetRolloutResponse, HoldRequest, Lineage, PromoteRequest, ResumeRequest,
    RollBackRequest,
};

use super::command::{Answer, Command, Verb, nonce};
use super::status::word;
use crate::{Controller, RolloutRpc};

/// Carries it out, or says why not. One that is given again finds itself in the pointer's history.
pub(crate) async fn say(controller: &Arc<Controller>, command: &Command) -> Answer {
    let rpc = RolloutRpc::for_command(controller.clone(), nonce(command));
    match said(&rpc, controller, command).await {
        Ok(answer) => answer,
        Err(status) => Answer::Refused(status.message().to_owned()),
    }
}

async fn said(rpc: &RolloutRpc, controller: &Arc<Controller>, command: &Command) -> Result<Answer, Status> {
    let tenant = &command.tenant;
    let name: Result<CollectionName, _> = tenant.parse();
    let Ok(name) = name else {
        return Ok(Answer::Refused(format!("{tenant:?} is no name of a collection")));
    };
    if !name.as_str().starts_with(&controller.deps().scope.prefix) {
        let prefix = &controller.deps().scope.prefix;
        return Ok(Answer::Refused(format!("{name} does not begin with {prefix}")));
    }
    if rpc.was_carried_out(&name).await? {
        return Ok(Answer::Done("it is done".to_owned()));
    }
    let (collection, actor, reason) = (tenant.clone(), command.actor.clone(), command.reason.clone());
    let asked = Request::new(GetRolloutRequest {
        collection: collection.clone(),
    });
    let stands = rpc.get_rollout(asked).await?.into_inner();
    let done = match command.verb {
        Verb::Show => return Ok(Answer::Done(text(&stands))),
        Verb::Hold => {
            let request = HoldRequest {
                collection,
                actor,
                reason,
            };
            rpc.hold(Request::new(request)).await?
        }
        Verb::Resume => rpc.resume(Request::new(ResumeRequest { collection, actor })).await?,
        Verb::Promote => {
            let Some(candidate) = other(&stands, command, "candidate") else {
                return Ok(Answer::Refused(format!("{name} has no such candidate")));
            };
            let judged = stands.verdict.as_ref().map(|verdict| verdict.generation);
            let request = PromoteRequest {
                collection,
                lineage: candidate.lineage.clone(),
                generation: command.generation.or(judged).unwrap_or(0),
                actor,
            };
            rpc.promote(Request::new(request)).await?
        }
        Verb::Abort => {
            let named = other(&stands, command, "candidate").or_else(|| other(&stands, command, "way_back"));
            let Some(named) = named else {
                return Ok(Answer::Refused(format!("{name} has nothing to give up")));
            };
            let request = AbortRequest {
                collection,
                lineage: named.lineage.clone(),
                actor,
                reason,
            };
            rpc.abort(Request::new(request)).await?
        }
        Verb::Rollback => {
            let request = RollBackRequest {
                collection,
                actor,
                reason,
            };
            rpc.roll_back(Request::new(request)).await?
        }
    };
    let phase = word(&done.into_inner().phase);
    Ok(Answer::Done(format!("it is done; {name} is at {phase}")))
}

/// The other lineage, where it has this role and is the one that is meant.
fn other<'r>(stands: &'r GetRolloutResponse, command: &Command, role: &str) -> Option<&'r Lineage> {
    let other = stands.other.as_ref().filter(|other| other.role == role);
    other.filter(|other| command.target.is_empty() || command.target == other.lineage)
}

/// How it stands, and what answered since when, as lines.
fn text(stands: &GetRolloutResponse) -> String {
    let mut lines = vec![format!("phase: {}", word(&stands.phase))];
    lines.extend(stands.reasons.iter().map(|reason| format!("because: {reason}")));
    for lineage in stands.active.iter().chain(&stands.other) {
        lines.push(format!(
            "{}: lineage {} at generation {} since {}",
            lineage.role, lineage.lineage, lineage.generation, lineage.since
        ));
    }
    if let Some(hold) = &stands.promotion_hold {
        lines.push(format!("held: by {}: {}", hold.actor, hold.reason));
    }
    if let Some(verdict) = &stands.verdict {
        let word = if verdict.promotable { "passed" } else { "refused" };
        lines.push(format!("gates: {word} at generation {}", verdict.generation));
        let against = verdict
            .gates
            .iter()
            .filter(|gate| matches!(gate.outcome.as_str(), "failed" | "no_data"));
        lines.extend(against.map(|gate| format!("against it: {}: {}", gate.gate, gate.text)));
    }
    lines.extend(stands.served.iter().take(10).map(|served| {
        format!(
            "answered: {} lineage {} by {}: {}",
            served.since, served.lineage, served.actor, served.reason
        )
    }));
    lines.join("\n")
}
