//! Vector search of a whole release in process, one thread: for races against other libraries, and under filters.
//!
//! `cargo run -p verdigris-engine --example search_bench -- COMMAND FOLDER …`, where FOLDER holds `SET.base.f32` and
//! `SET.query.f32` (raw float32, 384 coordinates):
//! - `made FOLDER ROWS` writes the set `made`;
//! - `build FOLDER SET` writes the segment of a set to `FOLDER/SET`;
//! - `serve FOLDER SET [dead]` answers lines such as `{"ef": 64, "hits": true}` on standard input, each with the times
//!   of one round over all queries; with `dead`, row n is dead where n % 100 is 37;
//! - `filters FOLDER SET` prints time and recall under filters that leave 50 % to 0.05 %;
//! - `fetch FOLDER SET` prints what reading a hit's id, and its document, takes.
//!
//! What is timed is [`Release::search`]: all segments, live rows, filters, top k. Absent: other libraries, which
//! `scripts/bench_peers.py` runs, and what gRPC adds.
#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

#[path = "bench/opened.rs"]
mod opened;
#[path = "bench/vectors.rs"]
mod vectors;

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use verdigris_core::settings::Weights;
use verdigris_engine::error::EngineError;
use verdigris_engine::filter::{Filter, FilterCache};
use verdigris_engine::release::search::{Hit, Mode, Query};
use verdigris_engine::release::{Release, RowPlace};

use crate::opened::{build, open, share_of};
use crate::vectors::{D, made, read, write};

const K: usize = 10;
const QUERIES: usize = 1_000;
/// Queries under each filter: brute force beside them takes its time.
const FILTERED_QUERIES: usize = 200;
const FILTERED_ROUNDS: usize = 5;
/// What the graph finds without a filter it must about find under one.
const FILTERED_RECALL: f64 = 0.95;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let texts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    verdigris_engine::processor::check_processor()?;
    match texts[..] {
        ["made", folder, rows] => {
            let set = made(rows.parse()?, QUERIES);
            write(Path::new(folder), &set).map_err(Into::into)
        }
        ["build", folder, set] => build(Path::new(folder), set),
        ["serve", folder, set] => serve(Path::new(folder), set, false),
        ["serve", folder, set, "dead"] => serve(Path::new(folder), set, true),
        ["filters", folder, set] => filters(Path::new(folder), set),
        ["fetch", folder, set] => fetch(Path::new(folder), set),
        _ => Err("usage: search_bench made|build|serve|filters|fetch FOLDER …".into()),
    }
}

fn search(
    release: &Release,
    filters: &FilterCache,
    vector: &[f32],
    ef: u32,
    filter: Option<&Filter>,
) -> Result<Vec<Hit>, EngineError> {
    let query = Query {
        mode: Mode::Vector,
        text: None,
        vector: Some(vector),
        top: K,
        filter,
        ef_search: Some(ef),
        nprobe: None,
        min_score: None,
        weights: Weights::default(),
    };
    release.search(&query, filters)
}

/// One line in, one round over all queries, one line out.
fn serve(folder: &Path, set: &str, dead: bool) -> Result<(), Error> {
    let release = open(folder, set, dead)?;
    let queries = read(&folder.join(format!("{set}.query.f32")))?;
    let filters = FilterCache::new(1 << 20);
    println!("{}", json!({"name": "verdigris", "rows": release.manifest().count}));
    for line in std::io::stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let ef = asked["ef"].as_u64().ok_or("a round needs ef")? as u32;
        let (mut times, mut rows) = (Vec::new(), Vec::new());
        for query in queries.chunks_exact(D) {
            let began = Instant::now();
            let hits = search(&release, &filters, query, ef, None)?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
            rows.push(hits.iter().map(|hit| hit.place.row).collect::<Vec<u32>>());
        }
        let mut answer = json!({"times_us": times});
        if asked["hits"].as_bool() == Some(true) {
            answer["hits"] = json!(rows);
        }
        println!("{answer}");
    }
    Ok(())
}

