//! The indexer of one collection: windows of events become releases, one after the other, and merges beside them.
//!
//! It is the only writer of its collection. What it knows it knows from the pointer and the release, so that it can end
//! at any moment and another can go on.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use verdigris_bus::BusError;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::EditRefused;
use verdigris_store::CommitError;

use crate::error::IndexerError;
use crate::turn::{TRIES_MAX, Turn};
use crate::{Command, Handle, IndexerDeps};

/// The first and the longest wait after an error.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// The indexer of one collection.
pub(crate) struct CollectionIndexer {
    pub(crate) deps: Arc<IndexerDeps>,
    pub(crate) name: CollectionName,
    pub(crate) handle: Arc<Handle>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) instance: String,
    pub(crate) panics: Panics,
    /// That of its last turn.
    pub(crate) epoch: Option<u64>,
}

/// Panics of this process while it read events: they are to an event what unclean ends of a process are (I-12).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Panics {
    /// Whether there were any.
    pub(crate) any: bool,
    /// The event that was read alone at the last one, and at how many in a row.
    suspect: Option<(u64, u32)>,
}

impl Panics {
    fn after(self, named: Option<u64>) -> Self {
        let tries = |sequence| match self.suspect {
            Some((suspect, tries)) if suspect == sequence => tries + 1,
            _ => 1,
        };
        Self {
            any: true,
            suspect: named.map(|sequence| (sequence, tries(sequence))),
        }
    }

    /// The event to set aside.
    pub(crate) fn culprit(self) -> Option<u64> {
        self.suspect
            .filter(|(_, tries)| *tries >= TRIES_MAX)
            .map(|(sequence, _)| sequence)
    }
}

impl CollectionIndexer {
    /// Runs until the token is cancelled or the collection is gone.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut wait = RETRY.0;
        loop {
            let ended = self.turn(&token).await;
            let Err(error) = ended else { return };
            match &error {
                IndexerError::Stopped => return,
                // Another lineage answers: the next turn goes on with that one.
                IndexerError::Commit(CommitError::Refused(EditRefused::LineageMoved(lineage))) => {
                    tracing::info!(collection = %self.name, %lineage, "another lineage answers");
                    continue;
                }
                _ => {}
            }
            let standstill = error.standstill();
            self.deps.metrics.standstill(&self.name, true);
            if self.handle.status.stop(standstill.clone()) {
                tracing::error!(collection = %self.name, reason = standstill.reason.as_str(), "{}", standstill.message);
            }
            match error {
                IndexerError::Commit(CommitError::Refused(EditRefused::LostTurn { .. })) => {
                    // Whoever took over goes on; claiming again would only take it back and forth.
                    token.cancelled().await;
                    return;
                }
                IndexerError::Commit(CommitError::Refused(EditRefused::Deleted(_))) => {
                    self.handle.status.go_on();
                    return;
                }
                IndexerError::Stream(_) | IndexerError::Bus(BusError::Trimmed { .. }) => {
                    if !self.wait_for_repair(&token).await {
                        return;
                    }
                }
                _ => {
                    tokio::select! {
                        biased;
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
                    }
                }
            }
            if self.handle.status.standstill().is_none() {
                wait = RETRY.0;
            }
        }
    }

    /// The log does not fit: nothing but a resync, or new settings of somebody, helps. False when the process ends.
    async fn wait_for_repair(&mut self, token: &CancellationToken) -> bool {
        loop {
            let command = tokio::select! {
                biased;
                () = token.cancelled() => return false,
                command = self.commands.recv() => command,
            };
            match command {
                None => return false,
                Some(Command::AdoptStream { done }) => {
                    let adopted = self.adopt_stream().await;
                    let ok = adopted.is_ok();
                    // The asker may have gone; the repair stands all the same.
                    let _ = done.send(adopted);
                    if ok {
                        return true;
                    }
                }
                Some(Command::Refresh) => return true,
                Some(Command::RollBack(wish)) => self.refuse(wish.done),
                Some(Command::Resume(wish)) => self.refuse(wish.done),
                Some(Command::Decide(decision)) => self.refuse(decision.done),
                Some(Command::Rebuild(wish)) => self.refuse(wish.done),
                Some(Command::Erase(wish)) => {
                    let erased = self.erase(&wish).await;
                    let _ = wish.done.send(erased);
                }
            }
        }
    }

    /// Tells somebody that the collection stands still.
    fn refuse<T: Default>(&self, done: oneshot::Sender<Result<T, IndexerError>>) {
        let why = self.handle.status.standstill();
        let refused = why.map_or_else(|| Ok(T::default()), |why| Err(IndexerError::StandsStill(why)));
        // The asker may have gone.
        let _ = done.send(refused);
    }

    /// Hides documents although nothing can be published: that is one swing.
    async fn erase(&mut self, wish: &crate::erase::Wish) -> Result<u64, IndexerError> {
        let mut turn = Turn::begin(&self.deps, &self.name, &self.handle, &self.instance, &mut self.epoch).await?;
        turn.erase(wish).await
    }

    /// Publishes the head again with a checkpoint before the first event of the log that is there now.
    async fn adopt_stream(&mut self) -> Result<(), IndexerError> {
        let mut turn = Turn::begin(&self.deps, &self.name, &self.handle, &self.instance, &mut self.epoch).await?;
        let stream = self.deps.bus.open(&self.name).await?;
        turn.adopt(stream).await
    }

    async fn turn(&mut self, token: &CancellationToken) -> Result<(), IndexerError> {
        let mut turn = Turn::begin(&self.deps, &self.name, &self.handle, &self.instance, &mut self.epoch).await?;
        turn.beware(self.panics);
        turn.check_stream().await?;
        // A panic ends the turn and not the process: other collections go on, and so does this one.
        let result = AssertUnwindSafe(turn.run(&mut self.commands, token))
            .catch_unwind()
            .await;
        let result = result.unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(IndexerError::Panic { message })
        });
        turn.stop_merges().await;
        match result {
            Ok(()) => {
                turn.goodbye().await?;
                Err(IndexerError::Stopped)
            }
            Err(error) => {
                if error.may_be_poison() {
                    self.panics = self.panics.after(turn.named);
                } else {
                    turn.acquit_event().await;
                    if turn.has_published {
                        self.panics = Panics::default();
                    }
                }
                Err(error)
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".to_owned())
}
