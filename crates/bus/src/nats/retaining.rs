//! Letting events go: our own retention by collection, and keeping a collection's mark ahead of the broker's.

use std::collections::BTreeMap;

use verdigris_core::names::CollectionName;

use super::error::NatsError;
use super::link::{Link, Wanted};
use super::mark::{self, Mark, Placed};
use super::message;
use super::pull::{Begin, Consumer, Request, Selection};
use super::stream::Info;
use crate::bus::Retention;

/// Events that one step removes.
const REMOVE_EVENTS_MAX: u64 = 5_000;

/// Stretches without an event that a mark holds.
const QUIET_MAX: usize = 4;

/// Removes what retention lets go, one step at most; how many events that were.
pub(super) async fn retain(
    link: &Link,
    collection: &CollectionName,
    retention: &Retention,
    now_ns: i64,
) -> Result<u64, NatsError> {
    let info = link.info().await?;
    let Some(placed) = mark::read(link, collection)
        .await?
        .filter(|placed| !placed.mark.forgotten)
    else {
        return Ok(0);
    };
    if info.broker_trims() {
        keep_ahead(link, collection, &placed, &info, (now_ns, retention.never_past)).await?;
    }
    if !info.may_purge() {
        return Ok(0);
    }
    let removable = removable(link, collection, &placed.mark, retention, (now_ns, info.state.end)).await?;
    let Some(Removable { last, quiet_to, count }) = removable else {
        return Ok(0);
    };
    let identity = placed.mark.identity;
    // The mark first: a reader must never find events gone of which no mark tells.
    let changed = mark::change(link, collection, |found| {
        let mark = &found?.mark;
        let later = mark.quiet.iter().copied().filter(|(after, _)| *after > last);
        (mark.identity == identity && !mark.forgotten && mark.trimmed_to < last).then(|| Mark {
            trimmed_to: last,
            quiet: std::iter::once((last, quiet_to)).chain(later).collect(),
            ..mark.clone()
        })
    })
    .await?;
    match changed {
        Some(mark) if mark.identity == identity && !mark.forgotten => {
            purge(link, &link.events(collection), last + 1).await?;
            Ok(count)
        }
        _ => Ok(0),
    }
}

/// Removes the messages of a subject before a sequence.
pub(super) async fn purge(link: &Link, subject: &str, before: u64) -> Result<(), NatsError> {
    let question = serde_json::json!({"filter": subject, "seq": before});
    let purged: serde_json::Value = link.call(format!("STREAM.PURGE.{}", link.name), &question).await?;
    tracing::debug!(subject, before, %purged, "events were let go");
    Ok(())
}

/// What retention lets go of a collection.
struct Removable {
    /// Sequence of the last event to go.
    last: u64,
    /// No event of the collection is after it up to here.
    quiet_to: u64,
    count: u64,
}

/// What may go in one step; nothing where all must stay. `end` is where the stream ended before this.
async fn removable(
    link: &Link,
    collection: &CollectionName,
    mark: &Mark,
    retention: &Retention,
    (now_ns, end): (i64, u64),
) -> Result<Option<Removable>, NatsError> {
    let subject = link.events(collection);
    let is_old = |accepted_at_ns: i64| now_ns.saturating_sub(accepted_at_ns) > retention.age_ns;
    // One question settles most rounds: the oldest event is young, or needed.
    let first = link.message(Wanted::Next(mark.bound() + 1, subject.clone())).await?;
    let first = first.filter(|first| {
        let accepted_at_ns = message::accepted_at_ns(first.time_ns, Some(&first.headers));
        is_old(accepted_at_ns) && first.sequence < retention.never_past
    });
    let Some(first) = first else {
        return Ok(None);
    };
    let selection = Selection {
        subject,
        begin: Begin::At(first.sequence),
        headers_only: true,
    };
    let mut consumer = Consumer::make(link, &selection).await?;
    let request = Request {
        messages: REMOVE_EVENTS_MAX,
        bytes: 0,
        wait: None,
    };
    let mut removable: Option<Removable> = None;
    let mut pull = consumer.pull(link, request).await?;
    while let Some(delivered) = pull.next().await? {
        let accepted_at_ns = message::accepted_at_ns(delivered.time_ns, delivered.message.headers.as_ref());
        if !is_old(accepted_at_ns) || delivered.sequence >= retention.never_past {
            if let Some(removable) = &mut removable {
                removable.quiet_to = delivered.sequence - 1;
            }
            break;
        }
        let last = delivered.sequence;
        removable = Some(Removable {
            last,
            quiet_to: if delivered.pending == 0 { end.max(last) } else { last },
            count: removable.map_or(0, |before| before.count) + 1,
        });
    }
    drop(pull);
    consumer.remove(link).await;
    Ok(removable)
}

