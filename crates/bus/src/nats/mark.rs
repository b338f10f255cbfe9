//! A collection's mark in the stream: what a stream of many collections cannot tell of one of them by itself.
//!
//! A broker says where its stream begins, and which events are there. It does not say whether an event that is gone was
//! one of this collection. The mark does, and gives each life of a collection an identity of its own. It is a message at
//! `{prefix}marks.{collection}`, written by compare-and-swap on its subject; a stream that lost it is another stream.

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use serde::{Deserialize, Serialize};
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;

use super::error::NatsError;
use super::link::{Link, Wanted};

/// How often a write that lost against another one is tried again.
const WRITES_MAX: usize = 10;

/// What is known of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Tells this life of the collection from another.
    pub(super) identity: StreamIdentity,
    /// Whether that life is over.
    #[serde(default)]
    pub(super) forgotten: bool,
    /// Events up to here belong to an earlier life.
    pub(super) from: u64,
    /// Events up to here were removed by our own retention.
    #[serde(default)]
    pub(super) trimmed_to: u64,
    /// Stretches without an event of the collection, each between two sequences, the second included: what the broker
    /// removed from there was none.
    pub(super) quiet: Vec<(u64, u64)>,
}

impl Mark {
    /// The first sequence from which on no event of this life is missing, in a stream that begins with `first`; 1 where
    /// none ever was removed.
    pub(super) fn kept(&self, first: u64) -> u64 {
        let bound = self.bound();
        let told = self.quiet.iter().filter(|(_, to)| to + 1 >= first);
        let after = if first <= bound + 1 {
            bound
        } else if let Some(after) = told.map(|(after, _)| *after).min() {
            after.max(bound)
        } else {
            return first;
        };
        if after <= self.from { 1 } else { after + 1 }
    }

    /// Events up to here are of no interest to any reader.
    pub(super) fn bound(&self) -> u64 {
        self.trimmed_to.max(self.from)
    }

    /// The last sequence that there ever was, where the last event that is there is `event`; 0 before the first.
    pub(super) fn last(&self, first: u64, event: Option<u64>) -> u64 {
        match event {
            Some(event) if event > self.from => event,
            // Whatever was there is before this.
            _ => self.kept(first) - 1,
        }
    }

    /// Whether the event at `sequence` should be there, if there ever was one.
    pub(super) fn covers(&self, sequence: u64, first: u64) -> bool {
        sequence >= self.kept(first) && sequence >= first && sequence > self.from
    }
}

/// A mark in its place.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) mark: Mark,
    pub(super) sequence: u64,
    pub(super) time_ns: i64,
}

/// The collection's mark; nothing where it never had one, or lost it.
pub(super) async fn read(link: &Link, collection: &CollectionName) -> Result<Option<Placed>, NatsError> {
    let subject = link.marks(collection);
    let Some(raw) = link.message(Wanted::Last(subject.clone())).await? else {
        return Ok(None);
    };
    let mark = serde_json::from_slice(&raw.payload).map_err(|_| NatsError::Mark { subject })?;
    Ok(Some(Placed {
        mark,
        sequence: raw.sequence,
        time_ns: raw.time_ns,
    }))
}

/// Applies `edit` to the newest mark until that is written, or until there is nothing to write; what there is then.
pub(super) async fn change(
    link: &Link,
    collection: &CollectionName,
    mut edit: impl FnMut(Option<&Placed>) -> Option<Mark>,
) -> Result<Option<Mark>, NatsError> {
    for _ in 0..WRITES_MAX {
        let found = read(link, collection).await?;
        let Some(mark) = edit(found.as_ref()) else {
            return Ok(found.map(|found| found.mark));
        };
        let mut headers = HeaderMap::new();
        let expected = found.as_ref().map_or(0, |found| found.sequence);
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        let payload = serde_json::to_vec(&mark).expect("a mark has no map with keys that are no text");
        match link.publish(link.marks(collection), headers, payload.into()).await {
            Ok(_) => {
                sweep(link, collection).await;
                return Ok(Some(mark));
            }
            Err(NatsError::Refused { code, .. }) if code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE.0 => {}
            Err(error) => return Err(error),
        }
    }
    Err(NatsError::Contended)
}

