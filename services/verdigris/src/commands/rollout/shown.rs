//! How a rollout is shown: as JSON with every number, and as a picture of some lines for people.

use serde_json::{Value, json};
use verdigris_proto::rollout::{GateVerdict, GateVerdicts, LineageStanding, Rollout};

use crate::output::{pairs, table, to_the_second};

pub(super) fn json(standing: &Rollout) -> Value {
    let lineage = |named: &LineageStanding| {
        json!({
            "lineage": named.lineage,
            "generation": named.generation,
            "role": named.role,
            "since": named.since,
        })
    };
    json!({
        "collection": standing.collection,
        "phase": standing.phase,
        "reasons": standing.reasons,
        "active": standing.active.as_ref().map(lineage),
        "other": standing.other.as_ref().map(lineage),
        "build": standing.build.as_ref().map(|build| json!({
            "lineage": build.lineage,
            "rows_done": build.rows_done,
            "rows": build.rows,
            "since": build.since,
            "actor": build.actor,
            "reason": build.reason,
        })),
        "verdict": standing.verdict.as_ref().map(|verdict| json!({
            "lineage": verdict.lineage,
            "generation": verdict.generation,
            "measured_at": verdict.measured_at,
            "promotable": verdict.promotable,
            "gates": verdict.gates.iter().map(gate).collect::<Vec<_>>(),
        })),
        "approval": standing.approval.as_ref().map(|approval| json!({
            "lineage": approval.lineage,
            "generation": approval.generation,
            "actor": approval.actor,
            "at": approval.at,
        })),
        "hold": standing.hold.as_ref().map(|hold| json!({
            "kind": hold.kind,
            "actor": hold.actor,
            "reason": hold.reason,
            "since": hold.since,
        })),
        "promotion": standing.promotion,
        "bakes_until": standing.bakes_until,
        "way_back_until": standing.way_back_until,
        "window": standing.window.as_ref().map(|window| json!({
            "requests": window.requests,
            "errors": window.errors,
            "p50_ms": window.p50_ms,
            "p99_ms": window.p99_ms,
        })),
        "owner": standing.owner,
        "overdue": standing.overdue,
    })
}

fn gate(gate: &GateVerdict) -> Value {
    json!({
        "gate": gate.gate,
        "outcome": gate.outcome,
        "measured": gate.measured,
        "limit": gate.limit,
        "text": gate.text,
    })
}

pub(super) fn people(standing: &Rollout) -> String {
    let named = |named: &LineageStanding| {
        let since = to_the_second(&named.since);
        format!("{} at generation {}, since {since}", named.lineage, named.generation)
    };
    let overdue = if standing.overdue { ", overdue" } else { "" };
    let mut rows = vec![("phase", format!("{}{overdue}", words(&standing.phase)))];
    rows.extend(standing.reasons.iter().map(|reason| ("", reason.clone())));
    rows.extend(standing.active.as_ref().map(|active| ("active", named(active))));
    if let Some(other) = &standing.other {
        let is_way_back = other.role == "way_back";
        let until = match standing.way_back_until.as_str() {
            until if is_way_back && !until.is_empty() => format!(", kept until {}", to_the_second(until)),
            _ => String::new(),
        };
        let role = if is_way_back { "way back" } else { "candidate" };
        rows.push((role, format!("{}{until}", named(other))));
    }
    if let Some(build) = &standing.build {
        let asked = format!("{}: {}", build.actor, build.reason);
        let rows_done = format!("{} of {} rows", build.rows_done, build.rows);
        rows.push(("build", format!("{}, {rows_done}, asked by {asked}", build.lineage)));
    }
    if let Some(hold) = &standing.hold {
        let since = to_the_second(&hold.since);
        rows.push(("held", format!("by {} since {since}: {}", hold.actor, hold.reason)));
    }
    if let Some(approval) = &standing.approval {
        let what = format!("{} as judged at generation {}", approval.lineage, approval.generation);
        rows.push(("approved", format!("{what}, by {}", approval.actor)));
    }
    if !standing.bakes_until.is_empty() {
        rows.push(("watched", format!("until {}", to_the_second(&standing.bakes_until))));
    }
    if let Some(window) = &standing.window {
        let took = format!(
            "half within {:.1} ms, 99 in 100 within {:.1} ms",
            window.p50_ms, window.p99_ms
        );
        rows.push((
            "answers",
            format!("{}, {} errors, {took}", window.requests, window.errors),
        ));
    }
    rows.push(("promotion", standing.promotion.clone()));
    rows.push(("owner", standing.owner.clone()));
    let gates = standing.verdict.as_ref().map(gates).unwrap_or_default();
    let next = next(standing).map(|next| format!("\n\n{next}")).unwrap_or_default();
    format!("{}{gates}{next}", pairs(&rows))
}

fn gates(verdict: &GateVerdicts) -> String {
    let rows = verdict.gates.iter().map(|gate| {
        vec![
            gate.outcome.replace('_', " "),
            gate.gate.clone(),
            gate.measured.map(number).unwrap_or_default(),
            gate.limit.map(number).unwrap_or_default(),
            gate.text.clone(),
        ]
    });
    let says = if verdict.promotable {
        "nothing speaks against it"
    } else {
        "refused"
    };
    let judged = to_the_second(&verdict.measured_at);
    let header = format!("judged at generation {}, {judged}: {says}", verdict.generation);
    let table = table(&["", "gate", "measured", "limit", ""], &["measured", "limit"], rows);
    format!("\n\n{header}\n{table}")
}

/// What a person may say next.
fn next(standing: &Rollout) -> Option<String> {
    let words = match standing.phase.as_str() {
        "held" => "verdigris rollout resume | abort --reason WORDS",
        "refused" | "awaiting_approval" => "verdigris rollout promote | measure | abort --reason WORDS",
        "baking" | "keeping_way_back" => "verdigris rollout rollback --reason WORDS",
        _ => return None,
    };
    Some(words.to_owned())
}

fn words(phase: &str) -> String {
    phase.replace('_', " ")
}

fn number(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
