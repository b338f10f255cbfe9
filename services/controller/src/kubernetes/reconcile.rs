//! One look at one Collection: see, ask what to do, do it, and say how it stands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::controller::Action as Requeue;
use kube::runtime::events::EventType;
use kube::runtime::finalizer::{Event, finalizer};
use kube::{Api, ResourceExt};
use tokio::task::JoinHandle;
use verdigris_core::gates::{Measurements, judge};
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Pointer};
use verdigris_core::rollout::slots::{self, ALL_LINEAGES, Action, Plan, Seen, Spec, Steps, TargetId, pods_alone};
use verdigris_core::rollout::{Observation, Phase};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{CommitError, ReadError, Store, collection as objects, commit};

use super::act::{Hand, Went};
use super::claim::{Claimed, claim, with};
use super::command::Answer;
use super::obey::obey;
use super::observe::{Cluster, Looked, look};
use super::resource::{Collection, CollectionStatus, StoreSpec};
use super::tenants::{self, Tenants};
use super::{Context, names, render, status};
use crate::metrics::ControllerMetrics;
use crate::verdicts;

/// How soon is looked again: after something was done, while a lineage comes level, while something is about to
/// happen, and else.
const AT_ONCE: Duration = Duration::from_millis(5);
const LEVELING: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_millis(300);
const ELSE: Duration = Duration::from_secs(2);
/// After something that did not do.
const RETRY: Duration = Duration::from_secs(1);

/// What is remembered of a Collection. All of it may be forgotten at any time.
#[derive(Default)]
pub(crate) struct Memory {
    store: Option<(StoreSpec, Arc<dyn Store>)>,
    /// What the epoch was claimed on.
    which: Option<Which>,
    pub(crate) epoch: Option<u64>,
    /// Another owner took over: this process never claims again by itself.
    pub(crate) is_lost: bool,
    pub(crate) observation: Observation,
    of: Option<LineageId>,
    pub(crate) measuring: Option<JoinHandle<Result<Measurements, String>>>,
    /// The owners of the collections of a prefix.
    pub(crate) tenants: Option<Tenants>,
    /// What pods have answered, and since when that is so.
    answered: BTreeMap<String, u64>,
    quiet_since: Option<Timestamp>,
    pub(crate) demoted_at: Option<Timestamp>,
    /// The newest move of traffic, until the cluster has followed it.
    pub(crate) moved: Option<Moved>,
    /// Since when a command is known.
    pub(crate) command: Option<(String, Timestamp)>,
}

/// A move of traffic that this process made.
pub(crate) struct Moved {
    pub(crate) target: TargetId,
    /// Promote or return.
    pub(crate) kind: &'static str,
    pub(crate) at: Timestamp,
}

/// Namespace and name of a Collection.
type Key = (String, String);

/// A memory; one look at a time has it.
type Shared = Arc<tokio::sync::Mutex<Memory>>;

/// All memories.
#[derive(Default)]
pub(crate) struct Memories(Mutex<BTreeMap<Key, Shared>>);

impl Memories {
    fn of(&self, key: Key) -> Shared {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_default().clone()
    }

    fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error("the Kubernetes API")]
    Api(#[from] kube::Error),
    #[error("the pointer")]
    Commit(#[from] CommitError),
    #[error("the pointer")]
    Read(#[from] ReadError),
    #[error("the store cannot be opened: {0}")]
    Store(String),
    #[error("{0}")]
    Spec(String),
    #[error("another controller has a higher epoch; this one acts again after a restart")]
    Superseded,
    #[error("the finalizer")]
    Finalizer(#[source] Box<kube::runtime::finalizer::Error<ReconcileError>>),
}

impl ReconcileError {
    /// The reason in the condition Degraded.
    fn reason(&self) -> &'static str {
        self.names().0
    }

    /// The same in metrics.
    fn outcome(&self) -> &'static str {
        self.names().1
    }

    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Api(_) | Self::Finalizer(_) => ("ClusterUnavailable", "cluster_unavailable"),
            Self::Commit(CommitError::Refused(EditRefused::OwnedBy(_) | EditRefused::LostOwnership { .. })) => {
                ("OwnedByAnother", "owned_by_another")
            }
            Self::Superseded => ("OwnedByAnother", "owned_by_another"),
            Self::Read(ReadError::NoCollection(_)) | Self::Commit(CommitError::Read(ReadError::NoCollection(_))) => {
                ("NoCollection", "no_collection")
            }
            Self::Commit(_) | Self::Read(_) | Self::Store(_) => ("StoreUnavailable", "store_unavailable"),
            Self::Spec(_) => ("InvalidSpec", "invalid_spec"),
        }
    }
}

