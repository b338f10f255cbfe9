//! A Collection with a prefix: many small collections in the same pods, each with a pointer of its own.
//!
//! Image and settings of the pods are rolled out as any other's. The lineages of each tenant are owned by the same
//! [`Owner`](crate::owner::Owner) that a controller without Kubernetes has, which asks the pods of the active slot; they
//! swap in place. What an earlier controller had in hand is refused by an epoch in the Collection's status: it is raised
//! by a write that names the version that was seen, so that no two controllers have the same, and is written on every
//! object before anything is decided by it. Each pointer has an epoch of its own beside it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::slots::Seen as SeenOfSlots;
use verdigris_core::rollout::{OtherSeen, ServingWindow, Spec};
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::search::PodCollection;
use verdigris_runtime::shutdown::{Ended, Tasks};
use verdigris_store::Store;

use super::claim::with;
use super::command::{Answer, Command};
use super::observe::Looked;
use super::pods::Pods;
use super::reconcile::{Memory, ReconcileError};
use super::resource::{Collection, CollectionStatus, RolloutSpec};
use super::{Context, names, tenant_status, tenant_words};
use crate::{Controller, ControllerDeps, Pace, Scope, Searchers, Seen, Wants, window_of};

/// For how long a person waits for a word about a tenant.
const ASK: Duration = Duration::from_secs(30);

/// The owners of a prefix's tenants. Their work ends when this is dropped.
pub(crate) struct Tenants {
    controller: Arc<Controller>,
    prefix: String,
    wanted: watch::Sender<RolloutSpec>,
    /// Addresses of the pods that answer.
    addresses: watch::Sender<Vec<String>>,
    tasks: Tasks,
    ended: mpsc::UnboundedReceiver<Ended>,
    /// The newest command about a tenant, by its id, and what is said to it.
    asked: Option<(String, Asked)>,
}

enum Asked {
    Going(JoinHandle<Answer>),
    Said(Answer),
}

