//! Block formats: as in the file, as on the GPU, and the way from one to the other.
//!
//! [`crate::gguf`] says which [`TensorType`] a tensor has; loading repacks it row by row into a [`Layout`], which both
//! executors read. A layout has a **quant plane** (u32 words, `[row][block][word]`) and, for 8- and 4-bit weights, a
//! **scale plane** (u32 words, `[row][word]`, see [`Layout::row_scales`]). GGUF's own blocks (say 18 or 210 bytes) would
//! need unaligned loads in WGSL; these are read as whole `vec4<u32>`.
//!
//! A quantised weight is `s · q − o` with an integer q of 4, 6 or 8 bits; [`Layout::factors`] gives s and o. A super-block's
//! s and o are products f16 · i8, exact in f32, and so is `s · q` but for `Q6_K`, which has no o. One rounding is left:
//! the weights are ggml's to the bit, whether or not a compiler contracts `s · q − o`.

mod ggml;
mod repack;

pub use ggml::GgmlType;
pub use repack::repack;

/// Weights in a block of every layout. Rows are padded with zero weights to a multiple of it.
pub const BLOCK: usize = 32;

/// A tensor's type in the file, of those that we run. The numbers are ggml's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum TensorType {
    /// 32-bit floats.
    F32 = 0,
    /// 16-bit floats (IEEE 754 binary16).
    F16 = 1,
    /// Blocks of 32: f16 d, 4 bits q. `d · (q − 8)`.
    Q4_0 = 2,
    /// Blocks of 32: f16 d and m, 4 bits q. `d · q + m`.
    Q4_1 = 3,
    /// Blocks of 32: f16 d, 5 bits q. `d · (q − 16)`.
    Q5_0 = 6,
    /// Blocks of 32: f16 d and m, 5 bits q. `d · q + m`.
    Q5_1 = 7,
    /// Blocks of 32: f16 d, i8 q. `d · q`.
    Q8_0 = 8,
    /// Super-blocks of 256: f16 d and e; for each 16 weights 4 bits s and m; 2 bits q. `d · s · q − e · m`.
    Q2K = 10,
    /// Super-blocks of 256: f16 d; for each 16 weights 6 bits s; 3 bits q. `d · (s − 32) · (q − 4)`.
    Q3K = 11,
    /// Super-blocks of 256: f16 d and e; for each 32 weights 6 bits s and m; 4 bits q. `d · s · q − e · m`.
    Q4K = 12,
    /// As [`Self::Q4K`] with 5 bits q.
    Q5K = 13,
    /// Super-blocks of 256: f16 d; for each 16 weights i8 s; 6 bits q. `d · s · (q − 32)`.
    Q6K = 14,
    /// Blocks of 32: f16 d, 4 bits that choose q among 16 values of 8 bits. `d · q`.
    Iq4Nl = 20,
    /// Super-blocks of 256: f16 d; for each 32 weights 6 bits s; q as [`Self::Iq4Nl`]. `d · (s − 32) · q`.
    Iq4Xs = 23,
    /// The upper halves of 32-bit floats.
    Bf16 = 30,
}

impl TensorType {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// The type with ggml's number `id`.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == id)
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        ggml::of_known(self).0
    }

    /// Weights in a block.
    pub fn block_len(self) -> usize {
        ggml::of_known(self).1
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        ggml::of_known(self).2
    }
}

/// How weights are packed for the executors. The numbers are those of `shaders/shared`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Layout {
    /// A word is an f32.
    F32 = 0,
    /// A word is two f16, the first in the low half.
    F16 = 1,
    /// A word is two bf16, the first in the low half.
    Bf16 = 2,
    /// A word of quants is four i8, the first in the lowest byte. An f16 s for each block, two a word, the even block
    /// in the low half.
    Q8 = 3,
    /// Word j of a block's quants holds weights 8j to 8j + 7: 8j + b in the low and 8j + 4 + b in the high half of
    /// byte b, so that `w & 0x0f0f0f0f` and `(w >> 4) & 0x0f0f0f0f` each are four neighbours. Scales as [`Self::Q8`],
    /// `o = 8 · s`.
    Q4 = 4,
    /// Quants as [`Self::Q8`]. A word for each block: f16 s, then f16 o.
    Q8Min = 5,
    /// Quants as [`Self::Q4`], scales as [`Self::Q8Min`].
    Q4Min = 6,
    /// Quants as [`Self::Q8`]. Five words for each super-block of 8 blocks: f16 d and e; then for each block i8 a and b,
    /// two pairs a word. `s = d · a`, `o = e · b`.
    K8By32 = 7,
    /// Quants as [`Self::Q4`], scales as [`Self::K8By32`].
    K4By32 = 8,
    /// Quants of 6 bits, q + 32: four words of low bits as [`Self::Q4`], then two words of high bits; of word i, bits 2c
    /// and 2c + 1 of byte b are those of weight 16i + 4c + b. Scales as [`Self::K8By32`], but i8 a and b for each 16
    /// weights: nine words.
    K6By16 = 9,
    /// Quants as [`Self::Q4`], scales as [`Self::K6By16`].
    K4By16 = 10,
}

