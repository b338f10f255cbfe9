//! Tokens per second on real product titles, and the time of one query.
//!
//! `cargo run -p verdigris-embed --example embed_bench -- DATA_DIR [MODEL_CACHE_DIR]`
//!
//! `DATA_DIR` holds `products/products.jsonl.gz`. Prints a table and, last, one JSON line.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flate2::read::GzDecoder;
use verdigris_embed::{Embedder, MiniLm, TextKind, model};

const TITLES: usize = 1_500;
const ROUNDS: usize = 5;
const QUERIES: usize = 400;

struct Bulk {
    threads: usize,
    texts: &'static str,
    tokens_per_second: f64,
    texts_per_second: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let data = arguments
        .next()
        .ok_or("usage: embed_bench DATA_DIR [MODEL_CACHE_DIR]")?;
    let cache = arguments.next().unwrap_or_else(|| PathBuf::from(".cache/models"));
    let files = model::locate(&cache)?;
    let titles = titles(&data)?;
    // A description has about as many tokens as the model reads.
    let long: Vec<String> = titles.chunks_exact(15).map(|titles| titles.join(". ")).collect();
    let threads = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;

    let start = Instant::now();
    drop(MiniLm::load(&files, 1)?);
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut bulk = Vec::new();
    for threads in [1, threads] {
        let embedder = MiniLm::load(&files, threads)?;
        bulk.push(runtime.block_on(measure(&embedder, threads, "titles", &titles))?);
        bulk.push(runtime.block_on(measure(&embedder, threads, "256 tokens", &long))?);
    }
    let embedder = MiniLm::load(&files, 1)?;
    let query_ms = runtime.block_on(queries(&embedder, &titles))?;
    report(load_ms, &bulk, query_ms);
    Ok(())
}

fn titles(data: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let lines = BufReader::new(GzDecoder::new(File::open(data.join("products/products.jsonl.gz"))?)).lines();
    let mut titles = Vec::new();
    for line in lines.take(TITLES) {
        let product: serde_json::Value = serde_json::from_str(&line?)?;
        titles.push(product["title"].as_str().ok_or("a product without a title")?.to_owned());
    }
    Ok(titles)
}

async fn measure(
    embedder: &MiniLm,
    threads: usize,
    texts: &'static str,
    sample: &[String],
) -> Result<Bulk, Box<dyn Error>> {
    embedder.embed(&sample[..sample.len() / 10], TextKind::Document).await?;
    let mut seconds = Vec::new();
    let before = embedder.tokens();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        embedder.embed(sample, TextKind::Document).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[ROUNDS / 2];
    let tokens = (embedder.tokens() - before) as f64 / ROUNDS as f64;
    Ok(Bulk {
        threads,
        texts,
        tokens_per_second: tokens / median,
        texts_per_second: sample.len() as f64 / median,
    })
}

/// Milliseconds of the median and of the slowest hundredth. Queries are the first words of titles.
async fn queries(embedder: &MiniLm, titles: &[String]) -> Result<[f64; 2], Box<dyn Error>> {
    let mut times = Vec::new();
    for title in &titles[..QUERIES] {
        let words: Vec<&str> = title.split(' ').take(4).collect();
        let query = [words.join(" ")];
        let start = Instant::now();
        embedder.embed(&query, TextKind::Query).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok([times[QUERIES / 2], times[QUERIES - QUERIES / 100]])
}

fn report(load_ms: f64, bulk: &[Bulk], [p50, p99]: [f64; 2]) {
    println!("{:<12} {:>7} {:>10} {:>9}", "texts", "threads", "tokens/s", "texts/s");
    for row in bulk {
        let Bulk {
            threads,
            texts,
            tokens_per_second,
            texts_per_second,
        } = row;
        println!("{texts:<12} {threads:>7} {tokens_per_second:>10.0} {texts_per_second:>9.0}");
    }
    println!("one query: {p50:.2} ms, {p99:.2} ms for the slowest hundredth; load: {load_ms:.0} ms");
    let rows: Vec<serde_json::Value> = bulk
        .iter()
        .map(|row| {
            serde_json::json!({
                "texts": row.texts,
                "threads": row.threads,
                "tokens_per_second": row.tokens_per_second.round(),
                "texts_per_second": row.texts_per_second.round(),
            })
        })
        .collect();
    let line = serde_json::json!({"bulk": rows, "query_ms_p50": p50, "query_ms_p99": p99, "load_ms": load_ms.round()});
    println!("{line}");
}
