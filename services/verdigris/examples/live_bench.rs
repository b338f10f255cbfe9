//! Benchmarks of the running process: over gRPC, publish cost, freshness, start, memory.
//!
//! `cargo run -p verdigris --example live_bench -- COMMAND …`:
//! - `vectors UP FOLDER SET` searches by vector over gRPC and in process, in turn; keeps its data folder in FOLDER;
//! - `text SERVER COLLECTION QUERIES.tsv` times text queries end to end;
//! - `publish UP ROWS…` times publishes of 1,000 changed documents into catalogs of these sizes;
//! - `amplification UP ROWS PUBLISHES` counts what merges write;
//! - `fresh SERVER COLLECTION PRODUCTS.jsonl SECONDS` sends 100 events a second and sees when each is searchable;
//! - `start UP FOLDER SET` times the start on the folder that `vectors` left, against hashing its files, and its memory;
//! - `digest FILE…` hashes files and says so, for `start`;
//! - `rollout UP FOLDER QUERIES.tsv ROUNDS PRODUCTS.jsonl…` times a rebuild, gates, follows, promotions and returns;
//! - `memory UP DOCUMENTS` watches memory while tiny documents stream in.
//!
//! UP is the executable, SERVER the address of a running one. Ratios are of one run; `scripts/bench` runs all.
//! Absent: search inside a process alone, which `search_bench` of the engine measures.
#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

#[path = "live_bench/client.rs"]
mod client;
#[path = "live_bench/fresh.rs"]
mod fresh;
#[path = "live_bench/memory.rs"]
mod memory;
#[path = "live_bench/process.rs"]
mod process;
#[path = "live_bench/publish.rs"]
mod publish;
#[path = "live_bench/rollout.rs"]
mod rollout;
#[path = "live_bench/search.rs"]
mod search;
#[path = "live_bench/start.rs"]
mod start;

use std::path::Path;

/// One thread on the client's side.
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let texts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match texts[..] {
            ["vectors", up, folder, set] => search::vectors(Path::new(up), Path::new(folder), set).await,
            ["text", server, collection, queries] => search::text(server, collection, Path::new(queries)).await,
            ["publish", up, ref rows @ ..] if !rows.is_empty() => {
                let rows: Result<Vec<usize>, _> = rows.iter().map(|rows| rows.parse()).collect();
                publish::cost(Path::new(up), &rows?).await
            }
            ["amplification", up, rows, publishes] => {
                publish::amplification(Path::new(up), rows.parse()?, publishes.parse()?).await
            }
            ["fresh", server, collection, products, seconds] => {
                fresh::run(server, collection, Path::new(products), seconds.parse()?).await
            }
            ["start", up, folder, set] => start::run(Path::new(up), Path::new(folder), set).await,
            ["digest", ref files @ ..] => start::digest_and_say(files),
            ["rollout", up, folder, queries, rounds, ref products @ ..] => {
                rollout::run(
                    Path::new(up),
                    Path::new(folder),
                    Path::new(queries),
                    rounds.parse()?,
                    products,
                )
                .await
            }
            ["memory", up, documents] => memory::run(Path::new(up), documents.parse()?).await,
            _ => anyhow::bail!(
                "usage: live_bench vectors|text|publish|amplification|fresh|start|digest|rollout|memory …"
            ),
        }
    })
}

/// The value below which this share of the sorted values lies.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
