//! Reading: a few connections of their own, each used by one blocking task at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::Semaphore;
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use super::file;
use crate::bus::{BusEvent, ReadLimits, StreamState};
use crate::error::BusError;

/// Reads at once: more only queue for the same disk.
const READERS_MAX: usize = 4;

/// The connections that are free.
pub(super) struct Readers {
    path: PathBuf,
    free: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(READERS_MAX));
        Arc::new(Self {
            path: path.to_owned(),
            free: Mutex::default(),
            permits,
        })
    }

    /// Runs `read` on a blocking thread, all of it in one transaction. Dropping the future lets a read that has
    /// begun end by itself.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, BusError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| BusError::Closed)?;
        let readers = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let result = readers.run_here(read);
            drop(permit);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(BusError::Closed),
        }
    }

    fn run_here<T>(&self, read: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, BusError> {
        let free = self.free.lock().expect("nothing panics while it holds the list").pop();
        let connection = free.map_or_else(|| file::open_reader(&self.path), Ok)?;
        let result = in_transaction(&connection, read).map_err(|error| match error {
            ReadError::Bus(error) => error,
            ReadError::Sqlite(error) => file::failure(&self.path, error),
            ReadError::Inconsistent(what) => BusError::Inconsistent {
                path: self.path.clone(),
                what,
            },
        });
        self.free
            .lock()
            .expect("nothing panics while it holds the list")
            .push(connection);
        result
    }
}

/// What a read ends with, before the file's name is known to it.
pub(super) enum ReadError {
    Sqlite(rusqlite::Error),
    Inconsistent(&'static str),
    Bus(BusError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn in_transaction<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let transaction = connection.unchecked_transaction()?;
    let result = read(&transaction)?;
    transaction.finish()?;
    Ok(result)
}

/// A row of `streams`.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    pub(super) number: i64,
    pub(super) state: StreamState,
}

impl Stream {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let identity: [u8; 16] = row.get(1)?;
        let state = StreamState {
            identity: StreamIdentity(u128::from_be_bytes(identity)),
            first_kept: row.get(2)?,
            last: row.get(3)?,
            bytes: Some(row.get(4)?),
            last_accepted_at_ns: row.get(5)?,
        };
        Ok(Self {
            number: row.get(0)?,
            state,
        })
    }
}

/// The stream of a collection.
pub(super) fn stream(connection: &Connection, collection: &CollectionName) -> rusqlite::Result<Option<Stream>> {
    let sql =
        "SELECT number, identity, first_kept, last, bytes, last_accepted_at_ns FROM streams WHERE collection = ?1";
    connection
        .prepare_cached(sql)?
        .query_row([collection.as_str()], Stream::from_row)
        .optional()
}

/// The events after `after`.
pub(super) fn events(
    connection: &Connection,
    collection: &CollectionName,
    after: u64,
    limits: ReadLimits,
) -> Result<Vec<BusEvent>, ReadError> {
    let Some(Stream { number, state }) = stream(connection, collection)? else {
        return Ok(Vec::new());
    };
    if after.saturating_add(1) < state.first_kept {
        let (collection, first_kept) = (collection.clone(), state.first_kept);
        return Err(ReadError::Bus(BusError::Trimmed {
            collection,
            after,
            first_kept,
        }));
    }
    if after >= state.last {
        return Ok(Vec::new());
    }
    let sql =
        "SELECT sequence, accepted_at_ns, payload FROM events WHERE stream = ?1 AND sequence > ?2 ORDER BY sequence";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((number, after))?;
    let mut events: Vec<BusEvent> = Vec::new();
    let mut bytes = 0;
    while (events.len() as u64) < limits.events.max(1) {
        let expected = after + 1 + events.len() as u64;
        let Some(row) = rows.next()? else {
            if expected <= state.last {
                return Err(ReadError::Inconsistent("events are missing at its end"));
            }
            break;
        };
        let payload = row
            .get_ref(2)?
            .as_blob()
            .map_err(|_| ReadError::Inconsistent("a payload is no blob"))?;
        bytes += payload.len() as u64;
        if bytes > limits.bytes && !events.is_empty() {
            break;
        }
        let event = BusEvent {
            sequence: row.get(0)?,
            accepted_at_ns: row.get(1)?,
            payload: Bytes::copy_from_slice(payload),
        };
        if event.sequence != expected {
            return Err(ReadError::Inconsistent("events are missing in the middle"));
        }
        events.push(event);
    }
    Ok(events)
}

/// When the first event after `after` was accepted.
pub(super) fn oldest_after(
    connection: &Connection,
    collection: &CollectionName,
    after: u64,
) -> Result<Option<i64>, ReadError> {
    let Some(Stream { number, state }) = stream(connection, collection)? else {
        return Ok(None);
    };
    if after >= state.last {
        return Ok(None);
    }
    let sql = "SELECT accepted_at_ns FROM events WHERE stream = ?1 AND sequence > ?2 ORDER BY sequence LIMIT 1";
    Ok(connection
        .prepare_cached(sql)?
        .query_row((number, after), |row| row.get(0))
        .optional()?)
}

/// The event at `sequence`.
pub(super) fn event_at(
    connection: &Connection,
    collection: &CollectionName,
    sequence: u64,
) -> Result<Option<BusEvent>, ReadError> {
    let Some(Stream { number, state }) = stream(connection, collection)? else {
        return Ok(None);
    };
    if sequence > state.last {
        return Ok(None);
    }
    let sql = "SELECT accepted_at_ns, payload FROM events WHERE stream = ?1 AND sequence = ?2";
    let event = connection.prepare_cached(sql)?.query_row((number, sequence), |row| {
        let payload: Vec<u8> = row.get(1)?;
        Ok(BusEvent {
            sequence,
            accepted_at_ns: row.get(0)?,
            payload: Bytes::from(payload),
        })
    });
    Ok(event.optional()?)
}

/// The last sequence of each collection.
pub(super) fn lasts(connection: &Connection) -> Result<BTreeMap<CollectionName, u64>, ReadError> {
    let sql = "SELECT collection, last FROM streams WHERE collection IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut lasts = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let name = name
            .parse()
            .map_err(|_| ReadError::Inconsistent("a collection has a name that cannot be"))?;
        lasts.insert(name, row.get(1)?);
    }
    Ok(lasts)
}