/// Removes all marks of the collection but the last. One that stays is only read over.
async fn sweep(link: &Link, collection: &CollectionName) {
    let question = serde_json::json!({"filter": link.marks(collection), "keep": 1});
    let swept: Result<serde_json::Value, _> = link.call(format!("STREAM.PURGE.{}", link.name), &question).await;
    if let Err(error) = swept {
        tracing::debug!(%collection, %error, "older marks stay");
    }
}

/// Makes the collection's mark, where it has none or is forgotten; what it has then.
pub(super) async fn open(link: &Link, collection: &CollectionName, nonce: u128) -> Result<Option<Mark>, NatsError> {
    let info = link.info().await?;
    let from = match read(link, collection).await? {
        Some(found) if !found.mark.forgotten => return Ok(Some(found.mark)),
        Some(found) => found.mark.from,
        // Events that came before anybody opened it are its first.
        None => info.first() - 1,
    };
    // Asked for after the end was: one that comes in between is beyond it.
    let event = link.message(Wanted::Next(from + 1, link.events(collection))).await?;
    let quiet_to = event.map_or(info.state.end.max(from), |event| event.sequence - 1);
    change(link, collection, |found| {
        let forgotten_since = match found {
            Some(found) if !found.mark.forgotten => return None,
            Some(found) => found.mark.from,
            None => from,
        };
        Some(Mark {
            identity: StreamIdentity(nonce),
            forgotten: false,
            from: forgotten_since,
            trimmed_to: 0,
            quiet: vec![(forgotten_since, quiet_to.max(forgotten_since))],
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn born() -> Mark {
        Mark {
            identity: StreamIdentity(7),
            forgotten: false,
            from: 10,
            trimmed_to: 0,
            quiet: vec![(10, 12)],
        }
    }

    #[track_caller]
    fn check(mark: &Mark, first: u64, event: Option<u64>, expect: (u64, u64)) {
        assert_eq!(
            (mark.kept(first), mark.last(first, event)),
            expect,
            "{mark:?} from {first}"
        );
    }

    #[test]
    fn a_life_begins_with_nothing_missing() {
        check(&born(), 1, None, (1, 0));
        check(&born(), 11, None, (1, 0));
        check(&born(), 13, None, (1, 0));
        check(&born(), 1, Some(15), (1, 15));
        check(&born(), 1, Some(9), (1, 0));
    }

    #[test]
    fn what_the_broker_removed_may_have_been_an_event_of_the_collection() {
        check(&born(), 14, None, (14, 13));
        check(&born(), 14, Some(15), (14, 15));
    }

    #[test]
    fn what_the_broker_removed_from_a_quiet_stretch_was_none() {
        let quiet = Mark {
            quiet: vec![(15, 40), (45, 60)],
            ..born()
        };
        check(&quiet, 16, Some(50), (16, 50));
        check(&quiet, 41, None, (16, 15));
        check(&quiet, 42, None, (46, 45));
        check(&quiet, 62, None, (62, 61));
    }

    #[test]
    fn our_own_retention_moves_the_beginning() {
        let trimmed = Mark {
            trimmed_to: 20,
            ..born()
        };
        check(&trimmed, 1, Some(30), (21, 30));
        check(&trimmed, 21, None, (21, 20));
        check(&trimmed, 25, Some(30), (25, 30));
    }

    #[test]
    fn an_event_that_was_read_must_be_there_unless_retention_may_have_taken_it() {
        let mark = Mark {
            trimmed_to: 20,
            ..born()
        };
        let told: Vec<_> = [20, 21, 30].map(|sequence| mark.covers(sequence, 1)).to_vec();
        assert_eq!(told, [false, true, true]);
        assert!(!mark.covers(29, 30), "the broker took it");
    }
}
