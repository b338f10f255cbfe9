//! Measurements and verdicts in the store: under the lineage and the generation that were judged, so that an owner that
//! begins anew need not measure again, and everybody can read why a lineage was promoted.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use verdigris_core::gates::{Measurements, Verdict};
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_store::{ReadError, Store, StoreError, collection as objects, keys};

/// A judged lineage as it is stored.
#[derive(Serialize, Deserialize)]
struct Judged {
    measurements: Measurements,
    /// By the limits of that moment; limits of later judge the measurements anew.
    verdict: Verdict,
}

fn marker(lineage: &LineageId) -> String {
    format!("-{lineage}-gates-")
}

/// Stores what was measured, create-only.
pub(crate) async fn write(
    store: &dyn Store,
    name: &CollectionName,
    measurements: &Measurements,
    verdict: &Verdict,
    nonce: &str,
) -> Result<(), StoreError> {
    let (generation, marker) = (verdict.generation, marker(&verdict.lineage));
    let judged = Judged {
        measurements: measurements.clone(),
        verdict: verdict.clone(),
    };
    let bytes = serde_json::to_vec_pretty(&judged).expect("it has only text keys");
    let key = keys::object(name, &format!("verdicts/{generation:010}{marker}{nonce}.json"));
    objects::create_once(store, &key, Bytes::from(bytes)).await
}

/// The newest stored measurements of a lineage. What cannot be read is measured again.
pub(crate) async fn newest(
    store: &dyn Store,
    name: &CollectionName,
    lineage: &LineageId,
) -> Result<Option<Measurements>, ReadError> {
    let (folder, marker) = (keys::object(name, "verdicts/"), marker(lineage));
    let all = objects::list_all(store, &folder).await?;
    let mut keys: Vec<String> = all
        .into_iter()
        .map(|object| object.key)
        .filter(|key| key.contains(&marker))
        .collect();
    // Ten digits of the generation come first, so that keys sort as generations do.
    keys.sort();
    let newest_generation = keys.last().map(|key| generation_part(key, &folder).to_owned());
    let mut newest: Option<Measurements> = None;
    for key in keys
        .iter()
        .filter(|key| Some(generation_part(key, &folder)) == newest_generation.as_deref())
    {
        let bytes = objects::whole(store, key).await?;
        let Ok(judged) = serde_json::from_slice::<Judged>(&bytes) else {
            tracing::warn!(%key, "a stored verdict cannot be read, and is left out");
            continue;
        };
        let is_newer = |newest: &Measurements| judged.measurements.measured_at > newest.measured_at;
        if newest.as_ref().is_none_or(is_newer) {
            newest = Some(judged.measurements);
        }
    }
    Ok(newest)
}

fn generation_part<'k>(key: &'k str, folder: &str) -> &'k str {
    let name = key.strip_prefix(folder).unwrap_or(key);
    name.split('-').next().unwrap_or(name)
}
