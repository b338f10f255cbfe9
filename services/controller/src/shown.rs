//! How a rollout is shown.

use verdigris_core::gates::Verdict;
use verdigris_core::pointer::{HoldKind, LineagePointer, LineageRole, Pointer};
use verdigris_core::rollout::{Phase, Promotion, Reason};
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::rollout::*;

use crate::collection::Standing;

const SECOND_NS: i64 = 1_000_000_000;

/// A rollout as an answer has it.
pub(crate) fn rollout(standing: &Standing) -> Rollout {
    let (pointer, plan) = (&*standing.pointer, &*standing.plan);
    let (bakes_until, way_back_until) = until(standing);
    Rollout {
        collection: pointer.collection.to_string(),
        phase: plan.phase.name().to_owned(),
        reasons: plan.reasons.iter().map(ToString::to_string).collect(),
        active: pointer.active.as_ref().map(lineage),
        other: pointer.other.as_ref().map(lineage),
        build: pointer.builds.first().map(|build| BuildStanding {
            lineage: build.lineage.to_string(),
            rows_done: build.rows_done,
            rows: build.rows,
            since: build.since.to_string(),
            actor: build.actor.clone(),
            reason: build.reason.clone(),
        }),
        verdict: plan.verdict.as_ref().map(verdict),
        approval: pointer.approval.as_ref().map(|approval| Approval {
            lineage: approval.lineage.to_string(),
            generation: approval.generation,
            actor: approval.actor.clone(),
            at: approval.at.to_string(),
        }),
        hold: hold(pointer),
        promotion: match standing.spec.rollout.promotion {
            Promotion::Automatic => "automatic",
            Promotion::Manual => "manual",
        }
        .to_owned(),
        bakes_until: bakes_until.map(|at| at.to_string()).unwrap_or_default(),
        way_back_until: way_back_until.map(|at| at.to_string()).unwrap_or_default(),
        window: window(standing),
        owner: pointer.owner.as_ref().map(|owner| owner.id.clone()).unwrap_or_default(),
        overdue: plan
            .reasons
            .iter()
            .any(|reason| matches!(reason, Reason::Overdue { .. })),
    }
}

/// The answers since the flip, where they are of the lineage that answers and there was a flip.
fn window(standing: &Standing) -> Option<ServingWindow> {
    let active = standing.pointer.active.as_ref()?;
    let is_promoted = matches!(
        standing.plan.phase,
        Phase::Baking | Phase::Returning | Phase::KeepingWayBack
    );
    let window = standing.window.as_ref();
    let window = window.filter(|window| is_promoted && window.lineage == active.lineage)?;
    Some(ServingWindow {
        requests: window.requests,
        errors: window.errors,
        p50_ms: window.p50_ms,
        p99_ms: window.p99_ms,
    })
}

fn until(standing: &Standing) -> (Option<Timestamp>, Option<Timestamp>) {
    let pointer = &standing.pointer;
    let rollout = &standing.spec.rollout;
    let way_back = pointer
        .other
        .as_ref()
        .filter(|other| other.role == LineageRole::WayBack);
    let (Some(active), Some(other)) = (&pointer.active, way_back) else {
        return (None, None);
    };
    let bakes_until = active.since.plus(i64::from(rollout.bake_seconds) * SECOND_NS);
    let keep = i64::from(rollout.keep_seconds.max(rollout.bake_seconds));
    let is_baking = standing.plan.phase == Phase::Baking;
    (
        is_baking.then_some(bakes_until),
        Some(other.since.plus(keep * SECOND_NS)),
    )
}

fn lineage(named: &LineagePointer) -> LineageStanding {
    LineageStanding {
        lineage: named.lineage.to_string(),
        generation: named.generation,
        role: match named.role {
            LineageRole::Active => "active",
            LineageRole::Candidate => "candidate",
            LineageRole::WayBack => "way_back",
        }
        .to_owned(),
        since: named.since.to_string(),
    }
}

fn hold(pointer: &Pointer) -> Option<Hold> {
    let hold = pointer.publish_hold().or(pointer.promotion_hold.as_ref())?;
    Some(Hold {
        kind: match hold.kind {
            HoldKind::Promotion => "promotion",
            HoldKind::Publish => "publish",
        }
        .to_owned(),
        actor: hold.actor.clone(),
        reason: hold.reason.clone(),
        since: hold.since.to_string(),
    })
}

fn verdict(verdict: &Verdict) -> GateVerdicts {
    let gates = verdict.gates.iter().map(|gate| GateVerdict {
        gate: gate.gate.name().to_owned(),
        outcome: gate.outcome.name().to_owned(),
        measured: gate.measured,
        limit: gate.limit,
        text: gate.text.clone(),
    });
    GateVerdicts {
        lineage: verdict.lineage.to_string(),
        generation: verdict.generation,
        measured_at: verdict.measured_at.to_string(),
        promotable: verdict.is_promotable(),
        gates: gates.collect(),
    }
}

/// What answered, the newest first.
pub(crate) fn served(pointer: &Pointer) -> Vec<ServedEntry> {
    let entries = pointer.served.iter().rev().map(|served| ServedEntry {
        lineage: served.lineage.to_string(),
        generation: served.generation,
        since: served.since.to_string(),
        actor: served.actor.clone(),
        reason: served.reason.clone(),
    });
    entries.collect()
}
