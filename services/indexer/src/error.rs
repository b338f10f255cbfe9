//! What stops an indexer, and how the rest of the system is told.

use verdigris_bus::BusError;
use verdigris_bus::nats::NatsError;
use verdigris_core::checkpoint::StreamMismatch;
use verdigris_core::manifest::{LineageId, ManifestError};
use verdigris_core::pointer::{EditRefused, PointerError};
use verdigris_core::rebuild::NotRebuildable;
use verdigris_embed::EmbedError;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::open::OpenError;
use verdigris_proto::reason::Reason;
use verdigris_store::{CommitError, ReadError, StoreError};

use crate::status::Standstill;

/// Why an indexer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// The bus.
    #[error("the bus does not work")]
    Bus(#[from] BusError),
    /// The store.
    #[error("the store does not work")]
    Store(#[from] StoreError),
    /// An object of the store.
    #[error("an object of the collection cannot be used")]
    Read(#[from] ReadError),
    /// A swing.
    #[error("the release could not be published")]
    Commit(#[from] CommitError),
    /// The engine.
    #[error("the segment could not be written")]
    Engine(#[from] EngineError),
    /// A release.
    #[error("the release cannot be opened")]
    Open(#[from] OpenError),
    /// A manifest that would contradict itself.
    #[error("the new manifest does not add up")]
    Manifest(#[from] ManifestError),
    /// The embedder.
    #[error("texts cannot be embedded")]
    Embed(#[from] EmbedError),
    /// The log is not the one that was read.
    #[error("the log does not fit the checkpoint; repair the collection by `verdigris resync` with a full feed")]
    Stream(#[from] StreamMismatch),
    /// The release was embedded by another model than the settings ask for.
    #[error("the release was embedded by {found}, the settings ask for {expected}")]
    Embedder {
        /// In the manifest.
        found: String,
        /// In the settings.
        expected: String,
    },
    /// A scratch file.
    #[error("a file cannot be written")]
    Scratch(#[source] std::io::Error),
    /// A thread of ours panicked.
    #[error("a step of the indexer panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// A step panicked in the indexer's own task.
    #[error("a step of the indexer panicked: {message}")]
    Panic {
        /// What it said.
        message: String,
    },
    /// A release that is not kept.
    #[error("release {0} is not kept; see `verdigris releases list`")]
    NotKept(u64),
    /// The log does not hold every event after a release.
    #[error("the log does not keep every event since release {0}; `--without-replay` goes back all the same")]
    NotReplayable(u64),
    /// The object of a verdict or of rejected events.
    #[error("{0} is damaged")]
    Verdict(String),
    /// What a person chose is not among what was judged.
    #[error("{0} is not among the events that were judged; see `verdigris staged show`")]
    NotCounted(String),
    /// The other lineage does not hold the documents of the active one.
    #[error("lineage {0} does not hold the documents of the active lineage")]
    NotEqual(LineageId),
    /// Settings that stored rows cannot be written by.
    #[error("these settings cannot be reached by a rebuild")]
    NotRebuildable(#[from] NotRebuildable),
    /// Publishing stands still for another reason.
    #[error("{}", .0.message)]
    StandsStill(Standstill),
    /// The process ends.
    #[error("the process ends")]
    Stopped,
}

impl IndexerError {
    /// How waits and reads are told that publishing stands still.
    pub(crate) fn standstill(&self) -> Standstill {
        Standstill {
            reason: self.reason(),
            message: chain(self),
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Store(error) | Self::Commit(CommitError::Store(error)) => reason_of_store(error),
            Self::Read(error) | Self::Commit(CommitError::Read(error)) => reason_of_read(error),
            Self::Commit(CommitError::Refused(EditRefused::LostTurn { .. })) => Reason::LostTurn,
            Self::Commit(CommitError::Refused(EditRefused::Held { .. })) => Reason::PublishingHeld,
            Self::Commit(CommitError::Refused(EditRefused::Deleted(_))) => Reason::CollectionDeleted,
            Self::StandsStill(standstill) => standstill.reason,
            Self::Verdict(_) => Reason::DataDamaged,
            Self::NotCounted(_) => Reason::InvalidArgument,
            Self::NotKept(_) => Reason::ReleaseNotFound,
            Self::NotReplayable(_) => Reason::NotReplayable,
            Self::NotRebuildable(_) => Reason::NeedsRebuild,
            Self::Commit(CommitError::Refused(EditRefused::OtherTaken(_))) => Reason::RolloutInProgress,
            Self::Commit(CommitError::Refused(EditRefused::NothingToBuildFrom)) => Reason::ReleaseNotFound,
            Self::Commit(CommitError::Refused(EditRefused::NotNamed(_))) => Reason::LineageNotFound,
            Self::Commit(CommitError::Refused(EditRefused::NotHeld)) => Reason::NotHeld,
            Self::Commit(CommitError::Refused(EditRefused::NotStaged)) => Reason::NotStaged,
            Self::Commit(CommitError::Refused(EditRefused::Staged(_))) => Reason::PublishingStaged,
            Self::Commit(_) => Reason::StoreUnavailable,
            Self::Bus(BusError::Full { .. } | BusError::Nats(NatsError::Full { .. })) => Reason::DiskFull,
            Self::Bus(BusError::ReadOnly { .. }) => Reason::ReadOnly,
            Self::Bus(BusError::Trimmed { .. } | BusError::StreamChanged(_)) | Self::Stream(_) => {
                Reason::StreamMismatch
            }
            Self::Open(OpenError::Damaged(_)) => Reason::DataDamaged,
            Self::Embed(_) => Reason::EmbedderUnavailable,
            Self::Embedder { .. } => Reason::EmbedderMismatch,
            _ if self.is_out_of_space() => Reason::DiskFull,
            Self::Stopped => Reason::ShuttingDown,
            Self::Bus(_) | Self::Open(_) => Reason::StoreUnavailable,
            Self::NotEqual(_)
            | Self::Engine(_)
            | Self::Manifest(_)
            | Self::Scratch(_)
            | Self::Panicked(_)
            | Self::Panic { .. } => Reason::Internal,
        }
    }

    /// Whether the events that were read may be to blame, as for an unclean end of the process: the same step would go
    /// wrong again for ever (I-12). An outage of a store, a bus or an embedder never is.
    pub(crate) fn may_be_poison(&self) -> bool {
        matches!(
            self,
            Self::Panicked(_) | Self::Panic { .. } | Self::Embed(EmbedError::GivenUp | EmbedError::NotFinite)
        )
    }

    /// Whether the disk is full, wherever in the chain it is said.
    fn is_out_of_space(&self) -> bool {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(current) = error {
            let kind = current.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if kind == Some(std::io::ErrorKind::StorageFull) {
                return true;
            }
            error = current.source();
        }
        false
    }
}

/// The reason for an error of the store.
pub fn reason_of_store(error: &StoreError) -> Reason {
    match error {
        StoreError::OutOfSpace { .. } => Reason::DiskFull,
        StoreError::ReadOnly { .. } => Reason::ReadOnly,
        StoreError::Format { .. } => Reason::UnknownFormat,
        _ => Reason::StoreUnavailable,
    }
}

/// The reason for an object that cannot be used.
pub fn reason_of_read(error: &ReadError) -> Reason {
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
pub fn chain(error: &dyn std::error::Error) -> String {
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
