//! From event to searchable at a steady 100 events a second: one client streams, another sees what is served.
//!
//! Open loop: an event's time begins when it was due, not when the stream took it, so that a server that falls behind
//! cannot hide it. It ends when the reader first sees a served release that holds the event's position.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio_stream::StreamExt;
use verdigris_proto::ingest::IngestRequest;
use verdigris_proto::search::GetServingStatsRequest;

use crate::client::Client;
use crate::{at, sorted};

const EVENTS_PER_SECOND: usize = 100;
/// How often the reader looks: the error of each time.
const LOOK: Duration = Duration::from_millis(5);
/// How long the last events may take.
const END_MAX: Duration = Duration::from_secs(60);
const P99_MAX_MS: f64 = 2_000.0;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Patch,
    Title,
    Delete,
}

/// 80 patches of price or stock, 15 upserts with another title, 5 deletes in a hundred, evenly mixed.
fn kind(n: usize) -> Kind {
    match n * 37 % 100 {
        0..80 => Kind::Patch,
        80..95 => Kind::Title,
        _ => Kind::Delete,
    }
}

pub(crate) async fn run(server: &str, collection: &str, products: &Path, seconds: usize) -> anyhow::Result<()> {
    let file = std::fs::read_to_string(products).with_context(|| format!("{} cannot be read", products.display()))?;
    let documents: Result<Vec<Map<String, Value>>, _> = file.lines().map(serde_json::from_str).collect();
    let events = events(&documents?, EVENTS_PER_SECOND * seconds)?;
    let count = events.len();
    let (writer, reader) = (
        Client::connect(server, collection).await?,
        Client::connect(server, collection).await?,
    );
    let generation = reader.manifest(0).await?.generation;
    let start = Instant::now() + Duration::from_millis(100);
    let due = move |n: usize| start + Duration::from_secs(1) * n as u32 / EVENTS_PER_SECOND as u32;
    let name = collection.to_owned();
    // The stream asks for its next event when it may send, and each is held back until it is due.
    let stream = tokio_stream::iter(events.into_iter().enumerate()).then(move |(n, event)| {
        let request = IngestRequest {
            collection: name.clone(),
            events: vec![event],
        };
        async move {
            tokio::time::sleep_until(due(n).into()).await;
            request
        }
    });
    let mut service = writer.ingest();
    let sending = tokio::spawn(async move { service.ingest_stream(stream).await });
    let looks = tokio::spawn(watch(reader.clone(), due(count) + END_MAX));
    let answer = sending.await??.into_inner();
    anyhow::ensure!(
        answer.accepted == count as u64,
        "{} of {count} events were accepted",
        answer.accepted
    );
    let first = sequence(&answer.first_position)?;
    reader.wait(&answer.last_position).await?;
    tokio::time::sleep(LOOK * 20).await;
    looks.abort();
    let looks = match looks.await {
        Err(ended) if ended.is_cancelled() => SEEN.with_borrow_mut(std::mem::take),
        ended => return ended?.and_then(|()| anyhow::bail!("the reader ended by itself")),
    };
    let manifest = reader.manifest(0).await?;
    report(&looks, first, count, &due, manifest.generation - generation)
}

thread_local! {
    /// What the reader saw: when, and up to which event. The runtime has one thread.
    static SEEN: std::cell::RefCell<VecDeque<(Instant, u64)>> = const { std::cell::RefCell::new(VecDeque::new()) };
}

async fn watch(reader: Client, until: Instant) -> anyhow::Result<()> {
    let mut service = reader.search();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while Instant::now() < until {
        tick.tick().await;
        let request = GetServingStatsRequest {
            collection: reader.collection.clone(),
            ..GetServingStatsRequest::default()
        };
        let release = service
            .get_serving_stats(request)
            .await?
            .into_inner()
            .release
            .unwrap_or_default();
        let held = sequence(&release.position)?;
        SEEN.with_borrow_mut(|seen| {
            if seen.back().is_none_or(|(_, before)| held > *before) {
                seen.push_back((Instant::now(), held));
            }
        });
    }
    Ok(())
}

