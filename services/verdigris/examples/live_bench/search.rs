//! Searches over gRPC: by vector next to the same release opened in this process, and by text end to end.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use verdigris_core::manifest::Manifest;
use verdigris_core::settings::Weights;
use verdigris_engine::filter::FilterCache;
use verdigris_engine::release::Release;
use verdigris_engine::release::search::{Mode, Query};
use verdigris_engine::segment::{SegmentCache, SegmentPaths};
use verdigris_proto::search::{BatchSearchRequest, GetServingStatsRequest, SearchMode, SearchRequest};

use crate::client::{Client, given_vectors, with_vector};
use crate::process::Up;
use crate::{at, sorted};

const D: usize = 384;
const TOP_K: u32 = 10;
const ROUNDS: usize = 7;
/// Requests that the one client thread keeps under way where throughput is measured, few and many.
const IN_FLIGHT: [usize; 2] = [4, 16];
/// Searches of one call where they are sent together.
const BATCH: usize = 16;
/// Text queries: each once, so that no vector comes from the cache of queries.
const TEXT_QUERIES_MAX: usize = 1_000;
/// Candidates that reach recall@10 of .99 on the sets of `search_bench`.
const EF_SEARCH: [(&str, u32); 2] = [("products", 48), ("made", 56)];

/// Raw float32 of a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let whole = bytes.chunks_exact(4);
    Ok(whole.map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect())
}

/// A server on the set's data folder, which is filled first where it is not there.
pub(crate) async fn filled(up: &Path, folder: &Path, set: &str) -> anyhow::Result<(Up, Client)> {
    let data = folder.join(format!("{set}-data"));
    let whole = folder.join(format!("{set}-data.whole"));
    if whole.exists() {
        let server = Up::start(up, &data)?;
        let client = Client::connect(&server.url, set).await?;
        return Ok((server, client));
    }
    // What an earlier run left half done; usually there is none.
    let _ = std::fs::remove_dir_all(&data);
    std::fs::create_dir_all(&data)?;
    let server = Up::start(up, &data)?;
    let client = Client::connect(&server.url, set).await?;
    client.create(&given_vectors(D)).await?;
    let base = read(&folder.join(format!("{set}.base.f32")))?;
    let began = Instant::now();
    client
        .load(
            base.chunks_exact(D)
                .enumerate()
                .map(|(id, vector)| with_vector(id, vector)),
        )
        .await?;
    let manifest = client.settle().await?;
    println!(
        "{set}: {} documents ingested and merged in {:.0} s, {} segments",
        manifest.documents,
        began.elapsed().as_secs_f64(),
        manifest.segments.len()
    );
    std::fs::write(whole, b"")?;
    Ok((server, client))
}

/// The same search in process and over gRPC, in turn, one thread on each side.
pub(crate) async fn vectors(up: &Path, folder: &Path, set: &str) -> anyhow::Result<()> {
    let (mut server, client) = filled(up, folder, set).await?;
    let stock = Client::stock(&server.url, set).await?;
    let near = Client::connect(&server.socket, set).await?;
    let release = open(&folder.join(format!("{set}-data/store")), client.manifest(0).await?)?;
    let queries = read(&folder.join(format!("{set}.query.f32")))?;
    let ef_search = ef_search(set);
    let filters = FilterCache::new(1 << 20);
    let mut paths: [(&str, Vec<Vec<f64>>); PATHS.len()] = PATHS.map(|name| (name, Vec::new()));
    let mut by_rate = Vec::new();
    for round in 0..=ROUNDS {
        let alone = in_process(&release, &filters, &queries, ef_search, Fetch::Nothing)?;
        let ids = in_process(&release, &filters, &queries, ef_search, Fetch::Ids)?;
        let documents = in_process(&release, &filters, &queries, ef_search, Fetch::Documents)?;
        let empty = empty_calls(&client, queries.len() / D).await?;
        let [grpc, searched, handled] = over_grpc(&client, &queries, ef_search, &["id"]).await?;
        let [grpc_documents, ..] = over_grpc(&client, &queries, ef_search, &[]).await?;
        let [grpc_stock, ..] = over_grpc(&stock, &queries, ef_search, &["id"]).await?;
        let near_empty = empty_calls(&near, queries.len() / D).await?;
        let [near_grpc, ..] = over_grpc(&near, &queries, ef_search, &["id"]).await?;
        let (over_tcp, over_socket) = (
            rates(&client, &queries, ef_search).await?,
            rates(&near, &queries, ef_search).await?,
        );
        // The first round warms up.
        if round > 0 {
            let round = [
                alone,
                ids,
                documents,
                empty,
                searched,
                handled,
                grpc,
                grpc_documents,
                grpc_stock,
                near_empty,
                near_grpc,
            ];
            paths.iter_mut().zip(round).for_each(|(path, times)| path.1.push(times));
            by_rate.push([over_tcp, over_socket]);
        }
    }
    println!(
        "{set}: {} rows, top {TOP_K}, ef {ef_search}, median of {ROUNDS} rounds in turn",
        release.manifest().count
    );
    report(set, &paths, &by_rate);
    drop((client, stock, near));
    server.stop()?;
    busy_polling(up, folder, set, &queries, |fetch| {
        in_process(&release, &filters, &queries, ef_search, fetch)
    })
    .await
}

