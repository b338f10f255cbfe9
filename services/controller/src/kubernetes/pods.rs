//! Search pods, asked one by one by their address.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_proto::search::measurement_service_client::MeasurementServiceClient;
use verdigris_proto::search::pod_service_client::PodServiceClient;
use verdigris_proto::search::{DemoteRequest, GetPodRequest, MeasureRequest, Pod};

/// How long a pod may take to say how it is.
const CALL: Duration = Duration::from_secs(2);
/// How long measuring may take.
const MEASURE: Duration = Duration::from_secs(600);
/// Channels that are kept; with more pods than this they are opened anew.
const CHANNELS_MAX: usize = 4_096;

/// What is asked of pods; what went wrong in words.
#[async_trait]
pub trait Pods: Send + Sync {
    /// How the pod at this address is.
    async fn get(&self, address: &str) -> Result<Pod, String>;

    /// How a collection is there, opened first where that is asked for and it is not open.
    async fn of(&self, address: &str, collection: &str, open: bool) -> Result<Pod, String>;

    /// Tells it to send that share of its clients away for a time; a time of nothing ends it.
    async fn demote(&self, address: &str, time: Duration, share: f64) -> Result<(), String>;

    /// Measures a lineage there.
    async fn measure(
        &self,
        address: &str,
        collection: &str,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, String>;
}

/// Pods by gRPC.
pub struct GrpcPods {
    port: u16,
    tls: Option<ClientTlsConfig>,
    token: Option<MetadataValue<Ascii>>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl GrpcPods {
    /// Asks at this port of each pod.
    pub fn new(port: u16) -> Self {
        Self {
            port,
            tls: None,
            token: None,
            channels: Mutex::default(),
        }
    }

    /// With TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// With a token, as `authorization: Bearer`; false where it has signs that no header may have.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Option<Self> {
        self.token = Some(format!("Bearer {token}").parse().ok()?);
        Some(self)
    }

    fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let host = match address.contains(':') {
            true => format!("[{address}]"),
            false => address.to_owned(),
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{}", self.port)).map_err(|e| e.to_string())?;
        let mut endpoint = endpoint.connect_timeout(CALL);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(|error| error.to_string())?;
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn request<T>(&self, message: T, within: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(within);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

#[async_trait]
impl Pods for GrpcPods {
    async fn get(&self, address: &str) -> Result<Pod, String> {
        self.of(address, "", false).await
    }

    async fn of(&self, address: &str, collection: &str, open: bool) -> Result<Pod, String> {
        let mut client = PodServiceClient::new(self.channel(address)?);
        let request = GetPodRequest {
            collection: collection.to_owned(),
            open,
        };
        let answer = client.get_pod(self.request(request, CALL));
        let answer = tokio::time::timeout(CALL, answer).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", CALL.as_secs()))?;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned())
    }

    async fn demote(&self, address: &str, time: Duration, share: f64) -> Result<(), String> {
        let mut client = PodServiceClient::new(self.channel(address)?);
        let time = prost_types::Duration {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(time.subsec_nanos()).unwrap_or(0),
        };
        let request = DemoteRequest {
            time: Some(time),
            share: Some(share),
        };
        let answer = tokio::time::timeout(CALL, client.demote(self.request(request, CALL))).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", CALL.as_secs()))?;
        answer.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    async fn measure(
        &self,
        address: &str,
        collection: &str,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, String> {
        let mut client = MeasurementServiceClient::new(self.channel(address)?);
        let request = MeasureRequest {
            collection: collection.to_owned(),
            lineage: lineage.to_string(),
            generation,
        };
        let answer = tokio::time::timeout(MEASURE, client.measure(self.request(request, MEASURE))).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", MEASURE.as_secs()))?;
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        serde_json::from_str(&answer.measurements_json).map_err(|error| format!("measurements cannot be read: {error}"))
    }
}
