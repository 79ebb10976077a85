//! The CPU side of every matrix product: rows of packed weights times columns of activations.
//!
//! The product is made in tiles: up to 32 columns at once, rows in chunks that the cores share. One column is
//! multiplied straight from the packed weights (the memory is the limit); more columns unpack four rows and use each
//! weight for all of them. Either way a weight is rounded to f32, and sums run in eight fixed lanes without fused
//! multiply-add, so a result is the same for any number of columns, on every machine, and in the shaders where
//! nothing is contracted.

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;

use bytemuck::AnyBitPattern;
use rayon::prelude::*;

use crate::platform::{Work, vectorised};
use crate::quant::{BLOCK, Layout, unpack_row, widen};

/// Columns and row pairs of a workgroup of `shaders/shared/matmul.wgsl`.
pub const COLUMNS: u32 = 32;
/// See [`COLUMNS`].
pub const PAIRS: u32 = 32;
/// Columns of a plan from which on tiles are better than several passes of `shaders/shared/matvec.wgsl` over the weights.
pub const MIN_COLUMNS: u32 = 16;
/// Most shares of sums that `shaders/shared/matvec.wgsl` holds: columns · invocations of a workgroup.
pub const MAX_SHARES: u32 = 512;

/// Rows of one chunk: what a core takes at a time.
const CHUNK: usize = 32;
/// Columns of one tile.
const TILE: usize = 32;
/// Multiplications below which another core is not worth waking (about 10 µs of work).
const SERIAL_WORK: usize = 1 << 16;

/// Packed weights, as [`crate::quant::repack`] leaves them.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// How they are packed.
    pub layout: Layout,
    /// `[rows][blocks][words]`.
    pub quants: &'a [u32],
    /// `[rows][word]`; empty or unused for layouts without scales.
    pub scales: &'a [u32],
    /// Blocks of 32 weights in a row.
    pub blocks: usize,
}

/// The columns that go in: `[column][stride]` floats, of which the first `blocks · 32` count.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The values.
    pub x: &'a [f32],
    /// Floats from one column to the next.
    pub stride: usize,
    /// Columns in use.
    pub columns: usize,
    /// The norm to apply first.
    pub norm: Option<Norm<'a>>,
}

/// RMS norm: `x / rms(x) · gain`, `rms² = mean(x²) + eps`. What is multiplied is `x · gain`; `1 / rms` is a factor on the
/// products. Layer norm: `(x − mean) / sqrt(variance + eps) · gain + bias`, all of it before the product.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Layer norm instead of RMS norm.
    pub is_layer: bool,
    /// One factor a dimension, padded to whole blocks; for a layer norm the biases follow, padded alike.
    pub gain: &'a [f32],
    /// Dimensions.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// Room for normed inputs and products; grows once, then stays.
#[derive(Debug, Default)]
pub struct Scratch {
    normed: Vec<f32>,
    product: Vec<f32>,
}

impl Scratch {
    /// Room for so many floats that nobody else uses during a dispatch; what stands there is of no meaning.
    pub fn product(&mut self, length: usize) -> &mut [f32] {
        grow(&mut self.product, length);
        &mut self.product[..length]
    }
}

/// What a tile came to: value `(column, row)`, columns counted from the tile's first.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    values: &'a [f32],
    columns: usize,
    /// `1 / rms` of every column, or 1.
    factors: [f32; TILE],
}

impl Product<'_> {
    /// Row `row` of column `column`.
    #[inline(always)]
    pub fn at(&self, column: usize, row: usize) -> f32 {
        self.values[(row / CHUNK * self.columns + column) * CHUNK + row % CHUNK] * self.factors[column]
    }
}

