//! Carrying out a swing: the I/O around `core::commit`, with a bounded number of steps and growing waits.

use std::time::Duration;

use verdigris_core::commit::{Commit, Outcome, Reply, Step};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, Pointer};

use crate::collection;
use crate::error::{CommitError, ReadError, StoreError};
use crate::keys;
use crate::object::{Body, Precondition, Store, Tag};

/// Steps of one swing: enough for many swings of others in between and for an outage of some seconds.
const STEPS_MAX: u32 = 60;
/// The first wait after an error.
const WAIT_FIRST: Duration = Duration::from_millis(2);
/// The longest wait between two steps.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// A nonce for a swing: 96 random bits in hexadecimal.
pub fn nonce() -> String {
    format!("{:016x}{:08x}", rand::random::<u64>(), rand::random::<u32>())
}

/// Swings the pointer by `edit`, which must give its result this nonce. Cancelling it leaves the outcome unknown: the
/// writer then starts again from the pointer.
pub async fn swing(
    store: &dyn Store,
    name: &CollectionName,
    nonce: String,
    edit: impl FnMut(&Pointer) -> Result<Pointer, EditRefused> + Send,
) -> Result<Pointer, CommitError> {
    let key = keys::pointer(name);
    let mut commit = Commit::new(nonce, edit);
    let mut wait = WAIT_FIRST;
    let mut wrote = false;
    for _ in 0..STEPS_MAX {
        let reply = match commit.step() {
            Step::Done(Outcome::Committed(pointer)) => return Ok(*pointer),
            Step::Done(Outcome::Lost(refused)) => return Err(refused.into()),
            Step::Done(Outcome::Unknown) => return Err(CommitError::Unknown(key)),
            Step::Read => match collection::pointer(store, name).await {
                Ok(seen) => Some(Reply::Pointer {
                    pointer: Box::new(seen.pointer),
                    tag: seen.tag.0,
                }),
                Err(ReadError::Store(StoreError::NoAnswer { .. } | StoreError::Io { .. })) => None,
                Err(error) => return Err(error.into()),
            },
            Step::Write { body, tag } => {
                wrote = true;
                match store
                    .put(&key, Body::Bytes(body.into()), Precondition::Matches(Tag(tag)))
                    .await
                {
                    Ok(_) => Some(Reply::Written),
                    Err(StoreError::PreconditionFailed { .. }) => Some(Reply::PreconditionFailed),
                    Err(StoreError::NoAnswer { .. } | StoreError::Io { .. }) => Some(Reply::NoAnswer),
                    // The store says that nothing was written, and why.
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let waits = matches!(reply, None | Some(Reply::NoAnswer));
        if let Some(reply) = reply {
            commit.reply(reply);
        }
        if waits {
            tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>())).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
    Err(if wrote {
        CommitError::Unknown(key)
    } else {
        StoreError::NoAnswer { key }.into()
    })
}
