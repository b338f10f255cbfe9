//! Carrying out a swing: the I/O around `core::commit`, with a bounded number of steps and growing waits.

use std::time::Duration;

use verdigris_core::commit::{Commit, Outcome, Reply, Step};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Pointer};

use crate::chance;
use crate::collection;
use crate::error::{CommitError, ReadError, StoreError};
use crate::keys;
use crate::object::{Body, Precondition, Store, Tag};

/// Steps of one swing: enough for many swings of others in between and for an outage of ten seconds.
const STEPS_MAX: u32 = 60;
/// The first wait after an error or a lost race.
const WAIT_FIRST: Duration = Duration::from_millis(2);
/// The longest wait between two steps.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// A nonce for a swing: 96 random bits in hexadecimal.
pub fn nonce() -> String {
    format!("{:024x}", chance::draw() >> 32)
}

/// How often a call is made again, and how long is waited before it. Tests bring their own, without waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Steps of a swing.
    pub steps: u32,
    /// Tries of one other object.
    pub tries: u32,
    /// The wait after the n-th failure, from 0.
    pub wait: fn(u32) -> Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            steps: STEPS_MAX,
            tries: 8,
            wait: jittered,
        }
    }
}

impl Patience {
    /// Waits never; for tests.
    pub const AT_ONCE: Self = Self {
        steps: STEPS_MAX,
        tries: 8,
        wait: |_| Duration::ZERO,
    };

    pub(crate) async fn wait(&self, n: u32) {
        let wait = (self.wait)(n);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Twice as long each time, up to a limit, and drawn between half and one and a half of that, so that writers that met
/// once do not meet again.
fn jittered(n: u32) -> Duration {
    let wait = WAIT_FIRST.saturating_mul(1 << n.min(16)).min(WAIT_MAX);
    wait.mul_f64(0.5 + chance::share())
}

/// Swings the pointer by `edit`, which must give its result this nonce; the pointer as the edit made it. Cancelling it
/// leaves the outcome unknown: the writer then starts again from the pointer.
pub async fn swing(
    store: &dyn Store,
    name: &CollectionName,
    nonce: String,
    edit: impl FnMut(&Pointer) -> Result<Pointer, EditRefused> + Send,
) -> Result<Pointer, CommitError> {
    swing_with(store, name, nonce, edit, Patience::default()).await
}

/// [`swing`] with a patience of one's own.
pub async fn swing_with(
    store: &dyn Store,
    name: &CollectionName,
    nonce: String,
    edit: impl FnMut(&Pointer) -> Result<Pointer, EditRefused> + Send,
    patience: Patience,
) -> Result<Pointer, CommitError> {
    let mut commit = Commit::new(nonce, edit);
    let mut failures = 0;
    for _ in 0..patience.steps {
        let replied = match commit.step() {
            Step::Done(Outcome::Committed(pointer)) => return Ok(*pointer),
            Step::Done(Outcome::Lost(refused)) => return Err(refused.into()),
            Step::Done(Outcome::Unknown) => return Err(CommitError::Unknown(keys::pointer(name))),
            Step::Read => read(store, name).await,
            Step::Write { body, tag } => write(store, name, body, tag).await,
        };
        let is_progress = matches!(replied, Ok(Some(Reply::Pointer { .. } | Reply::Written)));
        match replied {
            Ok(Some(reply)) => commit.reply(reply),
            Ok(None) => {}
            // The store says why it does nothing more; what an earlier send came to, it does not say.
            Err(_) if commit.is_unsettled() => return Err(CommitError::Unknown(keys::pointer(name))),
            Err(error) => return Err(error),
        }
        if !is_progress {
            patience.wait(failures).await;
            failures += 1;
        }
    }
    match commit.step() {
        Step::Done(Outcome::Committed(pointer)) => Ok(*pointer),
        _ if commit.is_unsettled() => Err(CommitError::Unknown(keys::pointer(name))),
        _ => Err(StoreError::no_answer(&keys::pointer(name)).into()),
    }
}

async fn read(store: &dyn Store, name: &CollectionName) -> Result<Option<Reply>, CommitError> {
    match collection::pointer(store, name).await {
        Ok(seen) => Ok(Some(Reply::Pointer {
            pointer: Box::new(seen.pointer),
            tag: seen.tag.0,
        })),
        Err(ReadError::Store(error)) if error.may_pass() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn write(
    store: &dyn Store,
    name: &CollectionName,
    body: Vec<u8>,
    tag: String,
) -> Result<Option<Reply>, CommitError> {
    let key = keys::pointer(name);
    match store
        .put(&key, Body::Bytes(body.into()), Precondition::Matches(Tag(tag)))
        .await
    {
        Ok(_) => Ok(Some(Reply::Written)),
        // A pointer that is not there has no tag either; the next read tells.
        Err(StoreError::PreconditionFailed { .. } | StoreError::NotFound { .. }) => Ok(Some(Reply::PreconditionFailed)),
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(StoreError::NoAnswer { .. } | StoreError::Io { .. }) => Ok(Some(Reply::NoAnswer)),
        Err(error) => Err(error.into()),
    }
}
