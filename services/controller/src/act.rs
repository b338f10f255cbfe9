//! Carrying out: each action is one edit of the pointer, or one question to the search role.
//!
//! An edit that does not apply any more is no error: the pointer has moved, and the next look says what to do then.

use tokio::time::Instant;
use tonic::Status;
use verdigris_core::gates::Measurements;
use verdigris_core::pointer::{EditRefused, LineageRole, Pointer};
use verdigris_core::rollout::{Action, BY_ITSELF, Phase, Plan, Reason, Spec};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{CommitError, commit};

use crate::Controller;
use crate::collection::{Claim, Collection, WishRefused};
use crate::error::ControllerError;
use crate::owner::{Measuring, Owner};
use crate::verdicts;

/// How long a wish to go back waits for a way back that is not open.
const WISH_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

impl Controller {
    /// This owner's epoch; claimed now, if nobody has. Another owner's turn is taken only by word.
    pub(crate) async fn claim(&self, collection: &Collection, by_word: bool) -> Result<u64, ControllerError> {
        let mut claim = collection.claim.lock().await;
        match &*claim {
            Claim::Ours(epoch) => return Ok(*epoch),
            Claim::Elsewhere(owner) if !by_word => return Err(ControllerError::OwnedElsewhere(owner.clone())),
            Claim::Elsewhere(_) | Claim::None => {}
        }
        let (nonce, now) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()));
        let swung = commit::swing(&*self.deps.store, &collection.name, nonce.clone(), |pointer| {
            pointer.claim_rollouts(&self.instance, by_word, nonce.clone(), now)
        });
        match swung.await {
            Ok(pointer) => {
                let epoch = pointer.owner.as_ref().map_or(0, |owner| owner.epoch);
                *claim = Claim::Ours(epoch);
                Ok(epoch)
            }
            Err(CommitError::Refused(EditRefused::OwnedBy(owner))) => {
                *claim = Claim::Elsewhere(owner.clone());
                Err(ControllerError::OwnedElsewhere(owner))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Swings the pointer as the owner of its rollouts.
    pub(crate) async fn swing(
        &self,
        collection: &Collection,
        mut edit: impl FnMut(&Pointer, u64, String, Timestamp) -> Result<Pointer, EditRefused> + Send,
    ) -> Result<Pointer, ControllerError> {
        let epoch = self.claim(collection, false).await?;
        let (nonce, now) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()));
        let swung = commit::swing(&*self.deps.store, &collection.name, nonce.clone(), |pointer| {
            edit(pointer, epoch, nonce.clone(), now)
        });
        match swung.await {
            Ok(pointer) => Ok(pointer),
            // One that meets a higher epoch ends, and never claims again by itself.
            Err(CommitError::Refused(EditRefused::LostOwnership { holder, .. })) => {
                *collection.claim.lock().await = Claim::Elsewhere(holder.clone());
                tracing::warn!(collection = %collection.name, holder, "another owner carries out the rollouts now");
                Err(ControllerError::OwnedElsewhere(holder))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Owner<'_> {
    /// Does one thing; whether it came to something.
    pub(crate) async fn act(&mut self, action: Action, spec: &Spec) -> Result<bool, ControllerError> {
        if let Action::Measure { lineage, generation } = action {
            self.begin_measuring(lineage, generation);
            return Ok(true);
        }
        let swung = self
            .controller
            .swing(self.collection, |pointer, epoch, nonce, now| match &action {
                Action::Level { lineage } => pointer.want_level(epoch, lineage, nonce, now),
                Action::StopLeveling | Action::LevelLater => pointer.stop_leveling(epoch, nonce, now),
                Action::Flip(flip) => pointer.flip(epoch, flip, nonce, now),
                Action::Return(flip) => pointer.return_to_way_back(epoch, flip, nonce, now),
                Action::Retire { lineage } => pointer.drop_other(epoch, lineage, nonce, now),
                Action::Measure { .. } => unreachable!("measuring is no edit"),
            });
        match swung.await {
            Ok(pointer) => {
                self.done(&action, &pointer, spec);
                Ok(true)
            }
            Err(ControllerError::Commit(CommitError::Refused(refused)))
                if !matches!(refused, EditRefused::Deleted(_)) =>
            {
                tracing::debug!(collection = %self.collection.name, ?action, "the pointer has moved: {refused}");
                Ok(false)
            }
            // It goes on looking, so that it can say how things stand.
            Err(ControllerError::OwnedElsewhere(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn done(&mut self, action: &Action, pointer: &Pointer, spec: &Spec) {
        let (name, metrics, now) = (&self.collection.name, &self.controller.deps.metrics, self.now());
        match action {
            Action::Level { .. } => self.memory.leveling_since = Some(now),
            Action::StopLeveling => self.memory.leveling_since = None,
            Action::LevelLater => {
                self.memory.leveling_since = None;
                self.memory.leveling.fail(now);
            }
            Action::Flip(flip) => {
                metrics.flipped(name, &flip.actor);
                tracing::info!(
                    collection = %name, lineage = %flip.lineage, generation = pointer.generation, actor = flip.actor,
                    reason = flip.reason, bake_seconds = spec.rollout.bake_seconds, "promoted"
                );
            }
            Action::Return(flip) => {
                metrics.returned(name, &flip.actor);
                // Whoever is on call must know of a return by itself.
                if flip.actor == BY_ITSELF {
                    tracing::error!(
                        collection = %name, lineage = %flip.lineage, reason = flip.reason,
                        "returned to the way back; nothing is promoted until somebody resumes"
                    );
                } else {
                    tracing::info!(
                        collection = %name, lineage = %flip.lineage, actor = flip.actor, reason = flip.reason,
                        stale = flip.stale, "returned to the way back"
                    );
                }
            }
            Action::Retire { lineage } => {
                tracing::info!(collection = %name, %lineage, "the way back is given up, its time is over");
            }
            Action::Measure { .. } => {}
        }
    }

    fn begin_measuring(&mut self, lineage: verdigris_core::manifest::LineageId, generation: u64) {
        let (controller, name) = (self.controller.clone(), self.collection.name.clone());
        let of = lineage.clone();
        let work = tokio::spawn(async move { controller.deps.serving.measure(&name, &of, generation).await });
        self.measuring = Some(Measuring { lineage, work });
    }

    /// Stores what was measured. What cannot be stored is not used: after a restart nobody could tell by what a lineage
    /// was promoted.
    pub(crate) async fn take_measured(
        &mut self,
        measured: Result<Measurements, Status>,
    ) -> Result<(), ControllerError> {
        let Some(measuring) = self.measuring.take() else {
            return Ok(());
        };
        let (name, now) = (&self.collection.name, self.now());
        let is_meant = |measured: &Measurements| measured.candidate.lineage == measuring.lineage;
        let mut measured = match measured {
            Ok(measured) if is_meant(&measured) => measured,
            Ok(other) => {
                self.memory.measuring.fail(now);
                let lineage = &other.candidate.lineage;
                tracing::warn!(collection = %name, %lineage, "another lineage was measured than the one that was meant");
                return Ok(());
            }
            Err(status) => {
                self.memory.measuring.fail(now);
                let lineage = &measuring.lineage;
                tracing::warn!(collection = %name, %lineage, "measuring came to nothing: {}", status.message());
                return Ok(());
            }
        };
        // The owner's clock, by which it is tried again.
        measured.measured_at = now;
        let limits = self.limits();
        let stored = verdicts::store(&*self.controller.deps.store, name, &limits, &measured).await;
        let verdict = stored.inspect_err(|_| self.memory.measuring.fail(now))?;
        self.memory.measuring = verdigris_core::rollout::Tries::default();
        self.controller.deps.metrics.judged(name, &verdict);
        let against: Vec<&str> = verdict.against().map(|gate| gate.text.as_str()).collect();
        tracing::info!(
            collection = %name, lineage = %verdict.lineage, generation = verdict.generation,
            promotable = verdict.is_promotable(), against = against.join("; "), "judged"
        );
        self.measured = Some((measuring.lineage.clone(), Some(measured)));
        Ok(())
    }

    /// Tells whoever wished to go back what became of it.
    pub(crate) fn tell_who_wished(&self, pointer: &Pointer, plan: &Plan) {
        let mut wished = self.collection.lock_wish();
        let Some(wish) = wished.as_ref() else { return };
        let lineage = &wish.wish.lineage;
        let is_way_back = pointer
            .other
            .as_ref()
            .is_some_and(|other| other.lineage == *lineage && other.role == LineageRole::WayBack);
        let answers = pointer.active.as_ref().is_some_and(|active| active.lineage == *lineage);
        let is_closed = plan.phase == Phase::Returning && plan.reasons.contains(&Reason::WayBackNotReady);
        let done = if answers {
            Ok(())
        } else if !is_way_back {
            Err(WishRefused::NoWayBack(lineage.to_string()))
        } else if is_closed && Instant::now().duration_since(wish.since) > WISH_LIMIT {
            let why = plan.reasons.iter().find_map(|reason| match reason {
                Reason::CannotOpen(why) => Some(why.clone()),
                _ => None,
            });
            Err(WishRefused::NotOpen(why))
        } else {
            return;
        };
        if let Some(wish) = wished.take() {
            // Who asked and has left does not want to know.
            let _ = wish.done.send(done);
        }
    }
}
