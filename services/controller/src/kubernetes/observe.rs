//! What is seen of the cluster: read from the API each time, never from a cache, so that what is decided is decided by
//! what is; and each object's version, so that what is written is written to what was seen.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::{Pod, PodCondition, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use verdigris_core::manifest::LineageId;
use verdigris_core::rollout::slots::{
    ALL_LINEAGES, Grant, PodReport, PodSeen, Slot, SlotSeen, Target, TargetId, Traffic, Widened, Wish,
};
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::search::Pod as Said;

use super::pods::Pods;
use super::resource::Collection;
use super::{names, quota};

/// The APIs of one namespace.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) deployments: Api<Deployment>,
    pub(crate) services: Api<Service>,
    pods: Api<Pod>,
    slices: Api<EndpointSlice>,
    quotas: Api<ResourceQuota>,
}

impl Cluster {
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            deployments: Api::namespaced(client.clone(), namespace),
            services: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            slices: Api::namespaced(client.clone(), namespace),
            quotas: Api::namespaced(client.clone(), namespace),
        }
    }
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Looked {
    pub(crate) blue: Place,
    pub(crate) green: Place,
    pub(crate) traffic: Option<Traffic>,
    pub(crate) grants: Vec<Grant>,
    /// Version of the active Service.
    pub(crate) version: Option<String>,
    /// Who holds pods without a lineage of their own, and since when.
    pub(crate) held: Option<(Wish, Timestamp)>,
    /// Collections that are open in the pod that has the most of them open.
    pub(crate) open: u64,
}

/// A slot, its Deployment's version, and where its pods are.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) seen: SlotSeen,
    pub(crate) version: Option<String>,
    /// Name, address, and what was answered since its start.
    pub(crate) pods: Vec<PodPlace>,
}

/// Where a pod is.
pub(crate) struct PodPlace {
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) answered: Option<u64>,
    /// Collections that it has open.
    pub(crate) open: u64,
}

impl Looked {
    pub(crate) fn place(&self, slot: Slot) -> &Place {
        match slot {
            Slot::Blue => &self.blue,
            Slot::Green => &self.green,
        }
    }

    pub(crate) fn place_mut(&mut self, slot: Slot) -> &mut Place {
        match slot {
            Slot::Blue => &mut self.blue,
            Slot::Green => &mut self.green,
        }
    }
}

/// Looks at everything of a Collection, whose name in the store is `collection`: that of all where it is a prefix.
pub(crate) async fn look(
    cluster: &Cluster,
    pods: &dyn Pods,
    of: &Collection,
    collection: &str,
) -> Result<Looked, kube::Error> {
    let name = &of.name_any();
    let ours = ListParams::default().labels(&format!("{}={name}", names::COLLECTION));
    let slices = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let (blue, green) = (
        names::deployment(name, Slot::Blue),
        names::deployment(name, Slot::Green),
    );
    let preview = names::preview(name);
    let (blue, green, active, preview, all, slices) = futures::try_join!(
        cluster.deployments.get_opt(&blue),
        cluster.deployments.get_opt(&green),
        cluster.services.get_opt(name),
        cluster.services.get_opt(&preview),
        cluster.pods.list(&ours),
        cluster.slices.list(&slices),
    )?;
    let of_slot = |slot: Slot| -> Vec<&Pod> {
        let is_of = |pod: &&Pod| pod.labels().get(names::SLOT).map(String::as_str) == Some(slot.name());
        all.items.iter().filter(is_of).collect()
    };
    let (blues, greens) = (of_slot(Slot::Blue), of_slot(Slot::Green));
    let (blue, green, grants) = futures::join!(
        place(blue.as_ref(), &blues, pods, collection),
        place(green.as_ref(), &greens, pods, collection),
        quota::grants(&cluster.quotas, &of.spec.pods),
    );
    let version = active.as_ref().and_then(ResourceExt::resource_version);
    let preview = preview.as_ref().and_then(selected);
    let held = active.as_ref().and_then(held);
    let places = blue.pods.iter().chain(&green.pods);
    let open = places.map(|pod| pod.open).max().unwrap_or(0);
    Ok(Looked {
        blue,
        green,
        traffic: active.map(|active| traffic(&active, preview, &slices.items)),
        grants,
        version,
        held,
        open,
    })
}

async fn place(deployment: Option<&Deployment>, all: &[&Pod], pods: &dyn Pods, collection: &str) -> Place {
    let mut place = Place::default();
    let Some(deployment) = deployment else { return place };
    let note = |key: &str| deployment.annotations().get(key).cloned();
    let status = deployment.status.clone().unwrap_or_default();
    let target = note(names::LINEAGE).zip(note(names::TEMPLATE));
    let target = target.map(|(lineage, template)| Target {
        lineage: lineage.into(),
        template: template.into(),
    });
    let approved = note(names::APPROVED);
    let approved = approved.as_deref().and_then(|text| text.split_once(' '));
    let id = target.as_ref().map(|target| target.id().to_string());
    let left = all.iter().filter(|pod| is_running(pod)).count() as u32;
    let spec = &deployment.spec;
    place.version = deployment.resource_version();
    place.seen = SlotSeen {
        approved_by: approved
            .filter(|(of, _)| Some(*of) == id.as_deref())
            .map(|(_, by)| by.to_owned()),
        target,
        since: note(names::SINCE).map_or(Timestamp(0), |text| Timestamp::parse(&text).unwrap_or_default()),
        refused: refused(&status),
        replicas: spec.replicas.unwrap_or(1).max(0) as u32,
        is_settled: status.observed_generation >= deployment.metadata.generation,
        pods_left: left.max(status.replicas.unwrap_or(0).max(0) as u32),
        epoch: note(names::EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0),
        pods: Vec::new(),
    };
    let asked = all.iter().filter(|pod| is_running(pod)).map(|pod| async move {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let said = match &address {
            Some(address) => Some(pods.get(address).await),
            None => None,
        };
        (*pod, address, said)
    });
    for (pod, address, said) in join_all(asked).await {
        let said = said.and_then(|said| {
            let told = |why: &String| tracing::debug!(pod = pod.name_any(), "a pod does not answer: {why}");
            said.inspect_err(told).ok()
        });
        let target = pod.labels().get(names::TARGET).cloned().unwrap_or_default();
        place.pods.push(PodPlace {
            name: pod.name_any(),
            address,
            answered: said.as_ref().map(|said| said.answered),
            open: said.as_ref().map_or(0, |said| said.open_collections),
        });
        place.seen.pods.push(PodSeen {
            name: pod.name_any(),
            target: target.into(),
            is_ready: is_ready(pod),
            unplaced: unplaced(pod),
            report: said.map(|said| report(&said, collection)),
        });
    }
    place
}

