//! Who leads: one Lease, held by renewing it. What makes two leaders harmless is not this but the epoch on every
//! object; the lease only keeps them from working at cross purposes.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use verdigris_core::timestamp::Timestamp;
use verdigris_runtime::clock::Clock;

use super::KubernetesDeps;

/// How long a lease holds after it was renewed.
const HOLDS_SECONDS: i32 = 15;
/// How often it is renewed: twice may fail.
const RENEW: Duration = Duration::from_secs(5);
/// When its holder ends if it could not be renewed: before anybody else may take it.
const GIVE_UP: Duration = Duration::from_secs(12);
/// How often one that is held is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where the Lease is.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A lease that is held.
pub(crate) struct Held {
    leases: Api<Lease>,
    name: String,
    identity: String,
    clock: Clock,
}

/// Waits until the lease is ours, or the token is cancelled.
pub(crate) async fn acquire(
    deps: &KubernetesDeps,
    options: &LeaseOptions,
    token: &CancellationToken,
) -> Result<Held, kube::Error> {
    let held = Held::new(&deps.client, options, &deps.identity, &deps.clock);
    let mut seen: Option<(String, tokio::time::Instant)> = None;
    loop {
        match held.take(&mut seen).await {
            Ok(true) => {
                tracing::info!(lease = options.name, "this controller leads");
                return Ok(held);
            }
            Ok(false) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => tracing::warn!("the lease cannot be taken: {error}"),
        }
        tokio::select! {
            () = token.cancelled() => return Ok(held),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Held {
    fn new(client: &Client, options: &LeaseOptions, identity: &str, clock: &Clock) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), &options.namespace),
            name: options.name.clone(),
            identity: identity.to_owned(),
            clock: clock.clone(),
        }
    }

    /// Takes the lease where it is free, ours, or was not renewed for its time as we saw it: no clock is compared.
    async fn take(&self, seen: &mut Option<(String, tokio::time::Instant)>) -> Result<bool, kube::Error> {
        let now = Timestamp(self.clock.now_ns()).to_string();
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let first = self.lease(None, &now, &now, 0);
            self.leases.create(&PostParams::default(), &first).await?;
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let is_free = holder.is_empty() || holder == self.identity;
        if !is_free {
            let known = version.clone().unwrap_or_default();
            let holds =
                Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(HOLDS_SECONDS)).unwrap_or(15));
            match seen {
                Some((before, since)) if *before == known && since.elapsed() >= holds => {}
                Some((before, _)) if *before == known => return Ok(false),
                _ => {
                    *seen = Some((known, tokio::time::Instant::now()));
                    return Ok(false);
                }
            }
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(holder != self.identity);
        let next = self.lease(version, &now, &now, transitions);
        self.leases.replace(&self.name, &PostParams::default(), &next).await?;
        Ok(true)
    }

    fn lease(&self, version: Option<String>, acquired: &str, renewed: &str, transitions: i32) -> Lease {
        // A Lease has microseconds.
        let micro = |text: &str| {
            let at = Timestamp::parse(text).unwrap_or_default().0;
            Timestamp(at - at.rem_euclid(1_000)).to_string()
        };
        let mut object = json!({
            "metadata": {"name": self.name},
            "spec": {
                "holderIdentity": self.identity, "leaseDurationSeconds": HOLDS_SECONDS,
                "acquireTime": micro(acquired), "renewTime": micro(renewed), "leaseTransitions": transitions,
            },
        });
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        serde_json::from_value(object).expect("a lease as the API has it")
    }

    /// Renews until the token is cancelled; returns before that where the lease was lost.
    pub(crate) async fn hold(&self, token: &CancellationToken) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RENEW) => {}
            }
            match self.renew().await {
                Ok(true) => renewed = tokio::time::Instant::now(),
                Ok(false) => return tracing::error!(lease = self.name, "another controller holds the lease"),
                Err(error) if renewed.elapsed() >= GIVE_UP => {
                    return tracing::error!(lease = self.name, "the lease cannot be renewed: {error}");
                }
                Err(error) => tracing::warn!(lease = self.name, "the lease could not be renewed: {error}"),
            }
        }
    }

    /// False where somebody else holds it.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = tokio::time::timeout(RENEW, self.leases.get(&self.name)).await;
        let Ok(lease) = lease else { return Err(late()) };
        let lease = lease?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(false);
        }
        let acquired = spec.acquire_time.map_or_else(String::new, |time| time.0.to_string());
        let now = Timestamp(self.clock.now_ns()).to_string();
        let transitions = spec.lease_transitions.unwrap_or(0);
        let next = self.lease(lease.metadata.resource_version, &acquired, &now, transitions);
        let params = PostParams::default();
        let replaced = tokio::time::timeout(RENEW, self.leases.replace(&self.name, &params, &next)).await;
        replaced.map_err(|_| late())??;
        Ok(true)
    }

    /// Lets another have it at once.
    pub(crate) async fn let_go(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await else {
            return;
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        else {
            return;
        };
        spec.holder_identity = None;
        // Where this fails the lease runs out by itself.
        let _ = self.leases.replace(&self.name, &PostParams::default(), &lease).await;
    }
}

fn late() -> kube::Error {
    kube::Error::Service("no answer in time".into())
}
