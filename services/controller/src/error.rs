//! Why looking after a rollout fails, and how that is told.

use tonic::Status;
use verdigris_core::manifest::ManifestError;
use verdigris_core::pointer::{EditRefused, PointerError};
use verdigris_proto::reason::Reason;
use verdigris_store::{CommitError, ReadError, StoreError};

/// Why a look, an action or a word came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The store fails.
    #[error("the store fails")]
    Store(#[from] StoreError),
    /// An object cannot be used.
    #[error("an object of the collection cannot be used")]
    Read(#[from] ReadError),
    /// A swing did not happen, or nobody can tell.
    #[error("the pointer could not be changed")]
    Commit(#[from] CommitError),
    /// Another owner carries out the rollouts.
    #[error("the rollouts are carried out by {0}; `verdigris rollout take-over` takes them over by word")]
    OwnedElsewhere(String),
}

impl ControllerError {
    /// The stable reason.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Store(error) | Self::Commit(CommitError::Store(error)) => reason_of_store(error),
            Self::Read(error) | Self::Commit(CommitError::Read(error)) => reason_of_read(error),
            Self::OwnedElsewhere(_) => Reason::OwnedElsewhere,
            Self::Commit(CommitError::Refused(refused)) => reason_of_refusal(refused),
            Self::Commit(CommitError::Unknown(_)) => Reason::StoreUnavailable,
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.reason().status(chain(self))
    }

    /// Whether the collection is gone.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::NoCollection(_))
                | Self::Commit(CommitError::Read(ReadError::NoCollection(_)))
                | Self::Commit(CommitError::Refused(EditRefused::Deleted(_)))
        )
    }
}

fn reason_of_refusal(refused: &EditRefused) -> Reason {
    match refused {
        EditRefused::Deleted(_) => Reason::CollectionDeleted,
        EditRefused::Held { .. } => Reason::PromotionHeld,
        EditRefused::PromotionNotHeld => Reason::NotHeld,
        EditRefused::NotWayBack(_) => Reason::NoWayBack,
        EditRefused::OwnedBy(_) | EditRefused::LostOwnership { .. } => Reason::OwnedElsewhere,
        EditRefused::NotLevel { .. } => Reason::NotReady,
        // Of what is named beside the active lineage, the rest can be wrong only about which.
        _ => Reason::LineageNotFound,
    }
}

fn reason_of_store(error: &StoreError) -> Reason {
    match error {
        StoreError::OutOfSpace { .. } => Reason::DiskFull,
        StoreError::ReadOnly { .. } => Reason::ReadOnly,
        StoreError::Format { .. } => Reason::UnknownFormat,
        _ => Reason::StoreUnavailable,
    }
}

fn reason_of_read(error: &ReadError) -> Reason {
    match error {
        ReadError::Store(error) => reason_of_store(error),
        ReadError::NoCollection(_) => Reason::CollectionNotFound,
        ReadError::NotLocal { .. } => Reason::StoreUnavailable,
        ReadError::Pointer {
            source: PointerError::FormatVersion(_),
            ..
        }
        | ReadError::Manifest {
            source: ManifestError::FormatVersion(_),
            ..
        } => Reason::UnknownFormat,
        _ => Reason::DataDamaged,
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
