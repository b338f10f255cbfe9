//! What the pods of a slot say together.

use super::{PodReport, PodSeen, Reason, Slot, SlotSeen, Target};
use crate::rollout::{OtherSeen, ServingWindow};

/// How many of the wanted pods must be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// All: a slot that has not answered yet.
    All,
    /// Half, and at least one: a way back is better with some pods missing than a failing slot is with all.
    Half,
}

/// Pods of one target.
pub(super) struct Readiness<'a> {
    pub(super) ready: Vec<(&'a PodSeen, &'a PodReport)>,
    wanted: u32,
    is_asked_for: bool,
    reasons: Vec<Reason>,
}

impl<'a> Readiness<'a> {
    /// Of a slot, where `wanted` pods of the target are wanted.
    pub(super) fn of(slot: Slot, seen: &'a SlotSeen, target: &Target, wanted: u32) -> Self {
        let id = target.id();
        let is_of = seen.target.as_ref() == Some(target);
        let pods = seen.pods.iter().filter(|pod| is_of && pod.target == id);
        let is_open = |report: &PodReport| report.lineage == target.lineage && report.is_warm;
        let (mut ready, mut reasons) = (Vec::new(), Vec::new());
        for pod in pods {
            match &pod.report {
                Some(report) if pod.is_ready && is_open(report) => ready.push((pod, report)),
                Some(PodReport {
                    problem: Some(problem), ..
                }) => reasons.push(Reason::PodSays {
                    pod: pod.name.clone(),
                    problem: problem.clone(),
                }),
                _ => {}
            }
        }
        let count = ready.len() as u32;
        if count < wanted {
            let few = Reason::PodsNotReady {
                slot,
                ready: count,
                wanted,
            };
            reasons.insert(0, few);
        }
        Self {
            ready,
            wanted,
            is_asked_for: is_of && seen.replicas >= wanted,
            reasons,
        }
    }

    pub(super) fn is_enough(&self, need: Need) -> bool {
        let ready = self.ready.len() as u32;
        match need {
            Need::All => ready >= self.wanted.max(1) && self.is_asked_for,
            Need::Half => ready >= 1 && ready.saturating_mul(2) >= self.wanted,
        }
    }

    /// The oldest generation that any ready pod has.
    pub(super) fn generation(&self) -> Option<u64> {
        self.ready.iter().map(|(_, report)| report.generation).min()
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        self.reasons.clone()
    }

    /// The same as `rollout::plan` knows it.
    pub(super) fn other_seen(&self, target: &Target, need: Need) -> OtherSeen {
        match self.generation() {
            Some(generation) if self.is_enough(need) => OtherSeen::Ready {
                lineage: target.lineage.clone(),
                generation,
            },
            _ => OtherSeen::NotOpen,
        }
    }
}

/// What the pods of a slot answered since they answer.
pub(super) fn window(seen: &SlotSeen) -> Option<ServingWindow> {
    let target = seen.target.as_ref()?;
    let id = target.id();
    let reports = seen.pods.iter().filter(|pod| pod.target == id);
    let reports = reports
        .filter_map(|pod| pod.report.as_ref())
        .filter(|report| report.lineage == target.lineage && report.requests > 0);
    let windows: Vec<ServingWindow> = reports
        .map(|report| ServingWindow {
            lineage: target.lineage.clone(),
            requests: report.requests,
            errors: report.errors,
            p50_ms: report.p50_ms,
            p99_ms: report.p99_ms,
        })
        .collect();
    ServingWindow::together(&windows)
}
