//! Where native and browser differ, and nowhere else.

#[cfg(not(target_arch = "wasm32"))]
#[path = "platform/native.rs"]
mod here;
#[cfg(target_arch = "wasm32")]
#[path = "platform/web.rs"]
mod here;
#[cfg(target_arch = "wasm32")]
pub mod web_source;

pub use here::*;

use crate::quant::widen;

/// Work for [`vectorised`]: a struct, because a closure cannot be made to be inlined.
pub trait Work {
    /// Does it. Must be `#[inline(always)]`: what is not inlined is compiled for the plainest processor.
    fn run<V: Vectors>(self, vectors: V);
}

/// What vector instructions there are, and what they do better than the loops over arrays that the compiler turns into
/// vectors. The methods' bodies here say what they compute; a processor's own give the same bits.
pub trait Vectors: Copy {
    /// Vectors of eight floats that fit in the registers.
    const REGISTERS: usize;

    /// Does a part of the work, in a function of its own where that is better.
    #[inline(always)]
    fn apart(self, work: impl Work) {
        work.run(self);
    }

    /// `s · q − o` for bytes 8 · at to 8 · at + 7 of a block.
    #[inline(always)]
    fn bytes(self, block: &[i8; 32], at: usize, [s, o]: [f32; 2]) -> [f32; 8] {
        let mut weights = [0.0; 8];
        for (lane, weight) in weights.iter_mut().enumerate() {
            *weight = s * f32::from(block[8 * at + lane]) - o;
        }
        weights
    }

    /// `s · (q + first) − o` for each 4-bit q of word `at` of a block, packed as [`crate::quant::Layout::Q4`].
    #[inline(always)]
    fn nibbles(self, block: &[u32; 4], at: usize, first: i8, [s, o]: [f32; 2]) -> [f32; 8] {
        const SHIFTS: [u32; 8] = [0, 8, 16, 24, 4, 12, 20, 28];
        let mut weights = [0.0; 8];
        for (weight, shift) in weights.iter_mut().zip(SHIFTS) {
            *weight = s * ((block[at] >> shift & 15) as i32 + i32::from(first)) as f32 - o;
        }
        weights
    }

    /// f16 to f32, exactly, for finite values.
    #[inline(always)]
    fn widen(self, halves: [u16; 16]) -> [f32; 16] {
        let mut wide = [0.0; 16];
        for (wide, half) in wide.iter_mut().zip(halves) {
            *wide = widen(half);
        }
        wide
    }

    /// Adds products, eight by eight.
    #[inline(always)]
    fn add_products(self, sums: &mut [f32; 8], a: &[f32; 8], b: &[f32; 8]) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }

    /// Adds the products of four rows with the same eight.
    #[inline(always)]
    fn add_products_of_four(self, sums: &mut [[f32; 8]; 4], rows: &[[f32; 8]; 4], x: &[f32; 8]) {
        for i in 0..4 {
            self.add_products(&mut sums[i], &rows[i], x);
        }
    }

    /// Says that `words` are soon needed from number `at` on, which may lie behind their end: so many as a line of the cache holds.
    #[inline(always)]
    fn prefetch(self, _words: &[u32], _at: usize) {}
}

/// Nothing but what the compiler makes of loops, for a processor with so many registers.
#[derive(Clone, Copy, Debug)]
pub struct Plain<const REGISTERS: usize>;

impl<const REGISTERS: usize> Vectors for Plain<REGISTERS> {
    const REGISTERS: usize = REGISTERS;
}
