//! What a server says of itself to the owner of rollouts: how far each lineage is, and how the active one answers.

use std::time::Duration;

use verdigris_core::manifest::LineageId;
use verdigris_core::pointer::LineageRole;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::{LineageState as ProtoState, LineageStatus, ServingWindow};

use crate::answer::release_info;
use crate::lineages::{LineageState, LineageView, Lineages};
use crate::window::WindowFacts;

/// Both lineages as a server has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Serving {
    /// The active lineage, where there is one.
    pub active: Option<LineageFacts>,
    /// The other one, where there is one.
    pub other: Option<LineageFacts>,
    /// How the active one answers since it became active, or since this process answers.
    pub window: Option<WindowFacts>,
    /// How the one that was active before it answered.
    pub window_before: Option<WindowFacts>,
}

/// A lineage as a server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineageFacts {
    /// Its name.
    pub lineage: LineageId,
    /// The generation that the pointer names.
    pub generation: u64,
    /// What it is for.
    pub role: LineageRole,
    /// How far it is.
    pub condition: LineageCondition,
    /// The generation that is open, which may be older.
    pub open: Option<u64>,
    /// Memory that it takes with all of its files in it.
    pub memory_bytes: u64,
    /// From the first look at it until it was warm.
    pub ready: Duration,
}

/// How far a lineage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineageCondition {
    /// Files are fetched, verified and opened.
    Opening,
    /// The named release answers, and has been asked before.
    Warm,
    /// The named release cannot be opened.
    Broken {
        /// The stable reason.
        reason: Reason,
        /// What happened.
        message: String,
    },
}

impl Serving {
    pub(crate) fn of(lineages: &Lineages) -> Self {
        let mut serving = Self::default();
        for view in lineages.views() {
            let place = match view.named.role {
                LineageRole::Active => &mut serving.active,
                LineageRole::Candidate | LineageRole::WayBack => &mut serving.other,
            };
            *place = Some(facts(&view));
        }
        let (window, before) = lineages.windows();
        serving.window = window.map(|window| window.facts());
        serving.window_before = before.map(|window| window.facts());
        serving
    }
}

fn facts(view: &LineageView<'_>) -> LineageFacts {
    let broken = view.problem.map(|problem| LineageCondition::Broken {
        reason: problem.reason,
        message: problem.message.clone(),
    });
    LineageFacts {
        lineage: view.named.lineage.clone(),
        generation: view.named.generation,
        role: view.named.role,
        condition: match view.state {
            LineageState::Warm => LineageCondition::Warm,
            LineageState::Opening | LineageState::Broken => broken.unwrap_or(LineageCondition::Opening),
        },
        open: view.served.map(|served| served.release.manifest().generation),
        memory_bytes: view.served.map_or(0, |served| served.release.memory_bytes()),
        ready: view.served.map_or(Duration::ZERO, |served| served.ready),
    }
}

/// Both lineages as an answer has them.
pub(crate) fn statuses(lineages: &Lineages) -> Vec<LineageStatus> {
    lineages.views().iter().map(status).collect()
}

fn status(view: &LineageView<'_>) -> LineageStatus {
    let facts = facts(view);
    let state = match view.state {
        LineageState::Opening => ProtoState::Opening,
        LineageState::Warm => ProtoState::Warm,
        LineageState::Broken => ProtoState::Broken,
    };
    let problem = view.problem;
    LineageStatus {
        lineage: facts.lineage.to_string(),
        generation: facts.generation,
        state: state.into(),
        role: view.role().to_owned(),
        reason: problem
            .map(|problem| problem.reason.as_str().to_owned())
            .unwrap_or_default(),
        message: problem.map(|problem| problem.message.clone()).unwrap_or_default(),
        release: view.served.map(|served| release_info(served.release.manifest())),
        memory_bytes: facts.memory_bytes,
        ready_micros: facts.ready.as_micros() as u64,
    }
}

/// A window as an answer has it.
pub(crate) fn window(facts: WindowFacts) -> ServingWindow {
    ServingWindow {
        lineage: facts.lineage.to_string(),
        since: facts.since.to_string(),
        requests: facts.requests,
        errors: facts.errors,
        p50_micros: facts.p50.as_micros() as u64,
        p99_micros: facts.p99.as_micros() as u64,
    }
}
