//! How it stands, for whoever reads the Collection.

use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use verdigris_core::gates::Verdict;
use verdigris_core::pointer::Pointer;
use verdigris_core::rollout::slots::{
    ALL_LINEAGES, Condition, Plan, Role, Seen, Slot, SlotSeen, Target, conditions, role,
};
use verdigris_core::timestamp::Timestamp;

use super::command::{Answer, Command};
use super::resource::{
    Collection, CollectionStatus, CommandStatus, ConditionStatus, ServedStatus, SlotStatus, StepStatus, VerdictStatus,
};
use super::{Context, names};
use crate::metrics::ControllerMetrics;

/// How much of the history is shown.
const HISTORY: usize = 10;
/// The longest note of an event that the API takes.
const NOTE_BYTES: usize = 1_000;

/// The status of now.
pub(crate) fn status(
    collection: &Collection,
    pointer: &Pointer,
    seen: &Seen,
    plan: &Plan,
    now: Timestamp,
) -> CollectionStatus {
    let before = collection.status.clone().unwrap_or_default();
    let generation = collection.metadata.generation.unwrap_or(0);
    let active = seen.selected();
    let target = active.and_then(|slot| seen.slot(slot).target.as_ref());
    let mut slots: Vec<SlotStatus> = Slot::ALL.iter().map(|slot| one(pointer, seen, *slot)).collect();
    slots.retain(|slot| slot.target.is_some());
    let of_active = slots.iter().find(|slot| slot.role == Role::Active.name());
    let texts: Vec<String> = plan.reasons.iter().map(ToString::to_string).collect();
    CollectionStatus {
        observed_generation: generation,
        phase: word(plan.phase.name()),
        message: texts.join("; "),
        conditions: conditions(pointer, seen, plan)
            .into_iter()
            .map(|condition| condition_status(condition, &before.conditions, generation, now))
            .collect(),
        active_slot: active.map(|slot| slot.to_string()),
        active_target: target.map(|target| target.id().to_string()),
        lineage: target.and_then(lineage),
        generation: of_active.and_then(|slot| slot.generation),
        replicas: active.map_or(0, |slot| number(seen.slot(slot).pods.len())),
        selector: selector(collection, target),
        slots,
        step: step(seen),
        verdict: plan.verdict.as_ref().map(verdict),
        history: pointer.served.iter().rev().take(HISTORY).map(served).collect(),
        command: before.command,
        tenants: None,
        controller_epoch: before.controller_epoch,
    }
}

fn step(seen: &Seen) -> Option<StepStatus> {
    let widened = seen.traffic.as_ref()?.widened.as_ref()?;
    Some(StepStatus {
        slot: seen.widened()?.to_string(),
        percent: i32::try_from(widened.percent).unwrap_or(100),
        since: to_the_second(widened.since),
    })
}

/// Pods that open what is asked for follow none.
fn lineage(target: &Target) -> Option<String> {
    Some(target.lineage.to_string()).filter(|lineage| lineage != ALL_LINEAGES)
}

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn selector(collection: &Collection, target: Option<&Target>) -> String {
    let target = target.map_or_else(|| names::NO_TARGET.to_owned(), |target| target.id().to_string());
    format!(
        "{}={},{}={target}",
        names::COLLECTION,
        collection.name_any(),
        names::TARGET
    )
}

fn one(pointer: &Pointer, seen: &Seen, slot: Slot) -> SlotStatus {
    let has: &SlotSeen = seen.slot(slot);
    let id = has.target.as_ref().map(Target::id);
    let ready = has
        .pods
        .iter()
        .filter(|pod| pod.is_ready && Some(&pod.target) == id.as_ref());
    let warm: Vec<u64> = ready
        .filter_map(|pod| pod.report.as_ref())
        .filter(|report| report.is_warm)
        .map(|report| report.generation)
        .collect();
    SlotStatus {
        name: slot.to_string(),
        role: role(pointer, seen, slot).name().to_owned(),
        target: id.map(|id| id.to_string()),
        lineage: has.target.as_ref().and_then(lineage),
        generation: warm.iter().min().and_then(|generation| i64::try_from(*generation).ok()),
        replicas: i32::try_from(has.replicas).unwrap_or(i32::MAX),
        ready: number(warm.len()),
    }
}

pub(super) fn condition_status(
    condition: Condition,
    before: &[ConditionStatus],
    generation: i64,
    now: Timestamp,
) -> ConditionStatus {
    let status = match condition.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let same = before
        .iter()
        .find(|known| known.kind == condition.kind && known.status == status);
    let since = same.map(|known| known.last_transition_time.clone());
    ConditionStatus {
        kind: condition.kind.to_owned(),
        status: status.to_owned(),
        reason: condition.reason.to_owned(),
        message: condition.message,
        last_transition_time: since.unwrap_or_else(|| to_the_second(now)),
        observed_generation: generation,
    }
}

