//! Memory of the process while tiny documents stream in as fast as it takes them: what grows, and whether it comes back.
//!
//! Without graphs, whose building would take most of the time; a graph adds about 300 bytes a row while it is built.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::client::Client;
use crate::process::Up;

/// Documents between two lines.
const STEP: usize = 50_000;
const BATCH: usize = 500;
/// How long the process is watched after the last event.
const AFTER: Duration = Duration::from_secs(20);

pub(crate) async fn run(up: &Path, documents: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Up::start(up, &folder.path().join("data"))?;
    let client = Client::connect(&server.url, "tiny").await?;
    client
        .create(&json!({"embedder": {"provider": "hash", "dimension": 32}, "ann": {"index_type": "Flat"}}))
        .await?;
    println!(
        "{:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "sent", "unread", "s", "own MiB", "mapped", "peak", "segments"
    );
    let began = Instant::now();
    let mut own_max = 0;
    let mut last = String::new();
    for from in (0..documents).step_by(BATCH) {
        let to = (from + BATCH).min(documents);
        last = client.send((from..to).map(document).collect()).await?;
        own_max = own_max.max(server.memory().anonymous);
        if to.is_multiple_of(STEP) {
            line(&server, &client, to, began).await?;
        }
    }
    println!("all sent; waiting for the last release");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(&last).await }
    });
    let mut next = Instant::now();
    while !waiting.is_finished() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        own_max = own_max.max(server.memory().anonymous);
        if next.elapsed() > Duration::from_secs(10) {
            line(&server, &client, documents, began).await?;
            next = Instant::now();
        }
    }
    waiting.await??;
    line(&server, &client, documents, began).await?;
    client.settle().await?;
    tokio::time::sleep(AFTER).await;
    line(&server, &client, documents, began).await?;
    let end = server.memory();
    println!(
        "{}",
        json!({"documents": documents, "own_max_mib": own_max >> 10, "own_end_mib": end.anonymous >> 10, "peak_mib": end.peak >> 10})
    );
    Ok(())
}

/// A few words of many: vectors of like texts would lie on top of each other, which no catalog does to a graph.
fn document(n: usize) -> Bytes {
    let mut rng = SmallRng::seed_from_u64(n as u64);
    let words: Vec<String> = (0..6).map(|_| format!("w{}", rng.random_range(0..2_000))).collect();
    Bytes::from(format!(
        r#"{{"id":"{n}","title":"{}","price":{}}}"#,
        words.join(" "),
        n % 97
    ))
}

async fn line(server: &Up, client: &Client, sent: usize, began: Instant) -> anyhow::Result<()> {
    let memory = server.memory();
    let (unread, segments) = match client.manifest(0).await {
        Ok(manifest) => (client.unread().await?, manifest.segments.len()),
        // Before the first publish there is no release to ask for.
        Err(_) => (sent as u64, 0),
    };
    println!(
        "{sent:>9} {unread:>9} {:>7.1} {:>9} {:>9} {:>9} {segments:>9}",
        began.elapsed().as_secs_f64(),
        memory.anonymous >> 10,
        memory.file >> 10,
        memory.peak >> 10
    );
    Ok(())
}
