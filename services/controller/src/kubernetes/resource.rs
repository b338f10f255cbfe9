//! The resource kind `Collection`, as its users write it and as they read its status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One collection that is served on this cluster.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "verdigris.dev",
    version = "v1alpha1",
    kind = "Collection",
    plural = "collections",
    shortname = "vdg",
    category = "verdigris",
    namespaced,
    status = "CollectionStatus",
    derive = "PartialEq",
    doc = "A collection of products or pages that is searched on this cluster.",
    scale(
        spec_replicas_path = ".spec.pods.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(name = "Slot", type_ = "string", json_path = ".status.activeSlot"),
    printcolumn(name = "Generation", type_ = "integer", json_path = ".status.generation"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Lineage", type_ = "string", json_path = ".status.lineage", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CollectionSpec {
    /// Where its releases are.
    pub store: StoreSpec,
    /// Which collection of the store.
    pub collections: CollectionsSpec,
    /// Image of the search pods. A new one is a rollout.
    pub image: String,
    /// The search pods. New settings, the number of pods apart, are a rollout.
    #[serde(default)]
    pub pods: PodsSpec,
    /// How another lineage, image or settings come to answer.
    #[serde(default)]
    pub rollout: RolloutSpec,
}

/// Where releases are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreSpec {
    /// `s3://bucket/prefix`, or `file:FOLDER` where all pods see one folder.
    pub url: String,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of a server that is not AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path and not in the host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A Secret of the same namespace whose keys become environment of the pods, such as AWS_ACCESS_KEY_ID. Without it
    /// the pods' service account counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Which collections: one by its name, or many by what their names begin with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.name) != has(self.prefix)", "message": "give either a name or a prefix"}
]))]
pub struct CollectionsSpec {
    /// Name of the collection in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// What the names of many small collections begin with, which are served by the same pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 62))]
    pub prefix: Option<String>,
}

/// The search pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodsSpec {
    /// How many answer. A slot that is warming or kept warm has as many again.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
    /// CPU and memory of each.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    /// Limit of the cache for files of releases, such as 20Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// More environment, such as VERDIGRIS_LOG_FILTER.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Service account of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// When the image is pulled: Always, IfNotPresent or Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// Labels of nodes that may run them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that they tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// A Secret whose key `tokens` says who may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret: Option<String>,
    /// A Secret with `tls.crt` and `tls.key` for their ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
    /// More annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// People write `cpu: 2`, and the API keeps the number; a quantity is a text. One Collection that cannot be read would
/// keep all of them from being looked at.
fn resources<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ResourceRequirements>, D::Error> {
    let Some(mut given) = Option::<Value>::deserialize(deserializer)? else {
        return Ok(None);
    };
    for part in ["limits", "requests"] {
        for (_, quantity) in given.get_mut(part).and_then(Value::as_object_mut).into_iter().flatten() {
            if quantity.is_number() {
                *quantity = Value::String(quantity.to_string());
            }
        }
    }
    serde_json::from_value(given).map_err(serde::de::Error::custom)
}

fn two() -> i32 {
    2
}

impl Default for PodsSpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            resources: None,
            cache: None,
            environment: BTreeMap::new(),
            service_account: None,
            image_pull_secrets: Vec::new(),
            image_pull_policy: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            token_secret: None,
            tls_secret: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// How something comes to answer. What is not given is as the collection's settings say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Who promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionSpec>,
    /// Limits of gates, by the names of the settings, such as recall_min or off.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub gates: Map<String, Value>,
    /// For how long what answers anew is watched, and returned from by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400), extend("format" = "int32"))]
    pub bake_seconds: Option<u32>,
    /// For how long what answered before stays warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_592_000), extend("format" = "int32"))]
    pub keep_seconds: Option<u32>,
    /// Shares of pods and connections, in percent, at which what comes to answer waits and is watched for as long as the
    /// bake, such as [10, 50]; each larger than the one before. Without any, all traffic moves at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(range(min = 1, max = 100)), extend("format" = "int32"))]
    pub steps: Vec<u32>,
    /// After how long a candidate that does not answer is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 2_592_000), extend("format" = "int32"))]
    pub deadline_seconds: Option<u32>,
    /// Whether nothing is promoted.
    #[serde(default)]
    pub paused: bool,
    /// Whether another owner of this collection's rollouts is taken over from.
    #[serde(default)]
    pub take_over: bool,
}

