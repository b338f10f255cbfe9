//! What the model does row by row, apart from products: layer norm, softmax, mean and length.
//!
//! Plain loops over arrays of sixteen sums, which the compiler turns into vector code for the processor that `pulp`
//! found. The order of every sum depends on the row's own length alone.

use pulp::{Arch, Simd, WithSimd};

/// Added to the variance, as the model was trained.
const NORM_EPSILON: f32 = 1e-12;
/// Sums kept side by side, so that a reduction can use whole vectors.
const LANES: usize = 16;

/// Scale and shift of a layer norm.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Norm {
    /// Normalises each row of `rows` in place.
    pub(super) fn apply(&self, arch: Arch, rows: &mut [f32]) {
        arch.dispatch(Normalise { norm: self, rows });
    }
}

struct Normalise<'a> {
    norm: &'a Norm,
    rows: &'a mut [f32],
}

impl WithSimd for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.norm.weight.len();
        let share = 1.0 / width as f32;
        for row in self.rows.chunks_exact_mut(width) {
            let mean = sum(row, |x| x) * share;
            let variance = sum(row, |x| (x - mean) * (x - mean)) * share;
            let scale = 1.0 / (variance + NORM_EPSILON).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(&self.norm.weight).zip(&self.norm.bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
        }
    }
}

/// `Σ f(x)`, in sixteen interleaved sums.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f(*x);
    }
    fold(sums, |a, b| a + b)
}

/// Replaces each score by `exp(score - largest)` and returns the sum of the results.
#[inline(always)]
pub(super) fn exponentials(scores: &mut [f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in &*whole {
        for (max, x) in largest.iter_mut().zip(chunk) {
            *max = if *x > *max { *x } else { *max };
        }
    }
    for (max, x) in largest.iter_mut().zip(&*rest) {
        *max = if *x > *max { *x } else { *max };
    }
    let largest = fold(largest, f32::max);
    let mut sums = [0.0; LANES];
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exponential(*x - largest);
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *x = exponential(*x - largest);
        *sum += *x;
    }
    fold(sums, |a, b| a + b)
}

#[inline(always)]
fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|n| f(lanes[n], lanes[n + 8]));
    let four: [f32; 4] = std::array::from_fn(|n| f(eight[n], eight[n + 4]));
    f(f(four[0], four[2]), f(four[1], four[3]))
}

/// e^x for x ≤ 0, within 3e-7 of the value: 2^n times a polynomial on the rest. The library's function is a call per
/// element and keeps the loop from becoming vector code.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    // Adding this leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let rest = n.mul_add(-LN_2_HIGH, x);
    let rest = n.mul_add(-LN_2_LOW, rest);
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(rest, c);
    }
    let p = p.mul_add(rest * rest, rest) + 1.0;
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits())) * p
}

/// The mean of `rows` as a vector of length 1, into `out`.
pub(super) fn mean_unit(arch: Arch, rows: &[f32], out: &mut [f32]) {
    arch.dispatch(MeanUnit { rows, out });
}

struct MeanUnit<'a> {
    rows: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for MeanUnit<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.out.fill(0.0);
        for row in self.rows.chunks_exact(self.out.len()) {
            for (out, x) in self.out.iter_mut().zip(row) {
                *out += x;
            }
        }
        // The length of the sum stands for that of the mean: dividing by the count first would cancel out.
        let scale = 1.0 / sum(self.out, |x| x * x).sqrt().max(f32::MIN_POSITIVE);
        for out in self.out {
            *out *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_agree_with_the_library_and_sum_to_what_is_returned() {
        for len in [1, 15, 16, 17, 256] {
            let scores: Vec<f32> = (0..len).map(|n| (n * 37 % 101) as f32 * 0.9 - 60.0).collect();
            let largest = scores.iter().copied().fold(f32::MIN, f32::max);
            let mut got = scores.clone();
            let total = exponentials(&mut got);
            for (x, y) in scores.iter().zip(&got) {
                let exact = f64::from(x - largest).exp();
                assert!(
                    (f64::from(*y) - exact).abs() < 3e-7,
                    "exp({}) = {y}, not {exact}",
                    x - largest
                );
            }
            let exact: f64 = got.iter().map(|x| f64::from(*x)).sum();
            assert!((f64::from(total) - exact).abs() < 1e-4 * exact);
        }
    }

    #[test]
    fn a_norm_leaves_mean_zero_and_variance_one_under_unit_weights() {
        let norm = Norm {
            weight: vec![1.0; 384],
            bias: vec![0.0; 384],
        };
        let mut rows: Vec<f32> = (0..768).map(|n| (n * 31 % 97) as f32 * 0.1 + 3.0).collect();
        norm.apply(Arch::new(), &mut rows);
        for row in rows.chunks_exact(384) {
            let mean = row.iter().sum::<f32>() / 384.0;
            let variance = row.iter().map(|x| x * x).sum::<f32>() / 384.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
        }
    }
}
