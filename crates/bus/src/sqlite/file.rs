//! The file: what is in it, how it is opened and checked, and SQLite's errors in our words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::BusError;

/// "Vdgb": tells a bus from any other SQLite file.
const APPLICATION_ID: i32 = 0x5664_6762;
const FORMAT_VERSION: i32 = 1;
/// How long one process waits for the other's write: a commit takes milliseconds, a checkpoint of the write-ahead log
/// at most seconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages of 4 KiB after which the write-ahead log is copied into the file: larger than SQLite's 1,000, so that fewer
/// commits pay for it.
const CHECKPOINT_PAGES: u32 = 4_000;
/// What is left of the write-ahead log's file after a burst, in bytes.
const WAL_BYTES_KEPT: u32 = 64 * 1024 * 1024;
const PAGE_BYTES: u64 = 4_096;

/// A stream that is being forgotten has no collection; its events are removed step by step. Numbers are never used
/// again, so that events of a forgotten stream cannot turn up in a new one.
const SCHEMA: &str = "
CREATE TABLE streams (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT UNIQUE,
    identity BLOB NOT NULL CHECK (length(identity) = 16),
    first_kept INTEGER NOT NULL,
    last INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    last_accepted_at_ns INTEGER,
    CHECK (first_kept BETWEEN 1 AND last + 1)
) STRICT;
CREATE TABLE events (
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    accepted_at_ns INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (stream, sequence)
) STRICT;
";

/// Opens the file for the writer, and makes it where there is none.
pub(super) fn open_writer(path: &Path, bytes_max: Option<u64>) -> Result<Connection, BusError> {
    let failed = |error| failure(path, error);
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    if is_new(&connection, path)? {
        create(&mut connection, path)?;
    }
    check(&connection, path)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection
        .pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
        .map_err(failed)?;
    connection
        .pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)
        .map_err(failed)?;
    if let Some(bytes) = bytes_max {
        let pages = (bytes / PAGE_BYTES).max(1).min(u64::from(u32::MAX - 1));
        connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .map_err(failed)?;
    }
    Ok(connection)
}

/// Opens the file, which is there, for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, BusError> {
    let failed = |error| failure(path, error);
    // Not SQLITE_OPEN_READ_ONLY: a reader of a write-ahead log writes into its shared index.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(connection)
}

fn is_new(connection: &Connection, path: &Path) -> Result<bool, BusError> {
    let read = || -> rusqlite::Result<bool> {
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok(tables == 0 && number(connection, "application_id")? == 0 && number(connection, "user_version")? == 0)
    };
    read().map_err(|error| failure(path, error))
}

fn create(connection: &mut Connection, path: &Path) -> Result<(), BusError> {
    let failed = |error| failure(path, error);
    // Both only act before the first table. Another process may be at the same: the transaction decides.
    connection
        .pragma_update(None, "page_size", PAGE_BYTES as u32)
        .map_err(failed)?;
    connection
        .pragma_update(None, "auto_vacuum", "INCREMENTAL")
        .map_err(failed)?;
    use_write_ahead_log(connection, path)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    if is_new(&transaction, path)? {
        transaction.execute_batch(SCHEMA).map_err(failed)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", FORMAT_VERSION)
            .map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

fn check(connection: &Connection, path: &Path) -> Result<(), BusError> {
    let failed = |error| failure(path, error);
    if number(connection, "application_id").map_err(failed)? != APPLICATION_ID {
        return Err(BusError::Foreign { path: path.to_owned() });
    }
    let found = number(connection, "user_version").map_err(failed)?;
    if found != FORMAT_VERSION {
        return Err(BusError::UnknownVersion {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('streams', 'events')";
    let tables: i64 = connection.query_row(tables, [], |row| row.get(0)).map_err(failed)?;
    if tables != 2 {
        return Err(BusError::Inconsistent {
            path: path.to_owned(),
            what: "a table is missing",
        });
    }
    use_write_ahead_log(connection, path)
}

fn use_write_ahead_log(connection: &Connection, path: &Path) -> Result<(), BusError> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|error| failure(path, error))?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(BusError::NoWriteAheadLog {
            path: path.to_owned(),
            mode,
        })
    }
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

/// SQLite's error in our words, by what a caller can do about it.
pub(super) fn failure(path: &Path, error: rusqlite::Error) -> BusError {
    let (path, code) = (path.to_owned(), error.sqlite_error_code());
    let source = Arc::new(error);
    match code {
        Some(ErrorCode::DiskFull) => BusError::Full { path, source },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => BusError::Busy { path, source },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => BusError::ReadOnly { path, source },
        Some(ErrorCode::CannotOpen) => BusError::Open { path, source },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => BusError::Damaged { path, source },
        _ => BusError::Sqlite { path, source },
    }
}
