//! The owner of one collection's rollouts: a loop of observing, planning and carrying out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verdigris_core::gates::{Measurements, judge};
use verdigris_core::manifest::SettingsReference;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Pointer};
use verdigris_core::rollout::{Observation, Plan, ReturnWish, Spec, baseline, plan};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::collection::SeenPointer;
use verdigris_store::{CommitError, ReadError, collection as objects, commit};

use crate::{ControllerDeps, Owned, Seen, verdicts};

/// How often the pointer is looked at while there is another lineage, and while there is none.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_SELDOM: Duration = Duration::from_millis(500);
/// After an error.
const RETRY: Duration = Duration::from_secs(1);
/// Wishes that wait: people send them one at a time.
const WISHES_MAX: usize = 16;

/// How a rollout stands, for whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Sequence of the pointer that was looked at.
    pub(crate) sequence: u64,
    /// The newest plan; none before the first.
    pub(crate) plan: Option<Plan>,
    /// What the search role said.
    pub(crate) seen: Seen,
    /// The settings that bear on it.
    pub(crate) spec: Spec,
    /// Why this process does not act: another owns the rollouts, or the store does not answer.
    pub(crate) problem: Option<String>,
}

/// A person's wish that lives in memory.
pub(crate) enum Wish {
    /// Look at the pointer now.
    Look,
    /// Do not go back after all: whoever asked has gone.
    Withdraw,
    /// Go back to the way back.
    Return {
        wish: ReturnWish,
        /// Told when the wish is known.
        noted: oneshot::Sender<()>,
    },
}

/// Where wishes are sent.
pub(crate) type Wishes = mpsc::Sender<Wish>;

/// The owner of one collection's rollouts.
pub(crate) struct Owner {
    pub(crate) deps: Arc<ControllerDeps>,
    pub(crate) name: CollectionName,
    wishes: mpsc::Receiver<Wish>,
    standing: watch::Sender<Standing>,
    pub(crate) epoch: u64,
    pointer: Option<SeenPointer>,
    spec: Option<(SettingsReference, Spec)>,
    /// What is remembered of the other lineage; forgotten when another takes its place.
    pub(crate) memory: Observation,
    of: Option<verdigris_core::manifest::LineageId>,
    pub(crate) measuring: Option<JoinHandle<Result<Measurements, String>>>,
}

impl Owner {
    pub(crate) fn new(deps: Arc<ControllerDeps>, name: CollectionName) -> (Self, Owned) {
        let (sender, wishes) = mpsc::channel(WISHES_MAX);
        let (standing, watched) = watch::channel(Standing::default());
        let owner = Self {
            deps,
            name,
            wishes,
            standing,
            epoch: 0,
            pointer: None,
            spec: None,
            memory: Observation::default(),
            of: None,
            measuring: None,
        };
        let owned = Owned {
            wishes: sender,
            standing: watched,
        };
        (owner, owned)
    }

