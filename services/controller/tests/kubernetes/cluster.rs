//! What a kubelet and the controllers of Deployments and EndpointSlices would do, written through the real API; and the
//! watcher of I-6.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use verdigris_core::names::CollectionName;
use verdigris_store::Store;

use crate::search::Processes;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(40);
const SLOT: &str = "verdigris.dev/slot";
const TARGET: &str = "verdigris.dev/target";
const SELECTED: &str = "verdigris.dev/selected-target";

/// The platform under one Collection.
#[derive(Clone)]
pub(crate) struct Platform {
    pub(crate) deployments: Api<Deployment>,
    pub(crate) services: Api<Service>,
    pub(crate) pods: Api<Pod>,
    slices: Api<EndpointSlice>,
    processes: Arc<Processes>,
    store: Arc<dyn Store>,
    name: CollectionName,
    made: Arc<Mutex<u32>>,
}

impl Platform {
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        processes: Arc<Processes>,
        store: Arc<dyn Store>,
        name: CollectionName,
    ) -> Self {
        Self {
            deployments: Api::namespaced(client.clone(), namespace),
            services: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            slices: Api::namespaced(client.clone(), namespace),
            processes,
            store,
            name,
            made: Arc::default(),
        }
    }

    /// Works until it is aborted; what the API refuses is tried again, as the real ones do.
    pub(crate) async fn run(self) {
        loop {
            if let Err(error) = self.settle().await {
                println!("the platform tries again: {error}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn settle(&self) -> Result<(), kube::Error> {
        for deployment in self.deployments.list(&ListParams::default()).await? {
            self.roll(&deployment).await?;
        }
        let services = self.services.list(&ListParams::default()).await?;
        let pods = self.pods.list(&ListParams::default()).await?;
        for service in services {
            self.slice(&service, &pods.items).await?;
        }
        Ok(())
    }

    async fn roll(&self, deployment: &Deployment) -> Result<(), kube::Error> {
        let spec = &deployment.spec;
        let template = spec
            .template
            .metadata
            .as_ref()
            .and_then(|meta| meta.labels.clone())
            .unwrap_or_default();
        let slot = template.get(SLOT).cloned().unwrap_or_default();
        let ours = ListParams::default().labels(&format!("{SLOT}={slot}"));
        let mut there = self.pods.list(&ours).await?.items;
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let is_of = |pod: &Pod| pod.labels().get(TARGET) == template.get(TARGET);
        let (mut keep, gone): (Vec<Pod>, Vec<Pod>) = there.drain(..).partition(is_of);
        let surplus = keep.split_off(keep.len().min(wanted));
        let gone: Vec<Pod> = gone.into_iter().chain(surplus).collect();
        for pod in &gone {
            let now = DeleteParams::default().grace_period(0);
            self.processes.end(&pod.name_any());
            self.pods.delete(&pod.name_any(), &now).await?;
        }
        if gone.is_empty() {
            let mut refused = None;
            for _ in keep.len()..wanted {
                match self.make_pod(deployment).await {
                    Err(kube::Error::Api(status)) if status.code == 403 => refused = Some(status.message),
                    made => made?,
                }
            }
            self.tell_refused(deployment, refused).await?;
        }
        for pod in keep
            .iter()
            .filter(|pod| pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none()))
        {
            self.run_pod(pod).await?;
        }
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": keep.len() + gone.len(),
        }});
        let differs = deployment.status.as_ref().is_none_or(|known| {
            known.observed_generation != deployment.metadata.generation
                || known.replicas.unwrap_or(0) as usize != keep.len() + gone.len()
        });
        if differs {
            let name = deployment.name_any();
            self.deployments
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                .await?;
        }
        Ok(())
    }

    /// As the controller of Deployments says that pods are not made.
    async fn tell_refused(&self, deployment: &Deployment, message: Option<String>) -> Result<(), kube::Error> {
        let status = deployment.status.as_ref();
        let known = status.is_some_and(|status| status.conditions.iter().flatten().next().is_some());
        if known == message.is_some() {
            return Ok(());
        }
        let condition = message.map(
            |message| json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}),
        );
        let status = json!({"status": {"conditions": condition.into_iter().collect::<Vec<_>>()}});
        let (name, patch) = (deployment.name_any(), Patch::Merge(status));
        self.deployments
            .patch_status(&name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    async fn make_pod(&self, deployment: &Deployment) -> Result<(), kube::Error> {
        let number = {
            let mut made = self.made.lock().unwrap();
            *made += 1;
            *made
        };
        let template = &deployment.spec.template;
        let pod = json!({
            "metadata": {
                "name": format!("{}-{number}", deployment.name_any()),
                "labels": template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            },
            "spec": template.spec,
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    /// Its process starts and says that it is ready, unless its image is broken, or no node has room for it.
    async fn run_pod(&self, pod: &Pod) -> Result<(), kube::Error> {
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        if container.image.as_ref().is_some_and(|image| image.ends_with(":broken")) {
            return Ok(());
        }
        if container.image.as_ref().is_some_and(|image| image.ends_with(":huge")) {
            return self.leave_pending(pod).await;
        }
        let environment = container.env.clone().unwrap_or_default();
        let lineage = environment
            .into_iter()
            .find(|variable| variable.name == "VERDIGRIS_SEARCH_LINEAGE");
        // Those of a prefix follow none.
        let lineage = lineage.and_then(|variable| variable.value).unwrap_or_default();
        let name = pod.name_any();
        let address = self
            .processes
            .start(&name, &lineage, self.store.clone(), &self.name)
            .await
            .to_string();
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }});
        self.pods
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
        Ok(())
    }

    /// As the scheduler says it, and has said for long.
    async fn leave_pending(&self, pod: &Pod) -> Result<(), kube::Error> {
        if pod.status.as_ref().is_some_and(|status| status.conditions.is_some()) {
            return Ok(());
        }
        let status = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient memory.", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let (name, patch) = (pod.name_any(), Patch::Merge(status));
        self.pods.patch_status(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn slice(&self, service: &Service, pods: &[Pod]) -> Result<(), kube::Error> {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default();
        let is_selected = |pod: &&Pod| {
            !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        };
        let ready = pods.iter().filter(is_selected).filter(|pod| is_ready(pod));
        let endpoints: Vec<Value> = ready
            .enumerate()
            .map(|(number, pod)| {
                json!({
                    "addresses": [format!("198.18.0.{}", number + 1)], "conditions": {"ready": true},
                    "targetRef": {"kind": "Pod", "name": pod.name_any(), "namespace": pod.namespace()},
                })
            })
            .collect();
        let name = service.name_any();
        let mut labels = service.labels().clone();
        labels.insert("kubernetes.io/service-name".to_owned(), name.clone());
        let known = self.slices.get_opt(&name).await?;
        let names = |slice: &EndpointSlice| -> Vec<Option<String>> {
            let targets = slice
                .endpoints
                .iter()
                .flatten()
                .map(|endpoint| endpoint.target_ref.as_ref());
            targets
                .map(|target| target.and_then(|target| target.name.clone()))
                .collect()
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [],
        });
        let wanted: EndpointSlice = serde_json::from_value(slice.clone()).expect("a slice");
        if known.is_some_and(|known| names(&known) == names(&wanted)) {
            return Ok(());
        }
        let params = PatchParams::apply("platform").force();
        self.slices.patch(&name, &params, &Patch::Apply(slice)).await?;
        Ok(())
    }

    /// Names of the pods that a Service sends to.
    pub(crate) async fn sent_to(&self, service: &str) -> Vec<String> {
        let slice = self.slices.get_opt(service).await.unwrap();
        let endpoints = slice.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
        endpoints.filter_map(|endpoint| endpoint.target_ref?.name).collect()
    }

    /// Looks until it is aborted; what breaks I-6 is kept.
    pub(crate) async fn watch(self, service: String, broken: Arc<Mutex<Option<String>>>) {
        let mut was_selected = false;
        loop {
            match self.look(&service).await {
                Ok(Some(problem)) if problem.is_empty() => was_selected = true,
                Ok(Some(problem)) => *broken.lock().unwrap() = Some(problem),
                Ok(None) if was_selected => *broken.lock().unwrap() = Some("I-8: nothing is selected".to_owned()),
                Ok(None) | Err(_) => {}
            }
            tokio::time::sleep(LOOK / 4).await;
        }
    }

    /// None where nothing is selected; else what is wrong, in words or none.
    async fn look(&self, name: &str) -> Result<Option<String>, kube::Error> {
        let target = |service: &Service| {
            let selector = service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.clone())
                .unwrap_or_default();
            let target = selector.get(TARGET).cloned();
            // Where it selects both slots, it says which one it selected alone before.
            let target = target.or_else(|| service.annotations().get(SELECTED).cloned());
            target.filter(|target| target != "none")
        };
        let Some(service) = self.services.get_opt(name).await? else {
            return Ok(None);
        };
        let Some(selected) = target(&service) else {
            return Ok(None);
        };
        let pods = self
            .pods
            .list(&ListParams::default().labels(&format!("{TARGET}={selected}")))
            .await?;
        let after = self.services.get(name).await?;
        let is_same = target(&after).as_ref() == Some(&selected);
        let is_ready = pods.items.iter().any(is_ready);
        match is_ready || !is_same {
            true => Ok(Some(String::new())),
            false => Ok(Some(format!("I-6: no pod of {selected} is ready"))),
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let is_ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}
