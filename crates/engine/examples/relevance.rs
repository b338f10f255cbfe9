//! Relevance of words and vectors together on the three catalogs of `../shared/data`: ndcg@10, words alone and hybrid,
//! with the fields of the default settings, the stored vectors and exact cosine. Run it with
//! `cargo run -p verdigris-engine --example relevance`.
//!
//! Deliberately absent: FAISS and gRPC (the service's own evaluation goes through them) and spelling, which the
//! published figures include.
#![expect(clippy::print_stdout, reason = "an example speaks to a person")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use serde_json::{Map, Value};
use verdigris_core::settings::Settings;
use verdigris_engine::mapped::MappedBytes;
use verdigris_engine::rows::{RowInput, Rows, RowsBuilder};
use verdigris_engine::words::{SegmentWords, WordsQuery, WordsStats, WordsWeights, score_words, texts_for_words};

/// Candidates of each list.
const CANDIDATES: usize = 100;
/// Weight of the cosine.
const VECTOR_WEIGHT: f32 = 16.0;
/// Hits that are judged.
const HITS: usize = 10;

type Error = Box<dyn std::error::Error>;

struct Catalog {
    documents: Vec<Map<String, Value>>,
    vectors: Vec<Vec<f32>>,
    queries: Vec<(String, String)>,
    query_vectors: Vec<Vec<f32>>,
    gains: HashMap<String, BTreeMap<String, f64>>,
}

fn main() -> Result<(), Error> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    println!(
        "{:<10} {:>8} {:>8} {:>12} {:>10} {:>10}",
        "catalog", "words", "hybrid", "published", "p50", "p99"
    );
    let mut all = Vec::new();
    for (name, judgements, published) in [
        ("products", "qrels.tsv", 0.811),
        ("esci", "labels.tsv", 0.660),
        ("icecat", "labels.tsv", 0.795),
    ] {
        let folder = data.join(name);
        if !folder.exists() {
            println!("skipped: {name}: no ../shared/data");
            continue;
        }
        let catalog = Catalog::read(&folder, judgements)?;
        let report = evaluate(&catalog)?;
        print_row(name, &report, Some(published));
        all.push(catalog);
    }
    if !all.is_empty() {
        print_row("all in one", &evaluate(&Catalog::joined(all))?, None);
    }
    Ok(())
}

struct Report {
    words: f64,
    hybrid: f64,
    times: Vec<Duration>,
}

fn print_row(name: &str, report: &Report, published: Option<f64>) {
    let at = |share: f64| report.times[((report.times.len() - 1) as f64 * share) as usize];
    let published = published.map_or(String::new(), |ndcg| format!("{ndcg:.3}"));
    let (words, hybrid) = (report.words, report.hybrid);
    println!(
        "{name:<10} {words:>8.4} {hybrid:>8.4} {published:>12} {:>10.2?} {:>10.2?}",
        at(0.5),
        at(0.99)
    );
}

fn evaluate(catalog: &Catalog) -> Result<Report, Error> {
    let folder = tempfile::TempDir::new()?;
    let rows = index(catalog, folder.path())?;
    let dead = RoaringBitmap::new();
    let stats = WordsStats::of([(&rows, &dead)]);
    let segments = [SegmentWords {
        rows: &rows,
        allowed: None,
    }];
    let (mut words, mut hybrid, mut judged) = (0.0, 0.0, 0_u32);
    let mut times = Vec::new();
    for ((id, text), vector) in catalog.queries.iter().zip(&catalog.query_vectors) {
        let begun = Instant::now();
        let scores = score_words(&segments, &stats, &WordsQuery::parse(text), &WordsWeights::default());
        let by_words = scores.top(CANDIDATES);
        times.push(begun.elapsed());
        let Some(gains) = catalog
            .gains
            .get(id)
            .filter(|gains| gains.values().any(|gain| *gain > 0.0))
        else {
            continue;
        };
        let cosines: Vec<f32> = catalog.vectors.iter().map(|product| dot(product, vector)).collect();
        let mut nearest: Vec<u32> = (0..cosines.len() as u32).collect();
        nearest.sort_unstable_by(|a, b| cosines[*b as usize].total_cmp(&cosines[*a as usize]));
        nearest.truncate(CANDIDATES);
        let candidates: BTreeSet<u32> = by_words.iter().map(|(_, row, _)| *row).chain(nearest).collect();
        let score = |row: &u32| scores.get(0, *row) + VECTOR_WEIGHT * cosines[*row as usize];
        let mut fused: Vec<u32> = candidates.into_iter().collect();
        fused.sort_by(|a, b| score(b).total_cmp(&score(a)));
        judged += 1;
        words += ndcg(catalog, gains, by_words.into_iter().map(|(_, row, _)| row));
        hybrid += ndcg(catalog, gains, fused);
    }
    times.sort_unstable();
    Ok(Report {
        words: words / f64::from(judged),
        hybrid: hybrid / f64::from(judged),
        times,
    })
}

