//! Obeying: a command that a person wrote on the Collection, carried out or refused, and answered.

use kube::ResourceExt;
use kube::runtime::events::EventType;
use serde_json::json;
use verdigris_core::pointer::{EditRefused, Pointer};
use verdigris_core::rollout::slots::{Seen, Wish};
use verdigris_store::CommitError;

use super::act::Hand;
use super::command::{self, Answer, Command, Deed, Judged};
use super::reconcile::{Memory, ReconcileError};
use super::{names, status};

/// For how long going back is tried on a person's word, until that person is told that it does not come about.
const GO_BACK_FOR_NS: i64 = 60_000_000_000;

/// What a person asks for; what is said to it, and whether anything was moved for it.
pub(crate) async fn obey(
    hand: &mut Hand<'_>,
    memory: &mut Memory,
    pointer: &Pointer,
    seen: &mut Seen,
) -> Result<(Option<(Command, Answer)>, bool), ReconcileError> {
    let Some(text) = hand.collection.annotations().get(names::COMMAND) else {
        return Ok((None, false));
    };
    let answered = hand
        .collection
        .status
        .as_ref()
        .and_then(|status| status.command.as_ref());
    let command: Command = match serde_json::from_str(text) {
        Ok(command) => command,
        Err(error) => {
            tracing::debug!("a command cannot be read: {error}");
            return Ok((None, false));
        }
    };
    if answered.is_some_and(|answered| answered.id == command.id && answered.outcome != "Pending") {
        return Ok((None, false));
    }
    let since = match &memory.command {
        Some((id, since)) if *id == command.id => *since,
        _ => hand.now,
    };
    memory.command = Some((command.id.clone(), since));
    let judged = memory.observation.measured.as_ref();
    let judged = judged.map(|measured| measured.candidate.generation);
    let judged = match of_tenant(memory, &command).await {
        Some(answer) => Judged::Says(answer),
        None => command::judge(&command, pointer, seen, judged),
    };
    let (answer, is_moved) = match judged {
        Judged::Says(answer) => (answer, false),
        Judged::Asks(Deed::GoBack(_)) if hand.now.since(since) >= GO_BACK_FOR_NS => {
            let text = "the way back did not become ready within a minute: traffic stays where it is";
            (Answer::Refused(text.to_owned()), false)
        }
        Judged::Asks(Deed::GoBack(wish)) => {
            seen.wish = Some(wish);
            (Answer::Pending("traffic is going back".to_owned()), false)
        }
        Judged::Asks(deed) => (done(hand, &command, deed).await?, true),
    };
    if !matches!(answer, Answer::Pending(_)) {
        let (kind, text) = match &answer {
            Answer::Refused(text) => (EventType::Warning, format!("refused: {text}")),
            Answer::Done(text) | Answer::Pending(text) => (EventType::Normal, text.clone()),
        };
        let note = format!("{} by {}: {text}", command.verb.name(), command.actor);
        status::tell(hand.context, hand.collection, kind, "Command", note).await;
    }
    Ok((Some((command, answer)), is_moved))
}

/// What is said to a command that is not about image, settings or lineage of all pods.
async fn of_tenant(memory: &mut Memory, command: &Command) -> Option<Answer> {
    let refused = |text: &str| Some(Answer::Refused(text.to_owned()));
    match (&mut memory.tenants, command.tenant.is_empty()) {
        (None, true) => None,
        (None, false) => refused("this Collection is one collection and has no tenants"),
        (Some(_), true) if command.pods => None,
        (Some(_), true) => refused("this Collection has a prefix: say of which tenant, or that its pods are meant"),
        (Some(tenants), false) => Some(tenants.ask(command).await),
    }
}

async fn done(hand: &mut Hand<'_>, command: &Command, deed: Deed) -> Result<Answer, ReconcileError> {
    let (nonce, now) = (command::nonce(command), hand.now);
    let (actor, reason) = (&command.actor, &command.reason);
    let Some(claimed) = hand.claimed.cloned() else {
        return done_to_pods(hand, command, deed).await;
    };
    let swung = match deed {
        Deed::ApproveTarget { .. } | Deed::GiveUpPrevious | Deed::GoBack(Wish { .. }) => {
            return done_to_pods(hand, command, deed).await;
        }
        Deed::Approve { lineage, generation } => {
            let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                pointer.approve(epoch, &lineage, generation, actor, nonce, now)
            });
            edit.await
        }
        Deed::Drop { lineage } => {
            let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                pointer.drop_other(epoch, &lineage, nonce, now)
            });
            edit.await
        }
        Deed::Hold => {
            let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                pointer.hold_promotion(epoch, actor, reason, nonce, now)
            });
            edit.await
        }
        Deed::Resume => {
            let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                pointer.resume_promotion(epoch, nonce, now)
            });
            edit.await
        }
    };
    match swung {
        Ok(_) => Ok(Answer::Done("it is done".to_owned())),
        Err(CommitError::Refused(refused)) if !matches!(refused, EditRefused::LostOwnership { .. }) => {
            Ok(Answer::Refused(refused.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// What is done without a pointer.
async fn done_to_pods(hand: &mut Hand<'_>, command: &Command, deed: Deed) -> Result<Answer, ReconcileError> {
    let answer = match deed {
        Deed::ApproveTarget { slot, target } => {
            let note = format!("{target} {}", command.actor);
            hand.patch_deployment(slot, json!({"metadata": {"annotations": {names::APPROVED: note}}}))
                .await?;
            Answer::Done("it is promoted once its pods are ready".to_owned())
        }
        Deed::GiveUpPrevious => {
            hand.patch_service(json!({"metadata": {"annotations": {names::PREVIOUS: null}}}))
                .await?;
            Answer::Done("the way back is given up".to_owned())
        }
        Deed::GoBack(Wish { .. }) => Answer::Pending(String::new()),
        Deed::Hold => {
            let wish = Wish {
                actor: command.actor.clone(),
                reason: command.reason.clone(),
            };
            hand.hold_pods(Some(&wish)).await?;
            Answer::Done("it is done".to_owned())
        }
        Deed::Resume => {
            hand.hold_pods(None).await?;
            Answer::Done("it is done".to_owned())
        }
        Deed::Approve { .. } | Deed::Drop { .. } => {
            Answer::Refused("pods without a lineage of their own have none to promote or to give up".to_owned())
        }
    };
    Ok(answer)
}
