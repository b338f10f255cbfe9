//! A rollout as an answer has it.

use verdigris_core::gates::{GateOutcome, Verdict as Judged};
use verdigris_core::pointer::{Hold as Held, LineagePointer, LineageRole, Pointer};
use verdigris_core::rollout::{OtherSeen, ServingWindow};
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::rollout::*;
use verdigris_proto::search::PodCollection;

use crate::owner::Standing;

const SECOND_NS: i64 = 1_000_000_000;

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What a search process says that it answered of a lineage.
pub fn window_of(pod: &PodCollection) -> ServingWindow {
    ServingWindow {
        lineage: pod.lineage.clone().into(),
        requests: pod.window_answered,
        errors: pod.window_failed,
        p50_ms: pod.window_p50_milliseconds,
        p99_ms: pod.window_p99_milliseconds,
    }
}

/// What the pointer says, with what the owner found.
pub(crate) fn rollout(pointer: &Pointer, standing: &Standing) -> GetRolloutResponse {
    let plan = standing.plan.as_ref();
    let mut reasons: Vec<String> = plan
        .into_iter()
        .flat_map(|plan| plan.reasons.iter().map(ToString::to_string))
        .collect();
    reasons.extend(standing.problem.clone());
    let rollout = &standing.spec.rollout;
    let way_back = pointer
        .other
        .as_ref()
        .filter(|other| other.role == LineageRole::WayBack);
    let after = |since: Timestamp, seconds: u32| since.plus(i64::from(seconds) * SECOND_NS).to_string();
    let keep = rollout.keep_seconds.max(rollout.bake_seconds);
    let active_since = pointer.active.as_ref().map(|active| active.since);
    GetRolloutResponse {
        phase: plan.map_or("", |plan| plan.phase.name()).to_owned(),
        reasons,
        active: pointer
            .active
            .as_ref()
            .map(|active| lineage(active, &OtherSeen::NotOpen)),
        other: pointer.other.as_ref().map(|other| lineage(other, &standing.seen.other)),
        build: pointer.builds.first().map(|build| Build {
            lineage: build.lineage.to_string(),
            rows_done: build.rows_done,
            rows: build.rows,
            actor: build.actor.clone(),
            reason: build.reason.clone(),
            since: build.since.to_string(),
        }),
        verdict: plan.and_then(|plan| plan.verdict.as_ref()).map(verdict),
        promotion_hold: pointer.promotion_hold.as_ref().map(hold),
        publish_hold: pointer.publish_hold().map(hold),
        approval: pointer.approval.as_ref().map(|approval| Approval {
            lineage: approval.lineage.to_string(),
            generation: approval.generation,
            actor: approval.actor.clone(),
            at: approval.at.to_string(),
        }),
        bake_until: way_back
            .and(active_since)
            .map(|since| after(since, rollout.bake_seconds))
            .unwrap_or_default(),
        keep_until: way_back.map(|other| after(other.since, keep)).unwrap_or_default(),
        owner: pointer.owner.as_ref().map(|owner| owner.id.clone()).unwrap_or_default(),
        window: standing.seen.window.as_ref().map(|window| Window {
            requests: window.requests,
            errors: window.errors,
            p50_ms: window.p50_ms,
            p99_ms: window.p99_ms,
        }),
        served: pointer.served.iter().rev().map(served).collect(),
    }
}

fn served(entry: &verdigris_core::pointer::Served) -> Served {
    Served {
        lineage: entry.lineage.to_string(),
        generation: entry.generation,
        since: entry.since.to_string(),
        actor: entry.actor.clone(),
        reason: entry.reason.clone(),
    }
}

fn lineage(named: &LineagePointer, seen: &OtherSeen) -> Lineage {
    let role = match named.role {
        LineageRole::Active => "active",
        LineageRole::Candidate => "candidate",
        LineageRole::WayBack => "way_back",
    };
    let (is_ready, problem) = match seen {
        _ if named.role == LineageRole::Active => (true, String::new()),
        OtherSeen::Ready { lineage, .. } => (*lineage == named.lineage, String::new()),
        OtherSeen::Refused { lineage, why } if *lineage == named.lineage => (false, why.clone()),
        OtherSeen::Refused { .. } | OtherSeen::NotOpen => (false, String::new()),
    };
    Lineage {
        lineage: named.lineage.to_string(),
        generation: named.generation,
        role: role.to_owned(),
        since: named.since.to_string(),
        ready: is_ready,
        problem,
    }
}

fn verdict(judged: &Judged) -> Verdict {
    let word = |outcome| match outcome {
        GateOutcome::Passed => "passed",
        GateOutcome::Failed => "failed",
        GateOutcome::NotApplicable => "not_applicable",
        GateOutcome::NoData => "no_data",
    };
    let gates = judged.gates.iter().map(|gate| GateVerdict {
        gate: gate.gate.name().to_owned(),
        outcome: word(gate.outcome).to_owned(),
        measured: gate.measured,
        limit: gate.limit,
        text: gate.text.clone(),
    });
    Verdict {
        lineage: judged.lineage.to_string(),
        generation: judged.generation,
        measured_at: judged.measured_at.to_string(),
        promotable: judged.is_promotable(),
        gates: gates.collect(),
    }
}

fn hold(held: &Held) -> Hold {
    Hold {
        actor: held.actor.clone(),
        reason: held.reason.clone(),
        since: held.since.to_string(),
    }
}
