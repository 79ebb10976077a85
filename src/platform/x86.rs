//! Intel's and AMD's processors: which vectors there are, and instructions that the compiler does not find by itself.
#![allow(unsafe_code, reason = "instructions that not every processor has; what they do is safe")]

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cvtph_ps,
    _mm256_mul_ps, _mm256_permutex2var_ps, _mm256_set1_epi8, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srlv_epi32, _mm256_sub_ps, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16, _mm256_unpacklo_epi8,
    _mm256_unpacklo_epi16,
};

use bytemuck::cast;

use crate::platform::{Vectors, Work};

/// Runs `work` compiled for AVX-512, if the processor has it; otherwise hands it back.
#[inline(always)]
pub(super) fn with_avx512<W: Work>(work: W) -> Option<W> {
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,bmi2,f16c")]
    fn run(work: impl Work) {
        work.run(Avx::<true>(()));
    }
    let is_here = has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if !is_here {
        return Some(work);
    }
    // SAFETY: just asked for.
    unsafe { run(work) };
    None
}

/// The same for AVX2, and what came with it.
#[inline(always)]
pub(super) fn with_avx2<W: Work>(work: W) -> Option<W> {
    #[target_feature(enable = "avx2,bmi2,f16c")]
    fn run(work: impl Work) {
        work.run(Avx::<false>(()));
    }
    if !has_avx2() {
        return Some(work);
    }
    // SAFETY: just asked for.
    unsafe { run(work) };
    None
}

#[inline(always)]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("f16c")
}

/// AVX2 and F16C, and AVX-512, of which the twice as many registers are worth the most. Made only where there are these.
#[derive(Clone, Copy, Debug)]
struct Avx<const HAS_512: bool>(());

impl<const HAS_512: bool> Vectors for Avx<HAS_512> {
    const REGISTERS: usize = if HAS_512 { 32 } else { 16 };

    #[inline(always)]
    fn nibbles(self, block: &[u32; 4], at: usize, first: i8, factors: [f32; 2]) -> [f32; 8] {
        // SAFETY: there are these instructions where there is this type.
        unsafe { if HAS_512 { look_up(block[at], first, factors) } else { spread(block, at, first, factors) } }
    }

    #[inline(always)]
    fn widen(self, halves: [u16; 16]) -> [f32; 16] {
        // SAFETY: there is F16C where there is this type.
        unsafe {
            let [low, high] = cast(halves);
            cast([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)])
        }
    }

    /// In vectors of eight: the compiler would put others together, and each product from their halves.
    #[inline(always)]
    fn add_products(self, sums: &mut [f32; 8], a: &[f32; 8], b: &[f32; 8]) {
        // SAFETY: there is AVX where there is this type.
        unsafe { *sums = cast(_mm256_add_ps(cast(*sums), _mm256_mul_ps(cast(*a), cast(*b)))) }
    }

    /// With AVX-512 by the compiler, which takes two rows into each vector of sixteen.
    #[inline(always)]
    fn add_products_of_four(self, sums: &mut [[f32; 8]; 4], rows: &[[f32; 8]; 4], x: &[f32; 8]) {
        for i in 0..4 {
            if HAS_512 {
                for lane in 0..8 {
                    sums[i][lane] += rows[i][lane] * x[lane];
                }
            } else {
                self.add_products(&mut sums[i], &rows[i], x);
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, words: &[u32], at: usize) {
        // SAFETY: a hint, which reads nothing and is ignored for an address that cannot be read.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(at).cast());
        }
    }
}

/// The 16 values that there are, then a look-up of eight at once, which sees but the lowest four bits of an index.
///
/// # Safety
/// Where there is AVX-512.
#[inline(always)]
unsafe fn look_up(word: u32, first: i8, [s, o]: [f32; 2]) -> [f32; 8] {
    let (mut low, mut high) = ([0.0_f32; 8], [0.0_f32; 8]);
    for i in 0..8 {
        low[i] = f32::from(first + i as i8);
        high[i] = f32::from(first + i as i8 + 8);
    }
    // SAFETY: there is AVX-512.
    unsafe {
        // In vectors from the beginning: the compiler would take single values apart.
        let (s, o) = (_mm256_set1_ps(s), _mm256_set1_ps(o));
        let low = _mm256_sub_ps(_mm256_mul_ps(s, cast(low)), o);
        let high = _mm256_sub_ps(_mm256_mul_ps(s, cast(high)), o);
        let indices = _mm256_srlv_epi32(cast([word; 8]), cast([0_u32, 8, 16, 24, 4, 12, 20, 28]));
        cast(_mm256_permutex2var_ps(low, indices, high))
    }
}

/// A block's nibbles, made bf16 by looking up either byte, then eight of those widened. What does not depend on `at` is made
/// once for all of a block.
///
/// # Safety
/// Where there is AVX2.
#[inline(always)]
unsafe fn spread(block: &[u32; 4], at: usize, first: i8, [s, o]: [f32; 2]) -> [f32; 8] {
    let mut bytes = [[0_u8; 32]; 2]; // each half of a vector sees its own half
    for i in 0..16 {
        let value = f32::from(first + i as i8).to_bits();
        for at in [i, 16 + i] {
            [bytes[0][at], bytes[1][at]] = [(value >> 16) as u8, (value >> 24) as u8];
        }
    }
    // SAFETY: there is AVX2.
    unsafe {
        let twice = _mm256_broadcastsi128_si256(cast(*block));
        let nibbles = _mm256_srlv_epi32(twice, cast([0_u32, 0, 0, 0, 4, 4, 4, 4]));
        let indices = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
        let [low, high] = bytes.map(|bytes| _mm256_shuffle_epi8(cast(bytes), indices));
        let halves = if at < 2 { _mm256_unpacklo_epi8(low, high) } else { _mm256_unpackhi_epi8(low, high) };
        let zero = _mm256_setzero_si256();
        let values = if at.is_multiple_of(2) {
            _mm256_unpacklo_epi16(zero, halves)
        } else {
            _mm256_unpackhi_epi16(zero, halves)
        };
        cast(_mm256_sub_ps(_mm256_mul_ps(_mm256_set1_ps(s), cast(values)), _mm256_set1_ps(o)))
    }
}
