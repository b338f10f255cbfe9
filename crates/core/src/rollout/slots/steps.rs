//! Traffic that moves in steps: both slots are sent to, and the new one gets more pods from step to step.
//!
//! The pointer has moved before the first step, as it has where there are none: a controller that ends at any step goes
//! on by what the active Service says of itself. Which slot is selected does not change until the last step is over; so
//! to go back is to select again what never stopped answering, and needs no pod to become ready.

use super::plan::{SECOND_NS, View};
use super::readiness::window;
use super::{Action, Plan, Reason, Seen, Slot, Target, TargetId, TemplateId, Wish};
use crate::pointer::{LineagePointer, LineageRole};
use crate::rollout::bake::{baseline, breach};
use crate::rollout::{BY_ITSELF, Phase};
use crate::timestamp::Timestamp;

/// Shares of traffic at which a rollout waits, in percent, each larger than the one before; all of it is the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps(Vec<u32>);

/// Steps that are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("steps are shares between 1 and 99 in percent, each larger than the one before (100 comes by itself): {0:?}")]
pub struct StepsError(Vec<u32>);

/// Traffic that goes to a second target as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Widened {
    /// What else is selected.
    pub target: TargetId,
    /// The share that it is to have, in percent.
    pub percent: u32,
    /// Since when.
    pub since: Timestamp,
}

impl Steps {
    /// Reads them; a last step of 100 may be written and changes nothing.
    ///
    /// # Errors
    /// One is no share, or not larger than the one before.
    pub fn new(mut shares: Vec<u32>) -> Result<Self, StepsError> {
        let is_rising = shares.windows(2).all(|two| two[0] < two[1]);
        if !is_rising || shares.iter().any(|share| !(1..=100).contains(share)) {
            return Err(StepsError(shares));
        }
        shares.retain(|share| *share < 100);
        Ok(Self(shares))
    }

    /// The share after another; 100 after the last.
    fn after(&self, percent: u32) -> u32 {
        self.0.iter().copied().find(|share| *share > percent).unwrap_or(100)
    }
}

/// Pods that make a share, at least one.
fn pods(replicas: u32, percent: u32) -> u32 {
    let pods = (u64::from(replicas) * u64::from(percent)).div_ceil(100);
    u32::try_from(pods).unwrap_or(replicas).clamp(1, replicas.max(1))
}

/// Which share of its connections the old slot is to shed, so that the new one comes from one share of them to another.
/// What is shed is spread over the pods of both slots, and thus comes back in part.
fn shed(before: u32, percent: u32, old_pods: u32, new_pods: u32) -> u32 {
    let (before, percent) = (u64::from(before.min(99)), u64::from(percent));
    let (all, new) = (u64::from(old_pods) + u64::from(new_pods), u64::from(new_pods).max(1));
    let share = (percent.saturating_sub(before) * 100 * all).div_ceil((100 - before) * new);
    u32::try_from(share).unwrap_or(100).min(100)
}

impl Seen {
    /// The slot that traffic goes to beside the selected one.
    pub fn widened(&self) -> Option<Slot> {
        let widened = self.traffic.as_ref()?.widened.as_ref()?;
        let is_it = |slot: &Slot| self.slot(*slot).target.as_ref().map(Target::id).as_ref() == Some(&widened.target);
        Slot::ALL.into_iter().find(is_it)
    }
}

