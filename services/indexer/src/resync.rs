//! Resync: a full feed makes a collection equal to it, as of the feed's moment, also when the log was replaced.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tonic::Status;
use verdigris_bus::ReadLimits;
use verdigris_core::document::DocumentState;
use verdigris_core::event::{Event, claimed_id};
use verdigris_core::names::CollectionName;
use verdigris_core::resync::{FeedMoment, fed, lacking, unread};
use verdigris_engine::error::EngineError;
use verdigris_engine::release::Release;
use verdigris_proto::admin::{ResyncRejection, ResyncResponse};
use verdigris_proto::reason::Reason;
use verdigris_store::collection as objects;

use crate::error::chain;
use crate::ingest::{Accepted, accept, status_of_bus, status_of_read};
use crate::{Command, Indexer};

/// Rejections that an answer holds at most.
const REJECTIONS_MAX: usize = 10_000;
/// Deletes per append.
const DELETES_PER_APPEND: usize = 1_000;
/// Events that are looked through at a time for what the feed lacks.
const UNREAD: ReadLimits = ReadLimits {
    events: 1_000,
    bytes: 8 << 20,
};

/// A resync under way.
pub(crate) struct Resync {
    indexer: Arc<Indexer>,
    name: CollectionName,
    moment: FeedMoment,
    release: Option<Arc<Release>>,
    seen: BTreeSet<String>,
    index: u64,
    /// Documents so damaged that not even their id can be read.
    nameless: u64,
    answer: ResyncResponse,
    /// Sequence of the last event before the feed.
    log_end: u64,
}

impl Resync {
    /// Opens the release that the feed is compared with.
    pub(crate) async fn begin(indexer: Arc<Indexer>, name: CollectionName, moment: FeedMoment) -> Result<Self, Status> {
        let store = &*indexer.deps().store;
        let pointer = objects::pointer(store, &name)
            .await
            .map_err(|error| status_of_read(&error))?
            .pointer;
        let release = match &pointer.active {
            None => None,
            Some(active) => {
                let manifest = objects::manifest(store, &name, &active.manifest).await;
                let manifest = manifest.map_err(|error| status_of_read(&error))?;
                let opened = indexer.deps().opener.open(Arc::new(manifest), None).await;
                Some(opened.map_err(|error| Reason::DataDamaged.status(chain(&error)))?)
            }
        };
        let (seen, answer) = (BTreeSet::new(), ResyncResponse::default());
        let bus = &indexer.deps().bus;
        if pointer.deleted_at.is_none() {
            // Events that came before anybody opened the log are its first.
            bus.open(&name).await.map_err(|error| status_of_bus(&error))?;
        }
        let log = bus.state(&name).await.map_err(|error| status_of_bus(&error))?;
        Ok(Self {
            log_end: log.last,
            indexer,
            name,
            moment,
            release,
            seen,
            index: 0,
            nameless: 0,
            answer,
        })
    }

    /// Appends documents of the feed.
    pub(crate) async fn documents(&mut self, documents: Vec<Bytes>) -> Result<(), Status> {
        let mut events = Vec::with_capacity(documents.len());
        let mut places = Vec::with_capacity(documents.len());
        for document in documents {
            let index = self.index;
            self.index += 1;
            let event = Event::parse(&document).and_then(|event| {
                let state = self.state(event.id.as_str());
                fed(self.moment, event, state.as_ref())
            });
            match event {
                Ok(event) => {
                    self.seen.insert(event.id.as_str().to_owned());
                    events.push(Bytes::from(event.to_payload()));
                    places.push(index);
                }
                Err(refused) => {
                    // What the feed has in a form that is refused is not lacking: it stays as it is.
                    match claimed_id(&document) {
                        Some(id) => {
                            self.seen.insert(id);
                        }
                        None => self.nameless += 1,
                    }
                    self.reject(index, refused.reason(), refused.to_string());
                }
            }
        }
        let accepted = accept(&self.indexer, &self.name, events).await?;
        for (at, refused) in &accepted.rejections {
            self.reject(places[*at as usize], refused.reason(), refused.to_string());
        }
        self.count(&accepted);
        Ok(())
    }

