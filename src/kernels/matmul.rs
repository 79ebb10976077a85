//! The CPU side of every matrix product: rows of packed weights times columns of activations.
//!
//! The product is made in tiles of columns. First the columns are normed; then the cores share the rows, in chunks; then
//! they share the columns again, for what follows the product. One column is multiplied straight from the packed weights
//! (the memory is the limit); more columns unpack four rows and use each weight for all of them. Either way a weight is
//! rounded to f32, and sums run in eight fixed lanes without fused multiply-add, so a result is the same for any number
//! of columns, on every machine, and in the shaders where nothing is contracted.

mod chunk;
mod cut;
mod packed;

use std::cell::RefCell;

use self::chunk::Chunk;
pub use self::cut::{COLUMNS, Cut, MAX_SHARES, MIN_COLUMNS, columns_of, pairs_of, tile};
use crate::executor::cpu::Call;
use crate::platform::{Cores, Vectors, Work, vectorised};
use crate::quant::{BLOCK, Layout};

/// Rows of one chunk.
const CHUNK: usize = 32;
/// Floats of the columns of a tile: so many stay in a core's second cache while the rows pass by.
const TILE_FLOATS: usize = 1 << 16;
/// Multiplications below which another core is not worth waking (about 4 µs of work).
const SERIAL_WORK: usize = 1 << 16;
/// The same for floats that are normed.
const SERIAL_FLOATS: usize = 1 << 14;

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

impl Matrix<'_> {
    /// The rows in so many `vec4` of quants: those of the first part, where a large matrix comes in two; `None` for 0.
    pub fn rows_in(&self, vectors: u32) -> Option<usize> {
        (vectors > 0).then(|| 4 * vectors as usize / (self.blocks * self.layout.words_per_block()))
    }
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
    /// One factor a dimension, padded to whole blocks; for a layer norm the biases follow, or what is in [`Added::gain`], padded alike.
    pub gain: &'a [f32],
    /// Dimensions.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// What the block before added to the columns, which they are normed with; an RMS norm's only.
    pub added: Option<Added<'a>>,
}

impl<'a> Norm<'a> {
    /// The norm of a kernel whose bindings `x` and `gain` are these; `added`: floats from `x` to what the block before added.
    /// Overrides: `LAYER_NORM`, `ADDED`.
    pub fn of(call: &Call<'a>, [x, gain]: [usize; 2], dim: u32, eps: f32, added: u32) -> Self {
        let (gain, dim) = (call.input(gain), dim as usize);
        let added = call.flag("ADDED").then(|| {
            let gain = &gain[dim.next_multiple_of(BLOCK)..];
            Added { values: &call.input(x)[added as usize..], gain, dim, eps }
        });
        Self { is_layer: call.flag("LAYER_NORM"), gain, dim, eps, added }
    }
}

/// What a block added to the residual stream, in models that norm it first: `x + added / rms(added) · gain`.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a> {
    /// As the input's columns.
    pub values: &'a [f32],
    /// One factor a dimension.
    pub gain: &'a [f32],
    /// Dimensions.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl<'a> Added<'a> {
    /// Of the column that begins at so many floats.
    fn at(self, first: usize) -> Self {
        Self { values: &self.values[first..], ..self }
    }

    /// What is added to each value of the column with which `values` begins.
    #[inline(always)]
    pub fn terms(self) -> impl Iterator<Item = f32> + 'a {
        let values = &self.values[..self.gain.len()];
        let inverse = 1.0 / (mean_of(values, self.dim, |value| value * value) + self.eps).sqrt();
        values.iter().zip(self.gain).map(move |(value, gain)| value * inverse * gain)
    }
}

/// Room for normed inputs and products; grows once, then stays.
#[derive(Debug, Default)]
pub struct Scratch {
    normed: Vec<f32>,
    /// `1 / rms` of every column of a tile, or 1.
    factors: Vec<f32>,
    product: Vec<f32>,
    /// For what a kernel makes of the products.
    room: Vec<f32>,
}

impl Scratch {
    /// Room for so many floats that nobody else uses during a dispatch; what stands there is of no meaning.
    pub fn product(&mut self, length: usize) -> &mut [f32] {
        grow(&mut self.product, length)
    }

    /// More room, that a kernel may use while it multiplies; [`Self::put_room`] keeps it for the next.
    pub fn take_room(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.room)
    }

    /// Gives back what [`Self::take_room`] gave.
    pub fn put_room(&mut self, room: Vec<f32>) {
        self.room = room;
    }
}

