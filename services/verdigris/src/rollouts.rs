//! The search role as the owner of rollouts sees it, where both are in one process.

use std::sync::Arc;

use tonic::Status;
use verdigris_controller::{Seen, Serving};
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::{OtherSeen, ServingWindow};
use verdigris_search::{LineageCondition, LineageFacts, Search, WindowFacts};

/// The search role of this process.
pub(crate) struct Here(pub(crate) Arc<Search>);

#[async_trait::async_trait]
impl Serving for Here {
    async fn seen(&self, name: &CollectionName) -> Seen {
        let Some(serving) = self.0.serving(name).await else {
            return Seen::default();
        };
        Seen {
            other: serving.other.map_or(OtherSeen::NotOpen, other),
            window: serving.window.map(window),
            before: serving.window_before.map(window),
        }
    }

    async fn measure(
        &self,
        name: &CollectionName,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, Status> {
        self.0.measure(name, Some(lineage.clone()), generation).await
    }
}

fn other(facts: LineageFacts) -> OtherSeen {
    let lineage = facts.lineage;
    match (facts.condition, facts.open) {
        (LineageCondition::Broken { message, .. }, _) => OtherSeen::Refused { lineage, why: message },
        (LineageCondition::Warm, _) => OtherSeen::Ready {
            lineage,
            generation: facts.generation,
        },
        // What is open of it is older than what is named, which is being opened.
        (LineageCondition::Opening, Some(generation)) => OtherSeen::Ready { lineage, generation },
        (LineageCondition::Opening, None) => OtherSeen::NotOpen,
    }
}

fn window(facts: WindowFacts) -> ServingWindow {
    ServingWindow {
        lineage: facts.lineage,
        requests: facts.requests,
        errors: facts.errors,
        p50_ms: facts.p50.as_secs_f64() * 1e3,
        p99_ms: facts.p99.as_secs_f64() * 1e3,
    }
}
