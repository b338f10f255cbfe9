//! The plan for two slots, level-triggered.
//!
//! The pointer decides which lineage answers, and its edits are compared and swapped; traffic follows the pointer as
//! soon as the pods of that lineage are ready, and stays where it is until then. So a controller that ends between
//! the two leaves nothing half done that another would not finish, and a person's hold can never come too late to be
//! heard but be taken for obeyed. A new image or new settings of pods are a rollout without the pointer: its facts
//! stand on the active Service, written with the selector in one write.

use super::readiness::{Need, Readiness, window};
use super::tend::tend;
use super::{Action, Plan, Reason, Seen, Selection, Slot, SlotSeen, Spec, Target, Traffic, Wish};
use crate::pointer::{LineagePointer, LineageRole, Pointer};
use crate::rollout::bake::{baseline, breach};
use crate::rollout::{self, BY_ITSELF, Observation, OtherSeen, Phase, Promotion, ReturnWish};
use crate::timestamp::Timestamp;

pub(super) const SECOND_NS: i64 = 1_000_000_000;
/// How long a dead active slot is waited for before the way back answers instead.
const DEAD_FOR_NS: i64 = 5 * SECOND_NS;

/// Says what to do next for a collection.
pub fn plan(spec: &Spec, pointer: &Pointer, seen: &Seen, now: Timestamp) -> Plan {
    let Some(traffic) = &seen.traffic else {
        return Plan::at(Phase::Empty).and(Action::CreateServices);
    };
    let pointer = &as_served(spec, pointer, seen, traffic);
    let view = View {
        spec,
        pointer,
        seen,
        traffic,
        now,
    };
    let mut plan = match (&pointer.active, seen.selected()) {
        (None, _) => Plan::at(Phase::Empty).because(Reason::NothingPublished),
        (Some(claimed), None) => view.first(claimed),
        (Some(claimed), Some(active)) => match view.lineage(active) == Some(&claimed.lineage) {
            _ if view.is_off_course(claimed, active) => view.narrowed(claimed, active),
            true => view.in_place(claimed, active),
            false => view.follow(claimed, active),
        },
    };
    tend(&view, &mut plan);
    if !view.is_fenced() {
        // What an earlier controller still has in hand must be refused before anything is decided by what is seen.
        plan.actions = vec![Action::Fence];
    }
    plan
}

/// The pointer with what bears on time and holds as traffic shows it: a lineage answers since it is selected.
fn as_served(spec: &Spec, pointer: &Pointer, seen: &Seen, traffic: &Traffic) -> Pointer {
    let mut served = pointer.clone();
    let selected = seen.selected().and_then(|slot| seen.slot(slot).target.as_ref());
    let is_there = |active: &LineagePointer| selected.is_some_and(|target| target.lineage == active.lineage);
    if let (Some(active), Some(other)) = (&mut served.active, &mut served.other)
        && other.role == LineageRole::WayBack
        && is_there(active)
    {
        active.since = active.since.max(traffic.since);
        other.since = other.since.max(traffic.since);
    }
    if spec.is_paused {
        rollout::paused(served)
    } else {
        served
    }
}

impl Plan {
    pub(super) fn at(phase: Phase) -> Self {
        Self {
            phase,
            actions: Vec::new(),
            wake_at: None,
            reasons: Vec::new(),
            verdict: None,
        }
    }

    fn of(plan: rollout::Plan) -> Self {
        Self {
            phase: plan.phase,
            actions: plan.actions.into_iter().map(Action::Pointer).collect(),
            wake_at: plan.wake_at,
            reasons: plan.reasons.into_iter().map(Reason::Rollout).collect(),
            verdict: plan.verdict,
        }
    }

    pub(super) fn and(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }

    pub(super) fn because(mut self, reasons: impl IntoIterator<Item = Reason>) -> Self {
        self.reasons.extend(reasons);
        self
    }

    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

impl IntoIterator for Action {
    type Item = Self;
    type IntoIter = std::iter::Once<Self>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self)
    }
}

impl IntoIterator for Reason {
    type Item = Self;
    type IntoIter = std::iter::Once<Self>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self)
    }
}

