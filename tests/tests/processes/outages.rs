//! The S3 server away, then the NATS server away: searches are answered and say how stale they are, nothing that was
//! accepted is lost, nothing is set aside, and everything converges when the server is back.

use std::time::Instant;

use async_nats::jetstream;
use serde_json::json;
use tonic::Code;
use verdigris_proto::ingest::IngestRequest;
use verdigris_proto::ingest::ingest_service_client::IngestServiceClient;
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::SearchRequest;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_tests::servers::Server;

use super::searching::Searching;
use super::{PATIENCE, Roles, channel};

const TEST: &str = "outages_of_store_and_broker_lose_nothing_and_stop_no_search";

fn document(n: u32) -> String {
    json!({"id": format!("item-{n}"), "title": format!("thing item-{n} of kind {}", n % 7)}).to_string()
}

/// Events by a client of the broker itself, each acknowledged.
async fn publish(nats: &Server, numbers: std::ops::Range<u32>) {
    let outside = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    for n in numbers {
        let sent = outside.publish("verdigris.events.products", document(n).into()).await;
        sent.unwrap().await.unwrap();
    }
}

/// An event by the API; accepted, or why not.
async fn send(roles: &Roles, collection: &str, n: u32) -> Result<(), tonic::Status> {
    let mut service = IngestServiceClient::new(channel(&roles.indexer.server().url).await);
    let request = IngestRequest {
        collection: collection.to_owned(),
        events: vec![document(n).into()],
    };
    let accepted = service.ingest(request).await?.into_inner();
    assert_eq!(accepted.accepted, 1, "{:?}", accepted.rejections);
    Ok(())
}

/// How long the first search process has not read the pointer, as its answers say.
async fn stale_milliseconds(roles: &Roles) -> u64 {
    let request = SearchRequest {
        collection: "products".to_owned(),
        text: "item-7".to_owned(),
        ..SearchRequest::default()
    };
    let mut service = SearchServiceClient::new(channel(&roles.searches[0].server().url).await);
    let answer = service.search(request).await.unwrap().into_inner();
    answer.release.unwrap().stale_milliseconds
}

async fn wait(roles: &Roles, what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(
            began.elapsed() < PATIENCE,
            "never: {what}\n{}",
            roles.indexer.folder.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_of_store_and_broker_lose_nothing_and_stop_no_search() {
    let (Some(mut s3), Some(mut nats)) = (Server::s3(TEST), Server::nats(TEST)) else {
        return;
    };
    let roles = Roles::over(&[s3.environment(), nats.environment()].concat());
    roles.ingest(0, 100);
    roles.find(99);
    let mut searching = Vec::new();
    for process in &roles.searches {
        searching.push(Searching::start(&process.server().url, "item-7", "item-7").await);
    }
    let stale = || roles.searches[0].server().metric("verdigris_search_stale_seconds");

    // The store is away: the bus takes what its clients and the API send; a collection that is not there cannot be made.
    s3.kill();
    publish(&nats, 100..109).await;
    send(&roles, "products", 109).await.unwrap();
    let refused = send(&roles, "others", 1).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason_of(&refused).as_deref()),
        (Code::Unavailable, Some("STORE_UNAVAILABLE"))
    );
    wait(&roles, "staleness is told by answers", async || {
        stale_milliseconds(&roles).await > 2_000
    })
    .await;
    wait(&roles, "staleness is told by a metric", async || stale() > Some(2.0)).await;
    wait(&roles, "the indexer says that it stands still", async || {
        roles.indexer.server().metric("verdigris_indexer_standstill") == Some(1.0)
    })
    .await;
    for client in &searching {
        client.goes_on().await;
    }
    s3.begin();
    roles.find(109);
    send(&roles, "products", 110).await.unwrap();
    roles.find(110);
    wait(&roles, "answers are fresh again", async || stale() < Some(2.0)).await;

    // The broker is away: nothing is accepted, by whomever, and what was accepted is answered.
    nats.kill();
    let refused = send(&roles, "products", 111).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason_of(&refused).as_deref()),
        (Code::Unavailable, Some("STORE_UNAVAILABLE"))
    );
    for client in &searching {
        client.goes_on().await;
    }
    nats.begin();
    publish(&nats, 111..120).await;
    roles.find(119);
    roles.ingest(120, 130);
    roles.find(129);

    for client in searching {
        client.stop().await;
    }
    let shown = roles.indexer.run(&["collections", "show"]);
    assert_eq!(
        (shown["documents"].as_u64(), shown.get("standstill")),
        (Some(130), None),
        "{shown}"
    );
    let letters = roles.indexer.run(&["dead-letters", "list"]);
    assert_eq!(letters["dead_letters"], json!([]), "nothing is set aside");
}