/// A position ends with the sequence of its event.
fn sequence(position: &str) -> anyhow::Result<u64> {
    let text = position.rsplit('-').next().unwrap_or_default();
    text.parse().with_context(|| format!("position {position:?}"))
}

fn report(
    looks: &VecDeque<(Instant, u64)>,
    first: u64,
    count: usize,
    due: &dyn Fn(usize) -> Instant,
    releases: u64,
) -> anyhow::Result<()> {
    let mut looks = looks.iter().peekable();
    let mut times: Vec<(Kind, f64)> = Vec::with_capacity(count);
    for n in 0..count {
        while looks.next_if(|(_, held)| *held < first + n as u64).is_some() {}
        let (seen, _) = looks.peek().with_context(|| format!("event {n} was never seen"))?;
        times.push((kind(n), (*seen - due(n)).as_secs_f64() * 1e3));
    }
    println!("{count} events, {EVENTS_PER_SECOND} a second, {releases} releases; milliseconds from due to searchable");
    println!(
        "{:8} {:>7} {:>9} {:>9} {:>9}",
        "", "events", "p50 ms", "p99 ms", "worst ms"
    );
    let mut line = Map::new();
    let mut p99 = f64::NAN;
    for (name, kind) in [
        ("patch", Some(Kind::Patch)),
        ("title", Some(Kind::Title)),
        ("delete", Some(Kind::Delete)),
        ("all", None),
    ] {
        let of_kind = times.iter().filter(|(of, _)| kind.is_none_or(|kind| kind == *of));
        let of_kind = sorted(of_kind.map(|(_, time)| *time).collect());
        p99 = at(&of_kind, 0.99);
        println!(
            "{name:8} {:>7} {:>9.0} {p99:>9.0} {:>9.0}",
            of_kind.len(),
            at(&of_kind, 0.5),
            at(&of_kind, 1.0)
        );
        line.insert(
            name.to_owned(),
            json!({"p50_ms": at(&of_kind, 0.5), "p99_ms": p99, "worst_ms": at(&of_kind, 1.0)}),
        );
    }
    println!(
        "mark: p99 at most 2 s: {:.2} s {}",
        p99 / 1e3,
        if p99 <= P99_MAX_MS { "met" } else { "MISSED" }
    );
    println!("{}", Value::Object(line));
    Ok(())
}

/// Events of the mix over real documents; deleted ones are never touched again.
fn events(documents: &[Map<String, Value>], count: usize) -> anyhow::Result<Vec<Bytes>> {
    let deletes = (0..count).filter(|n| kind(*n) == Kind::Delete).count();
    anyhow::ensure!(
        documents.len() > 2 * deletes,
        "{} documents are too few",
        documents.len()
    );
    let (doomed, kept) = documents.split_at(deletes);
    let mut doomed = doomed.iter();
    let mut events = Vec::with_capacity(count);
    for n in 0..count {
        let document = &kept[n * 7 % kept.len()];
        let id = |document: &Map<String, Value>| document.get("id").cloned().context("a document without an id");
        let event = |kind: &str, id: Value, data: Value| {
            let kind = format!("dev.verdigris.document.{kind}.v1");
            json!({"specversion": "1.0", "id": format!("bench-{n}"), "source": "/bench", "type": kind, "subject": id, "data": data})
        };
        let event = match kind(n) {
            Kind::Patch if n % 2 == 0 => event("patch", id(document)?, json!({"price": 10 + n % 500})),
            Kind::Patch => event("patch", id(document)?, json!({"stock": n % 90})),
            Kind::Title => {
                let mut document = document.clone();
                let title = document.get("title").and_then(Value::as_str).unwrap_or_default();
                let title = format!("{title} edition {n}");
                document.insert("title".to_owned(), title.into());
                Value::Object(document)
            }
            Kind::Delete => {
                let document = doomed.next().context("as many as there are deletes")?;
                let mut event = event("delete", id(document)?, Value::Null);
                event.as_object_mut().map(|event| event.remove("data"));
                event
            }
        };
        events.push(Bytes::from(event.to_string()));
    }
    Ok(events)
}
