//! Deployments and Services as they are asked for.
//!
//! What a template fingerprint covers is what its writer gave, not what this code makes of it: a newer controller is no
//! reason for a rollout.

use serde_json::{Map, Value, json};
use verdigris_core::rollout::slots::{ALL_LINEAGES, Selection, Slot, Target, TemplateId, Traffic, Widened};
use verdigris_core::timestamp::Timestamp;

use super::resource::{Collection, CollectionSpec, PodsSpec};
use super::{Texts, names};

/// Ports of a search pod.
const GRPC: u16 = 7700;
const HTTP: u16 = 7701;
const ADMIN: u16 = 7702;
/// Folders of a search pod.
const FOLDER: &str = "/var/lib/verdigris";
const TOKENS: &str = "/etc/verdigris/tokens";
const TLS: &str = "/etc/verdigris/tls";
/// How long a pod may take to send its clients away: the longest wait of a demoted connection, and some calls.
const GRACE_SECONDS: u32 = 30;

/// The fingerprint of image and settings.
pub(crate) fn template(spec: &CollectionSpec) -> TemplateId {
    let mut pods = serde_json::to_value(&spec.pods).expect("settings have only text keys");
    if let Some(pods) = pods.as_object_mut() {
        pods.remove("replicas");
    }
    let given = json!({
        "image": spec.image, "pods": pods, "store": spec.store, "collections": spec.collections,
    });
    TemplateId::of(given.to_string().as_bytes())
}

/// The least that a Deployment may be: no pods, and no target yet.
pub(crate) fn first_deployment(collection: &Collection, slot: Slot) -> Value {
    let name = kube::ResourceExt::name_any(collection);
    let labels = names::slot_labels(&name, slot);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": names::deployment(&name, slot), "labels": names::labels(&name),
            "ownerReferences": names::owners(collection),
        },
        "spec": {
            "replicas": 0,
            // Two templates never run beside each other in one slot. From the first write on: the API would fill in the
            // limits of a rolling update, which do not go with this.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "search", "image": collection.spec.image}]},
            },
        },
    })
}

/// A slot without pods, whose next pods are of a target.
pub(crate) fn deployment(collection: &Collection, slot: Slot, target: &Target, epoch: u64, now: Timestamp) -> Value {
    let name = kube::ResourceExt::name_any(collection);
    let mut object = first_deployment(collection, slot);
    let slot_labels = names::slot_labels(&name, slot);
    let mut labels = names::labels(&name);
    labels.extend(slot_labels.clone());
    object["metadata"]["labels"] = json!(labels);
    object["metadata"]["annotations"] = json!({
        names::LINEAGE: target.lineage.as_str(), names::TEMPLATE: target.template.as_str(),
        names::SINCE: now.to_string(), names::EPOCH: epoch.to_string(),
    });
    labels.insert(names::TARGET.to_owned(), target.id().to_string());
    object["spec"]["template"] = json!({
        "metadata": {"labels": labels, "annotations": collection.spec.pods.annotations},
        "spec": pod(&collection.spec, &slot_labels, target),
    });
    object
}

fn pod(spec: &CollectionSpec, spread_over: &Texts, target: &Target) -> Value {
    let pods = &spec.pods;
    let cache = match &pods.cache {
        Some(limit) => json!({"sizeLimit": limit}),
        None => json!({}),
    };
    let mut volumes = vec![
        json!({"name": "cache", "emptyDir": cache}),
        json!({"name": "tmp", "emptyDir": {}}),
    ];
    for (name, secret, _) in secrets(pods) {
        volumes.push(json!({"name": name, "secret": {"secretName": secret}}));
    }
    let mut pod = json!({
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": false,
        // Variables of Services named verdigris-… would look like configuration.
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(spec, target)],
        "volumes": volumes,
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": spread_over},
        }],
    });
    let mut also = |key: &str, value: Value, is_given: bool| {
        if is_given {
            pod[key] = value;
        }
    };
    also(
        "serviceAccountName",
        json!(pods.service_account),
        pods.service_account.is_some(),
    );
    also(
        "imagePullSecrets",
        json!(pods.image_pull_secrets),
        !pods.image_pull_secrets.is_empty(),
    );
    also(
        "nodeSelector",
        json!(pods.node_selector),
        !pods.node_selector.is_empty(),
    );
    also("tolerations", json!(pods.tolerations), !pods.tolerations.is_empty());
    pod
}

