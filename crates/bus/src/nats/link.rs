//! The way to the broker: one connection, its stream, and questions with one answer each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{ContextBuilder, RequestError, RequestErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use verdigris_core::names::CollectionName;

use super::error::NatsError;
use super::options::NatsOptions;
use super::stream::Info;

/// A connection and its stream.
pub(super) struct Link {
    pub(super) client: async_nats::Client,
    pub(super) context: Context,
    stream: Stream<()>,
    /// The stream's name.
    pub(super) name: String,
    prefix: String,
    /// The server, for messages.
    pub(super) server: String,
    pub(super) request_timeout: Duration,
    /// How often there was a connection: what was under way at an earlier one is lost.
    pub(super) connected: watch::Receiver<u64>,
}

/// Which message of the stream.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// The one at this sequence.
    At(u64),
    /// The first of a subject at this sequence or later.
    Next(u64, String),
    /// The last of a subject.
    Last(String),
}

/// A message of the stream.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) time_ns: i64,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Link {
    pub(super) async fn connect(options: &NatsOptions) -> Result<Self, NatsError> {
        options.check()?;
        let (sender, mut connected) = watch::channel(0);
        let client = options.connect(Arc::new(sender)).await?;
        // What is asked at this connection must not be taken for asked at one before.
        drop(tokio::time::timeout(options.request_timeout, connected.wait_for(|count| *count > 0)).await);
        let context = ContextBuilder::new()
            .timeout(options.request_timeout)
            .build(client.clone());
        let server = options.shown();
        let stream = context
            .get_stream_no_info(&options.stream)
            .await
            .map_err(|error| NatsError::unavailable(server.clone(), error))?;
        Ok(Self {
            client,
            context,
            stream,
            name: options.stream.clone(),
            prefix: options.prefix.clone(),
            server,
            request_timeout: options.request_timeout,
            connected,
        })
    }

    /// Where the collection's events are.
    pub(super) fn events(&self, collection: &CollectionName) -> String {
        format!("{}events.{collection}", self.prefix)
    }

    /// Where all events are.
    pub(super) fn all_events(&self) -> String {
        format!("{}events.*", self.prefix)
    }

    /// Where the collection's mark is.
    pub(super) fn marks(&self, collection: &CollectionName) -> String {
        format!("{}marks.{collection}", self.prefix)
    }

    /// Where all marks are.
    pub(super) fn all_marks(&self) -> String {
        format!("{}marks.*", self.prefix)
    }

    pub(super) fn unavailable(&self, error: impl std::error::Error + Send + Sync + 'static) -> NatsError {
        NatsError::unavailable(self.server.clone(), error)
    }

    pub(super) fn refused(&self, error: jetstream::Error) -> NatsError {
        NatsError::of_answer(&self.server, &self.name, error)
    }

    /// Asks the leader.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        subject: String,
        question: &(impl Serialize + Sync),
    ) -> Result<T, NatsError> {
        let answer = self.context.request(subject, question).await;
        match answer.map_err(|error| NatsError::of_request(&self.server, error))? {
            Response::Ok(answer) => Ok(answer),
            Response::Err { error } => Err(self.refused(error)),
        }
    }

    /// Publishes a message and waits until it is stored.
    pub(super) async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PublishAck, NatsError> {
        let request = async_nats::Request::new().headers(headers).payload(payload);
        let answer = self.client.send_request(subject, request).await;
        let answer = answer.map_err(|error| self.unavailable(error))?;
        let answer = serde_json::from_slice(&answer.payload).map_err(|error| self.unavailable(error))?;
        match answer {
            Response::Ok(ack) => Ok(ack),
            Response::Err { error } => Err(self.refused(error)),
        }
    }

    pub(super) async fn info(&self) -> Result<Info, NatsError> {
        self.call(format!("STREAM.INFO.{}", self.name), &serde_json::json!({}))
            .await
    }

    /// The collections that have a mark.
    pub(super) async fn marked(&self) -> Result<Vec<CollectionName>, NatsError> {
        #[derive(serde::Deserialize)]
        struct Page {
            state: Subjects,
            #[serde(default)]
            total: u64,
        }
        #[derive(serde::Deserialize)]
        struct Subjects {
            #[serde(default)]
            subjects: Option<BTreeMap<String, u64>>,
        }
        let prefix = format!("{}marks.", self.prefix);
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let question = serde_json::json!({"subjects_filter": self.all_marks(), "offset": offset});
            let page: Page = self.call(format!("STREAM.INFO.{}", self.name), &question).await?;
            let subjects = page.state.subjects.unwrap_or_default();
            offset += subjects.len() as u64;
            let ended = subjects.is_empty() || offset >= page.total;
            let tokens = subjects.into_keys();
            names.extend(tokens.filter_map(|subject| subject.strip_prefix(&prefix)?.parse().ok()));
            if ended {
                return Ok(names);
            }
        }
    }

    /// A message, as the leader has it: a follower may lag, and what it lacks must not be taken for lost.
    pub(super) async fn message(&self, wanted: Wanted) -> Result<Option<Raw>, NatsError> {
        let question = self.stream.raw_message_builder();
        let question = match wanted {
            Wanted::At(0) => return Ok(None),
            Wanted::At(sequence) => question.sequence(sequence),
            Wanted::Next(sequence, subject) => question.sequence(sequence.max(1)).next_by_subject(subject),
            Wanted::Last(subject) => question.last_by_subject(subject),
        };
        let found = match question.send().await {
            Ok(found) => found,
            Err(error) => {
                return match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => Ok(None),
                    LastRawMessageErrorKind::JetStream(error) => Err(self.refused(error)),
                    _ => Err(self.of_source(error)),
                };
            }
        };
        Ok(Some(Raw {
            subject: found.subject.to_string(),
            sequence: found.sequence,
            time_ns: nanoseconds(found.time.unix_timestamp_nanos()),
            headers: found.headers,
            payload: found.payload,
        }))
    }

    fn of_source(&self, error: jetstream::stream::LastRawMessageError) -> NatsError {
        let source = std::error::Error::source(&error);
        let request = source.and_then(|source| source.downcast_ref::<RequestError>());
        match request.map(RequestError::kind) {
            Some(RequestErrorKind::NoResponders) => NatsError::NoJetStream {
                server: self.server.clone(),
            },
            _ => self.unavailable(error),
        }
    }
}

/// A time of the broker: beyond what 64 bits hold is the end of time.
pub(super) fn nanoseconds(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}