fn to_the_second(at: Timestamp) -> String {
    Timestamp(at.0 - at.0.rem_euclid(1_000_000_000)).to_string()
}

fn verdict(verdict: &Verdict) -> VerdictStatus {
    let against = verdict
        .against()
        .map(|gate| format!("{}: {}", gate.gate.name(), gate.text));
    VerdictStatus {
        lineage: verdict.lineage.to_string(),
        generation: i64::try_from(verdict.generation).unwrap_or(i64::MAX),
        passed: verdict.is_promotable(),
        against: against.collect(),
    }
}

fn served(entry: &verdigris_core::pointer::Served) -> ServedStatus {
    ServedStatus {
        lineage: entry.lineage.to_string(),
        generation: i64::try_from(entry.generation).unwrap_or(i64::MAX),
        since: entry.since.to_string(),
        actor: entry.actor.clone(),
        reason: entry.reason.clone(),
    }
}

/// A phase as a status has it.
pub(super) fn word(phase: &str) -> String {
    let parts = phase.split('_').map(|part| {
        let (first, rest) = part.split_at(part.len().min(1));
        format!("{}{rest}", first.to_uppercase())
    });
    parts.collect()
}

/// The same status, with what keeps the controller from doing anything.
pub(crate) fn troubled(
    collection: &Collection,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> CollectionStatus {
    let mut status = collection.status.clone().unwrap_or_default();
    let generation = collection.metadata.generation.unwrap_or(0);
    if status.phase.is_empty() {
        status.phase = "Empty".to_owned();
    }
    status.observed_generation = generation;
    message.clone_into(&mut status.message);
    let condition = Condition {
        kind: "Degraded",
        holds: Some(true),
        reason,
        message: message.to_owned(),
    };
    let condition = condition_status(condition, &status.conditions, generation, now);
    status.conditions.retain(|known| known.kind != condition.kind);
    status.conditions.push(condition);
    status
}

/// With what is said to a command.
pub(crate) fn answered(status: &mut CollectionStatus, command: &Command, answer: &Answer) {
    let (outcome, message) = match answer {
        Answer::Done(text) => ("Done", text),
        Answer::Refused(text) => ("Refused", text),
        Answer::Pending(text) => ("Pending", text),
    };
    status.command = Some(CommandStatus {
        id: command.id.clone(),
        verb: command.verb.name().to_owned(),
        outcome: outcome.to_owned(),
        message: message.clone(),
    });
}

/// The same as figures.
pub(crate) fn measure(metrics: &ControllerMetrics, name: &str, status: &CollectionStatus) {
    let is_degraded = |condition: &ConditionStatus| condition.kind == "Degraded" && condition.status == "True";
    metrics.degraded(name, status.conditions.iter().any(is_degraded));
    for slot in Slot::ALL {
        let has = status.slots.iter().find(|has| has.name == slot.name());
        let (wanted, ready) = has.map_or((0, 0), |has| (has.replicas, has.ready));
        metrics.pods(name, slot, wanted, ready);
    }
}

/// Writes it where it differs. With an epoch in it only where nothing has changed since the Collection was seen: an epoch
/// of a later controller is not taken back.
pub(crate) async fn write(
    api: &Api<Collection>,
    collection: &Collection,
    status: CollectionStatus,
) -> Result<(), kube::Error> {
    if collection.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut object = json!({
        "apiVersion": Collection::api_version(&()), "kind": Collection::kind(&()), "status": status,
    });
    let is_fenced = status.controller_epoch.is_some();
    if is_fenced {
        object["metadata"] = json!({"resourceVersion": collection.resource_version()});
    }
    let params = PatchParams::apply(names::MANAGER).force();
    let written = api
        .patch_status(&collection.name_any(), &params, &Patch::Apply(object))
        .await;
    match written {
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // It is looked at again, since it has changed.
        Err(kube::Error::Api(status)) if is_fenced && status.code == 409 => Ok(()),
        written => written.map(drop),
    }
}

/// Says it in an event. One that cannot be written is no reason to stop.
pub(crate) async fn tell(context: &Context, collection: &Collection, kind: EventType, reason: &str, mut note: String) {
    while note.len() > NOTE_BYTES {
        note.pop();
    }
    tracing::info!(collection = collection.name_any(), reason, "{note}");
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note),
        action: reason.to_owned(),
        secondary: None,
    };
    let reference = collection.object_ref(&());
    if let Err(error) = context.recorder.publish(&event, &reference).await {
        tracing::debug!("an event could not be written: {error}");
    }
}
