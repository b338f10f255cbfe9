//! What the namespace's quotas leave for more pods.
//!
//! Quotas with scopes are left to the API, and so are those that cannot be read: it refuses what goes beyond them, and
//! the Deployment says so. Here is only what can be known before pods are asked for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use verdigris_core::rollout::slots::{Amount, Grant};

use super::resource::PodsSpec;

/// What quotas limit without saying whether they mean requests.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What the quotas of a namespace leave of what one pod asks for.
pub(crate) async fn grants(quotas: &Api<ResourceQuota>, pods: &PodsSpec) -> Vec<Grant> {
    let found = quotas.list(&ListParams::default()).await;
    let found = found.inspect_err(|error| tracing::debug!("quotas cannot be read: {error}"));
    let found = found.map(|list| list.items).unwrap_or_default();
    found.iter().flat_map(|quota| of_quota(quota, pods)).collect()
}

fn of_quota(quota: &ResourceQuota, pods: &PodsSpec) -> Vec<Grant> {
    let spec = quota.spec.clone().unwrap_or_default();
    let is_scoped = spec.scope_selector.is_some() || spec.scopes.is_some_and(|scopes| !scopes.is_empty());
    let status = quota.status.clone().unwrap_or_default();
    let used = status.used.unwrap_or_default();
    let hard = status.hard.or(spec.hard).filter(|_| !is_scoped).unwrap_or_default();
    let grants = hard.iter().filter_map(|(resource, hard)| {
        let used = used.get(resource).and_then(amount).unwrap_or(Amount(0));
        Some(Grant {
            quota: quota.name_any(),
            resource: resource.clone(),
            left: Amount(amount(hard)?.0 - used.0),
            per_pod: per_pod(pods, resource)?,
        })
    });
    grants.collect()
}

/// What one pod asks of a resource, by the name that it has in quotas.
fn per_pod(pods: &PodsSpec, resource: &str) -> Option<Amount> {
    if matches!(resource, "pods" | "count/pods") {
        return Some(Amount(1_000));
    }
    let given = pods.resources.as_ref()?;
    let (requests, limits) = (given.requests.as_ref(), given.limits.as_ref());
    let of = |all: Option<&BTreeMap<String, Quantity>>, name: &str| all.and_then(|all| all.get(name)).and_then(amount);
    if let Some(name) = resource.strip_prefix("limits.") {
        return of(limits, name);
    }
    let name = resource.strip_prefix("requests.");
    let name = name.or(Some(resource).filter(|name| PLAIN.contains(name)))?;
    // A limit without a request is one.
    of(requests, name).or_else(|| of(limits, name))
}

/// A quantity as Kubernetes writes it; rounded up to a thousandth.
fn amount(quantity: &Quantity) -> Option<Amount> {
    let text = quantity.0.trim();
    let is_of_number = |c: char| c.is_ascii_digit() || "+-.".contains(c);
    let (number, suffix) = text.split_at(text.find(|c| !is_of_number(c)).unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let ten = |power: u32| 10_i128.checked_pow(power);
    let (times, over) = match suffix {
        "n" => (1, ten(6)?),
        "u" => (1, ten(3)?),
        "m" => (1, 1),
        "" => (ten(3)?, 1),
        "k" => (ten(6)?, 1),
        "M" => (ten(9)?, 1),
        "G" => (ten(12)?, 1),
        "T" => (ten(15)?, 1),
        "P" => (ten(18)?, 1),
        "E" => (ten(21)?, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match power + 3 {
                power @ 0.. => (ten(power.unsigned_abs())?, 1),
                power => (1, ten(power.unsigned_abs())?),
            }
        }
    };
    let over = ten(u32::try_from(fraction.len()).ok()?)?.checked_mul(over)?;
    let scaled = digits.checked_mul(times)?;
    Some(Amount(
        scaled.div_euclid(over) + i128::from(scaled.rem_euclid(over) > 0),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let check = |text: &str, expect: Option<i128>| {
            let found = amount(&Quantity(text.to_owned()));
            assert_eq!(found.map(|amount| amount.0), expect, "{text}");
        };
        check("2", Some(2_000));
        check("250m", Some(250));
        check("0.5", Some(500));
        check("1.5Gi", Some(1_536 * 1_024 * 1_024 * 1_000));
        check("4G", Some(4_000_000_000_000));
        check("12e3", Some(12_000_000));
        check("1E", Some(1_000_000_000_000_000_000_000));
        check("100n", Some(1));
        check("1e-2", Some(10));
        check("much", None);
        check("", None);
    }

    #[test]
    fn a_quota_leaves_what_is_hard_less_what_is_used_of_what_pods_ask_for() {
        let pods: PodsSpec = serde_json::from_value(json!({
            "resources": {"limits": {"memory": "4Gi", "cpu": 2}, "requests": {"cpu": "500m"}},
        }))
        .unwrap();
        let quota = |scopes: serde_json::Value| -> ResourceQuota {
            serde_json::from_value(json!({
                "metadata": {"name": "team"}, "spec": {"scopes": scopes},
                "status": {
                    "hard": {
                        "pods": "10", "requests.memory": "16Gi", "cpu": "4", "limits.cpu": "3", "secrets": "5",
                        "requests.nvidia.com/gpu": "1",
                    },
                    "used": {"pods": "4", "requests.memory": "9Gi", "cpu": "1500m"},
                },
            }))
            .unwrap()
        };
        let told: Vec<String> = of_quota(&quota(json!([])), &pods)
            .iter()
            .map(|grant| format!("{} {} of {}", grant.resource, grant.per_pod, grant.left))
            .collect();
        let expected = [
            "cpu 500m of 2500m",
            "limits.cpu 2 of 3",
            "pods 1 of 6",
            "requests.memory 4Gi of 7Gi",
        ];
        assert_eq!(told, expected);
        assert_eq!(of_quota(&quota(json!(["BestEffort"])), &pods), []);
    }
}
