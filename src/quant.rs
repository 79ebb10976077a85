//! Block formats: as in the file, as on the GPU, and the way from one to the other.
//!
//! [`crate::gguf`] says which [`TensorType`] a tensor has; loading repacks it row by row into a [`Layout`], which both
//! executors read. A layout has a **quant plane** (u32 words, `[row][block][word]`) and, for 8- and 4-bit weights, a
//! **scale plane** (`[row][ceil(blocks / 2)]` u32, two f16 each, the even block in the low half). GGUF's own blocks
//! (18 or 34 bytes, scale first) would need unaligned loads in WGSL; these are read as whole `vec4<u32>`.

mod ggml;

use half::{bf16, f16};

pub use ggml::GgmlType;

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
    /// Blocks of 32: f16 scale d, then 16 bytes q. Weight i is `d · ((qᵢ & 15) − 8)`, weight i + 16 `d · ((qᵢ >> 4) − 8)`.
    Q4_0 = 2,
    /// Blocks of 32: f16 scale d, then 32 i8 q. Weight i is `d · qᵢ`.
    Q8_0 = 8,
    /// The upper halves of 32-bit floats.
    Bf16 = 30,
}

impl TensorType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_0];

    /// The type with ggml's number `id`.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == id)
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// Weights in a block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 => 32,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
        }
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
    /// A word is four i8, the first in the lowest byte; times the block's scale.
    Q8 = 3,
    /// Word j holds weights 8j to 8j + 7: 8j + b in the low and 8j + 4 + b in the high half of byte b, so that
    /// `w & 0x0f0f0f0f` and `(w >> 4) & 0x0f0f0f0f` each are four neighbours. The weight is nibble − 8, times the
    /// block's scale.
    Q4 = 4,
}

impl Layout {
    /// The layout that keeps every weight of this type as it is.
    pub fn for_type(kind: TensorType) -> Self {
        match kind {
            TensorType::F32 => Self::F32,
            TensorType::F16 => Self::F16,
            TensorType::Bf16 => Self::Bf16,
            TensorType::Q8_0 => Self::Q8,
            TensorType::Q4_0 => Self::Q4,
        }
    }

    /// The layout with this number, as kernels get it among their constants.
    ///
    /// # Panics
    /// If there is none: the numbers come from our own plans, never from a file.
    pub fn from_u32(number: u32) -> Self {
        [Self::F32, Self::F16, Self::Bf16, Self::Q8, Self::Q4][number as usize]
    }

    /// u32 words of the quant plane for one block of 32 weights.
    pub const fn words_per_block(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Q8 => 8,
            Self::Q4 => 4,
        }
    }

    /// Whether there is a scale plane.
    pub const fn has_scales(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// u32 words of the quant plane for `rows` rows of `cols` weights.
    pub const fn quant_words(self, rows: usize, cols: usize) -> usize {
        rows * cols.div_ceil(BLOCK) * self.words_per_block()
    }

    /// u32 words of the scale plane for `rows` rows of `cols` weights.
    pub const fn scale_words(self, rows: usize, cols: usize) -> usize {
        if self.has_scales() { rows * cols.div_ceil(BLOCK).div_ceil(2) } else { 0 }
    }
}

/// Packs `rows` rows of `cols` weights, padding columns with zero weights to a multiple of 32.
///
/// `bytes` are the rows as in the file, `cols` a multiple of the type's block. `quants` has
/// [`Layout::quant_words`] words, `[row][block][word]`; `scales` has [`Layout::scale_words`], `[row][ceil(blocks / 2)]`.
/// Rows can be packed a few at a time: each fills its own whole words.
///
/// Bit for bit into the type's own layout; into F32 every type is dequantised exactly (an f16 scale times 8 bits fits
/// in 24).
///
/// # Panics
/// If a slice is shorter than that, or `layout` is neither the type's own nor F32.
pub fn repack(
    kind: TensorType,
    bytes: &[u8],
    rows: usize,
    cols: usize,
    layout: Layout,
    quants: &mut [u32],
    scales: &mut [u32],
) {
    let row_bytes = cols / kind.block_len() * kind.block_bytes();
    debug_assert_eq!(cols % kind.block_len(), 0);
    debug_assert_eq!(bytes.len(), rows * row_bytes);
    debug_assert_eq!(quants.len(), layout.quant_words(rows, cols));
    debug_assert_eq!(scales.len(), layout.scale_words(rows, cols));
    let (row_quants, row_scales) = (layout.quant_words(1, cols), layout.scale_words(1, cols));
    for row in 0..rows {
        let bytes = &bytes[row * row_bytes..][..row_bytes];
        let quants = &mut quants[row * row_quants..][..row_quants];
        let scales = &mut scales[row * row_scales..][..row_scales];
        match (kind, layout) {
            (_, Layout::F32) => repack_f32(kind, bytes, quants),
            (TensorType::F16, Layout::F16) | (TensorType::Bf16, Layout::Bf16) => repack_16(bytes, quants),
            (TensorType::Q8_0, Layout::Q8) => repack_q8(bytes, quants, scales),
            (TensorType::Q4_0, Layout::Q4) => repack_q4(bytes, quants, scales),
            _ => panic!("no way from {} to {layout:?}", kind.name()),
        }
    }
}