/// Multiplies the first `rows` rows of `matrix` with every column; calls `epilogue` with each tile's columns and product.
pub fn matmul(
    matrix: Matrix<'_>,
    rows: usize,
    input: Input<'_>,
    scratch: &mut Scratch,
    mut epilogue: impl FnMut(Range<usize>, Product<'_>),
) {
    let width = matrix.blocks * BLOCK;
    for first in (0..input.columns).step_by(TILE) {
        let columns = first..(first + TILE).min(input.columns);
        let count = columns.len();
        let mut factors = [1.0; TILE];
        let (x, stride) = match input.norm {
            None => (&input.x[first * input.stride..], input.stride),
            Some(norm) => {
                grow(&mut scratch.normed, count * width);
                for (c, normed) in scratch.normed.chunks_exact_mut(width).take(count).enumerate() {
                    let x = &input.x[(first + c) * input.stride..][..width];
                    factors[c] = norm.apply(x, normed);
                }
                (&scratch.normed[..], width)
            }
        };
        let chunks = rows.div_ceil(CHUNK);
        grow(&mut scratch.product, chunks * CHUNK * count);
        let product = &mut scratch.product[..chunks * CHUNK * count];
        let min_chunks = (SERIAL_WORK / (CHUNK * width * count)).max(1);
        product.par_chunks_exact_mut(CHUNK * count).with_min_len(min_chunks).enumerate().for_each(|(chunk, out)| {
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(rows);
            Chunk { matrix, rows, x, stride, count, out }.run();
        });
        epilogue(columns, Product { values: product, columns: count, factors });
    }
}

fn grow(buffer: &mut Vec<f32>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
}

impl Norm<'_> {
    /// Writes what goes into the product and gives the factor on what comes out.
    fn apply(self, x: &[f32], normed: &mut [f32]) -> f32 {
        let (gain, bias) = self.gain.split_at(x.len());
        if !self.is_layer {
            for ((normed, x), gain) in normed.iter_mut().zip(x).zip(gain) {
                *normed = x * gain;
            }
            return 1.0 / (self.mean_of(x, |x| x * x) + self.eps).sqrt();
        }
        let mean = self.mean_of(x, |x| x);
        let variance = self.mean_of(&x[..self.dim], |x| (x - mean) * (x - mean));
        let inverse = 1.0 / (variance + self.eps).sqrt();
        for (((normed, x), gain), bias) in normed.iter_mut().zip(x).zip(gain).zip(bias) {
            *normed = (x - mean) * inverse * gain + bias;
        }
        1.0
    }

    /// The mean of `f(x)`. The order of `shaders/shared/norm.wgsl`: 64 sums of words of four, eights of them, the eight eights.
    fn mean_of(self, x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
        let mut sums = [0.0_f32; 4 * 64];
        for x in x.chunks(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += f(*x);
            }
        }
        let add = |all: f32, sum: f32| all + sum;
        let eighths = sums.as_chunks::<32>().0.iter().map(|eighth| {
            let words = eighth.as_chunks::<4>().0;
            words.iter().map(|word| fold(*word)).fold(0.0, add)
        });
        eighths.fold(0.0, add) * (1.0 / self.dim as f32)
    }
}

thread_local! {
    /// Four unpacked rows, one set a core.
    static UNPACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows times columns: `out[column][row of the chunk]`, for `count` columns.
struct Chunk<'a> {
    matrix: Matrix<'a>,
    rows: Range<usize>,
    x: &'a [f32],
    stride: usize,
    count: usize,
    out: &'a mut [f32],
}

impl Chunk<'_> {
    fn run(self) {
        match self.matrix.layout {
            Layout::F32 => vectorised(OfLayout::<{ Layout::F32 as u32 }>(self)),
            Layout::F16 => vectorised(OfLayout::<{ Layout::F16 as u32 }>(self)),
            Layout::Bf16 => vectorised(OfLayout::<{ Layout::Bf16 as u32 }>(self)),
            Layout::Q8 => vectorised(OfLayout::<{ Layout::Q8 as u32 }>(self)),
            Layout::Q4 => vectorised(OfLayout::<{ Layout::Q4 as u32 }>(self)),
            Layout::Q8Min => vectorised(OfLayout::<{ Layout::Q8Min as u32 }>(self)),
            Layout::Q4Min => vectorised(OfLayout::<{ Layout::Q4Min as u32 }>(self)),
            Layout::K8By32 => vectorised(OfLayout::<{ Layout::K8By32 as u32 }>(self)),
            Layout::K4By32 => vectorised(OfLayout::<{ Layout::K4By32 as u32 }>(self)),
            Layout::K6By16 => vectorised(OfLayout::<{ Layout::K6By16 as u32 }>(self)),
            Layout::K4By16 => vectorised(OfLayout::<{ Layout::K4By16 as u32 }>(self)),
        }
    }
}

