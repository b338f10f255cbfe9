//! The bus of several machines: a NATS JetStream, one stream for all collections of a store prefix.
//!
//! Events of a collection are at the subject `{prefix}events.{collection}`; catalog systems may publish there directly.
//! Sequences are the stream's, so those of a collection leave numbers out. What the stream cannot tell of one collection
//! (whether an event that is gone was its own, and which of its lives this is) is in a mark beside the events.
//! A consumer is never asked what was read: the checkpoint is the manifest's, and nothing is acknowledged.
//!
//! Deliberately absent: JetStream domains, mirrors and work queues.

mod append;
mod error;
mod link;
mod mark;
mod message;
mod options;
mod pull;
mod reading;
mod retaining;
mod stream;
mod waiting;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use verdigris_core::digest::Digest;
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use self::append::Append;
pub use self::error::NatsError;
use self::link::{Link, Wanted};
use self::mark::Mark;
pub use self::options::NatsOptions;
use self::pull::{Begin, Consumer, Selection};
use self::reading::{Anchor, Anchors, Session, Sessions};
pub use self::stream::Unfit;
use self::waiting::Watcher;
use crate::bus::{Appended, Bus, BusEvent, NewEvent, ReadLimits, Retention, StreamState, check_append};
use crate::error::BusError;

/// Appends of one event under way at once, of one handle.
const SINGLES_MAX: usize = 256;
/// Appends of several: a broker takes 50 atomic batches of a stream at a time, from all handles.
const BATCHES_MAX: usize = 8;
/// How often a waiter looks by itself while the broker is away.
const OUTAGE_LOOK: Duration = Duration::from_millis(500);
/// How often a read begins anew because the collection was forgotten meanwhile.
const READS_MAX: usize = 3;

/// A bus in one JetStream.
pub struct NatsBus {
    link: Arc<Link>,
    append_timeout: Duration,
    singles: Semaphore,
    batches: Semaphore,
    sessions: Sessions,
    anchors: Anchors,
    watcher: Watcher,
    /// Identities of the collections that were appended to.
    identities: Mutex<BTreeMap<CollectionName, StreamIdentity>>,
}

impl NatsBus {
    /// Connects, finds the stream or makes it, and judges it.
    pub async fn connect(options: NatsOptions) -> Result<Self, NatsError> {
        let link = Link::connect(&options).await?;
        stream::find_or_make(&link, &options).await?;
        Ok(Self {
            link: Arc::new(link),
            append_timeout: options.append_timeout,
            singles: Semaphore::new(SINGLES_MAX),
            batches: Semaphore::new(BATCHES_MAX),
            sessions: Sessions::default(),
            anchors: Anchors::default(),
            watcher: Watcher::new(),
            identities: Mutex::default(),
        })
    }

    /// The mark of a collection that has a stream.
    async fn mark(&self, collection: &CollectionName) -> Result<Option<Mark>, NatsError> {
        let placed = mark::read(&self.link, collection).await?;
        Ok(placed.map(|placed| placed.mark).filter(|mark| !mark.forgotten))
    }

    /// Whether all that followed `after` was there when it was read, to be asked after that; the mark it is told by.
    async fn check(&self, collection: &CollectionName, after: u64) -> Result<Option<Mark>, BusError> {
        let anchor = self.anchors.get(collection, after);
        let expected = anchor.as_ref().and_then(|anchor| anchor.digest);
        let there = async {
            match expected {
                Some(_) => self.link.message(Wanted::At(after)).await,
                None => Ok(None),
            }
        };
        let (info, mark, there) = futures::try_join!(self.link.info(), self.mark(collection), there)?;
        let changed = || BusError::StreamChanged(collection.clone());
        let Some(mark) = mark else {
            return if anchor.is_none() { Ok(None) } else { Err(changed()) };
        };
        if anchor.is_some_and(|anchor| anchor.identity != mark.identity) {
            return Err(changed());
        }
        let (first, subject) = (info.first(), self.link.events(collection));
        let first_kept = mark.kept(first);
        if after.saturating_add(1) < first_kept {
            return Err(BusError::Trimmed {
                collection: collection.clone(),
                after,
                first_kept,
            });
        }
        match (expected, there) {
            (Some(expected), Some(there)) if there.clone().digest(&subject) != expected => Err(changed()),
            (Some(_), None) if mark.covers(after, first) => Err(changed()),
            _ => Ok(Some(mark)),
        }
    }