/// Blocks of 32 in a super-block.
const SUPER: usize = 8;

impl Layout {
    /// All of them, by number.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8,
        Self::Q4,
        Self::Q8Min,
        Self::Q4Min,
        Self::K8By32,
        Self::K4By32,
        Self::K6By16,
        Self::K4By16,
    ];

    /// The layout that keeps every weight of this type as it is.
    pub fn for_type(kind: TensorType) -> Self {
        match kind {
            TensorType::F32 => Self::F32,
            TensorType::F16 => Self::F16,
            TensorType::Bf16 => Self::Bf16,
            TensorType::Q8_0 | TensorType::Q5_0 | TensorType::Iq4Nl => Self::Q8,
            TensorType::Q4_0 => Self::Q4,
            TensorType::Q5_1 => Self::Q8Min,
            TensorType::Q4_1 => Self::Q4Min,
            TensorType::Iq4Xs => Self::K8By32,
            TensorType::Q4K => Self::K4By32,
            TensorType::Q5K | TensorType::Q6K => Self::K6By16,
            TensorType::Q2K | TensorType::Q3K => Self::K4By16,
        }
    }

    /// Whether its words are integers with scales.
    pub fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The layout with this number, as kernels get it among their constants.
    ///
    /// # Panics
    /// If there is none: the numbers come from our own plans, never from a file.
    pub fn from_u32(number: u32) -> Self {
        Self::ALL[number as usize]
    }

    /// u32 words of the quant plane for one block of 32 weights.
    pub const fn words_per_block(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Q8 | Self::Q8Min | Self::K8By32 => 8,
            Self::K6By16 => 6,
            Self::Q4 | Self::Q4Min | Self::K4By32 | Self::K4By16 => 4,
        }
    }

    /// u32 words of the scale plane for one row of `blocks` blocks; 0 if there is none.
    pub const fn row_scales(self, blocks: usize) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 0,
            Self::Q8 | Self::Q4 => blocks.div_ceil(2),
            Self::Q8Min | Self::Q4Min => blocks,
            Self::K8By32 | Self::K4By32 => 5 * blocks.div_ceil(SUPER),
            Self::K6By16 | Self::K4By16 => 9 * blocks.div_ceil(SUPER),
        }
    }

    /// u32 words of the quant plane for `rows` rows of `cols` weights.
    pub const fn quant_words(self, rows: usize, cols: usize) -> usize {
        rows * cols.div_ceil(BLOCK) * self.words_per_block()
    }

    /// u32 words of the scale plane for `rows` rows of `cols` weights.
    pub const fn scale_words(self, rows: usize, cols: usize) -> usize {
        rows * self.row_scales(cols.div_ceil(BLOCK))
    }

    /// `[s, o]` for the first and for the second 16 weights of block `block` of a row: a weight is `s · q − o`.
    /// `scales` is the row's part of the scale plane. Layouts of floats have no use for it.
    ///
    /// # Panics
    /// If the row is too short.
    #[inline(always)] // so that it is compiled for the vector instructions of its caller
    pub fn factors(self, scales: &[u32], block: usize) -> [[f32; 2]; 2] {
        let low = |word: u32| widen(word as u16);
        let high = |word: u32| widen((word >> 16) as u16);
        let byte = |word: u32, index: usize| f32::from((word >> (8 * index)) as i8);
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => [[1.0, 0.0]; 2],
            Self::Q8 | Self::Q4 => {
                let s = low(scales[block / 2] >> (16 * (block % 2)));
                [[s, if matches!(self, Self::Q4) { 8.0 * s } else { 0.0 }]; 2]
            }
            Self::Q8Min | Self::Q4Min => [[low(scales[block]), high(scales[block])]; 2],
            Self::K8By32 | Self::K4By32 => {
                let scales = &scales[5 * (block / SUPER)..][..5];
                let pair = scales[1 + block % SUPER / 2] >> (16 * (block % 2));
                [[low(scales[0]) * byte(pair, 0), high(scales[0]) * byte(pair, 1)]; 2]
            }
            Self::K6By16 | Self::K4By16 => {
                let scales = &scales[9 * (block / SUPER)..][..9];
                let (d, e, pairs) = (low(scales[0]), high(scales[0]), scales[1 + block % SUPER]);
                [[d * byte(pairs, 0), e * byte(pairs, 1)], [d * byte(pairs, 2), e * byte(pairs, 3)]]
            }
        }
    }
}