/// Looks at a Collection once.
pub(crate) async fn reconcile(collection: Arc<Collection>, context: Arc<Context>) -> Result<Requeue, ReconcileError> {
    let api: Api<Collection> = Api::namespaced(context.deps.client.clone(), &names::namespace(&collection));
    let looked = finalizer(&api, names::FINALIZER, collection, |event| {
        let (api, context) = (api.clone(), context.clone());
        async move {
            match event {
                Event::Apply(collection) => one(&api, &collection, &context).await,
                Event::Cleanup(collection) => let_go(&collection, &context).await,
            }
        }
    });
    looked.await.map_err(|error| match error {
        kube::runtime::finalizer::Error::ApplyFailed(error) => error,
        error => ReconcileError::Finalizer(Box::new(error)),
    })
}

/// When to look again after an error.
pub(crate) fn after_error(collection: Arc<Collection>, error: &ReconcileError, context: Arc<Context>) -> Requeue {
    context.deps.metrics.looked(error.outcome());
    tracing::warn!(collection = collection.name_any(), "{}", crate::shown::chain(error));
    Requeue::requeue(RETRY)
}

fn key(collection: &Collection) -> Key {
    (names::namespace(collection), collection.name_any())
}

/// The pointer is let go: nobody waits for a level that nobody wants.
async fn let_go(collection: &Collection, context: &Context) -> Result<Requeue, ReconcileError> {
    let memory = context.memories.of(key(collection));
    let memory = memory.lock().await;
    if let (Some((_, store)), Some(epoch)) = (&memory.store, memory.epoch)
        && let Ok(Which::One(name)) = which(collection)
    {
        let claimed = Claimed {
            store: store.clone(),
            name,
            epoch,
        };
        let now = Timestamp(context.deps.clock.now_ns());
        let swung = claimed.swing(commit::nonce(), |pointer, epoch, nonce| {
            pointer.stop_leveling(epoch, nonce, now)
        });
        // A store that is gone keeps no Collection: the indexer gives the level up by itself after a while.
        if let Err(error) = swung.await {
            tracing::warn!("the pointer was not let go: {}", crate::shown::chain(&error));
        }
    }
    drop(memory);
    context.memories.forget(&key(collection));
    context.deps.metrics.forget(&collection.name_any());
    Ok(Requeue::await_change())
}

async fn one(api: &Api<Collection>, known: &Collection, context: &Context) -> Result<Requeue, ReconcileError> {
    // What is watched may be old; what is decided is decided by what is.
    let Some(collection) = api.get_opt(&known.name_any()).await? else {
        return Ok(Requeue::await_change());
    };
    if collection.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::await_change());
    }
    let memory = context.memories.of(key(&collection));
    let mut memory = memory.lock().await;
    match step(api, &collection, context, &mut memory).await {
        Ok((requeue, told)) => {
            if let Some(told) = told {
                status::measure(&context.deps.metrics, &collection.name_any(), &told);
                status::write(api, &collection, told).await?;
            }
            context.deps.metrics.looked("done");
            Ok(Requeue::requeue(requeue))
        }
        Err(error) => {
            if matches!(
                &error,
                ReconcileError::Commit(CommitError::Refused(EditRefused::LostOwnership { .. }))
            ) {
                memory.is_lost = true;
            }
            let (now, text) = (Timestamp(context.deps.clock.now_ns()), crate::shown::chain(&error));
            let told = status::troubled(&collection, error.reason(), &text, now);
            context.deps.metrics.degraded(&collection.name_any(), true);
            status::write(api, &collection, told).await?;
            Err(error)
        }
    }
}

