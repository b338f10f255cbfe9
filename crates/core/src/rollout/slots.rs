//! Two slots of pods behind one name: what a controller does where a lineage, an image or the settings of pods change.
//!
//! A slot holds pods of one target: a lineage, in an image, with settings. Traffic goes to the target that the active
//! Service selects; that is the fact, and the pointer is the claim. [`plan()`] asks `rollout::plan` what the pointer needs
//! and says what the pods and the Services need beside it; it remembers nothing, so that a controller that ended
//! anywhere goes on by looking. Where steps are asked for, both slots are sent to for a while.
//! Deliberately absent: carrying out.

mod conditions;
mod plan;
mod pods;
mod readiness;
mod reason;
mod room;
mod steps;
mod tend;

use std::collections::BTreeSet;
use std::fmt;

use super::Phase;
use crate::digest::Digest;
use crate::gates::Verdict;
use crate::manifest::LineageId;
use crate::timestamp::Timestamp;

pub use self::conditions::{Condition, Role, conditions, role, slot_of};
pub use self::plan::plan;
pub use self::pods::{ALL_LINEAGES, pods_alone};
pub use self::reason::Reason;
pub use self::room::{Amount, Grant};
pub use self::steps::{Steps, StepsError, Widened};

/// How long a pod may wait for a node until that is told: a cluster that grows by itself needs a while.
pub const UNPLACED_NS: i64 = 30_000_000_000;
/// How long nothing must have been asked of pods before their requests are said to have ended.
pub const QUIET_NS: i64 = 5_000_000_000;
/// How long that is waited for.
pub const QUIET_WAIT_NS: i64 = 300_000_000_000;
/// How often pods are told that they are demoted: three times within [`DEMOTED_FOR_NS`].
pub const DEMOTE_EVERY_NS: i64 = 20_000_000_000;
/// For how long they are told.
pub const DEMOTED_FOR_NS: i64 = 60_000_000_000;
/// For how long pods shed a share of their connections at a step: as long as a connection that is told to go may take,
/// so that few of those that come back are told again.
pub const SHED_FOR_NS: i64 = 5_000_000_000;

/// One of two places for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The one that answers first.
    Blue,
    /// The other.
    Green,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The name in labels and names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fingerprint of image and settings of pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateId(String);

impl TemplateId {
    /// The fingerprint of what a template holds, in any fixed writing.
    pub fn of(template: &[u8]) -> Self {
        Self(short(template))
    }
}

/// A fingerprint of a target: the label that pods carry and Services select.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(String);

macro_rules! short_name {
    ($name:ident) => {
        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

short_name!(TemplateId);
short_name!(TargetId);

/// The first 16 digits of the BLAKE3.
fn short(bytes: &[u8]) -> String {
    let mut text = Digest::of(bytes).to_string();
    text.truncate(16);
    text
}

/// What the pods of a slot are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The lineage that they follow.
    pub lineage: LineageId,
    /// Their image and settings.
    pub template: TemplateId,
}

impl Target {
    /// Its fingerprint.
    pub fn id(&self) -> TargetId {
        TargetId(short(format!("{}\n{}", self.lineage, self.template).as_bytes()))
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// How lineages come to answer.
    pub rollout: super::Spec,
    /// Image and settings of pods.
    pub template: TemplateId,
    /// Pods of a slot; at least one.
    pub replicas: u32,
    /// How traffic comes to another slot: at once where there are none.
    pub steps: Steps,
    /// Whether nothing is promoted, by the word of whoever wrote the spec.
    pub is_paused: bool,
}

/// What was seen of the platform.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// Blue.
    pub blue: SlotSeen,
    /// Green.
    pub green: SlotSeen,
    /// The Services; none before they were made.
    pub traffic: Option<Traffic>,
    /// What `rollout::plan` wants to know beside; what pods say is filled in here.
    pub memory: super::Observation,
    /// A person wants to go back.
    pub wish: Option<Wish>,
    /// Since when no pod of the slot without traffic has answered anything; none while it is not known.
    pub idle_quiet_since: Option<Timestamp>,
    /// When pods were last told that they are demoted.
    pub demoted_at: Option<Timestamp>,
    /// What the platform still grants of what pods ask for; what it does not limit is not here.
    pub grants: Vec<Grant>,
    /// The epoch of this controller in the pointer.
    pub epoch: u64,
}

impl Seen {
    /// One of the two.
    pub fn slot(&self, slot: Slot) -> &SlotSeen {
        match slot {
            Slot::Blue => &self.blue,
            Slot::Green => &self.green,
        }
    }

    /// The slot that traffic goes to.
    pub fn selected(&self) -> Option<Slot> {
        let target = self.traffic.as_ref()?.target.as_ref()?;
        Slot::ALL
            .into_iter()
            .find(|slot| self.slot(*slot).target.as_ref().map(Target::id).as_ref() == Some(target))
    }

    /// Whether the cluster sends to the selected slot, and to it alone.
    pub fn is_followed(&self) -> bool {
        let is_sent_to = |slot| self.is_sent_to(slot);
        self.selected()
            .is_some_and(|active| is_sent_to(active) && !is_sent_to(active.other()))
    }

    /// Whether the cluster sends to any pod of a slot.
    pub(in crate::rollout) fn is_sent_to(&self, slot: Slot) -> bool {
        let endpoints = self.traffic.iter().flat_map(|traffic| &traffic.endpoints);
        let mut pods = endpoints.flat_map(|name| self.slot(slot).pods.iter().filter(move |pod| pod.name == *name));
        pods.next().is_some()
    }
}

/// One slot: its Deployment and its pods.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlotSeen {
    /// What its template says; none before it was made.
    pub target: Option<Target>,
    /// Since when its template says so.
    pub since: Timestamp,
    /// How many pods were asked for.
    pub replicas: u32,
    /// Whether the platform has seen what was asked for last.
    pub is_settled: bool,
    /// How many pods are left, of whatever template.
    pub pods_left: u32,
    /// Why the platform makes no more pods, in its words.
    pub refused: Option<String>,
    /// Who said that this target may be promoted.
    pub approved_by: Option<String>,
    /// The epoch of the controller that wrote to it last.
    pub epoch: u64,
    /// Its pods.
    pub pods: Vec<PodSeen>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// The target that it was made for.
    pub target: TargetId,
    /// Whether the platform sends requests to it.
    pub is_ready: bool,
    /// Since when no node has room for it, and what the platform says about that.
    pub unplaced: Option<(Timestamp, String)>,
    /// What it says itself; none where it does not answer.
    pub report: Option<PodReport>,
}

