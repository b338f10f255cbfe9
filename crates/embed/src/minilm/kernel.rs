//! The matrix product under the model: packed weights times packed rows, in register tiles.
//!
//! Safe code over `pulp`, which picks AVX-512, AVX2 or plain code when the process starts. Every output element is one
//! chain of multiply-adds over k in order, whatever rows stand beside it, so a text's vector does not depend on
//! its neighbours in a batch, not even in the last bit. No threads here: a caller runs one chunk of texts per thread,
//! which scales better than splitting one product.

use pulp::{Arch, Simd, WithSimd};

/// Rows of activations that are carried through a layer together: their widest form (1,536 floats a row) fits in a
/// level-2 cache of 1 MiB. A multiple of both tile heights (12 and 6).
pub(super) const ROW_BLOCK: usize = 96;
/// Vectors side by side in a tile: with 12 rows, 24 of AVX-512's 32 registers hold sums.
pub(super) const TILE_VECTORS: usize = 2;
/// The widest tile, in columns (AVX-512).
pub(super) const TILE_COLUMNS_MAX: usize = 32;
/// The tallest tile, in rows.
pub(super) const TILE_ROWS_MAX: usize = 12;
/// Floats per cache line. A vector load across two lines costs twice.
const LINE: usize = 16;

/// Floats that begin on a cache line.
#[derive(Debug)]
pub(super) struct Aligned {
    floats: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let floats = vec![0.0; len + LINE];
        let start = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { floats, start }
    }

    /// At least `len` floats of any content; grows, never shrinks.
    pub(super) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.floats.len() < len + LINE {
            *self = Self::zeros(len);
        }
        &mut self.floats[self.start..self.start + len]
    }

    fn as_slice(&self) -> &[f32] {
        &self.floats[self.start..]
    }
}

/// What happens to a product on its way out.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// `out = a · w + bias`
    Bias,
    /// `out = gelu(a · w + bias)`
    Gelu,
    /// `out += a · w + bias`
    Add,
}

/// A linear layer's weights in panels of as many columns as a tile is wide, each panel `[k][column]`.
#[derive(Debug)]
pub(super) struct Linear {
    inputs: usize,
    outputs: usize,
    panel: usize,
    weights: Aligned,
    bias: Vec<f32>,
}

impl Linear {
    /// Packs `weights[output][input]`, the order in which they are stored. `outputs` is a multiple of the panel width.
    pub(super) fn pack(arch: Arch, inputs: usize, weights: &[f32], bias: Vec<f32>) -> Self {
        let outputs = bias.len();
        let panel = panel_width(arch);
        debug_assert_eq!(weights.len(), inputs * outputs);
        debug_assert_eq!(outputs % panel, 0);
        let mut packed = Aligned::zeros(inputs * outputs);
        let columns = packed.at_least(inputs * outputs).chunks_exact_mut(inputs * panel);
        for (to, from) in columns.zip(weights.chunks_exact(inputs * panel)) {
            for (k, row) in to.chunks_exact_mut(panel).enumerate() {
                for (value, column) in row.iter_mut().zip(from.chunks_exact(inputs)) {
                    *value = column[k];
                }
            }
        }
        Self {
            inputs,
            outputs,
            panel,
            weights: packed,
            bias,
        }
    }

    /// Columns of the product.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiplies at most [`ROW_BLOCK`] rows of `inputs` floats into rows of `outputs` floats.
    pub(super) fn apply(&self, arch: Arch, rows: &[f32], out: &mut [f32], finish: Finish, packed: &mut Aligned) {
        arch.dispatch(Apply {
            linear: self,
            rows,
            out,
            finish,
            packed,
        });
    }
}

/// How many columns a tile has on this processor.
pub(super) fn panel_width(arch: Arch) -> usize {
    struct Width;
    impl WithSimd for Width {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            TILE_VECTORS * S::F32_LANES
        }
    }
    arch.dispatch(Width)
}

struct Apply<'a> {
    linear: &'a Linear,
    rows: &'a [f32],
    out: &'a mut [f32],
    finish: Finish,
    packed: &'a mut Aligned,
}

impl WithSimd for Apply<'_> {
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

