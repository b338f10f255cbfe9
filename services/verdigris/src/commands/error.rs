//! Why a command did not do what was asked: a stable reason, a sentence, and what to do.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};
use verdigris_proto::reason::{Reason, reason_of};

use crate::exit::Exit;
use crate::relevance::TsvError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The server answered with an error, or the connection broke.
    #[error("{}", message_of(.0))]
    Refused(Box<Status>),
    #[error("{url:?} is no address of a server")]
    Address {
        url: String,
        source: tonic::transport::Error,
    },
    #[error("no server answers at {url}")]
    Unreachable {
        url: String,
        source: tonic::transport::Error,
    },
    #[error("the token in {} is empty, or has characters that a header cannot hold", path.display())]
    Token { path: PathBuf },
    #[error("{path} cannot be read")]
    Read { path: String, source: io::Error },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{what} is not the JSON that is needed here: {source}")]
    Json { what: String, source: serde_json::Error },
    #[error("the fields of a patch are a JSON object, such as '{{\"price\": 9.5}}'")]
    PatchNotObject,
    #[error("{path}: {source}")]
    Tsv { path: PathBuf, source: TsvError },
    #[error("no query of {} has judgements in {}", queries.display(), judgements.display())]
    NothingJudged { queries: PathBuf, judgements: PathBuf },
    #[error("line {line} of {file} cannot be part of a feed: {message}; nothing was deleted")]
    Feed {
        file: String,
        line: u64,
        reason: String,
        message: String,
    },
    #[error("{file} has no documents; a resync from nothing would delete everything")]
    EmptyFeed { file: String },
    /// Ingest ended early, after something was accepted.
    #[error("{source} ({accepted} events were accepted before that, up to position {position})")]
    Interrupted {
        accepted: u64,
        position: String,
        source: Box<CommandError>,
    },
    #[error("the answer cannot be written to standard output")]
    Output(#[source] io::Error),
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// The reason of a server that cannot be reached, or is lost on the way.
pub(crate) const SERVER_UNREACHABLE: &str = "SERVER_UNREACHABLE";
/// The reason of a deadline that passed before the answer.
pub(crate) const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";

impl CommandError {
    /// The stable word for it.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Refused(status) => reason_of_status(status),
            Self::Unreachable { .. } => SERVER_UNREACHABLE.to_owned(),
            Self::Read { .. } => "FILE_UNREADABLE".to_owned(),
            Self::Write { .. } | Self::Output(_) => "FILE_UNWRITABLE".to_owned(),
            Self::Feed { reason, .. } => reason.clone(),
            Self::Interrupted { source, .. } => source.reason(),
            Self::Address { .. }
            | Self::Token { .. }
            | Self::Json { .. }
            | Self::PatchNotObject
            | Self::Tsv { .. }
            | Self::NothingJudged { .. }
            | Self::EmptyFeed { .. } => Reason::InvalidArgument.as_str().to_owned(),
        }
    }

    /// The sentence, with what lies below it.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Unreachable { source, .. } | Self::Address { source, .. } => {
                format!("{self}: {}", innermost(source))
            }
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Output(source) => {
                format!("{self}: {source}")
            }
            _ => self.to_string(),
        }
    }

    /// What to do about it, where this side knows better than the reason's page.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => {
                Some("start one with `verdigris up`, or leave out --server to work on the data folder")
            }
            Self::Address { .. } => Some("write it as http://HOST:PORT, or https://HOST:PORT for a server with TLS"),
            Self::Interrupted { .. } => Some("send the whole file again: events that are there already do no harm"),
            Self::Feed { .. } => Some("mend the line and run the resync again"),
            Self::Refused(status) => advice_for(&reason_of_status(status)),
            _ => None,
        }
    }

    /// How the process ends. Who closes our output early, as `head` does, has what it wanted.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            _ => Exit::Error,
        }
    }
}

/// The reason of a status; of one that no server of ours made, by its code.
pub(crate) fn reason_of_status(status: &Status) -> String {
    reason_of(status).unwrap_or_else(|| {
        let reason = match status.code() {
            Code::Unavailable => SERVER_UNREACHABLE,
            // A client's own time-out says Cancelled.
            Code::DeadlineExceeded | Code::Cancelled => DEADLINE_EXCEEDED,
            Code::Unauthenticated => Reason::Unauthenticated.as_str(),
            Code::PermissionDenied => Reason::PermissionDenied.as_str(),
            Code::InvalidArgument => Reason::InvalidArgument.as_str(),
            Code::ResourceExhausted | Code::OutOfRange => Reason::TooLarge.as_str(),
            _ => Reason::Internal.as_str(),
        };
        reason.to_owned()
    })
}

/// Some transport errors carry no words of their own.
fn message_of(status: &Status) -> String {
    match (status.message(), reason_of_status(status).as_str()) {
        (_, DEADLINE_EXCEEDED) => "the server did not answer in time".to_owned(),
        (message, SERVER_UNREACHABLE) => format!("the connection to the server broke: {message}"),
        ("", reason) => format!("the server answered {reason} without a message"),
        (message, _) => message.to_owned(),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn advice_for(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "COLLECTION_NOT_FOUND" => {
            "see `verdigris collections list`; a collection is made by `verdigris ingest` or `verdigris collections create`"
        }
        "UNAUTHENTICATED" | "PERMISSION_DENIED" => "give the file that holds a token for this with --client-token-file",
        "RELEASE_NOT_FOUND" => "see `verdigris releases list`",
        "DEAD_LETTER_NOT_FOUND" => "see `verdigris dead-letters list`",
        "STREAM_MISMATCH" => "repair the collection with `verdigris resync FILE`",
        "EMBEDDER_UNAVAILABLE" => "fetch the model with `verdigris model fetch`, or search by --mode words",
        "OVERLOADED" | "NOT_READY" | "STORE_UNAVAILABLE" | "SHUTTING_DOWN" => "try again in a moment",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_the_server_keeps_its_reason_and_words() {
        let error = CommandError::from(Reason::InvalidFilter.status("column 7: expected a value"));
        assert_eq!(
            (error.reason().as_str(), error.message().as_str()),
            ("INVALID_FILTER", "column 7: expected a value")
        );
        assert_eq!(error.exit(), Exit::Error);
    }

    #[test]
    fn a_status_without_a_reason_gets_one_by_its_code() {
        let reason = |code| CommandError::from(Status::new(code, "x")).reason();
        assert_eq!(reason(Code::Unavailable), "SERVER_UNREACHABLE");
        assert_eq!(reason(Code::Cancelled), "DEADLINE_EXCEEDED");
        assert_eq!(reason(Code::Unknown), "INTERNAL");
    }

    #[test]
    fn a_reader_that_closes_our_output_is_no_error() {
        let broken = CommandError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(broken.exit(), Exit::Done);
        assert_eq!(
            CommandError::Output(io::ErrorKind::StorageFull.into()).exit(),
            Exit::Error
        );
    }
}
