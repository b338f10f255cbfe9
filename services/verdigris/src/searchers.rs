//! The search role as the owner of rollouts sees it, in one process: asked directly, not by gRPC.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use verdigris_controller::{Searchers, Seen};
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::{OtherSeen, ServingWindow};
use verdigris_search::{LineageCondition, LineageFacts, Search, WindowFacts};

/// The search role of this process.
pub(crate) struct InProcess(pub(crate) Arc<Search>);

#[async_trait]
impl Searchers for InProcess {
    async fn seen(&self, name: &CollectionName) -> Seen {
        let Some(serving) = self.0.serving(name).await else {
            return Seen::default();
        };
        Seen {
            other: serving.other.map_or(OtherSeen::NotOpen, other),
            window: serving.window.map(window),
            window_before: serving.window_before.map(window),
        }
    }

    async fn measure(
        &self,
        name: &CollectionName,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, String> {
        let measured = self.0.measure(name, Some(lineage.clone()), generation).await;
        measured.map_err(|status| status.message().to_owned())
    }
}

fn other(facts: LineageFacts) -> OtherSeen {
    let LineageFacts { lineage, open, .. } = facts;
    match (facts.condition, open) {
        (LineageCondition::Broken { reason, message }, _) => OtherSeen::Refused {
            lineage,
            why: format!("{}: {message}", reason.as_str()),
        },
        (_, Some(generation)) => OtherSeen::Ready { lineage, generation },
        (LineageCondition::Opening | LineageCondition::Warm, None) => OtherSeen::NotOpen,
    }
}

fn window(facts: WindowFacts) -> ServingWindow {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    ServingWindow {
        lineage: facts.lineage,
        requests: facts.requests,
        errors: facts.errors,
        p50_ms: millis(facts.p50),
        p99_ms: millis(facts.p99),
    }
}
