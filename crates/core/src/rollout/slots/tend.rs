//! What slots, preview and connections need whatever the rollout does: pods of the right target in the right number.

use super::plan::{SECOND_NS, View};
use super::room;
use super::{Action, DEMOTE_EVERY_NS, Plan, QUIET_NS, QUIET_WAIT_NS, Reason, Slot, Target};
use crate::manifest::LineageId;
use crate::rollout::Phase;
use crate::timestamp::Timestamp;

impl View<'_> {
    /// A slot with that target and the wanted pods; through empty where it has another.
    pub(super) fn filled(&self, plan: Plan, slot: Slot, target: &Target) -> Plan {
        let seen = self.slot(slot);
        let is_selected = self.seen.selected() == Some(slot);
        match &seen.target {
            Some(has) if has == target => self.grown(plan, slot),
            // What answers is never made to be something else.
            Some(_) if is_selected => plan,
            Some(_) if !self.is_empty(slot) => {
                let left = seen.pods_left;
                self.emptied(plan, slot).because(Reason::SlotEmpties { slot, left })
            }
            _ => plan.and(Action::SetTarget {
                slot,
                target: target.clone(),
            }),
        }
    }

    /// A slot without pods, once nobody asks them any more.
    pub(super) fn emptied(&self, mut plan: Plan, slot: Slot) -> Plan {
        if self.seen.selected() == Some(slot) || self.slot(slot).replicas == 0 {
            return plan;
        }
        if !self.is_previous(slot) {
            return self.scaled(plan, slot, 0);
        }
        let give_up = self.traffic.since.plus(QUIET_WAIT_NS);
        let quiet = self.seen.idle_quiet_since.map(|since| since.plus(QUIET_NS));
        match quiet {
            Some(at) if self.now >= at && self.seen.is_followed() => self.scaled(plan, slot, 0),
            _ if self.now >= give_up => {
                let plan = plan.because(Reason::SlotStillAsked(slot));
                self.scaled(plan, slot, 0)
            }
            at => {
                plan.wake(at.filter(|at| *at > self.now).unwrap_or(give_up).min(give_up));
                plan.because(Reason::SlotDrains(slot))
            }
        }
    }

    pub(super) fn scaled(&self, plan: Plan, slot: Slot, replicas: u32) -> Plan {
        let differs = self.slot(slot).replicas != replicas;
        plan.and(differs.then_some(Action::Scale { slot, replicas }))
    }

    pub(super) fn is_empty(&self, slot: Slot) -> bool {
        let seen = self.slot(slot);
        seen.replicas == 0 && seen.pods_left == 0 && seen.is_settled
    }

    /// Whether a slot is what answered before.
    pub(super) fn is_previous(&self, slot: Slot) -> bool {
        let id = self.slot(slot).target.as_ref().map(Target::id);
        id.is_some() && id == self.traffic.previous
    }

    fn claims(&self) -> Option<&LineageId> {
        self.pointer.active.as_ref().map(|active| &active.lineage)
    }
}

/// Preview, demotion, and what is amiss.
pub(super) fn tend(view: &View<'_>, plan: &mut Plan) {
    room::tell(view, plan);
    let selected = view.seen.selected();
    let shown = Slot::ALL.into_iter().find(|slot| {
        let is_other = selected.is_some_and(|active| active != *slot);
        is_other && view.slot(*slot).replicas > 0
    });
    let shown = shown.and_then(|slot| view.slot(slot).target.as_ref()).map(Target::id);
    if shown != view.traffic.preview {
        plan.actions.push(Action::Preview(shown));
    }
    let Some(active) = selected else { return };
    let is_there = view.slot(active).target.as_ref().map(|target| &target.lineage) == view.claims();
    let comes = plan.actions.iter().find_map(|action| match action {
        Action::Select(selection) => Some(selection.slot),
        Action::Widen { slot, .. } => Some(*slot),
        _ => None,
    });
    let widened = view.seen.widened();
    let is_alone = is_there && comes.is_none() && widened.is_none();
    // Who answers, or is about to, keeps its clients; but for those that it sheds.
    for slot in [Some(active).filter(|_| is_alone), comes.or(widened)]
        .into_iter()
        .flatten()
    {
        let is_demoted = |pod: &super::PodSeen| pod.report.as_ref().is_some_and(|report| report.is_demoted);
        if view.slot(slot).pods.iter().any(is_demoted) {
            plan.actions.insert(0, Action::EndDemotion(slot));
        }
    }
    let idle = active.other();
    if view.is_previous(idle) && view.slot(idle).replicas > 0 && is_alone {
        demote(view, plan, idle);
    }
    if comes.is_none() && plan.phase != Phase::Returning {
        view.shed(plan, active);
    }
    if !view.slot(active).pods.iter().any(|pod| pod.is_ready) {
        plan.reasons.push(Reason::NoPodAnswers);
    }
}

fn demote(view: &View<'_>, plan: &mut Plan, idle: Slot) {
    if !view.seen.is_followed() {
        plan.reasons.push(Reason::EndpointsMove);
        plan.wake(view.now.plus(SECOND_NS));
        return;
    }
    let due: Option<Timestamp> = view.seen.demoted_at.map(|at| at.plus(DEMOTE_EVERY_NS));
    match due {
        Some(due) if view.now < due => plan.wake(due),
        _ => {
            plan.actions.push(Action::Demote(idle));
            plan.wake(view.now.plus(DEMOTE_EVERY_NS));
        }
    }
}
