//! Names of objects, labels and annotations: the contract with the chart and with people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use verdigris_core::rollout::slots::Slot;

use super::Texts;
use super::resource::Collection;

/// Who writes, in the record of managed fields.
pub(crate) const MANAGER: &str = "verdigris-controller";
/// What keeps a Collection until the pointer is let go.
pub(crate) const FINALIZER: &str = "verdigris.dev/pointer";

/// Label: name of the Collection.
pub(crate) const COLLECTION: &str = "verdigris.dev/collection";
/// Label: blue or green.
pub(crate) const SLOT: &str = "verdigris.dev/slot";
/// Label: what the pods are.
pub(crate) const TARGET: &str = "verdigris.dev/target";
/// What a Service selects that selects nothing.
pub(crate) const NO_TARGET: &str = "none";

/// Annotation of a Deployment: lineage of its pods.
pub(crate) const LINEAGE: &str = "verdigris.dev/lineage";
/// Annotation of a Deployment: image and settings of its pods.
pub(crate) const TEMPLATE: &str = "verdigris.dev/template";
/// Annotation: since when a Deployment is what it is, or a Service selects what it selects.
pub(crate) const SINCE: &str = "verdigris.dev/since";
/// Annotation of a Deployment: the target that may be promoted, and by whose word.
pub(crate) const APPROVED: &str = "verdigris.dev/approved";
/// Annotation of the active Service: what answered before.
pub(crate) const PREVIOUS: &str = "verdigris.dev/previous-target";
/// Annotations of the active Service on its way from one target to another in steps: what it selected alone before, what
/// it selects beside, the share in percent, and since when.
pub(crate) const SELECTED: &str = "verdigris.dev/selected-target";
pub(crate) const WIDENED: &str = "verdigris.dev/widened-to-target";
pub(crate) const PERCENT: &str = "verdigris.dev/widened-percent";
pub(crate) const WIDENED_SINCE: &str = "verdigris.dev/widened-since";
/// Annotation of the active Service: a template that was returned from.
pub(crate) const RETURNED_FROM: &str = "verdigris.dev/returned-from";
/// Annotation of the active Service: who holds image and settings of pods without a lineage of their own.
pub(crate) const HELD: &str = "verdigris.dev/held";
/// Annotation: epoch of the controller that wrote last.
pub(crate) const EPOCH: &str = "verdigris.dev/epoch";
/// Annotation of a Collection: what a person asks for.
pub(crate) const COMMAND: &str = "verdigris.dev/command";

/// The Deployment of a slot.
pub(crate) fn deployment(collection: &str, slot: Slot) -> String {
    format!("{collection}-{slot}")
}

/// The preview Service.
pub(crate) fn preview(collection: &str) -> String {
    format!("{collection}-preview")
}

/// Labels of everything of a Collection.
pub(crate) fn labels(collection: &str) -> Texts {
    [
        (COLLECTION, collection),
        ("app.kubernetes.io/name", "verdigris-search"),
        ("app.kubernetes.io/instance", collection),
        ("app.kubernetes.io/managed-by", MANAGER),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Labels of the pods of a slot that never change.
pub(crate) fn slot_labels(collection: &str, slot: Slot) -> Texts {
    [(COLLECTION, collection), (SLOT, slot.name())]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// What makes everything go with its Collection.
pub(crate) fn owners(collection: &Collection) -> Vec<OwnerReference> {
    collection.controller_owner_ref(&()).into_iter().collect()
}

/// Namespace of a Collection.
pub(crate) fn namespace(collection: &Collection) -> String {
    collection.namespace().unwrap_or_else(|| "default".to_owned())
}