fn container(spec: &CollectionSpec, target: &Target) -> Value {
    let probe = |path: &str, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 2, "failureThreshold": failures});
    let mut mounts = vec![
        json!({"name": "cache", "mountPath": FOLDER}),
        json!({"name": "tmp", "mountPath": "/tmp"}),
    ];
    for (name, _, folder) in secrets(&spec.pods) {
        mounts.push(json!({"name": name, "mountPath": folder, "readOnly": true}));
    }
    let mut container = json!({
        "name": "search", "image": spec.image, "args": ["search"],
        "env": environment(spec, target),
        "ports": [
            {"name": "grpc", "containerPort": GRPC}, {"name": "http", "containerPort": HTTP},
            {"name": "admin", "containerPort": ADMIN},
        ],
        "readinessProbe": probe("/readyz", 1),
        "livenessProbe": probe("/healthz", 15),
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    });
    if let Some(resources) = &spec.pods.resources {
        container["resources"] = json!(resources);
    }
    if let Some(policy) = &spec.pods.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if let Some(secret) = &spec.store.secret {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    container
}

/// Secrets that pods read as files: name of the volume, of the Secret, and where.
fn secrets(pods: &PodsSpec) -> Vec<(&'static str, &str, &'static str)> {
    let tokens = pods.token_secret.as_deref().map(|secret| ("tokens", secret, TOKENS));
    let tls = pods.tls_secret.as_deref().map(|secret| ("tls", secret, TLS));
    tokens.into_iter().chain(tls).collect()
}

fn environment(spec: &CollectionSpec, target: &Target) -> Vec<Value> {
    let store = &spec.store;
    let mut variables: Map<String, Value> = Map::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            variables.insert(format!("VERDIGRIS_{name}"), Value::String(value));
        }
    };
    set("STORE_URL", Some(store.url.clone()));
    set("STORE_REGION", store.region.clone());
    set("STORE_ENDPOINT", store.endpoint.clone());
    set("STORE_PATH_STYLE", store.path_style.map(|yes| yes.to_string()));
    let prefix = spec.collections.prefix.as_ref().map(|prefix| format!("{prefix}*"));
    set("SEARCH_COLLECTIONS", spec.collections.name.clone().or(prefix));
    set("CACHE_FOLDER", Some(format!("{FOLDER}/cache")));
    set("CACHE_LIMIT", spec.pods.cache.as_deref().and_then(cache_limit));
    let (has_tokens, has_tls) = (spec.pods.token_secret.is_some(), spec.pods.tls_secret.is_some());
    set("GRPC_TOKEN_FILE", has_tokens.then(|| format!("{TOKENS}/tokens")));
    set("GRPC_TLS_CERTIFICATE", has_tls.then(|| format!("{TLS}/tls.crt")));
    set("GRPC_TLS_KEY", has_tls.then(|| format!("{TLS}/tls.key")));
    set("GRPC_ADDRESS", Some(format!("0.0.0.0:{GRPC}")));
    set("HTTP_ADDRESS", Some(format!("0.0.0.0:{HTTP}")));
    set("ADMIN_ADDRESS", Some(format!("0.0.0.0:{ADMIN}")));
    set("LOG_FORMAT", Some("json".to_owned()));
    for (name, value) in &spec.pods.environment {
        variables.insert(name.clone(), Value::String(value.clone()));
    }
    // Nobody overrides what makes a slot a slot.
    variables.remove("VERDIGRIS_SEARCH_LINEAGE");
    if target.lineage.as_str() != ALL_LINEAGES {
        let lineage = Value::String(target.lineage.to_string());
        variables.insert("VERDIGRIS_SEARCH_LINEAGE".to_owned(), lineage);
    }
    variables
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect()
}

/// What files of releases may take of a volume with this limit, on which other things lie too: a pod that exceeds it is
/// evicted. Nothing where the quantity is written as only Kubernetes reads it.
fn cache_limit(quantity: &str) -> Option<String> {
    const UNITS: [(&str, u64); 6] = [
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let (number, unit) = quantity.split_at(quantity.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let bytes = number.parse::<u64>().ok()?.checked_mul(*factor)?;
    Some(format!("{} B", bytes / 10 * 9)).filter(|_| bytes >= 2 << 20)
}

/// The preview, or the active Service before anything was selected.
pub(crate) fn first_service(collection: &Collection, name: &str, epoch: u64) -> Value {
    let mut service = service(collection, name, Some(names::NO_TARGET));
    service["metadata"]["annotations"] = json!({names::EPOCH: epoch.to_string()});
    service
}

/// The active Service with what it selects, since when, and what was before.
pub(crate) fn selecting(collection: &Collection, selection: &Selection, epoch: u64, now: Timestamp) -> Value {
    let name = kube::ResourceExt::name_any(collection);
    let mut object = service(collection, &name, Some(selection.target.as_str()));
    object["metadata"]["annotations"] = noted([
        (names::EPOCH, Some(epoch.to_string())),
        (names::SINCE, Some(now.to_string())),
        (names::PREVIOUS, selection.previous.as_ref().map(ToString::to_string)),
        (
            names::RETURNED_FROM,
            selection.returned_from.as_ref().map(ToString::to_string),
        ),
    ]);
    object
}

/// The active Service with the pods of both slots: by the label that all pods of the Collection have.
pub(crate) fn widening(collection: &Collection, before: &Traffic, widened: &Widened, epoch: u64) -> Value {
    let name = kube::ResourceExt::name_any(collection);
    let mut object = service(collection, &name, None);
    object["metadata"]["annotations"] = noted([
        (names::EPOCH, Some(epoch.to_string())),
        (names::SINCE, Some(before.since.to_string())),
        (names::SELECTED, before.target.as_ref().map(ToString::to_string)),
        (names::PREVIOUS, before.previous.as_ref().map(ToString::to_string)),
        (
            names::RETURNED_FROM,
            before.returned_from.as_ref().map(ToString::to_string),
        ),
        (names::WIDENED, Some(widened.target.to_string())),
        (names::PERCENT, Some(widened.percent.to_string())),
        (names::WIDENED_SINCE, Some(widened.since.to_string())),
    ]);
    object
}

/// Annotations that have a value.
fn noted<const N: usize>(all: [(&str, Option<String>); N]) -> Value {
    let given = all
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), Value::String(value?))));
    Value::Object(given.collect())
}