impl Apply<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize>(self, simd: S) {
        let Linear {
            inputs,
            outputs,
            panel,
            ref weights,
            ref bias,
        } = *self.linear;
        let count = self.rows.len() / inputs;
        let tiles = count.div_ceil(ROWS);
        let packed = self.packed.at_least(tiles * ROWS * inputs);
        for (tile, rows) in packed
            .chunks_exact_mut(ROWS * inputs)
            .zip(self.rows.chunks(ROWS * inputs))
        {
            pack_rows::<ROWS>(rows, inputs, inputs, 1.0, tile);
        }
        let mut sums = [0.0; TILE_ROWS_MAX * TILE_COLUMNS_MAX];
        let sums = &mut sums[..ROWS * panel];
        for (p, columns) in weights
            .as_slice()
            .chunks_exact(inputs * panel)
            .take(outputs / panel)
            .enumerate()
        {
            let bias = &bias[p * panel..(p + 1) * panel];
            for (tile, out) in packed
                .chunks_exact(ROWS * inputs)
                .zip(self.out.chunks_mut(ROWS * outputs))
            {
                multiply::<S, ROWS>(simd, tile, columns, sums);
                for (sums, out) in sums.chunks_exact(panel).zip(out.chunks_exact_mut(outputs)) {
                    finish_row(simd, self.finish, sums, bias, &mut out[p * panel..(p + 1) * panel]);
                }
            }
        }
    }
}

/// Lays up to `ROWS` rows of `width` floats out as `[k][row]`, times `scale`; rows that are not there become zeros.
/// Reading rows where they lie instead makes the compiler spill the sums of [`multiply`] to the stack.
#[inline(always)]
pub(super) fn pack_rows<const ROWS: usize>(rows: &[f32], stride: usize, width: usize, scale: f32, tile: &mut [f32]) {
    const { assert!(ROWS <= TILE_ROWS_MAX) };
    let zeros = [0.0; 0];
    let mut sources: [&[f32]; ROWS] = [&zeros; ROWS];
    let mut full = true;
    for (r, source) in sources.iter_mut().enumerate() {
        match rows.get(r * stride..r * stride + width) {
            Some(row) => *source = row,
            None => full = false,
        }
    }
    let (tile, _) = tile.as_chunks_mut::<ROWS>();
    let tile = &mut tile[..width];
    if full {
        let sources = sources.map(|row| &row[..width]);
        for (k, to) in tile.iter_mut().enumerate() {
            *to = std::array::from_fn(|r| sources[r][k] * scale);
        }
    } else {
        for (k, to) in tile.iter_mut().enumerate() {
            *to = std::array::from_fn(|r| sources[r].get(k).map_or(0.0, |value| value * scale));
        }
    }
}

/// `sums[row][column] = Σ a[k][row] · b[k][column]`, the sums in registers all along. `ROWS` is 12 or 6.
#[inline(always)]
pub(super) fn multiply<S: Simd, const ROWS: usize>(simd: S, a: &[f32], b: &[f32], sums: &mut [f32]) {
    const { assert!(ROWS == 12 || ROWS == 6) };
    if ROWS == 12 {
        multiply_12(simd, a, b, sums)
    } else {
        multiply_6(simd, a, b, sums)
    }
}

/// A tile with its rows written out. Over an array of sums, the compiler keeps the loop over rows and the sums in
/// memory, which costs two thirds of the speed.
macro_rules! tile {
    ($name:ident, $rows:literal, $($row:literal $left:ident $right:ident),+) => {
        #[inline(always)]
        fn $name<S: Simd>(simd: S, a: &[f32], b: &[f32], sums: &mut [f32]) {
            let zero = simd.splat_f32s(0.0);
            $(let (mut $left, mut $right) = (zero, zero);)+
            let (a, _) = a.as_chunks::<$rows>();
            let (b, _) = S::as_simd_f32s(b);
            let (b, _) = b.as_chunks::<TILE_VECTORS>();
            for (a, &[b_left, b_right]) in a.iter().zip(b) {
                $(
                    let x = simd.splat_f32s(a[$row]);
                    // `_e`: fused where the processor can; without, a call per element would emulate it.
                    $left = simd.mul_add_e_f32s(x, b_left, $left);
                    $right = simd.mul_add_e_f32s(x, b_right, $right);
                )+
            }
            let (sums, _) = S::as_mut_simd_f32s(sums);
            let (sums, _) = sums.as_chunks_mut::<TILE_VECTORS>();
            let (sums, _) = sums.as_chunks_mut::<$rows>();
            sums[0] = [$([$left, $right]),+];
        }
    };
}
tile!(multiply_6, 6, 0 l0 r0, 1 l1 r1, 2 l2 r2, 3 l3 r3, 4 l4 r4, 5 l5 r5);
tile!(
    multiply_12, 12, 0 l0 r0, 1 l1 r1, 2 l2 r2, 3 l3 r3, 4 l4 r4, 5 l5 r5,
    6 l6 r6, 7 l7 r7, 8 l8 r8, 9 l9 r9, 10 l10 r10, 11 l11 r11
);

