//! Publishing. One event is one message; several are an atomic batch where the broker has those (2.12), so that they
//! are there together and in order, or not at all. Where it has none they are sent one after the other, and an append
//! that ends in an error may have happened in part.
//!
//! Each message has an id of its own, the same in each attempt: what was stored without our hearing of it is not stored
//! again, as long as the broker remembers ids.

use std::ops::Range;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use bytes::Bytes;
use tokio::time::Instant;

use super::error::NatsError;
use super::link::Link;
use crate::bus::NewEvent;

/// Messages in one atomic batch: what brokers take by default.
const BATCH_EVENTS_MAX: usize = 1_000;
/// Payload bytes in one atomic batch: the broker holds it until it is whole.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Messages under way at once where there are no batches.
const UNDER_WAY_MAX: usize = 256;
/// What the headers of a message have at most.
const HEADER_BYTES_MAX: usize = 512;
/// The first and the longest wait between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Events on their way to one subject.
pub(super) struct Append<'a> {
    pub(super) link: &'a Link,
    pub(super) subject: String,
    pub(super) events: &'a [NewEvent],
    /// Begins the id of each message.
    pub(super) nonce: u128,
    /// Whether the stream takes atomic batches.
    pub(super) batches: bool,
    pub(super) deadline: Instant,
}

impl Append<'_> {
    /// Refuses what the server would.
    pub(super) fn check(&self) -> Result<(), NatsError> {
        let most = self.link.client.max_payload();
        let too_large = |event: &NewEvent| event.payload.len() + HEADER_BYTES_MAX > most;
        match self.events.iter().position(too_large) {
            None => Ok(()),
            Some(index) => Err(NatsError::PayloadTooLarge {
                index,
                bytes: self.events[index].payload.len() + HEADER_BYTES_MAX,
                most,
            }),
        }
    }

    /// Stores all events and returns the sequences of the first and the last.
    pub(super) async fn run(&self) -> Result<(u64, u64), NatsError> {
        let (mut begin, mut places) = (0, None);
        while begin < self.events.len() {
            let range = begin..self.cut(begin);
            begin = range.end;
            let (first, last) = self.store(range).await?;
            places = Some((places.map_or(first, |(first, _)| first), last));
        }
        Ok(places.expect("an append has events"))
    }

    /// Where the batch that begins here ends.
    fn cut(&self, begin: usize) -> usize {
        let mut bytes = 0;
        let rest = self.events[begin..].iter().take(BATCH_EVENTS_MAX);
        let fitting = rest.take_while(|event| {
            bytes += event.payload.len();
            bytes <= BATCH_BYTES_MAX
        });
        begin + fitting.count().max(1)
    }

    /// Stores one batch, as often as it takes.
    async fn store(&self, range: Range<usize>) -> Result<(u64, u64), NatsError> {
        let mut wait = RETRY.0;
        loop {
            let stored = if range.len() == 1 {
                self.one(range.start).await.map(|sequence| (sequence, sequence))
            } else if self.batches {
                self.batch(range.clone()).await
            } else {
                self.one_after_the_other(range.clone()).await
            };
            let again = match &stored {
                Err(NatsError::Refused { code, .. }) => *code == ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH.0,
                Err(error) => error.is_outage(),
                Ok(_) => false,
            };
            if !again || Instant::now() + wait > self.deadline {
                return stored;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    async fn one(&self, index: usize) -> Result<u64, NatsError> {
        let (headers, payload) = self.message(index);
        let ack = self.link.publish(self.subject.clone(), headers, payload).await?;
        Ok(ack.sequence)
    }

    async fn batch(&self, range: Range<usize>) -> Result<(u64, u64), NatsError> {
        let id = format!("{:016x}", rand::random::<u64>());
        let count = range.len() as u64;
        let last = range.end - 1;
        for (number, index) in (1u64..).zip(range) {
            let (mut headers, payload) = self.message(index);
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", number.to_string());
            if index < last {
                let sent = self
                    .link
                    .client
                    .publish_with_headers(self.subject.clone(), headers, payload);
                sent.await.map_err(|error| self.link.unavailable(error))?;
                continue;
            }
            headers.insert("Nats-Batch-Commit", "1");
            let sequence = match self.link.publish(self.subject.clone(), headers, payload).await {
                Ok(ack) => ack.sequence,
                // An earlier attempt was stored, and so as a whole: the id of its last message tells where.
                Err(NatsError::Refused { code, .. })
                    if code == ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE.0 =>
                {
                    self.one(last).await?
                }
                Err(error) => return Err(error),
            };
            return Ok((sequence + 1 - count, sequence));
        }
        unreachable!("a batch has events, and the last ends it")
    }

    /// What waits for its acknowledgement waits together: each has a time limit of its own that begins when it is asked.
    async fn one_after_the_other(&self, range: Range<usize>) -> Result<(u64, u64), NatsError> {
        let mut places = None;
        for begin in range.clone().step_by(UNDER_WAY_MAX) {
            let part = begin..(begin + UNDER_WAY_MAX).min(range.end);
            let acks = futures::future::join_all(part.map(|index| self.one(index))).await;
            for ack in acks {
                let sequence = ack?;
                places = Some((places.map_or(sequence, |(first, _)| first), sequence));
            }
        }
        Ok(places.expect("a batch has events"))
    }

    fn message(&self, index: usize) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{:032x}-{index}", self.nonce));
        (headers, self.events[index].payload.clone())
    }
}
