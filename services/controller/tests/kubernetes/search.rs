//! Search processes as the controller sees them: a real gRPC server for each pod, on an address of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use verdigris_core::digest::{ContentSum, Digest};
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::gates::{LineageFacts, Measured, Measurements, RecallMeasured};
use verdigris_core::index_type::{Codes, IndexType};
use verdigris_core::manifest::{Checkpoint, SettingsReference};
use verdigris_core::names::CollectionName;
use verdigris_core::position::StreamIdentity;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::search::measurement_service_server::{MeasurementService, MeasurementServiceServer};
use verdigris_proto::search::pod_service_server::{PodService, PodServiceServer};
use verdigris_proto::search::{DemoteRequest, GetPodRequest, MeasureRequest, MeasureResponse, Pod, PodCollection};
use verdigris_store::{Store, collection as objects};

/// Each process on a machine has a network of its own here: 127.20.0.0 and up.
static NETWORKS: AtomicU8 = AtomicU8::new(1);

/// All search processes of one cluster.
pub(crate) struct Processes {
    network: u8,
    pub(crate) port: u16,
    running: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Lineages whose answers fail.
    failing: Arc<Mutex<BTreeSet<String>>>,
    next: Mutex<u8>,
}

/// One.
pub(crate) struct Process {
    /// The lineage that it follows; one without opens what is asked for.
    pub(crate) lineage: String,
    open: Mutex<BTreeSet<String>>,
    demoted: Mutex<bool>,
    /// Of connections, as it was told last.
    share: Mutex<f64>,
    failing: Arc<Mutex<BTreeSet<String>>>,
    end: CancellationToken,
    store: Arc<dyn Store>,
    name: CollectionName,
}

impl Processes {
    pub(crate) fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        Self {
            network: NETWORKS.fetch_add(1, Ordering::Relaxed),
            port: listener.local_addr().expect("it is bound").port(),
            running: Mutex::default(),
            failing: Arc::default(),
            next: Mutex::new(1),
        }
    }

    /// Starts one for a pod; its address.
    pub(crate) async fn start(&self, pod: &str, lineage: &str, store: Arc<dyn Store>, name: &CollectionName) -> IpAddr {
        loop {
            let last = {
                let mut next = self.next.lock().unwrap();
                *next = next.wrapping_add(1).max(1);
                *next
            };
            // One network for each process of tests, by its id, so that two on one machine do not meet.
            let third = (std::process::id() % 250) as u8;
            let address = IpAddr::V4(Ipv4Addr::new(127, 20 + self.network, third, last));
            let Ok(listener) = TcpListener::bind(SocketAddr::new(address, self.port)).await else {
                continue;
            };
            let process = Arc::new(Process {
                lineage: lineage.to_owned(),
                open: Mutex::default(),
                demoted: Mutex::new(false),
                share: Mutex::new(0.0),
                failing: self.failing.clone(),
                end: CancellationToken::new(),
                store,
                name: name.clone(),
            });
            let (serving, end) = (process.clone(), process.end.clone());
            tokio::spawn(async move {
                let server = tonic::transport::Server::builder()
                    .add_service(PodServiceServer::from_arc(serving.clone()))
                    .add_service(MeasurementServiceServer::from_arc(serving));
                let ended =
                    server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), end.cancelled_owned());
                ended.await.expect("it serves");
            });
            self.running.lock().unwrap().insert(pod.to_owned(), process);
            return address;
        }
    }

    pub(crate) fn end(&self, pod: &str) {
        if let Some(process) = self.running.lock().unwrap().remove(pod) {
            process.end.cancel();
        }
    }

    /// From now on, half of what a lineage answers fails.
    pub(crate) fn fail(&self, lineage: &str) {
        self.failing.lock().unwrap().insert(lineage.to_owned());
    }

    /// Which shares of connections the processes of a lineage were told last to send away.
    pub(crate) fn shares(&self, lineage: &str) -> Vec<f64> {
        let running = self.running.lock().unwrap();
        let of = running.values().filter(|process| process.lineage == lineage);
        of.map(|process| *process.share.lock().unwrap()).collect()
    }

    /// How many of a lineage are demoted.
    pub(crate) fn demoted(&self, lineage: &str) -> usize {
        let running = self.running.lock().unwrap();
        let of = running.values().filter(|process| process.lineage == lineage);
        of.filter(|process| *process.demoted.lock().unwrap()).count()
    }
}

