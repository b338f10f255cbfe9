//! One collection's owner: look, plan, act, wait, until the collection is gone or the process ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::{LineageId, SettingsReference};
use verdigris_core::pointer::{LineageRole, Pointer};
use verdigris_core::rollout::{self, Observation, Plan, Reason, Spec};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{Tag, collection as objects};

use crate::Controller;
use crate::collection::{Claim, Collection, Standing};
use crate::error::{ControllerError, chain};
use crate::serving::Seen;
use crate::verdicts;

/// How often it looks while there is another lineage, and while there is none.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_SELDOM: Duration = Duration::from_secs(1);
/// Looks follow each other no sooner than this, whatever the plan says.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// Between two tries after an error; each further one doubles it.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the owner of a collection remembers; all of it may be forgotten.
pub(crate) struct Owner<'a> {
    pub(crate) controller: &'a Arc<Controller>,
    pub(crate) collection: &'a Arc<Collection>,
    seen: Option<(Tag, Arc<Pointer>)>,
    spec: Option<(SettingsReference, Arc<Spec>)>,
    /// The lineage that memory is of.
    other: Option<LineageId>,
    pub(crate) memory: Observation,
    /// What was measured last of the candidate, or of the lineage that was promoted.
    pub(crate) measured: Option<(LineageId, Option<Measurements>)>,
    pub(crate) measuring: Option<Measuring>,
}

/// A lineage that is being measured.
pub(crate) struct Measuring {
    pub(crate) lineage: LineageId,
    pub(crate) work: JoinHandle<Result<Measurements, Status>>,
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Looks after a collection until it is gone or the token is cancelled.
pub(crate) async fn run(controller: &Arc<Controller>, collection: &Arc<Collection>, token: &CancellationToken) {
    let mut owner = Owner {
        controller,
        collection,
        seen: None,
        spec: None,
        other: None,
        memory: Observation::default(),
        measured: None,
        measuring: None,
    };
    let mut failures = 0;
    loop {
        let wait = match owner.turn().await {
            Ok(wait) => {
                failures = 0;
                wait
            }
            Err(error) if error.is_gone() => return,
            Err(error) => {
                let wait = RETRY.saturating_mul(1 << failures.min(8)).min(RETRY_MAX);
                failures += 1;
                controller.deps.metrics.failed(&collection.name);
                tracing::warn!(collection = %collection.name, "the rollout cannot be looked after: {}", chain(&error));
                collection.standing.send_replace(Some(Err(Arc::new(error))));
                wait
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = collection.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
            measured = measured(&mut owner.measuring) => {
                if let Err(error) = owner.take_measured(measured).await {
                    tracing::warn!(collection = %collection.name, "a verdict cannot be stored: {}", chain(&error));
                }
            }
        }
    }
}

/// Waits for what is being measured, for ever where nothing is. Cancel safe: the work goes on.
async fn measured(measuring: &mut Option<Measuring>) -> Result<Measurements, Status> {
    match measuring {
        Some(measuring) => match (&mut measuring.work).await {
            Ok(measured) => measured,
            Err(error) => Err(Status::internal(error.to_string())),
        },
        None => std::future::pending().await,
    }
}

impl Owner<'_> {
    /// One look, and what follows from it; how long to wait for the next.
    async fn turn(&mut self) -> Result<Duration, ControllerError> {
        let began = Instant::now();
        let pointer = self.pointer().await?;
        let spec = self.spec(&pointer).await?;
        self.remember(&pointer).await?;
        let seen = self.controller.deps.serving.seen(&self.collection.name).await;
        let now = self.now();
        let observation = self.observation(&pointer, seen);
        let plan = rollout::plan(&spec, &pointer, &observation, now);
        self.tell_who_wished(&pointer, &plan);
        let wait = wait(&plan, &pointer, now);
        let actions = plan.actions.clone();
        self.show(Standing {
            began,
            pointer,
            spec: spec.clone(),
            plan: Arc::new(plan),
            window: observation.window,
        });
        if matches!(&*self.collection.claim.lock().await, Claim::Elsewhere(_)) {
            return Ok(wait);
        }
        let mut moved = false;
        for action in actions {
            moved |= self.act(action, &spec).await?;
        }
        Ok(if moved { LOOK_SOON } else { wait })
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.controller.deps.clock.now_ns())
    }

    async fn pointer(&mut self) -> Result<Arc<Pointer>, ControllerError> {
        let (store, name) = (&*self.controller.deps.store, &self.collection.name);
        let known = self.seen.as_ref().map(|(tag, _)| tag);
        let moved = objects::pointer_if_moved(store, name, known).await?;
        if let Some(moved) = moved {
            if moved.pointer.deleted_at.is_some() {
                let refused = verdigris_core::pointer::EditRefused::Deleted(name.clone());
                return Err(verdigris_store::CommitError::Refused(refused).into());
            }
            self.seen = Some((moved.tag, Arc::new(moved.pointer)));
        }
        let (_, pointer) = self
            .seen
            .as_ref()
            .expect("without a known tag the pointer is always read");
        Ok(pointer.clone())
    }

