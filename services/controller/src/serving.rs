//! The search role as the owner of rollouts sees it. In one process it is the role itself; over a cluster it will be
//! its pods together.

use async_trait::async_trait;
use tonic::Status;
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::{OtherSeen, ServingWindow};

/// What the search role has open, and how it answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// The other lineage.
    pub other: OtherSeen,
    /// The answers of the active lineage since it was flipped to.
    pub window: Option<ServingWindow>,
    /// The answers of the lineage before that.
    pub before: Option<ServingWindow>,
}

/// The search role.
#[async_trait]
pub trait Serving: Send + Sync {
    /// Looks at a collection.
    async fn seen(&self, name: &CollectionName) -> Seen;

    /// Measures a lineage at this generation or a later one, beside the active one. It takes seconds; dropping it ends
    /// it.
    ///
    /// # Errors
    /// A status with its reason: not open yet, gone, or something that cannot be read.
    async fn measure(
        &self,
        name: &CollectionName,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, Status>;
}
