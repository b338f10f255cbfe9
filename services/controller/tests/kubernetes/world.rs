//! One Collection with its store, its platform and its controllers, and what is asked of them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verdigris_controller::kubernetes::plugin::{Command, Plugin};
use verdigris_controller::kubernetes::resource::{Collection, CollectionStatus, CommandStatus, StoreSpec};
use verdigris_controller::kubernetes::{self, GrpcPods, KubernetesDeps, LeaseOptions, OpenStore};
use verdigris_controller::metrics::ControllerMetrics;
use verdigris_core::gates::Gate;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::Pointer;
use verdigris_runtime::clock::Clock;
use verdigris_store::memory::MemoryStore;
use verdigris_store::{Store, commit};

use crate::cluster::Platform;
use crate::indexer::Indexer;
use crate::search::Processes;

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "products";

pub(crate) struct World {
    client: Client,
    namespace: String,
    store: Arc<MemoryStore>,
    indexer: Indexer,
    processes: Arc<Processes>,
    platform: Platform,
    registry: Registry,
    kubeconfig: PathBuf,
    metrics: ControllerMetrics,
    clock: Clock,
    tasks: Vec<JoinHandle<()>>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

pub(crate) struct Running {
    token: CancellationToken,
    task: JoinHandle<Result<(), kubernetes::KubernetesError>>,
}

impl World {
    pub(crate) async fn new(client: Client, namespace: &str, kubeconfig: PathBuf) -> Self {
        let of: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::all(client.clone())
            .create(&PostParams::default(), &of)
            .await
            .unwrap();
        let (store, processes) = (Arc::new(MemoryStore::default()), Arc::new(Processes::new()));
        let name: CollectionName = NAME.parse().unwrap();
        let platform = Platform::new(&client, namespace, processes.clone(), store.clone(), name);
        let broken: Arc<Mutex<Option<String>>> = Arc::default();
        let registry = Registry::new();
        let watching = platform.clone().watch(NAME.to_owned(), broken.clone());
        let tasks = vec![tokio::spawn(platform.clone().run()), tokio::spawn(watching)];
        Self {
            client,
            namespace: namespace.to_owned(),
            indexer: Indexer::new(store.clone(), NAME),
            store,
            processes,
            platform,
            metrics: ControllerMetrics::register(&registry).unwrap(),
            registry,
            kubeconfig,
            clock: Clock::system(),
            tasks,
            broken,
        }
    }

    fn api(&self) -> Api<Collection> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// For programs that find the cluster by one.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// The indexer of another collection in the same store.
    pub(crate) fn indexer_of(&self, name: &str) -> Indexer {
        Indexer::new(self.store.clone(), name)
    }

    // === the indexer's side ===

    pub(crate) async fn publish_first(&self, lineage: &str) {
        self.indexer.publish_first(lineage).await;
    }

    pub(crate) async fn publish_candidate(&self, lineage: &str) {
        self.indexer.publish_candidate(lineage).await;
    }

    /// The same, once the place beside is free; controllers come and go meanwhile.
    pub(crate) async fn publish_second_candidate(&self, lineage: &str) {
        let mut life = Duration::from_millis(500);
        while self.pointer().await.other.is_some() {
            self.live_for(life).await;
            life = (life * 2).min(Duration::from_secs(20));
        }
        self.publish_candidate(lineage).await;
    }

    pub(crate) async fn pointer(&self) -> Pointer {
        self.indexer.pointer().await
    }

    // === controllers ===

    fn deps(&self, identity: &str, lease: Option<LeaseOptions>) -> KubernetesDeps {
        let store: Arc<dyn Store> = self.store.clone();
        let open_store: OpenStore = Arc::new(move |_: StoreSpec| {
            let store = store.clone();
            Box::pin(async move { Ok(store) })
        });
        KubernetesDeps {
            client: self.client.clone(),
            namespace: Some(self.namespace.clone()),
            open_store,
            pods: Arc::new(GrpcPods::new(self.processes.port)),
            clock: self.clock.clone(),
            lease,
            metrics: self.metrics.clone(),
            tenants_every: Duration::from_secs(1),
            identity: identity.to_owned(),
        }
    }