/// A Service of the pods of one target, or of both slots.
fn service(collection: &Collection, name: &str, target: Option<&str>) -> Value {
    let of = kube::ResourceExt::name_any(collection);
    let mut selector = Texts::from([(names::COLLECTION.to_owned(), of.clone())]);
    if let Some(target) = target {
        selector.insert(names::TARGET.to_owned(), target.to_owned());
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "labels": names::labels(&of), "ownerReferences": names::owners(collection),
        },
        "spec": {
            "selector": selector,
            "ports": [
                {"name": "grpc", "port": GRPC, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
                {"name": "http", "port": HTTP, "targetPort": "http"},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection() -> Collection {
        let mut collection = Collection::new("products", CollectionSpec::default_for_tests());
        collection.metadata.uid = Some("u".to_owned());
        collection
    }

    #[test]
    fn the_number_of_pods_is_no_part_of_what_they_are() {
        let mut spec = collection().spec;
        let before = template(&spec);
        spec.pods.replicas = 7;
        assert_eq!(template(&spec), before);
        spec.image = "vdg.test/search:2".to_owned();
        assert_ne!(template(&spec), before);
    }

    #[test]
    fn pods_follow_their_lineage_whatever_their_environment_says() {
        let mut spec = collection().spec;
        let name = "VERDIGRIS_SEARCH_LINEAGE".to_owned();
        spec.pods.environment.insert(name, "mine".to_owned());
        let target = Target {
            lineage: "l".to_owned().into(),
            template: template(&spec),
        };
        let environment = environment(&spec, &target);
        let lineage = environment
            .iter()
            .filter(|entry| entry["name"] == "VERDIGRIS_SEARCH_LINEAGE");
        assert_eq!(lineage.map(|entry| entry["value"].clone()).collect::<Vec<_>>(), ["l"]);
    }

    #[test]
    fn pods_of_a_prefix_follow_no_lineage_whatever_their_environment_says() {
        let mut spec = collection().spec;
        spec.collections = serde_json::from_value(json!({"prefix": "tenant-"})).expect("a prefix");
        let name = "VERDIGRIS_SEARCH_LINEAGE".to_owned();
        spec.pods.environment.insert(name, "mine".to_owned());
        let target = Target {
            lineage: ALL_LINEAGES.to_owned().into(),
            template: template(&spec),
        };
        let environment = environment(&spec, &target);
        let value = |name: &str| {
            environment
                .iter()
                .find(|entry| entry["name"] == name)
                .map(|entry| &entry["value"])
        };
        assert_eq!(value("VERDIGRIS_SEARCH_COLLECTIONS"), Some(&json!("tenant-*")));
        assert_eq!(value("VERDIGRIS_SEARCH_LINEAGE"), None);
    }

    /// A newer controller is no reason for a rollout.
    #[test]
    fn the_fingerprint_of_a_name_is_as_it_was_before_there_were_prefixes() {
        let spec = collection().spec;
        assert_eq!(json!(spec.collections), json!({"name": "products"}));
    }

    #[test]
    fn a_cache_keeps_below_the_limit_of_its_volume() {
        for (quantity, expected) in [
            ("20Gi", Some("19327352832 B")),
            ("1G", Some("900000000 B")),
            ("1Mi", None),
            ("1.5Gi", None),
            ("1e9", None),
            ("4096", None),
        ] {
            assert_eq!(cache_limit(quantity).as_deref(), expected, "{quantity}");
        }
    }

    impl CollectionSpec {
        fn default_for_tests() -> Self {
            serde_json::from_value(json!({
                "store": {"url": "s3://catalog/prod"}, "collections": {"name": "products"}, "image": "vdg.test/search:1",
            }))
            .expect("a spec")
        }
    }
}
