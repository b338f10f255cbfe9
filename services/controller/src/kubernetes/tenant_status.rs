//! How the tenants of a prefix stand, in as many words as a status may hold.

use verdigris_core::pointer::LineageRole;
use verdigris_core::rollout::Phase;
use verdigris_core::rollout::slots::Condition;
use verdigris_core::timestamp::Timestamp;

use super::resource::{Collection, CollectionStatus, TenantsStatus, TroubledStatus};
use super::status::{condition_status, number, word};
use crate::Controller;
use crate::owner::Standing;

/// How many tenants are told of by name.
const TOLD_MAX: usize = 20;

/// All of them, counted; `open` are open in one pod.
pub(crate) fn of(controller: &Controller, open: u64) -> TenantsStatus {
    let mut told = TenantsStatus {
        open: i32::try_from(open).unwrap_or(i32::MAX),
        ..TenantsStatus::default()
    };
    let (mut count, mut candidates, mut refused, mut held, mut troubled) = (0, 0, 0, 0, 0);
    controller.each(|name, standing| {
        count += 1;
        candidates += usize::from(standing.other == Some(LineageRole::Candidate));
        held += usize::from(standing.is_held);
        let phase = standing.plan.as_ref().map(|plan| plan.phase);
        refused += usize::from(phase == Some(Phase::Refused));
        let Some(message) = trouble(standing) else { return };
        troubled += 1;
        if told.first_troubled.len() < TOLD_MAX {
            told.first_troubled.push(TroubledStatus {
                name: name.to_string(),
                phase: phase.map(|phase| word(phase.name())).unwrap_or_default(),
                message,
            });
        }
    });
    (told.count, told.candidates, told.refused) = (number(count), number(candidates), number(refused));
    (told.held, told.troubled) = (number(held), number(troubled));
    told
}

/// Why a person should look at it.
fn trouble(standing: &Standing) -> Option<String> {
    if let Some(problem) = &standing.problem {
        return Some(problem.clone());
    }
    let plan = standing.plan.as_ref()?;
    let bad = plan.reasons.iter().filter(|reason| reason.needs_attention());
    let bad: Vec<String> = bad.map(ToString::to_string).collect();
    (!bad.is_empty()).then(|| bad.join("; "))
}

/// A person should look at the Collection where one should look at a tenant.
pub(crate) fn degrade(status: &mut CollectionStatus, told: &TenantsStatus, collection: &Collection, now: Timestamp) {
    let is_degraded = |condition: &&mut super::resource::ConditionStatus| condition.kind == "Degraded";
    let Some(condition) = status.conditions.iter_mut().find(is_degraded) else {
        return;
    };
    let Some(first) = told.first_troubled.first().filter(|_| condition.status != "True") else {
        return;
    };
    let message = format!(
        "{} tenants need attention, such as {}: {}",
        told.troubled, first.name, first.message
    );
    let before = collection
        .status
        .as_ref()
        .map(|status| &status.conditions[..])
        .unwrap_or_default();
    let told = Condition {
        kind: "Degraded",
        holds: Some(true),
        reason: "TenantsNeedAttention",
        message,
    };
    *condition = condition_status(told, before, status.observed_generation, now);
}
