//! Some rows times some columns on one core: what of a matrix product is worth making fast.
//!
//! A weight becomes an f32 and is multiplied with its activation; element k of a row goes into sum k mod 8 of eight,
//! which are folded at the end. Neither is contracted, so all ways to get there have the same bits, the shaders' too.

#![allow(
    clippy::needless_range_loop,
    reason = "what counts from 0 to a constant is unrolled, and goes through several arrays"
)]

use std::cell::RefCell;
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use super::packed::{BrainFloats, Bytes, Factors, Floats, Halves, Nibbles, Packed, SixBits, factors, pick};
use super::{CHUNK, Matrix, fold_four};
use crate::platform::{Vectors, Work, vectorised};
use crate::quant::{BLOCK, Layout};

/// Rows at once.
const ROWS: usize = 4;
/// Blocks whose scales are unpacked together.
const GROUP: usize = 8;

/// `out[column][row of the chunk]`, for `count` columns of `x`.
pub(super) struct Chunk<'a> {
    pub(super) matrix: Matrix<'a>,
    /// At most [`CHUNK`].
    pub(super) rows: Range<usize>,
    /// `[column][stride]`, of which whole blocks count.
    pub(super) x: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) out: &'a mut [f32],
}

impl<'a> Chunk<'a> {
    pub(super) fn run(self) {
        const fn number(layout: Layout) -> u32 {
            layout as u32
        }
        match self.matrix.layout {
            Layout::F32 => self.run_as::<Floats>(),
            Layout::F16 => self.run_as::<Halves>(),
            Layout::Bf16 => self.run_as::<BrainFloats>(),
            Layout::Q8 => self.run_as::<Bytes<{ number(Layout::Q8) }>>(),
            Layout::Q8Min => self.run_as::<Bytes<{ number(Layout::Q8Min) }>>(),
            Layout::K8By32 => self.run_as::<Bytes<{ number(Layout::K8By32) }>>(),
            Layout::Q4 => self.run_as::<Nibbles<{ number(Layout::Q4) }>>(),
            Layout::Q4Min => self.run_as::<Nibbles<{ number(Layout::Q4Min) }>>(),
            Layout::K4By32 => self.run_as::<Nibbles<{ number(Layout::K4By32) }>>(),
            Layout::K4By16 => self.run_as::<Nibbles<{ number(Layout::K4By16) }>>(),
            Layout::K6By16 => self.run_as::<SixBits>(),
        }
    }

    fn run_as<P: Packed>(self) {
        vectorised(Product::<P>(self, PhantomData));
    }

    /// A column of `x`; the last one for a number behind it.
    #[inline(always)]
    fn column(&self, column: usize) -> &'a [f32] {
        &self.x[column.min(self.count - 1) * self.stride..]
    }

    /// The rows from `start` on; an incomplete four repeats the last one: what comes of it lies behind the matrix' rows.
    #[inline(always)]
    fn four(&self, start: usize) -> [usize; ROWS] {
        let last = self.rows.end - 1;
        [start, (start + 1).min(last), (start + 2).min(last), (start + 3).min(last)]
    }
}

/// The packed weights of four rows.
struct Four<'a, P: Packed> {
    blocks: [&'a [P::Block]; ROWS],
    /// Those of other rows follow behind.
    scales: [&'a [u32]; ROWS],
    /// All weights of the matrix, and where in them the next four rows are.
    quants: &'a [u32],
    next: usize,
}

impl<'a, P: Packed> Four<'a, P> {
    #[inline(always)]
    fn new(matrix: Matrix<'a>, rows: [usize; ROWS]) -> Self {
        let (words, row_scales) = (matrix.blocks * P::LAYOUT.words_per_block(), P::LAYOUT.row_scales(matrix.blocks));
        let (mut blocks, mut scales) = ([&[][..]; ROWS], [&[][..]; ROWS]);
        for i in 0..ROWS {
            blocks[i] = &bytemuck::cast_slice(&matrix.quants[rows[i] * words..][..words])[..matrix.blocks];
            scales[i] = &matrix.scales[rows[i] * row_scales..];
        }
        Self { blocks, scales, quants: matrix.quants, next: (rows[0] + ROWS) * words }
    }

    /// Asks for weights that are needed soon: rows follow each other, so four rows and a bit further on. Processors see
    /// ahead along one row, or two, but not along four: without this the memory is waited for most of the time.
    #[inline(always)]
    fn prefetch<V: Vectors>(&self, vectors: V, block: usize) {
        const LINE: usize = 16; // words of a line of the cache
        const AHEAD: usize = 1024; // words behind the next four rows
        let words = ROWS * P::LAYOUT.words_per_block();
        for line in 0..words.div_ceil(LINE) {
            vectors.prefetch(self.quants, self.next + AHEAD + block * words + line * LINE);
        }
    }
}

struct Product<'a, P>(Chunk<'a>, PhantomData<P>);