    /// Reads once; the reader to go on with, and what it read.
    async fn read_on(
        &self,
        collection: &CollectionName,
        after: u64,
        limits: ReadLimits,
    ) -> Result<Option<(Session, Vec<BusEvent>)>, NatsError> {
        if let Some(mut session) = self.sessions.take(collection, after) {
            match session.take(&self.link, limits).await {
                Ok(events) => return Ok(Some((session, events))),
                // The broker forgot its consumer, or went away: a new one goes on in the same place.
                Err(error) => tracing::debug!(%collection, %error, "reading goes on with another consumer"),
            }
        }
        let Some(mark) = self.mark(collection).await? else {
            return Ok(None);
        };
        let mut session = Session::begin(&self.link, collection, mark.identity, (after, mark.from)).await?;
        let events = session.take(&self.link, limits).await?;
        Ok(Some((session, events)))
    }

    fn known_identity(&self, collection: &CollectionName) -> Option<StreamIdentity> {
        let identities = self.identities.lock().expect("nothing panics with it");
        identities.get(collection).copied()
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn open(&self, collection: &CollectionName) -> Result<StreamIdentity, BusError> {
        if let Some(mark) = self.mark(collection).await? {
            return Ok(mark.identity);
        }
        let mark = mark::open(&self.link, collection, rand::random()).await?;
        let mark = mark.ok_or_else(|| BusError::UnknownCollection(collection.clone()))?;
        Ok(mark.identity)
    }

    async fn append(&self, collection: &CollectionName, events: Vec<NewEvent>) -> Result<Appended, BusError> {
        check_append(collection, &events)?;
        let deadline = Instant::now() + self.append_timeout;
        let room = if events.len() > 1 { &self.batches } else { &self.singles };
        let permit = room.acquire().await.map_err(|_| BusError::Closed)?;
        let mut append = Append {
            link: &self.link,
            subject: self.link.events(collection),
            events: &events,
            nonce: rand::random(),
            batches: false,
            deadline,
        };
        append.check()?;
        let known = self.known_identity(collection);
        let identity = match known {
            Some(identity) => identity,
            None => self.open(collection).await?,
        };
        append.batches = events.len() > 1 && self.link.info().await?.takes_batches();
        let (first, last) = append.run().await?;
        drop(permit);
        // Whoever forgot the collection meanwhile may have forgotten these events, or have them belong to its next life.
        let now = self.mark(collection).await?;
        let stream = match now {
            Some(mark) if mark.identity == identity => identity,
            _ => self.open(collection).await?,
        };
        let mut identities = self.identities.lock().expect("nothing panics with it");
        identities.insert(collection.clone(), stream);
        Ok(Appended {
            stream,
            first,
            last,
            accepted_at_ns: None,
        })
    }

    async fn read(
        &self,
        collection: &CollectionName,
        after: u64,
        limits: ReadLimits,
    ) -> Result<Vec<BusEvent>, BusError> {
        for _ in 0..READS_MAX {
            // Beyond what a broker can count there is nothing.
            let read = match after {
                0..=0x7fff_ffff_ffff_ffff => self.read_on(collection, after, limits).await?,
                _ => None,
            };
            let mark = self.check(collection, after).await?;
            let (Some((mut session, events)), Some(mark)) = (read, mark) else {
                return Ok(Vec::new());
            };
            if session.identity != mark.identity || events.first().is_some_and(|event| event.sequence <= mark.from) {
                continue;
            }
            if let Some(last) = events.last() {
                session.at = last.sequence;
                self.anchors.put(
                    collection,
                    Anchor {
                        sequence: last.sequence,
                        identity: mark.identity,
                        digest: Some(last.digest()),
                    },
                );
            }
            self.sessions.put_back(session);
            return Ok(events);
        }
        Err(BusError::StreamChanged(collection.clone()))
    }

    async fn wait(&self, collection: &CollectionName, after: u64) -> Result<(), BusError> {
        let (mut last, mut begun) = self.watcher.subscribe(&self.link, &self.link.events(collection));
        loop {
            begun.mark_unchanged();
            let from = match self.check(collection, after).await {
                Ok(mark) => mark.map_or(0, |mark| mark.from),
                Err(BusError::Nats(error)) if error.is_outage() => {
                    drop(tokio::time::timeout(OUTAGE_LOOK, begun.changed()).await);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Both senders live as long as `self`.
            let grown = async { last.wait_for(|last| *last > after.max(from)).await.map(drop) };
            tokio::select! {
                grown = grown => return grown.map_err(|_| BusError::Closed),
                _ = begun.changed() => {}
            }
        }
    }

    async fn state(&self, collection: &CollectionName) -> Result<StreamState, BusError> {
        // The beginning before the last event: what is removed in between was before it.
        let (info, mark) = futures::try_join!(self.link.info(), self.mark(collection))?;
        let mark = mark.ok_or_else(|| BusError::UnknownCollection(collection.clone()))?;
        let last = self.link.message(Wanted::Last(self.link.events(collection))).await?;
        let last = last.filter(|last| last.sequence > mark.from);
        let first = info.first();
        let event = last.map(|raw| message::event(raw.sequence, raw.time_ns, Some(&raw.headers), raw.payload));
        Ok(StreamState {
            identity: mark.identity,
            first_kept: mark.kept(first),
            last: mark.last(first, event.as_ref().map(|event| event.sequence)),
            bytes: None,
            last_accepted_at_ns: event.map(|event| event.accepted_at_ns),
        })
    }

    async fn unread(&self, collection: &CollectionName, after: u64) -> Result<u64, BusError> {
        let Some(mark) = self.mark(collection).await? else {
            return Ok(0);
        };
        let selection = Selection {
            subject: self.link.events(collection),
            begin: Begin::At(after.max(mark.from).saturating_add(1)),
            headers_only: true,
        };
        let consumer = Consumer::make(&self.link, &selection).await?;
        let pending = consumer.pending;
        consumer.remove(&self.link).await;
        Ok(pending)
    }

    async fn oldest_after(&self, collection: &CollectionName, after: u64) -> Result<Option<i64>, BusError> {
        let Some(mark) = self.mark(collection).await? else {
            return Ok(None);
        };
        let after = after.max(mark.from).saturating_add(1);
        let found = self
            .link
            .message(Wanted::Next(after, self.link.events(collection)))
            .await?;
        let event = found.map(|raw| message::event(raw.sequence, raw.time_ns, Some(&raw.headers), raw.payload));
        Ok(event.map(|event| event.accepted_at_ns))
    }

    async fn digest_at(&self, collection: &CollectionName, sequence: u64) -> Result<Option<Digest>, BusError> {
        let found = self.link.message(Wanted::At(sequence));
        let (mark, found) = futures::try_join!(self.mark(collection), found)?;
        let Some(mark) = mark else {
            return Ok(None);
        };
        let digest = found
            .filter(|found| found.sequence > mark.from)
            .map(|found| found.digest(&self.link.events(collection)));
        self.anchors.put(
            collection,
            Anchor {
                sequence,
                identity: mark.identity,
                digest,
            },
        );
        Ok(digest)
    }

    async fn retain(&self, collection: &CollectionName, retention: Retention, now_ns: i64) -> Result<u64, BusError> {
        Ok(retaining::retain(&self.link, collection, &retention, now_ns).await?)
    }

    async fn collections(&self) -> Result<Vec<CollectionName>, BusError> {
        let mut names = Vec::new();
        for name in self.link.marked().await? {
            if self.mark(&name).await?.is_some() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    async fn forget(&self, collection: &CollectionName) -> Result<(), BusError> {
        let end = self.link.info().await?.state.end;
        let changed = mark::change(&self.link, collection, |found| {
            let mark = &found?.mark;
            (!mark.forgotten).then(|| Mark {
                forgotten: true,
                from: end.max(mark.from),
                ..mark.clone()
            })
        })
        .await?;
        self.anchors.forget(collection);
        self.identities
            .lock()
            .expect("nothing panics with it")
            .remove(collection);
        if let Some(mark) = changed.filter(|mark| mark.forgotten) {
            retaining::purge(&self.link, &self.link.events(collection), mark.from + 1).await?;
        }
        Ok(())
    }
}
