//! Waits until accepted events are searchable, and says what became of them.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use verdigris_proto::ingest::{GetProgressRequest, GetProgressResponse};
use verdigris_proto::search::GetServingStatsRequest;

use super::error::reason_of_status;
use crate::client::{CALL, Client, within};
use crate::output::Output;

/// How long one call waits before the progress is looked at again.
const STEP: Duration = Duration::from_secs(1);
/// A pause after an answer that came at once although the events are not searchable yet, so that no server is hammered.
const PAUSE: Duration = Duration::from_millis(100);
/// Calls in a row that may fail with a fault that passes, before waiting is given up.
const FAULTS_MAX: u32 = 20;

/// Events whose way is followed.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) collection: String,
    pub(crate) first: String,
    pub(crate) last: String,
}

/// How waiting ended.
#[derive(Debug)]
pub(crate) struct Waited {
    /// The last that was heard of the events.
    pub(crate) progress: Option<GetProgressResponse>,
    /// Why they are not searchable, if they are not: reason and message.
    pub(crate) not_searchable: Option<(String, String)>,
}

/// What one question says.
enum Heard {
    Progress(GetProgressResponse),
    NotYet,
    Fault(Status),
    Never(Status),
}

/// Waits until a release holds the events, for `timeout` at most.
pub(crate) async fn wait(client: &Client, range: &Range, timeout: Duration, output: &Output) -> Waited {
    let bar = output.progress(None, "{spinner} {msg} [{elapsed_precise}]");
    bar.set_message("waiting for a release");
    bar.enable_steady_tick(PAUSE);
    let until = Instant::now() + timeout;
    let (mut progress, mut faults) = (None, 0);
    let not_searchable = loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!(
                "not searchable after {} s; the events are accepted and will be",
                timeout.as_secs()
            );
            break Some(("POSITION_NOT_REACHED".to_owned(), message));
        }
        let asked = Instant::now();
        let mut heard = ask(client, range, left.min(STEP)).await;
        if let Heard::Progress(now) = &heard
            && now.searchable
        {
            // Published is not yet answered from: the reader swaps a moment later.
            heard = match answered(client, range, left.min(STEP)).await {
                Ok(()) => heard,
                Err(status) => self::heard(status),
            };
        }
        match heard {
            Heard::Progress(now) if now.searchable => {
                progress = Some(now);
                break None;
            }
            Heard::Progress(now) => progress = Some(now),
            Heard::NotYet => progress = self::progress(client, range).await.or(progress),
            Heard::Fault(_) if faults < FAULTS_MAX => faults += 1,
            Heard::Fault(status) | Heard::Never(status) => {
                progress = self::progress(client, range).await.or(progress);
                break Some((reason_of_status(&status), status.message().to_owned()));
            }
        }
        if let Some(now) = progress.as_ref().filter(|now| now.embedding_total > 0) {
            bar.set_message(format!(
                "embedded {} of {} texts",
                now.embedding_done, now.embedding_total
            ));
        }
        if asked.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    };
    bar.finish_and_clear();
    Waited {
        progress,
        not_searchable,
    }
}

/// The progress as it is, where there is one.
pub(crate) async fn progress(client: &Client, range: &Range) -> Option<GetProgressResponse> {
    look(client, range).await.ok()
}

/// Asks how far the events are, without waiting.
pub(crate) async fn look(client: &Client, range: &Range) -> Result<GetProgressResponse, Status> {
    question(client, range, None).await
}

async fn ask(client: &Client, range: &Range, wait: Duration) -> Heard {
    match question(client, range, Some(wait)).await {
        Ok(progress) => Heard::Progress(progress),
        Err(status) => heard(status),
    }
}

/// Waits until the server that answers searches does so from a release that holds the events.
async fn answered(client: &Client, range: &Range, wait: Duration) -> Result<(), Status> {
    let request = GetServingStatsRequest {
        collection: range.collection.clone(),
        min_position: range.last.clone(),
        ..GetServingStatsRequest::default()
    };
    match client.search().get_serving_stats(within(wait, request)).await {
        // Where the token may not read, or an indexer alone is asked, the release is all that can be waited for.
        Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => Ok(()),
        Err(status) => Err(status),
        Ok(_) => Ok(()),
    }
}

async fn question(client: &Client, range: &Range, wait: Option<Duration>) -> Result<GetProgressResponse, Status> {
    let request = GetProgressRequest {
        collection: range.collection.clone(),
        from_position: range.first.clone(),
        to_position: range.last.clone(),
        wait: wait.is_some(),
    };
    let answer = client
        .ingest()
        .get_progress(within(wait.unwrap_or(CALL), request))
        .await?;
    Ok(answer.into_inner())
}

fn heard(status: Status) -> Heard {
    match (status.code(), reason_of_status(&status).as_str()) {
        // A deadline of one step says nothing; who stands still says so by another code.
        (Code::DeadlineExceeded | Code::Cancelled, _) => Heard::NotYet,
        (_, "OVERLOADED" | "NOT_READY" | "SERVER_UNREACHABLE" | "STORE_UNAVAILABLE") => Heard::Fault(status),
        _ => Heard::Never(status),
    }
}

#[cfg(test)]
mod tests {
    use verdigris_proto::reason::Reason;

    use super::*;

    #[test]
    fn a_deadline_means_not_yet_and_a_standstill_means_never() {
        assert!(matches!(heard(Reason::PositionNotReached.status("")), Heard::NotYet));
        assert!(matches!(heard(Status::cancelled("Timeout expired")), Heard::NotYet));
        assert!(matches!(heard(Reason::Overloaded.status("")), Heard::Fault(_)));
        for reason in [
            Reason::PublishingHeld,
            Reason::DiskFull,
            Reason::StreamMismatch,
            Reason::InvalidPosition,
        ] {
            assert!(matches!(heard(reason.status("")), Heard::Never(_)), "{reason:?}");
        }
    }
}
