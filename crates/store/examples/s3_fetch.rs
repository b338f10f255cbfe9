//! What a verified fetch from S3 costs: megabytes a second into a cache folder, ranges in parallel with the digest
//! following, against one plain GET of the same object.
//!
//! `cargo run -p verdigris-store --example s3_fetch -- s3://bucket/prefix [ENDPOINT] [MIB]`; keys from the environment.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::time::{Duration, Instant};

use verdigris_core::digest::Digest;
use verdigris_core::manifest::FileEntry;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::s3::{S3Options, S3Store};
use verdigris_store::{Body, Precondition, Store, collection, keys};

/// Rounds of each way; the best one counts, as it was disturbed least.
const ROUNDS: u32 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .ok_or("an address is missing: s3://bucket/prefix [ENDPOINT] [MIB]")?;
    let mut options = S3Options::parse(&url)?;
    options.endpoint = arguments.next();
    options.path_style = options.endpoint.is_some();
    let mib: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let store = S3Store::connect(options).await?;
    let folder = tempfile::tempdir()?;

    let content: Vec<u8> = (0..mib << 20)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let name = "fetch-bench".parse()?;
    let entry = FileEntry {
        path: "segments/bench/vectors.faiss".to_owned(),
        bytes: content.len() as u64,
        digest: Digest::of(&content),
    };
    let key = keys::object(&name, &entry.path);
    let file = folder.path().join("file");
    std::fs::write(&file, &content)?;
    let begun = Instant::now();
    store.put(&key, Body::File(file), Precondition::Any).await?;
    tell("put in parts", mib, begun.elapsed());

    let (mut plain, mut verified) = (Duration::MAX, Duration::MAX);
    for round in 0..ROUNDS {
        let begun = Instant::now();
        collection::whole(&store, &key).await?;
        plain = plain.min(begun.elapsed());
        let cache = VerifiedFiles::with_cache(&folder.path().join(format!("cache-{round}")))?;
        let begun = Instant::now();
        let path = cache.local(&store, &name, &entry).await?;
        verified = verified.min(begun.elapsed());
        std::fs::remove_file(path)?;
    }
    tell("plain GET into memory", mib, plain);
    tell("verified into the cache", mib, verified);
    store.delete(&key).await?;
    Ok(())
}

fn tell(what: &str, mib: usize, time: Duration) {
    let seconds = time.as_secs_f64();
    println!("{what:24} {seconds:8.3} s {:8.1} MiB/s", mib as f64 / seconds);
}
