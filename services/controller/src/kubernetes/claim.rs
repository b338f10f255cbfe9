//! The pointer's side: its store, the claim on its rollouts, and the settings that bear on them.

use std::sync::Arc;

use serde_json::Value;
use verdigris_core::gates::GateSettings;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Pointer};
use verdigris_core::rollout::{Promotion, Spec};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{CommitError, Store, collection as objects, commit};

use super::resource::{PromotionSpec, RolloutSpec};

/// A pointer and its store.
#[derive(Clone)]
pub(crate) struct Claimed {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) name: CollectionName,
    pub(crate) epoch: u64,
}

/// Claims the rollouts; the epoch.
pub(crate) async fn claim(
    store: &dyn Store,
    name: &CollectionName,
    id: &str,
    by_word: bool,
    now: Timestamp,
) -> Result<u64, CommitError> {
    let nonce = commit::nonce();
    let pointer = commit::swing(store, name, nonce.clone(), |pointer| {
        pointer.claim_rollouts(id, by_word, nonce.clone(), now)
    })
    .await?;
    Ok(pointer.owner.map_or(0, |owner| owner.epoch))
}

impl Claimed {
    /// One edit by this owner.
    pub(crate) async fn swing(
        &self,
        nonce: String,
        edit: impl Fn(&Pointer, u64, String) -> Result<Pointer, EditRefused> + Send + Sync,
    ) -> Result<Pointer, CommitError> {
        commit::swing(&*self.store, &self.name, nonce.clone(), |pointer| {
            edit(pointer, self.epoch, nonce.clone())
        })
        .await
    }

    /// What is wanted: the collection's settings, and what the Collection says instead.
    pub(crate) async fn spec(
        &self,
        pointer: &Pointer,
        given: &RolloutSpec,
    ) -> Result<Result<Spec, String>, CommitError> {
        let settings = objects::settings(&*self.store, &self.name, &pointer.settings).await?;
        Ok(with(Spec::from(&settings), given))
    }
}

/// Settings with what is given instead; what is wrong in words.
pub(super) fn with(mut spec: Spec, given: &RolloutSpec) -> Result<Spec, String> {
    let rollout = &mut spec.rollout;
    if let Some(promotion) = given.promotion {
        rollout.promotion = match promotion {
            PromotionSpec::Automatic => Promotion::Automatic,
            PromotionSpec::Manual => Promotion::Manual,
        };
    }
    rollout.bake_seconds = given.bake_seconds.unwrap_or(rollout.bake_seconds);
    rollout.keep_seconds = given.keep_seconds.unwrap_or(rollout.keep_seconds);
    rollout.deadline_seconds = given.deadline_seconds.unwrap_or(rollout.deadline_seconds);
    if !given.gates.is_empty() {
        let mut gates = serde_json::to_value(&spec.gates).map_err(|error| error.to_string())?;
        for (key, value) in &given.gates {
            gates[key] = value.clone();
        }
        spec.gates = gates_of(gates).map_err(|error| format!("spec.rollout.gates: {error}"))?;
    }
    Ok(spec)
}

fn gates_of(value: Value) -> Result<GateSettings, serde_json::Error> {
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: Value) -> RolloutSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn what_the_collection_says_stands_in_place_of_its_settings() {
        let given = given(serde_json::json!({
            "promotion": "Manual", "keepSeconds": 7, "gates": {"recall_min": 0.5, "off": ["latency"]},
        }));
        let spec = with(Spec::default(), &given).unwrap();
        assert_eq!(spec.rollout.promotion, Promotion::Manual);
        assert_eq!(spec.rollout.keep_seconds, 7);
        assert_eq!(spec.rollout.bake_seconds, Spec::default().rollout.bake_seconds);
        assert_eq!(spec.gates.recall_min, 0.5);
        assert_eq!(spec.gates.off.len(), 1);
    }

    #[test]
    fn a_gate_that_is_not_known_is_told_and_not_ignored() {
        let given = given(serde_json::json!({"gates": {"recal_min": 0.5}}));
        let problem = with(Spec::default(), &given).unwrap_err();
        assert!(problem.contains("recal_min"), "{problem}");
    }
}
