//! Carrying out: each action is a swing of the pointer, or a question to the search role.

use verdigris_core::pointer::{EditRefused, Flip, Pointer};
use verdigris_core::rollout::Action;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{CommitError, commit};

use crate::owner::Owner;

impl Owner {
    /// Does one thing. What is not so any more is left to the next plan.
    pub(crate) async fn carry_out(&mut self, action: &Action, now: Timestamp) -> Result<(), CommitError> {
        let epoch = self.epoch;
        let done = match action {
            Action::Level { lineage } => {
                self.memory.leveling_since = Some(now);
                self.swing(|pointer, nonce, now| pointer.want_level(epoch, lineage, nonce, now))
                    .await
            }
            Action::StopLeveling => {
                self.swing(|pointer, nonce, now| pointer.stop_leveling(epoch, nonce, now))
                    .await
            }
            Action::LevelLater => {
                self.memory.leveling.fail(now);
                self.swing(|pointer, nonce, now| pointer.stop_leveling(epoch, nonce, now))
                    .await
            }
            Action::Measure { lineage, generation } => {
                let (searchers, name) = (self.deps.searchers.clone(), self.name.clone());
                let (lineage, generation) = (lineage.clone(), *generation);
                self.measuring = Some(tokio::spawn(async move {
                    searchers.measure(&name, &lineage, generation).await
                }));
                Ok(())
            }
            Action::Flip(flip) => self.flip(flip).await,
            Action::Return(flip) => self.go_back(flip).await,
            Action::Retire { lineage } => {
                self.swing(|pointer, nonce, now| pointer.drop_other(epoch, lineage, nonce, now))
                    .await
            }
        };
        match done {
            Err(CommitError::Refused(
                refused @ (EditRefused::NotLevel { .. }
                | EditRefused::NotNamed(_)
                | EditRefused::NotCandidate(_)
                | EditRefused::NotWayBack(_)
                | EditRefused::Held { .. }),
            )) => {
                tracing::debug!(collection = %self.name, "not so any more: {refused}");
                Ok(())
            }
            done => done,
        }
    }

    async fn flip(&mut self, flip: &Flip) -> Result<(), CommitError> {
        let epoch = self.epoch;
        self.swing(|pointer, nonce, now| pointer.flip(epoch, flip, nonce, now))
            .await?;
        self.deps.metrics.flipped(self.counted_as(), "promote");
        tracing::info!(
            collection = %self.name, lineage = %flip.lineage, actor = flip.actor, reason = flip.reason,
            "a lineage was promoted"
        );
        Ok(())
    }

    async fn go_back(&mut self, flip: &Flip) -> Result<(), CommitError> {
        let epoch = self.epoch;
        self.swing(|pointer, nonce, now| pointer.return_to_way_back(epoch, flip, nonce, now))
            .await?;
        self.memory.return_wish = None;
        self.deps.metrics.flipped(self.counted_as(), "return");
        tracing::warn!(
            collection = %self.name, lineage = %flip.lineage, actor = flip.actor, reason = flip.reason,
            stale = flip.stale, "the way back answers again; promotion is held"
        );
        Ok(())
    }

    async fn swing(
        &self,
        edit: impl Fn(&Pointer, String, Timestamp) -> Result<Pointer, EditRefused> + Send + Sync,
    ) -> Result<(), CommitError> {
        let (nonce, clock) = (commit::nonce(), &self.deps.clock);
        // The moment of each try: a grace that begins with what is let go does not begin before it.
        commit::swing(&*self.deps.store, &self.name, nonce.clone(), |pointer| {
            edit(pointer, nonce.clone(), Timestamp(clock.now_ns()))
        })
        .await?;
        Ok(())
    }
}
