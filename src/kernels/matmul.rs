//! The CPU side of every matrix product: rows of packed weights times columns of activations.
//!
//! The product is made in tiles: up to 32 columns at once, rows in chunks that the cores share. One column is
//! multiplied straight from the packed weights (the memory is the limit); more columns unpack four rows and use each
//! weight for all of them. Sums run in eight or sixteen fixed lanes without fused multiply-add, so a result is the
//! same on every machine.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::platform::vectorised;
use crate::quant::{BLOCK, Layout, unpack_row, widen};

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
    /// `[rows][ceil(blocks / 2)]`, two f16 a word; empty or unused for layouts without scales.
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
    /// RMS norm to apply first.
    pub norm: Option<Norm<'a>>,
}

/// `x / rms(x) · gain`, `rms² = mean(x²) + eps`.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// One factor a dimension.
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

/// What a tile came to: value `(column, row)`, columns counted from the tile's first.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    values: &'a [f32],
    columns: usize,
}

impl Product<'_> {
    /// Row `row` of column `column`.
    #[inline(always)]
    pub fn at(&self, column: usize, row: usize) -> f32 {
        self.values[(row / CHUNK * self.columns + column) * CHUNK + row % CHUNK]
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
        let (x, stride) = match input.norm {
            None => (&input.x[first * input.stride..], input.stride),
            Some(norm) => {
                grow(&mut scratch.normed, count * width);
                for (c, normed) in scratch.normed.chunks_exact_mut(width).take(count).enumerate() {
                    let x = &input.x[(first + c) * input.stride..][..width];
                    normalise(x, norm, normed);
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
            vectorised(|| multiply_chunk(matrix, rows, x, stride, count, out));
        });
        epilogue(columns, Product { values: product, columns: count });
    }
}

fn grow(buffer: &mut Vec<f32>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
}

fn normalise(x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
    let mut sums = [0.0_f32; 16];
    for x in x.chunks_exact(16) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * x;
        }
    }
    let mean = sums.iter().sum::<f32>() / norm.dim as f32;
    let factor = 1.0 / (mean + norm.eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(norm.gain) {
        *out = x * factor * gain;
    }
}

thread_local! {
    /// Four unpacked rows, one set a core.
    static UNPACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out[column][row of the chunk]`, for `count` columns.
#[inline(always)]
fn multiply_chunk(matrix: Matrix<'_>, rows: Range<usize>, x: &[f32], stride: usize, count: usize, out: &mut [f32]) {
    let width = matrix.blocks * BLOCK;
    let first = rows.start;
    if count < 3 {
        for c in 0..count {
            let x = &x[c * stride..][..width];
            for row in rows.clone() {
                out[c * CHUNK + row - first] = dot_packed(matrix, row, x);
            }
        }
        return;
    }
    UNPACKED.with_borrow_mut(|unpacked| {
        grow(unpacked, 4 * width);
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
                let sums = dot_4x2([w, w1, w2, w3], [&x[c * stride..][..width], &x[second * stride..][..width]]);
                for (i, sums) in sums.iter().enumerate().take(rows.end - start) {
                    out[c * CHUNK + start - first + i] = sums[0];
                    out[second * CHUNK + start - first + i] = sums[1];
                }
            }
        }
    });
}

/// Four rows times two columns: each loaded weight is used twice, each activation four times.
#[inline(always)]
fn dot_4x2(w: [&mut [f32]; 4], x: [&[f32]; 2]) -> [[f32; 2]; 4] {
    let mut sums = [[[0.0_f32; 8]; 2]; 4];
    let blocks = x[0].len() / 8;
    let [w0, w1, w2, w3] = w;
    let rows = [&w0[..blocks * 8], &w1[..blocks * 8], &w2[..blocks * 8], &w3[..blocks * 8]];
    let x = [&x[0][..blocks * 8], &x[1][..blocks * 8]];
    for b in (0..blocks * 8).step_by(8) {
        for (sums, w) in sums.iter_mut().zip(rows) {
            for (sums, x) in sums.iter_mut().zip(x) {
                for lane in 0..8 {
                    sums[lane] += w[b + lane] * x[b + lane];
                }
            }
        }
    }
    sums.map(|sums| sums.map(fold))
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

/// One row of packed weights times one column.
#[inline(always)]
fn dot_packed(matrix: Matrix<'_>, row: usize, x: &[f32]) -> f32 {
    let words = matrix.blocks * matrix.layout.words_per_block();
    let quants = &matrix.quants[row * words..][..words];
    let scale_words = matrix.blocks.div_ceil(2);
    let mut sums = [0.0_f32; 16];
    match matrix.layout {
        Layout::F32 => add_products(&mut sums, bytemuck::cast_slice::<u32, f32>(quants), x, |w| w),
        Layout::F16 => add_products(&mut sums, bytemuck::cast_slice::<u32, u16>(quants), x, widen),
        Layout::Bf16 => {
            add_products(&mut sums, bytemuck::cast_slice::<u32, u16>(quants), x, |w| {
                f32::from_bits(u32::from(w) << 16)
            });
        }
        Layout::Q8 => {
            let scales = &bytemuck::cast_slice::<u32, u16>(matrix.scales)[row * scale_words * 2..];
            let quants = bytemuck::cast_slice::<u32, i8>(quants);
            for ((q, x), &scale) in quants.chunks_exact(BLOCK).zip(x.chunks_exact(BLOCK)).zip(scales) {
                let scale = widen(scale);
                for lane in 0..16 {
                    sums[lane] += scale * (f32::from(q[lane]) * x[lane] + f32::from(q[lane + 16]) * x[lane + 16]);
                }
            }
        }
        Layout::Q4 => {
            let scales = &bytemuck::cast_slice::<u32, u16>(matrix.scales)[row * scale_words * 2..];
            let quants = bytemuck::cast_slice::<u32, u8>(quants);
            for ((q, x), &scale) in quants.chunks_exact(BLOCK / 2).zip(x.chunks_exact(BLOCK)).zip(scales) {
                let scale = widen(scale);
                for (word, x) in q.chunks_exact(4).zip(x.chunks_exact(8)) {
                    for lane in 0..4 {
                        let (low, high) = (f32::from(word[lane] & 15) - 8.0, f32::from(word[lane] >> 4) - 8.0);
                        sums[lane] += scale * (low * x[lane] + high * x[lane + 4]);
                    }
                }
            }
        }
    }
    fold(sums)
}

#[inline(always)]
fn add_products<W: Copy>(sums: &mut [f32; 16], w: &[W], x: &[f32], value: impl Fn(W) -> f32) {
    for (w, x) in w.chunks_exact(16).zip(x.chunks_exact(16)) {
        for lane in 0..16 {
            sums[lane] += value(w[lane]) * x[lane];
        }
    }
}
