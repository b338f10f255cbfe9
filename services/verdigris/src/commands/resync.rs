//! `resync`: makes a collection equal to a full feed, as of the feed's moment.
//!
//! What the feed lacks is deleted, so a feed that could not be read to its end must never look like a short one. A call
//! that is cancelled looks to the server like one that came to its end; so the whole feed is read and checked before the
//! first of it is sent, and its end is told by a last message without documents.

use std::io;
use std::time::Instant;

use serde_json::json;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use verdigris_proto::admin::{ResyncRequest, ResyncResponse};

use super::CommandError;
use super::batches::{self, Batch, STANDARD_INPUT};
use super::ingest::{Summary, settle};
use super::waiting::Range;
use crate::arguments::Wait;
use crate::client::{Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs};

/// Messages on their way that the server has not taken yet.
const MESSAGES_AHEAD: usize = 2;
/// Refusals that are told one by one.
const REFUSALS_SHOWN: usize = 20;

/// A full feed.
pub(crate) struct Feed<'a> {
    /// Its file, or `-`.
    pub(crate) file: &'a str,
    /// Its time, RFC 3339.
    pub(crate) time: Option<&'a str>,
    /// Its revision, for collections with numbered revisions.
    pub(crate) revision: Option<i64>,
}

/// Sends a feed, waits where that was asked, and sums up.
pub(crate) async fn run(
    feed: &Feed<'_>,
    wait: &Wait,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let began = Instant::now();
    let (answer, lines) = send(feed, collection, client, output).await?;
    let range = Range {
        collection: collection.to_owned(),
        first: answer.first_position.clone(),
        last: answer.last_position.clone(),
    };
    let mut summary = Summary {
        accepted: answer.accepted,
        rejected: answer.rejected,
        ..Summary::default()
    };
    settle(&mut summary, &range, wait, client, output).await;
    let line = |index: u64| lines.get(index as usize).copied();
    for refusal in answer.rejections.iter().take(REFUSALS_SHOWN) {
        let place = line(refusal.index)
            .map(|line| format!("line {line}"))
            .unwrap_or_default();
        output.note(&format!(
            "{place} was refused: {} ({})",
            refusal.message, refusal.reason
        ));
    }
    let rejections = answer
        .rejections
        .iter()
        .map(|refusal| json!({"line": line(refusal.index), "reason": refusal.reason, "message": refusal.message}));
    let report = json!({
        "accepted": summary.accepted,
        "rejected": summary.rejected,
        "deleted": answer.deleted,
        "applied": summary.applied,
        "unchanged": summary.unchanged,
        "stale": summary.stale,
        "set_aside": summary.set_aside,
        "position": summary.position,
        "generation": summary.generation,
        "seconds": (began.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0,
        "searchable": summary.searchable,
        "reason": summary.reason,
        "message": summary.message,
        "rejections": rejections.collect::<Vec<_>>(),
    });
    output.answer(&report, |_| shown(&summary, &answer))?;
    Ok(summary.exit())
}

fn shown(summary: &Summary, answer: &ResyncResponse) -> String {
    let number = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    pairs(&[
        ("accepted", summary.accepted.to_string()),
        ("rejected", summary.rejected.to_string()),
        ("deleted", format!("{} that the feed lacks", answer.deleted)),
        ("applied", number(summary.applied)),
        ("unchanged", number(summary.unchanged)),
        ("searchable", summary.searchable_shown()),
        ("generation", number(summary.generation)),
        ("position", summary.position.clone().unwrap_or_default()),
    ])
}

/// Sends the feed; the answer, and the line of each of its documents.
async fn send(
    feed: &Feed<'_>,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<(ResyncResponse, Vec<u64>), CommandError> {
    let kept = (feed.file == STANDARD_INPUT).then(kept_input).transpose()?;
    let path = kept
        .as_ref()
        .map_or(feed.file.into(), |kept| kept.path().to_string_lossy());
    let lines = check(feed, &path).await?;
    let bar = output.progress(
        batches::bytes_of(&[path.to_string()]),
        "{bar:30} {bytes} {msg} [{elapsed_precise}]",
    );
    let mut batches = batches::read(vec![path.to_string()]);
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let mut request = ResyncRequest {
        collection: collection.to_owned(),
        feed_time: feed.time.unwrap_or_default().to_owned(),
        feed_revision: feed.revision,
        documents: Vec::new(),
        complete: false,
    };
    let mut admin = client.admin();
    let call = admin.resync(within(LONG_CALL, ReceiverStream::new(receiver)));
    tokio::pin!(call);
    while let Some(batch) = batches.recv().await {
        let batch = checked(feed, batch?)?;
        bar.inc(batch.bytes_read);
        if batch.events.is_empty() {
            continue;
        }
        request.documents = batch.events;
        let message = std::mem::take(&mut request);
        tokio::select! {
            // Whichever comes first: room for the message, or an early answer, which is an error.
            sent = sender.send(message) => if sent.is_err() { break },
            answer = &mut call => return Ok((answer?.into_inner(), lines)),
        }
    }
    bar.set_message("comparing");
    let answer = tokio::join!(end(sender), call).1?.into_inner();
    bar.finish_and_clear();
    Ok((answer, lines))
}

/// Says that the feed is whole. Nobody takes it where the call has failed already; the answer says why.
async fn end(sender: mpsc::Sender<ResyncRequest>) {
    let last = ResyncRequest {
        complete: true,
        ..ResyncRequest::default()
    };
    let _ = sender.send(last).await;
}

/// Reads the whole feed, and gives the line of each of its documents.
async fn check(feed: &Feed<'_>, path: &str) -> Result<Vec<u64>, CommandError> {
    let mut lines = Vec::new();
    let mut batches = batches::read(vec![path.to_owned()]);
    while let Some(batch) = batches.recv().await {
        lines.extend(checked(feed, batch?)?.lines);
    }
    if lines.is_empty() {
        return Err(CommandError::EmptyFeed {
            file: feed.file.to_owned(),
        });
    }
    Ok(lines)
}

fn checked(feed: &Feed<'_>, mut batch: Batch) -> Result<Batch, CommandError> {
    let Some((line, refused)) = batch.refused.pop() else {
        return Ok(batch);
    };
    Err(CommandError::Feed {
        file: feed.file.to_owned(),
        line,
        reason: refused.reason,
        message: refused.message,
    })
}

/// Standard input as a file, since a feed is read twice; it goes when it is dropped.
fn kept_input() -> Result<NamedTempFile, CommandError> {
    let unreadable = |source| CommandError::Read {
        path: STANDARD_INPUT.to_owned(),
        source,
    };
    let mut kept = NamedTempFile::new().map_err(unreadable)?;
    io::copy(&mut io::stdin(), &mut kept).map_err(unreadable)?;
    Ok(kept)
}
