//! What every bus must do, as a list of cases to run against it. Faults, crashes and file formats are each bus's own
//! tests; here is what a reader or an appender may rely on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_core::checkpoint::check_checkpoint;
use verdigris_core::manifest::Checkpoint;
use verdigris_core::names::CollectionName;

use crate::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, Bus, BusError, BusEvent, NewEvent, PAYLOAD_BYTES_MAX, ReadLimits, Retention,
    facts,
};

/// A bus to run the cases against: empty at first, the same for all handles.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A new handle to the bus, as another process would have it.
    async fn handle(&self) -> Arc<dyn Bus>;

    /// Sets the clock that accept times come from.
    fn set_clock(&self, now_ns: i64);
}

/// A case: its name, and what runs it.
pub type Case = (
    &'static str,
    for<'f> fn(&'f dyn Fixture) -> Pin<Box<dyn Future<Output = ()> + Send + 'f>>,
);

/// All cases. Each is run on a fixture of its own.
pub const CASES: &[Case] = &[
    ("appended events are read back in order from any place", |f| {
        Box::pin(reading(f))
    }),
    ("reads obey their limits and return one event at least", |f| {
        Box::pin(limits(f))
    }),
    ("sequences have no gaps under concurrent appends of two handles", |f| {
        Box::pin(concurrency(f))
    }),
    (
        "accept times increase strictly while the clock stands, goes back and jumps",
        |f| Box::pin(accept_times(f)),
    ),
    ("an append over a limit is refused whole", |f| {
        Box::pin(append_limits(f))
    }),
    ("collections have streams of their own", |f| Box::pin(isolation(f))),
    ("a stream is made by opening it, once, and not by reading", |f| {
        Box::pin(opening(f))
    }),
    ("a waiter is woken by an append of its own handle and of another", |f| {
        Box::pin(waiting(f))
    }),
    ("a dropped waiter takes nothing with it", |f| {
        Box::pin(dropped_waiter(f))
    }),
    ("retention by age and bytes removes the oldest alone", |f| {
        Box::pin(retention(f))
    }),
    ("retention never passes a checkpoint and keeps the event there", |f| {
        Box::pin(retention_and_checkpoint(f))
    }),
    ("a reader behind what is kept is told so", |f| Box::pin(trimmed(f))),
    ("numbers go on after all events were removed", |f| {
        Box::pin(empty_after_retention(f))
    }),
    ("a forgotten collection comes back as another stream", |f| {
        Box::pin(forgetting(f))
    }),
    ("a checkpoint fits its stream and no other", |f| {
        Box::pin(checkpoints(f))
    }),
    ("what was appended is there for the next handle", |f| {
        Box::pin(reopening(f))
    }),
    ("payloads come back byte for byte", |f| Box::pin(payloads(f))),
];

const ALL: ReadLimits = ReadLimits {
    events: u64::MAX,
    bytes: u64::MAX,
};
const HOUR: i64 = 3_600_000_000_000;

fn name(text: &str) -> CollectionName {
    text.parse().expect("a valid collection name")
}

fn event(text: impl Into<Vec<u8>>) -> NewEvent {
    NewEvent {
        payload: Bytes::from(text.into()),
    }
}

async fn append(bus: &dyn Bus, collection: &str, texts: &[&str]) -> crate::Appended {
    let events = texts.iter().map(|text| event(*text)).collect();
    bus.append(&name(collection), events).await.expect("appended")
}

async fn read(bus: &dyn Bus, collection: &str, after: u64) -> Vec<BusEvent> {
    bus.read(&name(collection), after, ALL).await.expect("read")
}

fn texts(events: &[BusEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| String::from_utf8_lossy(&event.payload).into_owned())
        .collect()
}

#[track_caller]
fn check_order(events: &[BusEvent], first: u64) {
    for (expected, event) in (first..).zip(events) {
        assert_eq!(event.sequence, expected, "sequences have no gaps");
    }
    for pair in events.windows(2) {
        assert!(
            pair[0].accepted_at_ns < pair[1].accepted_at_ns,
            "accept times increase: {pair:?}"
        );
    }
}

async fn reading(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let appended = append(&*bus, "c", &["a", "b"]).await;
    assert_eq!((appended.first, appended.last), (1, 2));
    let appended = append(&*bus, "c", &["c"]).await;
    assert_eq!((appended.first, appended.last), (3, 3));
    for (after, expect) in [
        (0, vec!["a", "b", "c"]),
        (1, vec!["b", "c"]),
        (2, vec!["c"]),
        (3, vec![]),
        (99, vec![]),
    ] {
        let events = read(&*bus, "c", after).await;
        assert_eq!(texts(&events), expect, "after {after}");
        check_order(&events, after + 1);
    }
    assert_eq!(read(&*bus, "c", 2).await[0].accepted_at_ns, appended.accepted_at_ns);
    assert!(read(&*bus, "c", u64::MAX).await.is_empty());
}

