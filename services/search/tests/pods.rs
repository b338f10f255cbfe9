//! A search process as a pod: one lineage whatever it is for, ready when it is warm, serving while the store is away.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod world;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::Registry;
use serde_json::json;
use tonic::Request;
use verdigris_core::pointer::LineageRole::{Candidate, WayBack};
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::pod_service_server::PodService;
use verdigris_proto::search::{DemoteRequest, GetPodRequest, Lineage, Pod};
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_search::{Collections, Following, PodDeps, PodRpc, Start as StartOf};
use verdigris_store::{Body, Get, ObjectMeta, Precondition, Store, StoreError, Tag};

use world::{Draft, Server, Start, World, Written, eventually, lineage_of, name};

/// A store that can be away.
struct Away {
    inner: Arc<dyn Store>,
    is_away: AtomicBool,
}

impl Away {
    fn check(&self, key: &str) -> Result<(), StoreError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StoreError::Io {
                key: key.to_owned(),
                source: std::io::ErrorKind::TimedOut.into(),
            }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Away {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        self.check(key)?;
        self.inner.get(key, if_none_match).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check(key)?;
        self.inner.get_range(key, range).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        self.check(key)?;
        self.inner.put(key, body, precondition).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.check(prefix)?;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.check(key)?;
        self.inner.delete(key).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

async fn written(world: &World, lineage: &str, generation: u64) -> Written {
    let document = |n: usize| json!({"id": format!("p-{n}"), "title": format!("thing {n}"), "of": lineage});
    let documents = (0..30).map(document).collect();
    world.write(&Draft::new(lineage, generation, documents)).await
}

/// A pod that follows this lineage.
fn of_lineage(lineage: &str) -> Following {
    Following {
        lineage: Some(lineage.to_owned().into()),
        start: StartOf::Beside,
        ..Following::default()
    }
}

async fn pod_of(world: &World, following: Following) -> Server {
    let start = Start {
        following,
        ..Start::default()
    };
    Server::start_as(world, start).await
}

fn rpc(server: &Server) -> PodRpc {
    let calls = RpcMetrics::register(&Registry::new()).unwrap();
    let demotion = Demotion::default();
    PodRpc::new(server.search.clone(), PodDeps { demotion, calls })
}

async fn pod(rpc: &PodRpc) -> Pod {
    rpc.get_pod(Request::new(GetPodRequest::default()))
        .await
        .unwrap()
        .into_inner()
}

async fn ready(rpc: &PodRpc) -> Pod {
    eventually("the pod is ready", async || {
        let pod = pod(rpc).await;
        pod.ready.then_some(pod)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_answers_from_its_lineage_as_candidate_as_active_and_as_way_back() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, None).await;
    let server = pod_of(&world, of_lineage("two")).await;
    let rpc = rpc(&server);
    eventually("it says what it waits for", async || {
        let pod = pod(&rpc).await;
        pod.not_ready_reason.contains("lineage two is not named").then_some(())
    })
    .await;
    let refused = server.search("thing", Lineage::Unspecified).await.unwrap_err();
    assert_eq!(reason_of(&refused).unwrap(), "NOT_READY");

    world.name(&one, Some((&two, Candidate))).await;
    let pod = ready(&rpc).await;
    assert_eq!((pod.lineage.as_str(), pod.collections.len()), ("two", 1));
    let of_two = &pod.collections[0];
    assert_eq!(
        (of_two.lineage.as_str(), of_two.generation, of_two.warm),
        ("two", 3, true)
    );
    assert!(of_two.documents == 30 && of_two.bytes > 0 && of_two.problem.is_empty());
    let answer = server.search("thing", Lineage::Unspecified).await.unwrap();
    assert_eq!(lineage_of(&answer).0, "two", "a preview is answered by the candidate");

    world.name(&two, Some((&one, WayBack))).await;
    let next = written(&world, "two", 4).await;
    world.name(&next, Some((&one, WayBack))).await;
    server.answers("two", 4).await;
    world.name(&one, Some((&next, WayBack))).await;
    server.answers("two", 4).await;
    // Not named any more: whoever still asks is answered.
    world.name(&one, None).await;
    let answer = server.search("thing", Lineage::Unspecified).await.unwrap();
    assert_eq!(lineage_of(&answer).0, "two");
    assert!(ready(&rpc).await.ready);
    server.stop().await;
}

// Goal: a gate compares the candidate with what answers elsewhere, although the pod follows the candidate alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_measures_its_lineage_beside_the_active_one() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, Some((&two, Candidate))).await;
    let server = pod_of(&world, of_lineage("two")).await;
    ready(&rpc(&server)).await;
    let measured = server
        .search
        .measure(&name(), Some("two".to_owned().into()), 3)
        .await
        .unwrap();
    assert_eq!(measured.candidate.lineage.as_str(), "two");
    let active = measured.active.value().map(|active| active.lineage.to_string());
    assert_eq!(active.as_deref(), Some("one"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_goes_on_serving_while_the_store_is_away_and_says_since_when() {
    let world = World::new().await;
    let one = written(&world, "one", 3).await;
    world.name(&one, None).await;
    let store = Arc::new(Away {
        inner: world.store.clone(),
        is_away: AtomicBool::new(false),
    });
    let start = Start {
        following: of_lineage("one"),
        store: Some(store.clone()),
        ..Start::default()
    };
    let server = Server::start_as(&world, start).await;
    let rpc = rpc(&server);
    ready(&rpc).await;
    store.is_away.store(true, Ordering::SeqCst);
    let stale = |answer: &verdigris_proto::search::SearchResponse| answer.release.as_ref().unwrap().stale_milliseconds;
    // Longer than from one look to the next: failed looks do not count.
    eventually("an answer says that it is stale", async || {
        let answer = server.search("thing", Lineage::Unspecified).await.unwrap();
        assert_eq!(answer.hits.len(), 10);
        (stale(&answer) > 2_500).then_some(())
    })
    .await;
    let told = pod(&rpc).await;
    assert!(told.ready && told.collections[0].stale_seconds > 2.0, "{told:?}");
    store.is_away.store(false, Ordering::SeqCst);
    let next = written(&world, "one", 4).await;
    world.name(&next, None).await;
    server.answers("one", 4).await;
    let answer = server.search("thing", Lineage::Unspecified).await.unwrap();
    assert!(stale(&answer) < 500);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_fit_into_memory_is_refused_before_it_is_opened() {
    let world = World::new().await;
    let one = written(&world, "one", 3).await;
    world.name(&one, None).await;
    let start = Start {
        following: of_lineage("one"),
        memory_limit: Some(one.manifest.bytes()),
        ..Start::default()
    };
    let server = Server::start_as(&world, start).await;
    let rpc = rpc(&server);
    let pod = eventually("it says that it does not fit", async || {
        let pod = pod(&rpc).await;
        pod.not_ready_reason.contains("memory").then_some(pod)
    })
    .await;
    assert!(!pod.ready);
    assert!(pod.collections[0].problem.starts_with("MEMORY_TOO_SMALL"), "{pod:?}");
    assert_eq!(server.opened.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_opens_the_collections_that_it_was_told() {
    let world = World::new().await;
    let one = written(&world, "one", 3).await;
    world.name(&one, None).await;
    let following = Following {
        collections: Collections::parse("elsewhere").unwrap(),
        start: StartOf::Beside,
        ..Following::default()
    };
    let server = pod_of(&world, following).await;
    let told = ready(&rpc(&server)).await;
    assert_eq!(told.collections, Vec::new());
    let refused = server.search("thing", Lineage::Unspecified).await.unwrap_err();
    assert_eq!(reason_of(&refused).unwrap(), "COLLECTION_NOT_FOUND");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demotion_holds_for_its_time_and_is_refused_where_it_makes_no_sense() {
    let world = World::new().await;
    let one = written(&world, "one", 3).await;
    world.name(&one, None).await;
    let server = Server::start(&world).await;
    let rpc = rpc(&server);
    let demote = async |time: Option<Duration>, share: Option<f64>| {
        let time = time.map(|time| time.try_into().unwrap());
        let answer = rpc.demote(Request::new(DemoteRequest { time, share })).await;
        answer
            .map(|pod| pod.into_inner().demoted)
            .map_err(|status| reason_of(&status).unwrap())
    };
    let minute = Some(Duration::from_secs(60));
    assert_eq!(demote(minute, None).await, Ok(true));
    assert!(pod(&rpc).await.demoted);
    assert_eq!(demote(Some(Duration::ZERO), None).await, Ok(false));
    assert_eq!(demote(minute, Some(0.5)).await, Ok(true));
    assert_eq!(demote(None, None).await, Ok(false));
    for (time, share) in [
        (minute, Some(0.0)),
        (minute, Some(1.5)),
        (Some(Duration::from_secs(86_400)), None),
    ] {
        assert_eq!(demote(time, share).await, Err("INVALID_ARGUMENT".to_owned()));
    }
    server.stop().await;
}