async fn step(
    api: &Api<Collection>,
    collection: &Collection,
    context: &Context,
    memory: &mut Memory,
) -> Result<(Duration, Option<CollectionStatus>), ReconcileError> {
    let Some(ground) = ground(api, collection, context, memory).await? else {
        return Ok((AT_ONCE, None));
    };
    let Ground {
        which,
        store,
        claimed,
        epoch,
    } = ground;
    let cluster = Cluster::new(&context.deps.client, &names::namespace(collection));
    let name = collection.name_any();
    let read = match &claimed {
        Some(claimed) => Some(objects::pointer(&*store, &claimed.name).await?.pointer),
        None => None,
    };
    let known_as = claimed.as_ref().map_or(ALL_LINEAGES, |claimed| claimed.name.as_str());
    let mut looked = look(&cluster, &*context.deps.pods, collection, known_as).await?;
    let held = looked.held.as_ref().map(|(wish, since)| (wish, *since));
    let pointer = read.unwrap_or_else(|| pods_alone(held));
    let spec = spec(collection, claimed.as_ref(), &pointer).await?;
    let now = Timestamp(context.deps.clock.now_ns());
    if let Some(claimed) = &claimed {
        observe(memory, claimed, &spec, &pointer, (context, collection), now).await?;
    }
    let mut seen = seen(&looked, memory, epoch, now);
    if let Which::Many(prefix) = &which {
        tenants::tend(memory, (context, collection), (&store, prefix), &looked, &seen).await?;
    }
    let open = looked.open;
    let mut hand = Hand {
        context,
        collection,
        cluster: &cluster,
        claimed: claimed.as_ref(),
        epoch,
        looked: &mut looked,
        now,
        phase: Phase::Empty,
    };
    let (answer, is_moved) = obey(&mut hand, memory, &pointer, &mut seen).await?;
    let mut plan = slots::plan(&spec, &pointer, &seen, now);
    let is_held = pointer.promotion_hold.is_some();
    context.deps.metrics.stands(&name, plan.phase, is_held);
    followed(&context.deps.metrics, &name, memory, &seen, now);
    if is_moved {
        // What was seen is not so any more.
        plan.actions.clear();
    }
    let mut told = status::status(collection, &pointer, &seen, &plan, now);
    if let Some(tenants) = &memory.tenants {
        tenants.tell(&mut told, context, collection, open);
    }
    let mut is_pending = false;
    if let Some((command, answer)) = &answer {
        is_pending = matches!(answer, Answer::Pending(_));
        status::answered(&mut told, command, answer);
    }
    hand.phase = plan.phase;
    for action in &plan.actions {
        tracing::debug!(collection = name, "{action:?}");
        if hand.carry_out(action, memory).await? == Went::Otherwise {
            break;
        }
    }
    let next = next_look(&plan, is_moved, now);
    Ok((if is_pending { next.min(SOON) } else { next }, Some(told)))
}

/// What this controller works on, and by which epoch.
struct Ground {
    which: Which,
    store: Arc<dyn Store>,
    /// The pointer; none where there are many.
    claimed: Option<Claimed>,
    epoch: u64,
}

/// None where an epoch was just taken, and all is to be looked at again.
async fn ground(
    api: &Api<Collection>,
    collection: &Collection,
    context: &Context,
    memory: &mut Memory,
) -> Result<Option<Ground>, ReconcileError> {
    let which = which(collection).map_err(ReconcileError::Spec)?;
    let store = opened(collection, context, memory, &which).await?;
    let (claimed, epoch) = match &which {
        Which::One(name) => {
            let claimed = claimed(collection, context, memory, (&store, name)).await?;
            let epoch = claimed.epoch;
            (Some(claimed), epoch)
        }
        Which::Many(_) => match tenants::epoch(api, collection, memory).await? {
            Some(epoch) => (None, epoch),
            None => return Ok(None),
        },
    };
    Ok(Some(Ground {
        which,
        store,
        claimed,
        epoch,
    }))
}

