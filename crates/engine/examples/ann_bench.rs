//! Recall and latency of vector search on real product vectors and on made ones, one thread, one query per call.
//!
//! `cargo run -p verdigris-engine --example ann_bench -- DATA [--made] [--types HNSW32,…;…] [--save DIR]`, where DATA
//! holds the folders `esci`, `icecat` and `products` with their `product-vectors.f16.npy`. Prints a table, then one
//! JSON line. `--save` keeps vectors, queries and truth as raw float32 and the built structures, so that peers can be
//! measured on the very same, and uses structures that are there already.
#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

#[path = "bench/vectors.rs"]
mod vectors;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use verdigris_core::index_type::IndexType;
use verdigris_engine::ann::{self, Ann, AnnExpectation, AnnSearch, DenseBitmap};
use verdigris_engine::mapped::MappedBytes;

use crate::vectors::{D, Set, made};

const K: usize = 10;
const QUERIES_MAX: usize = 1_000;
/// The fastest of so many rounds counts: others use the machine too.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        arguments
            .iter()
            .position(|a| a == flag)
            .map(|at| arguments[at + 1].clone())
    };
    let data = PathBuf::from(arguments.first().expect("the folder with the data"));
    let save = value("--save").map(PathBuf::from);
    let types = value("--types").unwrap_or_else(|| "HNSW32".to_owned());
    let mut sets = vec![products(&data)];
    if arguments.iter().any(|a| a == "--made") {
        sets.push(made(200_000, QUERIES_MAX));
    }
    verdigris_engine::processor::check_processor().expect("a processor of this level");
    let mut lines = Vec::new();
    for set in &sets {
        let flat = built(set, "Flat", None).0;
        if let Some(folder) = &save {
            keep(folder, set, &exact(set, &flat, None));
        }
        for index_type in types.split(';') {
            lines.extend(measure_type(set, &flat, index_type, save.as_deref()));
        }
    }
    println!("\n[{}]", lines.join(","));
}

fn measure_type(set: &Set, flat: &Ann, index_type: &str, save: Option<&Path>) -> Vec<String> {
    let rows = set.base.len() / D;
    let (ann, seconds) = built(set, index_type, save);
    println!(
        "\n{} {index_type} of {rows} x {D}, built in {seconds:.1} s on two threads",
        set.name
    );
    println!("{:>8} {:>9} {:>9} {:>8}", "effort", "p50 us", "p99 us", "recall");
    let search = |ef, nprobe| AnnSearch {
        k: K,
        ef_search: Some(ef),
        nprobe: Some(nprobe),
    };
    let truth = exact(set, flat, None);
    let mut lines = Vec::new();
    let lists = index_type.starts_with("IVF");
    for effort in if lists {
        [8, 16, 32, 64, 128]
    } else {
        [32, 64, 96, 128, 256]
    } {
        lines.push(measure(
            set,
            &ann,
            &search(effort, effort),
            None,
            &truth,
            index_type,
            "1",
        ));
    }
    for share in [0.5, 0.2, 0.1, 0.05, 0.005, 0.0005] {
        let allowed = random(rows as u32, share);
        let truth = exact(set, flat, Some(&allowed));
        let share = share.to_string();
        lines.push(measure(
            set,
            &ann,
            &search(64, 32),
            Some(&allowed),
            &truth,
            index_type,
            &share,
        ));
    }
    lines
}

fn exact(set: &Set, flat: &Ann, allowed: Option<&DenseBitmap>) -> Vec<Vec<(u32, f32)>> {
    let one = |query| flat.search(query, &AnnSearch::new(K), allowed).expect("a search");
    set.queries.chunks_exact(D).map(one).collect()
}

