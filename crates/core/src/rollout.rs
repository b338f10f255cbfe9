//! Rollouts: how the candidate comes to answer, and how the lineage before it does again.
//!
//! `plan` looks at the pointer and at what was observed, and says what to do next; it remembers nothing, so that an
//! owner that ended anywhere goes on by looking. What must outlast the owner is in the pointer and in stored
//! measurements; what may be forgotten is in [`Observation`].
//! Deliberately absent: carrying out, and whatever the indexer does (building, following, leveling).

mod bake;
mod plan;
pub mod slots;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::bake::{Baseline, Breach, ServingWindow, baseline};
pub use self::plan::{plan, was_returned_from};
use crate::gates::{GateSettings, Measurements, Verdict};
use crate::guards::GuardSettings;
use crate::manifest::LineageId;
use crate::pointer::{Flip, Hold, HoldKind, Pointer};
use crate::settings::{Settings, SettingsMistake};
use crate::timestamp::Timestamp;

/// Who acts where nobody asked: the name in the history and in holds.
pub const BY_ITSELF: &str = "rollout";

/// How lineages come to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSettings {
    /// Whether a candidate that passed all gates is promoted by itself, or waits for a person's word.
    pub promotion: Promotion,
    /// Seconds for which a promoted lineage is watched and returned from by itself.
    pub bake_seconds: u32,
    /// Seconds for which the lineage before it stays warm as the way back; never shorter than the bake.
    pub keep_seconds: u32,
    /// Seconds after which a candidate that is not promoted is reported as overdue.
    pub deadline_seconds: u32,
    /// Share of requests that may fail within the bake.
    pub error_share_max: f64,
    /// How many times slower than before answers may be within the bake.
    pub latency_ratio_max: f64,
    /// Milliseconds below which no answer is too slow.
    pub latency_floor_ms: u32,
}

/// Who promotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    /// A candidate that passed all gates is promoted by itself.
    #[default]
    Automatic,
    /// A person does, by naming lineage and judged generation.
    Manual,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            promotion: Promotion::Automatic,
            bake_seconds: 600,
            keep_seconds: 3_600,
            deadline_seconds: 3_600,
            error_share_max: 0.01,
            latency_ratio_max: 2.0,
            latency_floor_ms: 20,
        }
    }
}

impl RolloutSettings {
    /// Values out of range.
    pub(crate) fn mistakes(&self) -> Vec<SettingsMistake> {
        let values = [
            ("rollout.bake_seconds", f64::from(self.bake_seconds), 0.0, 86_400.0),
            ("rollout.keep_seconds", f64::from(self.keep_seconds), 0.0, 2_592_000.0),
            (
                "rollout.deadline_seconds",
                f64::from(self.deadline_seconds),
                10.0,
                2_592_000.0,
            ),
            ("rollout.error_share_max", self.error_share_max, 0.0, 1.0),
            ("rollout.latency_ratio_max", self.latency_ratio_max, 1.0, 1_000.0),
            (
                "rollout.latency_floor_ms",
                f64::from(self.latency_floor_ms),
                0.0,
                60_000.0,
            ),
        ];
        let wrong = values
            .into_iter()
            .filter(|(_, value, low, high)| !(value.is_finite() && (*low..=*high).contains(value)));
        wrong
            .map(|(key, value, low, high)| SettingsMistake::Range {
                key,
                value: value.to_string(),
                range: format!("{low} to {high}"),
            })
            .collect()
    }
}

/// What is wanted: the settings that bear on rollouts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spec {
    /// How lineages come to answer.
    pub rollout: RolloutSettings,
    /// What they must show.
    pub gates: GateSettings,
    /// What a later generation may lack of the judged one.
    pub guards: GuardSettings,
}

impl From<&Settings> for Spec {
    fn from(settings: &Settings) -> Self {
        Self {
            rollout: settings.rollout.clone(),
            gates: settings.gates.clone(),
            guards: settings.guards,
        }
    }
}

