//! Asking a consumer for messages. Ours are ordered: nothing is acknowledged, and a message that is missing between two
//! others is noticed by its number.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::{StatusCode, Subscriber};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::error::{NatsError, Silence};
use super::link::{Link, nanoseconds};

/// How long the broker keeps a consumer that nobody asks.
const INACTIVE: Duration = Duration::from_secs(60);

/// Where a consumer begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin {
    /// At this sequence.
    At(u64),
    /// At the last message of each subject.
    LastOfEach,
}

/// Which messages a consumer gives.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) subject: String,
    pub(super) begin: Begin,
    pub(super) headers_only: bool,
}

/// A consumer of the broker, which it forgets when nobody asks any more.
pub(super) struct Consumer {
    name: String,
    /// How many messages there were when it was made.
    pub(super) pending: u64,
    /// Number of the last message that came.
    delivered: u64,
}

/// How much is asked for at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) messages: u64,
    /// 0 for any number.
    pub(super) bytes: u64,
    /// How long to wait for the first; none to take what is there.
    pub(super) wait: Option<Duration>,
}

/// A message that came.
pub(super) struct Delivered {
    pub(super) message: async_nats::Message,
    pub(super) sequence: u64,
    pub(super) time_ns: i64,
    /// How many follow it.
    pub(super) pending: u64,
}

/// One request under way.
pub(super) struct Pull<'a> {
    link: &'a Link,
    consumer: &'a mut Consumer,
    replies: Subscriber,
    connected: watch::Receiver<u64>,
    left: u64,
    limit: Duration,
    /// Whether the next message alone was larger than what was asked for.
    pub(super) too_large: bool,
}

#[derive(Deserialize)]
struct Made {
    name: String,
    #[serde(default)]
    num_pending: u64,
}

impl Consumer {
    pub(super) async fn make(link: &Link, selection: &Selection) -> Result<Self, NatsError> {
        let mut config = json!({
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subject": selection.subject,
            "headers_only": selection.headers_only,
            "inactive_threshold": INACTIVE.as_nanos() as u64,
            // It can be made again at any moment, so it is not worth copies or a file.
            "num_replicas": 1,
            "mem_storage": true,
            "deliver_policy": "last_per_subject",
        });
        if let Begin::At(sequence) = selection.begin {
            config["deliver_policy"] = "by_start_sequence".into();
            config["opt_start_seq"] = sequence.max(1).into();
        }
        let question = json!({"stream_name": link.name, "config": config});
        let made: Made = link.call(format!("CONSUMER.CREATE.{}", link.name), &question).await?;
        Ok(Self {
            name: made.name,
            pending: made.num_pending,
            delivered: 0,
        })
    }

    /// Lets the broker forget it now. What goes wrong with that only means: later.
    pub(super) async fn remove(self, link: &Link) {
        let subject = format!("CONSUMER.DELETE.{}.{}", link.name, self.name);
        let removed: Result<serde_json::Value, _> = link.call(subject, &json!({})).await;
        if let Err(error) = removed {
            tracing::debug!(%error, "a consumer stays until it is found idle");
        }
    }

    /// Begins a request. Dropped before its end, the consumer must not be used again: messages may be on their way.
    pub(super) async fn pull<'a>(&'a mut self, link: &'a Link, request: Request) -> Result<Pull<'a>, NatsError> {
        let mut connected = link.connected.clone();
        connected.mark_unchanged();
        let inbox = link.client.new_inbox();
        let replies = link.client.subscribe(inbox.clone()).await;
        let replies = replies.map_err(|error| link.unavailable(error))?;
        let mut question = json!({"batch": request.messages});
        match request.wait {
            Some(wait) => question["expires"] = (wait.as_nanos() as u64).into(),
            None => question["no_wait"] = true.into(),
        }
        if request.bytes > 0 {
            question["max_bytes"] = request.bytes.into();
        }
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", link.name, self.name);
        link.client
            .publish_with_reply(subject, inbox, question.to_string().into())
            .await
            .map_err(|error| link.unavailable(error))?;
        Ok(Pull {
            link,
            consumer: self,
            replies,
            connected,
            left: request.messages,
            limit: request.wait.unwrap_or_default() + link.request_timeout,
            too_large: false,
        })
    }
}

impl Pull<'_> {
    /// The next message; nothing at the end of the request. After an error the consumer must not be used again.
    pub(super) async fn next(&mut self) -> Result<Option<Delivered>, NatsError> {
        while self.left > 0 {
            let message = tokio::select! {
                message = tokio::time::timeout(self.limit, self.replies.next()) => message,
                _ = self.connected.changed() => return Err(self.link.unavailable(Silence::Reconnected)),
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) | Err(_) => return Err(self.link.unavailable(Silence::TimedOut)),
            };
            match message.status {
                None | Some(StatusCode::OK) => {}
                Some(StatusCode::IDLE_HEARTBEAT) => continue,
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                Some(status) => {
                    let said = format!("{status} {}", message.description.unwrap_or_default());
                    if said.contains("Exceeds MaxBytes") {
                        self.too_large = true;
                        break;
                    }
                    return Err(self.link.unavailable(Silence::Status(said)));
                }
            }
            // However little follows it: the broker ends the request itself, and would send to it what comes until then.
            self.left -= 1;
            return self.delivered(message).map(Some);
        }
        self.left = 0;
        Ok(None)
    }

    fn delivered(&mut self, message: async_nats::Message) -> Result<Delivered, NatsError> {
        let context = self.link.context.clone();
        let message = jetstream::Message { message, context };
        let info = message
            .info()
            .map_err(|error| self.link.unavailable(Silence::Status(error.to_string())))?;
        if info.consumer_sequence != self.consumer.delivered + 1 {
            return Err(self.link.unavailable(Silence::Lost));
        }
        self.consumer.delivered = info.consumer_sequence;
        Ok(Delivered {
            sequence: info.stream_sequence,
            time_ns: nanoseconds(info.published.unix_timestamp_nanos()),
            pending: info.pending,
            message: message.message,
        })
    }
}