fn measure(
    set: &Set,
    ann: &Ann,
    search: &AnnSearch,
    allowed: Option<&DenseBitmap>,
    truth: &[Vec<(u32, f32)>],
    index_type: &str,
    share: &str,
) -> String {
    let (mut p50, mut p99, mut good, mut wanted) = (f64::MAX, f64::MAX, 0, 0);
    for round in 0..ROUNDS {
        let mut times = Vec::new();
        for (query, truth) in set.queries.chunks_exact(D).zip(truth) {
            let start = Instant::now();
            let hits = ann.search(query, search, allowed).expect("a search");
            times.push(start.elapsed().as_secs_f64() * 1e6);
            if round == 0 {
                let worst = truth.last().map_or(0.0, |hit| hit.1);
                good += hits.iter().filter(|hit| hit.1 >= worst).count();
                wanted += truth.len();
            }
        }
        times.sort_by(f64::total_cmp);
        p50 = p50.min(times[times.len() / 2]);
        p99 = p99.min(times[times.len() * 99 / 100]);
    }
    let recall = good as f64 / wanted as f64;
    let effort = search.ef_search.expect("set above");
    let filter = if allowed.is_some() {
        format!("filter {share}")
    } else {
        effort.to_string()
    };
    println!("{filter:>8} {p50:>9.1} {p99:>9.1} {recall:>8.4}");
    let set = set.name;
    format!(
        r#"{{"set":"{set}","type":"{index_type}","effort":{effort},"share":{share},"p50_us":{p50:.1},"p99_us":{p99:.1},"recall":{recall:.4}}}"#
    )
}

fn built(set: &Set, index_type: &str, save: Option<&Path>) -> (Ann, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let index_type: IndexType = index_type.parse().expect("an allowed type");
    let path = match save {
        Some(folder) => folder.join(format!("{}.{index_type}.faiss", set.name)),
        None => folder.path().join("vectors.faiss"),
    };
    let start = Instant::now();
    if !path.exists() {
        ann::build(&index_type, D as u32, &set.base, 2, &path).expect("a structure");
    }
    let seconds = start.elapsed().as_secs_f64();
    let expected = AnnExpectation {
        index_type,
        dimension: D as u32,
        rows: (set.base.len() / D) as u32,
    };
    let bytes = MappedBytes::open(&path).expect("the file just built");
    // As the digest does in production: every page is read once before the first search.
    std::hint::black_box(bytes.iter().step_by(4_096).map(|byte| u64::from(*byte)).sum::<u64>());
    let (start, memory) = (Instant::now(), anonymous_kb());
    let ann = Ann::open(bytes, &expected).expect("the file just built");
    let (ms, kb) = (
        start.elapsed().as_secs_f64() * 1e3,
        anonymous_kb().saturating_sub(memory),
    );
    println!("{index_type}: opened in {ms:.1} ms, {kb} kB of own memory");
    (ann, seconds)
}

/// Memory of this process that is not a mapped file.
fn anonymous_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

fn keep(folder: &Path, set: &Set, truth: &[Vec<(u32, f32)>]) {
    let write = |what: &str, values: &mut dyn Iterator<Item = f32>| {
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        std::fs::write(folder.join(format!("{}.{what}.f32", set.name)), bytes).expect("room for the vectors");
    };
    write("base", &mut set.base.iter().copied());
    write("query", &mut set.queries.iter().copied());
    write("truth", &mut truth.iter().flatten().map(|hit| hit.1));
}

fn random(rows: u32, share: f64) -> DenseBitmap {
    let mut rng = SmallRng::seed_from_u64(5);
    let mut bitmap = DenseBitmap::empty(rows);
    (0..rows)
        .filter(|_| rng.random_bool(share))
        .for_each(|row| bitmap.insert(row));
    bitmap
}

// === vectors ===

fn products(data: &Path) -> Set {
    let read = |what: &str| -> Vec<f32> {
        let files = ["esci", "icecat", "products"].map(|name| data.join(name).join(format!("{what}-vectors.f16.npy")));
        files.iter().flat_map(|file| read_f16(file)).collect()
    };
    let queries = read("query");
    let step = (queries.len() / D / QUERIES_MAX).max(1);
    let queries = queries
        .chunks_exact(D)
        .step_by(step)
        .take(QUERIES_MAX)
        .flatten()
        .copied()
        .collect();
    Set {
        name: "products",
        base: read("product"),
        queries,
    }
}

/// A NumPy file of float16, widened.
fn read_f16(file: &Path) -> Vec<f32> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..]
        .chunks_exact(2)
        .map(|pair| widened(u16::from_le_bytes([pair[0], pair[1]])))
        .collect()
}

fn widened(half: u16) -> f32 {
    let (sign, exponent, fraction) = (half >> 15, i32::from(half >> 10 & 0x1f), f32::from(half & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-24),
        _ => (1.0 + fraction / 1_024.0) * 2f32.powi(exponent - 15),
    };
    if sign == 1 { -magnitude } else { magnitude }
}
