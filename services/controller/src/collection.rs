//! A collection that is looked after, as its owner and those who ask share it.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::Pointer;
use verdigris_core::rollout::{Plan, ReturnWish, ServingWindow, Spec};

use crate::error::ControllerError;

/// How things stand, as the owner saw them at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// When the look at them began.
    pub(crate) began: Instant,
    pub(crate) pointer: Arc<Pointer>,
    pub(crate) spec: Arc<Spec>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) window: Option<ServingWindow>,
}

/// Whether this process carries out the rollouts of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It had no reason to yet.
    None,
    /// By this epoch.
    Ours(u64),
    /// Another owner does; this one never claims again by itself.
    Elsewhere(String),
}

/// A wish to go back, and who is told when it is done.
pub(crate) struct Wished {
    pub(crate) wish: ReturnWish,
    pub(crate) since: Instant,
    pub(crate) done: oneshot::Sender<Result<(), WishRefused>>,
}

/// Why nobody went back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WishRefused {
    /// There is no such way back, or not any more.
    #[error("lineage {0} is not the way back")]
    NoWayBack(String),
    /// It is not open.
    #[error("the way back is not open, so traffic stays where it is{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NotOpen(Option<String>),
}

/// A collection that is looked after.
pub(crate) struct Collection {
    pub(crate) name: CollectionName,
    /// Held over a swing that claims, so that two do not claim at once.
    pub(crate) claim: tokio::sync::Mutex<Claim>,
    pub(crate) wished: Mutex<Option<Wished>>,
    /// Somebody wants it measured again.
    pub(crate) measure_again: std::sync::atomic::AtomicBool,
    pub(crate) standing: watch::Sender<Option<Result<Standing, Arc<ControllerError>>>>,
    /// Told when there is something new to look at.
    pub(crate) wake: Notify,
}

impl Collection {
    pub(crate) fn new(name: CollectionName) -> Self {
        Self {
            name,
            claim: tokio::sync::Mutex::new(Claim::None),
            wished: Mutex::default(),
            measure_again: std::sync::atomic::AtomicBool::default(),
            standing: watch::channel(None).0,
            wake: Notify::new(),
        }
    }

    /// How things stand by a look that begins after this call; the error that kept it from being made.
    pub(crate) async fn fresh(&self) -> Result<Standing, Arc<ControllerError>> {
        let asked = Instant::now();
        let mut standings = self.standing.subscribe();
        self.wake.notify_one();
        loop {
            if standings.changed().await.is_err() {
                unreachable!("this collection holds the sender");
            }
            match &*standings.borrow_and_update() {
                Some(Ok(standing)) if standing.began >= asked => return Ok(standing.clone()),
                Some(Err(error)) => return Err(error.clone()),
                _ => self.wake.notify_one(),
            }
        }
    }

    /// The wish that is in force; one whose asker has left is none.
    pub(crate) fn wish(&self) -> Option<ReturnWish> {
        let mut wished = self.lock_wish();
        if wished.as_ref().is_some_and(|wished| wished.done.is_closed()) {
            *wished = None;
        }
        wished.as_ref().map(|wished| wished.wish.clone())
    }

    pub(crate) fn lock_wish(&self) -> std::sync::MutexGuard<'_, Option<Wished>> {
        self.wished.lock().expect("held for a moment only")
    }
}