/// What the search role says of the other lineage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OtherSeen {
    /// It is not open, or nobody asked.
    #[default]
    NotOpen,
    /// It is open, verified and warm.
    Ready {
        /// The lineage.
        lineage: LineageId,
        /// Its generation.
        generation: u64,
    },
    /// It cannot be opened.
    Refused {
        /// The lineage.
        lineage: LineageId,
        /// Why.
        why: String,
    },
}

/// A person's wish to go back. It lives in memory: who asked and was not told asks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnWish {
    /// The way back that is meant.
    pub lineage: LineageId,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Tries of one kind since the other lineage was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tries {
    /// How many came to nothing in a row.
    pub failed: u32,
    /// When the last of them did.
    pub last_failed_at: Option<Timestamp>,
}

impl Tries {
    /// One more came to nothing.
    pub fn fail(&mut self, now: Timestamp) {
        self.failed = self.failed.saturating_add(1);
        self.last_failed_at = Some(now);
    }
}

/// What the owner saw and what it remembers. All of it may be forgotten at any time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// The search role's side of the other lineage.
    pub other: OtherSeen,
    /// The newest stored measurements of the other lineage.
    pub measured: Option<Measurements>,
    /// Whether the other lineage is being measured now.
    pub is_measuring: bool,
    /// Measuring that came to nothing.
    pub measuring: Tries,
    /// Leveling that did not end in a flip.
    pub leveling: Tries,
    /// Since when this owner has asked for the level that the pointer names.
    pub leveling_since: Option<Timestamp>,
    /// What the active lineage has answered since it was flipped to.
    pub window: Option<ServingWindow>,
    /// What its latency is compared with.
    pub baseline: Option<Baseline>,
    /// A person wants to go back.
    pub return_wish: Option<ReturnWish>,
}

/// Where a collection's rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was published yet.
    Empty,
    /// One lineage answers and there is no other.
    Steady,
    /// Another lineage is being built.
    Building,
    /// A candidate waits until somebody resumes.
    Held,
    /// The candidate is being opened and warmed.
    Warming,
    /// The candidate is being brought to the newest generation.
    Leveling,
    /// The candidate is being measured.
    Judging,
    /// The candidate failed a gate, or one had no data: a person aborts or promotes.
    Refused,
    /// The candidate may be promoted by a person.
    AwaitingApproval,
    /// The candidate is about to answer.
    Promoting,
    /// The promoted lineage is watched.
    Baking,
    /// Traffic goes back to the way back.
    Returning,
    /// The lineage before is kept warm.
    KeepingWayBack,
}

impl Phase {
    /// All, in the order in which a rollout takes them.
    pub const ALL: [Self; 13] = [
        Self::Empty,
        Self::Steady,
        Self::Building,
        Self::Held,
        Self::Warming,
        Self::Leveling,
        Self::Judging,
        Self::Refused,
        Self::AwaitingApproval,
        Self::Promoting,
        Self::Baking,
        Self::Returning,
        Self::KeepingWayBack,
    ];

    /// The name in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Steady => "steady",
            Self::Building => "building",
            Self::Held => "held",
            Self::Warming => "warming",
            Self::Leveling => "leveling",
            Self::Judging => "judging",
            Self::Refused => "refused",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Promoting => "promoting",
            Self::Baking => "baking",
            Self::Returning => "returning",
            Self::KeepingWayBack => "keeping_way_back",
        }
    }
}

