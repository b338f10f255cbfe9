//! Many tenants in one process: opened on first use, closed when nobody uses them, fresh when they are used again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "tenants/gate.rs"]
mod gate;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::json;
use tonic::Request;
use verdigris_core::pointer::LineageRole::Candidate;
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::pod_service_server::PodService;
use verdigris_proto::search::{GetPodRequest, Pod, SearchRequest, SearchResponse};
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::metrics::RpcMetrics;
use verdigris_search::{Collections, Following, OpenLimits, PodDeps, PodRpc, Start as StartOf};

use gate::{At, Gate};
use world::{Draft, Server, Start, World, Written, eventually, ids, lineage_of};

const NEVER: Duration = Duration::from_secs(3_600);

/// Some tenants of a store, each with a thing of its own.
struct Tenants {
    first: World,
    worlds: Vec<World>,
}

impl Tenants {
    async fn new(count: usize) -> Self {
        let first = World::new().await;
        let mut worlds = Vec::new();
        for n in 0..count {
            let world = first.beside(&format!("tenant-{n}")).await;
            let written = written(&world, "one", 1).await;
            world.name(&written, None).await;
            worlds.push(world);
        }
        Self { first, worlds }
    }

    async fn server(&self, idle: Duration, open_max: usize) -> Server {
        self.server_at(idle, open_max, None).await
    }

    async fn server_at(&self, idle: Duration, open_max: usize, gate: Option<&Arc<Gate>>) -> Server {
        let start = Start {
            following: Following {
                collections: Collections::parse("tenant-*").unwrap(),
                start: StartOf::Beside,
                limits: OpenLimits { idle, open_max },
                ..Following::default()
            },
            store: gate.map(|gate| gate.clone() as _),
            ..Start::default()
        };
        Server::start_as(&self.first, start).await
    }
}

async fn written(world: &World, lineage: &str, generation: u64) -> Written {
    let of = world.collection.as_str();
    let document = |n: usize| json!({"id": format!("{of}-{n}"), "title": format!("thing {n} of {of}")});
    let documents = (0..3).map(document).collect();
    world.write(&Draft::new(lineage, generation, documents)).await
}

fn asking(tenant: &str) -> SearchRequest {
    SearchRequest {
        collection: tenant.to_owned(),
        text: "thing".to_owned(),
        ..SearchRequest::default()
    }
}

/// An answer of this tenant, and of no other.
async fn ask(server: &Server, tenant: &str) -> SearchResponse {
    let answer = server.ask(asking(tenant)).await.unwrap();
    let found = ids(&answer);
    assert!(
        found.len() == 3 && found.iter().all(|id| id.starts_with(&format!("{tenant}-"))),
        "{found:?}"
    );
    answer
}

async fn pod(server: &Server, collection: &str) -> Pod {
    let calls = RpcMetrics::register(&Registry::new()).unwrap();
    let demotion = Demotion::default();
    let rpc = PodRpc::new(server.search.clone(), PodDeps { demotion, calls });
    let request = GetPodRequest {
        collection: collection.to_owned(),
        open: false,
    };
    rpc.get_pod(Request::new(request)).await.unwrap().into_inner()
}

/// Names of tenants that are open.
async fn open(server: &Server) -> Vec<String> {
    let pod = pod(server, "").await;
    pod.collections.into_iter().map(|open| open.collection).collect()
}

/// Whether anything of a tenant is mapped, or counted.
fn traces(server: &Server, tenant: &str) -> (bool, bool) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let figures = verdigris_runtime::metrics::text(&server.registry).unwrap();
    let label = format!("\"{tenant}\"");
    (maps.contains(&format!("/{tenant}/segments/")), figures.contains(&label))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_nobody_uses_is_closed_and_the_next_request_opens_it_again() {
    let tenants = Tenants::new(1).await;
    let server = tenants.server(Duration::from_millis(200), 10).await;
    assert_eq!(open(&server).await, Vec::<String>::new());
    for opened in 1..=2 {
        ask(&server, "tenant-0").await;
        assert_eq!(open(&server).await, ["tenant-0"]);
        assert_eq!(server.opened.load(Ordering::SeqCst), opened);
        assert_eq!(traces(&server, "tenant-0"), (true, true));
        eventually("it is closed, and nothing of it stays", async || {
            let is_closed = open(&server).await.is_empty() && traces(&server, "tenant-0") == (false, false);
            let is_followed = server.tasks.running().iter().any(|task| task.contains("tenant-0"));
            (is_closed && !is_followed).then_some(())
        })
        .await;
    }
    server.stop().await;
}

