//! The embedded bus: one SQLite file per data folder, in WAL mode with synchronous=FULL.
//!
//! Safe with several processes at the same file, so that a command can append while a server reads. What SQLite does
//! with torn pages and half-written logs after a power cut is trusted, not repeated here.

mod file;
mod readers;
mod watcher;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot};
use verdigris_core::digest::Digest;
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use self::readers::Readers;
use self::watcher::{POLL_INTERVAL, Watcher};
use self::writer::{QUEUE_REQUESTS_MAX, Reply, Request, Writer};
use crate::bus::{
    APPEND_BYTES_MAX, Appended, Bus, BusEvent, Clock, NewEvent, ReadLimits, Retention, StreamState, check_append,
};
use crate::error::BusError;

/// Bytes of payloads that wait to be written: two of the largest appends, so that one is gathered while one is written.
const QUEUE_BYTES_MAX: usize = 2 * APPEND_BYTES_MAX;

/// How a file is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct SqliteOptions {
    /// The most bytes that the file may have; an append that needs more is refused as [`BusError::Full`].
    pub bytes_max: Option<u64>,
}

/// A bus in one SQLite file.
///
/// Dropping it, or [`SqliteBus::close`], writes what waits and ends its thread.
pub struct SqliteBus {
    path: PathBuf,
    requests: Option<mpsc::Sender<Request>>,
    room: Arc<Semaphore>,
    readers: Arc<Readers>,
    watcher: Arc<Watcher>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteBus {
    /// Opens the file at `path` and makes it where there is none; its folder must be there. Blocking, for milliseconds.
    /// Errors name a file that is damaged, foreign, of a later format, or not writable.
    pub fn open(path: &Path, options: SqliteOptions, clock: Clock) -> Result<Self, BusError> {
        let connection = file::open_writer(path, options.bytes_max)?;
        let watcher = Arc::new(Watcher::new(path)?);
        let (requests, receiver) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let writer = Writer {
            connection,
            path: path.to_owned(),
            clock,
            watcher: watcher.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("bus-writer".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| BusError::Thread(Arc::new(error)))?;
        Ok(Self {
            path: path.to_owned(),
            requests: Some(requests),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            readers: Readers::new(path),
            watcher,
            thread: Some(thread),
        })
    }

    /// Writes what waits and closes the file. Blocking.
    pub fn close(self) {}

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, BusError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(BusError::Closed)?;
        requests.send(request(reply)).await.map_err(|_| BusError::Closed)?;
        answer.await.map_err(|_| BusError::Closed)?
    }

    async fn look_for_others(&self) -> Result<(), BusError> {
        let (watcher, path) = (self.watcher.clone(), self.path.clone());
        let looked = tokio::task::spawn_blocking(move || watcher.look(&path)).await;
        if looked.map_err(|_| BusError::Closed)?? {
            self.watcher.found(self.readers.run(readers::lasts).await?);
        }
        Ok(())
    }
}

impl Drop for SqliteBus {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was printed when it happened; callers got `Closed`.
            drop(thread.join());
        }
    }
}

#[async_trait]
impl Bus for SqliteBus {
    async fn open(&self, collection: &CollectionName) -> Result<StreamIdentity, BusError> {
        let wanted = collection.clone();
        let stream = self
            .readers
            .run(move |connection| Ok(readers::stream(connection, &wanted)?))
            .await?;
        if let Some(stream) = stream {
            return Ok(stream.state.identity);
        }
        let collection = collection.clone();
        self.ask(|reply| Request::Open { collection, reply }).await
    }

    async fn append(&self, collection: &CollectionName, events: Vec<NewEvent>) -> Result<Appended, BusError> {
        let bytes = check_append(collection, &events)?;
        let permits = u32::try_from(bytes).expect("an append has at most APPEND_BYTES_MAX");
        let room = self
            .room
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|_| BusError::Closed)?;
        let collection = collection.clone();
        self.ask(|reply| Request::Append {
            collection,
            events,
            room,
            reply,
        })
        .await
    }

    async fn read(
        &self,
        collection: &CollectionName,
        after: u64,
        limits: ReadLimits,
    ) -> Result<Vec<BusEvent>, BusError> {
        let collection = collection.clone();
        self.readers
            .run(move |connection| readers::events(connection, &collection, after, limits))
            .await
    }

    async fn wait(&self, collection: &CollectionName, after: u64) -> Result<(), BusError> {
        let mut lasts = self.watcher.subscribe();
        loop {
            if lasts
                .borrow_and_update()
                .get(collection)
                .is_some_and(|last| *last > after)
            {
                return Ok(());
            }
            if self.watcher.is_due() {
                self.look_for_others().await?;
                continue;
            }
            // Whichever comes first; the loop looks at the facts either way. The sender lives as long as `self`.
            drop(tokio::time::timeout(POLL_INTERVAL, lasts.changed()).await);
        }
    }

    async fn state(&self, collection: &CollectionName) -> Result<StreamState, BusError> {
        let wanted = collection.clone();
        let stream = self
            .readers
            .run(move |connection| Ok(readers::stream(connection, &wanted)?))
            .await?;
        stream
            .map(|stream| stream.state)
            .ok_or_else(|| BusError::UnknownCollection(collection.clone()))
    }

    async fn unread(&self, collection: &CollectionName, after: u64) -> Result<u64, BusError> {
        match self.state(collection).await {
            Ok(state) => Ok(state.last.saturating_sub(after)),
            Err(BusError::UnknownCollection(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    async fn oldest_after(&self, collection: &CollectionName, after: u64) -> Result<Option<i64>, BusError> {
        let collection = collection.clone();
        self.readers
            .run(move |connection| readers::oldest_after(connection, &collection, after))
            .await
    }

    async fn digest_at(&self, collection: &CollectionName, sequence: u64) -> Result<Option<Digest>, BusError> {
        let collection = collection.clone();
        let event = self
            .readers
            .run(move |connection| readers::event_at(connection, &collection, sequence))
            .await?;
        Ok(event.map(|event| event.digest()))
    }

    async fn retain(&self, collection: &CollectionName, retention: Retention, now_ns: i64) -> Result<u64, BusError> {
        let collection = collection.clone();
        self.ask(|reply| Request::Retain {
            collection,
            retention,
            now_ns,
            reply,
        })
        .await
    }

    async fn collections(&self) -> Result<Vec<CollectionName>, BusError> {
        let lasts = self.readers.run(readers::lasts).await?;
        Ok(lasts.into_keys().collect())
    }

    async fn forget(&self, collection: &CollectionName) -> Result<(), BusError> {
        let collection = collection.clone();
        self.ask(|reply| Request::Forget { collection, reply }).await
    }
}
