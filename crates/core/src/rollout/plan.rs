//! The plan: from what is to what to do next, level-triggered.
//!
//! A candidate is warmed, brought level, measured, judged, approved where that is asked for, brought level again and
//! flipped to; then it is watched, with a return by itself, and the lineage before stays for a while. Two waits bound
//! what a rollout may cost the freshness of answers: the level is asked for only by a candidate that is warm, and given
//! up for a while where no flip follows at once.

use super::bake::{Breach, breach};
use super::{Action, BY_ITSELF, Observation, OtherSeen, Phase, Plan, Promotion, Reason, Spec, Tries};
use crate::gates::{self, GateOutcome, Measurements, Verdict};
use crate::manifest::LineageId;
use crate::pointer::{Flip, LineagePointer, LineageRole, Pointer};
use crate::timestamp::Timestamp;

const SECOND_NS: i64 = 1_000_000_000;
/// How long publishing is asked to pause before that is given up: twice what the indexer pauses for.
const LEVEL_FOR_NS: i64 = 4 * SECOND_NS;
/// How long a return waits for the level before it goes back to what is there.
const RETURN_LEVEL_FOR_NS: i64 = SECOND_NS;
/// While something is about to happen.
const SOON_NS: i64 = 20_000_000;
/// The first wait after a try that came to nothing; each further one doubles it.
const RETRY_NS: i64 = 5 * SECOND_NS;
const RETRY_NS_MAX: i64 = 300 * SECOND_NS;
/// How often a lineage is measured again whose gates lacked data.
const NO_DATA_RETRY_NS: i64 = 60 * SECOND_NS;

/// Says what to do next for a collection.
pub fn plan(spec: &Spec, pointer: &Pointer, observation: &Observation, now: Timestamp) -> Plan {
    let view = View {
        spec,
        pointer,
        observation,
        now,
    };
    match (&pointer.active, &pointer.other) {
        (None, _) => Plan::at(Phase::Empty),
        (Some(_), None) if !pointer.builds.is_empty() => Plan::at(Phase::Building),
        (Some(_), None) => Plan::at(Phase::Steady),
        (Some(active), Some(other)) => match other.role {
            LineageRole::WayBack => view.way_back(active, other),
            LineageRole::Candidate | LineageRole::Active => view.candidate(active, other),
        },
    }
}

/// Whether a candidate has answered before: it was returned from, and a person decides about it.
pub fn was_returned_from(pointer: &Pointer, lineage: &LineageId) -> bool {
    pointer.served.iter().any(|served| served.lineage == *lineage)
}

impl Plan {
    fn at(phase: Phase) -> Self {
        Self {
            phase,
            actions: Vec::new(),
            wake_at: None,
            reasons: Vec::new(),
            verdict: None,
        }
    }

    fn and(mut self, action: impl Into<Option<Action>>) -> Self {
        self.actions.extend(action.into());
        self
    }

    fn because(mut self, reason: impl Into<Option<Reason>>) -> Self {
        self.reasons.extend(reason.into());
        self
    }

    fn wake(mut self, at: Timestamp) -> Self {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
        self
    }
}

#[derive(Clone, Copy)]
struct View<'a> {
    spec: &'a Spec,
    pointer: &'a Pointer,
    observation: &'a Observation,
    now: Timestamp,
}

