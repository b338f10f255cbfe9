//! Attention: each text attends to itself alone, so nothing is padded and nothing is masked.

use pulp::{Arch, Simd, WithSimd};

use super::kernel::{Aligned, TILE_COLUMNS_MAX, TILE_ROWS_MAX, TILE_VECTORS, multiply, pack_rows};
use super::rows::exponentials;
use super::{HEAD, HEADS, TOKENS_MAX, WIDTH};

/// Floats in a row of queries, keys and values.
const QKV: usize = 3 * WIDTH;

/// Buffers of one text's attention, as large as the longest text needs.
#[derive(Debug)]
pub(super) struct AttentionScratch {
    /// Keys in panels, `[panel][coordinate][key]`.
    keys: Aligned,
    /// Values in panels, `[panel][key][coordinate]`.
    values: Aligned,
    /// One tile of queries, then of probabilities, `[k][row]`.
    tile: Aligned,
    /// One tile of scores, `[row][key]`.
    scores: Aligned,
}

impl AttentionScratch {
    pub(super) fn new() -> Self {
        let tokens = TOKENS_MAX.next_multiple_of(TILE_COLUMNS_MAX);
        Self {
            keys: Aligned::zeros(tokens * HEAD),
            values: Aligned::zeros(tokens * HEAD),
            tile: Aligned::zeros(tokens * TILE_ROWS_MAX),
            scores: Aligned::zeros(tokens * TILE_ROWS_MAX),
        }
    }
}

/// Attends within one text: `qkv` has a row of queries, keys and values per token, `out` gets a row of `WIDTH` each.
pub(super) fn attend(arch: Arch, qkv: &[f32], out: &mut [f32], scratch: &mut AttentionScratch) {
    arch.dispatch(Attend { qkv, out, scratch });
}

struct Attend<'a> {
    qkv: &'a [f32],
    out: &'a mut [f32],
    scratch: &'a mut AttentionScratch,
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 12>(simd)
        } else {
            self.run::<S, 6>(simd)
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize>(self, simd: S) {
        let panel = TILE_VECTORS * S::F32_LANES;
        let tokens = self.qkv.len() / QKV;
        let padded = tokens.next_multiple_of(panel);
        let keys = self.scratch.keys.at_least(padded * HEAD);
        let values = self.scratch.values.at_least(tokens * HEAD);
        let tile = self.scratch.tile.at_least(padded.max(HEAD) * ROWS);
        let scores = self.scratch.scores.at_least(padded * ROWS);
        let mut sums = [0.0; TILE_ROWS_MAX * TILE_COLUMNS_MAX];
        let sums = &mut sums[..ROWS * panel];
        for head in 0..HEADS {
            let at = head * HEAD;
            pack_keys(self.qkv, WIDTH + at, panel, keys);
            pack_values(self.qkv, 2 * WIDTH + at, panel, values);
            for (rows, out) in self.qkv.chunks(ROWS * QKV).zip(self.out.chunks_mut(ROWS * WIDTH)) {
                pack_rows::<ROWS>(&rows[at..], QKV, HEAD, 1.0 / (HEAD as f32).sqrt(), tile);
                for (p, keys) in keys.chunks_exact(panel * HEAD).enumerate() {
                    multiply::<S, ROWS>(simd, &tile[..HEAD * ROWS], keys, sums);
                    for (scores, sums) in scores.chunks_exact_mut(padded).zip(sums.chunks_exact(panel)) {
                        scores[p * panel..(p + 1) * panel].copy_from_slice(sums);
                    }
                }
                let mut shares = [0.0; ROWS];
                for (share, scores) in shares.iter_mut().zip(scores.chunks_exact_mut(padded)) {
                    *share = 1.0 / exponentials(&mut scores[..tokens]);
                }
                pack_rows::<ROWS>(scores, padded, tokens, 1.0, tile);
                for (p, values) in values.chunks_exact(panel * tokens).enumerate() {
                    multiply::<S, ROWS>(simd, &tile[..tokens * ROWS], values, sums);
                    let from = at + p * panel;
                    for ((out, sums), share) in out.chunks_exact_mut(WIDTH).zip(sums.chunks_exact(panel)).zip(shares) {
                        for (out, sum) in out[from..from + panel].iter_mut().zip(sums) {
                            *out = sum * share;
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pack_keys(qkv: &[f32], at: usize, panel: usize, keys: &mut [f32]) {
    for (keys, rows) in keys.chunks_exact_mut(panel * HEAD).zip(qkv.chunks(panel * QKV)) {
        for (n, row) in rows.chunks_exact(QKV).enumerate() {
            for (column, key) in keys.chunks_exact_mut(panel).zip(&row[at..at + HEAD]) {
                column[n] = *key;
            }
        }
        // Scores of keys that are not there are computed and never read: old values there do no harm.
    }
}

#[inline(always)]
fn pack_values(qkv: &[f32], at: usize, panel: usize, values: &mut [f32]) {
    let tokens = qkv.len() / QKV;
    for (p, values) in values.chunks_exact_mut(panel * tokens).enumerate() {
        let from = at + p * panel;
        for (value, row) in values.chunks_exact_mut(panel).zip(qkv.chunks_exact(QKV)) {
            value.copy_from_slice(&row[from..from + panel]);
        }
    }
}
