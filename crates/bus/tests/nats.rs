//! The bus in a NATS JetStream, against a real server: the conformance suite, what others publish and remove, and a
//! server that is killed.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod server;

#[path = "nats/batches.rs"]
mod batches;
#[path = "nats/ending.rs"]
mod ending;
#[path = "nats/lost.rs"]
mod lost;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use async_trait::async_trait;
use bytes::Bytes;
use verdigris_bus::conformance::{CASES, Fixture};
use verdigris_bus::nats::{NatsBus, NatsError, NatsOptions};
use verdigris_bus::{Bus, BusError, BusEvent, NewEvent, ReadLimits, Retention};
use verdigris_core::event::Event;
use verdigris_core::names::CollectionName;

use self::server::Server;

const ALL: ReadLimits = ReadLimits {
    events: u64::MAX,
    bytes: u64::MAX,
};

fn name(text: &str) -> CollectionName {
    text.parse().unwrap()
}

fn event(text: impl Into<String>) -> NewEvent {
    NewEvent {
        payload: Bytes::from(text.into()),
    }
}

async fn append(bus: &NatsBus, collection: &str, texts: &[&str]) -> u64 {
    let events = texts.iter().map(|text| event(*text)).collect();
    bus.append(&name(collection), events).await.unwrap().last
}

async fn texts(bus: &NatsBus, collection: &str, after: u64) -> Vec<String> {
    let events = bus.read(&name(collection), after, ALL).await.unwrap();
    events.iter().map(text).collect()
}

fn text(event: &BusEvent) -> String {
    String::from_utf8_lossy(&event.payload).into_owned()
}

struct NatsFixture(NatsOptions);

#[async_trait]
impl Fixture for NatsFixture {
    async fn handle(&self) -> Arc<dyn Bus> {
        Arc::new(NatsBus::connect(self.0.clone()).await.unwrap())
    }

    fn set_clock(&self, _: i64) -> bool {
        false
    }
}

fn case_options(server: &Server, number: usize) -> NatsOptions {
    NatsOptions {
        stream: format!("CASE{number}"),
        prefix: format!("case{number}."),
        ..server.options()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jetstream_bus_passes_the_conformance_suite() {
    let Some(server) = Server::start("the_jetstream_bus_passes_the_conformance_suite", "") else {
        return;
    };
    for (number, (name, case)) in CASES.iter().enumerate() {
        eprintln!("conformance: {name}");
        case(&NatsFixture(case_options(&server, number))).await;
    }
}

/// Goal: other collections' events in the same stream change nothing. Method: the same suite, while somebody publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jetstream_bus_passes_the_conformance_suite_while_others_publish() {
    let Some(server) = Server::start(
        "the_jetstream_bus_passes_the_conformance_suite_while_others_publish",
        "",
    ) else {
        return;
    };
    let outside = server.outside().await;
    for (number, (name, case)) in CASES.iter().enumerate() {
        eprintln!("conformance among others: {name}");
        let options = case_options(&server, number);
        let subject = format!("{}events.noise", options.prefix);
        drop(NatsBus::connect(options.clone()).await.unwrap());
        let (ended, outside) = (Arc::new(AtomicBool::new(false)), outside.clone());
        let stop = ended.clone();
        let noise = tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let sent = outside.publish(subject.clone(), "noise".into()).await.unwrap();
                sent.await.unwrap();
            }
        });
        case(&NatsFixture(options)).await;
        ended.store(true, Ordering::SeqCst);
        noise.await.unwrap();
    }
}