/// The same where neither side sleeps between two messages, each on a processor of its own.
async fn busy_polling(
    up: &Path,
    folder: &Path,
    set: &str,
    queries: &[f32],
    in_process: impl Fn(Fetch) -> anyhow::Result<Vec<f64>>,
) -> anyhow::Result<()> {
    if is_on_one() {
        println!("both busy polling: left out, two that look take one processor from each other");
        return Ok(());
    }
    let data = folder.join(format!("{set}-data"));
    let mut server = Up::start_with(up, &data, &[("VERDIGRIS_GRPC_BUSY_POLL", "1ms")])?;
    let client = Client::connect(&server.url, set).await?;
    let near = Client::connect(&server.socket, set).await?;
    let names = [
        "in process, search alone",
        "gRPC, with ids, both busy polling",
        "Unix socket, with ids, both busy polling",
    ];
    let mut paths = names.map(|name| (name, Vec::new()));
    for round in 0..=ROUNDS {
        let alone = in_process(Fetch::Nothing)?;
        let [grpc, ..] = looking(over_grpc(&client, queries, ef_search(set), &["id"])).await?;
        let [near, ..] = looking(over_grpc(&near, queries, ef_search(set), &["id"])).await?;
        if round > 0 {
            paths
                .iter_mut()
                .zip([alone, grpc, near])
                .for_each(|(path, times)| path.1.push(times));
        }
    }
    server.stop()?;
    let _medians = table(&paths);
    for (path, over) in [(1, "gRPC"), (2, "gRPC over a Unix socket")] {
        let rounds = paths[0].1.iter().zip(&paths[path].1);
        let ratio = middle(rounds.map(|(inside, grpc)| at(inside, 0.5) / at(grpc, 0.5)).collect());
        println!(
            "mark: {set}: {over} at least 0.5 x search alone in process, one request after the other (p50), both busy \
             polling: {ratio:.2} {}",
            met(ratio)
        );
    }
    Ok(())
}

/// Waits for something without letting the thread sleep.
async fn looking<T>(something: impl Future<Output = T>) -> T {
    let never_sleep = async {
        loop {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = something => done,
        () = never_sleep => unreachable!("it has no end"),
    }
}

/// Whether `taskset` holds client and server on one processor; otherwise each message wakes one that sleeps.
fn is_on_one() -> bool {
    std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1)
}

fn ef_search(set: &str) -> u32 {
    let known = EF_SEARCH.iter().find(|(name, _)| *name == set);
    known.map_or(128, |(_, ef)| *ef)
}

/// What is timed, in the order of the table.
const PATHS: [&str; 11] = [
    "in process, search alone",
    "in process, with ids",
    "in process, with documents",
    "gRPC, a call that searches nothing",
    "gRPC, search inside the server",
    "gRPC, call inside the server",
    "gRPC, with ids",
    "gRPC, with documents",
    "gRPC, with ids, stock client of tonic",
    "Unix socket, a call that searches nothing",
    "Unix socket, with ids",
];
/// Where the two are in it that marks are about.
const OVER_TCP: usize = 6;
const OVER_SOCKET: usize = 10;

/// How much one client thread asks for at once, in the order of its rates.
fn at_once() -> [String; RATES] {
    let [few, many] = IN_FLIGHT.map(|calls| format!("{calls} in flight"));
    [few, many, format!("{BATCH} in a call")]
}

