//! Writing: one thread, one connection, and one commit for all appends that wait.
//!
//! An fsync costs the same for one event and for a thousand, so what comes while one commit runs shares the next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use super::file;
use super::readers::{Stream, stream};
use super::watcher::Watcher;
use crate::bus::{Appended, Clock, NewEvent, Retention};
use crate::error::BusError;

/// Requests that wait for the writer; more wait with their caller.
pub(super) const QUEUE_REQUESTS_MAX: usize = 256;
/// Events that one step of retention, or of forgetting, removes: appends wait for no longer than that takes.
const REMOVE_EVENTS_MAX: u64 = 5_000;
/// Pages that go back to the file system in one step.
const VACUUM_PAGES_MAX: u32 = 2_000;

/// What the writer is asked.
pub(super) enum Request {
    Open {
        collection: CollectionName,
        reply: Reply<StreamIdentity>,
    },
    Append {
        collection: CollectionName,
        events: Vec<NewEvent>,
        room: OwnedSemaphorePermit,
        reply: Reply<Appended>,
    },
    Retain {
        collection: CollectionName,
        retention: Retention,
        now_ns: i64,
        reply: Reply<u64>,
    },
    Forget {
        collection: CollectionName,
        reply: Reply<()>,
    },
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, BusError>>;

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) clock: Clock,
    pub(super) watcher: Arc<Watcher>,
}

