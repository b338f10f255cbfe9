//! What can go wrong with objects. A variant exists where a caller acts differently on it.

use std::io;

use verdigris_core::dead::DeadError;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::ManifestError;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, PointerError};

/// An operation of a store that was not done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("object {key} does not exist")]
    NotFound {
        /// The object.
        key: String,
    },
    /// The object is there already, or has changed.
    #[error("object {key} is not as the write expects it")]
    PreconditionFailed {
        /// The object.
        key: String,
    },
    /// Two writes met; neither the reason nor the state of the object is known, but this one was not made. Try again.
    #[error("a write of {key} met another one")]
    Conflict {
        /// The object.
        key: String,
    },
    /// Nobody knows whether the write was made.
    #[error("the store gave no answer about {key}")]
    NoAnswer {
        /// The object.
        key: String,
        /// What was seen instead of an answer.
        #[source]
        source: Option<io::Error>,
    },
    /// A file to be stored is not there.
    #[error("file {path} for object {key} cannot be read")]
    Body {
        /// The object.
        key: String,
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key that no object can have.
    #[error("{key:?} is no object key")]
    Key {
        /// As it came.
        key: String,
    },
    /// The disk is full.
    #[error("no space is left for {key}: free some, writing goes on by itself")]
    OutOfSpace {
        /// The object.
        key: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store cannot be written.
    #[error("{key} cannot be written: the folder is read-only for this user")]
    ReadOnly {
        /// The object.
        key: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder that holds something else.
    #[error("{path} is not empty and holds no Verdigris store; choose another folder")]
    Foreign {
        /// The folder.
        path: String,
    },
    /// A folder of other software.
    #[error("{path} has store format {found:?}; this software knows {known:?}; use the version that wrote it")]
    Format {
        /// The folder.
        path: String,
        /// Format in its marker.
        found: String,
        /// Format of this software.
        known: String,
    },
    /// The store refuses, and will again: credentials, policy, bucket or request are wrong.
    #[error("the store refuses {key}: see to its credentials, policy and address")]
    Refused {
        /// The object.
        key: String,
        /// What the store said.
        #[source]
        source: io::Error,
    },
    /// Something else.
    #[error("{key} cannot be read or written")]
    Io {
        /// The object.
        key: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// The error of a system call on an object.
    pub(crate) fn of(key: &str, source: io::Error) -> Self {
        let key = key.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound { key },
            io::ErrorKind::AlreadyExists => Self::PreconditionFailed { key },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::OutOfSpace { key, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { key, source },
            _ => Self::Io { key, source },
        }
    }

    /// No answer, without more to say.
    pub(crate) fn no_answer(key: &str) -> Self {
        Self::NoAnswer {
            key: key.to_owned(),
            source: None,
        }
    }

    /// Whether the same call may succeed if it is made again a little later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::NoAnswer { .. } | Self::Io { .. })
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// An object that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such collection.
    #[error("collection {0} does not exist")]
    NoCollection(CollectionName),
    /// The pointer is damaged or of other software.
    #[error("the pointer {key} cannot be used; `verdigris doctor` names the newest whole manifest to go on from")]
    Pointer {
        /// Its key.
        key: String,
        /// What was wrong.
        #[source]
        source: PointerError,
    },
    /// An object of another collection, put here by hand.
    #[error("{key} belongs to collection {found}: objects cannot be copied from one collection to another")]
    Misplaced {
        /// Its key.
        key: String,
        /// The collection that it names.
        found: CollectionName,
    },
    /// A manifest is damaged or of other software.
    #[error("manifest {key} cannot be used")]
    Manifest {
        /// Its key.
        key: String,
        /// What was wrong.
        #[source]
        source: ManifestError,
    },
    /// A range of dead rows is damaged.
    #[error("dead rows of {segment} cannot be used")]
    Dead {
        /// The segment.
        segment: String,
        /// What was wrong.
        #[source]
        source: DeadError,
    },
    /// A file has another length than the manifest says.
    #[error("{key} is damaged: it has {found} bytes, the manifest says {expected}")]
    Length {
        /// Its key.
        key: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A file has another content than the manifest says.
    #[error("{key} is damaged: its digest is {found}, the manifest says {expected}")]
    Digest {
        /// Its key.
        key: String,
        /// Digest by the manifest.
        expected: Digest,
        /// Digest found.
        found: Digest,
    },
    /// Settings that cannot be read.
    #[error("settings {key} cannot be used: {}", mistakes.join("; "))]
    Settings {
        /// Their key.
        key: String,
        /// What was wrong.
        mistakes: Vec<String>,
    },
    /// A list of erased documents that cannot be read.
    #[error("list of erased documents {key} cannot be used")]
    Erased {
        /// Its key.
        key: String,
        /// What was wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A file that lies only in a remote store.
    #[error("{key} is not on this machine")]
    NotLocal {
        /// Its key.
        key: String,
    },
}

/// A swing or a publish that was not made, or of which nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The edit does not apply any more.
    #[error(transparent)]
    Refused(#[from] EditRefused),
    /// Nobody can tell whether it was made: start again from the pointer.
    #[error("nobody can tell whether the swing of {0} was made")]
    Unknown(String),
    /// The pointer cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store does not do what is asked, try after try.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: io::ErrorKind, expected: &str) {
        let error = StoreError::of("products/latest", io::Error::from(kind));
        assert!(error.to_string().contains(expected), "{kind:?}: {error}");
        assert!(error.to_string().contains("products/latest"), "{kind:?}: {error}");
    }

    #[test]
    fn errors_of_the_system_become_those_that_a_caller_acts_on() {
        check(io::ErrorKind::NotFound, "does not exist");
        check(io::ErrorKind::NotADirectory, "does not exist");
        check(io::ErrorKind::AlreadyExists, "not as the write expects");
        check(io::ErrorKind::StorageFull, "no space is left");
        check(io::ErrorKind::QuotaExceeded, "no space is left");
        check(io::ErrorKind::PermissionDenied, "read-only");
        check(io::ErrorKind::ReadOnlyFilesystem, "read-only");
        check(io::ErrorKind::TimedOut, "cannot be read or written");
    }
}