    /// Runs until the token is cancelled or the collection is gone.
    pub(crate) async fn run(mut self, token: &CancellationToken) {
        loop {
            let wait = match self.step().await {
                Ok(Some(wait)) => wait,
                Ok(None) => return,
                Err(error) => {
                    if !self.tell(&error) {
                        // Another took over: claiming again would only take it back and forth.
                        token.cancelled().await;
                        return;
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                wish = self.wishes.recv() => match wish {
                    Some(wish) => self.note(wish),
                    None => break,
                },
            }
        }
        if let Some(measuring) = self.measuring.take() {
            measuring.abort();
        }
    }

    /// Looks, plans and acts once; how long to wait then, none when the collection is gone.
    async fn step(&mut self) -> Result<Option<Duration>, CommitError> {
        if !self.see_pointer().await? {
            return Ok(None);
        }
        let Some(pointer) = self.pointer.as_ref().map(|seen| seen.pointer.clone()) else {
            return Ok(Some(LOOK_SELDOM));
        };
        if self.epoch == 0 && pointer.active.is_some() {
            self.claim().await?;
            return Ok(Some(Duration::ZERO));
        }
        let spec = self.spec(&pointer).await?;
        self.observe(&pointer).await?;
        let now = Timestamp(self.deps.clock.now_ns());
        let seen = self.deps.searchers.seen(&self.name).await;
        let measured = self.memory.measured.as_ref();
        let observation = Observation {
            other: seen.other.clone(),
            window: seen.window.clone(),
            baseline: baseline(seen.window_before.as_ref(), measured),
            is_measuring: self.measuring.is_some(),
            ..self.memory.clone()
        };
        let planned = plan(&spec, &pointer, &observation, now);
        self.deps
            .metrics
            .stands(self.name.as_str(), planned.phase, pointer.promotion_hold.is_some());
        let actions = planned.actions.clone();
        let wake_at = planned.wake_at;
        self.standing.send_replace(Standing {
            sequence: pointer.sequence,
            plan: Some(planned),
            seen,
            spec,
            problem: None,
        });
        for action in &actions {
            self.carry_out(action, now).await?;
        }
        if !actions.is_empty() {
            self.pointer = None;
            return Ok(Some(Duration::from_millis(1)));
        }
        let look = if pointer.other.is_some() { LOOK } else { LOOK_SELDOM };
        let wake = wake_at.map(|at| Duration::from_nanos(at.since(now).max(1_000_000) as u64));
        Ok(Some(wake.map_or(look, |wake| wake.min(look))))
    }

    /// Reads the pointer where it has moved; false when the collection is gone.
    async fn see_pointer(&mut self) -> Result<bool, CommitError> {
        let known = self.pointer.as_ref().map(|seen| &seen.tag);
        match objects::pointer_if_moved(&*self.deps.store, &self.name, known).await {
            Ok(None) => Ok(true),
            Ok(Some(seen)) => {
                let is_there = seen.pointer.deleted_at.is_none();
                self.pointer = Some(seen);
                Ok(is_there)
            }
            Err(ReadError::NoCollection(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn claim(&mut self) -> Result<(), CommitError> {
        let (nonce, now) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()));
        let id = self.deps.id.clone();
        let pointer = commit::swing(&*self.deps.store, &self.name, nonce.clone(), |pointer| {
            pointer.claim_rollouts(&id, false, nonce.clone(), now)
        })
        .await?;
        self.epoch = pointer.owner.map_or(0, |owner| owner.epoch);
        Ok(())
    }

    async fn spec(&mut self, pointer: &Pointer) -> Result<Spec, CommitError> {
        if let Some((_, spec)) = self
            .spec
            .as_ref()
            .filter(|(reference, _)| *reference == pointer.settings)
        {
            return Ok(spec.clone());
        }
        let settings = objects::settings(&*self.deps.store, &self.name, &pointer.settings).await?;
        let spec = Spec::from(&settings);
        self.spec = Some((pointer.settings.clone(), spec.clone()));
        Ok(spec)
    }

    /// Takes what was measured, and forgets what was of another lineage.
    async fn observe(&mut self, pointer: &Pointer) -> Result<(), CommitError> {
        let other = pointer.other.as_ref().map(|other| other.lineage.clone());
        if other != self.of {
            if let Some(measuring) = self.measuring.take() {
                measuring.abort();
            }
            self.memory = Observation::default();
            if let Some(lineage) = &other {
                let stored = verdicts::newest(&*self.deps.store, &self.name, lineage).await;
                self.memory.measured = stored?;
            }
            self.of = other;
        }
        if pointer.leveling.is_none() {
            self.memory.leveling_since = None;
        }
        if self.measuring.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(measuring) = self.measuring.take()
        {
            let measured = measuring.await.unwrap_or_else(|error| Err(error.to_string()));
            self.measured(measured).await?;
        }
        Ok(())
    }

    async fn measured(&mut self, measured: Result<Measurements, String>) -> Result<(), CommitError> {
        match measured {
            Ok(measurements) => {
                let limits = self
                    .spec
                    .as_ref()
                    .map(|(_, spec)| spec.gates.clone())
                    .unwrap_or_default();
                let verdict = judge(&limits, &measurements);
                self.deps.metrics.judged(self.name.as_str(), &verdict);
                let against: Vec<&str> = verdict.against().map(|gate| gate.gate.name()).collect();
                tracing::info!(
                    collection = %self.name, lineage = %verdict.lineage, generation = verdict.generation,
                    promotable = verdict.is_promotable(), against = against.join(","), "a lineage was judged"
                );
                let nonce = commit::nonce();
                verdicts::write(&*self.deps.store, &self.name, &measurements, &verdict, &nonce).await?;
                self.memory.measured = Some(measurements);
            }
            Err(why) => {
                tracing::warn!(collection = %self.name, "the candidate could not be measured: {why}");
                self.memory.measuring.fail(Timestamp(self.deps.clock.now_ns()));
            }
        }
        Ok(())
    }

    fn note(&mut self, wish: Wish) {
        match wish {
            Wish::Look => self.pointer = None,
            Wish::Withdraw => self.memory.return_wish = None,
            Wish::Return { wish, noted } => {
                self.memory.return_wish = Some(wish);
                // Whoever asked may have gone.
                let _ = noted.send(());
            }
        }
    }

    /// Tells why nothing is done; false where another owns the rollouts for good.
    fn tell(&mut self, error: &CommitError) -> bool {
        let is_lost = matches!(error, CommitError::Refused(EditRefused::LostOwnership { .. }));
        let text = crate::shown::chain(error);
        tracing::warn!(collection = %self.name, "rollout: {text}");
        self.standing.send_modify(|standing| standing.problem = Some(text));
        self.pointer = None;
        !is_lost
    }
}
