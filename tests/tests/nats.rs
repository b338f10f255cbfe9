//! Events by a real NATS server: what a catalog system publishes with a client of its own becomes searchable, and a
//! stream that is not the one that was read stops the indexer until a full feed repairs it, while answers go on (I-15).
//!
//! Deliberately absent: what the bus itself promises, which `crates/bus/tests/nats.rs` has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "nats/roles.rs"]
mod roles;
mod searching;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use serde_json::{Value, json};
use verdigris_core::timestamp::Timestamp;
use verdigris_runtime::clock::Clock;
use verdigris_tests::servers::Server;

use self::roles::{Layout, Roles};
use self::searching::Searching;

const SUBJECT: &str = "verdigris.events.products";

/// A catalog system's own client.
struct Outside(jetstream::Context);

impl Outside {
    async fn of(server: &Server) -> Self {
        Self(jetstream::new(async_nats::connect(server.url()).await.unwrap()))
    }

    /// Publishes, and waits for the acknowledgement; the sequence.
    async fn publish(&self, headers: HeaderMap, payload: &Value) -> u64 {
        let payload = payload.to_string().into();
        let sent = self.0.publish_with_headers(SUBJECT, headers, payload).await.unwrap();
        sent.await.unwrap().sequence
    }

    async fn document(&self, id: &str, title: &str) -> u64 {
        self.publish(HeaderMap::new(), &json!({"id": id, "title": title})).await
    }
}

fn binary(kind: &str, id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "4711"),
        ("ce-source", "/erp/prices"),
        ("ce-type", &format!("dev.verdigris.document.{kind}.v1")),
        ("ce-subject", id),
        ("content-type", "application/json"),
    ] {
        headers.insert(name, value);
    }
    headers
}

fn now() -> String {
    Timestamp(Clock::system().now_ns()).to_string()
}