impl View<'_> {
    /// How many pods a slot is to have: one on its way gets as many as make its share, any other all.
    pub(super) fn wanted(&self, slot: Slot) -> u32 {
        let is_idle = self.seen.selected().is_some_and(|active| active != slot);
        let is_on_its_way = is_idle && !self.is_previous(slot) && !self.is_returning();
        let all = self.replicas();
        match is_on_its_way {
            true => pods(all, self.next_share()),
            false => all,
        }
    }

    /// The pointer went back, and traffic has not followed: that takes no steps.
    fn is_returning(&self) -> bool {
        let claims = self.pointer.active.as_ref().map(|active| &active.lineage);
        let selected = self.seen.selected().and_then(|slot| self.lineage(slot));
        let other = self.pointer.other.as_ref();
        claims != selected && other.is_some_and(|other| other.role == LineageRole::Candidate)
    }

    /// The share that the new slot is to have pods for: of its step, and of the next one once that is due.
    fn share(&self, widened: &Widened) -> u32 {
        match self.now >= self.step_ends(widened) && self.hold().is_none() {
            true => self.spec.steps.after(widened.percent),
            false => widened.percent,
        }
    }

    fn step_ends(&self, widened: &Widened) -> Timestamp {
        let bake = i64::from(self.spec.rollout.rollout.bake_seconds) * SECOND_NS;
        widened.since.plus(bake)
    }

    /// The share that a slot which is ready for it gets next; all of it is no step, but the end.
    pub(super) fn next_share(&self) -> u32 {
        let widened = self.traffic.widened.as_ref();
        widened.map_or_else(|| self.spec.steps.after(0), |widened| self.share(widened))
    }

    /// A slot is ready for its share: it gets it, or has it and is watched.
    pub(super) fn stepped(&self, plan: Plan, to: Slot, target: &Target) -> Plan {
        let percent = self.next_share();
        let widened = self.traffic.widened.as_ref();
        let mut plan = plan.because(self.standing(to));
        match (self.hold(), widened.filter(|widened| widened.percent == percent)) {
            (None, None) => plan.and(Action::Widen {
                slot: to,
                target: target.id(),
                percent,
            }),
            (_, Some(widened)) if self.now < self.step_ends(widened) => {
                plan.phase = Phase::Baking;
                plan.wake(self.step_ends(widened));
                plan
            }
            (held, _) => {
                plan.phase = Phase::Held;
                plan.because(held)
            }
        }
    }

    /// At which step traffic stands.
    pub(super) fn standing(&self, to: Slot) -> Option<Reason> {
        let widened = self.traffic.widened.as_ref()?;
        Some(Reason::Step {
            to,
            percent: widened.percent,
            until: self.step_ends(widened),
        })
    }

    /// Whether traffic goes to a slot that it is not to go to any more: the pointer went back, or something else is wanted.
    pub(super) fn is_off_course(&self, claimed: &LineagePointer, active: Slot) -> bool {
        let Some(widened) = &self.traffic.widened else {
            return false;
        };
        let to = self.slot(active.other()).target.as_ref();
        let Some(to) = to.filter(|target| target.id() == widened.target) else {
            return true;
        };
        let is_in_place = self.lineage(active) == Some(&claimed.lineage);
        let is_new_template = *to == self.newest(claimed) && to.template != self.active_template(active);
        let is_wanted = match is_in_place {
            true => self.pointer.other.is_none() && is_new_template,
            false => to.lineage == claimed.lineage,
        };
        !is_wanted
    }

    /// Back from a step: traffic goes to what is selected, alone.
    pub(super) fn narrowed(&self, claimed: &LineagePointer, active: Slot) -> Plan {
        let to = self.slot(active.other()).target.as_ref();
        // What is no longer wanted is no way back: its pods end, and send their clients away then.
        let left = to.filter(|target| target.lineage != claimed.lineage);
        let template = self.active_template(active);
        let returned_from = left
            .map(|target| target.template.clone())
            .filter(|left| *left != template);
        Plan::at(Phase::Returning).and(self.alone(active, left.map(Target::id), returned_from))
    }

    /// What is selected answers alone again, once any of its pods can.
    pub(super) fn alone(
        &self,
        active: Slot,
        previous: Option<TargetId>,
        returned_from: Option<TemplateId>,
    ) -> Option<Action> {
        if !self.slot(active).pods.iter().any(|pod| pod.is_ready) {
            return None;
        }
        let target = self.slot(active).target.as_ref()?;
        let returned_from = returned_from.or_else(|| self.traffic.returned_from.clone());
        Some(self.select(active, target, previous, returned_from))
    }

    /// What the pods that get a share do worse than they may, as a wish to go back.
    pub(super) fn wish_of_step(&self, active: Slot, to: Slot) -> Option<Wish> {
        self.traffic.widened.as_ref()?;
        let (before, window) = (window(self.slot(active)), window(self.slot(to))?);
        let settings = &self.spec.rollout.rollout;
        let breach = breach(settings, &window, baseline(before.as_ref(), None).as_ref())?;
        Some(Wish {
            actor: BY_ITSELF.to_owned(),
            reason: breach.to_string(),
        })
    }

    /// Once the cluster sends to the new slot, the old one sheds as many connections as make the step's share.
    pub(super) fn shed(&self, plan: &mut Plan, active: Slot) {
        let Some(widened) = &self.traffic.widened else { return };
        let to = active.other();
        if !self.seen.is_sent_to(to) {
            plan.reasons.push(Reason::EndpointsMove);
            return plan.wake(self.now.plus(SECOND_NS));
        }
        if self.seen.demoted_at.is_some() {
            return;
        }
        let ready = |slot: Slot| self.slot(slot).pods.iter().filter(|pod| pod.is_ready).count() as u32;
        let steps = &self.spec.steps.0;
        let before = steps.iter().copied().rfind(|share| *share < widened.percent);
        let percent = shed(before.unwrap_or(0), widened.percent, ready(active), ready(to));
        plan.actions.push(Action::Shed { slot: active, percent });
    }
}
