//! A server that is killed while events are written and read.

use std::sync::Arc;
use std::time::Duration;

use verdigris_bus::nats::{NatsBus, NatsOptions};
use verdigris_bus::{Bus, BusError, BusEvent};

use super::server::Server;
use super::{ALL, append, event, name, text, texts};

/// Goal: what was acknowledged survives kill -9, once and in order. Method: appends run while the server is killed and
/// started again; what was acknowledged is compared with what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_event_is_there_once_and_in_order_after_kill_9() {
    let Some(server) = Server::start("every_acknowledged_event_is_there_once_and_in_order_after_kill_9", "") else {
        return;
    };
    let server = Arc::new(server);
    let bus = Arc::new(server.bus().await);
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let appender = {
        let bus = bus.clone();
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for batch in 0..400u64 {
                let events: Vec<_> = (0..batch % 7 + 1).map(|n| event(format!("{batch}.{n}"))).collect();
                let sent: Vec<_> = events.iter().map(|event| event.payload.clone()).collect();
                // An append that fails is not acknowledged, and not sent again here.
                if let Ok(appended) = bus.append(&name("c"), events).await {
                    acknowledged.push((appended, sent));
                }
                said.send(batch).unwrap();
            }
            acknowledged
        })
    };
    for round in 1..=4 {
        while heard.recv().await.is_some_and(|batch| batch < round * 80) {}
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            server.run();
        })
        .await
        .unwrap();
    }
    let acknowledged = appender.await.unwrap();
    assert!(acknowledged.len() > 300, "{}", acknowledged.len());
    let events = server.bus().await.read(&name("c"), 0, ALL).await.unwrap();
    assert!(events.is_sorted_by(|a, b| a.sequence < b.sequence));
    for (appended, sent) in acknowledged {
        let is_in = |event: &&BusEvent| (appended.first..=appended.last).contains(&event.sequence);
        let found: Vec<_> = events.iter().filter(is_in).map(|event| event.payload.clone()).collect();
        assert_eq!(found, sent, "an acknowledged append is there, whole and in order");
        for payload in sent {
            let copies = events.iter().filter(|event| event.payload == payload).count();
            assert_eq!(copies, 1, "{payload:?} was stored in one attempt alone");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_after_the_broker_was_away() {
    let Some(server) = Server::start("a_reader_goes_on_after_the_broker_was_away", "") else {
        return;
    };
    let options = NatsOptions {
        request_timeout: Duration::from_secs(1),
        append_timeout: Duration::from_secs(1),
        ..server.options()
    };
    let bus = Arc::new(NatsBus::connect(options).await.unwrap());
    let last = append(&bus, "c", &["1"]).await;
    assert_eq!(texts(&bus, "c", 0).await, ["1"]);
    let waiter = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.wait(&name("c"), last).await })
    };
    server.kill();
    let refused = bus.append(&name("c"), vec![event("lost")]).await.unwrap_err();
    assert!(
        matches!(&refused, BusError::Nats(error) if error.is_outage()),
        "{refused}"
    );
    let error = bus.read(&name("c"), last, ALL).await.unwrap_err();
    assert!(matches!(&error, BusError::Nats(error) if error.is_outage()), "{error}");
    assert!(!waiter.is_finished(), "a waiter waits through it");
    server.run();
    let outside = server.outside().await;
    let sent = outside.publish("verdigris.events.c", "2".into()).await.unwrap();
    sent.await.unwrap();
    waiter.await.unwrap().unwrap();
    // The one that was refused may have been sent on reconnecting: it was never acknowledged.
    let read = loop {
        match bus.read(&name("c"), last, ALL).await {
            Ok(events) if events.iter().any(|event| text(event) == "2") => break events,
            Ok(_) => {}
            Err(BusError::Nats(error)) if error.is_outage() => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert!(read.iter().all(|event| ["2", "lost"].contains(&text(event).as_str())));
}