    fn run(&self, deps: KubernetesDeps) -> Running {
        let token = CancellationToken::new();
        Running {
            task: tokio::spawn(kubernetes::run(deps, token.clone())),
            token,
        }
    }

    pub(crate) fn start_controller(&self, identity: &str) -> Running {
        self.run(self.deps(identity, None))
    }

    pub(crate) fn start_leading(&self, identity: &str) -> Running {
        let lease = LeaseOptions {
            namespace: self.namespace.clone(),
            name: "controller".to_owned(),
        };
        self.run(self.deps(identity, Some(lease)))
    }

    pub(crate) async fn stop(&self, running: Running) {
        running.token.cancel();
        running.task.await.unwrap().unwrap();
        self.check();
    }

    /// A controller that begins and ends without a goodbye.
    async fn live_for(&self, life: Duration) {
        let running = self.start_controller("killed");
        tokio::time::sleep(life).await;
        running.task.abort();
        let _ = running.task.await;
        self.check();
    }

    /// Controllers of longer and longer lives, each killed, until a lineage answers.
    pub(crate) async fn until_active_with_kills(&self, lineage: &str) {
        self.until_with_kills(&format!("{lineage} answers"), async |world| {
            world.selected_lineage().await.as_deref() == Some(lineage)
        })
        .await;
    }

    /// The same until something is so.
    pub(crate) async fn until_with_kills(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let (began, mut life) = (Instant::now(), Duration::from_millis(150));
        while !is_so(self).await {
            assert!(
                began.elapsed() < PATIENCE,
                "it never came about that {what}: {:?}",
                self.status().await
            );
            self.live_for(life).await;
            life = (life + life / 4).min(Duration::from_secs(10));
        }
    }

    /// Somebody else who writes to the same objects all the time.
    pub(crate) fn meddle(&self) -> JoinHandle<()> {
        let platform = self.platform.clone();
        tokio::spawn(async move {
            for turn in 0_u64.. {
                let patch = json!({"metadata": {"annotations": {"example.org/turn": turn.to_string()}}});
                for name in ["products-blue", "products-green"] {
                    let _ = platform
                        .deployments
                        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                        .await;
                }
                let _ = platform
                    .services
                    .patch(NAME, &PatchParams::default(), &Patch::Merge(&patch))
                    .await;
                // Each annotation makes a new generation, which must be observed before the next for anything to go on.
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
        })
    }

    pub(crate) async fn leader(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.get_opt("controller").await.unwrap()?.spec?.holder_identity
    }

    // === the user's side ===

    /// Applies a Collection with gates but recall off, and these fields of its rollout.
    pub(crate) async fn apply(&self, rollout: Value) {
        self.apply_to(json!({"name": NAME}), rollout).await.unwrap();
    }

    /// The same of these collections.
    pub(crate) async fn apply_to(&self, collections: Value, rollout: Value) -> Result<(), kube::Error> {
        let off: Vec<&str> = Gate::ALL
            .iter()
            .map(|gate| gate.name())
            .filter(|name| *name != "recall")
            .collect();
        let mut given = json!({"gates": {"off": off}});
        for (key, value) in rollout.as_object().unwrap() {
            given[key] = value.clone();
        }
        let collection = json!({
            "apiVersion": "verdigris.dev/v1alpha1", "kind": "Collection", "metadata": {"name": NAME},
            "spec": {
                "store": {"url": "s3://catalog/prod"}, "collections": collections, "image": "vdg.test/search:1",
                "pods": {"replicas": 2, "resources": {"requests": {"memory": "1Gi", "cpu": 1}}}, "rollout": given,
            },
        });
        let params = PatchParams::apply("user");
        let applied = self.api().patch(NAME, &params, &Patch::Apply(collection)).await;
        applied.map(drop)
    }

    /// Changes fields of its rollout.
    pub(crate) async fn set_rollout(&self, rollout: Value) {
        let patch = Patch::Merge(json!({"spec": {"rollout": rollout}}));
        self.api().patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn set_image(&self, image: &str) {
        let patch = Patch::Merge(json!({"spec": {"image": image}}));
        self.api().patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    }

    /// What the pods of this namespace may have together, and what they are said to have now. Its controller is no part
    /// of this API; what is used is counted up by the API itself, and never down.
    pub(crate) async fn quota(&self, name: &str, scopes: &[&str], hard: Value, used: Value) {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}});
        let (params, mut spec) = (PatchParams::apply("user").force(), json!({"hard": hard}));
        if !scopes.is_empty() {
            spec["scopes"] = json!(scopes);
        }
        quota["spec"] = spec;
        quotas.patch(name, &params, &Patch::Apply(&quota)).await.unwrap();
        let status = Patch::Merge(json!({"status": {"hard": hard, "used": used}}));
        quotas
            .patch_status(name, &PatchParams::default(), &status)
            .await
            .unwrap();
    }