/// What a search process says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct PodReport {
    /// The lineage that it has open.
    pub lineage: LineageId,
    /// Its generation.
    pub generation: u64,
    /// Whether it is open, verified and warm, and the process ready.
    pub is_warm: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// Whether it sends its clients away.
    pub is_demoted: bool,
    /// What it answered since it answers.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Milliseconds that half of the answers stayed below.
    pub p50_ms: f64,
    /// Milliseconds that 99 of 100 stayed below.
    pub p99_ms: f64,
}

/// The two Services.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traffic {
    /// What the active one selects; none before the first rollout.
    pub target: Option<TargetId>,
    /// Since when.
    pub since: Timestamp,
    /// What it selects beside, on its way there in steps.
    pub widened: Option<Widened>,
    /// What it selected before, while that is the way back.
    pub previous: Option<TargetId>,
    /// A template that was returned from: only a person promotes it again.
    pub returned_from: Option<TemplateId>,
    /// What the preview selects.
    pub preview: Option<TargetId>,
    /// Names of the ready pods that the active one sends to.
    pub endpoints: BTreeSet<String>,
    /// The epoch of the controller that wrote to it last.
    pub epoch: u64,
}

/// A person's wish to go back to what answered before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What the controller does next, in this order; what fails ends the list. Each write to the platform is refused where
/// the object has changed since it was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make both Services; they select nothing yet.
    CreateServices,
    /// Write this controller's epoch on every object, so that what an earlier one still had in hand is refused.
    Fence,
    /// Ask for that many pods.
    Scale {
        /// Where.
        slot: Slot,
        /// How many.
        replicas: u32,
    },
    /// Make the pods of a slot without any to be something else.
    SetTarget {
        /// Where.
        slot: Slot,
        /// What.
        target: Target,
    },
    /// Move traffic.
    Select(Selection),
    /// Let traffic go to the pods of another slot as well.
    Widen {
        /// Where.
        slot: Slot,
        /// Its target.
        target: TargetId,
        /// The share that it is to get, in percent.
        percent: u32,
    },
    /// What the preview selects.
    Preview(Option<TargetId>),
    /// Tell each pod to send its clients away.
    Demote(Slot),
    /// Tell each pod to send a share of its clients away, once.
    Shed {
        /// Where.
        slot: Slot,
        /// The share of connections, in percent.
        percent: u32,
    },
    /// Tell each pod to keep its clients.
    EndDemotion(Slot),
    /// Nothing is promoted until resumed.
    HoldPromotion(Wish),
    /// An edit of the pointer, or a measurement.
    Pointer(super::Action),
}

/// Traffic as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The slot that answers.
    pub slot: Slot,
    /// Its target.
    pub target: TargetId,
    /// What answered before.
    pub previous: Option<TargetId>,
    /// A template that is left because it does not do.
    pub returned_from: Option<TemplateId>,
}

/// What to do, and how things stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the rollout stands.
    pub phase: Phase,
    /// What to do now, in this order.
    pub actions: Vec<Action>,
    /// When to look again, if nothing else moves.
    pub wake_at: Option<Timestamp>,
    /// Why it stands there.
    pub reasons: Vec<Reason>,
    /// What the gates say of the other lineage.
    pub verdict: Option<Verdict>,
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
