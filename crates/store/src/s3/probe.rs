//! Trying a store out at the start: what the commit protocol stands on is asked for, and a store that ignores it is
//! refused by the name of the missing promise.
//!
//! Deliberately absent: races. A store that checks conditions and then writes without holding anything passes here; the
//! conformance suite finds it.

use bytes::Bytes;

use super::Inner;
use super::error::{Promise, S3Error};
use crate::commit::nonce;
use crate::error::StoreError;
use crate::object::{Get, Precondition, Tag};

/// Where objects of a trial lie: a part of a key that begins with a dot is of no object of ours.
const FOLDER: &str = ".verdigris-probe";
/// Answers to a condition that another write meets (409) are asked for so often.
const TRIES: u32 = 5;

/// What became of a write.
enum Wrote {
    Made(Tag),
    Refused,
}

struct Trial<'a> {
    inner: &'a Inner,
    name: String,
    object: String,
}

/// Tries the store out, again from the start where it gave no answer. It leaves nothing there.
pub(super) async fn probe(inner: &Inner) -> Result<(), S3Error> {
    let mut failures = 0;
    loop {
        match once(inner).await {
            Err(S3Error::Probe { source, .. }) if source.may_pass() && failures + 1 < inner.options.attempts => {
                tokio::time::sleep(super::retry::wait(failures)).await;
                failures += 1;
            }
            tried => return tried,
        }
    }
}

async fn once(inner: &Inner) -> Result<(), S3Error> {
    let name = format!("{FOLDER}/{}", nonce());
    let object = format!("{}{name}", inner.prefix);
    let trial = Trial { inner, name, object };
    let tried = trial.run().await;
    let removed = inner.delete(&trial.name, &trial.object).await;
    tried?;
    removed.map_err(|source| trial.failed(source))
}

impl Trial<'_> {
    async fn run(&self) -> Result<(), S3Error> {
        let Wrote::Made(first) = self.write("first", Precondition::Absent).await? else {
            return Err(self.missing(Promise::ReadAfterWrite));
        };
        self.is_refused("second", Precondition::Absent, Promise::CreateOnly)
            .await?;
        let Wrote::Made(second) = self.write("third", Precondition::Matches(first.clone())).await? else {
            return Err(self.missing(Promise::SwapByOwnTag));
        };
        if first == second {
            return Err(self.missing(Promise::Tags));
        }
        self.is_refused("fourth", Precondition::Matches(first), Promise::Swap)
            .await?;
        self.reads(&second).await?;
        self.inner
            .delete(&self.name, &self.object)
            .await
            .map_err(|source| self.failed(source))?;
        self.is_refused("fifth", Precondition::Matches(second), Promise::SwapOfNothing)
            .await
    }

    /// The object holds `third` now.
    async fn reads(&self, tag: &Tag) -> Result<(), S3Error> {
        let get = self.inner.get(&self.name, &self.object, None).await;
        let is_whole =
            |get: &Get| matches!(get, Get::Found { bytes, tag: read, .. } if bytes == "third" && read == tag);
        if !is_whole(&get.map_err(|source| self.failed(source))?) {
            return Err(self.missing(Promise::ReadAfterWrite));
        }
        match self.inner.get_part(&self.name, &self.object, &(1..3), Some(tag)).await {
            Ok(part) if part.bytes == "hi" => {}
            Ok(_) | Err(StoreError::Refused { .. }) => return Err(self.missing(Promise::Ranges)),
            Err(source) => return Err(self.failed(source)),
        }
        let bucket = &self.inner.options.bucket;
        let list = || async {
            let request = self.inner.client.list_objects_v2().bucket(bucket).prefix(&self.object);
            let sent = async { request.send().await.map_err(super::Seen::of) };
            self.inner.attempt(0, sent).await
        };
        let listed = self.inner.repeated(super::Seen::may_pass, list).await;
        let listed = listed.map_err(|seen| self.failed(seen.of_read(&self.name)))?;
        if !listed
            .contents()
            .iter()
            .any(|object| object.key() == Some(&self.object))
        {
            return Err(self.missing(Promise::ListAfterWrite));
        }
        Ok(())
    }

    async fn is_refused(
        &self,
        text: &'static str,
        precondition: Precondition,
        promise: Promise,
    ) -> Result<(), S3Error> {
        match self.write(text, precondition).await? {
            Wrote::Refused => Ok(()),
            Wrote::Made(_) => Err(self.missing(promise)),
        }
    }

    async fn write(&self, text: &'static str, precondition: Precondition) -> Result<Wrote, S3Error> {
        let mut tries = 0;
        loop {
            let bytes = Bytes::from_static(text.as_bytes());
            match self.inner.put(&self.name, &self.object, bytes, &precondition).await {
                Ok(tag) => return Ok(Wrote::Made(tag)),
                Err(StoreError::PreconditionFailed { .. } | StoreError::NotFound { .. }) => return Ok(Wrote::Refused),
                Err(StoreError::Conflict { .. }) if tries < TRIES => tries += 1,
                Err(source) => return Err(self.failed(source)),
            }
            tokio::time::sleep(super::retry::wait(tries)).await;
        }
    }

    fn missing(&self, promise: Promise) -> S3Error {
        S3Error::Promise {
            store: self.inner.describe(),
            promise,
        }
    }

    fn failed(&self, source: StoreError) -> S3Error {
        S3Error::Probe {
            store: self.inner.describe(),
            source,
        }
    }
}