/// What the owner does next. Each is an edit of the pointer, applied to whatever it has become, or a question to another
/// role; none needs the ones before it to have succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the indexer for the level.
    Level {
        /// Of this lineage.
        lineage: LineageId,
    },
    /// The level is not needed any more.
    StopLeveling,
    /// The level was not reached in time: publishing goes on, and it is tried again later.
    LevelLater,
    /// Measure the other lineage, and store what comes of it.
    Measure {
        /// The lineage.
        lineage: LineageId,
        /// Its generation.
        generation: u64,
    },
    /// Promote the candidate.
    Flip(Flip),
    /// Let the way back answer again, and hold promotion.
    Return(Flip),
    /// Give up a way back whose time is over.
    Retire {
        /// The lineage.
        lineage: LineageId,
    },
}

/// Why a rollout stands where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Held by a person, or by a return.
    Held {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// A release waits for a decision, so nothing is published and nothing comes level.
    Staged(u64),
    /// The search role cannot open it.
    CannotOpen(String),
    /// What was judged differs too much from what the lineage is now.
    JudgedTooLongAgo(u64),
    /// The approval names another judged generation than the newest.
    ApprovalOfAnother {
        /// The approval's.
        approved: u64,
        /// The newest judged one.
        judged: u64,
    },
    /// Gates that speak against it.
    Gates(Vec<&'static str>),
    /// It answered before and was returned from: only a person promotes it again.
    ReturnedFrom,
    /// It is not promoted by its deadline.
    Overdue {
        /// Seconds since it was named.
        seconds: u64,
    },
    /// Something was tried and is tried again later.
    TriesAgain {
        /// What.
        what: &'static str,
        /// How many tries came to nothing.
        failed: u32,
    },
    /// The promoted lineage does worse than it may.
    Breach(Breach),
    /// A person asked to go back.
    Asked {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// The way back is not open, so traffic stays.
    WayBackNotReady,
    /// Its time is over, but something is held: it stays until that is resumed.
    KeptWhileHeld,
}

impl Reason {
    /// Whether a person should look at it.
    pub fn needs_attention(&self) -> bool {
        matches!(
            self,
            Self::CannotOpen(_)
                | Self::Gates(_)
                | Self::Overdue { .. }
                | Self::Breach(_)
                | Self::WayBackNotReady
                | Self::Staged(_)
        )
    }
}

/// The pointer as it is planned by where a spec says that nothing is promoted.
pub fn paused(mut pointer: Pointer) -> Pointer {
    let since = pointer.updated_at;
    pointer.promotion_hold.get_or_insert_with(|| Hold {
        kind: HoldKind::Promotion,
        actor: "the spec".to_owned(),
        reason: "rollout.paused is set".to_owned(),
        since,
    });
    pointer
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { actor, reason } => write!(f, "held by {actor}: {reason}"),
            Self::Staged(generation) => write!(
                f,
                "release {generation} is staged: nothing is published until a person decides"
            ),
            Self::CannotOpen(why) => write!(f, "it cannot be opened: {why}"),
            Self::JudgedTooLongAgo(generation) => {
                write!(
                    f,
                    "it was judged at generation {generation} and has lost too much since: it is judged anew"
                )
            }
            Self::ApprovalOfAnother { approved, judged } => {
                write!(
                    f,
                    "the approval names generation {approved}, but it was judged anew at {judged}"
                )
            }
            Self::Gates(gates) => write!(f, "gates speak against it: {}", gates.join(", ")),
            Self::ReturnedFrom => f.write_str("it was returned from: only a person promotes it again"),
            Self::Overdue { seconds } => write!(f, "overdue: it is the candidate for {seconds} seconds"),
            Self::TriesAgain { what, failed } => write!(f, "{what} came to nothing {failed} times and is tried again"),
            Self::Breach(breach) => write!(f, "{breach}"),
            Self::Asked { actor, reason } => write!(f, "{actor} asked to go back: {reason}"),
            Self::WayBackNotReady => f.write_str("the way back is not open: traffic stays where it is"),
            Self::KeptWhileHeld => f.write_str("the way back stays until what is held is resumed"),
        }
    }
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
    /// What the gates say of the other lineage, by the limits of now.
    pub verdict: Option<Verdict>,
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;
