//! The trait that every bus implements, and what goes through it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_core::checkpoint::StreamFacts;
use verdigris_core::digest::Digest;
use verdigris_core::event::{ENVELOPE_BYTES_MAX, EVENT_BYTES_MAX};
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use crate::error::BusError;

/// The largest payload: any event that can be parsed, and as much again, since a replayed one may be spelled longer.
pub const PAYLOAD_BYTES_MAX: usize = 2 * (EVENT_BYTES_MAX + ENVELOPE_BYTES_MAX);
/// The most events of one append: the largest batch that core cuts.
pub const APPEND_EVENTS_MAX: usize = verdigris_core::event::BATCH_EVENTS_MAX;
/// The most bytes of one append: it is one transaction, held in memory until it is durable.
pub const APPEND_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Where accept times come from: nanoseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A log of events for each collection.
#[async_trait]
pub trait Bus: Send + Sync {
    /// The identity of the collection's stream, which is made where there is none.
    async fn open(&self, collection: &CollectionName) -> Result<StreamIdentity, BusError>;

    /// Appends all events or none, making the stream where there is none; they are durable when it returns. An append that
    /// is dropped, or that ends in an error other than a refusal, may have happened, on a broker in part too: events may
    /// come twice, and do no harm then.
    async fn append(&self, collection: &CollectionName, events: Vec<NewEvent>) -> Result<Appended, BusError>;

    /// The events after sequence `after`, in order and without one left out, up to the limits; empty at the end, and where
    /// there is no stream. Numbers in between may be those of other collections. [`BusError::Trimmed`] where events after
    /// `after` are gone, or may be; [`BusError::StreamChanged`] where the event at `after`, which was read or compared
    /// here, is another one now.
    async fn read(
        &self,
        collection: &CollectionName,
        after: u64,
        limits: ReadLimits,
    ) -> Result<Vec<BusEvent>, BusError>;

    /// Returns once there is an event after sequence `after`; waits through an outage. Cancel safe.
    async fn wait(&self, collection: &CollectionName, after: u64) -> Result<(), BusError>;

    /// What there is of the collection's stream; [`BusError::UnknownCollection`] where there is none.
    async fn state(&self, collection: &CollectionName) -> Result<StreamState, BusError>;

    /// How many events there are after sequence `after`.
    async fn unread(&self, collection: &CollectionName, after: u64) -> Result<u64, BusError>;

    /// When the oldest event after sequence `after` was accepted: the age of the oldest unread one.
    async fn oldest_after(&self, collection: &CollectionName, after: u64) -> Result<Option<i64>, BusError>;

    /// [`BusEvent::digest`] of the event at `sequence`, if it is there: what a checkpoint is compared with. Where another
    /// collection's event is in that place, a digest that fits none of this one's.
    async fn digest_at(&self, collection: &CollectionName, sequence: u64) -> Result<Option<Digest>, BusError>;

    /// Removes old events as far as `retention` says, in one bounded step, and returns how many. Call again until it is 0.
    /// To be called all the time: where a broker removes events by itself, this notes of which collection they were none.
    async fn retain(&self, collection: &CollectionName, retention: Retention, now_ns: i64) -> Result<u64, BusError>;

    /// The collections that have a stream, sorted.
    async fn collections(&self) -> Result<Vec<CollectionName>, BusError>;

    /// Removes the collection's stream. A later one of that name has another identity. No error where there is none.
    async fn forget(&self, collection: &CollectionName) -> Result<(), BusError>;
}

/// An event to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The event as it came.
    pub payload: Bytes,
}

/// Where appended events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The stream that they are in.
    pub stream: StreamIdentity,
    /// Sequence of the first.
    pub first: u64,
    /// Sequence of the last. Others may have come in between.
    pub last: u64,
    /// Accept time of the last, in nanoseconds since the epoch, where it costs nothing to know.
    pub accepted_at_ns: Option<i64>,
}

/// An event in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusEvent {
    /// Its number in the stream.
    pub sequence: u64,
    /// When it was accepted, in nanoseconds since the epoch; strictly increasing within a stream, as far as a broker's clock
    /// does not go back.
    pub accepted_at_ns: i64,
    /// The event as it came.
    pub payload: Bytes,
}

impl BusEvent {
    /// Digest of accept time and payload, which are all that the event means: for the checkpoint.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.accepted_at_ns.to_le_bytes());
        hasher.update(&self.payload);
        hasher.finalize().into()
    }
}

/// How much one read returns. One event is always returned, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// The most events.
    pub events: u64,
    /// The most bytes of payloads.
    pub bytes: u64,
}

/// What a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// Tells this life of the stream from another.
    pub identity: StreamIdentity,
    /// The sequence from which on no event is missing: 1 while none was removed; `last + 1` where none is there.
    pub first_kept: u64,
    /// The last sequence that there ever was; 0 before the first.
    pub last: u64,
    /// Bytes of the payloads that are there, where the bus counts them by collection.
    pub bytes: Option<u64>,
    /// Accept time of the last event, in nanoseconds since the epoch.
    pub last_accepted_at_ns: Option<i64>,
}

/// What may be removed: what is older than `age_ns`, and the oldest beyond `bytes`; never what a checkpoint needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Nanoseconds since an event was accepted.
    pub age_ns: i64,
    /// Bytes of payloads, where the bus counts them by collection; a broker has a limit for the whole stream.
    pub bytes: u64,
    /// Sequence of the oldest kept checkpoint. The event there stays too, since the checkpoint is compared with it.
    pub never_past: u64,
}

/// Refuses what no bus takes; the bytes of what it does.
pub(crate) fn check_append(collection: &CollectionName, events: &[NewEvent]) -> Result<usize, BusError> {
    if events.is_empty() {
        return Err(BusError::NothingToAppend(collection.clone()));
    }
    if events.len() > APPEND_EVENTS_MAX {
        return Err(BusError::TooManyEvents { events: events.len() });
    }
    let mut bytes = 0;
    for (index, event) in events.iter().enumerate() {
        if event.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BusError::PayloadTooLarge {
                index,
                bytes: event.payload.len(),
            });
        }
        bytes += event.payload.len();
    }
    if bytes > APPEND_BYTES_MAX {
        Err(BusError::AppendTooLarge { bytes })
    } else {
        Ok(bytes)
    }
}

/// What core compares a checkpoint at `sequence` with.
pub async fn facts(bus: &dyn Bus, collection: &CollectionName, sequence: u64) -> Result<StreamFacts, BusError> {
    let state = bus.state(collection).await?;
    Ok(StreamFacts {
        identity: state.identity,
        first_kept: state.first_kept,
        last: state.last,
        digest_at_checkpoint: bus.digest_at(collection, sequence).await?,
    })
}
