//! One client: asks, counts, and asks again as the standard retry policy of gRPC would.
//!
//! Deliberately absent: any knowledge of slots and pods; it has one address.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_proto::search::{SearchRequest, SearchResponse};

use crate::tally::{Tally, locked};

/// Tries of a call in all, the most that gRPC's retry policy takes, and what is waited before the second; it doubles, so
/// that the last comes three seconds after the first. Kubernetes goes on sending to a process that was killed for up to two
/// seconds, and with two pods each try by a new connection is as likely as not to meet it.
const TRIES: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(200);
/// After which a call has failed.
const DEADLINE: Duration = Duration::from_secs(5);
/// Hits of an answer.
const TOP_K: u32 = 5;

/// How a client treats its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// It keeps it for as long as the server lets it.
    Keeps,
    /// It makes another after some calls.
    Reconnects {
        /// So many.
        after_calls: u64,
    },
}

/// A client.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    pub(crate) server: String,
    pub(crate) collection: String,
    pub(crate) texts: Vec<String>,
    pub(crate) pause: Duration,
}

impl Client {
    /// Asks until it is told to stop.
    pub(crate) async fn run(self, tally: Arc<Mutex<Tally>>, stop: CancellationToken) {
        let mut channel = None;
        let mut calls = 0_u64;
        while !stop.is_cancelled() {
            if let Kind::Reconnects { after_calls } = self.kind
                && calls.is_multiple_of(after_calls)
            {
                channel = None;
            }
            let text = &self.texts[calls as usize % self.texts.len()];
            self.call(&mut channel, text, &tally).await;
            calls += 1;
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn call(&self, channel: &mut Option<Channel>, text: &str, tally: &Mutex<Tally>) {
        let began = Instant::now();
        for attempt in 0..TRIES {
            let status = match self.try_once(channel, text).await {
                Ok(answer) => {
                    locked(tally).answered(self.number, self.kind, &answer, began.elapsed());
                    return;
                }
                Err(status) => status,
            };
            if attempt == 0 {
                locked(tally).failed_first(self.number, &status);
            }
            if !is_unavailable(&status) {
                break;
            }
            tokio::time::sleep(BACKOFF * 2_u32.pow(attempt)).await;
        }
        locked(tally).failed(self.number);
    }

    async fn try_once(&self, channel: &mut Option<Channel>, text: &str) -> Result<SearchResponse, Status> {
        let connected = match channel {
            Some(channel) => channel.clone(),
            None => channel.insert(self.connect().await?).clone(),
        };
        let mut request = tonic::Request::new(SearchRequest {
            collection: self.collection.clone(),
            text: text.to_owned(),
            top_k: TOP_K,
            ..SearchRequest::default()
        });
        request.set_timeout(DEADLINE);
        let answer = SearchServiceClient::new(connected).search(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn connect(&self) -> Result<Channel, Status> {
        let endpoint =
            Endpoint::from_shared(self.server.clone()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(DEADLINE);
        endpoint
            .connect()
            .await
            .map_err(|error| Status::new(Code::Unavailable, format!("no connection: {error}")))
    }
}

/// What the policy of standard clients tries again, and nothing else. A connection that broke is UNAVAILABLE in gRPC's own
/// libraries; tonic calls it UNKNOWN.
fn is_unavailable(status: &Status) -> bool {
    let broke = std::error::Error::source(status).is_some_and(|source| source.is::<tonic::transport::Error>());
    status.code() == Code::Unavailable || (status.code() == Code::Unknown && broke)
}