// Method: a request waits for a position that is published long after the tenant would have been closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_keeps_its_tenant_open() {
    let tenants = Tenants::new(1).await;
    let idle = Duration::from_millis(50);
    let server = Arc::new(tenants.server(idle, 10).await);
    let next = written(&tenants.worlds[0], "one", 2).await;
    let position = next
        .manifest
        .checkpoint
        .stream
        .position(next.manifest.checkpoint.sequence);
    let asked = Instant::now();
    let waiting = tokio::spawn({
        let server = server.clone();
        let request = SearchRequest {
            min_position: position.to_string(),
            ..asking("tenant-0")
        };
        async move { server.ask(request).await }
    });
    eventually("it would have been closed", async || {
        (asked.elapsed() > 10 * idle).then_some(())
    })
    .await;
    assert_eq!(open(&server).await, ["tenant-0"]);
    tenants.worlds[0].name(&next, None).await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(lineage_of(&answer), ("one", 2));
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_many_open_the_one_that_is_unused_longest_is_closed_first() {
    let tenants = Tenants::new(4).await;
    let server = tenants.server(NEVER, 2).await;
    ask(&server, "tenant-0").await;
    ask(&server, "tenant-1").await;
    ask(&server, "tenant-0").await;
    ask(&server, "tenant-2").await;
    assert_eq!(open(&server).await, ["tenant-0", "tenant-2"]);
    assert_eq!(traces(&server, "tenant-1"), (false, false));
    ask(&server, "tenant-3").await;
    assert_eq!(open(&server).await, ["tenant-2", "tenant-3"]);
    ask(&server, "tenant-1").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_nothing_leave_nothing() {
    let tenants = Tenants::new(1).await;
    let server = tenants.server(NEVER, 10).await;
    let before = server.tasks.running();
    for n in 0..50 {
        let refused = server.ask(asking(&format!("tenant-made-up-{n}"))).await.unwrap_err();
        assert_eq!(reason_of(&refused).unwrap(), "COLLECTION_NOT_FOUND");
    }
    let refused = server.ask(asking("products")).await.unwrap_err();
    assert_eq!(
        reason_of(&refused).unwrap(),
        "COLLECTION_NOT_FOUND",
        "of another prefix"
    );
    assert_eq!(
        (pod(&server, "").await.open_collections, server.tasks.running()),
        (0, before)
    );
    assert!(
        !verdigris_runtime::metrics::text(&server.registry)
            .unwrap()
            .contains("made-up")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_nobody_asks_costs_the_store_nothing_and_is_fresh_when_it_is_asked_again() {
    let tenants = Tenants::new(1).await;
    let gate = Arc::new(Gate::new(tenants.first.store.clone()));
    let server = tenants.server_at(NEVER, 10, Some(&gate)).await;
    let world = &tenants.worlds[0];
    ask(&server, "tenant-0").await;
    let next = written(world, "one", 2).await;
    world.name(&next, None).await;
    eventually("in use it follows by itself", async || {
        let release = ask(&server, "tenant-0").await.release?;
        (release.generation == 2).then_some(())
    })
    .await;
    // Fifty times the time from one look to the next.
    eventually("it is not looked at any more", async || {
        let before = gate.reads();
        tokio::time::sleep(Duration::from_millis(100)).await;
        (before == gate.reads()).then_some(())
    })
    .await;
    let next = written(world, "one", 3).await;
    world.name(&next, None).await;
    let answer = ask(&server, "tenant-0").await;
    assert_eq!(lineage_of(&answer), ("one", 3), "the first answer after it slept");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_opened_for_whoever_measures_it() {
    let tenants = Tenants::new(1).await;
    let server = tenants.server(NEVER, 10).await;
    let world = &tenants.worlds[0];
    let (one, two) = (written(world, "one", 2).await, written(world, "two", 2).await);
    world.name(&one, Some((&two, Candidate))).await;
    let measured = server
        .search
        .measure(&world.collection, Some("two".to_owned().into()), 2)
        .await;
    assert_eq!(measured.unwrap().candidate.lineage.as_str(), "two");
    let told = pod(&server, "tenant-0").await.collections;
    let told: Vec<(&str, bool)> = told.iter().map(|one| (one.lineage.as_str(), one.warm)).collect();
    assert_eq!(told, [("one", true), ("two", true)]);
    // Swapped in place.
    world.name(&two, None).await;
    eventually("the other one answers", async || {
        let answer = ask(&server, "tenant-0").await;
        (lineage_of(&answer).0 == "two").then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_ready_when_it_can_read_the_store_and_no_tenant_makes_it_unready() {
    let tenants = Tenants::new(2).await;
    let gate = Arc::new(Gate::new(tenants.first.store.clone()));
    gate.set(At::Away);
    let server = tenants.server_at(NEVER, 10, Some(&gate)).await;
    assert!(!server.readiness.reasons().is_empty());
    let refused = server.ask(asking("tenant-0")).await.unwrap_err();
    assert_eq!(
        reason_of(&refused).unwrap(),
        "STORE_UNAVAILABLE",
        "nobody knows whether it is there"
    );
    gate.set(At::Open);
    eventually("it is ready", async || {
        server.readiness.reasons().is_empty().then_some(())
    })
    .await;
    let broken = written(&tenants.worlds[0], "two", 2).await;
    let file = tenants.worlds[0].file(&broken, true);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    tenants.worlds[0].name(&broken, None).await;
    let refused = server.ask(asking("tenant-0")).await.unwrap_err();
    assert_eq!(reason_of(&refused).unwrap(), "DATA_DAMAGED");
    assert_eq!(server.readiness.reasons().len(), 0);
    ask(&server, "tenant-1").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_goes_on_being_opened_and_followed_when_its_first_caller_goes() {
    let tenants = Tenants::new(1).await;
    let gate = Arc::new(Gate::new(tenants.first.store.clone()));
    let server = Arc::new(tenants.server_at(NEVER, 10, Some(&gate)).await);
    gate.set(At::Releases);
    let first = tokio::spawn({
        let server = server.clone();
        async move { server.ask(asking("tenant-0")).await.map(drop) }
    });
    gate.somebody_waits().await;
    first.abort();
    let _ = first.await;
    gate.set(At::Open);
    eventually("it is open", async || (!open(&server).await.is_empty()).then_some(())).await;
    let next = written(&tenants.worlds[0], "one", 2).await;
    tenants.worlds[0].name(&next, None).await;
    eventually("it is followed", async || {
        let answer = server.ask(asking("tenant-0")).await.ok()?;
        (lineage_of(&answer) == ("one", 2)).then_some(())
    })
    .await;
    Arc::into_inner(server).unwrap().stop().await;
}