/// Time and recall under filters; nothing is cached but the filter's bitmap, as in production. Fails where a hit is not
/// allowed, hits are missing, or recall is below the mark: figures of a wrong answer mean nothing.
fn filters(folder: &Path, set: &str) -> Result<(), Error> {
    let release = open(folder, set, false)?;
    let base = read(&folder.join(format!("{set}.base.f32")))?;
    let queries = read(&folder.join(format!("{set}.query.f32")))?;
    let queries: Vec<&[f32]> = queries.chunks_exact(D).take(FILTERED_QUERIES).collect();
    let cache = FilterCache::new(64 << 20);
    let ef = verdigris_core::settings::AnnSettings::default().ef_search;
    println!(
        "{set}: {} rows, {} queries, top {K}, ef {ef}",
        base.len() / D,
        queries.len()
    );
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>12} {:>8} {:>6} {:>9}",
        "share", "rows", "p50 us", "p99 us", "brute p50 us", "recall", "fewer", "excluded"
    );
    let mut failed = false;
    for share in [1.0, 0.5, 0.05, 0.005, 0.000_5] {
        let filter = Filter::parse(&format!("n < {}", (share * 1e6) as u64))?;
        let filter = Some(&filter).filter(|_| share < 1.0);
        let allowed: Vec<usize> = (0..base.len() / D).filter(|row| share_of(*row) < share).collect();
        let (mut times, mut brute, mut good, mut wanted, mut fewer, mut wrong) = (Vec::new(), Vec::new(), 0, 0, 0, 0);
        for query in &queries {
            let began = Instant::now();
            let truth = exact(&base, query, &allowed);
            brute.push(began.elapsed().as_secs_f64() * 1e6);
            let mut best = f64::MAX;
            let mut hits = Vec::new();
            for _ in 0..FILTERED_ROUNDS {
                let began = Instant::now();
                hits = search(&release, &cache, query, ef, filter)?;
                best = best.min(began.elapsed().as_secs_f64() * 1e6);
            }
            times.push(best);
            let worst = truth.last().copied().unwrap_or(f32::MAX);
            // A row that the filter excludes may score as well as any: it is no find.
            let excluded = hits.iter().filter(|hit| share_of(hit.place.row as usize) >= share);
            wrong += excluded.count();
            good += hits
                .iter()
                .filter(|hit| share_of(hit.place.row as usize) < share && hit.score >= worst - 1e-6)
                .count();
            wanted += truth.len();
            fewer += usize::from(hits.len() < truth.len());
        }
        let recall = good as f64 / wanted as f64;
        failed |= wrong > 0 || fewer > 0 || recall < FILTERED_RECALL;
        times.sort_by(f64::total_cmp);
        brute.sort_by(f64::total_cmp);
        let at = |times: &[f64], share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{:>7}% {:>9} {:>9.1} {:>9.1} {:>12.1} {recall:>8.4} {fewer:>6} {wrong:>9}",
            share * 100.0,
            allowed.len(),
            at(&times, 0.5),
            at(&times, 0.99),
            at(&brute, 0.5)
        );
    }
    let met = if failed { "MISSED" } else { "met" };
    println!(
        "mark: {set}: as many hits as exist, none excluded, recall@{K} at least {FILTERED_RECALL} under each filter: {met}"
    );
    if failed {
        Err("a filtered search answered wrongly".into())
    } else {
        Ok(())
    }
}

/// The time of reading one row, of rows that lie far apart as hits do.
fn fetch(folder: &Path, set: &str) -> Result<(), Error> {
    const ROWS: usize = 20_000;
    let release = open(folder, set, false)?;
    let places: Vec<_> = release.live_rows().collect();
    let scattered = (0..ROWS).map(|n| places[n * 7_919 % places.len()]);
    let bytes = release.manifest().segments[0].files.rows.bytes;
    let timed = |what: &str, read: &dyn Fn(RowPlace) -> Result<usize, EngineError>| -> Result<(), Error> {
        let (began, mut length) = (Instant::now(), 0);
        for place in scattered.clone() {
            length += read(place)?;
        }
        let micros = began.elapsed().as_secs_f64() * 1e6 / ROWS as f64;
        println!("{set}: {what:12} {micros:>6.2} us a row, {} bytes each", length / ROWS);
        Ok(())
    };
    timed("id", &|place| Ok(release.id(place)?.len()))?;
    timed("document", &|place| Ok(release.stored(place)?.state.len()))?;
    println!("{set}: rows.tar {:.1} bytes a row", bytes as f64 / places.len() as f64);
    Ok(())
}

/// The best scores among these rows, best first, by looking at each.
fn exact(base: &[f32], query: &[f32], rows: &[usize]) -> Vec<f32> {
    let score = |row: &usize| {
        let vector = &base[row * D..(row + 1) * D];
        let mut sums = [0.0f32; 16];
        for (x, y) in vector.chunks_exact(16).zip(query.chunks_exact(16)) {
            sums.iter_mut()
                .zip(x.iter().zip(y))
                .for_each(|(sum, (x, y))| *sum += x * y);
        }
        sums.iter().sum::<f32>()
    };
    let mut scores: Vec<f32> = rows.iter().map(score).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.truncate(K);
    scores
}
