//! Intel's and AMD's processors: which vectors there are, and instructions that the compiler does not find by itself.
#![allow(unsafe_code, reason = "instructions that not every processor has; what they do is safe")]

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_permutex2var_ps, _mm256_set1_ps,
    _mm256_srlv_epi32, _mm256_sub_ps,
};

use bytemuck::cast;

use crate::platform::{Vectors, Work};

/// Runs `work` compiled for AVX-512, if the processor has it; otherwise hands it back.
#[inline(always)]
pub(super) fn with_avx512<W: Work>(work: W) -> Option<W> {
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,f16c")]
    fn run(work: impl Work) {
        work.run(Avx512(()));
    }
    if !Avx512::is_here() {
        return Some(work);
    }
    // SAFETY: just asked for.
    unsafe { run(work) };
    None
}

/// AVX2: 16 registers of eight floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2;

impl Vectors for Avx2 {
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn prefetch(self, words: &[u32], at: usize) {
        prefetch(words, at);
    }
}

/// AVX-512, of which the twice as many registers are worth the most. Made only where there is AVX-512.
#[derive(Clone, Copy, Debug)]
struct Avx512(());

impl Avx512 {
    #[inline(always)]
    fn is_here() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("f16c")
    }
}

impl Vectors for Avx512 {
    const REGISTERS: usize = 32;

    /// The 16 values that there are, then a look-up of eight at once, which sees but the lowest four bits of an index.
    #[inline(always)]
    fn nibbles(self, word: u32, first: i32, [s, o]: [f32; 2]) -> [f32; 8] {
        let (mut low, mut high) = ([0.0_f32; 8], [0.0_f32; 8]);
        for i in 0..8 {
            low[i] = (first + i as i32) as f32;
            high[i] = (first + i as i32 + 8) as f32;
        }
        // SAFETY: there is AVX-512 where there is an `Avx512`.
        unsafe {
            // In vectors from the beginning: the compiler would take single values apart.
            let (s, o) = (_mm256_set1_ps(s), _mm256_set1_ps(o));
            let low = _mm256_sub_ps(_mm256_mul_ps(s, cast(low)), o);
            let high = _mm256_sub_ps(_mm256_mul_ps(s, cast(high)), o);
            let indices = _mm256_srlv_epi32(cast([word; 8]), cast([0_u32, 8, 16, 24, 4, 12, 20, 28]));
            cast(_mm256_permutex2var_ps(low, indices, high))
        }
    }

    #[inline(always)]
    fn widen(self, halves: [u16; 16]) -> [f32; 16] {
        // SAFETY: there is F16C where there is an `Avx512`.
        unsafe {
            let [low, high] = cast(halves);
            cast([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)])
        }
    }

    /// In vectors of eight: the compiler would make vectors of sixteen of two sums, and put each together from halves.
    #[inline(always)]
    fn add_products(self, sums: &mut [f32; 8], a: &[f32; 8], b: &[f32; 8]) {
        // SAFETY: there is AVX-512 where there is an `Avx512`.
        unsafe { *sums = cast(_mm256_add_ps(cast(*sums), _mm256_mul_ps(cast(*a), cast(*b)))) }
    }

    #[inline(always)]
    fn prefetch(self, words: &[u32], at: usize) {
        prefetch(words, at);
    }
}

#[inline(always)]
fn prefetch(words: &[u32], at: usize) {
    // SAFETY: a hint, which reads nothing and is ignored for an address that cannot be read.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(at).cast());
    }
}