/// Notes how long the cluster took to follow the newest move of traffic that this process made.
fn followed(metrics: &ControllerMetrics, name: &str, memory: &mut Memory, seen: &Seen, now: Timestamp) {
    let target = seen.traffic.as_ref().and_then(|traffic| traffic.target.as_ref());
    let is_followed = |moved: &mut Moved| Some(&moved.target) == target && seen.is_followed();
    if let Some(moved) = memory.moved.take_if(is_followed) {
        let after = Duration::from_nanos(now.since(moved.at).max(0).unsigned_abs());
        metrics.followed(name, moved.kind, after);
    }
}

fn next_look(plan: &Plan, is_moved: bool, now: Timestamp) -> Duration {
    let is_done = |action: &Action| !matches!(action, Action::Demote(_) | Action::EndDemotion(_) | Action::Shed { .. });
    if is_moved || plan.actions.iter().any(is_done) {
        return AT_ONCE;
    }
    let look = match plan.phase {
        Phase::Leveling | Phase::Promoting | Phase::Returning => LEVELING,
        Phase::Warming | Phase::Judging | Phase::Baking => SOON,
        _ => ELSE,
    };
    let wake = plan
        .wake_at
        .map(|at| Duration::from_nanos(at.since(now).max(5_000_000).unsigned_abs()));
    wake.map_or(look, |wake| wake.min(look))
}

/// What a Collection is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// This collection.
    One(CollectionName),
    /// Those whose names begin so.
    Many(String),
}

fn which(collection: &Collection) -> Result<Which, String> {
    let given = &collection.spec.collections;
    match (&given.name, &given.prefix) {
        (Some(name), None) => {
            let name = name.parse().map_err(|error| format!("spec.collections.name: {error}"));
            name.map(Which::One)
        }
        (None, Some(prefix)) => match format!("{prefix}a").parse::<CollectionName>() {
            Ok(_) if !prefix.is_empty() => Ok(Which::Many(prefix.clone())),
            Ok(_) => Err("spec.collections.prefix is empty: every collection of the store would be meant".to_owned()),
            Err(error) => Err(format!("spec.collections.prefix: no name begins so: {error}")),
        },
        _ => Err("spec.collections: give either a name or a prefix".to_owned()),
    }
}

/// What is wanted.
async fn spec(collection: &Collection, claimed: Option<&Claimed>, pointer: &Pointer) -> Result<Spec, ReconcileError> {
    let given = &collection.spec.rollout;
    let rollout = match claimed {
        Some(claimed) => claimed.spec(pointer, given).await?,
        None => with(verdigris_core::rollout::Spec::default(), given),
    };
    let steps = Steps::new(given.steps.clone());
    Ok(Spec {
        rollout: rollout.map_err(ReconcileError::Spec)?,
        template: render::template(&collection.spec),
        replicas: u32::try_from(collection.spec.pods.replicas).unwrap_or(1),
        steps: steps.map_err(|error| ReconcileError::Spec(format!("spec.rollout.steps: {error}")))?,
        is_paused: given.paused,
    })
}

/// The store, opened once. Epochs are of what they were claimed on.
async fn opened(
    collection: &Collection,
    context: &Context,
    memory: &mut Memory,
    which: &Which,
) -> Result<Arc<dyn Store>, ReconcileError> {
    if memory.is_lost {
        let text = "another owner of rollouts took over; this controller acts again after a restart";
        return Err(ReconcileError::Spec(text.to_owned()));
    }
    let wanted = &collection.spec.store;
    if memory.store.as_ref().is_none_or(|(of, _)| of != wanted) {
        let store = (context.deps.open_store)(wanted.clone()).await;
        let store = store.map_err(ReconcileError::Store)?;
        memory.store = Some((wanted.clone(), store));
        memory.which = None;
    }
    if memory.which.as_ref() != Some(which) {
        memory.which = Some(which.clone());
        (memory.epoch, memory.tenants) = (None, None);
    }
    let Some((_, store)) = &memory.store else {
        return Err(ReconcileError::Store("it is closed".to_owned()));
    };
    Ok(store.clone())
}

