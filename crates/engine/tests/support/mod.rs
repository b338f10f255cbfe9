//! What the tests of vectors share: made vectors, exact answers, a structure in a temporary file.
//!
//! Each test program uses a part of it.
#![allow(dead_code, reason = "every test program compiles this file and uses a part of it")]

use std::path::PathBuf;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use verdigris_core::digest::Digest;
use verdigris_core::index_type::IndexType;
use verdigris_core::manifest::{FileEntry, SegmentFiles};
use verdigris_engine::ann::{self, Ann, AnnExpectation, AnnSearch, DenseBitmap};
use verdigris_engine::mapped::MappedBytes;

/// One of each kind on the allow-list, sized for a few thousand rows.
pub(crate) const TYPES: [&str; 6] = [
    "Flat",
    "HNSW32",
    "HNSW32,SQ8,RFlat",
    "IVF128,Flat",
    "IVF128,SQ8,RFlat",
    "IVF128,PQ8x4fs,RFlat",
];

/// A search with so little effort that a few thousand rows are searched by their structure: with the default of the
/// settings a scan of so few is cheaper, and the structure would never be asked.
pub(crate) fn little_effort(k: usize) -> AnnSearch {
    AnnSearch {
        k,
        ef_search: Some(48),
        nprobe: Some(8),
    }
}

/// Vectors of length 1 in clusters, as embeddings are: `rows` of them, one after the other.
pub(crate) fn made_vectors(rows: usize, dimension: usize, seed: u64) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut centre_rng = SmallRng::seed_from_u64(4711);
    let noise = |rng: &mut SmallRng| (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0;
    let centres: Vec<Vec<f32>> = (0..50)
        .map(|_| (0..dimension).map(|_| noise(&mut centre_rng)).collect())
        .collect();
    let mut vectors = Vec::with_capacity(rows * dimension);
    for _ in 0..rows {
        let centre = &centres[rng.random_range(0..centres.len())];
        let vector: Vec<f32> = centre.iter().map(|c| c + 1.2 * noise(&mut rng)).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vectors.extend(vector.iter().map(|x| x / length));
    }
    vectors
}

/// An opened structure, and the folder that holds its file.
pub(crate) struct Built {
    pub(crate) ann: Ann,
    pub(crate) path: PathBuf,
    pub(crate) expected: AnnExpectation,
    folder: TempDir,
}

pub(crate) fn build(index_type: &str, dimension: u32, vectors: &[f32]) -> Built {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.faiss");
    let index_type: IndexType = index_type.parse().unwrap();
    ann::build(&index_type, dimension, vectors, 2, &path).unwrap();
    let expected = AnnExpectation {
        index_type,
        dimension,
        rows: (vectors.len() / dimension as usize) as u32,
    };
    let ann = Ann::open(MappedBytes::open(&path).unwrap(), &expected).unwrap();
    Built {
        ann,
        path,
        expected,
        folder,
    }
}

pub(crate) fn rows_of(vectors: &[f32], dimension: usize) -> impl Iterator<Item = &[f32]> {
    vectors.chunks_exact(dimension)
}

/// Every allowed row with its inner product in double precision, best first.
pub(crate) fn exact(vectors: &[f32], query: &[f32], allowed: impl Fn(u32) -> bool) -> Vec<(u32, f64)> {
    let score = |row: &[f32]| {
        row.iter()
            .zip(query)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    let mut all: Vec<(u32, f64)> = (0u32..)
        .zip(rows_of(vectors, query.len()))
        .filter(|(row, _)| allowed(*row))
        .map(|(row, vector)| (row, score(vector)))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// The share of hits that are as good as the k-th best right answer; equal scores are interchangeable.
pub(crate) fn recall(hits: &[(u32, f32)], truth: &[(u32, f64)], k: usize) -> f64 {
    let worst = truth[k.min(truth.len()) - 1].1 - 1e-6;
    let good = hits
        .iter()
        .take(k)
        .filter(|(_, score)| f64::from(*score) >= worst)
        .count();
    good as f64 / k.min(truth.len()) as f64
}

/// Rows drawn with this probability, the same for the same seed.
pub(crate) fn random_rows(rows: u32, share: f64, seed: u64) -> DenseBitmap {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut bitmap = DenseBitmap::empty(rows);
    for row in 0..rows {
        if rng.random_bool(share) {
            bitmap.insert(row);
        }
    }
    bitmap
}

/// What a manifest says of the files of a segment; nobody asks the engine for digests, which were compared before.
pub(crate) fn unchecked_files() -> SegmentFiles {
    let file = || FileEntry {
        path: String::new(),
        bytes: 0,
        digest: Digest::of(b""),
    };
    SegmentFiles {
        vectors: file(),
        rows: file(),
    }
}
