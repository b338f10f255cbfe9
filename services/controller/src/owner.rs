//! The owner of one collection's rollouts: a loop of observing, planning and carrying out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verdigris_core::gates::{Measurements, judge};
use verdigris_core::manifest::SettingsReference;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, LineageRole, Pointer};
use verdigris_core::rollout::{Observation, Phase, Plan, Promotion, ReturnWish, Spec, baseline, paused, plan};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::collection::SeenPointer;
use verdigris_store::{CommitError, ReadError, collection as objects, commit};

use crate::{ControllerDeps, Owned, Pace, Seen, Wants, verdicts};

/// For how long one of many is attended to at a time, before others have their turn.
const ATTENDED_FOR: Duration = Duration::from_secs(60);
/// After an error.
const RETRY: Duration = Duration::from_secs(1);
/// Wishes that wait: people send them one at a time.
const WISHES_MAX: usize = 16;

/// How a rollout stands, for whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Sequence of the pointer that was looked at.
    pub(crate) sequence: u64,
    /// What the other lineage is for, where there is one.
    pub(crate) other: Option<LineageRole>,
    /// Whether promotion is held.
    pub(crate) is_held: bool,
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
    /// Claim the rollouts, also where nothing is to be done yet.
    Claim {
        /// Told when that is done.
        noted: oneshot::Sender<()>,
    },
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
    /// Whom to tell when the rollouts are claimed.
    claiming: Vec<oneshot::Sender<()>>,
    /// The place of one that is attended to, and since when.
    place: Option<(OwnedSemaphorePermit, Instant)>,
    pointer: Option<SeenPointer>,
    /// With the settings that it was read from: those in force, and those of a candidate.
    spec: Option<((SettingsReference, Option<SettingsReference>), Spec)>,
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
            claiming: Vec::new(),
            place: None,
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
            return Ok(Some(self.deps.scope.pace.seldom()));
        };
        if self.epoch == 0 && self.is_to_claim(&pointer) {
            self.claim().await?;
            return Ok(Some(Duration::ZERO));
        }
        let (other, is_held) = (
            pointer.other.as_ref().map(|other| other.role),
            pointer.promotion_hold.is_some(),
        );
        self.standing.send_if_modified(|standing| {
            (standing.other, standing.is_held) = (other, is_held);
            false
        });
        if !self.is_attended(&pointer) {
            return Ok(Some(self.deps.scope.pace.seldom()));
        }
        let settings = self.spec(&pointer).await?;
        let Wants { spec, is_paused } = (self.deps.scope.wants)(settings);
        let pointer = if is_paused { paused(pointer) } else { pointer };
        self.observe(&pointer).await?;
        let now = Timestamp(self.deps.clock.now_ns());
        let seen = self.seen(&pointer).await;
        let measured = self.memory.measured.as_ref();
        let observation = Observation {
            other: seen.other.clone(),
            window: seen.window.clone(),
            baseline: baseline(seen.window_before.as_ref(), measured),
            is_measuring: self.measuring.is_some(),
            ..self.memory.clone()
        };
        let planned = plan(&spec, &pointer, &observation, now);
        self.stands(planned.phase, &pointer);
        let actions = planned.actions.clone();
        let (phase, wake_at) = (planned.phase, planned.wake_at);
        self.standing.send_replace(Standing {
            sequence: pointer.sequence,
            other,
            is_held,
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
        let pace = &self.deps.scope.pace;
        let look = match pointer.other {
            Some(_) => pace.look(phase),
            None => pace.seldom(),
        };
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
        let (id, take_over) = (self.deps.id.clone(), self.deps.scope.take_over);
        let pointer = commit::swing(&*self.deps.store, &self.name, nonce.clone(), |pointer| {
            pointer.claim_rollouts(&id, take_over, nonce.clone(), now)
        })
        .await?;
        self.epoch = pointer.owner.map_or(0, |owner| owner.epoch);
        for noted in self.claiming.drain(..) {
            // Whoever asked may have gone.
            let _ = noted.send(());
        }
        Ok(())
    }

    /// What the search role says, as far as a decision needs it.
    async fn seen(&self, pointer: &Pointer) -> Seen {
        let searchers = &self.deps.searchers;
        match (&pointer.other, &self.deps.scope.pace) {
            // Nobody is asked across a network about what needs no decision.
            (None, Pace::Far { .. }) => Seen::default(),
            (None, Pace::Near) => searchers.seen_if_open(&self.name).await,
            // A way back that nobody has open had no answers to be judged by.
            (Some(other), Pace::Far { .. })
                if other.role == LineageRole::WayBack && self.memory.return_wish.is_none() =>
            {
                searchers.seen_if_open(&self.name).await
            }
            _ => searchers.seen(&self.name).await,
        }
    }

    /// Of many tenants those are claimed of which something is to be decided: a controller that begins does not write to
    /// each of a thousand pointers. One that is not claimed yet is decided about by nobody else than an earlier one, which
    /// the claim will end.
    fn is_to_claim(&self, pointer: &Pointer) -> bool {
        let is_due = match self.deps.scope.pace {
            Pace::Near => true,
            Pace::Far { .. } => pointer.other.is_some() || !self.claiming.is_empty(),
        };
        is_due && pointer.active.is_some()
    }

    /// Whether this collection may be looked at closely, where few may at a time.
    fn is_attended(&mut self, pointer: &Pointer) -> bool {
        let Pace::Far { places, .. } = &self.deps.scope.pace else {
            return true;
        };
        if !Pace::needs_place(pointer) {
            self.place = None;
            return true;
        }
        if let Some((_, since)) = &self.place {
            let is_over = since.elapsed() > ATTENDED_FOR && self.measuring.is_none();
            // Who takes a place back at once that nobody waits for goes on.
            if is_over {
                self.place = None;
            }
            return !is_over;
        }
        self.place = places
            .clone()
            .try_acquire_owned()
            .ok()
            .map(|place| (place, Instant::now()));
        self.place.is_some()
    }

    fn stands(&mut self, phase: Phase, pointer: &Pointer) {
        if !Pace::is_attended(phase) {
            self.place = None;
        }
        if self.deps.scope.counted_as.is_none() {
            let is_held = pointer.promotion_hold.is_some();
            self.deps.metrics.stands(self.name.as_str(), phase, is_held);
        }
    }

    /// The name that it is counted under.
    pub(crate) fn counted_as(&self) -> &str {
        self.deps.scope.counted_as.as_deref().unwrap_or(self.name.as_str())
    }

    /// What the settings in force say; a candidate whose own settings want a person's word waits for it as well.
    async fn spec(&mut self, pointer: &Pointer) -> Result<Spec, CommitError> {
        let is_candidate = pointer
            .other
            .as_ref()
            .is_some_and(|other| other.role == LineageRole::Candidate);
        let of_candidate = pointer.other_settings.as_ref().filter(|_| is_candidate);
        let named = (pointer.settings.clone(), of_candidate.cloned());
        if let Some((_, spec)) = self.spec.as_ref().filter(|(read, _)| *read == named) {
            return Ok(spec.clone());
        }
        let settings = objects::settings(&*self.deps.store, &self.name, &pointer.settings).await?;
        let mut spec = Spec::from(&settings);
        if let Some(reference) = of_candidate {
            let theirs = objects::settings(&*self.deps.store, &self.name, reference).await?;
            if theirs.rollout.promotion == Promotion::Manual {
                spec.rollout.promotion = Promotion::Manual;
            }
        }
        self.spec = Some((named, spec.clone()));
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
                    .map(|(_, spec)| (self.deps.scope.wants)(spec.clone()).spec.gates)
                    .unwrap_or_default();
                let verdict = judge(&limits, &measurements);
                self.deps.metrics.judged(self.counted_as(), &verdict);
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
            Wish::Claim { noted } if self.epoch > 0 => {
                let _ = noted.send(());
            }
            Wish::Claim { noted } => self.claiming.push(noted),
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
