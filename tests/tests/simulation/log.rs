//! The bus of a story: one log in memory, and each process's way to it.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;
use verdigris_bus::{Appended, Bus, BusError, BusEvent, NewEvent, ReadLimits, Retention, StreamState};
use verdigris_core::digest::Digest;
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use super::disk::Disk;
use super::seat::Seat;

struct Stream {
    identity: StreamIdentity,
    first_kept: u64,
    events: Vec<BusEvent>,
}

/// How a log is not the one that was read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replaced {
    Anew,
    Cut,
    Regrown,
}

/// The log of the only collection.
pub(crate) struct Log {
    stream: Mutex<Stream>,
    disk: Arc<Disk>,
    /// One for each process, so that they are told in the order in which they came.
    grown: Mutex<Vec<watch::Sender<u64>>>,
}

impl Log {
    pub(crate) fn new(identity: u128, disk: &Arc<Disk>) -> Arc<Self> {
        let stream = Stream {
            identity: StreamIdentity(identity),
            first_kept: 1,
            events: Vec::new(),
        };
        Arc::new(Self {
            stream: Mutex::new(stream),
            disk: disk.clone(),
            grown: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().expect("nobody panics with it")
    }

    /// Appends; the first sequence, and when each was accepted.
    pub(crate) fn append(&self, events: Vec<NewEvent>) -> Appended {
        let mut stream = self.lock();
        let first = stream.last() + 1;
        for event in events {
            let earliest = stream.events.last().map_or(0, |last| last.accepted_at_ns + 1);
            let event = BusEvent {
                sequence: stream.last() + 1,
                accepted_at_ns: self.disk.now().max(earliest),
                payload: event.payload,
            };
            stream.events.push(event);
        }
        let last = stream.last();
        let appended = Appended {
            stream: stream.identity,
            first,
            last,
            accepted_at_ns: stream.events.last().map(|event| event.accepted_at_ns),
        };
        drop(stream);
        for grown in self.grown.lock().expect("nobody panics with it").iter() {
            grown.send_replace(last);
        }
        appended
    }

    pub(crate) fn last(&self) -> u64 {
        self.lock().last()
    }

    /// The first event that is still kept.
    pub(crate) fn first_kept(&self) -> u64 {
        self.lock().first_kept
    }

    pub(crate) fn identity(&self) -> StreamIdentity {
        self.lock().identity
    }

    /// Makes the log another one under the same name: made anew, cut short, or cut short and grown again.
    pub(crate) fn replace(&self, how: Replaced) {
        let mut stream = self.lock();
        match how {
            Replaced::Anew => stream.identity = StreamIdentity(!stream.identity.0),
            Replaced::Cut | Replaced::Regrown => {
                let last = stream.events.pop();
                if let (Replaced::Regrown, Some(mut last)) = (how, last) {
                    last.accepted_at_ns += 1;
                    stream.events.push(last);
                }
            }
        }
    }

    /// Every event that there ever was, removed ones too.
    pub(crate) fn event(&self, sequence: u64) -> BusEvent {
        self.lock().events[sequence as usize - 1].clone()
    }
}

impl Stream {
    fn last(&self) -> u64 {
        self.events.len() as u64
    }

    fn kept(&self, sequence: u64) -> Option<&BusEvent> {
        if sequence < self.first_kept {
            return None;
        }
        self.events.get(sequence as usize - 1)
    }
}

/// One process's way to the log.
pub(crate) struct Ear {
    log: Arc<Log>,
    seat: Arc<Seat>,
    grown: watch::Sender<u64>,
}

impl Ear {
    pub(crate) fn new(log: &Arc<Log>, seat: &Arc<Seat>) -> Arc<Self> {
        let grown = watch::Sender::new(log.last());
        log.grown.lock().expect("nobody panics with it").push(grown.clone());
        Arc::new(Self {
            log: log.clone(),
            seat: seat.clone(),
            grown,
        })
    }
}

#[async_trait]
impl Bus for Ear {
    async fn open(&self, _: &CollectionName) -> Result<StreamIdentity, BusError> {
        self.seat.bus_call("open").await?;
        Ok(self.log.lock().identity)
    }

    async fn append(&self, _: &CollectionName, events: Vec<NewEvent>) -> Result<Appended, BusError> {
        self.seat.bus_call("append").await?;
        Ok(self.log.append(events))
    }

    async fn read(
        &self,
        collection: &CollectionName,
        after: u64,
        limits: ReadLimits,
    ) -> Result<Vec<BusEvent>, BusError> {
        self.seat.bus_call("read").await?;
        let stream = self.log.lock();
        if after + 1 < stream.first_kept {
            return Err(BusError::Trimmed {
                collection: collection.clone(),
                after,
                first_kept: stream.first_kept,
            });
        }
        let mut bytes = 0;
        let from = stream.events.iter().skip(after as usize);
        let fits = |event: &&BusEvent| {
            let is_first = bytes == 0;
            bytes += event.payload.len().max(1) as u64;
            is_first || bytes <= limits.bytes
        };
        Ok(from.take(limits.events as usize).take_while(fits).cloned().collect())
    }

    async fn wait(&self, _: &CollectionName, after: u64) -> Result<(), BusError> {
        self.seat.bus_call("wait").await?;
        let mut grown = self.grown.subscribe();
        // The sender lives as long as `self`.
        let _ = grown.wait_for(|last| *last > after).await;
        Ok(())
    }

    async fn state(&self, _: &CollectionName) -> Result<StreamState, BusError> {
        self.seat.bus_call("state").await?;
        let stream = self.log.lock();
        Ok(StreamState {
            identity: stream.identity,
            first_kept: stream.first_kept,
            last: stream.last(),
            bytes: None,
            last_accepted_at_ns: stream.events.last().map(|event| event.accepted_at_ns),
        })
    }

    async fn unread(&self, _: &CollectionName, after: u64) -> Result<u64, BusError> {
        Ok(self.log.lock().last().saturating_sub(after))
    }

    async fn oldest_after(&self, _: &CollectionName, after: u64) -> Result<Option<i64>, BusError> {
        let stream = self.log.lock();
        Ok(stream
            .kept((after + 1).max(stream.first_kept))
            .map(|event| event.accepted_at_ns))
    }

    async fn digest_at(&self, _: &CollectionName, sequence: u64) -> Result<Option<Digest>, BusError> {
        self.seat.bus_call("digest_at").await?;
        if sequence == 0 {
            return Ok(None);
        }
        Ok(self.log.lock().kept(sequence).map(BusEvent::digest))
    }

    async fn retain(&self, _: &CollectionName, retention: Retention, now_ns: i64) -> Result<u64, BusError> {
        self.seat.bus_call("retain").await?;
        let mut stream = self.log.lock();
        let mut removed = 0;
        while let Some(event) = stream.kept(stream.first_kept) {
            let is_old = now_ns - event.accepted_at_ns > retention.age_ns;
            if !is_old || event.sequence >= retention.never_past {
                break;
            }
            stream.first_kept += 1;
            removed += 1;
        }
        Ok(removed)
    }

    async fn collections(&self) -> Result<Vec<CollectionName>, BusError> {
        Ok(vec![super::name()])
    }

    async fn forget(&self, _: &CollectionName) -> Result<(), BusError> {
        Ok(())
    }
}
