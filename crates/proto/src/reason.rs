//! Stable reasons of errors: the same word in gRPC, HTTP, the command line and `docs/errors/`.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of all reasons.
pub const DOMAIN: &str = "verdigris.dev";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $code:ident;)*) => {
        /// Why a request failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The gRPC code that goes with it.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code),* }
            }
        }
    };
}

reasons! {
    /// A field of the request is wrong.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument;
    /// A filter is wrong; the message points at the column.
    InvalidFilter = "INVALID_FILTER", InvalidArgument;
    /// A query vector has another dimension, or a number that is not finite.
    InvalidVector = "INVALID_VECTOR", InvalidArgument;
    /// A page token is damaged or of another search.
    InvalidPageToken = "INVALID_PAGE_TOKEN", InvalidArgument;
    /// A position is malformed or of another stream.
    InvalidPosition = "INVALID_POSITION", InvalidArgument;
    /// Settings have mistakes.
    InvalidSettings = "INVALID_SETTINGS", InvalidArgument;
    /// Golden queries have mistakes.
    InvalidQueries = "INVALID_QUERIES", InvalidArgument;
    /// A collection's name is not allowed.
    InvalidCollection = "INVALID_COLLECTION", InvalidArgument;
    /// There is no such collection.
    CollectionNotFound = "COLLECTION_NOT_FOUND", NotFound;
    /// The collection is there already.
    CollectionExists = "COLLECTION_EXISTS", AlreadyExists;
    /// The collection was deleted, and its name is not free yet.
    CollectionDeleted = "COLLECTION_DELETED", FailedPrecondition;
    /// There is no such document in the release.
    DocumentNotFound = "DOCUMENT_NOT_FOUND", NotFound;
    /// The document was erased: nothing is taken for it any more.
    Erased = "ERASED", FailedPrecondition;
    /// There is no such release, or it is not kept any more.
    ReleaseNotFound = "RELEASE_NOT_FOUND", NotFound;
    /// A page token names a release that is not open any more.
    ReleaseGone = "RELEASE_GONE", FailedPrecondition;
    /// The collection has one lineage, and the other one was asked for.
    NoOtherLineage = "NO_OTHER_LINEAGE", FailedPrecondition;
    /// There is no such dead letter.
    DeadLetterNotFound = "DEAD_LETTER_NOT_FOUND", NotFound;
    /// The settings would need stored rows to be written anew.
    NeedsRebuild = "NEEDS_REBUILD", FailedPrecondition;
    /// The collection has no embedder, so a text has no vector.
    NoEmbedder = "NO_EMBEDDER", FailedPrecondition;
    /// The server is not ready yet, or its embedder is not the release's.
    NotReady = "NOT_READY", Unavailable;
    /// The deadline passed before a release held the position.
    PositionNotReached = "POSITION_NOT_REACHED", DeadlineExceeded;
    /// The deadline passed before the answer was there.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded;
    /// Publishing is held by a person.
    PublishingHeld = "PUBLISHING_HELD", FailedPrecondition;
    /// Publishing is not held, so there is nothing to resume.
    NotHeld = "NOT_HELD", FailedPrecondition;
    /// A release breached a guard and waits for a person's decision.
    PublishingStaged = "PUBLISHING_STAGED", FailedPrecondition;
    /// No release waits for a decision, or not this one.
    NotStaged = "NOT_STAGED", FailedPrecondition;
    /// There is a candidate or a way back already, or one is being built.
    RolloutInProgress = "ROLLOUT_IN_PROGRESS", FailedPrecondition;
    /// No lineage of this name is built, the candidate or the way back.
    LineageNotFound = "LINEAGE_NOT_FOUND", NotFound;
    /// The lineage is no candidate.
    NotCandidate = "NOT_CANDIDATE", FailedPrecondition;
    /// The lineage was not judged yet, or at another generation than the one that was named.
    NotJudged = "NOT_JUDGED", FailedPrecondition;
    /// No lineage is kept to go back to, or it cannot answer.
    NoWayBack = "NO_WAY_BACK", FailedPrecondition;
    /// Promotion is held.
    PromotionHeld = "PROMOTION_HELD", FailedPrecondition;
    /// Promotion is not held, so there is nothing to resume.
    PromotionNotHeld = "PROMOTION_NOT_HELD", FailedPrecondition;
    /// Another process owns the rollouts of the collection.
    NotOwner = "NOT_OWNER", FailedPrecondition;
    /// The log does not keep every event since the release.
    NotReplayable = "NOT_REPLAYABLE", FailedPrecondition;
    /// The process may use less memory than the release needs.
    MemoryTooSmall = "MEMORY_TOO_SMALL", FailedPrecondition;
    /// The disk is full: nothing more is accepted or published.
    DiskFull = "DISK_FULL", ResourceExhausted;
    /// The data folder cannot be written.
    ReadOnly = "READ_ONLY", FailedPrecondition;
    /// The log does not fit the checkpoint: it was recreated, truncated or regrown.
    StreamMismatch = "STREAM_MISMATCH", FailedPrecondition;
    /// Another indexer took over.
    LostTurn = "LOST_TURN", Aborted;
    /// A file, manifest or pointer is damaged.
    DataDamaged = "DATA_DAMAGED", DataLoss;
    /// A file was written by software that this version does not know.
    UnknownFormat = "UNKNOWN_FORMAT", FailedPrecondition;
    /// The embedding model is missing or fails.
    EmbedderUnavailable = "EMBEDDER_UNAVAILABLE", Unavailable;
    /// The release was embedded by another model than this server has.
    EmbedderMismatch = "EMBEDDER_MISMATCH", FailedPrecondition;
    /// Too many requests at once.
    Overloaded = "OVERLOADED", ResourceExhausted;
    /// A request or message is too large.
    TooLarge = "TOO_LARGE", InvalidArgument;
    /// No token, or an unknown one.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated;
    /// The token's scope does not cover the call.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied;
    /// The store does not answer, or not in time.
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable;
    /// The process is shutting down.
    ShuttingDown = "SHUTTING_DOWN", Unavailable;
    /// A mistake of this software.
    Internal = "INTERNAL", Internal;
}

