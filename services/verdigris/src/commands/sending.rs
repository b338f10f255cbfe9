//! Sends batches of events, one after the other: the next goes when the one before is durable, so that the log keeps
//! the order of the file and events without a time of their own are stamped in it.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tonic_types::StatusExt;
use verdigris_proto::ingest::{IngestRequest, IngestResponse};
use verdigris_runtime::backoff::Backoff;

use super::CommandError;
use super::error::reason_of_status;
use crate::client::{CALL, Client, within};

/// The first pause before a batch is sent again.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a batch is sent again: about half a minute of a server that is restarted.
const TRIES: u32 = 10;

/// Sends one batch, again where the server was busy or away: an event that was taken twice is one event.
pub(crate) async fn send(client: &Client, collection: &str, events: &[Bytes]) -> Result<IngestResponse, CommandError> {
    let mut backoff = Backoff::new(PAUSE, PAUSE_MAX, TRIES);
    loop {
        let request = IngestRequest {
            collection: collection.to_owned(),
            events: events.to_vec(),
        };
        let status = match client.ingest().ingest(within(CALL, request)).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let hint = status
            .get_error_details()
            .retry_info()
            .and_then(|info| info.retry_delay);
        match backoff.pause(rand::random(), hint.map(|hint| hint.min(PAUSE_MAX))) {
            Some(pause) if passes(&status) => tokio::time::sleep(pause).await,
            _ => return Err(status.into()),
        }
    }
}

fn passes(status: &Status) -> bool {
    let reason = reason_of_status(status);
    [
        "OVERLOADED",
        "NOT_READY",
        "STORE_UNAVAILABLE",
        "SHUTTING_DOWN",
        "SERVER_UNREACHABLE",
    ]
    .contains(&reason.as_str())
}
