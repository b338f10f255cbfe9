//! The controller on Kubernetes: one resource kind, `Collection`, and what it takes to move traffic from one slot of pods
//! to another without a failed request.
//!
//! `reconcile` looks at the cluster, the pods and the pointer, asks `core::rollout::slots` what to do, and carries it
//! out; it keeps nothing that it could not find again. Every write to a Deployment or to the active Service names the
//! version that was seen, so that an earlier controller that wakes up late changes nothing.
//! With a prefix, `tenants` owns the lineages of many collections in the same pods, which swap in place.
//! Deliberately absent: the chart.

mod act;
mod claim;
mod command;
mod lease;
mod names;
mod obey;
mod observe;
pub mod plugin;
mod pods;
mod quota;
mod reconcile;
mod render;
#[expect(clippy::duplicated_attributes, reason = "each printer column has a name and a type")]
pub mod resource;
mod status;
mod tenant_status;
mod tenant_words;
mod tenants;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::runtime::{Controller, controller::Config};
use kube::{Api, Client, CustomResourceExt, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;
use verdigris_runtime::clock::Clock;
use verdigris_store::Store;

pub use self::lease::LeaseOptions;
pub use self::pods::{GrpcPods, Pods};
use self::reconcile::Memories;
use self::resource::{Collection, StoreSpec};
use crate::metrics::ControllerMetrics;

/// How many Collections are looked after at the same time.
const AT_ONCE: u16 = 16;
/// How long looks that are under way may take to end.
const END: Duration = Duration::from_secs(10);
/// How often each collection of a prefix is looked at: a thousand of them are some tens of requests a second.
pub const TENANTS_EVERY: Duration = Duration::from_secs(30);

/// Opens the store of a Collection; what went wrong in words.
pub type OpenStore = Arc<dyn Fn(StoreSpec) -> BoxFuture<'static, Result<Arc<dyn Store>, String>> + Send + Sync>;

/// Why the controller ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The API refused or did not answer.
    #[error("the Kubernetes API")]
    Api(#[from] kube::Error),
    /// Another controller holds the lease now.
    #[error("the lease {0} was lost")]
    LeaseLost(String),
}

/// What the controller works with.
pub struct KubernetesDeps {
    /// The cluster.
    pub client: Client,
    /// The namespace that is looked after; all where none is given.
    pub namespace: Option<String>,
    /// How to open stores.
    pub open_store: OpenStore,
    /// How to ask pods.
    pub pods: Arc<dyn Pods>,
    /// Time.
    pub clock: Clock,
    /// Who leads; without it this controller takes it that there is no other.
    pub lease: Option<LeaseOptions>,
    /// Figures.
    pub metrics: ControllerMetrics,
    /// How often each collection of a prefix is looked at that has no candidate: [`TENANTS_EVERY`] outside of tests.
    pub tenants_every: Duration,
    /// Name of this process, in events and in the lease.
    pub identity: String,
}

/// What reconciling shares.
pub(crate) struct Context {
    pub(crate) deps: KubernetesDeps,
    pub(crate) recorder: Recorder,
    pub(crate) memories: Memories,
}

/// Looks after every Collection until the token is cancelled.
pub async fn run(deps: KubernetesDeps, token: CancellationToken) -> Result<(), KubernetesError> {
    let lease = match &deps.lease {
        Some(options) => {
            let lease = lease::acquire(&deps, options, &token).await?;
            Some((lease, options.name.clone()))
        }
        None => None,
    };
    if token.is_cancelled() {
        return Ok(());
    }
    let (client, metrics) = (deps.client.clone(), deps.metrics.clone());
    metrics.leads(true);
    let namespace = deps.namespace.clone();
    let reporter = Reporter {
        controller: "verdigris".to_owned(),
        instance: Some(deps.identity.clone()),
    };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        deps,
        memories: Memories::default(),
    });
    let stop = CancellationToken::new();
    let controlling = control(client, namespace.as_deref(), context, stop.clone());
    tokio::pin!(controlling);
    let watched = async {
        match &lease {
            Some((lease, _)) => lease.hold(&token).await,
            None => token.cancelled().await,
        }
    };
    // Either arm may be dropped at any await: a half written step is found again by looking.
    tokio::select! {
        () = &mut controlling => {}
        () = watched => {
            metrics.leads(false);
            if let (Some((_, name)), false) = (&lease, token.is_cancelled()) {
                return Err(KubernetesError::LeaseLost(name.clone()));
            }
            stop.cancel();
            if tokio::time::timeout(END, &mut controlling).await.is_err() {
                tracing::warn!("a look at a Collection did not end in time");
            }
        }
    }
    // Nobody else works before this one has ended.
    if let Some((lease, _)) = &lease {
        lease.let_go().await;
    }
    Ok(())
}

async fn control(client: Client, namespace: Option<&str>, context: Arc<Context>, stop: CancellationToken) {
    let collections: Api<Collection> = api(&client, namespace);
    let (deployments, services): (Api<Deployment>, Api<Service>) = (api(&client, namespace), api(&client, namespace));
    let (pods, slices): (Api<Pod>, Api<EndpointSlice>) = (api(&client, namespace), api(&client, namespace));
    let ours = watcher::Config::default().labels(names::COLLECTION);
    Controller::new(collections, watcher::Config::default())
        .with_config(Config::default().concurrency(AT_ONCE))
        .owns(deployments, ours.clone())
        .owns(services, ours.clone())
        .watches(pods, ours.clone(), |pod| collection_of(&pod))
        .watches(slices, ours, |slice| collection_of(&slice))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile::reconcile, reconcile::after_error, context)
        .for_each(|result| async {
            if let Err(error) = result {
                tracing::debug!("a Collection is looked at again: {error}");
            }
        })
        .await;
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The Collection whose label an object has.
fn collection_of<K: ResourceExt>(object: &K) -> Option<ObjectRef<Collection>> {
    let name = object.labels().get(names::COLLECTION)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// A client for the cluster that this process runs in, or that the kubeconfig names.
pub async fn client() -> Result<Client, KubernetesError> {
    Ok(Client::try_default().await?)
}

/// The resource definition as YAML, for `kubectl apply`.
pub fn crd_yaml() -> String {
    let mut value = serde_json::to_value(Collection::crd()).expect("a definition has only text keys");
    // A status of the definition itself is the server's.
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    shorten(&mut value);
    yaml::text(&value)
}

/// Takes out what Kubernetes says of quantities at each place where one stands: pages.
fn shorten(value: &mut serde_json::Value) {
    if let Some(map) = value.as_object_mut() {
        if map.contains_key("x-kubernetes-int-or-string") {
            map.remove("description");
        }
        map.values_mut().for_each(shorten);
    } else if let Some(values) = value.as_array_mut() {
        values.iter_mut().for_each(shorten);
    }
}

/// Labels or annotations.
pub(crate) type Texts = BTreeMap<String, String>;
