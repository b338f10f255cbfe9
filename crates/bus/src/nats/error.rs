//! What can go wrong with a broker, by what a caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::ConnectErrorKind;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{RequestError, RequestErrorKind};

use super::stream::Unfit;

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a broker could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NatsError {
    /// An option that cannot be.
    #[error("the option {name} is {value:?}; it must be {want}")]
    Option {
        /// Which.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        want: &'static str,
    },
    /// The credentials file.
    #[error("the credentials file {path} cannot be used")]
    Credentials {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The file of authorities.
    #[error("the certificate file {path} cannot be read")]
    CaFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The server knows us not.
    #[error("the NATS server at {server} refuses these credentials")]
    Denied {
        /// Where.
        server: String,
        /// What it said.
        #[source]
        source: Source,
    },
    /// No answer: it may help to try again.
    #[error("the NATS server at {server} does not answer (it is away, has no leader, or gives no permission)")]
    Unavailable {
        /// Where.
        server: String,
        /// What happened.
        #[source]
        source: Source,
    },
    /// A server without JetStream, or an account without it; also one that is just starting.
    #[error("the NATS server at {server} offers no JetStream to this account")]
    NoJetStream {
        /// Where.
        server: String,
    },
    /// No stream.
    #[error("stream {stream} is not there; make it, or allow it to be made")]
    NoStream {
        /// Which.
        stream: String,
    },
    /// A stream that would lose events.
    #[error("stream {stream} cannot be used: {unfit}")]
    Unfit {
        /// Which.
        stream: String,
        /// Why.
        unfit: Unfit,
    },
    /// No room: nothing of the last message was accepted.
    #[error("no room left in stream {stream} ({description}); raise its limits or let events go")]
    Full {
        /// Which.
        stream: String,
        /// What the broker said.
        description: String,
    },
    /// One payload over the server's limit.
    #[error("event {index} has {bytes} bytes; the NATS server takes {most}: raise its max_payload")]
    PayloadTooLarge {
        /// Which, from 0.
        index: usize,
        /// How many, headers included.
        bytes: usize,
        /// What the server takes.
        most: usize,
    },
    /// The broker said no: the same again will not help.
    #[error("the NATS server refuses: {description} (code {code})")]
    Refused {
        /// The broker's code.
        code: u64,
        /// What it said.
        description: String,
    },
    /// Somebody else's writes were always faster.
    #[error("the mark of a collection changes too often to be written")]
    Contended,
    /// An object of ours in the stream that cannot be read.
    #[error("{subject} holds no mark that this software can read")]
    Mark {
        /// Where.
        subject: String,
    },
}

impl NatsError {
    /// Whether to try again: the broker is away, and not refusing.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::NoJetStream { .. } | Self::Contended
        )
    }

    pub(super) fn of_connect(server: String, error: async_nats::ConnectError) -> Self {
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Self::Denied {
                server,
                source: Arc::new(error),
            },
            _ => Self::unavailable(server, error),
        }
    }

    pub(super) fn of_request(server: &str, error: RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::NoResponders => Self::NoJetStream {
                server: server.to_owned(),
            },
            _ => Self::unavailable(server.to_owned(), error),
        }
    }

    pub(super) fn unavailable(server: String, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable {
            server,
            source: Arc::new(error),
        }
    }

    /// What JetStream answered, in our words.
    pub(super) fn of_answer(server: &str, stream: &str, error: async_nats::jetstream::Error) -> Self {
        let stream = stream.to_owned();
        match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND => Self::NoStream { stream },
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => Self::NoJetStream {
                server: server.to_owned(),
            },
            ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES => Self::Full {
                stream,
                description: error.to_string(),
            },
            _ if matches!(error.code(), 408 | 429 | 503) => Self::unavailable(server.to_owned(), error),
            code => Self::Refused {
                code: code.0,
                description: error.to_string(),
            },
        }
    }
}

/// What a broker did instead of answering.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silence {
    #[error("nothing came in time")]
    TimedOut,
    #[error("the connection was lost meanwhile")]
    Reconnected,
    #[error("messages were lost on the way")]
    Lost,
    #[error("the broker said {0}")]
    Status(String),
}
