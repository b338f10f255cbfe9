//! The owner of rollouts of a story: it claims, brings level, promotes, returns, holds, resumes and gives up.
//!
//! Behind a trait, so that whoever moves traffic can take its place.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use verdigris_core::pointer::{EditRefused, Flip, LineageRole, Pointer};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{CommitError, collection as objects, commit};

use super::dice::Dice;
use super::judge::Wanted;
use super::name;
use super::seat::Seat;

/// How long an owner waits until the other lineage is level.
const LEVEL: Duration = Duration::from_secs(4);

/// What an act came to: the nonces that were told as swung, and those that were told as not.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) swung: Vec<String>,
    pub(crate) refused: Vec<String>,
}

pub(crate) type Acting<'a> = Pin<Box<dyn Future<Output = Account> + 'a>>;

/// Who moves traffic.
pub(crate) trait Owner {
    /// Does something. What moves traffic is in `wanted` before, and goes from it when it is known not to come.
    fn act<'a>(&'a mut self, dice: &'a mut Dice, wanted: &'a mut Vec<Wanted>) -> Acting<'a>;

    /// Its way to the store.
    fn seat(&self) -> &Arc<Seat>;
}

/// One that does whatever the dice say.
pub(crate) struct Reckless {
    seat: Arc<Seat>,
    epoch: Option<u64>,
    account: Account,
}

impl Reckless {
    pub(crate) fn new(seat: Arc<Seat>) -> Self {
        Self {
            seat,
            epoch: None,
            account: Account::default(),
        }
    }

    async fn pointer(&self) -> Option<Pointer> {
        Some(objects::pointer(&*self.seat, &name()).await.ok()?.pointer)
    }

    /// True where it was done, false where it was refused, none where nobody knows.
    async fn swing(
        &mut self,
        what: &str,
        edit: impl Fn(&Pointer, u64, String, Timestamp) -> Result<Pointer, EditRefused> + Send + Sync,
    ) -> Option<bool> {
        let (nonce, disk) = (commit::nonce(), self.seat.disk.clone());
        let epoch = self.epoch.unwrap_or(0);
        let edit = |pointer: &Pointer| edit(pointer, epoch, nonce.clone(), Timestamp(disk.now()));
        let swung = commit::swing(&*self.seat, &name(), nonce.clone(), edit).await;
        self.seat.disk.tell(|| match &swung {
            Ok(_) => format!("{} did {what}", self.seat.name),
            Err(error) => format!("{} did not {what}: {error}", self.seat.name),
        });
        match swung {
            Ok(pointer) => {
                self.account.swung.push(nonce);
                if self.epoch.is_none() {
                    self.epoch = pointer.owner.map(|owner| owner.epoch);
                }
                Some(true)
            }
            Err(CommitError::Refused(refused)) => {
                if matches!(refused, EditRefused::LostOwnership { .. }) {
                    // One in a few does not take it to heart, and goes on with the epoch that has ended.
                    self.epoch = self.epoch.filter(|epoch| epoch % 2 == 0);
                }
                self.account.refused.push(nonce);
                Some(false)
            }
            Err(_) => None,
        }
    }

    async fn flip(&mut self, pointer: &Pointer, stale: bool, wanted: &mut Vec<Wanted>) {
        let Some(other) = &pointer.other else { return };
        let is_return = other.role == LineageRole::WayBack;
        let wish = Wanted {
            lineage: other.lineage.clone(),
            is_return,
            stale,
        };
        let flip = Flip {
            lineage: other.lineage.clone(),
            actor: "ada".to_owned(),
            reason: "the dice say so".to_owned(),
            stale,
        };
        wanted.push(wish.clone());
        let what = if is_return { "return" } else { "promote" };
        let swung = self
            .swing(what, |pointer, epoch, nonce, now| {
                if is_return {
                    pointer.return_to_way_back(epoch, &flip, nonce, now)
                } else {
                    pointer.flip(epoch, &flip, nonce, now)
                }
            })
            .await;
        // What is not known may come yet; what was done is judged before the next wish.
        if swung == Some(false) {
            wanted.retain(|known| *known != wish);
        }
    }

    async fn level(&mut self, pointer: &Pointer) -> Option<Pointer> {
        let lineage = pointer.other.as_ref()?.lineage.clone();
        let wanted = self
            .swing("want_level", |pointer, epoch, nonce, now| {
                pointer.want_level(epoch, &lineage, nonce, now)
            })
            .await;
        if wanted != Some(true) {
            return None;
        }
        let until = tokio::time::Instant::now() + LEVEL;
        while tokio::time::Instant::now() < until {
            let pointer = self.pointer().await?;
            let other = pointer.other.as_ref()?;
            if other.generation >= pointer.active.as_ref()?.generation {
                return Some(pointer);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn acts(&mut self, dice: &mut Dice, wanted: &mut Vec<Wanted>) {
        if self.epoch.is_none() {
            let id = self.seat.name.clone();
            self.swing("claim", |pointer, _, nonce, now| {
                pointer.claim_rollouts(&id, false, nonce, now)
            })
            .await;
            return;
        }
        let Some(pointer) = self.pointer().await else { return };
        let lineage = pointer.other.as_ref().map(|other| other.lineage.clone());
        let lineage = lineage.or_else(|| pointer.builds.first().map(|build| build.lineage.clone()));
        match dice.within(0..20) {
            0..10 => {
                if let Some(level) = self.level(&pointer).await {
                    self.flip(&level, false, wanted).await;
                }
            }
            10..12 => self.flip(&pointer, false, wanted).await,
            12 => self.flip(&pointer, true, wanted).await,
            13 => {
                self.level(&pointer).await;
            }
            14 => {
                self.swing("stop_leveling", |pointer, epoch, nonce, now| {
                    pointer.stop_leveling(epoch, nonce, now)
                })
                .await;
            }
            15 => {
                self.swing("hold", |pointer, epoch, nonce, now| {
                    pointer.hold_promotion(epoch, "ada", "wait", nonce, now)
                })
                .await;
            }
            16 | 17 => {
                self.swing("resume", |pointer, epoch, nonce, now| {
                    pointer.resume_promotion(epoch, nonce, now)
                })
                .await;
            }
            _ => {
                let Some(lineage) = lineage else { return };
                self.swing("drop", |pointer, epoch, nonce, now| {
                    pointer.drop_other(epoch, &lineage, nonce, now)
                })
                .await;
            }
        }
    }
}

impl Owner for Reckless {
    fn act<'a>(&'a mut self, dice: &'a mut Dice, wanted: &'a mut Vec<Wanted>) -> Acting<'a> {
        Box::pin(async move {
            self.acts(dice, wanted).await;
            std::mem::take(&mut self.account)
        })
    }

    fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}
