//! Vectors made for benchmarks: what embeddings look like from afar, the same on every machine.

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Coordinates per vector, as MiniLM gives.
pub(crate) const D: usize = 384;

/// Vectors to be searched and queries, row after row.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) base: Vec<f32>,
    pub(crate) queries: Vec<f32>,
}

/// `rows` vectors in 2,000 clusters with a decaying spectrum: what embeddings look like from afar.
pub(crate) fn made(rows: usize, queries: usize) -> Set {
    const CENTRES: usize = 2_000;
    let mut rng = SmallRng::seed_from_u64(7);
    let spread: Vec<f32> = (1..=D).map(|i| (i as f32).powf(-0.6)).collect();
    // The sum of twelve uniform numbers is as good as a normal one here.
    let normal = |rng: &mut SmallRng| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let centres: Vec<f32> = (0..CENTRES * D).map(|i| normal(&mut rng) * spread[i % D]).collect();
    let weights: Vec<f64> = (1..=CENTRES).map(|i| (i as f64).powf(-0.6)).collect();
    let total: f64 = weights.iter().sum();
    let mut vector = || -> Vec<f32> {
        let mut draw = rng.random::<f64>() * total;
        let centre = weights
            .iter()
            .position(|w| {
                draw -= w;
                draw <= 0.0
            })
            .unwrap_or(CENTRES - 1);
        let noise = rng.random_range(0.4..0.9);
        let vector: Vec<f32> = (0..D)
            .map(|i| centres[centre * D + i] + noise * normal(&mut rng) * spread[i])
            .collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter().map(|x| x / length).collect()
    };
    let base = (0..rows).flat_map(|_| vector()).collect();
    let queries = (0..queries).flat_map(|_| vector()).collect();
    Set {
        name: "made",
        base,
        queries,
    }
}

/// Raw float32 of a file.
#[allow(dead_code, reason = "each program takes what it needs of this file")]
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    let whole = bytes.chunks_exact(4);
    Ok(whole.map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect())
}

/// Keeps a set as `NAME.base.f32` and `NAME.query.f32`.
#[allow(dead_code, reason = "each program takes what it needs of this file")]
pub(crate) fn write(folder: &Path, set: &Set) -> std::io::Result<()> {
    for (what, values) in [("query", &set.queries), ("base", &set.base)] {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{}.{what}.f32", set.name)), bytes)?;
    }
    Ok(())
}