impl Writer {
    /// Serves requests until all senders are gone and the queue is empty.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut forgotten = true;
        loop {
            // Events of forgotten streams are removed while nobody waits.
            let first = if forgotten {
                requests.try_recv().ok()
            } else {
                requests.blocking_recv()
            };
            let Some(first) = first else {
                if !forgotten {
                    return;
                }
                forgotten = match self.sweep() {
                    Ok(more) => more && !requests.is_closed(),
                    Err(error) => {
                        tracing::warn!(path = %self.path.display(), %error, "events of a forgotten collection stay for now");
                        false
                    }
                };
                continue;
            };
            let mut group = vec![first];
            while group.len() < QUEUE_REQUESTS_MAX
                && let Ok(request) = requests.try_recv()
            {
                group.push(request);
            }
            forgotten |= group.iter().any(|request| matches!(request, Request::Forget { .. }));
            self.serve(group);
        }
    }

    /// Serves requests in their order; neighbouring appends share a transaction.
    fn serve(&mut self, group: Vec<Request>) {
        let mut appends = Vec::new();
        for request in group {
            match request {
                Request::Append {
                    collection,
                    events,
                    room,
                    reply,
                } => {
                    appends.push(Append {
                        collection,
                        events,
                        reply,
                        _room: room,
                    });
                    continue;
                }
                Request::Open { collection, reply } => {
                    self.append_all(std::mem::take(&mut appends));
                    answer(reply, self.open(&collection));
                }
                Request::Retain {
                    collection,
                    retention,
                    now_ns,
                    reply,
                } => {
                    self.append_all(std::mem::take(&mut appends));
                    answer(reply, self.retain(&collection, &retention, now_ns));
                }
                Request::Forget { collection, reply } => {
                    self.append_all(std::mem::take(&mut appends));
                    answer(reply, self.forget(&collection));
                }
            }
        }
        self.append_all(appends);
    }

    fn append_all(&mut self, appends: Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        match self.append_in_one_transaction(&appends) {
            Ok((outcomes, lasts)) => {
                self.watcher.moved(lasts);
                for (append, outcome) in appends.into_iter().zip(outcomes) {
                    answer(append.reply, outcome);
                }
            }
            Err(error) => appends
                .into_iter()
                .for_each(|append| answer(append.reply, Err(error.clone()))),
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "the outcome of each append, and where each stream ends now"
    )]
    fn append_in_one_transaction(
        &mut self,
        appends: &[Append],
    ) -> Result<(Vec<Result<Appended, BusError>>, BTreeMap<CollectionName, u64>), BusError> {
        let Self {
            connection,
            path,
            clock,
            ..
        } = self;
        let mut touched = BTreeMap::new();
        let mut write = || -> rusqlite::Result<_> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut outcomes = Vec::with_capacity(appends.len());
            for append in appends {
                let stream = match touched.get_mut(&append.collection) {
                    Some(stream) => stream,
                    None => {
                        let stream = open_stream(&transaction, &append.collection)?;
                        touched.entry(append.collection.clone()).or_insert(stream)
                    }
                };
                outcomes.push(insert(&transaction, stream, append, clock())?);
            }
            touched
                .values()
                .try_for_each(|stream| store_stream(&transaction, stream))?;
            transaction.commit()?;
            Ok(outcomes)
        };
        let outcomes = write().map_err(|error| file::failure(path, error))?;
        Ok((
            outcomes,
            touched
                .into_iter()
                .map(|(collection, stream)| (collection, stream.state.last))
                .collect(),
        ))
    }

    fn open(&mut self, collection: &CollectionName) -> Result<StreamIdentity, BusError> {
        self.transact(|transaction| Ok(open_stream(transaction, collection)?.state.identity))
    }

    fn retain(&mut self, collection: &CollectionName, retention: &Retention, now_ns: i64) -> Result<u64, BusError> {
        let removed = self.transact(|transaction| {
            let Some(mut stream) = stream(transaction, collection)? else {
                return Ok(0);
            };
            let first_kept = stream.state.first_kept;
            mark_removable(transaction, &mut stream, retention, now_ns)?;
            let sql = "DELETE FROM events WHERE stream = ?1 AND sequence < ?2";
            transaction
                .prepare_cached(sql)?
                .execute((stream.number, stream.state.first_kept))?;
            store_stream(transaction, &stream)?;
            Ok(stream.state.first_kept - first_kept)
        })?;
        if removed > 0 {
            self.give_back_room()?;
        }
        Ok(removed)
    }

    fn forget(&mut self, collection: &CollectionName) -> Result<(), BusError> {
        self.transact(|transaction| {
            let sql = "UPDATE streams SET collection = NULL WHERE collection = ?1";
            transaction.execute(sql, [collection.as_str()]).map(drop)
        })?;
        self.watcher.forgotten(collection);
        Ok(())
    }

    /// Removes some events of forgotten streams; true while there are more.
    fn sweep(&mut self) -> Result<bool, BusError> {
        let more = self.transact(|transaction| {
            let sql = "SELECT min(number) FROM streams WHERE collection IS NULL";
            let Some(number) = transaction.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))? else {
                return Ok(false);
            };
            let sql = "DELETE FROM events WHERE rowid IN (SELECT rowid FROM events WHERE stream = ?1 LIMIT ?2)";
            let removed = transaction.execute(sql, (number, REMOVE_EVENTS_MAX))?;
            if (removed as u64) < REMOVE_EVENTS_MAX {
                transaction.execute("DELETE FROM streams WHERE number = ?1", [number])?;
            }
            Ok(true)
        })?;
        self.give_back_room()?;
        Ok(more)
    }

    fn transact<T>(&mut self, write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, BusError> {
        let run = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = write(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error| file::failure(&self.path, error))
    }

    /// Shrinks the file where more than half of it is free: less will be filled again soon.
    fn give_back_room(&mut self) -> Result<(), BusError> {
        let count = |pragma| {
            self.connection
                .pragma_query_value(None, pragma, |row| row.get::<_, u64>(0))
        };
        let run = || {
            if count("freelist_count")? * 2 > count("page_count")? {
                let sql = format!("PRAGMA incremental_vacuum({VACUUM_PAGES_MAX})");
                self.connection.execute_batch(&sql)?;
            }
            Ok(())
        };
        run().map_err(|error| file::failure(&self.path, error))
    }
}

struct Append {
    collection: CollectionName,
    events: Vec<NewEvent>,
    reply: Reply<Appended>,
    /// The append's share of the bytes that may wait; given back with it.
    _room: OwnedSemaphorePermit,
}