fn report(set: &str, paths: &[(&str, Vec<Vec<f64>>); PATHS.len()], by_rate: &[[[f64; RATES]; 2]]) {
    let medians = table(paths);
    let place = if is_on_one() { ", both on one processor" } else { "" };
    let mut ratios = Vec::new();
    for (n, (over, path)) in [("gRPC", OVER_TCP), ("gRPC over a Unix socket", OVER_SOCKET)]
        .into_iter()
        .enumerate()
    {
        // Of each round, so that what slows a whole round down slows both.
        let ratio = |inside: usize| {
            let rounds = paths[inside].1.iter().zip(&paths[path].1);
            middle(rounds.map(|(inside, grpc)| at(inside, 0.5) / at(grpc, 0.5)).collect())
        };
        let (to_search, to_answer) = (ratio(0), ratio(1));
        println!(
            "mark: {set}{place}: {over} at least 0.5 x search alone in process, one request after the other (p50): \
             {to_search:.2} {}; with ids on both sides {to_answer:.2}",
            met(to_search)
        );
        let mut rates = Vec::new();
        for (asked, name) in at_once().into_iter().enumerate() {
            let rounds = || by_rate.iter().map(|round| round[n][asked]);
            let of_search = paths[0].1.iter().zip(rounds());
            let rate = middle(rounds().collect());
            let ratio = middle(of_search.map(|(inside, rate)| rate * mean(inside) / 1e6).collect());
            println!(
                "mark: {set}{place}: {over} at least 0.5 x search alone in process, queries a second of one client \
                 thread, {name}: {rate:.0}, {ratio:.2} {}",
                met(ratio)
            );
            rates.push(json!({"at_once": name, "per_second": rate, "rate_to_search": ratio}));
        }
        ratios.push(json!({"over": over, "p50_to_search": to_search, "p50_to_answer": to_answer, "rates": rates}));
    }
    println!("{}", json!({"set": set, "paths": medians, "ratios": ratios}));
}

fn table(paths: &[(&str, Vec<Vec<f64>>)]) -> Vec<serde_json::Value> {
    println!("{:42} {:>9} {:>9} {:>9}", "", "p50 us", "p99 us", "queries/s");
    let mut medians = Vec::new();
    for (name, rounds) in paths {
        let of = |value: &dyn Fn(&[f64]) -> f64| middle(rounds.iter().map(|round| value(round)).collect());
        let (p50, p99, mean) = (of(&|round| at(round, 0.5)), of(&|round| at(round, 0.99)), of(&mean));
        println!("{name:42} {p50:>9.1} {p99:>9.1} {:>9.0}", 1e6 / mean);
        medians.push(json!({"path": name, "p50_us": p50, "p99_us": p99, "mean_us": mean}));
    }
    medians
}

fn met(ratio: f64) -> &'static str {
    if ratio >= 0.5 { "met" } else { "MISSED" }
}

fn middle(values: Vec<f64>) -> f64 {
    at(&sorted(values), 0.5)
}

fn mean(times: &[f64]) -> f64 {
    times.iter().sum::<f64>() / times.len() as f64
}

/// Opens a release from the store's folder, as the server has it open; files are shared through the page cache.
fn open(store: &Path, manifest: Manifest) -> anyhow::Result<Release> {
    anyhow::ensure!(
        manifest.segments.iter().all(|segment| segment.dead.is_none()),
        "rows of this folder are dead"
    );
    let file = |path: &str| store.join(manifest.collection.as_str()).join(path);
    let paths = manifest.segments.iter().map(|segment| SegmentPaths {
        vectors: file(&segment.files.vectors.path),
        rows: file(&segment.files.rows.path),
    });
    let parts = paths.map(|paths| (paths.into(), Arc::default())).collect();
    Ok(Release::open(Arc::new(manifest), parts, &SegmentCache::default())?)
}

/// What is read of the hits.
#[derive(Clone, Copy)]
enum Fetch {
    Nothing,
    Ids,
    Documents,
}

fn in_process(
    release: &Release,
    filters: &FilterCache,
    queries: &[f32],
    ef_search: u32,
    fetch: Fetch,
) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    for vector in queries.chunks_exact(D) {
        let query = Query {
            mode: Mode::Vector,
            text: None,
            vector: Some(vector),
            // As the server asks: one more tells whether there is another page.
            top: TOP_K as usize + 1,
            filter: None,
            ef_search: Some(ef_search),
            nprobe: None,
            min_score: None,
            weights: Weights::default(),
        };
        let began = Instant::now();
        let hits = release.search(&query, filters)?;
        for hit in hits.iter().take(TOP_K as usize) {
            match fetch {
                Fetch::Nothing => {}
                Fetch::Ids => drop(std::hint::black_box(release.id(hit.place)?)),
                Fetch::Documents => drop(std::hint::black_box(release.stored(hit.place)?)),
            }
        }
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(sorted(times))
}

/// Microseconds as the client sees them, of the search inside the server, and of the whole call inside the server.
async fn over_grpc(client: &Client, queries: &[f32], ef_search: u32, fields: &[&str]) -> anyhow::Result<[Vec<f64>; 3]> {
    let mut service = client.search();
    let (mut times, mut searched, mut handled) = (Vec::new(), Vec::new(), Vec::new());
    for vector in queries.chunks_exact(D) {
        let request = request(client, vector, ef_search, fields);
        let began = Instant::now();
        let answer = service.search(request).await?.into_inner();
        times.push(began.elapsed().as_secs_f64() * 1e6);
        anyhow::ensure!(answer.hits.len() == TOP_K as usize, "{} hits", answer.hits.len());
        let timings = answer.timings.unwrap_or_default();
        searched.push(timings.search_micros as f64);
        handled.push(timings.total_micros as f64);
    }
    Ok([times, searched, handled].map(sorted))
}