/// f16 to f32, exactly, for finite values. Unlike `half`'s conversion it has no branch, so that loops vectorise.
#[inline(always)]
pub fn widen(half: u16) -> f32 {
    // f32's exponent counts from 127, f16's from 15.
    const REBIAS: f32 = (1u128 << (127 - 15)) as f32;
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * REBIAS;
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}

/// Unpacks row `row` of a packed matrix with `blocks` blocks a row into the first `blocks · 32` floats of `out`.
///
/// Plain loops: this is what the kernels are judged by. `scales` is not looked at for layouts without them.
///
/// # Panics
/// If a slice is too short.
#[inline(always)] // so that it is compiled for the vector instructions of its caller
pub fn unpack_row(layout: Layout, quants: &[u32], scales: &[u32], row: usize, blocks: usize, out: &mut [f32]) {
    let words = layout.words_per_block();
    let quants = &quants[row * blocks * words..][..blocks * words];
    let scales = &scales[row * layout.row_scales(blocks)..][..layout.row_scales(blocks)];
    let out = &mut out[..blocks * BLOCK];
    match layout {
        Layout::F32 => {
            for (out, word) in out.iter_mut().zip(quants) {
                *out = f32::from_bits(*word);
            }
        }
        Layout::F16 => {
            for (out, word) in out.chunks_exact_mut(2).zip(quants) {
                out[0] = widen(*word as u16);
                out[1] = widen((word >> 16) as u16);
            }
        }
        Layout::Bf16 => {
            for (out, word) in out.chunks_exact_mut(2).zip(quants) {
                out[0] = f32::from_bits(word << 16);
                out[1] = f32::from_bits(word & 0xffff_0000);
            }
        }
        Layout::Q8 | Layout::Q8Min | Layout::K8By32 => {
            let quants: &[i8] = bytemuck::cast_slice(quants);
            for (block, (out, quants)) in out.chunks_exact_mut(BLOCK).zip(quants.chunks_exact(BLOCK)).enumerate() {
                let factors = layout.factors(scales, block);
                for ((out, quants), [s, o]) in out.chunks_exact_mut(16).zip(quants.chunks_exact(16)).zip(factors) {
                    for (out, quant) in out.iter_mut().zip(quants) {
                        *out = s * f32::from(*quant) - o;
                    }
                }
            }
        }
        Layout::K6By16 => {
            for (block, (out, words)) in out.chunks_exact_mut(BLOCK).zip(quants.chunks_exact(6)).enumerate() {
                let factors = layout.factors(scales, block);
                for (at, out) in out.chunks_exact_mut(4).enumerate() {
                    let [s, o] = factors[at / 4];
                    let (low, high) = (words[at / 2] >> (4 * (at % 2)), words[4 + at / 4] >> (2 * (at % 4)));
                    for (byte, out) in out.iter_mut().enumerate() {
                        let quant = low >> (8 * byte) & 15 | (high >> (8 * byte) & 3) << 4;
                        *out = s * (quant as f32 - 32.0) - o;
                    }
                }
            }
        }
        Layout::Q4 | Layout::Q4Min | Layout::K4By32 | Layout::K4By16 => {
            for (block, (out, words)) in out.chunks_exact_mut(BLOCK).zip(quants.chunks_exact(4)).enumerate() {
                let factors = layout.factors(scales, block);
                for (at, (out, word)) in out.chunks_exact_mut(8).zip(words).enumerate() {
                    let [s, o] = factors[at / 2];
                    for byte in 0..4 {
                        let nibbles = word >> (8 * byte);
                        out[byte] = s * (nibbles & 15) as f32 - o;
                        out[byte + 4] = s * (nibbles >> 4 & 15) as f32 - o;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
