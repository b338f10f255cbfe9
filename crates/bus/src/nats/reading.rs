//! Reading on: an ordered consumer for each reader, which goes on where the last read ended.

use std::collections::VecDeque;
use std::sync::Mutex;

use verdigris_core::digest::Digest;
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use super::error::NatsError;
use super::link::Link;
use super::message;
use super::pull::{Begin, Consumer, Request, Selection};
use crate::bus::{BusEvent, ReadLimits};

/// Messages that are asked for at once.
const PULL_MESSAGES: u64 = 2_000;
/// Bytes that are asked for at once: a reader holds so many beyond what it returns.
const PULL_BYTES: u64 = 8 * 1024 * 1024;
/// Readers that are kept for the next read; the one that was idle longest goes.
const SESSIONS_MAX: usize = 64;
/// Places of each collection whose events are remembered.
const ANCHORS_MAX: usize = 8;

/// A reader in its place.
pub(super) struct Session {
    pub(super) collection: CollectionName,
    pub(super) identity: StreamIdentity,
    /// Sequence of the last event that it returned.
    pub(super) at: u64,
    ready: VecDeque<BusEvent>,
    consumer: Consumer,
    /// Whether its consumer must not be used again.
    pub(super) broken: bool,
}

impl Session {
    /// A reader of what follows `after`, in a life of the collection that begins after `from`.
    pub(super) async fn begin(
        link: &Link,
        collection: &CollectionName,
        identity: StreamIdentity,
        (after, from): (u64, u64),
    ) -> Result<Self, NatsError> {
        let selection = Selection {
            subject: link.events(collection),
            begin: Begin::At(after.max(from) + 1),
            headers_only: false,
        };
        Ok(Self {
            collection: collection.clone(),
            identity,
            at: after,
            ready: VecDeque::new(),
            consumer: Consumer::make(link, &selection).await?,
            broken: false,
        })
    }

    /// The events that follow, up to the limits; one at least, unless there is none.
    pub(super) async fn take(&mut self, link: &Link, limits: ReadLimits) -> Result<Vec<BusEvent>, NatsError> {
        let mut taken: Vec<BusEvent> = Vec::new();
        let mut bytes = 0;
        loop {
            while let Some(event) = self.ready.front() {
                bytes += event.payload.len() as u64;
                if !taken.is_empty() && bytes > limits.bytes {
                    return Ok(taken);
                }
                taken.extend(self.ready.pop_front());
                if taken.len() as u64 >= limits.events.max(1) {
                    return Ok(taken);
                }
            }
            let wanted = (limits.events.max(1) - taken.len() as u64).min(PULL_MESSAGES);
            match self.fill(link, wanted).await {
                Ok(()) if self.ready.is_empty() => return Ok(taken),
                Ok(()) => {}
                Err(error) => {
                    self.broken = true;
                    // What came before the error came whole and in order.
                    if self.ready.is_empty() {
                        return if taken.is_empty() { Err(error) } else { Ok(taken) };
                    }
                }
            }
        }
    }

    async fn fill(&mut self, link: &Link, messages: u64) -> Result<(), NatsError> {
        if self.broken {
            return Ok(());
        }
        for bytes in [PULL_BYTES, 0] {
            let request = Request {
                // A message that is larger than all of it goes alone.
                messages: if bytes == 0 { 1 } else { messages },
                bytes,
                wait: None,
            };
            let mut pull = self.consumer.pull(link, request).await?;
            while let Some(delivered) = pull.next().await? {
                let message = delivered.message;
                let event = message::event(
                    delivered.sequence,
                    delivered.time_ns,
                    message.headers.as_ref(),
                    message.payload,
                );
                self.ready.push_back(event);
            }
            if !pull.too_large || !self.ready.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The readers that are between two reads, longest idle first.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Vec<Session>>);

impl Sessions {
    pub(super) fn take(&self, collection: &CollectionName, after: u64) -> Option<Session> {
        let mut sessions = self.0.lock().expect("nothing panics with it");
        let place = sessions
            .iter()
            .position(|session| session.at == after && session.collection == *collection)?;
        Some(sessions.remove(place))
    }

    pub(super) fn put_back(&self, session: Session) {
        if session.broken {
            return;
        }
        let mut sessions = self.0.lock().expect("nothing panics with it");
        if sessions.len() >= SESSIONS_MAX {
            sessions.remove(0);
        }
        sessions.push(session);
    }
}

/// What is known of a place that somebody reads on from.
#[derive(Debug, Clone)]
pub(super) struct Anchor {
    pub(super) sequence: u64,
    pub(super) identity: StreamIdentity,
    /// Of the event there, if there was one.
    pub(super) digest: Option<Digest>,
}

/// The places that were read, or compared with a checkpoint, last.
#[derive(Default)]
pub(super) struct Anchors(Mutex<std::collections::BTreeMap<CollectionName, VecDeque<Anchor>>>);

impl Anchors {
    pub(super) fn put(&self, collection: &CollectionName, anchor: Anchor) {
        let mut all = self.0.lock().expect("nothing panics with it");
        let anchors = all.entry(collection.clone()).or_default();
        anchors.retain(|known| known.sequence != anchor.sequence);
        if anchors.len() >= ANCHORS_MAX {
            anchors.pop_front();
        }
        anchors.push_back(anchor);
    }

    pub(super) fn get(&self, collection: &CollectionName, sequence: u64) -> Option<Anchor> {
        let all = self.0.lock().expect("nothing panics with it");
        let anchors = all.get(collection)?;
        anchors.iter().find(|anchor| anchor.sequence == sequence).cloned()
    }

    pub(super) fn forget(&self, collection: &CollectionName) {
        self.0.lock().expect("nothing panics with it").remove(collection);
    }
}