fn request(client: &Client, vector: &[f32], ef_search: u32, fields: &[&str]) -> SearchRequest {
    SearchRequest {
        collection: client.collection.clone(),
        vector: vector.to_vec(),
        mode: SearchMode::Vector.into(),
        top_k: TOP_K,
        ef_search,
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        ..SearchRequest::default()
    }
}

/// What a call takes that is answered from memory at once: the transport's share.
async fn empty_calls(client: &Client, calls: usize) -> anyhow::Result<Vec<f64>> {
    let mut service = client.search();
    let mut times = Vec::new();
    for _ in 0..calls {
        let request = GetServingStatsRequest {
            collection: client.collection.clone(),
            ..GetServingStatsRequest::default()
        };
        let began = Instant::now();
        service.get_serving_stats(request).await?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(sorted(times))
}

/// Rates of one client thread: as many calls under way as [`IN_FLIGHT`] says, and searches sent together.
const RATES: usize = IN_FLIGHT.len() + 1;

async fn rates(client: &Client, queries: &[f32], ef_search: u32) -> anyhow::Result<[f64; RATES]> {
    let [few, many] = IN_FLIGHT;
    Ok([
        throughput(client, queries, ef_search, few).await?,
        throughput(client, queries, ef_search, many).await?,
        batched(client, queries, ef_search).await?,
    ])
}

/// Queries a second of one client thread that sends several in a call, one call after the other.
async fn batched(client: &Client, queries: &[f32], ef_search: u32) -> anyhow::Result<f64> {
    let requests: Vec<SearchRequest> = queries
        .chunks_exact(D)
        .map(|vector| request(client, vector, ef_search, &["id"]))
        .collect();
    let (mut service, began) = (client.search(), Instant::now());
    for requests in requests.chunks(BATCH) {
        let answer = service.batch_search(BatchSearchRequest {
            requests: requests.to_vec(),
        });
        let answers = answer.await?.into_inner().responses;
        anyhow::ensure!(answers.len() == requests.len(), "{} answers", answers.len());
    }
    Ok((queries.len() / D) as f64 / began.elapsed().as_secs_f64())
}

/// Queries a second of one client thread that keeps several under way on one connection.
async fn throughput(client: &Client, queries: &[f32], ef_search: u32, in_flight: usize) -> anyhow::Result<f64> {
    let mut requests: Vec<Vec<SearchRequest>> = vec![Vec::new(); in_flight];
    for (n, vector) in queries.chunks_exact(D).enumerate() {
        requests[n % in_flight].push(request(client, vector, ef_search, &["id"]));
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for requests in requests {
        let mut service = client.search();
        tasks.spawn(async move {
            for request in requests {
                service.search(request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((queries.len() / D) as f64 / began.elapsed().as_secs_f64())
}

/// Text in, hits with their documents out: embedding, hybrid search, fetching, gRPC.
pub(crate) async fn text(server: &str, collection: &str, queries: &Path) -> anyhow::Result<()> {
    let client = Client::connect(server, collection).await?;
    let file = std::fs::read_to_string(queries).with_context(|| format!("{} cannot be read", queries.display()))?;
    let texts: Vec<&str> = file
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(_, text)| text)
        .collect();
    let step = (texts.len() / TEXT_QUERIES_MAX).max(1);
    let mut service = client.search();
    let (mut total, mut embed, mut search, mut fetch) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for text in texts.into_iter().step_by(step).take(TEXT_QUERIES_MAX) {
        let request = SearchRequest {
            collection: client.collection.clone(),
            text: text.to_owned(),
            top_k: TOP_K,
            ..SearchRequest::default()
        };
        let began = Instant::now();
        let answer = service.search(request).await?.into_inner();
        total.push(began.elapsed().as_secs_f64() * 1e3);
        let timings = answer.timings.unwrap_or_default();
        embed.push(timings.embed_micros as f64 / 1e3);
        search.push(timings.search_micros as f64 / 1e3);
        fetch.push(timings.fetch_micros as f64 / 1e3);
    }
    println!(
        "{collection}: {} text queries, hybrid, top {TOP_K}, each text once",
        total.len()
    );
    println!("{:34} {:>9} {:>9}", "", "p50 ms", "p99 ms");
    let mut line = serde_json::Map::new();
    for (name, times) in [
        ("end to end", total),
        ("embed", embed),
        ("search", search),
        ("fetch", fetch),
    ] {
        let times = sorted(times);
        println!("{name:34} {:>9.2} {:>9.2}", at(&times, 0.5), at(&times, 0.99));
        line.insert(
            name.to_owned(),
            json!({"p50_ms": at(&times, 0.5), "p99_ms": at(&times, 0.99)}),
        );
    }
    println!("{}", serde_json::Value::Object(line));
    Ok(())
}
