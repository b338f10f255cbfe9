//! What can go wrong with a bus.

use std::path::PathBuf;
use std::sync::Arc;

use verdigris_core::names::CollectionName;

use crate::nats::NatsError;

/// Why a bus could not do what it was asked. Cloneable, because one commit may carry many callers' events.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// An append without events.
    #[error("nothing to append to {0}")]
    NothingToAppend(CollectionName),
    /// More events than one append may have.
    #[error("{events} events in one append; at most {} are allowed", crate::APPEND_EVENTS_MAX)]
    TooManyEvents {
        /// How many.
        events: usize,
    },
    /// More bytes than one append may have.
    #[error("{bytes} bytes in one append; at most {} are allowed", crate::APPEND_BYTES_MAX)]
    AppendTooLarge {
        /// How many.
        bytes: usize,
    },
    /// One payload over the limit.
    #[error(
        "event {index} of the append has {bytes} bytes; at most {} are allowed",
        crate::PAYLOAD_BYTES_MAX
    )]
    PayloadTooLarge {
        /// Which, from 0.
        index: usize,
        /// How many.
        bytes: usize,
    },
    /// No stream of that name.
    #[error("the bus has no collection {0}")]
    UnknownCollection(CollectionName),
    /// The reader is behind what is kept.
    #[error("events after {after} of {collection} are gone: the log begins with {first_kept}")]
    Trimmed {
        /// The collection.
        collection: CollectionName,
        /// Where the reader was.
        after: u64,
        /// The first sequence that is left.
        first_kept: u64,
    },
    /// A place that was read is another one now: the stream was made anew, cut short, or emptied.
    #[error("the log of {0} is not the one that was read")]
    StreamChanged(CollectionName),
    /// The broker.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Accept times have reached the end of what 64 bits hold.
    #[error("the clock of {0} is beyond what accept times can hold; nothing was accepted")]
    ClockExhausted(CollectionName),
    /// No room: nothing was accepted.
    #[error("no room left for the bus at {path}; nothing was accepted")]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// Another process holds the file for longer than a caller should wait.
    #[error("the bus at {path} is busy with another process")]
    Busy {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file cannot be written.
    #[error("the bus at {path} cannot be written")]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file cannot be opened.
    #[error("the bus at {path} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file is a database of something else.
    #[error("{path} is a database, but not a bus of this software")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A format that this software does not know.
    #[error("the bus at {path} has format version {found}; this software reads version {supported}")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: i32,
        /// What is known here.
        supported: i32,
    },
    /// The file system cannot hold a write-ahead log, without which nothing here is safe.
    #[error("the bus at {path} cannot use a write-ahead log (its journal mode is {mode}); is it on a network drive?")]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
        /// What SQLite chose.
        mode: String,
    },
    /// The file is damaged: SQLite says so.
    #[error("the bus at {path} is damaged; restore it, or move it away and resync")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file is damaged: its parts do not fit together.
    #[error("the bus at {path} is damaged: {what}; restore it, or move it away and resync")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// Anything else that SQLite says.
    #[error("the bus at {path} failed")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The thread that writes could not be started.
    #[error("no thread for the bus")]
    Thread(#[source] Arc<std::io::Error>),
    /// The bus was closed, or its thread ended.
    #[error("the bus is closed")]
    Closed,
}
