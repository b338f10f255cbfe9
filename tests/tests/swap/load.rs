//! I-6 and I-7: clients on a real loopback listener ask all the time while a thousand releases go by.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tonic::transport::Channel;
use tonic::{Code, Status};
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_proto::search::{BatchSearchRequest, GetDocumentRequest, SearchMode, SearchRequest};

use super::model::{MOVING, STAYS, Told, batch, check, stays};
use super::roles::listening::{connect, listen};
use super::roles::{World, name, searchable, send, settings};

/// Releases that go by.
const RELEASES: u64 = 1_000;
/// Clients that ask all the time, each on a connection of its own.
const CLIENTS: u64 = 4;

/// What the clients share.
struct Shared {
    told: Told,
    /// Batches sent, which is at least what any release holds.
    sent: AtomicU64,
    answers: AtomicU64,
    is_over: AtomicBool,
}

struct Client {
    service: SearchServiceClient<Channel>,
    shared: Arc<Shared>,
    /// The newest generation that it was told.
    generation: u64,
}

fn search(text: &str, mode: SearchMode, filter: &str) -> SearchRequest {
    SearchRequest {
        collection: name().to_string(),
        text: text.to_owned(),
        mode: mode.into(),
        filter: filter.to_owned(),
        top_k: 100,
        ..SearchRequest::default()
    }
}

fn answered<T>(answer: Result<tonic::Response<T>, Status>) -> T {
    answer
        .unwrap_or_else(|status| panic!("I-6: a request failed: {status}"))
        .into_inner()
}