async fn limits(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    append(&*bus, "c", &["aaaa", "bb", "cc", "d"]).await;
    for (events, bytes, expect) in [
        (2, 99, 2),
        (9, 6, 2),
        (9, 7, 2),
        (9, 8, 3),
        (9, 0, 1),
        (0, 0, 1),
        (9, 1, 1),
    ] {
        let limits = ReadLimits { events, bytes };
        let read = bus.read(&name("c"), 0, limits).await.expect("read");
        assert_eq!(read.len(), expect, "{limits:?}");
    }
}

async fn concurrency(fixture: &dyn Fixture) {
    let handles = [fixture.handle().await, fixture.handle().await];
    let appends = (0..200u64).map(|n| {
        let bus = handles[n as usize % 2].clone();
        async move {
            let events = (0..=n % 3).map(|part| event(format!("{n}.{part}"))).collect::<Vec<_>>();
            let appended = bus.append(&name("c"), events.clone()).await.expect("appended");
            (appended, events)
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    appends.for_each(|append| drop(tasks.spawn(append)));
    let done = tasks.join_all().await;
    let events = read(&*handles[0], "c", 0).await;
    check_order(&events, 1);
    assert_eq!(events.len(), done.iter().map(|(_, events)| events.len()).sum::<usize>());
    for (appended, sent) in done {
        let range = appended.first as usize - 1..appended.last as usize;
        let found: Vec<_> = events[range].iter().map(|event| &event.payload).collect();
        assert_eq!(
            found,
            sent.iter().map(|event| &event.payload).collect::<Vec<_>>(),
            "an append stays together"
        );
    }
}

async fn accept_times(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let mut last = i64::MIN;
    for now in [HOUR, HOUR, HOUR - 5, 0, -HOUR, 2 * HOUR, HOUR] {
        fixture.set_clock(now);
        let appended = append(&*bus, "c", &["x", "y", "z"]).await;
        let events = read(&*bus, "c", appended.first - 1).await;
        check_order(&events, appended.first);
        assert!(events[0].accepted_at_ns > last, "{now}: later than what came before");
        assert!(events[0].accepted_at_ns >= now, "{now}: not before the clock");
        assert_eq!(events[2].accepted_at_ns, appended.accepted_at_ns);
        last = appended.accepted_at_ns;
    }
    let expect = [HOUR, HOUR + 3, HOUR + 6, HOUR + 9, HOUR + 12, 2 * HOUR, 2 * HOUR + 3];
    let events = read(&*bus, "c", 0).await;
    let found: Vec<_> = events.iter().step_by(3).map(|event| event.accepted_at_ns).collect();
    assert_eq!(
        found, expect,
        "one nanosecond after the last where the clock stands or goes back"
    );
    let other = append(&*fixture.handle().await, "c", &["w"]).await;
    assert!(
        other.accepted_at_ns > last,
        "another process goes on from the last accept time too"
    );
}

async fn append_limits(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    let small = || event("x");
    let large = event(vec![b'x'; PAYLOAD_BYTES_MAX + 1]);
    let error = bus.append(&c, vec![small(), large]).await.expect_err("too large");
    assert!(matches!(error, BusError::PayloadTooLarge { index: 1, .. }), "{error}");
    let error = bus
        .append(&c, vec![small(); APPEND_EVENTS_MAX + 1])
        .await
        .expect_err("too many");
    assert!(matches!(error, BusError::TooManyEvents { .. }), "{error}");
    let largest = event(vec![b'x'; PAYLOAD_BYTES_MAX]);
    let error = bus
        .append(&c, vec![largest.clone(); APPEND_BYTES_MAX / PAYLOAD_BYTES_MAX + 1])
        .await;
    assert!(matches!(error, Err(BusError::AppendTooLarge { .. })), "{error:?}");
    assert!(matches!(
        bus.append(&c, vec![]).await,
        Err(BusError::NothingToAppend(_))
    ));
    assert!(
        bus.collections().await.expect("listed").is_empty(),
        "a refused append leaves nothing"
    );
    assert_eq!(
        bus.append(&c, vec![largest, small()])
            .await
            .expect("within the limits")
            .last,
        2
    );
}

async fn isolation(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    append(&*bus, "b", &["b1"]).await;
    append(&*bus, "a", &["a1", "a2"]).await;
    append(&*bus, "b", &["b2"]).await;
    assert_eq!(texts(&read(&*bus, "a", 0).await), ["a1", "a2"]);
    assert_eq!(texts(&read(&*bus, "b", 0).await), ["b1", "b2"]);
    check_order(&read(&*bus, "b", 0).await, 1);
    assert_eq!(bus.collections().await.expect("listed"), [name("a"), name("b")]);
}

async fn opening(fixture: &dyn Fixture) {
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    assert!(read(&*bus, "c", 0).await.is_empty());
    assert!(matches!(bus.state(&c).await, Err(BusError::UnknownCollection(_))));
    assert_eq!(bus.oldest_after(&c, 0).await.expect("asked"), None);
    assert_eq!(bus.digest_at(&c, 1).await.expect("asked"), None);
    assert!(
        bus.collections().await.expect("listed").is_empty(),
        "reading makes no stream"
    );
    let identity = bus.open(&c).await.expect("opened");
    assert_eq!(bus.open(&c).await.expect("opened again"), identity);
    assert_eq!(other.open(&c).await.expect("opened elsewhere"), identity);
    let state = bus.state(&c).await.expect("there");
    assert_eq!(
        (state.identity, state.first_kept, state.last, state.bytes),
        (identity, 1, 0, 0)
    );
    assert_eq!(append(&*other, "c", &["a"]).await.stream, identity);
}

async fn waiting(fixture: &dyn Fixture) {
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    for (after, from) in [(0, &bus), (1, &other), (2, &bus)] {
        let (waiter, appended) = tokio::join!(bus.wait(&c, after), append(&**from, "c", &["x"]));
        waiter.expect("woken");
        assert_eq!(appended.last, after + 1);
    }
    bus.wait(&c, 0).await.expect("already there");
    // A waiter of one collection sleeps through what another gets.
    let mut idle = std::pin::pin!(bus.wait(&c, 3));
    append(&*bus, "d", &["x"]).await;
    bus.wait(&name("d"), 0).await.expect("woken");
    let still = std::future::poll_fn(|task| std::task::Poll::Ready(idle.as_mut().poll(task).is_pending())).await;
    assert!(still);
    append(&*other, "c", &["y"]).await;
    idle.await.expect("woken at last");
}

async fn dropped_waiter(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    for n in 0..20 {
        tokio::select! {
            biased;
            _ = bus.wait(&c, n) => unreachable!("there is no event {n} yet"),
            () = tokio::task::yield_now() => {}
        }
        append(&*bus, "c", &["x"]).await;
        bus.wait(&c, n).await.expect("woken");
    }
    assert_eq!(read(&*bus, "c", 0).await.len(), 20);
}

async fn retention(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    for hour in 1..=5 {
        fixture.set_clock(hour * HOUR);
        append(&*bus, "c", &["12345"; 2]).await;
    }
    let keep = Retention {
        age_ns: i64::MAX,
        bytes: u64::MAX,
        never_past: u64::MAX,
    };
    assert_eq!(bus.retain(&c, keep, 100 * HOUR).await.expect("retained"), 0);
    let old = Retention {
        age_ns: 3 * HOUR,
        ..keep
    };
    assert_eq!(
        bus.retain(&c, old, 5 * HOUR).await.expect("retained"),
        2,
        "those of the first hour"
    );
    let state = bus.state(&c).await.expect("there");
    assert_eq!((state.first_kept, state.last, state.bytes), (3, 10, 40));
    let small = Retention { bytes: 24, ..keep };
    assert_eq!(
        bus.retain(&c, small, 5 * HOUR).await.expect("retained"),
        4,
        "until 24 bytes hold the rest"
    );
    let state = bus.state(&c).await.expect("there");
    assert_eq!((state.first_kept, state.last, state.bytes), (7, 10, 20));
    check_order(&read(&*bus, "c", 6).await, 7);
    assert_eq!(bus.retain(&c, small, 5 * HOUR).await.expect("retained"), 0);
    let oldest = bus.oldest_after(&c, 6).await.expect("asked");
    assert_eq!(oldest, Some(4 * HOUR));
    assert_eq!(bus.oldest_after(&c, 8).await.expect("asked"), Some(5 * HOUR));
    assert_eq!(bus.oldest_after(&c, 10).await.expect("asked"), None);
}

async fn retention_and_checkpoint(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    append(&*bus, "c", &["1", "2", "3", "4", "5"]).await;
    let digest = bus.digest_at(&c, 3).await.expect("asked");
    let all_but = |never_past| Retention {
        age_ns: 0,
        bytes: 0,
        never_past,
    };
    assert_eq!(bus.retain(&c, all_but(0), 9 * HOUR).await.expect("retained"), 0);
    assert_eq!(bus.retain(&c, all_but(3), 9 * HOUR).await.expect("retained"), 2);
    assert_eq!(texts(&read(&*bus, "c", 2).await), ["3", "4", "5"]);
    assert_eq!(
        bus.digest_at(&c, 3).await.expect("asked"),
        digest,
        "a checkpoint there can still be compared"
    );
}

async fn trimmed(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    append(&*bus, "c", &["1", "2", "3"]).await;
    bus.retain(
        &c,
        Retention {
            age_ns: 0,
            bytes: 0,
            never_past: 3,
        },
        9 * HOUR,
    )
    .await
    .expect("retained");
    for after in [0, 1] {
        let error = bus.read(&c, after, ALL).await.expect_err("events are gone");
        assert!(
            matches!(error, BusError::Trimmed { first_kept: 3, after: at, .. } if at == after),
            "{error}"
        );
    }
    assert_eq!(texts(&read(&*bus, "c", 2).await), ["3"]);
}

async fn empty_after_retention(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    append(&*bus, "c", &["1", "2"]).await;
    let none = Retention {
        age_ns: 0,
        bytes: 0,
        never_past: u64::MAX,
    };
    assert_eq!(bus.retain(&c, none, 9 * HOUR).await.expect("retained"), 2);
    let state = bus.state(&c).await.expect("there");
    assert_eq!((state.first_kept, state.last, state.bytes), (3, 2, 0));
    assert!(read(&*bus, "c", 2).await.is_empty());
    fixture.set_clock(0);
    let appended = append(&*bus, "c", &["3"]).await;
    assert_eq!(appended.first, 3);
    assert!(appended.accepted_at_ns > HOUR, "accept times go on too");
}

async fn forgetting(fixture: &dyn Fixture) {
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    let before = append(&*bus, "c", &["old"; 3]).await;
    append(&*bus, "d", &["kept"]).await;
    bus.forget(&c).await.expect("forgotten");
    bus.forget(&c).await.expect("forgotten twice");
    assert!(matches!(other.state(&c).await, Err(BusError::UnknownCollection(_))));
    assert!(read(&*other, "c", 0).await.is_empty());
    let after = append(&*other, "c", &["new"]).await;
    assert_ne!(after.stream, before.stream);
    assert_eq!((after.first, after.last), (1, 1));
    assert_eq!(texts(&read(&*bus, "c", 0).await), ["new"]);
    assert_eq!(texts(&read(&*bus, "d", 0).await), ["kept"]);
}

async fn checkpoints(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    let stream = bus.open(&c).await.expect("opened");
    let genesis = Checkpoint {
        stream,
        sequence: 0,
        digest: None,
    };
    let fits = async |checkpoint: &Checkpoint| {
        let facts = facts(&*bus, &c, checkpoint.sequence).await.expect("asked");
        check_checkpoint(checkpoint, &facts).map_err(|mismatch| mismatch.reason())
    };
    assert_eq!(fits(&genesis).await, Ok(()));
    append(&*bus, "c", &["1", "2", "3"]).await;
    let event = read(&*bus, "c", 1).await.remove(0);
    let second = Checkpoint {
        stream,
        sequence: 2,
        digest: Some(event.digest()),
    };
    assert_eq!(
        fits(&second).await,
        Ok(()),
        "the digest of what was read is that of what is there"
    );
    let later = BusEvent {
        accepted_at_ns: event.accepted_at_ns + 1,
        ..event.clone()
    };
    assert_eq!(
        fits(&Checkpoint {
            digest: Some(later.digest()),
            ..second
        })
        .await,
        Err("STREAM_REGROWN")
    );
    let other = BusEvent {
        payload: Bytes::from_static(b"other"),
        ..event.clone()
    };
    assert_eq!(
        fits(&Checkpoint {
            digest: Some(other.digest()),
            ..second
        })
        .await,
        Err("STREAM_REGROWN")
    );
    let beyond = Checkpoint { sequence: 4, ..second };
    assert_eq!(fits(&beyond).await, Err("STREAM_TRUNCATED"));
    bus.forget(&c).await.expect("forgotten");
    append(&*bus, "c", &["1", "2", "3"]).await;
    assert_eq!(fits(&second).await, Err("STREAM_RECREATED"));
}

async fn reopening(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let appended = append(&*bus, "c", &["1", "2"]).await;
    drop(bus);
    let bus = fixture.handle().await;
    let events = read(&*bus, "c", 0).await;
    assert_eq!(texts(&events), ["1", "2"]);
    assert_eq!(events[1].accepted_at_ns, appended.accepted_at_ns);
    let more = append(&*bus, "c", &["3"]).await;
    assert_eq!((more.stream, more.first), (appended.stream, 3));
}

async fn payloads(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let odd: [Vec<u8>; 5] = [
        vec![],
        vec![0],
        vec![0xff, 0xfe, 0],
        "ü\n{}".into(),
        (0..=255).cycle().take(70_000).collect(),
    ];
    let events = odd.iter().map(|bytes| event(bytes.clone())).collect();
    bus.append(&name("c"), events).await.expect("appended");
    let found: Vec<_> = read(&*bus, "c", 0)
        .await
        .into_iter()
        .map(|event| event.payload.to_vec())
        .collect();
    assert_eq!(found, odd);
}
