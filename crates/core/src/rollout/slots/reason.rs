//! Why a rollout on two slots stands where it stands, in words for people.

use std::fmt;

use super::{Amount, Slot};
use crate::manifest::LineageId;
use crate::timestamp::Timestamp;

/// Why a rollout stands where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// What the pointer's plan says.
    Rollout(crate::rollout::Reason),
    /// Nothing was published yet.
    NothingPublished,
    /// Pods are not ready yet.
    PodsNotReady {
        /// Where.
        slot: Slot,
        /// How many are ready, with the right lineage, warm.
        ready: u32,
        /// How many are wanted.
        wanted: u32,
    },
    /// A pod says why it is not.
    PodSays {
        /// Its name.
        pod: String,
        /// What it says.
        problem: String,
    },
    /// Pods of another target go first.
    SlotEmpties {
        /// Where.
        slot: Slot,
        /// How many are left.
        left: u32,
    },
    /// Clients of a slot are still asking it.
    SlotDrains(Slot),
    /// They still were when the wait for their end was over.
    SlotStillAsked(Slot),
    /// What comes next waits until the way back is given up.
    KeepsWayBack {
        /// Until when.
        until: Timestamp,
    },
    /// The candidate that waits for it.
    CandidateWaits(LineageId),
    /// The new image or the new settings wait for it.
    TemplateWaits,
    /// The new image or the new settings are prepared.
    NewTemplate,
    /// They were returned from: only a person promotes them again.
    TemplateReturnedFrom,
    /// They wait for a person's word.
    TemplateAwaitsApproval,
    /// Nothing is promoted.
    Held {
        /// Who said so.
        actor: String,
        /// Why.
        reason: String,
    },
    /// Traffic is not yet where the pointer says.
    TrafficMoves {
        /// To there.
        to: Slot,
    },
    /// Traffic moves in steps, and this one is watched.
    Step {
        /// To there.
        to: Slot,
        /// The share that it has, in percent.
        percent: u32,
        /// Until when at least.
        until: Timestamp,
    },
    /// The pods that answer have not yet all replaced those that did.
    EndpointsMove,
    /// No pod of the active slot is ready.
    NoPodAnswers,
    /// More pods would go beyond a limit of the platform: they are not asked for.
    NoRoom {
        /// Where.
        slot: Slot,
        /// How many more.
        pods: u32,
        /// What they ask for.
        asked: Amount,
        /// Of what.
        resource: String,
        /// The limit.
        quota: String,
        /// What it leaves.
        left: Amount,
    },
    /// The platform makes no more pods.
    PodsRefused {
        /// Where.
        slot: Slot,
        /// In its words.
        message: String,
    },
    /// No node has room for pods.
    PodsNotPlaced {
        /// Where.
        slot: Slot,
        /// For how many.
        pods: u32,
        /// In the platform's words.
        message: String,
    },
    /// Overdue: the pods were asked for that long ago.
    Overdue {
        /// Seconds.
        seconds: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollout(reason) => write!(f, "{reason}"),
            Self::NothingPublished => f.write_str("nothing was published yet"),
            Self::PodsNotReady { slot, ready, wanted } => {
                write!(f, "{ready} of {wanted} pods of slot {slot} are ready and warm")
            }
            Self::PodSays { pod, problem } => write!(f, "pod {pod}: {problem}"),
            Self::SlotEmpties { slot, left } => write!(f, "slot {slot} empties first: {left} pods are left"),
            Self::SlotDrains(slot) => write!(f, "slot {slot} is still asked by clients that were told to go"),
            Self::SlotStillAsked(slot) => {
                write!(
                    f,
                    "slot {slot} was still asked by clients after five minutes, and is ended even so"
                )
            }
            Self::KeepsWayBack { until } => write!(f, "the way back is kept until {until}"),
            Self::CandidateWaits(lineage) => write!(f, "candidate {lineage} waits until the way back is given up"),
            Self::TemplateWaits => f.write_str("a new image or new pod settings wait until the way back is given up"),
            Self::NewTemplate => f.write_str("pods with a new image or new settings are prepared"),
            Self::TemplateReturnedFrom => {
                f.write_str("this image with these pod settings was returned from: only a person promotes it again")
            }
            Self::TemplateAwaitsApproval => f.write_str("the new image or pod settings wait for a person's word"),
            Self::Held { actor, reason } => write!(f, "held by {actor}: {reason}"),
            Self::TrafficMoves { to } => write!(f, "traffic moves to slot {to} once its pods are ready"),
            Self::Step { to, percent, until } => {
                write!(
                    f,
                    "slot {to} has {percent} % of the traffic, and is watched until {until}"
                )
            }
            Self::EndpointsMove => f.write_str("traffic was moved, and the cluster is following"),
            Self::NoPodAnswers => f.write_str("no pod of the active slot is ready"),
            Self::NoRoom {
                slot,
                pods,
                asked,
                resource,
                quota,
                left,
            } => write!(
                f,
                "{pods} more pods of slot {slot} do not fit: they ask for {asked} of {resource}, and quota {quota} \
                 leaves {left}; traffic stays where it is"
            ),
            Self::PodsRefused { slot, message } => {
                write!(f, "the cluster makes no more pods of slot {slot}: {message}")
            }
            Self::PodsNotPlaced { slot, pods, message } => {
                write!(f, "no node has room for {pods} pods of slot {slot}: {message}")
            }
            Self::Overdue { seconds } => write!(f, "overdue: it was asked for {seconds} seconds ago"),
        }
    }
}

impl From<crate::rollout::Reason> for Reason {
    fn from(reason: crate::rollout::Reason) -> Self {
        Self::Rollout(reason)
    }
}
