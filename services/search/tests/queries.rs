//! Golden queries and the sample of asked ones, over gRPC.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod world;

use tonic::{Request, Status};
use verdigris_core::queries::QuerySettings;
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::query_service_server::QueryService;
use verdigris_proto::search::{
    ClearGoldenQueriesRequest, ClearQueryLogRequest, GetGoldenQueriesRequest, GetQueryLogRequest, GetQueryLogResponse,
    Lineage, LineageState, SetGoldenQueriesRequest,
};
use verdigris_search::QueryRpc;

use verdigris_core::pointer::LineageRole::Candidate;
use world::{Draft, Server, World, catalog, eventually, name, request};

async fn served(world: &World) -> Server {
    let one = world.write(&Draft::new("one", 3, catalog(50))).await;
    world.name(&one, None).await;
    Server::start(world).await
}

fn rpc(server: &Server) -> QueryRpc {
    QueryRpc::new(server.search.clone())
}

async fn set(server: &Server, content: &str) -> Result<(u64, u32), Status> {
    let request = SetGoldenQueriesRequest {
        collection: name().to_string(),
        content: content.to_owned().into(),
    };
    let answer = rpc(server)
        .set_golden_queries(Request::new(request))
        .await?
        .into_inner();
    Ok((answer.version, answer.queries))
}

async fn shown(server: &Server) -> (u64, String) {
    let collection = name().to_string();
    let request = Request::new(GetGoldenQueriesRequest { collection });
    let answer = rpc(server).get_golden_queries(request).await.unwrap().into_inner();
    (answer.version, String::from_utf8(answer.content.to_vec()).unwrap())
}

async fn logged(server: &Server) -> GetQueryLogResponse {
    let request = GetQueryLogRequest {
        collection: name().to_string(),
        ..GetQueryLogRequest::default()
    };
    let answer = rpc(server).get_query_log(Request::new(request)).await;
    answer.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_queries_are_set_shown_and_taken_away_and_outlive_the_server() {
    let world = World::new().await;
    let server = served(&world).await;
    assert_eq!(shown(&server).await, (0, String::new()));
    assert_eq!(
        set(&server, "drill\tp-0\nsaw\tp-1\t0.5\tprice < 20\n").await.unwrap(),
        (1, 2)
    );
    let (version, content) = shown(&server).await;
    assert_eq!(version, 1);
    assert_eq!(
        set(&server, &content).await.unwrap(),
        (1, 2),
        "what is shown can be set again, and changes nothing"
    );
    server.stop().await;
    let server = Server::start(&world).await;
    assert_eq!(shown(&server).await, (1, content));
    let request = Request::new(ClearGoldenQueriesRequest {
        collection: name().to_string(),
    });
    let cleared = rpc(&server).clear_golden_queries(request).await.unwrap().into_inner();
    assert_eq!((cleared.version, cleared.removed), (2, 2));
    assert_eq!(shown(&server).await, (2, String::new()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_golden_queries_are_told_by_line_and_nothing_is_kept() {
    let world = World::new().await;
    let server = served(&world).await;
    set(&server, "drill\tp-0").await.unwrap();
    let before = shown(&server).await;
    for (content, told) in [
        ("drill\tp-0\nsaw", "line 2: 1 columns"),
        ("drill\tp-0\t2", "line 1: the ndcg floor is 2"),
        ("", "no query in the file"),
        ("drill\tp-0\t\tprice <", "its filter"),
    ] {
        let refused = set(&server, content).await.unwrap_err();
        assert_eq!(reason_of(&refused).as_deref(), Some("INVALID_QUERIES"));
        assert!(refused.message().contains(told), "{}", refused.message());
    }
    let many = set(&server, &"saw\n".repeat(500)).await.unwrap_err();
    assert!(many.message().ends_with("and 480 more"), "{}", many.message());
    assert_eq!(shown(&server).await, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_queries_are_kept_and_previews_pages_and_refused_ones_are_not() {
    let world = World::new().await;
    let one = world.write(&Draft::new("one", 3, catalog(50))).await;
    let two = world.write(&Draft::new("two", 3, catalog(50))).await;
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, 3).await;
    let first = server.search("copper drill", Lineage::Active).await.unwrap();
    server.search("preview", Lineage::Other).await.unwrap();
    let mut page = request("copper drill", Lineage::Active);
    page.page_token = first.next_page_token;
    server.ask(page).await.unwrap();
    let mut filtered = request("saw", Lineage::Active);
    filtered.filter = "price < 20".to_owned();
    server.ask(filtered.clone()).await.unwrap();
    filtered.filter = "price <".to_owned();
    server.ask(filtered).await.unwrap_err();
    let log = logged(&server).await;
    let mut queries: Vec<(String, String)> = log
        .queries
        .into_iter()
        .map(|query| (query.text, query.filter))
        .collect();
    queries.sort();
    let kept = |text: &str, filter: &str| (text.to_owned(), filter.to_owned());
    assert_eq!(queries, [kept("copper drill", ""), kept("saw", "price < 20")]);
    assert_eq!((log.kept, log.kept_max, log.enabled), (2, 10_000, true));
    server.stop().await;
    // The end of the process writes what came.
    let server = Server::start(&world).await;
    assert_eq!(logged(&server).await.kept, 2);
    let products = name();
    let gone = server
        .search
        .delete_logged_queries(&products, |query| query.text.contains("copper"));
    assert_eq!(gone.await.unwrap(), 1);
    let stored = std::fs::read_to_string(world.path("queries/products.jsonl")).unwrap();
    assert!(!stored.contains("copper") && stored.contains("saw"), "{stored}");
    let request = Request::new(ClearQueryLogRequest {
        collection: name().to_string(),
    });
    let cleared = rpc(&server).clear_query_log(request).await.unwrap().into_inner();
    assert_eq!(cleared.removed, 1);
    assert!(!world.path("queries/products.jsonl").exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_keep_no_queries_take_away_what_was_kept() {
    let world = World::new().await;
    let server = served(&world).await;
    server.search("copper drill", Lineage::Active).await.unwrap();
    assert_eq!(logged(&server).await.kept, 1);
    let mut off = Draft::new("one", 4, catalog(50));
    off.settings.queries = QuerySettings {
        log: false,
        ..QuerySettings::default()
    };
    off.settings_version = 2;
    let off = world.write(&off).await;
    world.name(&off, None).await;
    server.answers("one", 4).await;
    eventually("the sample is gone", async || {
        (!logged(&server).await.enabled).then_some(())
    })
    .await;
    server.search("copper drill", Lineage::Active).await.unwrap();
    assert_eq!(logged(&server).await.kept, 0);
    server.stop().await;
    assert!(!world.path("queries/products.jsonl").exists());
}