// === What others publish ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_systems_publish_structured_and_binary_events_directly() {
    let Some(server) = Server::start("catalog_systems_publish_structured_and_binary_events_directly", "") else {
        return;
    };
    let bus = server.bus().await;
    let outside = server.outside().await;
    let structured = r#"{"specversion":"1.0","id":"1","source":"/erp","type":"dev.verdigris.document.upsert.v1","subject":"a","data":{"title":"Saw"}}"#;
    let send = async |subject: &str, headers: HeaderMap, payload: &'static str| {
        let sent = outside.publish_with_headers(subject.to_owned(), headers, payload.into());
        sent.await.unwrap().await
    };
    send("verdigris.events.shop", HeaderMap::new(), structured)
        .await
        .unwrap();
    let mut headers = HeaderMap::new();
    for (key, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "2"),
        ("ce-source", "/erp"),
        ("ce-type", "dev.verdigris.document.patch.v1"),
        ("ce-subject", "a%2Fb"),
        ("content-type", "application/json"),
        ("Nats-Msg-Id", "erp-2"),
    ] {
        headers.insert(key, value);
    }
    for expect in [false, true] {
        let ack = send("verdigris.events.shop", headers.clone(), r#"{"price": 5}"#)
            .await
            .unwrap();
        assert_eq!(ack.duplicate, expect, "a message id is stored once");
    }
    send("verdigris.events.No-Collection", HeaderMap::new(), "{}")
        .await
        .unwrap();
    let deeper = send("verdigris.events.shop.deeper", HeaderMap::new(), "{}").await;
    assert!(deeper.is_err(), "no stream takes it, and the publisher is told");

    assert!(texts(&bus, "shop", 0).await.is_empty(), "nobody has opened it");
    bus.open(&name("shop")).await.unwrap();
    let events = bus.read(&name("shop"), 0, ALL).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(text(&events[0]), structured);
    let parsed = Event::parse(&events[1].payload).unwrap();
    assert_eq!((parsed.id.as_str(), parsed.kind.word()), ("a/b", "patch"));
    assert_eq!(bus.collections().await.unwrap(), [name("shop")]);
    // The digest of what is read is that of what is stored, in both modes.
    for event in &events {
        let found = bus.digest_at(&name("shop"), event.sequence).await.unwrap();
        assert_eq!(found, Some(event.digest()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_larger_than_a_read_takes_is_read_alone() {
    let Some(server) = Server::start("an_event_larger_than_a_read_takes_is_read_alone", "") else {
        return;
    };
    let bus = server.bus().await;
    append(&bus, "c", &["before"]).await;
    let outside = server.outside().await;
    let huge = "x".repeat(12 * 1024 * 1024);
    let sent = outside
        .publish("verdigris.events.c", huge.clone().into())
        .await
        .unwrap();
    sent.await.unwrap();
    append(&bus, "c", &["after"]).await;
    let sizes: Vec<_> = texts(&bus, "c", 0).await.iter().map(String::len).collect();
    assert_eq!(sizes, [6, huge.len(), 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_over_the_servers_limit_is_refused_with_what_to_do() {
    let Some(server) = Server::start(
        "a_payload_over_the_servers_limit_is_refused_with_what_to_do",
        "max_payload: 1MB",
    ) else {
        return;
    };
    let bus = server.bus().await;
    let error = bus
        .append(&name("c"), vec![event("x"), event("x".repeat(1024 * 1024))])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "event 1 has 1049088 bytes; the NATS server takes 1048576: raise its max_payload"
    );
    assert!(bus.collections().await.unwrap().is_empty(), "nothing was begun");
}

// === The stream ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_would_lose_events_is_refused_and_one_that_fits_is_used() {
    let Some(server) = Server::start(
        "a_stream_that_would_lose_events_is_refused_and_one_that_fits_is_used",
        "",
    ) else {
        return;
    };
    let outside = server.outside().await;
    let config = |name: &str| stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.>")],
        ..stream::Config::default()
    };
    let connect = async |config: stream::Config| {
        let options = NatsOptions {
            stream: config.name.clone(),
            prefix: format!("{}.", config.name),
            create: false,
            ..server.options()
        };
        outside.create_stream(config).await.unwrap();
        NatsBus::connect(options)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let queue = stream::Config {
        retention: stream::RetentionPolicy::WorkQueue,
        ..config("queue")
    };
    let short = stream::Config {
        max_age: Duration::from_secs(3_600),
        ..config("short")
    };
    let refused = |stream: &str, why: &str| Err(format!("stream {stream} cannot be used: {why}"));
    assert_eq!(
        connect(queue).await,
        refused("queue", "its retention is workqueue, where a log needs limits")
    );
    assert_eq!(
        connect(short).await,
        refused("short", "its max_age is 1 hours, 168 are needed")
    );
    assert_eq!(connect(config("good")).await, Ok(()));
    let absent = NatsOptions {
        create: false,
        ..server.options()
    };
    let error = NatsBus::connect(absent).await.map(drop).unwrap_err();
    assert!(matches!(error, NatsError::NoStream { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_refuses_events_and_keeps_what_it_has() {
    let Some(server) = Server::start("a_full_stream_refuses_events_and_keeps_what_it_has", "") else {
        return;
    };
    let options = NatsOptions {
        max_bytes: Some(100_000),
        ..server.options()
    };
    let bus = NatsBus::connect(options).await.unwrap();
    let mut accepted = 0;
    let error = loop {
        match bus.append(&name("c"), vec![event("x".repeat(5_000)); 3]).await {
            Ok(_) => accepted += 3,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BusError::Nats(NatsError::Full { .. })), "{error}");
    assert!(accepted >= 12, "{accepted}");
    assert_eq!(texts(&bus, "c", 0).await.len(), accepted, "nothing half accepted");
}

/// Goal: where there are no atomic batches, an append is still whole and in order. Method: a stream that was made
/// without them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_atomic_batches_takes_events_one_after_the_other() {
    let Some(server) = Server::start("a_stream_without_atomic_batches_takes_events_one_after_the_other", "") else {
        return;
    };
    let config = stream::Config {
        name: "VERDIGRIS".to_owned(),
        subjects: vec!["verdigris.>".to_owned()],
        ..stream::Config::default()
    };
    server.outside().await.create_stream(config).await.unwrap();
    let bus = server.bus().await;
    let sent: Vec<_> = (0..3_000).map(|n| n.to_string()).collect();
    let appended = bus.append(&name("c"), sent.iter().map(event).collect()).await.unwrap();
    assert_eq!(texts(&bus, "c", 0).await, sent);
    assert_eq!(bus.state(&name("c")).await.unwrap().last, appended.last);
}

// === Who may connect ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_or_knows_us_not_is_told_apart() {
    let users = "authorization { users: [ { user: a, password: secret } ] }";
    let Some(server) = Server::start("a_server_that_is_not_there_or_knows_us_not_is_told_apart", users) else {
        return;
    };
    let error = NatsBus::connect(server.options()).await.map(drop).unwrap_err();
    assert!(
        matches!(error, NatsError::Denied { .. }) && !error.is_outage(),
        "{error}"
    );
    let url = server.url().replace("nats://", "nats://a:secret@");
    drop(NatsBus::connect(NatsOptions::new(&url)).await.unwrap());
    server.kill();
    let error = NatsBus::connect(NatsOptions::new(&url)).await.map(drop).unwrap_err();
    assert!(
        matches!(error, NatsError::Unavailable { .. }) && error.is_outage(),
        "{error}"
    );
    assert!(!error.to_string().contains("secret"), "{error}");
    let credentials = NatsOptions {
        credentials_file: Some("/nowhere/user.creds".into()),
        ..server.options()
    };
    let error = NatsBus::connect(credentials).await.map(drop).unwrap_err();
    assert!(matches!(error, NatsError::Credentials { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_certificate_of_a_named_authority_is_trusted_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let tls = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
    let name = "a_server_with_a_certificate_of_a_named_authority_is_trusted_and_no_other";
    let Some(server) = Server::start(name, &tls) else {
        return;
    };
    let stranger = NatsBus::connect(server.options()).await.map(drop);
    assert!(stranger.is_err(), "the system knows no such authority");
    let options = NatsOptions {
        ca_file: Some(certificate),
        ..server.options()
    };
    let bus = NatsBus::connect(options).await.unwrap();
    append(&bus, "c", &["1"]).await;
    assert_eq!(texts(&bus, "c", 0).await, ["1"]);
    let absent = NatsOptions {
        ca_file: Some(folder.path().join("nowhere.pem")),
        ..server.options()
    };
    let error = NatsBus::connect(absent).await.map(drop).unwrap_err();
    assert!(matches!(error, NatsError::CaFile { .. }), "{error}");
}

/// What docs/nats.md says that an indexer needs, and a catalog system.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_permissions_are_enough() {
    let users = r#"authorization { users: [
        { user: indexer, password: a, permissions: { subscribe: "_INBOX.>", publish: [
            "verdigris.events.>", "verdigris.marks.>",
            "$JS.API.STREAM.INFO.VERDIGRIS", "$JS.API.STREAM.CREATE.VERDIGRIS", "$JS.API.STREAM.MSG.GET.VERDIGRIS",
            "$JS.API.STREAM.PURGE.VERDIGRIS", "$JS.API.CONSUMER.CREATE.VERDIGRIS",
            "$JS.API.CONSUMER.DELETE.VERDIGRIS.*", "$JS.API.CONSUMER.MSG.NEXT.VERDIGRIS.*" ] } }
        { user: shop, password: b, permissions: { subscribe: "_INBOX.>", publish: "verdigris.events.>" } }
    ] }"#;
    let Some(server) = Server::start("the_documented_permissions_are_enough", users) else {
        return;
    };
    let url = |user: &str| server.url().replace("nats://", &format!("nats://{user}@"));
    let bus = NatsBus::connect(NatsOptions::new(url("indexer:a"))).await.unwrap();
    let at = append(&bus, "c", &["1", "2"]).await;
    let client = async_nats::ConnectOptions::with_user_and_password("shop".to_owned(), "b".to_owned());
    let shop = jetstream::new(client.connect(server.url()).await.unwrap());
    let sent = shop.publish("verdigris.events.c", "3".into()).await.unwrap();
    sent.await.unwrap();
    bus.wait(&name("c"), at).await.unwrap();
    assert_eq!(texts(&bus, "c", 0).await, ["1", "2", "3"]);
    assert_eq!(bus.unread(&name("c"), at).await.unwrap(), 1);
    let all = Retention {
        age_ns: 0,
        bytes: 0,
        never_past: at,
    };
    assert_eq!(bus.retain(&name("c"), all, i64::MAX).await.unwrap(), 1);
    assert_eq!(bus.collections().await.unwrap(), [name("c")]);
    bus.forget(&name("c")).await.unwrap();
    assert!(bus.collections().await.unwrap().is_empty());
}