/// Neither on its way out nor at its end.
fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let ready = condition(pod, "Ready");
    ready.is_some_and(|condition| condition.status == "True")
}

fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Since when no node has room for it, and why, as the scheduler says it.
fn unplaced(pod: &Pod) -> Option<(Timestamp, String)> {
    let placed = condition(pod, "PodScheduled")?;
    let is_unplaced = placed.status == "False" && placed.reason.as_deref() == Some("Unschedulable");
    let since = placed.last_transition_time.as_ref().filter(|_| is_unplaced)?;
    let since = Timestamp::parse(&since.0.to_string()).unwrap_or_default();
    Some((since, placed.message.clone().unwrap_or_default()))
}

/// Why a Deployment makes no more pods, such as a quota or a policy.
fn refused(status: &DeploymentStatus) -> Option<String> {
    let mut conditions = status.conditions.iter().flatten();
    let failure = conditions.find(|condition| {
        condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True")
    })?;
    Some(failure.message.clone().unwrap_or_default())
}

/// A process that opens what is asked for: ready when it says so, whatever it has open. Of its answers it tells how many
/// there were and how many failed.
fn report_of_process(said: &Said) -> PodReport {
    PodReport {
        lineage: ALL_LINEAGES.to_owned().into(),
        generation: 0,
        is_warm: said.ready,
        problem: Some(said.not_ready_reason.clone()).filter(|why| !said.ready && !why.is_empty()),
        is_demoted: said.demoted,
        requests: said.answered,
        errors: said.failed,
        p50_ms: 0.0,
        p99_ms: 0.0,
    }
}

fn report(said: &Said, collection: &str) -> PodReport {
    if collection == ALL_LINEAGES {
        return report_of_process(said);
    }
    let open = said.collections.iter().find(|open| open.collection == collection);
    let problem = open
        .map(|open| open.problem.clone())
        .filter(|problem| !problem.is_empty());
    let why = said.not_ready_reason.clone();
    let why = Some(why).filter(|why| !said.ready && !why.is_empty());
    let lineage = open.map_or(&said.lineage, |open| &open.lineage);
    PodReport {
        lineage: LineageId::from(lineage.clone()),
        generation: open.map_or(0, |open| open.generation),
        is_warm: said.ready && open.is_some_and(|open| open.warm),
        problem: problem.or(why),
        is_demoted: said.demoted,
        requests: open.map_or(0, |open| open.window_answered),
        errors: open.map_or(0, |open| open.window_failed),
        p50_ms: open.map_or(0.0, |open| open.window_p50_milliseconds),
        p99_ms: open.map_or(0.0, |open| open.window_p99_milliseconds),
    }
}

fn selected(service: &Service) -> Option<TargetId> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    let target = selector.get(names::TARGET).filter(|target| *target != names::NO_TARGET);
    target.cloned().map(Into::into)
}

fn traffic(active: &Service, preview: Option<TargetId>, slices: &[EndpointSlice]) -> Traffic {
    let note = |key: &str| active.annotations().get(key).cloned();
    let time = |key: &str| note(key).map_or(Timestamp(0), |text| Timestamp::parse(&text).unwrap_or_default());
    let widened = note(names::WIDENED).map(|target| Widened {
        target: target.into(),
        percent: note(names::PERCENT).and_then(|text| text.parse().ok()).unwrap_or(0),
        since: time(names::WIDENED_SINCE),
    });
    Traffic {
        target: selected(active).or_else(|| note(names::SELECTED).map(Into::into)),
        since: time(names::SINCE),
        widened,
        previous: note(names::PREVIOUS).map(Into::into),
        returned_from: note(names::RETURNED_FROM).map(Into::into),
        preview,
        endpoints: endpoints(slices),
        epoch: note(names::EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0),
    }
}

/// What [`names::HELD`] says.
fn held(active: &Service) -> Option<(Wish, Timestamp)> {
    let text = active.annotations().get(names::HELD)?;
    let held: serde_json::Value = serde_json::from_str(text).ok()?;
    let of = |key: &str| held[key].as_str().unwrap_or_default().to_owned();
    let (actor, reason) = (of("actor"), of("reason"));
    Some((
        Wish { actor, reason },
        Timestamp::parse(&of("since")).unwrap_or_default(),
    ))
}

/// Names of the pods that get requests.
fn endpoints(slices: &[EndpointSlice]) -> BTreeSet<String> {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = all.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    ready
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone())
        .collect()
}
