//! Verdicts in the store: what was measured of a lineage, and what the gates said of it, under the judged generation.
//!
//! The newest is read back after a restart, and judged anew by the limits of then: measuring again would only cost.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use verdigris_core::gates::{GateSettings, Measurements, Verdict};
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_store::{Store, StoreError, collection as objects, commit, keys};

/// Verdicts of one lineage that are read for the newest: it is measured again by word, or where data was missing.
const READ_MAX: usize = 16;

/// One verdict as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    verdict: Verdict,
    /// By which limits.
    limits: GateSettings,
    measurements: Measurements,
}

/// Stores what was measured, and the verdict by the limits of now.
pub(crate) async fn store(
    store: &dyn Store,
    name: &CollectionName,
    limits: &GateSettings,
    measurements: &Measurements,
) -> Result<Verdict, StoreError> {
    let stored = Stored {
        verdict: verdigris_core::gates::judge(limits, measurements),
        limits: limits.clone(),
        measurements: measurements.clone(),
    };
    let path = stored.verdict.path(&commit::nonce());
    let bytes = serde_json::to_vec_pretty(&stored).expect("a verdict is JSON");
    objects::create_once(store, &keys::object(name, &path), Bytes::from(bytes)).await?;
    Ok(stored.verdict)
}

/// What was measured of a lineage last. One that cannot be read is as good as none: it is measured again.
pub(crate) async fn newest(
    store: &dyn Store,
    name: &CollectionName,
    lineage: &LineageId,
) -> Result<Option<Measurements>, StoreError> {
    let listing = objects::list_all(store, &keys::object(name, Verdict::FOLDER)).await?;
    let of_lineage = listing.into_iter().map(|object| object.key);
    let mut keys: Vec<String> = of_lineage.filter(|key| Verdict::is_of(key, lineage)).collect();
    keys.sort_unstable();
    let mut newest: Option<Measurements> = None;
    for key in keys.iter().rev().take(READ_MAX) {
        let bytes = objects::whole(store, key).await?;
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) => {
                let is_newer = newest
                    .as_ref()
                    .is_none_or(|newest| newest.measured_at < stored.measurements.measured_at);
                if is_newer && stored.measurements.candidate.lineage == *lineage {
                    newest = Some(stored.measurements);
                }
            }
            Err(error) => tracing::warn!(collection = %name, key, "a verdict cannot be read: {error}"),
        }
    }
    Ok(newest)
}