    /// As an autoscaler or `kubectl scale` does it.
    pub(crate) async fn scale(&self, replicas: i32) {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api()
            .patch_scale(NAME, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self) {
        self.broken_watch_ends();
        self.api().delete(NAME, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn is_gone(&self) -> bool {
        self.api().get_opt(NAME).await.unwrap().is_none()
    }

    /// Nothing is deleted by this API: a garbage collector is no part of it. The owners say what would be.
    fn broken_watch_ends(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    pub(crate) async fn check_owned(&self) {
        let collection = self.api().get(NAME).await.unwrap();
        assert_eq!(collection.finalizers(), ["verdigris.dev/pointer"]);
        let uid = collection.uid().unwrap();
        let deployment = self.platform.deployments.get("products-blue").await.unwrap();
        assert_eq!(deployment.owner_references()[0].uid, uid);
        for name in ["products", "products-preview"] {
            let service = self.platform.services.get(name).await.unwrap();
            assert_eq!(service.owner_references()[0].uid, uid, "{name}");
        }
    }

    /// Asks as `kubectl verdigris` does.
    pub(crate) async fn command(&self, verb: &str, target: &str, generation: Option<u64>) -> CommandStatus {
        self.ask(json!({"verb": verb, "target": target, "generation": generation}))
            .await
    }

    /// The same with whatever else a command may have.
    pub(crate) async fn ask(&self, mut command: Value) -> CommandStatus {
        command["id"] = json!(commit::nonce());
        command["actor"] = json!("ada");
        command["reason"] = json!("because");
        let command: Command = serde_json::from_value(command).unwrap();
        let plugin = Plugin::new(self.client.clone(), &self.namespace);
        plugin.ask(NAME, &command, PATIENCE).await.unwrap()
    }

    pub(crate) async fn status(&self) -> CollectionStatus {
        self.api().get(NAME).await.unwrap().status.unwrap_or_default()
    }

    // === what is waited for ===

    fn check(&self) {
        assert_eq!(*self.broken.lock().unwrap(), None);
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self).await {
            self.check();
            if began.elapsed() > PATIENCE {
                let status = self
                    .api()
                    .get_opt(NAME)
                    .await
                    .unwrap()
                    .and_then(|collection| collection.status);
                panic!("it never came about that {what}: {status:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.check();
    }

    pub(crate) async fn until_active(&self, lineage: &str) {
        self.until(&format!("lineage {lineage} answers"), async |world| {
            let is_told = world.status().await.lineage.as_deref() == Some(lineage);
            is_told && world.selected_lineage().await.as_deref() == Some(lineage)
        })
        .await;
    }

    pub(crate) async fn until_phase(&self, phase: &str) {
        self.until(&format!("the phase is {phase}"), async |world| {
            world.status().await.phase == phase
        })
        .await;
    }

    pub(crate) async fn until_condition(&self, kind: &str, status: &str) {
        self.until(&format!("{kind} is {status}"), async |world| {
            let conditions = world.status().await.conditions;
            conditions
                .iter()
                .any(|condition| condition.kind == kind && condition.status == status)
        })
        .await;
    }

    pub(crate) async fn until_said(&self, kind: &str, text: &str) {
        self.until(&format!("{kind} says {text:?}"), async |world| {
            let conditions = world.status().await.conditions;
            let of = conditions.iter().filter(|condition| condition.kind == kind);
            of.map(|condition| &condition.message)
                .any(|message| message.contains(text))
        })
        .await;
    }

    pub(crate) async fn until_events(&self, reasons: &[&str]) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        self.until(&format!("events tell of {reasons:?}"), async |_| {
            let told = events.list(&ListParams::default()).await.unwrap().items;
            let told: Vec<String> = told.into_iter().filter_map(|event| event.reason).collect();
            reasons.iter().all(|reason| told.iter().any(|told| told == reason))
        })
        .await;
    }

    /// A series of `/metrics`; none where it is not there.
    pub(crate) fn figure(&self, series: &str) -> Option<f64> {
        let text = verdigris_runtime::metrics::text(&self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    pub(crate) async fn until_figure(&self, series: &str, value: Option<f64>) {
        self.until(&format!("{series} is {value:?}"), async |world| {
            world.figure(series) == value
        })
        .await;
    }

    /// Lineages of the pods that the active Service sends to, each once, in their order.
    pub(crate) async fn lineages_sent_to(&self) -> Vec<String> {
        let names = self.platform.sent_to(NAME).await;
        let pods = self.platform.pods.list(&ListParams::default()).await.unwrap().items;
        let of = pods.iter().filter(|pod| names.contains(&pod.name_any()));
        let lineages: BTreeSet<String> = of.map(lineage).collect();
        lineages.into_iter().collect()
    }

    pub(crate) fn fail(&self, lineage: &str) {
        self.processes.fail(lineage);
    }

    pub(crate) fn shares(&self, lineage: &str) -> Vec<f64> {
        self.processes.shares(lineage)
    }

    /// What the active Service selects, as its pods say.
    async fn selected_lineage(&self) -> Option<String> {
        self.selected_pods().await?.first().map(lineage)
    }

    async fn selected_pods(&self) -> Option<Vec<k8s_openapi::api::core::v1::Pod>> {
        let service = self.platform.services.get_opt(NAME).await.unwrap()?;
        let selector = service.spec?.selector?;
        let mut pods = self.platform.pods.list(&ListParams::default()).await.unwrap().items;
        pods.retain(|pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)));
        Some(pods)
    }

    /// Image of the pods that are selected.
    pub(crate) async fn image(&self) -> Option<String> {
        let pods = self.selected_pods().await?;
        pods.first()?.spec.as_ref()?.containers[0].image.clone()
    }

    pub(crate) async fn pods(&self) -> usize {
        self.platform
            .pods
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
    }

    pub(crate) async fn pods_of(&self, of: &str) -> usize {
        let pods = self.platform.pods.list(&ListParams::default()).await.unwrap().items;
        pods.iter().filter(|pod| lineage(pod) == of).count()
    }

    pub(crate) async fn target_of(&self, lineage: &str) -> String {
        let slots = self.status().await.slots;
        let slot = slots.into_iter().find(|slot| slot.lineage.as_deref() == Some(lineage));
        slot.and_then(|slot| slot.target).expect("a slot holds it")
    }

    pub(crate) fn demoted(&self, lineage: &str) -> usize {
        self.processes.demoted(lineage)
    }
}

fn lineage(pod: &k8s_openapi::api::core::v1::Pod) -> String {
    let container = pod.spec.iter().flat_map(|spec| &spec.containers);
    let variables = container.flat_map(|container| container.env.clone().unwrap_or_default());
    let mut lineages = variables.filter(|variable| variable.name == "VERDIGRIS_SEARCH_LINEAGE");
    lineages.find_map(|variable| variable.value).unwrap_or_default()
}