/// The pointer, claimed once in the life of this process.
async fn claimed(
    collection: &Collection,
    context: &Context,
    memory: &mut Memory,
    (store, name): (&Arc<dyn Store>, &CollectionName),
) -> Result<Claimed, ReconcileError> {
    let epoch = match memory.epoch {
        Some(epoch) => epoch,
        None => {
            let id = format!("controller/{}/{}", names::namespace(collection), collection.name_any());
            let now = Timestamp(context.deps.clock.now_ns());
            claim(&**store, name, &id, collection.spec.rollout.take_over, now).await?
        }
    };
    memory.epoch = Some(epoch);
    Ok(Claimed {
        store: store.clone(),
        name: name.clone(),
        epoch,
    })
}

/// Takes what was measured, and forgets what was of another lineage.
async fn observe(
    memory: &mut Memory,
    claimed: &Claimed,
    spec: &Spec,
    pointer: &Pointer,
    (context, collection): (&Context, &Collection),
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let other = pointer.other.as_ref().map(|other| other.lineage.clone());
    if other != memory.of {
        if let Some(measuring) = memory.measuring.take() {
            measuring.abort();
        }
        memory.observation = Observation::default();
        if let Some(lineage) = &other {
            memory.observation.measured = verdicts::newest(&*claimed.store, &claimed.name, lineage).await?;
        }
        memory.of = other;
    }
    if pointer.leveling.is_none() {
        memory.observation.leveling_since = None;
    }
    let Some(measuring) = memory.measuring.take_if(|measuring| measuring.is_finished()) else {
        return Ok(());
    };
    match measuring.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(measured) => {
            let verdict = judge(&spec.rollout.gates, &measured);
            context.deps.metrics.judged(&collection.name_any(), &verdict);
            let nonce = commit::nonce();
            let written = verdicts::write(&*claimed.store, &claimed.name, &measured, &verdict, &nonce).await;
            written.map_err(CommitError::Store)?;
            let against: Vec<&str> = verdict.against().map(|gate| gate.gate.name()).collect();
            let (kind, reason, note) = match against.is_empty() {
                true => (EventType::Normal, "GatesPassed", "all gates passed".to_owned()),
                false => (
                    EventType::Warning,
                    "GatesRefused",
                    format!("gates speak against it: {}", against.join(", ")),
                ),
            };
            let note = format!(
                "lineage {} at generation {}: {note}",
                verdict.lineage, verdict.generation
            );
            status::tell(context, collection, kind, reason, note).await;
            memory.observation.measured = Some(measured);
        }
        Err(why) => {
            let note = format!("the candidate could not be measured: {why}");
            status::tell(context, collection, EventType::Warning, "NotMeasured", note).await;
            memory.observation.measuring.fail(now);
        }
    }
    Ok(())
}

fn seen(looked: &Looked, memory: &mut Memory, epoch: u64, now: Timestamp) -> Seen {
    let mut seen = Seen {
        blue: looked.blue.seen.clone(),
        green: looked.green.seen.clone(),
        traffic: looked.traffic.clone(),
        memory: Observation {
            is_measuring: memory.measuring.is_some(),
            ..memory.observation.clone()
        },
        wish: None,
        idle_quiet_since: None,
        demoted_at: memory.demoted_at,
        grants: looked.grants.clone(),
        epoch,
    };
    let idle = seen.selected().map(slots::Slot::other);
    let places = idle.into_iter().flat_map(|slot| &looked.place(slot).pods);
    let answered: BTreeMap<String, u64> = places
        .filter_map(|pod| Some((pod.name.clone(), pod.answered?)))
        .collect();
    if answered != memory.answered || memory.quiet_since.is_none() {
        memory.quiet_since = Some(now);
        memory.answered = answered;
    }
    seen.idle_quiet_since = memory.quiet_since;
    seen
}