fn index(catalog: &Catalog, folder: &Path) -> Result<Rows, Error> {
    let text = Settings::default().text;
    let begun = Instant::now();
    let mut builder = RowsBuilder::new(folder, &[])?;
    for document in &catalog.documents {
        let words = texts_for_words(document, &text.words);
        let codes = texts_for_words(document, &text.codes);
        builder.add(RowInput {
            id: id_of(document),
            chunk: 0,
            generation: 1,
            state: &serde_json::to_vec(document)?,
            document: Some(document),
            words: &words.iter().map(String::as_str).collect::<Vec<_>>(),
            codes: &codes.iter().map(String::as_str).collect::<Vec<_>>(),
        })?;
    }
    let path = folder.join("rows.tar");
    let summary = builder.finish(&path)?;
    eprintln!(
        "{} rows, {} bytes, written in {:.2?}",
        summary.rows,
        summary.bytes,
        begun.elapsed()
    );
    Ok(Rows::open(MappedBytes::open(&path)?)?)
}

fn id_of(document: &Map<String, Value>) -> &str {
    document.get("id").and_then(Value::as_str).unwrap_or_default()
}

fn ndcg(catalog: &Catalog, gains: &BTreeMap<String, f64>, ranked: impl IntoIterator<Item = u32>) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains
            .take(HITS)
            .enumerate()
            .map(|(rank, gain)| gain / (rank as f64 + 2.0).log2())
            .sum()
    };
    let gain = |row: u32| {
        gains
            .get(id_of(&catalog.documents[row as usize]))
            .copied()
            .unwrap_or_default()
    };
    let mut ideal: Vec<f64> = gains.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.total_cmp(a));
    discounted(&mut ranked.into_iter().map(gain)) / discounted(&mut ideal.into_iter())
}

impl Catalog {
    fn read(folder: &Path, judgements: &str) -> Result<Self, Error> {
        let documents: Result<Vec<Map<String, Value>>, _> = unpacked(&folder.join("products.jsonl.gz"))?
            .lines()
            .map(serde_json::from_str)
            .collect();
        let table = |name: &str| -> Result<Vec<Vec<String>>, Error> {
            let text = fs::read_to_string(folder.join(name))?;
            Ok(text
                .lines()
                .map(|line| line.split('\t').map(str::to_owned).collect())
                .collect())
        };
        let mut gains: HashMap<String, BTreeMap<String, f64>> = HashMap::new();
        for row in table(judgements)? {
            let gain = row.last().ok_or("an empty line")?.parse()?;
            gains.entry(row[0].clone()).or_default().insert(row[1].clone(), gain);
        }
        let queries = table("queries.tsv")?
            .into_iter()
            .map(|row| (row[0].clone(), row[1].clone()))
            .collect();
        let vectors = read_f16(&folder.join("product-vectors.f16.npy"))?;
        let query_vectors = read_f16(&folder.join("query-vectors.f16.npy"))?;
        Ok(Self {
            documents: documents?,
            vectors,
            queries,
            query_vectors,
            gains,
        })
    }

    fn joined(catalogs: Vec<Self>) -> Self {
        let mut joined = Self {
            documents: vec![],
            vectors: vec![],
            queries: vec![],
            query_vectors: vec![],
            gains: HashMap::new(),
        };
        for catalog in catalogs {
            joined.documents.extend(catalog.documents);
            joined.vectors.extend(catalog.vectors);
            joined.queries.extend(catalog.queries);
            joined.query_vectors.extend(catalog.query_vectors);
            joined.gains.extend(catalog.gains);
        }
        joined
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unpacked(path: &PathBuf) -> Result<String, Error> {
    let output = Command::new("gzip")
        .arg("-dc")
        .arg(path)
        .stderr(Stdio::inherit())
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Reads a two-dimensional float16 array of NumPy's format 1.
fn read_f16(path: &Path) -> Result<Vec<Vec<f32>>, Error> {
    let bytes = fs::read(path)?;
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..header_end])?;
    let shape = header
        .split_once("'shape': (")
        .and_then(|(_, rest)| rest.split_once(')'))
        .ok_or("no shape")?
        .0;
    let columns: usize = shape.split(',').nth(1).ok_or("one dimension")?.trim().parse()?;
    let (halves, _) = bytes[header_end..].as_chunks::<2>();
    let values: Vec<f32> = halves.iter().map(|half| from_half(u16::from_le_bytes(*half))).collect();
    Ok(values.chunks(columns).map(<[f32]>::to_vec).collect())
}

fn from_half(half: u16) -> f32 {
    let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
    let magnitude = match exponent {
        0 => fraction * 2_f32.powi(-24),
        _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
    };
    if half >> 15 == 1 { -magnitude } else { magnitude }
}
