//! What stands in a status, in the words that operators know.

use super::room::is_stalled;
use super::{Plan, Reason, Seen, Slot, Target};
use crate::gates::Verdict;
use crate::pointer::{LineageRole, Pointer};
use crate::rollout::Phase;

/// One condition of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its name.
    pub kind: &'static str,
    /// Whether it holds; none where nobody knows.
    pub holds: Option<bool>,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It answers.
    Active,
    /// It is to answer.
    Candidate,
    /// It answered, and can again.
    WayBack,
    /// Nothing.
    Idle,
}

impl Role {
    /// The name in a status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Candidate => "candidate",
            Self::WayBack => "wayBack",
            Self::Idle => "idle",
        }
    }
}

/// What a slot is for, as the cluster and the pointer show it.
pub fn role(pointer: &Pointer, seen: &Seen, slot: Slot) -> Role {
    let Some(target) = &seen.slot(slot).target else {
        return Role::Idle;
    };
    if seen.selected() == Some(slot) {
        return Role::Active;
    }
    let other = pointer.other.as_ref().filter(|other| other.lineage == target.lineage);
    if let Some(other) = other {
        return match other.role {
            LineageRole::WayBack => Role::WayBack,
            LineageRole::Candidate | LineageRole::Active => Role::Candidate,
        };
    }
    let is_claimed = pointer
        .active
        .as_ref()
        .is_some_and(|active| active.lineage == target.lineage);
    let traffic = seen.traffic.as_ref();
    let is_previous = traffic.is_some_and(|traffic| traffic.previous.as_ref() == Some(&target.id()));
    let is_left = traffic.is_some_and(|traffic| traffic.returned_from.as_ref() == Some(&target.template));
    match (is_claimed, is_previous && !is_left) {
        (true, true) => Role::WayBack,
        (true, false) if seen.slot(slot).replicas > 0 => Role::Candidate,
        _ => Role::Idle,
    }
}

/// The slot whose pods are of a target, by its name.
pub fn slot_of(seen: &Seen, target: &str) -> Option<Slot> {
    let is_it = |slot: &Slot| {
        let has = seen.slot(*slot).target.as_ref().map(Target::id);
        has.is_some_and(|id| id.as_str() == target)
    };
    Slot::ALL.into_iter().find(is_it)
}

/// All conditions, in the order in which they are shown.
pub fn conditions(pointer: &Pointer, seen: &Seen, plan: &Plan) -> [Condition; 5] {
    [
        available(seen),
        progressing(plan),
        degraded(plan),
        gates_passed(plan.verdict.as_ref(), pointer),
        held(pointer, plan),
    ]
}

fn condition(kind: &'static str, holds: Option<bool>, reason: &'static str, message: String) -> Condition {
    Condition {
        kind,
        holds,
        reason,
        message,
    }
}

fn available(seen: &Seen) -> Condition {
    let endpoints = seen.traffic.as_ref().map_or(0, |traffic| traffic.endpoints.len());
    match (seen.selected(), endpoints) {
        (None, _) => condition(
            "Available",
            Some(false),
            "NothingSelected",
            "no slot answers yet".to_owned(),
        ),
        (Some(slot), 0) => {
            let message = format!("slot {slot} has no pod that requests are sent to");
            condition("Available", Some(false), "NoEndpoints", message)
        }
        (Some(slot), pods) => {
            let message = format!("{pods} pods answer; slot {slot} is selected");
            condition("Available", Some(true), "Answering", message)
        }
    }
}

fn progressing(plan: &Plan) -> Condition {
    let is_moving = !matches!(plan.phase, Phase::Empty | Phase::Steady);
    let message = texts(plan.reasons.iter());
    // What a person or the cluster must make room for does not go on by itself; nor what waits beyond its deadline.
    let is_late = |reason: &Reason| {
        use crate::rollout::Reason as Said;
        matches!(reason, Reason::Overdue { .. } | Reason::Rollout(Said::Overdue { .. }))
    };
    let is_waiting = matches!(plan.phase, Phase::Warming | Phase::Promoting);
    if is_waiting && plan.reasons.iter().any(is_stalled) {
        return condition("Progressing", Some(false), "NoRoom", message);
    }
    if is_waiting && plan.reasons.iter().any(is_late) {
        return condition("Progressing", Some(false), "DeadlineExceeded", message);
    }
    condition("Progressing", Some(is_moving), word(plan.phase), message)
}

fn degraded(plan: &Plan) -> Condition {
    let is_bad = |reason: &&Reason| match reason {
        reason if is_stalled(reason) => true,
        Reason::NoPodAnswers | Reason::SlotStillAsked(_) | Reason::Overdue { .. } => true,
        Reason::Rollout(said) => said.needs_attention(),
        _ => false,
    };
    let message = texts(plan.reasons.iter().filter(is_bad));
    let is_degraded = !message.is_empty();
    let reason = if is_degraded { "NeedsAttention" } else { "AsExpected" };
    condition("Degraded", Some(is_degraded), reason, message)
}

fn gates_passed(verdict: Option<&Verdict>, pointer: &Pointer) -> Condition {
    let is_candidate = pointer
        .other
        .as_ref()
        .is_some_and(|other| other.role == LineageRole::Candidate);
    match verdict {
        None if is_candidate => condition("GatesPassed", None, "NotJudged", "it was not judged yet".to_owned()),
        None => condition("GatesPassed", None, "NoCandidate", String::new()),
        Some(verdict) if verdict.is_promotable() => {
            let message = format!("judged at generation {}", verdict.generation);
            condition("GatesPassed", Some(true), "Passed", message)
        }
        Some(verdict) => {
            let against: Vec<String> = verdict
                .against()
                .map(|gate| format!("{}: {}", gate.gate.name(), gate.text))
                .collect();
            condition("GatesPassed", Some(false), "Refused", against.join("; "))
        }
    }
}

fn held(pointer: &Pointer, plan: &Plan) -> Condition {
    let hold = pointer.publish_hold().or(pointer.promotion_hold.as_ref());
    let is_hold = |reason: &&Reason| {
        matches!(
            reason,
            Reason::Held { .. } | Reason::Rollout(crate::rollout::Reason::Held { .. })
        )
    };
    let paused = plan.reasons.iter().find(is_hold);
    match (hold, paused) {
        (Some(hold), _) => {
            let message = format!("by {}: {}", hold.actor, hold.reason);
            condition("Held", Some(true), "Held", message)
        }
        (None, Some(reason)) => condition("Held", Some(true), "Paused", reason.to_string()),
        (None, None) => condition("Held", Some(false), "NotHeld", String::new()),
    }
}

fn texts<'r>(reasons: impl Iterator<Item = &'r Reason>) -> String {
    reasons.map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A phase as a reason of conditions is written.
fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "Empty",
        Phase::Steady => "Steady",
        Phase::Building => "Building",
        Phase::Held => "Held",
        Phase::Warming => "Warming",
        Phase::Leveling => "Leveling",
        Phase::Judging => "Judging",
        Phase::Refused => "Refused",
        Phase::AwaitingApproval => "AwaitingApproval",
        Phase::Promoting => "Promoting",
        Phase::Baking => "Baking",
        Phase::Returning => "Returning",
        Phase::KeepingWayBack => "KeepingWayBack",
    }
}
