//! What a publish costs: seconds and bytes by catalog size, and what merges write on top.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use verdigris_core::manifest::Manifest;

use crate::client::{Client, given_vectors, with_vector};
use crate::process::Up;
use crate::{at, sorted};

/// Small, so that a million documents fit; the same at each size, so that sizes compare.
const D: usize = 32;
const CHANGED: usize = 1_000;
/// Odd, so that the median is one that was measured.
const ROUNDS: usize = 11;
/// Documents of one publish where write amplification is counted.
const CHANGED_A_LITTLE: usize = 50;
/// What may lie between the cheapest and the dearest size.
const FLAT: f64 = 2.0;
const AMPLIFICATION_MAX: f64 = 4.0;

fn vector(rng: &mut SmallRng) -> Vec<f32> {
    // Four decimals are enough for a vector whose nearness means nothing.
    (0..D)
        .map(|_| (rng.random_range(-1.0..1.0f32) * 1e4).round() / 1e4 + 1e-5)
        .collect()
}

fn changed(rng: &mut SmallRng, rows: usize, count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|_| (rng.random_range(0..rows), vector(rng)))
        .map(|(id, vector)| with_vector(id, &vector))
        .collect()
}

/// A server whose collection holds this many documents, merged.
async fn with_rows(up: &Path, folder: &Path, rows: usize) -> anyhow::Result<(Up, Client)> {
    let server = Up::start(up, &folder.join("data"))?;
    let client = Client::connect(&server.url, "publish").await?;
    client.create(&given_vectors(D)).await?;
    let mut rng = SmallRng::seed_from_u64(rows as u64);
    client
        .load((0..rows).map(|id| with_vector(id, &vector(&mut rng))))
        .await?;
    client.settle().await?;
    Ok((server, client))
}

/// Seconds and bytes of a publish of 1,000 changed documents, by the size of the catalog.
pub(crate) async fn cost(up: &Path, sizes: &[usize]) -> anyhow::Result<()> {
    println!("publish of {CHANGED} changed documents, {D} coordinates, median of {ROUNDS}");
    println!(
        "{:>10} {:>8} {:>9} {:>9} {:>9} {:>12} {:>10} {:>9}",
        "documents", "built s", "p50 s", "worst s", "segments", "bytes", "dead bytes", "diff s"
    );
    let mut lines = Vec::new();
    for rows in sizes {
        let folder = tempfile::tempdir()?;
        let began = Instant::now();
        let (_server, client) = with_rows(up, folder.path(), *rows).await?;
        let built = began.elapsed().as_secs_f64();
        let mut rng = SmallRng::seed_from_u64(7);
        let first = client.manifest(0).await?.generation;
        let (mut seconds, mut bytes, mut dead_bytes, mut segments) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let events = changed(&mut rng, *rows, CHANGED);
            let before = client.manifest(0).await?;
            let began = Instant::now();
            let position = client.send(events).await?;
            let generation = client.wait(&position).await?;
            seconds.push(began.elapsed().as_secs_f64());
            let manifest = client.manifest(generation).await?;
            let dead = dead_written(&before, &manifest);
            bytes.push(segments_written(&before, &manifest) + dead + manifest.encode().len() as f64);
            dead_bytes.push(dead);
            segments = segments.max(manifest.segments.len());
        }
        let newest = client.manifest(0).await?.generation;
        let began = Instant::now();
        let differing = client.differing(first, newest).await?;
        let diff = began.elapsed().as_secs_f64();
        anyhow::ensure!(differing > 0, "nothing differs between {first} and {newest}");
        let (seconds, bytes, dead_bytes) = (sorted(seconds), sorted(bytes), sorted(dead_bytes));
        let (p50, worst, bytes, dead) = (
            at(&seconds, 0.5),
            at(&seconds, 1.0),
            at(&bytes, 0.5),
            at(&dead_bytes, 0.5),
        );
        println!(
            "{rows:>10} {built:>8.1} {p50:>9.3} {worst:>9.3} {segments:>9} {bytes:>12.0} {dead:>10.0} {diff:>9.3}"
        );
        lines.push(json!({
            "documents": rows, "p50_s": p50, "worst_s": worst, "bytes": bytes, "dead_bytes": dead,
            "diff_documents": differing, "diff_s": diff,
        }));
    }
    let spread = |what: &str| {
        let values = sorted(lines.iter().filter_map(|line| line[what].as_f64()).collect());
        at(&values, 1.0) / at(&values, 0.0)
    };
    let (seconds, bytes) = (spread("p50_s"), spread("bytes"));
    let met = |value: f64| if value <= FLAT { "met" } else { "MISSED" };
    println!(
        "mark: flat within {FLAT} x: seconds {seconds:.2} {}, bytes {bytes:.2} {}",
        met(seconds),
        met(bytes)
    );
    println!(
        "{}",
        json!({"sizes": lines, "spread_seconds": seconds, "spread_bytes": bytes})
    );
    Ok(())
}

/// Bytes of segments that the newer release has and the older does not; merges are not counted here.
fn segments_written(before: &Manifest, after: &Manifest) -> f64 {
    (after.stats.bytes_published - before.stats.bytes_published) as f64
}

/// Bytes of dead rows that changed.
fn dead_written(before: &Manifest, after: &Manifest) -> f64 {
    let bytes = |segment: &verdigris_core::manifest::SegmentEntry| {
        let same = before.segment(&segment.id).is_some_and(|old| old.dead == segment.dead);
        segment.dead.as_ref().filter(|_| !same).map_or(0, |dead| dead.bytes)
    };
    after.segments.iter().map(bytes).sum::<u64>() as f64
}

/// Bytes that merges write for each byte first published, over many small publishes. Base rebuilds are told apart.
pub(crate) async fn amplification(up: &Path, rows: usize, publishes: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (_server, client) = with_rows(up, folder.path(), rows).await?;
    let mut rng = SmallRng::seed_from_u64(7);
    let before = client.manifest(0).await?;
    let began = Instant::now();
    for _ in 0..publishes {
        let position = client.send(changed(&mut rng, rows, CHANGED_A_LITTLE)).await?;
        client.wait(&position).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = client.settle().await?;
    let (old, new) = (before.stats, after.stats);
    let published = (new.bytes_published - old.bytes_published) as f64;
    let merged = (new.bytes_merged - old.bytes_merged) as f64;
    let rebuilt = (new.bytes_rebuilt - old.bytes_rebuilt) as f64;
    let amplification = merged / published;
    let generations = after.generation - before.generation;
    println!(
        "{publishes} publishes of {CHANGED_A_LITTLE} changed documents into {rows}, {seconds:.0} s, {generations} generations"
    );
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "first published {:.1} MiB, merges {:.1} MiB, rebuilds of the base {:.1} MiB, {} segments at the end",
        mib(published),
        mib(merged),
        mib(rebuilt),
        after.segments.len()
    );
    let met = if amplification <= AMPLIFICATION_MAX {
        "met"
    } else {
        "MISSED"
    };
    println!("mark: write amplification at most {AMPLIFICATION_MAX}: {amplification:.2} {met}");
    println!(
        "{}",
        json!({"publishes": publishes, "published": published, "merged": merged, "rebuilt": rebuilt, "amplification": amplification})
    );
    Ok(())
}