impl View<'_> {
    fn candidate(&self, active: &LineagePointer, other: &LineagePointer) -> Plan {
        let overdue = self.overdue(other);
        if let Some(reason) = self.hold() {
            return Plan::at(Phase::Held).and(self.no_level()).because(reason);
        }
        let plan = match self.ready(&other.lineage) {
            Some(ready) => self.warm_candidate(active, other, ready),
            None => {
                // Nobody pauses for a lineage that has still to be opened.
                let plan = Plan::at(Phase::Warming).and(self.no_level());
                plan.because(self.cannot_open(&other.lineage))
            }
        };
        plan.because(overdue)
    }

    fn warm_candidate(&self, active: &LineagePointer, other: &LineagePointer, ready: u64) -> Plan {
        let measured = self.observation.measured.as_ref();
        let Some(measured) = measured.filter(|measured| measured.candidate.lineage == other.lineage) else {
            return self.measure(active, other, ready);
        };
        if self.has_shrunk(measured) {
            let reason = Reason::JudgedTooLongAgo(measured.candidate.generation);
            return self.measure(active, other, ready).because(reason);
        }
        let verdict = gates::judge(&self.spec.gates, measured);
        let mut plan = self.judged(active, other, ready, &verdict);
        plan.verdict = Some(verdict);
        plan
    }

    fn judged(&self, active: &LineagePointer, other: &LineagePointer, ready: u64, verdict: &Verdict) -> Plan {
        let approval = self
            .pointer
            .approval
            .as_ref()
            .filter(|approval| approval.lineage == other.lineage);
        if let Some(approval) = approval.filter(|approval| approval.generation == verdict.generation) {
            let reason = match verdict.is_promotable() {
                true => format!("promoted by word, judged at generation {}", verdict.generation),
                false => format!(
                    "promoted by word at generation {} although gates speak against it",
                    verdict.generation
                ),
            };
            return self.promote(active, other, ready, flip(other, &approval.actor, reason));
        }
        let stale_approval = approval.map(|approval| Reason::ApprovalOfAnother {
            approved: approval.generation,
            judged: verdict.generation,
        });
        let plan = if !verdict.is_promotable() {
            self.refused(active, other, ready, verdict)
        } else if was_returned_from(self.pointer, &other.lineage) {
            let plan = Plan::at(Phase::AwaitingApproval).and(self.no_level());
            plan.because(Reason::ReturnedFrom)
        } else if self.spec.rollout.promotion == Promotion::Manual {
            Plan::at(Phase::AwaitingApproval).and(self.no_level())
        } else {
            let reason = format!("passed all gates at generation {}", verdict.generation);
            self.promote(active, other, ready, flip(other, BY_ITSELF, reason))
        };
        plan.because(stale_approval)
    }

    /// Gates speak against it. What failed stays failed; what lacked data is measured again.
    fn refused(&self, active: &LineagePointer, other: &LineagePointer, ready: u64, verdict: &Verdict) -> Plan {
        let against = Reason::Gates(verdict.against().map(|verdict| verdict.gate.name()).collect());
        let has_failed = verdict.against().any(|verdict| verdict.outcome == GateOutcome::Failed);
        let retry = verdict.measured_at.plus(NO_DATA_RETRY_NS);
        if !has_failed && (self.now >= retry || self.observation.is_measuring) {
            return self.measure(active, other, ready).because(against);
        }
        let plan = Plan::at(Phase::Refused).and(self.no_level()).because(against);
        if has_failed { plan } else { plan.wake(retry) }
    }

    fn measure(&self, active: &LineagePointer, other: &LineagePointer, ready: u64) -> Plan {
        if self.observation.is_measuring {
            return Plan::at(Phase::Judging).and(self.no_level());
        }
        let tries = self.observation.measuring;
        if let Some(at) = self.retry_at(tries) {
            let plan = Plan::at(Phase::Judging).and(self.no_level()).wake(at);
            return plan.because(tries_again("measuring", tries));
        }
        if is_level(active, other) && ready == other.generation {
            let measure = Action::Measure {
                lineage: other.lineage.clone(),
                generation: other.generation,
            };
            return Plan::at(Phase::Judging).and(measure).and(self.no_level());
        }
        self.level(active, other, Phase::Leveling)
    }

    fn promote(&self, active: &LineagePointer, other: &LineagePointer, ready: u64, flip: Flip) -> Plan {
        if is_level(active, other) && ready == other.generation {
            return Plan::at(Phase::Promoting).and(Action::Flip(flip));
        }
        self.level(active, other, Phase::Promoting)
    }

    /// Waits for the level and for the search role to open it, for a while at a time.
    fn level(&self, active: &LineagePointer, other: &LineagePointer, phase: Phase) -> Plan {
        let plan = Plan::at(phase);
        let tries = self.observation.leveling;
        if let Some(staged) = &self.pointer.staged
            && !is_level(active, other)
        {
            return plan
                .and(self.no_level())
                .because(Reason::Staged(staged.release.generation));
        }
        if self.pointer.leveling.as_ref() == Some(&other.lineage) {
            let since = self.observation.leveling_since.unwrap_or(self.now);
            return if self.now.since(since) >= LEVEL_FOR_NS {
                plan.and(Action::LevelLater)
            } else {
                plan.wake(self.now.plus(SOON_NS))
            };
        }
        match self.retry_at(tries) {
            Some(at) => plan.wake(at).because(tries_again("leveling", tries)),
            None => plan.and(Action::Level {
                lineage: other.lineage.clone(),
            }),
        }
    }

    fn way_back(&self, active: &LineagePointer, other: &LineagePointer) -> Plan {
        let rollout = &self.spec.rollout;
        let bake_ends = active.since.plus(i64::from(rollout.bake_seconds) * SECOND_NS);
        let keep = rollout.keep_seconds.max(rollout.bake_seconds);
        let keep_ends = other.since.plus(i64::from(keep) * SECOND_NS);
        let is_baking = self.now < bake_ends;
        let wish = self
            .observation
            .return_wish
            .as_ref()
            .filter(|wish| wish.lineage == other.lineage);
        if let Some(wish) = wish {
            let asked = Reason::Asked {
                actor: wish.actor.clone(),
                reason: wish.reason.clone(),
            };
            return self
                .go_back(active, other, flip(other, &wish.actor, wish.reason.clone()))
                .because(asked);
        }
        if let Some(breach) = self.breach(active).filter(|_| is_baking) {
            let back = self.go_back(active, other, flip(other, BY_ITSELF, breach.to_string()));
            return back.because(Reason::Breach(breach));
        }
        if is_baking {
            return Plan::at(Phase::Baking).and(self.no_level()).wake(bake_ends);
        }
        let plan = Plan::at(Phase::KeepingWayBack).and(self.no_level());
        if self.now < keep_ends {
            plan.wake(keep_ends)
        } else if self.hold().is_some() {
            plan.because(Reason::KeptWhileHeld)
        } else {
            plan.and(Action::Retire {
                lineage: other.lineage.clone(),
            })
        }
    }

    fn breach(&self, active: &LineagePointer) -> Option<Breach> {
        let window = self.observation.window.as_ref();
        let window = window.filter(|window| window.lineage == active.lineage)?;
        breach(&self.spec.rollout, window, self.observation.baseline.as_ref())
    }

    /// Traffic goes back: level where that is to be had at once, or else to what is there. Without a way back that is
    /// open, traffic stays (I-8).
    fn go_back(&self, active: &LineagePointer, other: &LineagePointer, flip: Flip) -> Plan {
        let plan = Plan::at(Phase::Returning);
        let Some(ready) = self.ready(&other.lineage) else {
            let plan = plan.and(self.no_level()).because(Reason::WayBackNotReady);
            return plan.because(self.cannot_open(&other.lineage));
        };
        if is_level(active, other) && ready == other.generation {
            return plan.and(Action::Return(flip));
        }
        let is_asked = self.pointer.leveling.as_ref() == Some(&other.lineage);
        let since = self.observation.leveling_since.unwrap_or(self.now);
        if is_asked && self.now.since(since) < RETURN_LEVEL_FOR_NS {
            return plan.wake(self.now.plus(SOON_NS));
        }
        if is_asked || self.pointer.staged.is_some() {
            return plan.and(Action::Return(Flip { stale: true, ..flip }));
        }
        plan.and(Action::Level {
            lineage: other.lineage.clone(),
        })
    }

    /// What keeps everything from being promoted.
    fn hold(&self) -> Option<Reason> {
        let hold = self.pointer.publish_hold().or(self.pointer.promotion_hold.as_ref())?;
        Some(Reason::Held {
            actor: hold.actor.clone(),
            reason: hold.reason.clone(),
        })
    }

    fn no_level(&self) -> Option<Action> {
        self.pointer.leveling.as_ref().map(|_| Action::StopLeveling)
    }

    /// The generation of this lineage that the search role has open.
    fn ready(&self, lineage: &LineageId) -> Option<u64> {
        match &self.observation.other {
            OtherSeen::Ready {
                lineage: open,
                generation,
            } if open == lineage => Some(*generation),
            _ => None,
        }
    }

    fn cannot_open(&self, lineage: &LineageId) -> Option<Reason> {
        match &self.observation.other {
            OtherSeen::Refused { lineage: refused, why } if refused == lineage => Some(Reason::CannotOpen(why.clone())),
            _ => None,
        }
    }

    fn overdue(&self, other: &LineagePointer) -> Option<Reason> {
        let waited = self.now.since(other.since);
        let is_overdue = waited >= i64::from(self.spec.rollout.deadline_seconds) * SECOND_NS;
        is_overdue.then_some(Reason::Overdue {
            seconds: (waited / SECOND_NS) as u64,
        })
    }

    /// When it may be tried again, if not now.
    fn retry_at(&self, tries: Tries) -> Option<Timestamp> {
        let doublings = tries.failed.saturating_sub(1).min(10);
        let wait = (RETRY_NS << doublings).min(RETRY_NS_MAX);
        let at = tries.last_failed_at?.plus(wait);
        (self.now < at).then_some(at)
    }

    /// Whether the documents that were judged have left meanwhile, by the limits of the guards.
    fn has_shrunk(&self, measured: &Measurements) -> bool {
        let (guards, then) = (&self.spec.guards, &measured.candidate);
        let Some(now) = self.pointer.other_release.as_ref().and_then(|release| release.facts) else {
            return false;
        };
        let lost = |now: u64, then: u64, limit: f32| then.saturating_sub(now) as f64 > f64::from(limit) * then as f64;
        guards.enabled
            && then.documents >= u64::from(guards.documents_min)
            && (lost(now.documents, then.documents, guards.deleted_hour)
                || lost(now.live_bytes, then.live_bytes, guards.bytes_hour))
    }
}

/// A candidate that was published alone is ahead, and what answers waits for it.
fn is_level(active: &LineagePointer, other: &LineagePointer) -> bool {
    active.generation <= other.generation
}

fn flip(other: &LineagePointer, actor: &str, reason: String) -> Flip {
    Flip {
        lineage: other.lineage.clone(),
        actor: actor.to_owned(),
        reason,
        stale: false,
    }
}

fn tries_again(what: &'static str, tries: Tries) -> Reason {
    Reason::TriesAgain {
        what,
        failed: tries.failed,
    }
}