/// Goal: each spelling of an event comes by the broker, from the command line and from a client that knows nothing of
/// ours, and what cannot be read is set aside with its reason.
async fn events_become_searchable(test: &str, layout: Layout) {
    let Some(server) = Server::nats(test) else { return };
    let roles = Roles::start(layout, &server);
    let told = roles.ingest(&[json!({"id": "a", "title": "table saw", "price": 500})]);
    let position = told["position"].as_str().unwrap();
    let identity = position.split_once('-').unwrap().0;
    assert_eq!(roles.document("a", position).unwrap()["price"], 500);

    let outside = Outside::of(&server).await;
    outside
        .publish(binary("patch", "a"), &json!({"price": 499, "title": "jig saw"}))
        .await;
    outside
        .publish(binary("upsert", "sp%C3%A4n/e"), &json!({"title": "wood chips"}))
        .await;
    let structured = json!({
        "specversion": "1.0", "id": "1", "source": "/erp", "type": "dev.verdigris.document.upsert.v1",
        "subject": "b", "data": {"title": "garden hose"}
    });
    outside.publish(HeaderMap::new(), &structured).await;
    outside.publish(binary("upsert", "bad"), &json!([1, 2])).await;
    outside.publish(HeaderMap::new(), &json!({"title": "nobody"})).await;
    let last = outside.document("c", "desk lamp").await;
    // Sent again as it was: stored once.
    let mut again = binary("delete", "b");
    again.insert("Nats-Msg-Id", "erp-7");
    let deleted = outside.publish(again.clone(), &json!({})).await;
    assert_eq!(outside.publish(again, &json!({})).await, deleted);

    let at = |sequence: u64| format!("{identity}-{sequence}");
    assert_eq!(roles.document("c", &at(last)).unwrap()["title"], "desk lamp");
    assert_eq!(roles.document("b", &at(deleted)), None);
    let patched = roles.document("a", "").unwrap();
    assert_eq!((&patched["price"], &patched["title"]), (&json!(499), &json!("jig saw")));
    assert_eq!(roles.document("spän/e", "").unwrap()["title"], "wood chips");
    assert_eq!(roles.set_aside(), ["DATA_NOT_OBJECT", "MISSING_ID"]);
    assert_eq!(roles.hits("jig saw")[0], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_catalog_system_publishes_becomes_searchable_in_one_process() {
    let test = "what_a_catalog_system_publishes_becomes_searchable_in_one_process";
    events_become_searchable(test, Layout::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_catalog_system_publishes_becomes_searchable_by_separate_processes() {
    let test = "what_a_catalog_system_publishes_becomes_searchable_by_separate_processes";
    events_become_searchable(test, Layout::Separate).await;
}

/// What becomes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Deleted, and made anew by an operator.
    Recreated,
    /// Put back to an older copy.
    Truncated,
    /// The same, and filled by other events up to the place that was read and beyond.
    Regrown,
    /// Cut from its beginning by a limit of the broker, while nobody read.
    Trimmed,
}

impl Harm {
    /// What people are told.
    fn words(self) -> &'static str {
        match self {
            Self::Recreated => "the log was recreated",
            Self::Truncated => "the log was truncated: ",
            Self::Regrown => "has grown again",
            // The mark of the collection went first, and a log without it is another one.
            Self::Trimmed => "the log was recreated",
        }
    }
}

/// Makes the roles read two events more, and then harms their stream behind their back.
async fn harm(harm: Harm, server: &mut Server, roles: &mut Roles) -> Outside {
    server.kill();
    let copy = server.copy();
    server.begin();
    let outside = Outside::of(server).await;
    for (id, title) in [("kept", "angle grinder"), ("lost", "heat gun")] {
        outside.document(id, title).await;
        roles.finds(id);
    }
    if harm == Harm::Recreated {
        outside.0.delete_stream("VERDIGRIS").await.unwrap();
        let config = stream::Config {
            name: "VERDIGRIS".to_owned(),
            subjects: vec!["verdigris.events.*".to_owned(), "verdigris.marks.*".to_owned()],
            ..stream::Config::default()
        };
        outside.0.create_stream(config).await.unwrap();
        return outside;
    }
    if harm == Harm::Trimmed {
        roles.kill_writer();
        for n in 0..20 {
            outside.document(&format!("unread-{n}"), "never read").await;
        }
        let mut stream = outside.0.get_stream("VERDIGRIS").await.unwrap();
        // An operator's mistake, seen and undone: a limit removes what comes as well.
        for max_messages in [5, -1] {
            let config = stream::Config {
                max_messages,
                discard: stream::DiscardPolicy::Old,
                ..stream.info().await.unwrap().config.clone()
            };
            outside.0.update_stream(config).await.unwrap();
        }
        roles.begin_writer();
        return outside;
    }
    server.kill();
    server.put_back(&copy);
    server.begin();
    let outside = Outside::of(server).await;
    if harm == Harm::Regrown {
        for id in ["x", "y", "z"] {
            outside.document(id, "in its place").await;
        }
    }
    outside
}

/// What must be there after the feed, in a release that holds this position.
fn check_documents(roles: &Roles, position: &str) {
    let title = |id: &str| roles.document(id, position).map(|document| document["title"].clone());
    let expect = [
        ("a", Some("table saw 2")),
        ("b", Some("hose reel")),
        ("c", Some("desk lamp")),
        ("d", None),
        ("kept", Some("angle grinder")),
        ("lost", None),
        ("late", Some("cement mixer")),
    ];
    for (id, expect) in expect {
        assert_eq!(
            title(id),
            expect.map(Value::from),
            "{id}, as the feed and what came later"
        );
    }
    for id in ["x", "z", "unread-19"] {
        assert_eq!(
            title(id),
            None,
            "{id} was published before the feed, which lacks it, and read after it"
        );
    }
}

/// Goal: a stream that is not the one that was read stops the indexer with an alarm while every search is answered, and a
/// full feed repairs the collection: what the feed lacks is deleted as of its moment, what came later survives.
async fn harmed_and_repaired(test: &str, layout: Layout, what: Harm) {
    let Some(mut server) = Server::nats(test) else { return };
    let mut roles = Roles::start(layout, &server);
    let documents = [
        ("a", "table saw"),
        ("b", "garden hose"),
        ("c", "desk lamp"),
        ("d", "drill"),
    ];
    let told = roles.ingest(&documents.map(|(id, title)| json!({"id": id, "title": title})));
    roles.document("d", told["position"].as_str().unwrap()).unwrap();
    let searching = Searching::start(&roles.reader().1.url, "table saw", "a").await;
    let outside = harm(what, &mut server, &mut roles).await;

    roles.stands_still_for("STREAM_MISMATCH", what.words());
    let standing = roles.generation();
    assert_eq!(roles.metric("verdigris_indexer_standstill"), 1.0, "the alarm");
    let doctor = roles.doctor();
    assert!(doctor.len() == 1 && doctor[0].contains("STREAM_MISMATCH"), "{doctor:?}");
    assert!(
        roles.document("lost", "").is_some(),
        "answers go on with what was published"
    );
    // A feed is taken; afterwards there come a new document and a change, one by each way.
    let moment = now();
    let waiting = roles.try_ingest(&[json!({"id": "late", "title": "cement mixer"})]);
    assert_eq!(waiting.code, 4, "{}", waiting.text);
    assert_eq!(waiting.json["reason"], "STREAM_MISMATCH", "a wait ends at once");
    outside
        .publish(binary("patch", "a"), &json!({"price": 499, "title": "table saw 2"}))
        .await;
    assert_eq!(roles.generation(), standing, "nothing is published");

    searching.goes_on().await;
    let feed = [
        ("a", "table saw"),
        ("b", "hose reel"),
        ("c", "desk lamp"),
        ("kept", "angle grinder"),
    ];
    let told = roles.resync(&feed.map(|(id, title)| json!({"id": id, "title": title})), &moment);
    assert_eq!(told["rejected"], 0, "{told}");
    let position = told["position"].as_str().unwrap();
    check_documents(&roles, position);
    assert_eq!(roles.standstill(), None);
    assert_eq!(roles.metric("verdigris_indexer_standstill"), 0.0);
    assert_eq!(roles.doctor(), Vec::<String>::new());
    assert_eq!(roles.set_aside(), Vec::<String>::new());
    outside.document("after", "spirit level").await;
    roles.finds("after");
    searching.goes_on().await;
    searching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_anew_stops_one_process_that_answers_on_and_a_feed_repairs_it() {
    let test = "a_stream_made_anew_stops_one_process_that_answers_on_and_a_feed_repairs_it";
    harmed_and_repaired(test, Layout::Up, Harm::Recreated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_anew_stops_the_indexer_and_a_feed_repairs_it_without_an_outage() {
    let test = "a_stream_made_anew_stops_the_indexer_and_a_feed_repairs_it_without_an_outage";
    harmed_and_repaired(test, Layout::Separate, Harm::Recreated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_lost_its_end_stops_the_indexer_and_a_feed_repairs_it_without_an_outage() {
    let test = "a_stream_that_lost_its_end_stops_the_indexer_and_a_feed_repairs_it_without_an_outage";
    harmed_and_repaired(test, Layout::Separate, Harm::Truncated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_grew_again_stops_the_indexer_and_a_feed_repairs_it_without_an_outage() {
    let test = "a_stream_that_grew_again_stops_the_indexer_and_a_feed_repairs_it_without_an_outage";
    harmed_and_repaired(test, Layout::Separate, Harm::Regrown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_cut_by_a_limit_of_the_broker_stops_the_indexer_and_a_feed_repairs_it_without_an_outage() {
    let test = "a_stream_cut_by_a_limit_of_the_broker_stops_the_indexer_and_a_feed_repairs_it_without_an_outage";
    harmed_and_repaired(test, Layout::Separate, Harm::Trimmed).await;
}