#[inline(always)]
fn finish_row<S: Simd>(simd: S, finish: Finish, sums: &[f32], bias: &[f32], out: &mut [f32]) {
    let (sums, _) = S::as_simd_f32s(sums);
    let (bias, _) = S::as_simd_f32s(bias);
    let (out, _) = S::as_mut_simd_f32s(out);
    for ((out, &sum), &bias) in out.iter_mut().zip(sums).zip(bias) {
        let sum = simd.add_f32s(sum, bias);
        *out = match finish {
            Finish::Bias => sum,
            Finish::Gelu => gelu(simd, sum),
            Finish::Add => simd.add_f32s(*out, sum),
        };
    }
}

/// `x · Φ(x)`, with the error function as a rational polynomial: within 3e-7 of the exact value for |x| < 8.
/// The tanh form that some models use is another function and not exact enough here.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Beyond 4 the error function is 1 in f32. Odd numerator over even denominator, in z = x / √2.
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_6e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    let splat = |value| simd.splat_f32s(value);
    let z = simd.mul_f32s(x, splat(std::f32::consts::FRAC_1_SQRT_2));
    let z = simd.max_f32s(simd.min_f32s(z, splat(4.0)), splat(-4.0));
    let square = simd.mul_f32s(z, z);
    let mut top = splat(NUMERATOR[0]);
    for c in &NUMERATOR[1..] {
        top = simd.mul_add_e_f32s(top, square, splat(*c));
    }
    let mut bottom = splat(DENOMINATOR[0]);
    for c in &DENOMINATOR[1..] {
        bottom = simd.mul_add_e_f32s(bottom, square, splat(*c));
    }
    let erf = simd.div_f32s(simd.mul_f32s(z, top), bottom);
    let half = simd.mul_f32s(x, splat(0.5));
    simd.mul_add_e_f32s(half, erf, half)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn product(arch: Arch, linear: &Linear, rows: &[f32], finish: Finish) -> Vec<f32> {
        let mut out = vec![0.5; rows.len() / linear.inputs * linear.outputs];
        linear.apply(arch, rows, &mut out, finish, &mut Aligned::zeros(0));
        out
    }

    fn erf(x: f64) -> f64 {
        // Maclaurin series; the terms shrink from n > x² on, and f64 keeps 1e-9 up to |x| = 4.
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn a_packed_product_equals_the_schoolbook_one_for_every_count_of_rows() {
        let (inputs, outputs) = (40, 96);
        let weights = noise(inputs * outputs, 1);
        let bias = noise(outputs, 2);
        for arch in [Arch::new(), Arch::Scalar] {
            let linear = Linear::pack(arch, inputs, &weights, bias.clone());
            for count in 1..=ROW_BLOCK {
                let rows = noise(count * inputs, 3);
                let got = product(arch, &linear, &rows, Finish::Add);
                for (r, row) in rows.chunks_exact(inputs).enumerate() {
                    for (c, column) in weights.chunks_exact(inputs).enumerate() {
                        let exact: f64 = row.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        let exact = exact + f64::from(bias[c]) + 0.5;
                        let error = (f64::from(got[r * outputs + c]) - exact).abs();
                        assert!(error < 1e-5, "row {r} of {count}, column {c}: off by {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_wherever_it_stands() {
        let (inputs, outputs) = (384, 96);
        let arch = Arch::new();
        let linear = Linear::pack(arch, inputs, &noise(inputs * outputs, 5), noise(outputs, 6));
        let rows = noise(31 * inputs, 7);
        let together = product(arch, &linear, &rows, Finish::Gelu);
        for (row, expect) in rows.chunks_exact(inputs).zip(together.chunks_exact(outputs)) {
            assert_eq!(product(arch, &linear, row, Finish::Gelu), expect);
        }
    }

    #[test]
    fn gelu_is_the_exact_one_and_not_its_tanh_likeness() {
        // A product with the identity, so that the function is reached as the model reaches it.
        let size = 32;
        let mut identity = vec![0.0; size * size];
        (0..size).for_each(|n| identity[n * size + n] = 1.0);
        let arch = Arch::new();
        let linear = Linear::pack(arch, size, &identity, vec![0.0; size]);
        let points: Vec<f32> = (0..size * 90)
            .map(|n| (n as f32 / (size * 45) as f32 - 1.0) * 6.0)
            .collect();
        for block in points.chunks(size * ROW_BLOCK) {
            for (x, got) in block.iter().zip(product(arch, &linear, block, Finish::Gelu)) {
                let x = f64::from(*x);
                let exact = 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt()));
                assert!((f64::from(got) - exact).abs() < 1e-6, "gelu({x}) = {got}, not {exact}");
            }
        }
        let far = product(arch, &linear, &[-40.0; 32], Finish::Gelu);
        assert!(far.iter().all(|y| y.abs() < 1e-5), "{far:?}");
    }
}