/// One row of any type to f32 words.
fn repack_f32(kind: TensorType, bytes: &[u8], words: &mut [u32]) {
    words.fill(0);
    match kind {
        TensorType::F32 => {
            for (word, value) in words.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = le32(value);
            }
        }
        TensorType::F16 => {
            for (word, value) in words.iter_mut().zip(bytes.chunks_exact(2)) {
                *word = f16::from_bits(le16(value)).to_f32().to_bits();
            }
        }
        TensorType::Bf16 => {
            for (word, value) in words.iter_mut().zip(bytes.chunks_exact(2)) {
                *word = bf16::from_bits(le16(value)).to_f32().to_bits();
            }
        }
        TensorType::Q8_0 => {
            for (words, block) in words.chunks_exact_mut(32).zip(bytes.chunks_exact(34)) {
                let scale = f16::from_bits(le16(block)).to_f32();
                for (word, quant) in words.iter_mut().zip(&block[2..]) {
                    *word = (scale * f32::from(*quant as i8)).to_bits();
                }
            }
        }
        TensorType::Q4_0 => {
            for (words, block) in words.chunks_exact_mut(32).zip(bytes.chunks_exact(18)) {
                let scale = f16::from_bits(le16(block)).to_f32();
                let (low, high) = words.split_at_mut(16);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
                    *low = (scale * (f32::from(byte & 15) - 8.0)).to_bits();
                    *high = (scale * (f32::from(byte >> 4) - 8.0)).to_bits();
                }
            }
        }
    }
}

/// One row of 16-bit floats, two a word; an odd last one is followed by zero.
fn repack_16(bytes: &[u8], words: &mut [u32]) {
    words.fill(0);
    for (word, pair) in words.iter_mut().zip(bytes.chunks(4)) {
        let high = if pair.len() == 4 { le16(&pair[2..]) } else { 0 };
        *word = u32::from(le16(pair)) | u32::from(high) << 16;
    }
}

/// One row of `Q8_0`: the quants are already in order.
fn repack_q8(bytes: &[u8], quants: &mut [u32], scales: &mut [u32]) {
    scales.fill(0);
    for (index, (words, block)) in quants.chunks_exact_mut(8).zip(bytes.chunks_exact(34)).enumerate() {
        scales[index / 2] |= u32::from(le16(block)) << (16 * (index % 2));
        for (word, quants) in words.iter_mut().zip(block[2..].chunks_exact(4)) {
            *word = le32(quants);
        }
    }
}

/// One row of `Q4_0`: from byte i = weights i and i + 16 to neighbours in neighbouring bytes.
fn repack_q4(bytes: &[u8], quants: &mut [u32], scales: &mut [u32]) {
    const LOW: u32 = 0x0f0f_0f0f;
    scales.fill(0);
    for (index, (words, block)) in quants.chunks_exact_mut(4).zip(bytes.chunks_exact(18)).enumerate() {
        scales[index / 2] |= u32::from(le16(block)) << (16 * (index % 2));
        // a: weights 0–3 and 16–19; b: 4–7, 20–23; c: 8–11, 24–27; d: 12–15, 28–31
        let [a, b, c, d] = [2, 6, 10, 14].map(|at| le32(&block[at..]));
        words[0] = a & LOW | (b & LOW) << 4;
        words[1] = c & LOW | (d & LOW) << 4;
        words[2] = (a >> 4) & LOW | b & !LOW;
        words[3] = (c >> 4) & LOW | d & !LOW;
    }
}

/// The first two bytes, lowest first.
fn le16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// The first four bytes, lowest first.
fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
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
    let out = &mut out[..blocks * BLOCK];
    let scale = |block: usize| {
        let word = scales[row * blocks.div_ceil(2) + block / 2];
        widen((word >> (16 * (block % 2))) as u16)
    };
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
        Layout::Q8 => {
            for (block, (out, words)) in out.chunks_exact_mut(BLOCK).zip(quants.chunks_exact(8)).enumerate() {
                let scale = scale(block);
                for (out, word) in out.chunks_exact_mut(4).zip(words) {
                    for (byte, out) in out.iter_mut().enumerate() {
                        *out = scale * f32::from((word >> (8 * byte)) as i8);
                    }
                }
            }
        }
        Layout::Q4 => {
            for (block, (out, words)) in out.chunks_exact_mut(BLOCK).zip(quants.chunks_exact(4)).enumerate() {
                let scale = scale(block);
                for (out, word) in out.chunks_exact_mut(8).zip(words) {
                    for byte in 0..4 {
                        let nibbles = word >> (8 * byte);
                        out[byte] = scale * ((nibbles & 15) as f32 - 8.0);
                        out[byte + 4] = scale * ((nibbles >> 4 & 15) as f32 - 8.0);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