impl Reason {
    /// A status with this reason as `google.rpc.ErrorInfo`.
    pub fn status(self, message: impl Into<String>) -> Status {
        let details = ErrorDetails::with_error_info(self.as_str(), DOMAIN, [] as [(String, String); 0]);
        Status::with_error_details(self.code(), message, details)
    }

    /// A status that asks to try again after `delay`.
    pub fn status_with_retry(self, message: impl Into<String>, delay: Duration) -> Status {
        let mut details = ErrorDetails::with_error_info(self.as_str(), DOMAIN, [] as [(String, String); 0]);
        details.set_retry_info(Some(delay));
        Status::with_error_details(self.code(), message, details)
    }

    /// A status that points at a field of the request.
    pub fn status_for_field(self, field: &str, message: impl Into<String>) -> Status {
        let message = message.into();
        let mut details = ErrorDetails::with_error_info(self.as_str(), DOMAIN, [] as [(String, String); 0]);
        details.add_bad_request_violation(field, message.as_str());
        Status::with_error_details(self.code(), message, details)
    }
}

/// The reason that a server gave, as text: a client may be older than the server.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_travels_with_its_status() {
        for reason in Reason::ALL {
            let status = reason.status("what happened");
            assert_eq!(reason_of(&status).as_deref(), Some(reason.as_str()));
            assert_eq!((status.code(), status.message()), (reason.code(), "what happened"));
        }
        let status = Reason::Overloaded.status_with_retry("busy", Duration::from_millis(250));
        let retry = status
            .get_error_details()
            .retry_info()
            .and_then(|info| info.retry_delay);
        assert_eq!(retry, Some(Duration::from_millis(250)));
    }
}