#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) spec: &'a Spec,
    pub(super) pointer: &'a Pointer,
    pub(super) seen: &'a Seen,
    pub(super) traffic: &'a Traffic,
    pub(super) now: Timestamp,
}

impl View<'_> {
    fn is_fenced(&self) -> bool {
        let ours = self.seen.epoch;
        let slots = Slot::ALL.iter().map(|slot| self.seen.slot(*slot));
        self.traffic.epoch == ours
            && slots
                .filter(|slot| slot.target.is_some())
                .all(|slot| slot.epoch == ours)
    }

    pub(super) fn slot(&self, slot: Slot) -> &SlotSeen {
        self.seen.slot(slot)
    }

    pub(super) fn lineage(&self, slot: Slot) -> Option<&crate::manifest::LineageId> {
        self.slot(slot).target.as_ref().map(|target| &target.lineage)
    }

    pub(super) fn newest(&self, lineage: &LineagePointer) -> Target {
        Target {
            lineage: lineage.lineage.clone(),
            template: self.spec.template.clone(),
        }
    }

    /// What a slot has, where it is of that lineage; or else what it is to get.
    fn as_is_or_newest(&self, slot: Slot, lineage: &LineagePointer) -> Target {
        let has = self.slot(slot).target.clone();
        has.filter(|target| target.lineage == lineage.lineage)
            .unwrap_or_else(|| self.newest(lineage))
    }

    fn readiness(&self, slot: Slot, target: &Target) -> Readiness<'_> {
        Readiness::of(slot, self.slot(slot), target, self.wanted(slot))
    }

    /// Never none: a slot that answers is not scaled away by a spec.
    pub(super) fn replicas(&self) -> u32 {
        self.spec.replicas.max(1)
    }

    pub(super) fn hold(&self) -> Option<Reason> {
        let hold = self.pointer.publish_hold().or(self.pointer.promotion_hold.as_ref())?;
        Some(Reason::Held {
            actor: hold.actor.clone(),
            reason: hold.reason.clone(),
        })
    }

    /// Nothing answers yet, or what is selected is gone: as soon as half of the pods can.
    fn first(&self, claimed: &LineagePointer) -> Plan {
        let has = |slot: &Slot| self.lineage(*slot) == Some(&claimed.lineage);
        let slot = Slot::ALL.into_iter().find(has).unwrap_or(Slot::Blue);
        let target = self.as_is_or_newest(slot, claimed);
        let readiness = self.readiness(slot, &target);
        if readiness.is_enough(Need::Half) {
            return Plan::at(Phase::Promoting).and(self.select(slot, &target, None, None));
        }
        let plan = Plan::at(Phase::Warming).because(readiness.reasons());
        self.filled(plan, slot, &target)
    }

    /// The pointer claims another lineage than the one that is selected: traffic follows once pods are ready for it.
    fn follow(&self, claimed: &LineagePointer, active: Slot) -> Plan {
        let to = active.other();
        let left = self.slot(active).target.as_ref();
        let target = self.as_is_or_newest(to, claimed);
        let named = self.pointer.other.as_ref();
        let named = named.filter(|other| left.is_some_and(|left| left.lineage == other.lineage));
        let is_return = named.is_some_and(|other| other.role == LineageRole::Candidate);
        let (phase, need) = match is_return {
            true => (Phase::Returning, Need::Half),
            false => (Phase::Promoting, Need::All),
        };
        let readiness = self.readiness(to, &target);
        // Without a way back there is nothing to go back to, however badly the last step went.
        let goes_back = named.is_some() && self.wish_of_step(active, to).is_some();
        let is_stepped = !is_return && (self.next_share() < 100 || goes_back);
        if readiness.is_enough(need) && !is_stepped {
            let left_template = left.map(|left| left.template.clone());
            let returned_from = left_template.filter(|template| is_return && *template != target.template);
            let returned_from = returned_from.or_else(|| self.traffic.returned_from.clone());
            let previous = left.filter(|_| named.is_some()).map(Target::id);
            let plan = Plan::at(phase).and(self.select(to, &target, previous, returned_from));
            return plan;
        }
        // A person may still go back to what traffic never left.
        let mut plan = match (named, left) {
            (Some(other), Some(left)) if other.role == LineageRole::WayBack => {
                let seen = self.readiness(active, left).other_seen(left, Need::Half);
                let of_step = || self.wish_of_step(active, to).map(|wish| returns(other, wish));
                let wish = self.wish(other).or_else(of_step);
                let mut plan = Plan::of(self.asked(seen, active, wish));
                let is_retire = |action: &Action| matches!(action, Action::Pointer(rollout::Action::Retire { .. }));
                plan.actions.retain(|action| !is_retire(action));
                plan
            }
            _ => Plan::at(phase),
        };
        if plan.phase != Phase::Returning {
            plan.phase = phase;
            plan = match (readiness.is_enough(need), self.standing(to)) {
                (true, _) => self.stepped(plan, to, &target),
                (false, None) => plan.because(Reason::TrafficMoves { to }),
                (false, step) => plan.because(step),
            };
        }
        let plan = plan.because(readiness.reasons());
        let plan = self.filled(plan, to, &target);
        self.scaled(plan, active, self.replicas())
    }

    /// Traffic is where the pointer says.
    fn in_place(&self, claimed: &LineagePointer, active: Slot) -> Plan {
        let plan = match &self.pointer.other {
            Some(other) if other.role == LineageRole::WayBack => self.way_back(other, active),
            Some(other) => self.candidate(other, claimed, active),
            None => self.template(claimed, active),
        };
        self.scaled(plan, active, self.replicas())
    }

    /// A candidate gets the idle slot, after a way back of another image had it.
    fn candidate(&self, other: &LineagePointer, claimed: &LineagePointer, active: Slot) -> Plan {
        let idle = active.other();
        if self.keeps_template(claimed, active) {
            return self
                .template_way_back(active)
                .because(Reason::CandidateWaits(other.lineage.clone()));
        }
        let target = self.newest(other);
        let readiness = self.readiness(idle, &target);
        let seen = readiness.other_seen(&target, Need::All);
        let mut plan = Plan::of(self.asked(seen, active, None));
        if plan.phase == Phase::Warming {
            plan.reasons.extend(readiness.reasons());
        }
        let is_flip_by_itself =
            |action: &Action| matches!(action, Action::Pointer(rollout::Action::Flip(flip)) if flip.actor == BY_ITSELF);
        if self.is_returned_from(idle) && plan.actions.iter().any(is_flip_by_itself) {
            plan.actions.retain(|action| !is_flip_by_itself(action));
            plan.phase = Phase::AwaitingApproval;
            plan.reasons.push(Reason::TemplateReturnedFrom);
        }
        self.filled(plan, idle, &target)
    }

    /// The lineage that answered before is kept warm, and watched against.
    fn way_back(&self, other: &LineagePointer, active: Slot) -> Plan {
        let idle = active.other();
        let target = self.as_is_or_newest(idle, other);
        let seen = self.readiness(idle, &target).other_seen(&target, Need::Half);
        let dead = self.dead_active(active, matches!(seen, OtherSeen::Ready { .. }));
        let wish = self.wish(other).or_else(|| dead.map(|wish| returns(other, wish)));
        let mut plan = Plan::of(self.asked(seen, active, wish));
        let is_retire = |action: &Action| matches!(action, Action::Pointer(rollout::Action::Retire { .. }));
        let is_there = self.slot(idle).target.as_ref() == Some(&target);
        if self.spec.template != self.active_template(active) {
            plan.reasons.push(Reason::TemplateWaits);
        }
        if plan.actions.iter().any(is_retire) && is_there {
            // Its pods go first, so that no pod ever follows what the pointer does not name.
            if !self.is_empty(idle) {
                plan.actions.retain(|action| !is_retire(action));
            }
            return self.emptied(plan, idle);
        }
        self.filled(plan, idle, &target)
    }

    /// No candidate: perhaps a new image or new settings.
    fn template(&self, claimed: &LineagePointer, active: Slot) -> Plan {
        let idle = active.other();
        if self.keeps_template(claimed, active) {
            let plan = self.template_way_back(active);
            let is_new = self.spec.template != self.active_template(active);
            let is_new = is_new && self.slot(idle).target.as_ref() != Some(&self.newest(claimed));
            return plan.because(is_new.then_some(Reason::TemplateWaits));
        }
        if self.spec.template != self.active_template(active) {
            return self.new_template(claimed, active);
        }
        let phase = match self.pointer.builds.is_empty() {
            true => Phase::Steady,
            false => Phase::Building,
        };
        let mut plan = Plan::at(phase);
        if self.pointer.leveling.is_some() {
            plan = plan.and(Action::Pointer(rollout::Action::StopLeveling));
        }
        self.emptied(plan, idle)
    }

    fn new_template(&self, claimed: &LineagePointer, active: Slot) -> Plan {
        let (idle, target) = (active.other(), self.newest(claimed));
        let readiness = self.readiness(idle, &target);
        let oldest = |readiness: &Readiness<'_>| readiness.generation().unwrap_or(0);
        let active_target = self.slot(active).target.clone().unwrap_or_else(|| target.clone());
        let answers = self.readiness(active, &active_target);
        // Behind what answers now, a swap would take clients back in time.
        let is_ready = readiness.is_enough(Need::All) && oldest(&readiness) >= oldest(&answers);
        let has = self.slot(idle);
        let is_approved = has.approved_by.is_some() && has.target.as_ref() == Some(&target);
        let wish = self.seen.wish.clone().or_else(|| self.wish_of_step(active, idle));
        if let Some(wish) = wish.filter(|_| self.traffic.widened.is_some()) {
            let plan = self.left(wish);
            return plan.and(self.alone(active, Some(target.id()), Some(target.template)));
        }
        let plan = Plan::at(Phase::Warming).because(Reason::NewTemplate);
        let mut plan = match is_ready {
            false => plan.because(self.standing(idle)).because(readiness.reasons()),
            true => plan,
        };
        if let Some(held) = self.hold() {
            plan.phase = Phase::Held;
            plan.reasons.push(held);
        } else if is_ready && self.is_returned_from(idle) && !is_approved {
            plan.phase = Phase::AwaitingApproval;
            plan.reasons.push(Reason::TemplateReturnedFrom);
        } else if is_ready && self.spec.rollout.rollout.promotion == Promotion::Manual && !is_approved {
            plan.phase = Phase::AwaitingApproval;
            plan.reasons.push(Reason::TemplateAwaitsApproval);
        } else if is_ready && self.next_share() < 100 {
            plan.phase = Phase::Promoting;
            plan = self.stepped(plan, idle, &target);
        } else if is_ready {
            plan.phase = Phase::Promoting;
            return plan.and(self.select(idle, &target, Some(active_target.id()), None));
        }
        let waited = self.now.since(has.since);
        let deadline = i64::from(self.spec.rollout.rollout.deadline_seconds) * SECOND_NS;
        if has.target.as_ref() == Some(&target) && waited >= deadline {
            let seconds = (waited / SECOND_NS) as u64;
            plan.reasons.push(Reason::Overdue { seconds });
        }
        self.filled(plan, idle, &target)
    }

    /// Whether the idle slot holds what answered before in another image, and its time is not over.
    fn keeps_template(&self, claimed: &LineagePointer, active: Slot) -> bool {
        let idle = self.slot(active.other());
        let Some(target) = &idle.target else { return false };
        self.traffic.previous.as_ref() == Some(&target.id())
            && target.lineage == claimed.lineage
            && !self.is_returned_from(active.other())
            && (self.now < self.keep_ends() || self.hold().is_some())
    }

    fn template_way_back(&self, active: Slot) -> Plan {
        let idle = active.other();
        let Some(target) = self.slot(idle).target.clone() else {
            return Plan::at(Phase::Steady);
        };
        let settings = &self.spec.rollout.rollout;
        let bake_ends = self.traffic.since.plus(i64::from(settings.bake_seconds) * SECOND_NS);
        let is_baking = self.now < bake_ends;
        let readiness = self.readiness(idle, &target);
        let is_ready = readiness.is_enough(Need::Half);
        let before = window(self.slot(idle));
        let breach = window(self.slot(active))
            .filter(|_| is_baking)
            .and_then(|window| breach(settings, &window, baseline(before.as_ref(), None).as_ref()));
        let by_itself = breach.map(|breach| Wish {
            actor: BY_ITSELF.to_owned(),
            reason: breach.to_string(),
        });
        let wish = self.seen.wish.clone().or(by_itself);
        if let Some(wish) = wish.or_else(|| self.dead_active(active, is_ready)) {
            if !is_ready {
                let plan = Plan::at(Phase::Returning).because(asked(&wish));
                let plan = plan.because(Reason::Rollout(rollout::Reason::WayBackNotReady));
                return self.filled(plan.because(readiness.reasons()), idle, &target);
            }
            let left = self.slot(active).target.as_ref();
            let (left, returned_from) = (left.map(Target::id), left.map(|left| left.template.clone()));
            return self.left(wish).and(self.select(idle, &target, left, returned_from));
        }
        let mut plan = match is_baking {
            true => Plan::at(Phase::Baking),
            false => Plan::at(Phase::KeepingWayBack),
        };
        let keep_ends = self.keep_ends();
        plan.wake(if is_baking { bake_ends } else { keep_ends });
        plan.reasons.push(match self.now < keep_ends {
            true => Reason::KeepsWayBack { until: keep_ends },
            false => Reason::Rollout(rollout::Reason::KeptWhileHeld),
        });
        self.filled(plan, idle, &target)
    }

    /// What is answered by going back is not promoted again by itself.
    fn left(&self, wish: Wish) -> Plan {
        let plan = Plan::at(Phase::Returning).because(asked(&wish));
        plan.and((self.hold().is_none()).then_some(Action::HoldPromotion(wish)))
    }

    fn keep_ends(&self) -> Timestamp {
        let settings = &self.spec.rollout.rollout;
        let keep = settings.keep_seconds.max(settings.bake_seconds);
        self.traffic.since.plus(i64::from(keep) * SECOND_NS)
    }

    fn is_returned_from(&self, slot: Slot) -> bool {
        let target = self.slot(slot).target.as_ref();
        target.is_some_and(|target| self.traffic.returned_from.as_ref() == Some(&target.template))
    }

    pub(super) fn active_template(&self, active: Slot) -> super::TemplateId {
        let target = self.slot(active).target.as_ref();
        target.map_or_else(|| self.spec.template.clone(), |target| target.template.clone())
    }

    /// What `rollout::plan` says, with what the pods show.
    fn asked(&self, other: OtherSeen, active: Slot, return_wish: Option<ReturnWish>) -> rollout::Plan {
        let before = window(self.slot(active.other()));
        let memory = &self.seen.memory;
        let observation = Observation {
            other,
            window: window(self.slot(active)),
            baseline: baseline(before.as_ref(), memory.measured.as_ref()),
            return_wish,
            ..memory.clone()
        };
        rollout::plan(&self.spec.rollout, self.pointer, &observation, self.now)
    }

    fn wish(&self, other: &LineagePointer) -> Option<ReturnWish> {
        self.seen.wish.clone().map(|wish| returns(other, wish))
    }

    /// Shortly after a swap, a slot without a ready pod is answered by going back where that helps.
    fn dead_active(&self, active: Slot, is_way_back_ready: bool) -> Option<Wish> {
        let is_dead = !self.slot(active).pods.iter().any(|pod| pod.is_ready);
        let since = self.traffic.since;
        let bake = i64::from(self.spec.rollout.rollout.bake_seconds) * SECOND_NS;
        let is_due = self.now >= since.plus(DEAD_FOR_NS) && self.now < since.plus(bake);
        (is_dead && is_due && is_way_back_ready).then(|| Wish {
            actor: BY_ITSELF.to_owned(),
            reason: "no pod of the new slot is ready".to_owned(),
        })
    }

    pub(super) fn select(
        &self,
        slot: Slot,
        target: &Target,
        previous: Option<super::TargetId>,
        returned_from: Option<super::TemplateId>,
    ) -> Action {
        Action::Select(Selection {
            slot,
            target: target.id(),
            previous,
            returned_from,
        })
    }
}

fn asked(wish: &Wish) -> Reason {
    Reason::Rollout(rollout::Reason::Asked {
        actor: wish.actor.clone(),
        reason: wish.reason.clone(),
    })
}

fn returns(other: &LineagePointer, wish: Wish) -> ReturnWish {
    ReturnWish {
        lineage: other.lineage.clone(),
        actor: wish.actor,
        reason: wish.reason,
    }
}
