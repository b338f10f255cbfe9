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
use verdigris_proto::search::{SearchMode, SearchRequest};

use crate::client::{Client, given_vectors, with_vector};
use crate::process::Up;
use crate::{at, sorted};

const D: usize = 384;
const TOP_K: u32 = 10;
const ROUNDS: usize = 7;
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
    let (_server, client) = filled(up, folder, set).await?;
    let release = open(&folder.join(format!("{set}-data/store")), client.manifest(0).await?)?;
    let queries = read(&folder.join(format!("{set}.query.f32")))?;
    let ef_search = EF_SEARCH
        .iter()
        .find(|(name, _)| *name == set)
        .map_or(128, |(_, ef)| *ef);
    let (mut alone, mut fetched, mut grpc) = (Vec::new(), Vec::new(), Vec::new());
    let (mut searched, mut handled) = (Vec::new(), Vec::new());
    let filters = FilterCache::new(1 << 20);
    for round in 0..=ROUNDS {
        let one = in_process(&release, &filters, &queries, ef_search, false)?;
        let with_documents = in_process(&release, &filters, &queries, ef_search, true)?;
        let [over_grpc, search_inside, call_inside] = over_grpc(&client, &queries, ef_search).await?;
        // The first round warms up.
        if round > 0 {
            alone.push(one);
            fetched.push(with_documents);
            grpc.push(over_grpc);
            searched.push(search_inside);
            handled.push(call_inside);
        }
    }
    println!(
        "{set}: {} rows, top {TOP_K}, ef {ef_search}, median of {ROUNDS} rounds in turn",
        release.manifest().count
    );
    println!("{:34} {:>9} {:>9} {:>9}", "", "p50 us", "p99 us", "queries/s");
    let mut medians = Vec::new();
    for (name, rounds) in [
        ("in process, search alone", &alone),
        ("in process, documents fetched", &fetched),
        ("gRPC, search inside the server", &searched),
        ("gRPC, call inside the server", &handled),
        ("gRPC, as the client sees it", &grpc),
    ] {
        let of = |value: &dyn Fn(&[f64]) -> f64| at(&sorted(rounds.iter().map(|round| value(round)).collect()), 0.5);
        let mean = of(&|round| round.iter().sum::<f64>() / round.len() as f64);
        let (p50, p99) = (of(&|round| at(round, 0.5)), of(&|round| at(round, 0.99)));
        println!("{name:34} {p50:>9.1} {p99:>9.1} {:>9.0}", 1e6 / mean);
        medians.push(json!({"path": name, "p50_us": p50, "p99_us": p99, "mean_us": mean}));
    }
    let ratio = |of: &[Vec<f64>]| {
        let each = of
            .iter()
            .zip(&grpc)
            .map(|(inside, grpc)| at(inside, 0.5) / at(grpc, 0.5));
        at(&sorted(each.collect()), 0.5)
    };
    let (to_search, to_fetched) = (ratio(&alone), ratio(&fetched));
    let met = if to_search >= 0.5 { "met" } else { "MISSED" };
    println!("mark: at least 0.5 x in process: {to_search:.2} {met}; of search and fetch {to_fetched:.2}");
    println!(
        "{}",
        json!({"set": set, "paths": medians, "grpc_to_in_process": to_search, "grpc_to_fetched": to_fetched})
    );
    Ok(())
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
    let parts = paths.map(|paths| (paths, Arc::default())).collect();
    Ok(Release::open(Arc::new(manifest), parts, &SegmentCache::default())?)
}

fn in_process(
    release: &Release,
    filters: &FilterCache,
    queries: &[f32],
    ef_search: u32,
    fetch: bool,
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
        for hit in hits.iter().take(TOP_K as usize).filter(|_| fetch) {
            std::hint::black_box(release.stored(hit.place)?);
        }
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(sorted(times))
}

/// Microseconds as the client sees them, of the search inside the server, and of the whole call inside the server.
async fn over_grpc(client: &Client, queries: &[f32], ef_search: u32) -> anyhow::Result<[Vec<f64>; 3]> {
    let mut service = client.search();
    let (mut times, mut searched, mut handled) = (Vec::new(), Vec::new(), Vec::new());
    for vector in queries.chunks_exact(D) {
        let request = SearchRequest {
            collection: client.collection.clone(),
            vector: vector.to_vec(),
            mode: SearchMode::Vector.into(),
            top_k: TOP_K,
            ef_search,
            fields: vec!["id".to_owned()],
            ..SearchRequest::default()
        };
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
