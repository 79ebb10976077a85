//! How keys and values lie in the cache: pairs, as two f16 in a word, or as two f32 for exact checks.
//! Twin of `shaders/shared/cache.wgsl`.

use half::f16;

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

    /// Stores a pair as number `at` of the cache.
    #[inline(always)]
    pub fn store(self, cache: &mut [u32], at: usize, (a, b): (f32, f32)) {
        match self {
            Self::F16 => {
                let narrow = |x: f32| u32::from(f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits());
                cache[at] = narrow(a) | narrow(b) << 16;
            }
            Self::F32 => (cache[2 * at], cache[2 * at + 1]) = (a.to_bits(), b.to_bits()),
        }
    }

    /// Reads `out.len() / 2` pairs from pair `at` on.
    #[inline(always)]
    pub fn load(self, cache: &[u32], at: usize, out: &mut [f32]) {
        let words = &cache[at * self.words_per_pair()..][..out.len() / 2 * self.words_per_pair()];
        match self {
            Self::F16 => {
                for (out, &value) in out.iter_mut().zip(bytemuck::cast_slice::<u32, u16>(words)) {
                    *out = crate::quant::widen(value);
                }
            }
            Self::F32 => out.copy_from_slice(bytemuck::cast_slice(words)),
        }
    }
}
