//! Whether a checkpoint still fits its stream (I-15). A stream that was made anew, cut short or grown again since holds
//! other events under the same numbers; reading on from there would lose some without a word.

use crate::digest::Digest;
use crate::manifest::Checkpoint;
use crate::position::StreamIdentity;

/// What a bus says of a stream, for the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its identity.
    pub identity: StreamIdentity,
    /// The sequence from which on it has all its events; one more than `last` where it has none.
    pub first_kept: u64,
    /// The last sequence that it ever had; 0 before the first.
    pub last: u64,
    /// Digest of its event at the checkpoint's sequence; nothing where it has none there.
    pub digest_at_checkpoint: Option<Digest>,
}

/// How a checkpoint does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamMismatch {
    /// Another stream.
    #[error("the log was recreated: the release was read from stream {expected}, this is stream {found}")]
    Recreated {
        /// Of the checkpoint.
        expected: StreamIdentity,
        /// Of the stream.
        found: StreamIdentity,
    },
    /// The same stream, without events that were read.
    #[error("the log was truncated: the release was read up to event {checkpoint}, the log ends with {last}")]
    Truncated {
        /// Sequence of the checkpoint.
        checkpoint: u64,
        /// The last sequence of the stream.
        last: u64,
    },
    /// The same stream with another event in that place: it was cut short, and written on.
    #[error(
        "the log was truncated and has grown again: event {checkpoint} is not the one that the release was read up to"
    )]
    Regrown {
        /// Sequence of the checkpoint.
        checkpoint: u64,
    },
    /// The same stream without the event there, although it says that it still has that stretch: somebody emptied it.
    #[error("the log was purged: event {checkpoint}, which the release was read up to, is gone, and later ones may be")]
    Purged {
        /// Sequence of the checkpoint.
        checkpoint: u64,
    },
    /// Events after the checkpoint are gone before they were read.
    #[error(
        "the log has lost unread events: the release was read up to event {checkpoint}, the log begins with {first_kept}"
    )]
    PassedOver {
        /// Sequence of the checkpoint.
        checkpoint: u64,
        /// The first sequence that is left.
        first_kept: u64,
    },
}

impl StreamMismatch {
    /// The stable word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Recreated { .. } => "STREAM_RECREATED",
            Self::Truncated { .. } => "STREAM_TRUNCATED",
            Self::Regrown { .. } => "STREAM_REGROWN",
            Self::Purged { .. } => "STREAM_PURGED",
            Self::PassedOver { .. } => "STREAM_PASSED_OVER",
        }
    }
}

/// Compares a checkpoint with its stream. To be asked at each connect, before anything is read.
pub fn check_checkpoint(checkpoint: &Checkpoint, stream: &StreamFacts) -> Result<(), StreamMismatch> {
    let sequence = checkpoint.sequence;
    if checkpoint.stream != stream.identity {
        return Err(StreamMismatch::Recreated {
            expected: checkpoint.stream,
            found: stream.identity,
        });
    }
    if sequence > stream.last {
        return Err(StreamMismatch::Truncated {
            checkpoint: sequence,
            last: stream.last,
        });
    }
    if sequence.saturating_add(1) < stream.first_kept {
        return Err(StreamMismatch::PassedOver {
            checkpoint: sequence,
            first_kept: stream.first_kept,
        });
    }
    // Retention keeps the event at a checkpoint. Where a broker's did not, there is nothing to compare, and nothing lost.
    match (checkpoint.digest, stream.digest_at_checkpoint) {
        (Some(expected), Some(found)) if expected != found => Err(StreamMismatch::Regrown { checkpoint: sequence }),
        (Some(_), None) if sequence >= stream.first_kept => Err(StreamMismatch::Purged { checkpoint: sequence }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamIdentity = StreamIdentity(7);

    #[track_caller]
    fn check(sequence: u64, event: &str, facts: StreamFacts, expect: Result<(), &str>) {
        let digest = (sequence > 0).then(|| Digest::of(event.as_bytes()));
        let checkpoint = Checkpoint {
            stream: STREAM,
            sequence,
            digest,
        };
        let found = check_checkpoint(&checkpoint, &facts);
        assert_eq!(found.as_ref().map(|_| ()).map_err(StreamMismatch::reason), expect);
    }

    #[test]
    fn a_checkpoint_fits_the_stream_it_was_read_from_and_no_other() {
        let at = |event: &str| Some(Digest::of(event.as_bytes()));
        let facts = StreamFacts {
            identity: STREAM,
            first_kept: 1,
            last: 9,
            digest_at_checkpoint: at("five"),
        };
        check(5, "five", facts, Ok(()));
        check(
            9,
            "nine",
            StreamFacts {
                digest_at_checkpoint: at("nine"),
                ..facts
            },
            Ok(()),
        );
        check(
            5,
            "five",
            StreamFacts {
                identity: StreamIdentity(8),
                ..facts
            },
            Err("STREAM_RECREATED"),
        );
        check(
            10,
            "ten",
            StreamFacts {
                digest_at_checkpoint: None,
                ..facts
            },
            Err("STREAM_TRUNCATED"),
        );
        check(5, "other", facts, Err("STREAM_REGROWN"));
        check(
            5,
            "five",
            StreamFacts {
                digest_at_checkpoint: None,
                ..facts
            },
            Err("STREAM_PURGED"),
        );
        check(
            0,
            "",
            StreamFacts {
                digest_at_checkpoint: None,
                ..facts
            },
            Ok(()),
        );
        check(
            0,
            "",
            StreamFacts {
                last: 0,
                digest_at_checkpoint: None,
                ..facts
            },
            Ok(()),
        );
    }

    #[test]
    fn a_stream_that_lost_unread_events_does_not_fit() {
        let facts = StreamFacts {
            identity: STREAM,
            first_kept: 7,
            last: 9,
            digest_at_checkpoint: None,
        };
        check(5, "five", facts, Err("STREAM_PASSED_OVER"));
        check(0, "", facts, Err("STREAM_PASSED_OVER"));
        check(6, "six", facts, Ok(()));
        check(
            9,
            "nine",
            StreamFacts {
                first_kept: 10,
                ..facts
            },
            Ok(()),
        );
    }
}
