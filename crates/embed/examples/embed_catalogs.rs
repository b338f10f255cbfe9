//! Vectors of the three catalogs and of their queries, by our own embedder, for the benchmarks of search.
//!
//! `cargo run -p verdigris-embed --example embed_catalogs -- DATA OUT [MODEL_CACHE_DIR]` writes `products.base.f32` and
//! `products.query.f32` (raw float32) to OUT, and keeps an embedding cache there that `up` can start from. Does nothing
//! where the files are there. Absent: quality, which `verdigris evaluate` measures.
#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use verdigris_core::settings::{EmbedderSettings, TextSettings};
use verdigris_core::text::embedded_text;
use verdigris_embed::{CACHE_VECTORS_MAX, Embedders, EmbeddingCache, TextKind};

const CATALOGS: [&str; 3] = ["esci", "icecat", "products"];
const QUERIES_MAX: usize = 1_000;
/// Texts between two lines of progress.
const SLICE: usize = 4_096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: embed_catalogs DATA OUT [MODEL_CACHE_DIR]";
    let (data, out) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let models = arguments.next().unwrap_or_else(|| PathBuf::from(".cache/models"));
    let (base, query) = (out.join("products.base.f32"), out.join("products.query.f32"));
    if base.exists() && query.exists() {
        println!("vectors of the catalogs are there already");
        return Ok(());
    }
    std::fs::create_dir_all(&out)?;
    let threads = std::thread::available_parallelism()?.get();
    let cache = EmbeddingCache::open(&out.join("embeddings.sqlite"), CACHE_VECTORS_MAX)?;
    let embedders = Embedders::new(models, threads, Some(Arc::new(cache)));
    let settings = EmbedderSettings::default();
    let embedder = embedders
        .documents(&settings)?
        .ok_or("the default settings have an embedder")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;

    let (mut texts, mut queries) = (Vec::new(), Vec::new());
    for catalog in CATALOGS {
        texts.extend(documents(&data.join(catalog))?);
        queries.extend(query_texts(&data.join(catalog))?);
    }
    let step = (queries.len() / QUERIES_MAX).max(1);
    let queries: Vec<String> = queries.into_iter().step_by(step).take(QUERIES_MAX).collect();
    let began = Instant::now();
    let mut vectors = Vec::with_capacity(texts.len());
    for slice in texts.chunks(SLICE) {
        vectors.extend(runtime.block_on(embedder.embed(slice, TextKind::Document))?);
        println!(
            "{} of {} texts in {:.0} s",
            vectors.len(),
            texts.len(),
            began.elapsed().as_secs_f64()
        );
    }
    write(&query, &runtime.block_on(embedder.embed(&queries, TextKind::Query))?)?;
    write(&base, &vectors)?;
    Ok(())
}

fn documents(catalog: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let parts = TextSettings::default().embed;
    let lines = BufReader::new(GzDecoder::new(File::open(catalog.join("products.jsonl.gz"))?)).lines();
    let mut texts = Vec::new();
    for line in lines {
        let document: Map<String, Value> = serde_json::from_str(&line?)?;
        texts.push(embedded_text(&document, &parts));
    }
    Ok(texts)
}

fn query_texts(catalog: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let lines = BufReader::new(File::open(catalog.join("queries.tsv"))?).lines();
    let mut texts = Vec::new();
    for line in lines {
        texts.extend(line?.split_once('\t').map(|(_, text)| text.to_owned()));
    }
    Ok(texts)
}

/// Under another name first, so that a file that is there is whole.
fn write(path: &Path, vectors: &[Vec<f32>]) -> std::io::Result<()> {
    let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes)?;
    std::fs::rename(partial, path)
}