impl<P: Packed> Work for Product<'_, P> {
    #[inline(always)]
    fn run<V: Vectors>(self, vectors: V) {
        let mut chunk = self.0;
        // Two straight from packed were measured with 32 registers only; four there take the compiler apart, see docs/speed-log.md.
        match (chunk.count, V::REGISTERS) {
            (2, 32..) => few::<P, V, 2>(vectors, &mut chunk),
            (..=2, _) => few::<P, V, 1>(vectors, &mut chunk),
            _ => many::<P, V>(vectors, &mut chunk),
        }
    }
}

/// All rows times a few columns, straight from the packed weights, `COLUMNS` at once; an incomplete set of them repeats the last.
#[inline(always)]
fn few<P: Packed, V: Vectors, const COLUMNS: usize>(vectors: V, chunk: &mut Chunk<'_>) {
    for first in (0..chunk.count).step_by(COLUMNS) {
        let mut x = [&[][..]; COLUMNS];
        for (c, x) in x.iter_mut().enumerate() {
            *x = &chunk.column(first + c).as_chunks::<BLOCK>().0[..chunk.matrix.blocks];
        }
        for start in chunk.rows.clone().step_by(ROWS) {
            let all = dot(vectors, &Four::<P>::new(chunk.matrix, chunk.four(start)), x);
            for (c, sums) in all.iter().enumerate().take(chunk.count - first) {
                chunk.out[(first + c) * CHUNK + start - chunk.rows.start..][..ROWS].copy_from_slice(sums);
            }
        }
    }
}

/// Four rows times a few columns: four chains of additions at once for each. `x`: `[column][block]`.
#[inline(always)]
fn dot<P: Packed, V: Vectors, const COLUMNS: usize>(
    vectors: V,
    four: &Four<'_, P>,
    x: [&[[f32; BLOCK]]; COLUMNS],
) -> [[f32; ROWS]; COLUMNS] {
    let mut sums = [[[0.0_f32; 8]; ROWS]; COLUMNS];
    let count = x[0].len();
    for group in 0..count.div_ceil(GROUP) {
        let mut all = [[0.0; 32]; ROWS];
        for i in 0..ROWS {
            all[i] = factors::<P, V>(vectors, four.scales[i], group);
        }
        for (n, block) in (GROUP * group..count.min(GROUP * (group + 1))).enumerate() {
            four.prefetch(vectors, block);
            let mut blocks = [&four.blocks[0][block]; ROWS];
            for i in 1..ROWS {
                blocks[i] = &four.blocks[i][block];
            }
            let mut of_block = [&x[0][block]; COLUMNS];
            for c in 1..COLUMNS {
                of_block[c] = &x[c][block];
            }
            // Written out, because the compiler would not unroll a loop.
            eighth::<P, V, COLUMNS, 0>(vectors, &mut sums, blocks, &all, n, of_block);
            eighth::<P, V, COLUMNS, 1>(vectors, &mut sums, blocks, &all, n, of_block);
            eighth::<P, V, COLUMNS, 2>(vectors, &mut sums, blocks, &all, n, of_block);
            eighth::<P, V, COLUMNS, 3>(vectors, &mut sums, blocks, &all, n, of_block);
        }
    }
    sums.map(fold_all)
}

/// Eight weights of four rows, number `AT` of a block, times their activations.
#[inline(always)]
fn eighth<P: Packed, V: Vectors, const COLUMNS: usize, const AT: usize>(
    vectors: V,
    sums: &mut [Eights; COLUMNS],
    blocks: [&P::Block; ROWS],
    all: &[Factors; ROWS],
    block: usize,
    x: [&[f32; BLOCK]; COLUMNS],
) {
    let w = weights::<P, V, AT>(vectors, blocks, all, block);
    for c in 0..COLUMNS {
        for i in 0..ROWS {
            vectors.add_products(&mut sums[c][i], &w[i], &x[c].as_chunks().0[AT]);
        }
    }
}

/// Eight weights of four rows, number `AT` of a block.
#[inline(always)]
fn weights<P: Packed, V: Vectors, const AT: usize>(
    vectors: V,
    blocks: [&P::Block; ROWS],
    all: &[Factors; ROWS],
    block: usize,
) -> Eights {
    let mut weights = [[0.0; 8]; ROWS];
    for i in 0..ROWS {
        weights[i] = P::weights(vectors, blocks[i], AT, pick::<P>(&all[i], block, AT / 2));
    }
    weights
}