    async fn spec(&mut self, pointer: &Pointer) -> Result<Arc<Spec>, ControllerError> {
        if let Some((reference, spec)) = &self.spec
            && *reference == pointer.settings
        {
            return Ok(spec.clone());
        }
        let (store, name) = (&*self.controller.deps.store, &self.collection.name);
        let settings = objects::settings(store, name, &pointer.settings).await?;
        let spec = Arc::new(Spec::from(&settings));
        self.spec = Some((pointer.settings.clone(), spec.clone()));
        Ok(spec)
    }

    /// The gates' limits as they were read last.
    pub(crate) fn limits(&self) -> verdigris_core::gates::GateSettings {
        self.spec
            .as_ref()
            .map(|(_, spec)| spec.gates.clone())
            .unwrap_or_default()
    }

    /// Forgets what is of another lineage than the one beside, and reads what was measured of this one.
    async fn remember(&mut self, pointer: &Pointer) -> Result<(), ControllerError> {
        let other = pointer.other.as_ref();
        let lineage = other.map(|other| other.lineage.clone());
        if self.other != lineage {
            self.other = lineage;
            self.memory = Observation::default();
            self.measuring = None;
        }
        match (&pointer.leveling, self.memory.leveling_since) {
            (None, _) => self.memory.leveling_since = None,
            // An owner before this one asked for it.
            (Some(_), None) => self.memory.leveling_since = Some(self.now()),
            (Some(_), Some(_)) => {}
        }
        // Of a candidate, for the gates; of what was promoted, for the bake.
        let judged = other.map(|other| match other.role {
            LineageRole::WayBack => pointer.active.as_ref().map_or(&other.lineage, |active| &active.lineage),
            LineageRole::Candidate | LineageRole::Active => &other.lineage,
        });
        let Some(judged) = judged else {
            self.measured = None;
            return Ok(());
        };
        if self.collection.measure_again.swap(false, Ordering::Relaxed) {
            self.measured = Some((judged.clone(), None));
            self.memory.measuring = rollout::Tries::default();
        }
        if self.measured.as_ref().is_none_or(|(lineage, _)| lineage != judged) {
            let (store, name) = (&*self.controller.deps.store, &self.collection.name);
            let newest = verdicts::newest(store, name, judged).await?;
            self.measured = Some((judged.clone(), newest));
        }
        Ok(())
    }

    fn observation(&self, pointer: &Pointer, seen: Seen) -> Observation {
        let measured = self.measured.as_ref().and_then(|(_, measured)| measured.as_ref());
        let is_candidate = pointer
            .other
            .as_ref()
            .is_some_and(|other| other.role == LineageRole::Candidate);
        Observation {
            other: seen.other,
            measured: measured.filter(|_| is_candidate).cloned(),
            is_measuring: self.measuring.is_some(),
            baseline: rollout::baseline(seen.before.as_ref(), measured),
            window: seen.window,
            return_wish: self.collection.wish(),
            ..self.memory.clone()
        }
    }

    fn show(&self, standing: Standing) {
        let (plan, name) = (&standing.plan, &self.collection.name);
        let is_held = standing.pointer.publish_hold().is_some() || standing.pointer.promotion_hold.is_some();
        let is_overdue = plan
            .reasons
            .iter()
            .any(|reason| matches!(reason, Reason::Overdue { .. }));
        self.controller
            .deps
            .metrics
            .standing(name, plan.phase, is_held, is_overdue);
        let before = self.collection.standing.send_replace(Some(Ok(standing.clone())));
        let before = before.and_then(Result::ok).map(|before| before.plan.phase);
        if before != Some(plan.phase) {
            let reasons: Vec<String> = plan.reasons.iter().map(ToString::to_string).collect();
            tracing::info!(collection = %name, phase = plan.phase.name(), reasons = reasons.join("; "), "rollout");
        }
    }
}

/// How long nothing needs to be looked at, as far as is known.
fn wait(plan: &Plan, pointer: &Pointer, now: Timestamp) -> Duration {
    let usual = if pointer.other.is_some() || !pointer.builds.is_empty() {
        LOOK
    } else {
        LOOK_SELDOM
    };
    let wake = plan.wake_at.map(|wake| Duration::from_nanos(wake.since(now) as u64));
    wake.map_or(usual, |wake| wake.clamp(LOOK_SOON, usual))
}
