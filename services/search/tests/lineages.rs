//! Two lineages in one search role: a flip is one swap, a preview asks the other one, and neither disturbs the other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;
use tonic::Request;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::pointer::LineageRole::{Candidate, WayBack};
use verdigris_embed::{EmbedError, Embedder, HashEmbedder, TextKind};
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{
    BatchSearchRequest, GetDocumentRequest, Lineage, LineageState, SearchMode, SearchRequest,
};
use verdigris_search::LineageCondition;

use world::{Draft, Server, Start, World, Written, catalog, eventually, hash_settings, ids, lineage_of, name, request};

/// Documents that say which lineage has them.
async fn written(world: &World, lineage: &str, generation: u64) -> Written {
    let document = |n: usize| json!({"id": format!("p-{n}"), "title": format!("thing {n}"), "of": lineage});
    world
        .write(&Draft::new(lineage, generation, (0..30).map(document).collect()))
        .await
}

fn reason(error: &tonic::Status) -> String {
    reason_of(error).unwrap_or_default()
}

/// Every hit of an answer is of the lineage that the answer names.
fn check_one_lineage(answer: &verdigris_proto::search::SearchResponse) {
    let (lineage, _) = lineage_of(answer);
    assert!(!answer.hits.is_empty());
    for hit in &answer.hits {
        let document: serde_json::Value = serde_json::from_str(&hit.document_json).unwrap();
        assert_eq!(document["of"], lineage, "I-7: a hit of another lineage");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_asks_the_other_lineage_and_without_one_says_so() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, None).await;
    let server = Server::start(&world).await;
    let refused = server.search("thing", Lineage::Other).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_OTHER_LINEAGE");
    world.name(&one, Some((&two, Candidate))).await;
    let other = server.other_is(LineageState::Warm, 3).await;
    assert_eq!((other.lineage.as_str(), other.role.as_str()), ("two", "candidate"));
    assert!(other.memory_bytes > 0);
    for (asked, lineage) in [
        (Lineage::Unspecified, "one"),
        (Lineage::Active, "one"),
        (Lineage::Other, "two"),
    ] {
        let answer = server.search("thing", asked).await.unwrap();
        assert_eq!(lineage_of(&answer).0, lineage);
        check_one_lineage(&answer);
        let get = GetDocumentRequest {
            collection: name().to_string(),
            id: "p-7".to_owned(),
            lineage: asked.into(),
            ..GetDocumentRequest::default()
        };
        let got = server.rpc.get_document(Request::new(get)).await.unwrap().into_inner();
        assert!(
            got.document_json.contains(&format!("\"of\":\"{lineage}\"")),
            "{}",
            got.document_json
        );
    }
    let mixed = BatchSearchRequest {
        requests: vec![request("thing", Lineage::Active), request("thing", Lineage::Other)],
    };
    let refused = server.rpc.batch_search(Request::new(mixed)).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_ARGUMENT", "one batch, one release");
    world.name(&one, None).await;
    eventually("the other lineage is forgotten", async || {
        (server.stats().await.lineages.len() == 1).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_is_one_swap_that_opens_nothing_and_leaves_the_way_back_warm() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, 3).await;
    let opened = server.opened.load(Ordering::SeqCst);
    world.name(&two, Some((&one, WayBack))).await;
    server.answers("two", 3).await;
    let stats = server.stats().await;
    assert_eq!(
        (stats.lineages[1].state(), stats.lineages[1].role.as_str()),
        (LineageState::Warm, "way_back"),
        "the way back is warm at the moment of the flip"
    );
    world.name(&one, Some((&two, Candidate))).await;
    server.answers("one", 3).await;
    assert_eq!(server.opened.load(Ordering::SeqCst), opened, "nothing was opened again");
    server.stop().await;
}

/// Goal: no request fails because of a flip, and no answer mixes lineages (I-6, I-7). Method: clients search without a
/// pause while both lineages change places a hundred times, with follows in between.
#[tokio::test(flavor = "multi_thread")]
async fn searches_go_on_through_a_hundred_flips() {
    let world = World::new().await;
    let mut sides = (written(&world, "one", 1).await, written(&world, "two", 1).await);
    world.name(&sides.0, Some((&sides.1, Candidate))).await;
    let server = Arc::new(Server::start(&world).await);
    server.other_is(LineageState::Warm, 1).await;
    let (done, mut clients) = (Arc::new(AtomicBool::new(false)), Vec::new());
    for lineage in [Lineage::Active, Lineage::Active, Lineage::Other] {
        let (server, done) = (server.clone(), done.clone());
        clients.push(tokio::spawn(async move {
            let mut answers = 0_u64;
            while !done.load(Ordering::SeqCst) {
                let mut asked = request("thing", lineage);
                asked.top_k = 5;
                let answer = server
                    .ask(asked)
                    .await
                    .expect("I-6: no request fails because of a swap");
                check_one_lineage(&answer);
                answers += 1;
                tokio::task::yield_now().await;
            }
            answers
        }));
    }
    for flip in 1..=100 {
        if flip % 10 == 0 {
            let generation = 1 + flip / 10;
            let names = [&sides.0, &sides.1].map(|side| side.manifest.lineage.to_string());
            sides = (
                written(&world, &names[0], generation).await,
                written(&world, &names[1], generation).await,
            );
            world.name(&sides.0, Some((&sides.1, Candidate))).await;
            server.other_is(LineageState::Warm, generation).await;
        }
        sides = (sides.1, sides.0);
        world.name(&sides.0, Some((&sides.1, WayBack))).await;
        server
            .answers(sides.0.manifest.lineage.as_str(), sides.0.manifest.generation)
            .await;
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_in_their_lineage_though_both_have_the_same_generation() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, 3).await;
    let first = server.search("thing", Lineage::Active).await.unwrap();
    let preview = server.search("thing", Lineage::Other).await.unwrap();
    world.name(&two, Some((&one, WayBack))).await;
    server.answers("two", 3).await;
    for (page, asked, lineage) in [(&first, Lineage::Active, "one"), (&preview, Lineage::Other, "two")] {
        let next = SearchRequest {
            page_token: page.next_page_token.clone(),
            ..request("thing", asked)
        };
        let next = server.ask(next).await.unwrap();
        assert_eq!(lineage_of(&next).0, lineage, "I-7: all pages come from one release");
        check_one_lineage(&next);
        assert!(ids(&next).iter().all(|id| !ids(page).contains(id)), "nothing twice");
    }
    let foreign = SearchRequest {
        page_token: first.next_page_token,
        ..request("thing", Lineage::Other)
    };
    assert_eq!(reason(&server.ask(foreign).await.unwrap_err()), "INVALID_PAGE_TOKEN");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_other_lineage_is_told_and_does_not_disturb_the_active_one() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    let file = world.file(&two, false);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    let broken = server.other_is(LineageState::Broken, 3).await;
    assert_eq!(broken.reason, "DATA_DAMAGED");
    assert!(broken.message.contains("vectors.faiss"), "{}", broken.message);
    let refused = server.search("thing", Lineage::Other).await.unwrap_err();
    assert_eq!(reason(&refused), "DATA_DAMAGED");
    check_one_lineage(&server.search("thing", Lineage::Active).await.unwrap());
    assert!(server.readiness.reasons().is_empty(), "it is ready for what people ask");
    let next = written(&world, "one", 4).await;
    world.name(&next, Some((&two, Candidate))).await;
    server.answers("one", 4).await;
    // What is put right is found without a restart.
    std::fs::write(&file, &whole).unwrap();
    server.other_is(LineageState::Warm, 3).await;
    server.stop().await;
}

/// The same coordinates by another recipe.
struct Another {
    inner: HashEmbedder,
    identity: EmbedderIdentity,
}

#[async_trait]
impl Embedder for Another {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.inner.embed(texts, kind).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lineage_embeds_queries_by_its_own_model() {
    let world = World::new().await;
    let one = written(&world, "one", 3).await;
    let draft = Draft {
        settings: hash_settings(32),
        settings_version: 2,
        ..Draft::new("two", 3, world::catalog(50))
    };
    let two = world.write(&draft).await;
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, 3).await;
    for _ in 0..2 {
        let vector = |lineage| SearchRequest {
            mode: SearchMode::Vector.into(),
            top_k: 1,
            ..request("oak drill number 16 size 11. Kestrel", lineage)
        };
        // A vector of the other model would have another dimension, and be refused.
        let preview = server.ask(vector(Lineage::Other)).await.unwrap();
        assert_eq!(ids(&preview), ["p-16"], "I-17");
        assert!(preview.hits[0].vector_score.unwrap() > 0.999, "I-17: its own model");
        server.ask(vector(Lineage::Active)).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lineage_of_a_model_that_is_not_here_is_broken_and_the_active_one_answers() {
    let world = World::new().await;
    let one = written(&world, "one", 3).await;
    let identity = EmbedderIdentity {
        revision: "another recipe".to_owned(),
        ..HashEmbedder::new(16).unwrap().identity().clone()
    };
    let draft = Draft {
        embedder: Some(identity.clone()),
        ..Draft::new("two", 3, world::catalog(50))
    };
    let two = world.write(&draft).await;
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    let broken = server.other_is(LineageState::Broken, 3).await;
    assert_eq!(broken.reason, "EMBEDDER_MISMATCH", "I-17");
    check_one_lineage(&server.search("thing", Lineage::Active).await.unwrap());
    server.stop().await;
    // The other way round: what is served is the one whose model is here.
    let inner = HashEmbedder::new(16).unwrap();
    let start = Start {
        embedder: Some(Arc::new(Another { inner, identity })),
        ..Start::default()
    };
    let server = Server::start_as(&world, start).await;
    eventually("the other lineage is warm", async || {
        let serving = server.search.serving(&name()).await?;
        (serving.other?.condition == LineageCondition::Warm).then_some(())
    })
    .await;
    let refused = server.search("thing", Lineage::Active).await.unwrap_err();
    assert_eq!(reason(&refused), "EMBEDDER_MISMATCH", "I-17");
    server.search("drill", Lineage::Other).await.unwrap();
    server.stop().await;
}

/// An embedder whose queries wait until they are let go.
struct Waiting {
    inner: HashEmbedder,
    waiting: watch::Sender<u64>,
    open: watch::Sender<bool>,
}

#[async_trait]
impl Embedder for Waiting {
    fn identity(&self) -> &EmbedderIdentity {
        self.inner.identity()
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.iter().any(|text| text.contains("slowly")) {
            self.waiting.send_modify(|waiting| *waiting += 1);
            // The sender lives as long as this embedder.
            let _ = self.open.subscribe().wait_for(|open| *open).await;
        }
        if texts.iter().any(|text| text.contains("never")) {
            return Err(EmbedError::GivenUp);
        }
        self.inner.embed(texts, kind).await
    }
}

fn waiting() -> Arc<Waiting> {
    Arc::new(Waiting {
        inner: HashEmbedder::new(16).unwrap(),
        waiting: watch::Sender::new(0),
        open: watch::Sender::new(false),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_keeps_its_lineage_through_a_flip() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, Some((&two, Candidate))).await;
    let embedder = waiting();
    let start = Start {
        embedder: Some(embedder.clone()),
        ..Start::default()
    };
    let server = Arc::new(Server::start_as(&world, start).await);
    server.other_is(LineageState::Warm, 3).await;
    let asker = server.clone();
    let in_flight = tokio::spawn(async move { asker.search("slowly thing", Lineage::Active).await });
    embedder
        .waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 1)
        .await
        .unwrap();
    world.name(&two, None).await;
    server.answers("two", 3).await;
    embedder.open.send_replace(true);
    let answer = in_flight.await.unwrap().expect("I-6");
    assert_eq!(lineage_of(&answer).0, "one", "I-7");
    check_one_lineage(&answer);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_counts_answers_of_the_active_lineage_since_its_last_flip() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, Some((&two, Candidate))).await;
    let start = Start {
        embedder: Some(waiting()),
        ..Start::default()
    };
    let server = Server::start_as(&world, start).await;
    server.other_is(LineageState::Warm, 3).await;
    for _ in 0..5 {
        server.search("thing", Lineage::Active).await.unwrap();
        server.search("thing", Lineage::Other).await.unwrap();
    }
    assert_eq!(
        reason(&server.search("never", Lineage::Active).await.unwrap_err()),
        "EMBEDDER_UNAVAILABLE"
    );
    let mut wrong = request("thing", Lineage::Active);
    wrong.filter = "price <".to_owned();
    server.ask(wrong).await.unwrap_err();
    let stats = server.stats().await;
    let window = stats.window.unwrap();
    assert_eq!((window.lineage.as_str(), window.requests, window.errors), ("one", 6, 1));
    assert!(0 < window.p50_micros && window.p50_micros <= window.p99_micros);
    assert_eq!(stats.window_before, None);
    // A publish of the same lineage goes on counting, a flip begins anew.
    let next = written(&world, "one", 4).await;
    world.name(&next, Some((&two, Candidate))).await;
    server.answers("one", 4).await;
    server.search("thing", Lineage::Active).await.unwrap();
    world.name(&two, Some((&next, WayBack))).await;
    server.answers("two", 3).await;
    server.search("thing", Lineage::Active).await.unwrap();
    let stats = server.stats().await;
    let (window, before) = (stats.window.unwrap(), stats.window_before.unwrap());
    assert_eq!((window.lineage.as_str(), window.requests, window.errors), ("two", 1, 0));
    assert_eq!((before.lineage.as_str(), before.requests, before.errors), ("one", 7, 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_release_of_the_other_lineage_takes_the_place_of_the_one_that_previews_had() {
    let world = World::new().await;
    let (one, two) = (written(&world, "one", 3).await, written(&world, "two", 3).await);
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, 3).await;
    let page = server.search("thing", Lineage::Other).await.unwrap();
    let (one, two) = (written(&world, "one", 4).await, written(&world, "two", 4).await);
    world.name(&one, Some((&two, Candidate))).await;
    server.other_is(LineageState::Warm, 4).await;
    let answer = server.search("thing", Lineage::Other).await.unwrap();
    assert_eq!(lineage_of(&answer), ("two", 4));
    let next = SearchRequest {
        page_token: page.next_page_token,
        ..request("thing", Lineage::Other)
    };
    assert_eq!(
        lineage_of(&server.ask(next).await.unwrap()),
        ("two", 3),
        "pages of a preview hold as well"
    );
    let get = GetDocumentRequest {
        collection: name().to_string(),
        id: "p-1".to_owned(),
        min_position: "00000000-104".to_owned(),
        lineage: Lineage::Other.into(),
    };
    server.rpc.get_document(Request::new(get)).await.unwrap();
    server.stop().await;
}

/// Goal: pages of a release stay hidden for which an erase and the end of its removal came between two looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_earlier_search_does_not_show_what_was_erased_and_removed_between_two_looks() {
    let world = World::new().await;
    let documents = catalog(40);
    let first = world.write(&Draft::new("one", 1, documents.clone())).await;
    world.name(&first, None).await;
    let server = Server::start(&world).await;
    let page = |page_token: String| SearchRequest {
        top_k: 10,
        page_token,
        ..request("drill saw hammer pipe valve cable lamp clamp", Lineage::Active)
    };
    let mut told = server.ask(page(String::new())).await.unwrap();
    let token = told.next_page_token.clone();
    told = server.ask(page(token.clone())).await.unwrap();
    let secret = ids(&told)[3].to_owned();

    let left = documents
        .into_iter()
        .filter(|document| document["id"] != secret.as_str());
    let mut without = Draft::new("one", 2, left.collect());
    without.rows_of = 2;
    let without = world.write(&without).await;
    world.erase_with_next(&[&secret], true).await;
    world.name(&without, None).await;
    server.answers("one", 2).await;
    let again = server.ask(page(token)).await.unwrap();
    assert_eq!(lineage_of(&again), ("one", 1), "the release of the first page");
    assert!(!ids(&again).contains(&secret.as_str()), "{secret} in {:?}", ids(&again));
    server.stop().await;
}