impl Process {
    async fn pod(&self) -> Pod {
        let pointer = objects::pointer(&*self.store, &self.name)
            .await
            .expect("there is a pointer")
            .pointer;
        let named = [pointer.active, pointer.other].into_iter().flatten();
        let named = named.into_iter().find(|named| named.lineage.as_str() == self.lineage);
        let is_failing = self.failing.lock().unwrap().contains(&self.lineage);
        Pod {
            collections: vec![PodCollection {
                collection: self.name.to_string(),
                lineage: self.lineage.clone(),
                generation: named.map_or(0, |named| named.generation),
                warm: true,
                window_answered: 40,
                window_failed: if is_failing { 20 } else { 0 },
                ..PodCollection::default()
            }],
            demoted: *self.demoted.lock().unwrap(),
            lineage: self.lineage.clone(),
            ready: true,
            ..Pod::default()
        }
    }
}

impl Process {
    /// As a process with a prefix says it: of the collection that is asked about, if it is open.
    async fn of_tenants(&self, request: GetPodRequest) -> Pod {
        if request.open {
            self.open.lock().unwrap().insert(request.collection.clone());
        }
        let is_open = self.open.lock().unwrap().contains(&request.collection);
        let mut collections = Vec::new();
        if is_open {
            let name: CollectionName = request.collection.parse().expect("a name");
            let pointer = objects::pointer(&*self.store, &name).await.expect("a pointer").pointer;
            let named = [pointer.active, pointer.other].into_iter().flatten();
            collections.extend(named.map(|named| PodCollection {
                collection: request.collection.clone(),
                lineage: named.lineage.to_string(),
                generation: named.generation,
                warm: true,
                ..PodCollection::default()
            }));
        }
        Pod {
            collections,
            demoted: *self.demoted.lock().unwrap(),
            ready: true,
            open_collections: self.open.lock().unwrap().len() as u64,
            ..Pod::default()
        }
    }
}

#[tonic::async_trait]
impl PodService for Process {
    async fn get_pod(&self, request: Request<GetPodRequest>) -> Result<Response<Pod>, Status> {
        let pod = match self.lineage.is_empty() {
            true => self.of_tenants(request.into_inner()).await,
            false => self.pod().await,
        };
        Ok(Response::new(pod))
    }

    async fn demote(&self, request: Request<DemoteRequest>) -> Result<Response<Pod>, Status> {
        let request = request.into_inner();
        let time = request.time.unwrap_or_default();
        *self.share.lock().unwrap() = request.share.unwrap_or(1.0);
        *self.demoted.lock().unwrap() = time.seconds > 0 || time.nanos > 0;
        let asked = self.get_pod(Request::new(GetPodRequest::default()));
        asked.await
    }
}

#[tonic::async_trait]
impl MeasurementService for Process {
    async fn measure(&self, request: Request<MeasureRequest>) -> Result<Response<MeasureResponse>, Status> {
        let request = request.into_inner();
        if !self.lineage.is_empty() {
            assert_eq!(request.lineage, self.lineage, "the candidate's pod is asked");
        }
        let measured = measured(&request.lineage, request.generation);
        Ok(Response::new(MeasureResponse {
            lineage: request.lineage,
            generation: request.generation,
            measurements_json: serde_json::to_string(&measured).expect("text keys"),
        }))
    }
}

/// A lineage whose name begins with `bad` finds little; all gates but recall are off in these tests.
fn measured(lineage: &str, generation: u64) -> Measurements {
    let candidate = LineageFacts {
        lineage: lineage.to_owned().into(),
        generation,
        manifest: Digest::of(lineage.as_bytes()),
        documents: 3_000,
        chunks: 3_000,
        live_bytes: 1,
        ghosts: 0,
        content: ContentSum::default(),
        checkpoint: Checkpoint {
            stream: StreamIdentity(7),
            sequence: generation,
            digest: None,
        },
        dimension: 8,
        embedder: EmbedderIdentity::none(8),
        settings: SettingsReference {
            version: 1,
            digest: Digest::of(b"settings"),
        },
        index_types: vec![IndexType::Hnsw(Codes::Exact)],
    };
    Measurements {
        candidate,
        active: Measured::default(),
        measured_at: Timestamp(1),
        files: Measured::default(),
        rows: Measured::default(),
        same_generation: Measured::default(),
        model: Measured::default(),
        vectors: Measured::default(),
        texts: Measured::default(),
        known_items: Measured::default(),
        deletes: Measured::default(),
        recall: Measured::Value(RecallMeasured {
            sampled: 200,
            recall: if lineage.starts_with("bad") { 0.3 } else { 0.99 },
            active: None,
        }),
        golden: Measured::default(),
        queries: Measured::default(),
        latency: Measured::default(),
        memory: Measured::default(),
        ready_ms: Measured::default(),
    }
}
