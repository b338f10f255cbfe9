//! What every bus must do, as a list of cases to run against it. Faults, crashes and file formats are each bus's own
//! tests; here is what a reader or an appender may rely on.

mod keeping;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// Sets the clock that accept times come from; false where the bus has one of its own.
    fn set_clock(&self, now_ns: i64) -> bool;
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
    ("an append stays together among concurrent ones of two handles", |f| {
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
    (
        "what comes between the events of a collection is not taken for lost",
        |f| Box::pin(interleaving(f)),
    ),
    ("a stream is made by opening it, once, and not by reading", |f| {
        Box::pin(opening(f))
    }),
    ("a waiter is woken by an append of its own handle and of another", |f| {
        Box::pin(waiting(f))
    }),
    ("a reader that follows misses nothing that comes while it reads", |f| {
        Box::pin(following(f))
    }),
    ("a dropped waiter takes nothing with it", |f| {
        Box::pin(dropped_waiter(f))
    }),
    ("retention by age and bytes removes the oldest alone", |f| {
        Box::pin(keeping::retention(f))
    }),
    ("retention never passes a checkpoint and keeps the event there", |f| {
        Box::pin(keeping::retention_and_checkpoint(f))
    }),
    ("a reader behind what is kept is told so", |f| {
        Box::pin(keeping::trimmed(f))
    }),
    ("numbers go on after all events were removed", |f| {
        Box::pin(keeping::empty_after_retention(f))
    }),
    ("a forgotten collection comes back as another stream", |f| {
        Box::pin(keeping::forgetting(f))
    }),
    ("a checkpoint fits its stream and no other", |f| {
        Box::pin(keeping::checkpoints(f))
    }),
    ("a checkpoint that retention has passed does not fit", |f| {
        Box::pin(keeping::checkpoint_passed_over(f))
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
/// After which something is said never to come.
const PATIENCE: Duration = Duration::from_secs(30);
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
fn check_order(events: &[BusEvent], after: u64) {
    for pair in events.windows(2) {
        assert!(pair[0].sequence < pair[1].sequence, "sequences increase: {pair:?}");
        assert!(
            pair[0].accepted_at_ns < pair[1].accepted_at_ns,
            "accept times increase: {pair:?}"
        );
    }
    assert!(events.first().is_none_or(|event| event.sequence > after));
}

/// Appends and says where the events are.
async fn placed(bus: &dyn Bus, collection: &str, texts: &[&str]) -> Vec<u64> {
    let appended = append(bus, collection, texts).await;
    let events = read(bus, collection, appended.first - 1).await;
    let places: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(
        (places.len(), places.first(), places.last()),
        (texts.len(), Some(&appended.first), Some(&appended.last))
    );
    places
}

/// Everything may go but what a checkpoint needs.
fn all_but(never_past: u64) -> Retention {
    Retention {
        age_ns: 0,
        bytes: 0,
        never_past,
    }
}

async fn reading(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let mut at = placed(&*bus, "c", &["a", "b"]).await;
    let appended = append(&*bus, "c", &["c"]).await;
    assert_eq!(appended.first, appended.last);
    at.push(appended.last);
    for (after, expect) in [
        (0, vec!["a", "b", "c"]),
        (at[0], vec!["b", "c"]),
        (at[1], vec!["c"]),
        (at[2], vec![]),
        (at[2] + 99, vec![]),
    ] {
        let events = read(&*bus, "c", after).await;
        assert_eq!(texts(&events), expect, "after {after}");
        check_order(&events, after);
        let unread = bus.unread(&name("c"), after).await.expect("counted");
        assert_eq!(unread, expect.len() as u64, "after {after}");
    }
    let last = read(&*bus, "c", at[1]).await.remove(0);
    assert!(appended.accepted_at_ns.is_none_or(|at| at == last.accepted_at_ns));
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
    let one = ReadLimits { events: 1, ..ALL };
    let (mut after, mut all) = (0, Vec::new());
    while let Some(event) = bus.read(&name("c"), after, one).await.expect("read").pop() {
        after = event.sequence;
        all.push(event);
    }
    assert_eq!(texts(&all), ["aaaa", "bb", "cc", "d"], "one after the other");
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
    check_order(&events, 0);
    assert_eq!(events.len(), done.iter().map(|(_, events)| events.len()).sum::<usize>());
    for (appended, sent) in done {
        let is_in = |event: &&BusEvent| (appended.first..=appended.last).contains(&event.sequence);
        let found: Vec<_> = events.iter().filter(is_in).map(|event| &event.payload).collect();
        assert_eq!(
            found,
            sent.iter().map(|event| &event.payload).collect::<Vec<_>>(),
            "an append stays together"
        );
    }
}

async fn accept_times(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    if !fixture.set_clock(HOUR) {
        for _ in 0..50 {
            append(&*bus, "c", &["x", "y", "z"]).await;
        }
        check_order(&read(&*bus, "c", 0).await, 0);
        return;
    }
    let mut last = i64::MIN;
    for now in [HOUR, HOUR, HOUR - 5, 0, -HOUR, 2 * HOUR, HOUR] {
        fixture.set_clock(now);
        let appended = append(&*bus, "c", &["x", "y", "z"]).await;
        let events = read(&*bus, "c", appended.first - 1).await;
        check_order(&events, appended.first - 1);
        assert!(events[0].accepted_at_ns > last, "{now}: later than what came before");
        assert!(events[0].accepted_at_ns >= now, "{now}: not before the clock");
        last = events[2].accepted_at_ns;
        assert_eq!(appended.accepted_at_ns, Some(last));
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
        other.accepted_at_ns > Some(last),
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
    bus.append(&c, vec![largest, small()]).await.expect("within the limits");
    let sizes: Vec<_> = read(&*bus, "c", 0)
        .await
        .iter()
        .map(|event| event.payload.len())
        .collect();
    assert_eq!(sizes, [PAYLOAD_BYTES_MAX, 1]);
    bus.append(&c, vec![small(); APPEND_EVENTS_MAX])
        .await
        .expect("within the limits");
    assert_eq!(bus.unread(&c, 0).await.expect("counted"), APPEND_EVENTS_MAX as u64 + 2);
}

async fn isolation(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    append(&*bus, "b", &["b1"]).await;
    append(&*bus, "a", &["a1", "a2"]).await;
    append(&*bus, "b", &["b2"]).await;
    assert_eq!(texts(&read(&*bus, "a", 0).await), ["a1", "a2"]);
    assert_eq!(texts(&read(&*bus, "b", 0).await), ["b1", "b2"]);
    check_order(&read(&*bus, "b", 0).await, 0);
    assert_eq!(bus.collections().await.expect("listed"), [name("a"), name("b")]);
    let identities = [bus.open(&name("a")).await, bus.open(&name("b")).await].map(|identity| identity.expect("open"));
    assert_ne!(identities[0], identities[1], "a position in one is none in the other");
}

/// Goal: a gap that other collections' events make is none. Method: each place in both logs is read on from, compared as
/// a checkpoint, and counted from, while retention removes the other collection's events around it.
async fn interleaving(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for n in 0..10 {
        a.extend(placed(&*bus, "a", &[&format!("a{n}")]).await);
        b.extend(placed(&*bus, "b", &[&format!("b{n}"), "x"]).await);
    }
    bus.retain(&name("b"), all_but(b[9]), i64::MAX).await.expect("retained");
    let stream = bus.open(&name("a")).await.expect("opened");
    for (n, after) in std::iter::once(0).chain(a).enumerate() {
        let events = read(&*bus, "a", after).await;
        let expect: Vec<_> = (n..10).map(|n| format!("a{n}")).collect();
        assert_eq!(texts(&events), expect, "after {after}");
        let facts = facts(&*bus, &name("a"), after).await.expect("asked");
        let checkpoint = Checkpoint {
            stream,
            sequence: after,
            digest: facts.digest_at_checkpoint,
        };
        assert_eq!(facts.digest_at_checkpoint.is_some(), n > 0);
        assert_eq!(check_checkpoint(&checkpoint, &facts), Ok(()));
        assert_eq!(bus.unread(&name("a"), after).await.expect("counted"), 10 - n as u64);
    }
    let error = bus.read(&name("b"), b[3], ALL).await.expect_err("events are gone");
    assert!(matches!(error, BusError::Trimmed { .. }), "{error}");
    assert_eq!(read(&*bus, "b", b[9]).await.len(), 10);
}

async fn opening(fixture: &dyn Fixture) {
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    assert!(read(&*bus, "c", 0).await.is_empty());
    assert!(matches!(bus.state(&c).await, Err(BusError::UnknownCollection(_))));
    assert_eq!(bus.oldest_after(&c, 0).await.expect("asked"), None);
    assert_eq!(bus.unread(&c, 0).await.expect("asked"), 0);
    assert_eq!(bus.digest_at(&c, 1).await.expect("asked"), None);
    assert!(
        bus.collections().await.expect("listed").is_empty(),
        "reading makes no stream"
    );
    let identity = bus.open(&c).await.expect("opened");
    assert_eq!(bus.open(&c).await.expect("opened again"), identity);
    assert_eq!(other.open(&c).await.expect("opened elsewhere"), identity);
    let state = bus.state(&c).await.expect("there");
    assert_eq!((state.identity, state.first_kept, state.last), (identity, 1, 0));
    assert_eq!(state.bytes.unwrap_or(0), 0);
    assert_eq!(append(&*other, "c", &["a"]).await.stream, identity);
}

async fn waiting(fixture: &dyn Fixture) {
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    let mut after = 0;
    for from in [&bus, &other, &bus] {
        let (waiter, appended) = tokio::join!(bus.wait(&c, after), append(&**from, "c", &["x"]));
        waiter.expect("woken");
        assert!(appended.last > after);
        after = appended.last;
    }
    bus.wait(&c, 0).await.expect("already there");
    // A waiter of one collection sleeps through what another gets.
    let mut idle = std::pin::pin!(bus.wait(&c, after));
    append(&*bus, "d", &["x"]).await;
    bus.wait(&name("d"), 0).await.expect("woken");
    let still = std::future::poll_fn(|task| std::task::Poll::Ready(idle.as_mut().poll(task).is_pending())).await;
    assert!(still);
    append(&*other, "c", &["y"]).await;
    idle.await.expect("woken at last");
}

/// Two events at a time, the second from none to 400 us after the first, and nothing else until both were read.
async fn following(fixture: &dyn Fixture) {
    const PAIRS: u64 = 200;
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    let (seen, mut watched) = tokio::sync::watch::channel(0);
    let reader = async {
        let (mut after, mut count) = (0, 0);
        while count < 2 * PAIRS {
            bus.wait(&c, after).await.expect("woken");
            let events = read(&*bus, "c", after).await;
            check_order(&events, after);
            after = events.last().map_or(after, |event| event.sequence);
            count += events.len() as u64;
            seen.send_replace(count);
        }
    };
    let writer = async {
        for pair in 0..PAIRS {
            append(&*other, "c", &["x"]).await;
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(10 * (pair % 41)) {
                tokio::task::yield_now().await;
            }
            append(&*other, "c", &["y"]).await;
            let both = watched.wait_for(|seen| *seen == 2 * pair + 2);
            let both = tokio::time::timeout(PATIENCE, both).await;
            both.expect("each event is read without another after it")
                .expect("the reader is there");
        }
    };
    tokio::join!(reader, writer);
}

async fn dropped_waiter(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    let mut after = 0;
    for _ in 0..20 {
        tokio::select! {
            biased;
            _ = bus.wait(&c, after) => unreachable!("there is no event after {after} yet"),
            () = tokio::task::yield_now() => {}
        }
        let appended = append(&*bus, "c", &["x"]).await;
        bus.wait(&c, after).await.expect("woken");
        after = appended.last;
    }
    assert_eq!(read(&*bus, "c", 0).await.len(), 20);
}

async fn reopening(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let appended = append(&*bus, "c", &["1", "2"]).await;
    let before = read(&*bus, "c", 0).await;
    drop(bus);
    let bus = fixture.handle().await;
    let events = read(&*bus, "c", 0).await;
    assert_eq!(texts(&events), ["1", "2"]);
    assert_eq!(events, before);
    let more = append(&*bus, "c", &["3"]).await;
    assert_eq!(more.stream, appended.stream);
    assert!(more.first > appended.last);
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