/// Multiplies the first `rows` rows of `matrix` with every column; hands each column's number and products, with what
/// `outputs` has for the column, to `epilogue`. `outputs`: one for each column.
pub fn matmul<O: Send>(
    matrix: Matrix<'_>,
    rows: usize,
    input: Input<'_>,
    cores: &Cores,
    scratch: &mut Scratch,
    outputs: impl ExactSizeIterator<Item = O> + Send,
    epilogue: impl Fn(usize, &mut [f32], O) + Sync,
) {
    let width = matrix.blocks * BLOCK;
    let tile = (TILE_FLOATS / width).clamp(16, 128);
    let Scratch { normed, factors, product, .. } = scratch;
    let mut outputs = outputs;
    for first in (0..input.columns).step_by(tile) {
        let count = tile.min(input.columns - first);
        let x = &input.x[first * input.stride..];
        let factors = grow(factors, count);
        let (x, stride) = match input.norm {
            None => {
                factors.fill(1.0);
                (x, input.stride)
            }
            Some(norm) => {
                let normed = grow(normed, count * width);
                let columns = normed.chunks_exact_mut(width).zip(x.chunks(input.stride)).zip(&mut *factors);
                let apply = |(c, ((normed, x), factor)): (usize, ((_, &[f32]), _))| {
                    let added = norm.added.map(|added| added.at((first + c) * input.stride));
                    vectorised(Apply { norm: Norm { added, ..norm }, x: &x[..width], normed, factor });
                };
                let columns = columns.enumerate();
                if count * width < SERIAL_FLOATS {
                    columns.for_each(apply);
                } else {
                    cores.each(columns, apply);
                }
                (&*normed, width)
            }
        };
        let chunks = rows.div_ceil(CHUNK);
        let product = grow(product, chunks * CHUNK * count);
        // A few parts for each core, so that none waits long for another.
        let least = (SERIAL_WORK / (CHUNK * width * count)).max(1);
        let together = chunks.div_ceil(4 * cores.count()).max(least);
        cores.each(product.chunks_mut(together * CHUNK * count).enumerate(), |(part, out)| {
            for (n, out) in out.chunks_exact_mut(CHUNK * count).enumerate() {
                let start = (part * together + n) * CHUNK;
                Chunk { matrix, rows: start..(start + CHUNK).min(rows), x, stride, count, out }.run();
            }
        });
        let columns = outputs.by_ref().take(count).zip(&*factors);
        if count == 1 {
            for (output, factor) in columns {
                let products = &mut product[..rows];
                products.iter_mut().for_each(|product| *product *= factor);
                epilogue(first, products, output);
            }
            continue;
        }
        let product = &*product;
        cores.each(columns.enumerate(), |(c, (output, factor))| {
            let mut gathered = GATHERED.take();
            let chunks = product.chunks_exact(CHUNK).skip(c).step_by(count);
            for (gathered, chunk) in
                grow(&mut gathered, rows.next_multiple_of(CHUNK)).chunks_exact_mut(CHUNK).zip(chunks)
            {
                gathered.iter_mut().zip(chunk).for_each(|(gathered, product)| *gathered = product * factor);
            }
            epilogue(first + c, &mut gathered[..rows], output);
            GATHERED.set(gathered);
        });
    }
}

thread_local! {
    /// The products of one column, one set a core.
    static GATHERED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn grow(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// Norms a column: writes what goes into the product, and the factor on what comes out.
struct Apply<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    normed: &'a mut [f32],
    factor: &'a mut f32,
}

impl Work for Apply<'_> {
    #[inline(always)]
    fn run<V: Vectors>(self, _: V) {
        let Self { norm, x, normed, factor } = self;
        let (gain, bias) = norm.gain.split_at(x.len());
        if !norm.is_layer {
            let squares = if let Some(added) = norm.added {
                for ((normed, x), term) in normed.iter_mut().zip(x).zip(added.terms()) {
                    *normed = x + term;
                }
                let squares = mean_of(normed, norm.dim, |x| x * x);
                normed.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
                squares
            } else {
                for ((normed, x), gain) in normed.iter_mut().zip(x).zip(gain) {
                    *normed = x * gain;
                }
                mean_of(x, norm.dim, |x| x * x)
            };
            *factor = 1.0 / (squares + norm.eps).sqrt();
            return;
        }
        let mean = mean_of(x, norm.dim, |x| x);
        let variance = mean_of(&x[..norm.dim], norm.dim, |x| (x - mean) * (x - mean));
        let inverse = 1.0 / (variance + norm.eps).sqrt();
        for (((normed, x), gain), bias) in normed.iter_mut().zip(x).zip(gain).zip(bias) {
            *normed = (x - mean) * inverse * gain + bias;
        }
        *factor = 1.0;
    }
}

/// The mean of `f(x)` over `dim` values. The order of `shaders/shared/mean.wgsl`: 64 sums of words of four, eights of them, the
/// eight eights.
#[inline(always)]
fn mean_of(x: &[f32], dim: usize, f: impl Fn(f32) -> f32) -> f32 {
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
    eighths.fold(0.0, add) * (1.0 / dim as f32)
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

/// Four sums at once, each added as [`fold`] does it.
#[inline(always)]
pub fn fold_four(sums: &[[f32; 8]; 4]) -> [f32; 4] {
    let (mut halves, mut all) = ([[0.0_f32; 4]; 4], [0.0; 4]);
    for i in 0..4 {
        for lane in 0..4 {
            halves[i][lane] = sums[i][lane] + sums[i][lane + 4];
        }
    }
    for i in 0..4 {
        all[i] = (halves[i][0] + halves[i][2]) + (halves[i][1] + halves[i][3]);
    }
    all
}