/// Eight neighbours of each of four rows.
type Eights = [[f32; 8]; ROWS];

thread_local! {
    /// Four unpacked rows, one set a core.
    static UNPACKED: RefCell<Vec<Eights>> = const { RefCell::new(Vec::new()) };
}

/// All rows times several columns: four rows are unpacked for all of them.
#[inline(always)]
fn many<P: Packed, V: Vectors>(vectors: V, chunk: &mut Chunk<'_>) {
    let mut unpacked = UNPACKED.take(); // not a closure: it might not be inlined
    unpacked.resize(chunk.matrix.blocks * BLOCK / 8, [[0.0; 8]; ROWS]);
    for start in chunk.rows.clone().step_by(ROWS) {
        unpack(vectors, &Four::<P>::new(chunk.matrix, chunk.four(start)), &mut unpacked);
        let place = start - chunk.rows.start;
        let mut first = 0;
        while first < chunk.count {
            let (chunk, w) = (&mut *chunk, &unpacked[..]);
            // As many sums as stay in the registers.
            first += match (chunk.count - first, V::REGISTERS) {
                (2.., 32..) => Tile::<4> { chunk, w, first, place }.multiply(vectors),
                (2.., 16..) => Tile::<2> { chunk, w, first, place }.multiply(vectors),
                _ => Tile::<1> { chunk, w, first, place }.multiply(vectors),
            };
        }
    }
    UNPACKED.set(unpacked);
}

#[inline(always)]
fn unpack<P: Packed, V: Vectors>(vectors: V, four: &Four<'_, P>, out: &mut [Eights]) {
    for (group, out) in out.chunks_mut(GROUP * BLOCK / 8).enumerate() {
        let mut all = [[0.0; 32]; ROWS];
        for i in 0..ROWS {
            all[i] = factors::<P, V>(vectors, four.scales[i], group);
        }
        for (n, out) in out.as_chunks_mut::<{ BLOCK / 8 }>().0.iter_mut().enumerate() {
            let block = GROUP * group + n;
            four.prefetch(vectors, block);
            let mut blocks = [&four.blocks[0][block]; ROWS];
            for i in 1..ROWS {
                blocks[i] = &four.blocks[i][block];
            }
            // Written out, because the compiler would not unroll a loop.
            out[0] = weights::<P, V, 0>(vectors, blocks, &all, n);
            out[1] = weights::<P, V, 1>(vectors, blocks, &all, n);
            out[2] = weights::<P, V, 2>(vectors, blocks, &all, n);
            out[3] = weights::<P, V, 3>(vectors, blocks, &all, n);
        }
    }
}

/// Four rows times `COLUMNS` columns from `first` on; an incomplete set of them repeats the last.
struct Tile<'a, 'b, const COLUMNS: usize> {
    chunk: &'b mut Chunk<'a>,
    w: &'b [Eights],
    first: usize,
    place: usize,
}

impl<const COLUMNS: usize> Tile<'_, '_, COLUMNS> {
    /// Gives how many columns.
    #[inline(always)]
    fn multiply<V: Vectors>(self, vectors: V) -> usize {
        vectors.apart(self);
        COLUMNS
    }
}

impl<const COLUMNS: usize> Work for Tile<'_, '_, COLUMNS> {
    #[inline(always)]
    fn run<V: Vectors>(self, vectors: V) {
        let Self { chunk, w, first, place } = self;
        let mut x = [&[][..]; COLUMNS];
        for (c, x) in x.iter_mut().enumerate() {
            *x = &chunk.column(first + c).as_chunks::<8>().0[..w.len()];
        }
        let mut sums = [[[0.0_f32; 8]; ROWS]; COLUMNS];
        for (k, w) in w.iter().enumerate() {
            for c in 0..COLUMNS {
                vectors.add_products_of_four(&mut sums[c], w, &x[c][k]);
            }
        }
        for (c, sums) in sums.into_iter().enumerate().take(chunk.count - first) {
            chunk.out[(first + c) * CHUNK + place..][..ROWS].copy_from_slice(&fold_all(sums));
        }
    }
}

/// The sums of the eights.
#[inline(always)]
fn fold_all(sums: Eights) -> [f32; ROWS] {
    // Through memory: where the compiler sees the folds, it interleaves the lanes of all sums in the loop before.
    fold_four(&black_box(sums))
}

#[cfg(test)]
mod tests;