impl Drop for Tenants {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

/// The epoch of this controller in a Collection's status; none where it was just taken, and all is to be looked at again.
pub(crate) async fn epoch(
    api: &Api<Collection>,
    collection: &Collection,
    memory: &mut Memory,
) -> Result<Option<u64>, ReconcileError> {
    let status = collection.status.as_ref();
    let noted = status.and_then(|status| status.controller_epoch).unwrap_or(0);
    let noted = u64::try_from(noted).unwrap_or(0);
    match memory.epoch {
        Some(epoch) if epoch == noted => return Ok(Some(epoch)),
        Some(epoch) if epoch < noted => {
            memory.is_lost = true;
            memory.tenants = None;
            return Err(ReconcileError::Superseded);
        }
        // Where it is lower the status was wiped.
        _ => {}
    }
    let epoch = memory.epoch.unwrap_or(0).max(noted) + 1;
    let patch = json!({
        "metadata": {"resourceVersion": collection.resource_version()}, "status": {"controllerEpoch": epoch},
    });
    let params = PatchParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api
        .patch_status(&collection.name_any(), &params, &Patch::Merge(patch))
        .await
    {
        Ok(_) => memory.epoch = Some(epoch),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(None)
}

/// Begins to own the tenants where that is not done yet, and tells their owners what is wanted and who answers.
pub(crate) async fn tend(
    memory: &mut Memory,
    (context, collection): (&Context, &Collection),
    (store, prefix): (&Arc<dyn Store>, &str),
    looked: &Looked,
    seen: &SeenOfSlots,
) -> Result<(), ReconcileError> {
    if let Some(tenants) = &mut memory.tenants {
        if let Ok(ended) = tenants.ended.try_recv() {
            // Whatever it was about is begun anew.
            tracing::error!("{ended}");
            memory.tenants = None;
        } else if tenants.prefix != prefix || !Arc::ptr_eq(&tenants.controller.deps().store, store) {
            memory.tenants = None;
        }
    }
    if memory.tenants.is_none() {
        memory.tenants = Some(Tenants::begin(context, collection, store, prefix).await?);
    }
    let Some(tenants) = &memory.tenants else { return Ok(()) };
    tenants
        .wanted
        .send_if_modified(|wanted| replace(wanted, &collection.spec.rollout));
    let active = seen.selected();
    let ready = active.into_iter().flat_map(|slot| {
        let pods = &seen.slot(slot).pods;
        let is_ready = |name: &str| pods.iter().any(|pod| pod.name == name && pod.is_ready);
        looked
            .place(slot)
            .pods
            .iter()
            .filter(move |place| is_ready(&place.name))
    });
    let addresses: Vec<String> = ready.filter_map(|place| place.address.clone()).collect();
    tenants.addresses.send_if_modified(|known| replace(known, &addresses));
    Ok(())
}

fn replace<T: Clone + PartialEq>(known: &mut T, new: &T) -> bool {
    let is_new = known != new;
    if is_new {
        known.clone_from(new);
    }
    is_new
}

impl Tenants {
    async fn begin(
        context: &Context,
        collection: &Collection,
        store: &Arc<dyn Store>,
        prefix: &str,
    ) -> Result<Self, ReconcileError> {
        let (wanted, wants) = watch::channel(collection.spec.rollout.clone());
        let (addresses, of_pods) = watch::channel(Vec::new());
        let (tasks, ended) = Tasks::new();
        let deps = ControllerDeps {
            store: store.clone(),
            searchers: Arc::new(InPods {
                pods: context.deps.pods.clone(),
                addresses: of_pods,
            }),
            clock: context.deps.clock.clone(),
            metrics: context.deps.metrics.clone(),
            id: format!("controller/{}/{}", names::namespace(collection), collection.name_any()),
            scope: Scope {
                prefix: prefix.to_owned(),
                pace: Pace::far(context.deps.tenants_every),
                counted_as: Some(collection.name_any()),
                take_over: collection.spec.rollout.take_over,
                wants: Arc::new(move |spec| wanted_of(spec, &wants.borrow())),
            },
        };
        let controller = Controller::start(deps, tasks.clone()).await;
        let controller = controller.map_err(|error| ReconcileError::Store(crate::shown::chain(&error)))?;
        Ok(Self {
            controller,
            prefix: prefix.to_owned(),
            wanted,
            addresses,
            tasks,
            ended,
            asked: None,
        })
    }

    /// What is said to a command about a tenant, which may take a few looks.
    pub(crate) async fn ask(&mut self, command: &Command) -> Answer {
        if self.asked.as_ref().is_none_or(|(id, _)| *id != command.id) {
            let (controller, command) = (self.controller.clone(), command.clone());
            let id = command.id.clone();
            let asking = async move {
                let said = tokio::time::timeout(ASK, tenant_words::say(&controller, &command)).await;
                said.unwrap_or_else(|_| Answer::Refused("it did not come about in time".to_owned()))
            };
            self.asked = Some((id, Asked::Going(tokio::spawn(asking))));
        }
        let Some((_, asked)) = &mut self.asked else {
            return Answer::Pending(String::new());
        };
        if let Asked::Going(going) = asked {
            if !going.is_finished() {
                return Answer::Pending("its owner is asked".to_owned());
            }
            let said = going.await.unwrap_or_else(|error| Answer::Refused(error.to_string()));
            *asked = Asked::Said(said);
        }
        match asked {
            Asked::Said(answer) => answer.clone(),
            Asked::Going(_) => Answer::Pending(String::new()),
        }
    }

    /// Adds how the tenants stand.
    pub(crate) fn tell(&self, status: &mut CollectionStatus, context: &Context, collection: &Collection, open: u64) {
        let now = Timestamp(context.deps.clock.now_ns());
        let told = tenant_status::of(&self.controller, open);
        context.deps.metrics.tenants(&collection.name_any(), &told);
        tenant_status::degrade(status, &told, collection, now);
        status.tenants = Some(told);
    }
}

/// The settings of a tenant with what the Collection says instead. What it says wrongly was told already.
fn wanted_of(spec: Spec, given: &RolloutSpec) -> Wants {
    Wants {
        spec: with(spec.clone(), given).unwrap_or(spec),
        is_paused: given.paused,
    }
}

/// The pods of the active slot, as the owner of a tenant's rollouts sees them.
struct InPods {
    pods: Arc<dyn Pods>,
    addresses: watch::Receiver<Vec<String>>,
}

impl InPods {
    fn addresses(&self) -> Vec<String> {
        self.addresses.borrow().clone()
    }

    /// Both lineages of each pod that has it open; one that does not answer has nothing open, as far as anybody knows.
    async fn open(&self, name: &CollectionName) -> Vec<Vec<PodCollection>> {
        let addresses = self.addresses();
        let asked = addresses
            .iter()
            .map(|address| self.pods.of(address, name.as_str(), false));
        let told = join_all(asked).await.into_iter().filter_map(Result::ok);
        let mut open: Vec<Vec<PodCollection>> = told.map(|pod| pod.collections).collect();
        open.retain(|lineages| !lineages.is_empty());
        open
    }

    /// The pod that opens a tenant which nobody has open, and measures it: another one for another tenant.
    fn of(&self, name: &CollectionName) -> Option<String> {
        let addresses = self.addresses();
        let sum = name
            .as_str()
            .bytes()
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        addresses.get(sum.checked_rem(addresses.len())?).cloned()
    }
}

#[async_trait]
impl Searchers for InPods {
    /// Pods that have it open must have both lineages; one that has it closed is no obstacle. Where none has, one opens it.
    async fn seen(&self, name: &CollectionName) -> Seen {
        let mut open = self.open(name).await;
        if open.is_empty()
            && let Some(address) = self.of(name)
        {
            match self.pods.of(&address, name.as_str(), true).await {
                Ok(pod) => open.push(pod.collections),
                Err(why) => tracing::warn!(collection = %name, "no pod opens it: {why}"),
            }
        }
        seen(&open)
    }

    async fn seen_if_open(&self, name: &CollectionName) -> Seen {
        seen(&self.open(name).await)
    }

    async fn measure(
        &self,
        name: &CollectionName,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, String> {
        let address = self.of(name).ok_or("no pod answers yet")?;
        self.pods.measure(&address, name.as_str(), lineage, generation).await
    }
}

/// What pods say together: of each the active lineage first, then the other.
fn seen(pods: &[Vec<PodCollection>]) -> Seen {
    let active: Vec<&PodCollection> = pods.iter().filter_map(|lineages| lineages.first()).collect();
    let others: Vec<Option<&PodCollection>> = pods.iter().map(|lineages| lineages.get(1)).collect();
    let before: Vec<&PodCollection> = others.iter().flatten().copied().collect();
    Seen {
        other: other(&others),
        window: window(&active),
        window_before: window(&before),
    }
}

fn other(pods: &[Option<&PodCollection>]) -> OtherSeen {
    let Some(Some(first)) = pods.first() else {
        return OtherSeen::NotOpen;
    };
    let lineage = LineageId::from(first.lineage.clone());
    if let Some(broken) = pods.iter().flatten().find(|pod| !pod.problem.is_empty()) {
        let why = broken.problem.clone();
        return OtherSeen::Refused { lineage, why };
    }
    let open = |pod: &Option<&PodCollection>| {
        pod.filter(|pod| pod.lineage == first.lineage && pod.generation > 0)
            .map(|pod| pod.generation)
    };
    let generations: Option<Vec<u64>> = pods.iter().map(open).collect();
    match generations.and_then(|generations| generations.into_iter().min()) {
        Some(generation) => OtherSeen::Ready { lineage, generation },
        None => OtherSeen::NotOpen,
    }
}

/// What was answered of the lineage that the first of them has.
fn window(pods: &[&PodCollection]) -> Option<ServingWindow> {
    let lineage = &pods.first()?.lineage;
    let of = pods.iter().filter(|pod| pod.lineage == *lineage);
    let windows: Vec<ServingWindow> = of.map(|pod| window_of(pod)).collect();
    ServingWindow::together(&windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(lineage: &str, generation: u64, answered: u64) -> PodCollection {
        PodCollection {
            lineage: lineage.to_owned(),
            generation,
            window_answered: answered,
            window_p50_milliseconds: answered as f64,
            ..PodCollection::default()
        }
    }

    #[test]
    fn a_candidate_is_ready_where_all_pods_that_have_the_tenant_open_have_it_open() {
        let check = |pods: &[Vec<PodCollection>], expect: Option<u64>| {
            let ready = match seen(pods).other {
                OtherSeen::Ready { lineage, generation } if lineage.as_str() == "b" => Some(generation),
                _ => None,
            };
            assert_eq!(ready, expect, "{pods:?}");
        };
        let both = |generation| vec![pod("a", 5, 0), pod("b", generation, 0)];
        check(&[], None);
        check(&[both(5)], Some(5));
        check(&[both(5), both(4)], Some(4));
        check(&[both(5), both(0)], None);
        check(&[both(5), vec![pod("a", 5, 0)]], None);
        let mut broken = both(5);
        broken[1].problem = "DATA_DAMAGED: a flipped bit".to_owned();
        assert!(matches!(seen(&[both(5), broken]).other, OtherSeen::Refused { .. }));
    }

    #[test]
    fn what_pods_answered_is_added_up() {
        let window = seen(&[vec![pod("a", 5, 10)], vec![pod("a", 5, 30)], vec![pod("a", 5, 0)]]).window;
        let window = window.expect("there were answers");
        assert_eq!((window.requests, window.p50_ms), (40, 25.0));
        assert_eq!(seen(&[vec![pod("a", 5, 0)]]).window, None);
    }
}
