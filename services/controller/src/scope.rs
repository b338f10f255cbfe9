//! Which collections an owner of rollouts looks after, and how closely it looks.
//!
//! Beside the search role, looking is cheap. A thousand tenants in a bucket, and pods across a network, are looked at as
//! seldom as may be: all of them now and then, those that are about to be promoted often, and few of these at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use verdigris_core::pointer::{LineageRole, Pointer};
use verdigris_core::rollout::{Phase, Spec};

/// Candidates of tenants that are attended to at the same time: each is looked at several times a second.
const ATTENDED_MAX: usize = 8;

/// What is wanted of a collection.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wants {
    /// How its lineages come to answer.
    pub spec: Spec,
    /// Whether nothing is promoted, by the word of whoever runs this.
    pub is_paused: bool,
}

/// What is wanted of a collection, by what its settings say.
pub type WantsOf = Arc<dyn Fn(Spec) -> Wants + Send + Sync>;

/// Which collections are owned, and how.
#[derive(Clone)]
pub struct Scope {
    /// What their names begin with.
    pub prefix: String,
    /// How closely they are looked at.
    pub pace: Pace,
    /// The name under which they are counted, where each would be too many.
    pub counted_as: Option<String>,
    /// Whether another owner of their rollouts is taken over from.
    pub take_over: bool,
    /// What is wanted of each.
    pub wants: WantsOf,
}

/// How closely collections are looked at.
#[derive(Clone)]
pub enum Pace {
    /// As few collections beside the search role are.
    Near,
    /// As many tenants of a remote store are.
    Far {
        /// How often each is looked at.
        every: Duration,
        /// One that has a candidate takes one of these places while it is attended to.
        places: Arc<Semaphore>,
    },
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            pace: Pace::Near,
            counted_as: None,
            take_over: false,
            wants: Arc::new(|spec| Wants { spec, is_paused: false }),
        }
    }
}

impl Pace {
    /// For many tenants, each looked at so often.
    pub fn far(every: Duration) -> Self {
        Self::Far {
            every,
            places: Arc::new(Semaphore::new(ATTENDED_MAX)),
        }
    }

    /// How often new collections are looked for.
    pub(crate) fn list(&self) -> Duration {
        match self {
            Self::Near => Duration::from_secs(1),
            // A listing takes as many requests as a look at each.
            Self::Far { every, .. } => *every * 2,
        }
    }

    /// When a collection is looked at again that nobody attends to.
    pub(crate) fn seldom(&self) -> Duration {
        match self {
            Self::Near => Duration::from_millis(500),
            // Thousands that were found together are not looked at together.
            Self::Far { every, .. } => every.mul_f64(0.5 + rand::random::<f64>()),
        }
    }

    /// When a collection with another lineage is looked at again.
    pub(crate) fn look(&self, phase: Phase) -> Duration {
        match (self, phase) {
            (Self::Near, _) => Duration::from_millis(50),
            (Self::Far { .. }, Phase::Leveling | Phase::Promoting | Phase::Returning) => Duration::from_millis(100),
            (Self::Far { .. }, Phase::Warming | Phase::Judging) => Duration::from_millis(500),
            (Self::Far { every, .. }, _) => *every / 3,
        }
    }

    /// Whether a collection is looked at closely in this phase.
    pub(crate) fn is_attended(phase: Phase) -> bool {
        matches!(
            phase,
            Phase::Warming | Phase::Leveling | Phase::Judging | Phase::Promoting | Phase::Returning
        )
    }

    /// Whether a place among those that are attended to is needed. A way back is never kept waiting.
    pub(crate) fn needs_place(pointer: &Pointer) -> bool {
        let other = pointer.other.as_ref();
        other.is_some_and(|other| other.role == LineageRole::Candidate)
    }
}
