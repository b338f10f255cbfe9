//! Room for the pods of a slot: what the platform still grants, and what it says where it has none.
//!
//! A rollout doubles the pods for a while. One that does not fit is not begun: pods that come in part would take what
//! the slot that answers may need to grow, and never suffice. What the platform alone knows, such as room on its nodes,
//! is told as it says it.

use std::fmt;

use super::plan::View;
use super::{Plan, PodSeen, Reason, Slot, SlotSeen, Target, UNPLACED_NS};

/// An amount of cores, bytes or things, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub i128);

impl Amount {
    /// The same so many times.
    fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(i128::from(count)))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1_000 != 0 {
            return write!(f, "{}m", self.0);
        }
        let whole = self.0 / 1_000;
        let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        let unit = units
            .into_iter()
            .find(|(_, bits)| whole != 0 && whole % (1_i128 << bits) == 0);
        match unit {
            Some((unit, bits)) => write!(f, "{}{unit}", whole >> bits),
            None => write!(f, "{whole}"),
        }
    }
}

/// What a limit of the platform leaves of something that pods ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Name of the limit.
    pub quota: String,
    /// What is limited, such as requests.memory.
    pub resource: String,
    /// What is left.
    pub left: Amount,
    /// What one pod asks for.
    pub per_pod: Amount,
}

impl View<'_> {
    /// A slot with the wanted pods, unless they are a surge that does not fit: nothing more is asked for then.
    pub(super) fn grown(&self, plan: Plan, slot: Slot) -> Plan {
        let (seen, wanted) = (self.slot(slot), self.wanted(slot));
        let lacks = match wanted.saturating_sub(seen.pods_left) {
            more if more > 0 && self.is_surge(slot) => self.lacks(slot, more),
            _ => Vec::new(),
        };
        let plan = match lacks.is_empty() {
            true => self.scaled(plan, slot, wanted),
            false => plan,
        };
        plan.because(lacks)
    }

    /// Whether the pods of a slot come beside those that answer. A way back is none: with some of its pods it is better
    /// than without.
    fn is_surge(&self, slot: Slot) -> bool {
        self.seen.selected().is_some_and(|active| active != slot) && !self.is_previous(slot)
    }

    fn lacks(&self, slot: Slot, more: u32) -> Vec<Reason> {
        let grants = self.seen.grants.iter();
        let lacks = grants.filter(|grant| grant.per_pod.times(more) > grant.left);
        lacks
            .map(|grant| Reason::NoRoom {
                slot,
                pods: more,
                asked: grant.per_pod.times(more),
                resource: grant.resource.clone(),
                quota: grant.quota.clone(),
                left: Amount(grant.left.0.max(0)),
            })
            .collect()
    }
}

/// What the platform says where it makes no pods, or places none.
pub(super) fn tell(view: &View<'_>, plan: &mut Plan) {
    for slot in Slot::ALL {
        let seen = view.slot(slot);
        if seen.replicas == 0 {
            continue;
        }
        plan.reasons
            .extend(seen.refused.as_ref().map(|message| Reason::PodsRefused {
                slot,
                message: message.clone(),
            }));
        unplaced(view, plan, slot, seen);
    }
}

fn unplaced(view: &View<'_>, plan: &mut Plan, slot: Slot, seen: &SlotSeen) {
    let id = seen.target.as_ref().map(Target::id);
    let pods: Vec<&PodSeen> = seen
        .pods
        .iter()
        .filter(|pod| Some(&pod.target) == id.as_ref())
        .collect();
    let waits = pods.iter().filter_map(|pod| pod.unplaced.as_ref());
    let Some((since, message)) = waits.clone().min_by_key(|(since, _)| *since) else {
        return;
    };
    let due = since.plus(UNPLACED_NS);
    if view.now < due {
        return plan.wake(due);
    }
    plan.reasons.push(Reason::PodsNotPlaced {
        slot,
        pods: waits.count() as u32,
        message: message.clone(),
    });
}

/// Whether a rollout stands still because its pods do not fit.
pub(super) fn is_stalled(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::NoRoom { .. } | Reason::PodsRefused { .. } | Reason::PodsNotPlaced { .. }
    )
}