    /// Deletes what the feed lacks, and goes on with the log that is there now.
    pub(crate) async fn finish(mut self) -> Result<ResyncResponse, Status> {
        if self.nameless > 0 {
            let message = format!(
                "{} documents of the feed have no id that can be read, so what it lacks cannot be told: nothing was deleted",
                self.nameless
            );
            return Err(Reason::InvalidArgument.status_for_field("documents", message));
        }
        let mut lacking = self.unread().await?;
        if let Some(release) = self.release.clone() {
            let (seen, moment) = (std::mem::take(&mut self.seen), self.moment);
            let work = tokio::task::spawn_blocking(move || deletes(&release, &seen, moment)).await;
            let deletes = work.map_err(|error| Reason::Internal.status(error.to_string()))?;
            let deletes = deletes.map_err(|error| Reason::DataDamaged.status(chain(&error)))?;
            self.answer.deleted = deletes.len() as u64;
            lacking.extend(deletes);
        }
        for batch in lacking.chunks(DELETES_PER_APPEND) {
            let accepted = accept(&self.indexer, &self.name, batch.to_vec()).await?;
            self.count(&accepted);
        }
        let Some(handle) = self.indexer.handle(&self.name) else {
            return Err(Reason::CollectionNotFound.status(format!("collection {} does not exist", self.name)));
        };
        let (done, adopted) = oneshot::channel();
        handle.send(Command::AdoptStream { done }).await;
        match adopted.await {
            Ok(Ok(())) => Ok(self.answer),
            Ok(Err(error)) => Err(error.standstill().reason.status(chain(&error))),
            Err(_) => Err(Reason::ShuttingDown.status("the server is shutting down")),
        }
    }

    /// Deletes of documents that the feed lacks, and that only events tell of which nobody has read yet: the log is read
    /// on after the feed was, from its checkpoint or, where that does not fit, from its beginning.
    async fn unread(&self) -> Result<Vec<Bytes>, Status> {
        let (bus, name) = (&self.indexer.deps().bus, &self.name);
        let log = bus.state(name).await.map_err(|error| status_of_bus(&error))?;
        let handle = self.indexer.handle(name);
        let standstill = handle.and_then(|handle| handle.status.standstill());
        let checkpoint = self.release.as_ref().map(|release| &release.manifest().checkpoint);
        let mut after = match checkpoint {
            Some(read) if read.stream == log.identity && !standstill.is_some_and(|why| why.is_misfit()) => {
                read.sequence
            }
            _ => log.first_kept.saturating_sub(1),
        };
        let mut lacking = BTreeSet::new();
        // Whoever read another log up to there must not be taken for one that goes on in this one.
        bus.digest_at(name, after)
            .await
            .map_err(|error| status_of_bus(&error))?;
        while after < self.log_end {
            let events = bus.read(name, after, UNREAD).await;
            let events = events.map_err(|error| status_of_bus(&error))?;
            let Some(last) = events.last() else { break };
            after = last.sequence;
            let before_feed = events.iter().filter(|event| event.sequence <= self.log_end);
            let parsed = before_feed.filter_map(|event| Event::parse(&event.payload).ok());
            let ids = parsed
                .map(|event| event.id)
                .filter(|id| !self.seen.contains(id.as_str()));
            lacking.extend(ids.filter(|id| !self.state(id.as_str()).is_some_and(|state| state.exists())));
        }
        let deletes = lacking
            .iter()
            .map(|id| Bytes::from(unread(self.moment, id).to_payload()));
        Ok(deletes.collect())
    }

    fn state(&self, id: &str) -> Option<DocumentState> {
        let release = self.release.as_ref()?;
        let place = release.find(id)?;
        release.state(place).ok().map(|(_, state)| state)
    }

    fn count(&mut self, accepted: &Accepted) {
        self.answer.accepted += accepted.accepted;
        if let (true, Some(position)) = (self.answer.first_position.is_empty(), accepted.first) {
            self.answer.first_position = position.to_string();
        }
        if let Some(position) = accepted.last {
            self.answer.last_position = position.to_string();
        }
    }

    fn reject(&mut self, index: u64, reason: &str, message: String) {
        self.answer.rejected += 1;
        if self.answer.rejections.len() < REJECTIONS_MAX {
            self.answer.rejections.push(ResyncRejection {
                index,
                reason: reason.to_owned(),
                message,
            });
        }
    }
}

fn deletes(release: &Release, seen: &BTreeSet<String>, moment: FeedMoment) -> Result<Vec<Bytes>, EngineError> {
    let mut deletes = Vec::new();
    for place in release.live_rows().filter(|place| release.has_vector(*place)) {
        if seen.contains(&release.id(place)?) {
            continue;
        }
        let (_, state) = release.state(place)?;
        deletes.extend(lacking(moment, &state).map(|event| Bytes::from(event.to_payload())));
    }
    Ok(deletes)
}