/// Writes the mark anew before the broker's own limits reach it, with what can be told of the collection now.
async fn keep_ahead(
    link: &Link,
    collection: &CollectionName,
    placed: &Placed,
    info: &Info,
    (now_ns, oldest_checkpoint): (i64, u64),
) -> Result<(), NatsError> {
    let (first, end) = (info.first(), info.state.end);
    let half = first + end.saturating_sub(first) / 2;
    let age_ns = i128::from(now_ns.saturating_sub(placed.time_ns));
    let is_old = info
        .max_age()
        .is_some_and(|age| age_ns > i128::try_from(age.as_nanos()).unwrap_or(i128::MAX) / 4);
    if placed.sequence > half && !is_old {
        return Ok(());
    }
    let mark = &placed.mark;
    // Where a stretch begins, and from where on each event must still be there for its end to be told.
    let mut begun: Vec<(u64, u64)> = mark.quiet.clone();
    if oldest_checkpoint > mark.bound() && oldest_checkpoint <= end {
        begun.push((oldest_checkpoint, oldest_checkpoint));
    }
    let mut quiet = BTreeMap::new();
    for (after, to) in begun {
        let next = link.message(Wanted::Next(to + 1, link.events(collection))).await?;
        let quiet_to = next.map_or(end.max(to), |next| next.sequence - 1);
        quiet.insert(after, (to, quiet_to));
    }
    // Looked for after the end was: an event that came later is beyond it.
    let last = link.message(Wanted::Last(link.events(collection))).await?;
    if let Some(last) = last.filter(|last| last.sequence > mark.bound() && last.sequence <= end) {
        quiet.insert(last.sequence, (end, end));
    }
    // Once more, since one that was not found may have been removed in between.
    let first = link.info().await?.first();
    let quiet = told(quiet, first);
    let identity = mark.identity;
    mark::change(link, collection, |found| {
        let mark = &found?.mark;
        (mark.identity == identity && !mark.forgotten).then(|| Mark {
            quiet: quiet.clone(),
            ..mark.clone()
        })
    })
    .await?;
    Ok(())
}

/// The stretches that can be told of a stream that begins with `first`: those whose old end it still has. The first
/// helps a reader that is far behind, the last ones those that have read all.
fn told(found: BTreeMap<u64, (u64, u64)>, first: u64) -> Vec<(u64, u64)> {
    let whole = found.into_iter().filter(|(_, (had, _))| had + 1 >= first);
    let mut told: Vec<_> = whole.map(|(after, (_, to))| (after, to)).collect();
    while told.len() > QUIET_MAX {
        told.remove(1);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_stretch_is_told_only_of_what_was_there_to_be_looked_at() {
        let found = BTreeMap::from([(5, (9, 20)), (30, (30, 44)), (50, (60, 60))]);
        assert_eq!(told(found.clone(), 10), [(5, 20), (30, 44), (50, 60)]);
        assert_eq!(told(found.clone(), 11), [(30, 44), (50, 60)]);
        assert_eq!(told(found.clone(), 32), [(50, 60)]);
        assert!(told(found, 62).is_empty());
    }
}
