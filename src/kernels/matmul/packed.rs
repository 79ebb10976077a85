//! How each layout packs its weights, said so that it becomes vector instructions: eight neighbours at a time.
//!
//! The plain words for it are [`crate::quant::unpack_row`].

use bytemuck::AnyBitPattern;

use crate::platform::Vectors;
use crate::quant::{Layout, widen};

/// The factors of a group of eight blocks, in an order of each layout's own: see [`pick`].
pub(super) type Factors = [f32; 32];

/// A layout.
pub(super) trait Packed {
    const LAYOUT: Layout;
    /// 32 weights.
    type Block: AnyBitPattern;

    /// Weights 8 · at to 8 · at + 7 of a block; `factors` is what [`pick`] gives for them.
    fn weights<V: Vectors>(vectors: V, block: &Self::Block, at: usize, factors: [f32; 2]) -> [f32; 8];
}

/// Signed bytes: `Q8` and its relatives.
pub(super) struct Bytes<const LAYOUT: u32>;
/// Nibbles: `Q4` and its relatives.
pub(super) struct Nibbles<const LAYOUT: u32>;
/// `K6By16`.
pub(super) struct SixBits;
/// `F32`.
pub(super) struct Floats;
/// `F16`.
pub(super) struct Halves;
/// `Bf16`.
pub(super) struct BrainFloats;

impl<const LAYOUT: u32> Packed for Bytes<LAYOUT> {
    const LAYOUT: Layout = Layout::ALL[LAYOUT as usize];
    type Block = [i8; 32];

    #[inline(always)]
    fn weights<V: Vectors>(vectors: V, block: &[i8; 32], at: usize, factors: [f32; 2]) -> [f32; 8] {
        vectors.bytes(block, at, factors)
    }
}

impl<const LAYOUT: u32> Packed for Nibbles<LAYOUT> {
    const LAYOUT: Layout = Layout::ALL[LAYOUT as usize];
    type Block = [u32; 4];

    #[inline(always)]
    fn weights<V: Vectors>(vectors: V, block: &[u32; 4], at: usize, factors: [f32; 2]) -> [f32; 8] {
        vectors.nibbles(block, at, if is_centred(Self::LAYOUT) { -8 } else { 0 }, factors)
    }
}

impl Packed for SixBits {
    const LAYOUT: Layout = Layout::K6By16;
    type Block = [u32; 6];

    #[inline(always)]
    fn weights<V: Vectors>(_: V, block: &[u32; 6], at: usize, [s, o]: [f32; 2]) -> [f32; 8] {
        const LOW: [u32; 8] = [0, 8, 16, 24, 4, 12, 20, 28];
        const HIGH: [[u32; 8]; 2] = [[0, 8, 16, 24, 2, 10, 18, 26], [4, 12, 20, 28, 6, 14, 22, 30]];
        let mut weights = [0.0; 8];
        for (lane, weight) in weights.iter_mut().enumerate() {
            let low = block[at] >> LOW[lane] & 15;
            let high = block[4 + at / 2] >> HIGH[at % 2][lane] & 3;
            *weight = s * ((low | high << 4) as i32 - 32) as f32 - o;
        }
        weights
    }
}

impl Packed for Floats {
    const LAYOUT: Layout = Layout::F32;
    type Block = [f32; 32];

    #[inline(always)]
    fn weights<V: Vectors>(_: V, block: &[f32; 32], at: usize, _: [f32; 2]) -> [f32; 8] {
        block.as_chunks().0[at]
    }
}

impl Packed for Halves {
    const LAYOUT: Layout = Layout::F16;
    type Block = [[u16; 16]; 2];

    #[inline(always)]
    fn weights<V: Vectors>(vectors: V, block: &[[u16; 16]; 2], at: usize, _: [f32; 2]) -> [f32; 8] {
        vectors.widen(block[at / 2]).as_chunks().0[at % 2]
    }
}

impl Packed for BrainFloats {
    const LAYOUT: Layout = Layout::Bf16;
    type Block = [u16; 32];

    #[inline(always)]
    fn weights<V: Vectors>(_: V, block: &[u16; 32], at: usize, _: [f32; 2]) -> [f32; 8] {
        let mut weights = [0.0; 8];
        for (lane, weight) in weights.iter_mut().enumerate() {
            *weight = f32::from_bits(u32::from(block[8 * at + lane]) << 16);
        }
        weights
    }
}

/// Whether o is always 8 · s, so that `s · q − o` is `s · (q − 8)`; both are exact.
const fn is_centred(layout: Layout) -> bool {
    matches!(layout, Layout::Q4)
}

/// The factors of the eight blocks from 8 · group on, or of as many as the row has. `scales` begins with those of the row.
#[inline(always)]
pub(super) fn factors<P: Packed, V: Vectors>(vectors: V, scales: &[u32], group: usize) -> Factors {
    let mut factors = [0.0; 32];
    match P::LAYOUT {
        Layout::F32 | Layout::F16 | Layout::Bf16 => {}
        Layout::Q8 | Layout::Q4 => widen_words(vectors, &scales[4 * group..], &mut factors),
        Layout::Q8Min | Layout::Q4Min => widen_words(vectors, &scales[8 * group..], &mut factors),
        Layout::K8By32 | Layout::K4By32 => multiply_out::<4>(&scales[5 * group..], &mut factors),
        Layout::K6By16 | Layout::K4By16 => multiply_out::<8>(&scales[9 * group..], &mut factors),
    }
    factors
}

/// `[s, o]` of the first or second half of a block of the group, as [`Layout::factors`] has it; but no o where it is a
/// multiple of s.
#[inline(always)]
pub(super) fn pick<P: Packed>(factors: &Factors, block: usize, half: usize) -> [f32; 2] {
    let at = match P::LAYOUT {
        Layout::F32 | Layout::F16 | Layout::Bf16 => return [1.0, 0.0],
        Layout::Q8 | Layout::Q4 => return [factors[block], 0.0],
        Layout::Q8Min | Layout::Q4Min | Layout::K8By32 | Layout::K4By32 => 2 * block,
        Layout::K6By16 | Layout::K4By16 => 4 * block + 2 * half,
    };
    [factors[at], factors[at + 1]]
}

/// Sixteen f16 from the front of some words.
#[inline(always)]
fn widen_words<V: Vectors>(vectors: V, words: &[u32], factors: &mut Factors) {
    let words = words.first_chunk().copied().unwrap_or_else(|| fill_up(words));
    *factors.first_chunk_mut().expect("16 of 32") = vectors.widen(bytemuck::cast(words));
}

/// Words with zeros behind them.
#[cold]
fn fill_up(words: &[u32]) -> [u32; 8] {
    let mut all = [0; 8];
    all[..words.len()].copy_from_slice(words);
    all
}

/// The factors of a super-block: f16 d and e, then so many words of pairs i8 a and b: d · a, e · b.
#[inline(always)]
fn multiply_out<const WORDS: usize>(scales: &[u32], factors: &mut Factors) {
    let [d, e] = [scales[0] as u16, (scales[0] >> 16) as u16].map(widen);
    for (factors, word) in factors.as_chunks_mut::<4>().0.iter_mut().zip(&scales[1..1 + WORDS]) {
        for (byte, (factor, both)) in factors.iter_mut().zip([d, e, d, e]).enumerate() {
            *factor = both * f32::from((word >> (8 * byte)) as i8);
        }
    }
}
