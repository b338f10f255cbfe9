//! Appends of several events: together and in order, or not at all, whatever others append and whatever ends meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use verdigris_bus::{Bus, BusEvent};

use super::server::Server;
use super::{ALL, event, name, text};

const APPENDERS: usize = 4;
const ROUNDS: usize = 40;
const EVENTS: usize = 30;

/// Goal: no event of another stands between those of an append, as its places say. Method: several connections append to
/// one collection while another one reads on. A reader may meet an append in its midst; what it reads on is the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_is_read_in_order_and_with_nothing_in_between() {
    let Some(server) = Server::start("an_append_is_read_in_order_and_with_nothing_in_between", "") else {
        return;
    };
    let reader = server.bus().await;
    reader.open(&name("c")).await.unwrap();
    let (ended, mut appenders) = (Arc::new(AtomicBool::new(false)), Vec::new());
    for appender in 0..APPENDERS {
        let bus = server.bus().await;
        appenders.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let events = (0..EVENTS).map(|n| event(format!("{appender}.{round}.{n}"))).collect();
                let appended = bus.append(&name("c"), events).await.unwrap();
                assert_eq!(appended.last + 1 - appended.first, EVENTS as u64, "nothing in between");
            }
        }));
    }
    let stop = ended.clone();
    let reading = tokio::spawn(async move {
        let mut read: Vec<BusEvent> = Vec::new();
        loop {
            let is_last = stop.load(Ordering::SeqCst);
            let after = read.last().map_or(0, |last| last.sequence);
            let events = reader.read(&name("c"), after, ALL).await.unwrap();
            if is_last && events.is_empty() {
                return read;
            }
            read.extend(events);
        }
    });
    for appender in appenders {
        appender.await.unwrap();
    }
    ended.store(true, Ordering::SeqCst);
    let read = reading.await.unwrap();
    assert_eq!(read.len(), APPENDERS * ROUNDS * EVENTS);
    for append in read.chunks(EVENTS) {
        let texts: Vec<String> = append.iter().map(text).collect();
        let (of, _) = texts[0].rsplit_once('.').unwrap();
        let whole: Vec<String> = (0..EVENTS).map(|n| format!("{of}.{n}")).collect();
        assert_eq!(texts, whole);
    }
}

/// Goal: an append that failed is there whole or not at all. Method: the server is killed while appends go on, and what
/// nobody was told of is looked at as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_was_cut_by_kill_9_is_there_whole_or_not_at_all() {
    let Some(server) = Server::start("an_append_that_was_cut_by_kill_9_is_there_whole_or_not_at_all", "") else {
        return;
    };
    let server = Arc::new(server);
    let bus = Arc::new(server.bus().await);
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let appending = {
        let bus = bus.clone();
        tokio::spawn(async move {
            for round in 0..200usize {
                said.send(round).unwrap();
                let events = (0..EVENTS).map(|n| event(format!("{round}.{n}"))).collect();
                // Whether it was acknowledged does not matter here.
                let _ = bus.append(&name("c"), events).await;
            }
        })
    };
    for kill in 1..=4 {
        while heard.recv().await.is_some_and(|round| round < kill * 40) {}
        let server = server.clone();
        let restarted = tokio::task::spawn_blocking(move || {
            server.kill();
            server.run();
        });
        restarted.await.unwrap();
    }
    appending.await.unwrap();
    let events = server.bus().await.read(&name("c"), 0, ALL).await.unwrap();
    assert!(!events.is_empty() && events.len() % EVENTS == 0, "{}", events.len());
    for append in events.chunks(EVENTS) {
        let (first, last) = (text(&append[0]), text(&append[EVENTS - 1]));
        let of = first.strip_suffix(".0").expect("an append begins with its first event");
        assert_eq!(last, format!("{of}.{}", EVENTS - 1));
    }
}
