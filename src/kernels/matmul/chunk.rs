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

impl Chunk<'_> {
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
        if self.count < 3 {
            vectorised(Few::<P>(self, PhantomData));
        } else {
            vectorised(Many::<P>(self, PhantomData));
        }
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

/// One or two columns: straight from the packed weights.
struct Few<'a, P>(Chunk<'a>, PhantomData<P>);

impl<P: Packed> Work for Few<'_, P> {
    #[inline(always)]
    fn run<V: Vectors>(self, vectors: V) {
        let chunk = self.0;
        let width = chunk.matrix.blocks * BLOCK;
        for c in 0..chunk.count {
            let x = &chunk.x[c * chunk.stride..][..width];
            for start in chunk.rows.clone().step_by(ROWS) {
                let sums = dot(vectors, &Four::<P>::new(chunk.matrix, chunk.four(start)), x);
                chunk.out[c * CHUNK + start - chunk.rows.start..][..ROWS].copy_from_slice(&sums);
            }
        }
    }
}

/// Four rows times one column: four chains of additions at once.
#[inline(always)]
fn dot<P: Packed, V: Vectors>(vectors: V, four: &Four<'_, P>, x: &[f32]) -> [f32; ROWS] {
    let mut sums = [[0.0_f32; 8]; ROWS];
    for (group, x) in x.chunks(GROUP * BLOCK).enumerate() {
        let mut all = [[0.0; 32]; ROWS];
        for i in 0..ROWS {
            all[i] = factors::<P, V>(vectors, four.scales[i], group);
        }
        for (n, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let block = GROUP * group + n;
            four.prefetch(vectors, block);
            let mut blocks = [&four.blocks[0][block]; ROWS];
            for i in 1..ROWS {
                blocks[i] = &four.blocks[i][block];
            }
            // Written out, because the compiler would not unroll a loop.
            let x = x.as_chunks::<8>().0;
            eighth::<P, V, 0>(vectors, &mut sums, blocks, &all, n, &x[0]);
            eighth::<P, V, 1>(vectors, &mut sums, blocks, &all, n, &x[1]);
            eighth::<P, V, 2>(vectors, &mut sums, blocks, &all, n, &x[2]);
            eighth::<P, V, 3>(vectors, &mut sums, blocks, &all, n, &x[3]);
        }
    }
    fold_all(sums)
}

/// Eight weights of four rows, number `AT` of a block, times their activations.
#[inline(always)]
fn eighth<P: Packed, V: Vectors, const AT: usize>(
    vectors: V,
    sums: &mut Eights,
    blocks: [&P::Block; ROWS],
    all: &[Factors; ROWS],
    block: usize,
    x: &[f32; 8],
) {
    for i in 0..ROWS {
        let weights = P::weights(vectors, blocks[i], AT, pick::<P>(&all[i], block, AT / 2));
        add_products(&mut sums[i], &weights, x);
    }
}

/// Eight neighbours of each of four rows.
type Eights = [[f32; 8]; ROWS];

thread_local! {
    /// Four unpacked rows, one set a core.
    static UNPACKED: RefCell<Vec<Eights>> = const { RefCell::new(Vec::new()) };
}

/// Several columns: four rows are unpacked for all of them.
struct Many<'a, P>(Chunk<'a>, PhantomData<P>);

impl<P: Packed> Work for Many<'_, P> {
    #[inline(always)]
    fn run<V: Vectors>(self, vectors: V) {
        let mut chunk = self.0;
        let mut unpacked = UNPACKED.take(); // not a closure: it might not be inlined
        unpacked.resize(chunk.matrix.blocks * BLOCK / 8, [[0.0; 8]; ROWS]);
        for start in chunk.rows.clone().step_by(ROWS) {
            unpack(vectors, &Four::<P>::new(chunk.matrix, chunk.four(start)), &mut unpacked);
            let place = start - chunk.rows.start;
            // As many sums as stay in the registers.
            match V::REGISTERS {
                32.. => tiles::<4>(&mut chunk, &unpacked, place),
                16.. => tiles::<2>(&mut chunk, &unpacked, place),
                _ => tiles::<1>(&mut chunk, &unpacked, place),
            }
        }
        UNPACKED.set(unpacked);
    }
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
            for (at, out) in out.iter_mut().enumerate() {
                for i in 0..ROWS {
                    out[i] = P::weights(vectors, &four.blocks[i][block], at, pick::<P>(&all[i], n, at / 2));
                }
            }
        }
    }
}

/// Four rows times all columns, `COLUMNS` at once; an incomplete set of them repeats the last.
#[inline(always)]
fn tiles<const COLUMNS: usize>(chunk: &mut Chunk<'_>, w: &[Eights], place: usize) {
    for first in (0..chunk.count).step_by(COLUMNS) {
        let mut x = [&[][..]; COLUMNS];
        for (c, x) in x.iter_mut().enumerate() {
            let column = (first + c).min(chunk.count - 1);
            *x = &chunk.x[column * chunk.stride..].as_chunks::<8>().0[..w.len()];
        }
        let mut sums = [[[0.0_f32; 8]; ROWS]; COLUMNS];
        for (k, w) in w.iter().enumerate() {
            for c in 0..COLUMNS {
                for i in 0..ROWS {
                    add_products(&mut sums[c][i], &w[i], &x[c][k]);
                }
            }
        }
        for (c, sums) in sums.into_iter().enumerate().take(chunk.count - first) {
            chunk.out[(first + c) * CHUNK + place..][..ROWS].copy_from_slice(&fold_all(sums));
        }
    }
}

#[inline(always)]
fn add_products(sums: &mut [f32; 8], w: &[f32; 8], x: &[f32; 8]) {
    for lane in 0..8 {
        sums[lane] += w[lane] * x[lane];
    }
}

/// The sums of the eights.
#[inline(always)]
fn fold_all(sums: Eights) -> [f32; ROWS] {
    // Through memory: where the compiler sees the folds, it interleaves the lanes of all sums in the loop before.
    fold_four(&black_box(sums))
}