impl Client {
    async fn run(mut self, number: u64) {
        for round in number.. {
            if self.shared.is_over.load(Ordering::SeqCst) {
                return;
            }
            match round % 6 {
                0 => self.all_documents().await,
                1 => self.by_words().await,
                2 => self.by_filter().await,
                3 => self.several_at_once().await,
                4 => self.one_document().await,
                _ => self.one_that_changes().await,
            }
            self.shared.answers.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn told(&mut self, generation: u64) {
        assert!(
            generation >= self.generation,
            "the answers went back from {}",
            self.generation
        );
        self.generation = generation;
    }

    /// Every document is among the nearest hundred.
    async fn all_documents(&mut self) {
        let answer = answered(
            self.service
                .search(search("moving comer", SearchMode::Hybrid, ""))
                .await,
        );
        let generation = check(&self.shared.told, &answer, |_| true);
        self.told(generation);
    }

    async fn by_words(&mut self) {
        let answer = answered(self.service.search(search("moving", SearchMode::Words, "")).await);
        let generation = check(&self.shared.told, &answer, |id| id.starts_with("moving"));
        assert_eq!(answer.hits.len() as u64, MOVING, "only these have the word");
        self.told(generation);
    }

    async fn by_filter(&mut self) {
        let request = search("thing", SearchMode::Vector, "title:comer");
        let answer = answered(self.service.search(request).await);
        let generation = check(&self.shared.told, &answer, |id| id.starts_with("new"));
        assert!(
            answer.hits.iter().all(|hit| hit.id.starts_with("new")),
            "the filter holds"
        );
        self.told(generation);
    }

    async fn several_at_once(&mut self) {
        let requests = vec![
            search("moving", SearchMode::Words, ""),
            search("thing", SearchMode::Vector, ""),
            search("comer", SearchMode::Hybrid, "title:moving"),
        ];
        let answers = answered(self.service.batch_search(BatchSearchRequest { requests }).await).responses;
        let generations = answers
            .iter()
            .map(|answer| check(&self.shared.told, answer, |id| id.starts_with("moving")));
        let generations: Vec<u64> = generations.collect();
        assert!(
            generations.iter().all(|one| *one == generations[0]),
            "I-7: {generations:?} in one batch"
        );
        self.told(generations[0]);
    }

    /// A document that every batch changes is as the answer's release has it.
    async fn one_that_changes(&mut self) {
        let (collection, id) = (name().to_string(), "moving-3".to_owned());
        let request = GetDocumentRequest {
            collection,
            id,
            ..GetDocumentRequest::default()
        };
        let answer = answered(self.service.get_document(request).await);
        let release = answer.release.expect("there is a release");
        let n = self.shared.told.release(&release);
        let document: serde_json::Value = serde_json::from_str(&answer.document_json).expect("a document");
        assert_eq!(
            document["batch"], n,
            "I-7: not as release {} has it",
            release.generation
        );
        self.told(release.generation);
    }

    /// A new document that must be there yet, or must be gone by now.
    async fn one_document(&mut self) {
        let d = self.shared.sent.load(Ordering::SeqCst).saturating_sub(STAYS / 2).max(1);
        let id = format!("new-{d}");
        let request = GetDocumentRequest {
            collection: name().to_string(),
            id,
            ..GetDocumentRequest::default()
        };
        match self.service.get_document(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let release = answer.release.expect("there is a release");
                let n = self.shared.told.release(&release);
                assert!(stays(d, n), "I-14: {d} is not in {} of {n} batches", release.generation);
                self.told(release.generation);
            }
            Err(status) => {
                let sent = self.shared.sent.load(Ordering::SeqCst);
                let may_be_gone = status.code() == Code::NotFound && (!stays(d, sent) || d + STAYS / 2 > sent);
                assert!(may_be_gone, "I-6: {d} of {sent} batches: {status}");
            }
        }
    }
}

async fn client(address: SocketAddr, shared: Arc<Shared>, number: u64) {
    let service = SearchServiceClient::new(connect(address).await);
    Client {
        service,
        shared,
        generation: 0,
    }
    .run(number)
    .await;
}

/// Segments of this folder that are mapped into this process.
pub(crate) fn mapped_segments(world: &World) -> std::collections::BTreeSet<String> {
    let folder = world
        .folder
        .path()
        .canonicalize()
        .unwrap()
        .join("store/products/segments");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let segment = |line: &str| {
        let rest = line.split_once(folder.to_str()?)?.1;
        Some(rest.trim_start_matches('/').split('/').next()?.to_owned())
    };
    maps.lines().filter_map(segment).collect()
}

#[test]
fn a_thousand_releases_go_by_and_no_request_fails_or_is_answered_by_two_of_them() {
    let world = World::new();
    world.create(&settings());
    let process = world.process("a");
    let address = listen(&process, 64);
    process.serve(batch(1));
    let shared = Arc::new(Shared {
        told: Told::default(),
        sent: AtomicU64::new(1),
        answers: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| process.runtime().spawn(client(address, shared.clone(), number)))
        .collect();
    let mut most_mapped = 0;
    let generation = process.runtime().block_on(async {
        for n in 2.. {
            shared.sent.store(n, Ordering::SeqCst);
            let position = send(&process.ingest, batch(n)).await;
            let generation = searchable(&process.ingest, &position).await.expect("it is published");
            if n % 50 == 0 {
                most_mapped = most_mapped.max(mapped_segments(&world).len());
            }
            if generation >= RELEASES || clients.iter().any(tokio::task::JoinHandle::is_finished) {
                return generation;
            }
        }
        unreachable!("there is always another batch")
    });
    shared.is_over.store(true, Ordering::SeqCst);
    for client in clients {
        process.block_on(client).expect("no client was told anything wrong");
    }
    let (answers, seen) = (shared.answers.load(Ordering::SeqCst), shared.told.seen());
    println!("{generation} releases, {answers} answers from {seen} of them, at most {most_mapped} segments mapped");
    assert!(generation >= RELEASES && answers > 0);
    // What is open: the newest, a bounded number before it for page tokens, and what requests hold.
    assert!(
        most_mapped < 200,
        "{most_mapped} segments are mapped: old releases are not let go"
    );
    process.stop();
    assert_eq!(mapped_segments(&world).len(), 0, "nothing stays mapped");
}