fn open_stream(transaction: &Transaction<'_>, collection: &CollectionName) -> rusqlite::Result<Stream> {
    if let Some(stream) = stream(transaction, collection)? {
        return Ok(stream);
    }
    let identity: u128 = rand::random();
    let sql = "INSERT INTO streams (collection, identity, first_kept, last, bytes) VALUES (?1, ?2, 1, 0, 0)";
    transaction.execute(sql, (collection.as_str(), identity.to_be_bytes()))?;
    stream(transaction, collection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn store_stream(transaction: &Transaction<'_>, stream: &Stream) -> rusqlite::Result<()> {
    let state = &stream.state;
    let sql = "UPDATE streams SET first_kept = ?2, last = ?3, bytes = ?4, last_accepted_at_ns = ?5 WHERE number = ?1";
    let values = (
        stream.number,
        state.first_kept,
        state.last,
        state.bytes,
        state.last_accepted_at_ns,
    );
    transaction.prepare_cached(sql)?.execute(values).map(drop)
}

/// Inserts the events of one append. The inner error refuses this append alone, before anything of it is written.
fn insert(
    transaction: &Transaction<'_>,
    stream: &mut Stream,
    append: &Append,
    now_ns: i64,
) -> rusqlite::Result<Result<Appended, BusError>> {
    let state = &mut stream.state;
    // A clock that stands or goes back must not make two events equal in time, nor turn their order around.
    let after_last = state
        .last_accepted_at_ns
        .map_or(Some(i64::MIN), |last| last.checked_add(1));
    let first_ns = after_last.map(|after_last| now_ns.max(after_last));
    let Some(accepted_at_ns) = first_ns.and_then(|first| first.checked_add(append.events.len() as i64 - 1)) else {
        return Ok(Err(BusError::ClockExhausted(append.collection.clone())));
    };
    let first = state.last + 1;
    let first_ns = accepted_at_ns - (append.events.len() as i64 - 1);
    let sql = "INSERT INTO events (stream, sequence, accepted_at_ns, payload) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = transaction.prepare_cached(sql)?;
    for (event, accepted_at_ns) in append.events.iter().zip(first_ns..=accepted_at_ns) {
        state.last += 1;
        state.bytes = state.bytes.map(|bytes| bytes + event.payload.len() as u64);
        statement.execute((stream.number, state.last, accepted_at_ns, &event.payload[..]))?;
    }
    state.last_accepted_at_ns = Some(accepted_at_ns);
    Ok(Ok(Appended {
        stream: state.identity,
        first,
        last: state.last,
        accepted_at_ns: Some(accepted_at_ns),
    }))
}

/// Moves the beginning of the stream past what may go, by one step at most.
fn mark_removable(
    transaction: &Transaction<'_>,
    stream: &mut Stream,
    retention: &Retention,
    now_ns: i64,
) -> rusqlite::Result<()> {
    let sql = "SELECT sequence, accepted_at_ns, length(payload) FROM events WHERE stream = ?1 AND sequence < ?2
               ORDER BY sequence LIMIT ?3";
    let mut statement = transaction.prepare_cached(sql)?;
    let never_past = i64::try_from(retention.never_past).unwrap_or(i64::MAX);
    let mut rows = statement.query((stream.number, never_past, REMOVE_EVENTS_MAX))?;
    while let Some(row) = rows.next()? {
        let accepted_at_ns: i64 = row.get(1)?;
        let too_old = now_ns.saturating_sub(accepted_at_ns) > retention.age_ns;
        if !too_old && stream.state.bytes <= Some(retention.bytes) {
            break;
        }
        stream.state.first_kept = row.get::<_, u64>(0)? + 1;
        let removed = row.get::<_, u64>(2)?;
        stream.state.bytes = stream.state.bytes.map(|bytes| bytes - removed);
    }
    Ok(())
}

/// A caller that went away needs no answer.
fn answer<T>(reply: Reply<T>, result: Result<T, BusError>) {
    drop(reply.send(result));
}