/// Who promotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PromotionSpec {
    /// What passed all gates is promoted by itself.
    Automatic,
    /// A person does.
    Manual,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// How it stands. All of it can be found again by looking; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CollectionStatus {
    /// The generation of the spec that this is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// Where the rollout stands.
    #[serde(default)]
    pub phase: String,
    /// Why, in words.
    #[serde(default)]
    pub message: String,
    /// Available, Progressing, Degraded, GatesPassed, Held.
    #[serde(default)]
    pub conditions: Vec<ConditionStatus>,
    /// The slot that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_slot: Option<String>,
    /// What answers: a fingerprint of lineage, image and pod settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_target: Option<String>,
    /// The lineage that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// Its generation, the oldest of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Pods of the active slot, for autoscaling.
    #[serde(default)]
    pub replicas: i32,
    /// What selects them.
    #[serde(default)]
    pub selector: String,
    /// Both slots.
    #[serde(default)]
    pub slots: Vec<SlotStatus>,
    /// The step at which traffic goes to both slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepStatus>,
    /// What the gates said of the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictStatus>,
    /// What answered since when, the newest first.
    #[serde(default)]
    pub history: Vec<ServedStatus>,
    /// What was said to the newest command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandStatus>,
    /// The collections of a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<TenantsStatus>,
    /// With a prefix: the epoch of the controller that works. Each takes one more than the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_epoch: Option<i64>,
}

/// The collections of a prefix.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantsStatus {
    /// How many there are.
    pub count: i32,
    /// How many are open in the pod that has the most of them open.
    pub open: i32,
    /// How many have a candidate.
    pub candidates: i32,
    /// How many have a candidate that gates refuse.
    pub refused: i32,
    /// How many are held.
    pub held: i32,
    /// How many a person should look at.
    pub troubled: i32,
    /// The first twenty of these.
    #[serde(default)]
    pub first_troubled: Vec<TroubledStatus>,
}

/// A collection of a prefix that a person should look at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TroubledStatus {
    /// Its name in the store.
    pub name: String,
    /// Where its rollout stands.
    pub phase: String,
    /// Why, in words.
    pub message: String,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConditionStatus {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in words.
    #[serde(default)]
    pub message: String,
    /// Since when it has this status.
    pub last_transition_time: String,
    /// The generation of the spec that this is about.
    #[serde(default)]
    pub observed_generation: i64,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// blue or green.
    pub name: String,
    /// active, candidate, wayBack or idle.
    pub role: String,
    /// What its pods are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The lineage that they follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// The oldest generation of its ready pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Pods that were asked for.
    pub replicas: i32,
    /// Pods that are ready and warm.
    pub ready: i32,
}

/// Traffic that goes to both slots.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// The slot that traffic is on its way to.
    pub slot: String,
    /// The share that it is to have.
    pub percent: i32,
    /// Since when.
    pub since: String,
}

/// What gates said.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictStatus {
    /// The lineage that was judged.
    pub lineage: String,
    /// At which generation.
    pub generation: i64,
    /// Whether nothing speaks against it.
    pub passed: bool,
    /// Gates that speak against it, and why.
    #[serde(default)]
    pub against: Vec<String>,
}

/// An entry of the history.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedStatus {
    /// The lineage.
    pub lineage: String,
    /// Its generation at that moment.
    pub generation: i64,
    /// Since when it answered.
    pub since: String,
    /// Who moved traffic to it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What was said to a command.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandStatus {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub verb: String,
    /// Pending, Done or Refused.
    pub outcome: String,
    /// In words.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_cpus_are_read_as_people_write_them() {
        let given = serde_json::json!({"resources": {"limits": {"cpu": 2, "memory": "4Gi"}, "requests": {"cpu": 0.5}}});
        let pods: PodsSpec = serde_json::from_value(given).unwrap();
        let resources = serde_json::to_value(pods.resources).unwrap();
        assert_eq!(resources["limits"], serde_json::json!({"cpu": "2", "memory": "4Gi"}));
        assert_eq!(resources["requests"], serde_json::json!({"cpu": "0.5"}));
    }
}