/// A chunk whose layout is a constant: with all layouts in one function the compiler vectorises some of them badly
/// (`Q8` took three times as long).
struct OfLayout<'a, const LAYOUT: u32>(Chunk<'a>);

impl<const LAYOUT: u32> Work for OfLayout<'_, LAYOUT> {
    #[inline(always)]
    fn run(self) {
        let Chunk { matrix, rows, x, stride, count, out } = self.0;
        let matrix = Matrix { layout: Layout::ALL[LAYOUT as usize], ..matrix };
        let width = matrix.blocks * BLOCK;
        let first = rows.start;
        if count < 3 {
            for c in 0..count {
                let x = &x[c * stride..][..width];
                for start in rows.clone().step_by(4) {
                    let sums = dot_packed(matrix, [0, 1, 2, 3].map(|i| (start + i).min(rows.end - 1)), x);
                    let count = (rows.end - start).min(4);
                    out[c * CHUNK + start - first..][..count].copy_from_slice(&sums[..count]);
                }
            }
            return;
        }
        let mut unpacked = UNPACKED.take(); // not a closure: it might not be inlined
        grow(&mut unpacked, 4 * width);
        for start in rows.clone().step_by(4) {
            let (w, rest) = unpacked.split_at_mut(width);
            let (w1, rest) = rest.split_at_mut(width);
            let (w2, w3) = rest.split_at_mut(width);
            let w3 = &mut w3[..width];
            let last = rows.end - 1; // the rows of an incomplete four repeat the last one and are not stored
            for (i, w) in [&mut *w, &mut *w1, &mut *w2, &mut *w3].into_iter().enumerate() {
                let row = (start + i).min(last);
                unpack_row(matrix.layout, matrix.quants, matrix.scales, row, matrix.blocks, w);
            }
            for c in (0..count).step_by(2) {
                let second = (c + 1).min(count - 1);
                let sums =
                    dot_4x2([&*w, &*w1, &*w2, &*w3], [&x[c * stride..][..width], &x[second * stride..][..width]]);
                for (i, sums) in sums.iter().enumerate().take(rows.end - start) {
                    out[c * CHUNK + start - first + i] = sums[0];
                    out[second * CHUNK + start - first + i] = sums[1];
                }
            }
        }
        UNPACKED.set(unpacked);
    }
}

/// Four rows times two columns: each loaded weight is used twice, each activation four times. Over arrays of fixed
/// size, because that is what the compiler turns into vectors.
#[inline(always)]
fn dot_4x2(w: [&[f32]; 4], x: [&[f32]; 2]) -> [[f32; 2]; 4] {
    // Eight names, not an array: only so they stay in registers.
    let zero = [0.0_f32; 8];
    let (mut s00, mut s01, mut s10, mut s11) = (zero, zero, zero, zero);
    let (mut s20, mut s21, mut s30, mut s31) = (zero, zero, zero, zero);
    let [w0, w1, w2, w3] = w.map(|w| w.as_chunks::<8>().0);
    let [x0, x1] = x.map(|x| x.as_chunks::<8>().0);
    for (((((w0, w1), w2), w3), x0), x1) in w0.iter().zip(w1).zip(w2).zip(w3).zip(x0).zip(x1) {
        add_products(&mut s00, w0, x0);
        add_products(&mut s01, w0, x1);
        add_products(&mut s10, w1, x0);
        add_products(&mut s11, w1, x1);
        add_products(&mut s20, w2, x0);
        add_products(&mut s21, w2, x1);
        add_products(&mut s30, w3, x0);
        add_products(&mut s31, w3, x1);
    }
    // Through memory: where the compiler sees the folds, it interleaves the lanes of all sums in the loop above.
    black_box([[s00, s01], [s10, s11], [s20, s21], [s30, s31]]).map(|pair| pair.map(fold))
}

#[inline(always)]
fn add_products(sums: &mut [f32; 8], w: &[f32; 8], x: &[f32; 8]) {
    for lane in 0..8 {
        sums[lane] += w[lane] * x[lane];
    }
}

