//! What the benchmarks ask of a server: collections, events in, progress, manifests.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use verdigris_core::manifest::Manifest;
use verdigris_proto::admin::admin_service_client::AdminServiceClient;
use verdigris_proto::admin::{CreateCollectionRequest, DiffReleasesRequest, GetIndexerStatsRequest, GetReleaseRequest};
use verdigris_proto::ingest::ingest_service_client::IngestServiceClient;
use verdigris_proto::ingest::{GetProgressRequest, IngestRequest};
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_runtime::gather;

/// The largest answer: a page of a thousand documents stays far below.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Events of one message, well below the server's limit on bytes.
const EVENTS_PER_CALL: usize = 500;
/// How long merges may take to settle.
const SETTLE_MAX: Duration = Duration::from_secs(900);

/// A connection and a collection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) collection: String,
}

impl Client {
    /// As the commands connect.
    pub(crate) async fn connect(url: &str, collection: &str) -> anyhow::Result<Self> {
        let channel = match url.strip_prefix("unix:") {
            Some(path) => {
                let endpoint = Endpoint::from_static("http://localhost");
                gather::connect_socket(&endpoint, Path::new(path)).await
            }
            None => gather::connect(&Endpoint::from_shared(url.to_owned())?).await,
        };
        Ok(Self {
            channel: channel.with_context(|| format!("nobody answers at {url}"))?,
            collection: collection.to_owned(),
        })
    }

    /// As a client of tonic connects that knows nothing of ours.
    pub(crate) async fn stock(url: &str, collection: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
        Ok(Self {
            channel: endpoint.connect().await?,
            collection: collection.to_owned(),
        })
    }

    pub(crate) fn search(&self) -> SearchServiceClient<Channel> {
        SearchServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn ingest(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) async fn create(&self, settings: &Value) -> anyhow::Result<()> {
        let request = CreateCollectionRequest {
            name: self.collection.clone(),
            settings_json: settings.to_string(),
        };
        self.admin().create_collection(request).await?;
        Ok(())
    }

    /// Sends events in one call, which must all be accepted; the position of the last.
    pub(crate) async fn send(&self, events: Vec<Bytes>) -> anyhow::Result<String> {
        let request = IngestRequest {
            collection: self.collection.clone(),
            events: events.into_iter().collect(),
        };
        let answer = self.ingest().ingest(request).await?.into_inner();
        if let Some(rejection) = answer.rejections.first() {
            anyhow::bail!("an event was rejected: {} {}", rejection.reason, rejection.message);
        }
        Ok(answer.last_position)
    }

    /// Sends many events, call after call, and waits until the last is searchable.
    pub(crate) async fn load(&self, events: impl Iterator<Item = Bytes>) -> anyhow::Result<u64> {
        let (mut batch, mut last) = (Vec::new(), String::new());
        for event in events {
            batch.push(event);
            if batch.len() == EVENTS_PER_CALL {
                last = self.send(std::mem::take(&mut batch)).await?;
            }
        }
        if !batch.is_empty() {
            last = self.send(batch).await?;
        }
        self.wait(&last).await
    }

    /// Waits until a release holds the position, and says which generation.
    pub(crate) async fn wait(&self, position: &str) -> anyhow::Result<u64> {
        let request = GetProgressRequest {
            collection: self.collection.clone(),
            from_position: String::new(),
            to_position: position.to_owned(),
            wait: true,
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(SETTLE_MAX);
        Ok(self.ingest().get_progress(request).await?.into_inner().generation)
    }

    /// The manifest of a generation; of the newest for 0.
    pub(crate) async fn manifest(&self, generation: u64) -> anyhow::Result<Manifest> {
        let request = GetReleaseRequest {
            collection: self.collection.clone(),
            generation,
        };
        let release = self.admin().get_release(request).await?.into_inner();
        Ok(Manifest::decode(release.manifest_json.as_bytes())?)
    }

    /// Documents that differ between two kept releases.
    pub(crate) async fn differing(&self, before: u64, after: u64) -> anyhow::Result<u64> {
        let request = DiffReleasesRequest {
            collection: self.collection.clone(),
            before,
            after,
            limit: 0,
        };
        let found = self.admin().diff_releases(request).await?.into_inner();
        Ok(found.added + found.removed + found.changed)
    }

    /// Waits until nothing was published for a second: merges are done.
    pub(crate) async fn settle(&self) -> anyhow::Result<Manifest> {
        let began = std::time::Instant::now();
        let mut before = self.manifest(0).await?;
        let mut quiet = 0;
        while began.elapsed() < SETTLE_MAX {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.manifest(0).await?;
            quiet = if now.generation == before.generation {
                quiet + 1
            } else {
                0
            };
            before = now;
            let due = verdigris_core::merge::plan(&before.segments, &[]).is_some();
            if quiet >= 2 && !due {
                return Ok(before);
            }
        }
        anyhow::bail!("merges did not settle")
    }

    /// Events that no release holds yet.
    pub(crate) async fn unread(&self) -> anyhow::Result<u64> {
        let request = GetIndexerStatsRequest {
            collection: self.collection.clone(),
        };
        Ok(self
            .admin()
            .get_indexer_stats(request)
            .await?
            .into_inner()
            .unread_events)
    }
}

/// A document that brings its vector, as an event.
pub(crate) fn with_vector(id: usize, vector: &[f32]) -> Bytes {
    let mut text = format!(r#"{{"id":"{id}","n":{},"_vector":["#, id % 1_000);
    for (n, x) in vector.iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&x.to_string());
    }
    text.push_str("]}");
    text.into()
}

/// Settings of a collection whose documents bring their vectors.
pub(crate) fn given_vectors(dimension: usize) -> Value {
    // A window as wide as allowed, so that a catalog is built at once and not a hundred thousand rows at a time.
    json!({"embedder": {"provider": "none", "dimension": dimension}, "window": {"build_events": 1_000_000}})
}
