//! How keys and values lie in the cache: pairs, as two f16 in a word, or as two f32 for exact checks.
//! Twin of `shaders/shared/cache.wgsl`.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::platform::Vectors;
use crate::quant::widen;

/// The number type of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Two f16 in a word, clamped to ±65,504.
    #[default]
    F16,
    /// Two f32 in two words.
    F32,
}

impl CacheType {
    /// From the override `CACHE_F32`.
    pub fn from_constant(constant: u32) -> Self {
        if constant == 0 { Self::F16 } else { Self::F32 }
    }

    /// 32-bit words of one pair.
    pub fn words_per_pair(self) -> usize {
        match self {
            Self::F16 => 1,
            Self::F32 => 2,
        }
    }

    /// Stores pairs from pair `at` on. They are clamped in place.
    pub fn store(self, cache: &mut [u32], at: usize, pairs: &mut [f32]) {
        let words = &mut cache[at * self.words_per_pair()..][..pairs.len() / 2 * self.words_per_pair()];
        match self {
            Self::F16 => {
                pairs.iter_mut().for_each(|value| *value = value.clamp(-65504.0, 65504.0));
                bytemuck::cast_slice_mut::<u32, f16>(words).convert_from_f32_slice(pairs);
            }
            Self::F32 => words.copy_from_slice(bytemuck::cast_slice(pairs)),
        }
    }

    /// Reads `out.len() / 2` pairs from pair `at` on.
    #[inline(always)]
    pub fn load<V: Vectors>(self, vectors: V, cache: &[u32], at: usize, out: &mut [f32]) {
        let words = &cache[at * self.words_per_pair()..][..out.len() / 2 * self.words_per_pair()];
        match self {
            Self::F16 => {
                let (blocks, rest) = out.as_chunks_mut();
                let (packed, packed_rest) = bytemuck::cast_slice::<u32, u16>(words).as_chunks();
                for (block, packed) in blocks.iter_mut().zip(packed) {
                    *block = vectors.widen(*packed);
                }
                for (out, &value) in rest.iter_mut().zip(packed_rest) {
                    *out = widen(value);
                }
            }
            Self::F32 => out.copy_from_slice(bytemuck::cast_slice(words)),
        }
    }
}