/// The sum of the lanes, in a fixed order.
#[inline(always)]
pub fn fold<const N: usize>(lanes: [f32; N]) -> f32 {
    let mut lanes = lanes;
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Four rows of packed weights times one column: four chains of additions at once. The sums of [`dot_4x2`].
#[inline(always)]
fn dot_packed(matrix: Matrix<'_>, rows: [usize; 4], x: &[f32]) -> [f32; 4] {
    #[inline(always)]
    fn byte(block: &[i8; 32], at: usize, lane: usize, factors: Factors) -> f32 {
        let [s, o] = factors[at / 2];
        s * f32::from(block[8 * at + lane]) - o
    }
    #[inline(always)]
    fn nibble(block: &[u32; 4], at: usize, lane: usize, factors: Factors) -> f32 {
        const SHIFTS: [u32; 8] = [0, 8, 16, 24, 4, 12, 20, 28];
        let [s, o] = factors[at / 2];
        s * (block[at] >> SHIFTS[lane] & 15) as i32 as f32 - o
    }
    #[inline(always)]
    fn six_bits(block: &[u32; 6], at: usize, lane: usize, factors: Factors) -> f32 {
        const LOW: [u32; 8] = [0, 8, 16, 24, 4, 12, 20, 28];
        const HIGH: [[u32; 8]; 2] = [[0, 8, 16, 24, 2, 10, 18, 26], [4, 12, 20, 28, 6, 14, 22, 30]];
        let [s, o] = factors[at / 2];
        let low = block[at] >> LOW[lane] & 15;
        let high = block[4 + at / 2] >> HIGH[at % 2][lane] & 3;
        s * ((low | high << 4) as i32 as f32 - 32.0) - o
    }
    match matrix.layout {
        Layout::F32 => dot_blocks(matrix, rows, x, |block: &[f32; 32], at, lane, _| block[8 * at + lane]),
        Layout::F16 => dot_blocks(matrix, rows, x, |block: &[u16; 32], at, lane, _| widen(block[8 * at + lane])),
        Layout::Bf16 => dot_blocks(matrix, rows, x, |block: &[u16; 32], at, lane, _| {
            f32::from_bits(u32::from(block[8 * at + lane]) << 16)
        }),
        Layout::Q8 | Layout::Q8Min | Layout::K8By32 => dot_blocks(matrix, rows, x, byte),
        Layout::Q4 | Layout::Q4Min | Layout::K4By32 | Layout::K4By16 => dot_blocks(matrix, rows, x, nibble),
        Layout::K6By16 => dot_blocks(matrix, rows, x, six_bits),
    }
}

/// What [`Layout::factors`] gives.
type Factors = [[f32; 2]; 2];

/// As [`dot_packed`]: `weight` is what stands in a block at 8 · at + lane, given its factors.
#[inline(always)]
fn dot_blocks<T: AnyBitPattern, const N: usize>(
    matrix: Matrix<'_>,
    rows: [usize; 4],
    x: &[f32],
    weight: impl Fn(&[T; N], usize, usize, Factors) -> f32,
) -> [f32; 4] {
    let words = matrix.blocks * matrix.layout.words_per_block();
    let quants = rows.map(|row| {
        let packed: &[T] = bytemuck::cast_slice(&matrix.quants[row * words..][..words]);
        &packed.as_chunks::<N>().0[..matrix.blocks]
    });
    let row_scales = matrix.layout.row_scales(matrix.blocks);
    let scales = rows.map(|row| &matrix.scales[row * row_scales..][..row_scales]);
    let mut sums = [[0.0_f32; 8]; 4];
    for (block, x) in x.as_chunks::<BLOCK>().0[..matrix.blocks].iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let quants = &quants[row][block];
            let factors = matrix.layout.factors(scales[row], block);
            for lane in 0..8 {
                // Written out, because a closure might not be inlined.
                sums[lane] += weight(quants, 0, lane, factors) * x[lane];
                sums[lane] += weight(quants, 1, lane, factors) * x[8 + lane];
                sums[lane] += weight(quants, 2, lane, factors) * x[16 + lane];
                sums[lane] += weight(quants, 3, lane, factors) * x[24 + lane];
            }
        }
    }
    black_box(sums).map(fold) // as in `dot_4x2`
}
