//! From the blocks of a file to packed rows. Block formats: `ggml-common.h` and `ggml-quants.c` of ggml, `gguf.quants`.
//!
//! Every block is first spread to one byte a quant, in the order of the weights, and its scales to what the scale plane
//! has for it, 16 bits a piece; packing the bytes into words is then the same for all types.

use super::{BLOCK, Layout, TensorType, unpack_row};

/// The 16 values of the types `IQ4`.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Weights of a super-block, the longest block.
const MAX_LEN: usize = 256;
/// 16-bit pieces that the scale plane has for a block, at most: d, e and 16 pairs of bytes.
const MAX_SCALES: usize = 18;

/// Packs `rows` rows of `cols` weights, padding columns with zero weights to a multiple of 32.
///
/// `bytes` are the rows as in the file, `cols` a multiple of the type's block. `quants` has
/// [`Layout::quant_words`] words, `[row][block][word]`; `scales` has [`Layout::scale_words`], `[row][word]`.
/// Rows can be packed a few at a time: each fills its own whole words.
///
/// Both the type's own layout and F32 give the weights that ggml's dequantisation gives, to the bit.
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
    let own = Layout::for_type(kind);
    assert!(layout == own || layout == Layout::F32, "no way from {} to {layout:?}", kind.name());
    let (row_quants, row_scales) = (layout.quant_words(1, cols), layout.scale_words(1, cols));
    // On the way to F32: one row in the type's own layout.
    let mut packed = vec![0; if layout == own { 0 } else { own.quant_words(1, cols) }];
    let mut packed_scales = vec![0; if layout == own { 0 } else { own.scale_words(1, cols) }];
    for row in 0..rows {
        let bytes = &bytes[row * row_bytes..][..row_bytes];
        let quants = &mut quants[row * row_quants..][..row_quants];
        if layout == own {
            pack_row(kind, bytes, quants, &mut scales[row * row_scales..][..row_scales]);
        } else {
            pack_row(kind, bytes, &mut packed, &mut packed_scales);
            unpack_row(own, &packed, &packed_scales, 0, cols.div_ceil(BLOCK), bytemuck::cast_slice_mut(quants));
        }
    }
}

/// One row into the type's own layout.
fn pack_row(kind: TensorType, bytes: &[u8], words: &mut [u32], scales: &mut [u32]) {
    scales.fill(0);
    match kind {
        TensorType::F32 => {
            words.fill(0);
            for (word, value) in words.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = le32(value);
            }
        }
        TensorType::F16 | TensorType::Bf16 => {
            words.fill(0);
            for (word, pair) in words.iter_mut().zip(bytes.chunks(4)) {
                let high = if pair.len() == 4 { le16(&pair[2..]) } else { 0 };
                *word = u32::from(le16(pair)) | u32::from(high) << 16;
            }
        }
        _ => {
            let layout = Layout::for_type(kind);
            let len = kind.block_len();
            let words = words.chunks_exact_mut(len / BLOCK * layout.words_per_block());
            let (mut quants, mut pieces) = ([0; MAX_LEN], [0; MAX_SCALES]);
            let quants = &mut quants[..len];
            let mut next_scale = 0;
            for (words, block) in words.zip(bytes.chunks_exact(kind.block_bytes())) {
                quants.fill(0);
                let count = spread_block(kind, block, quants, &mut pieces);
                let words = words.chunks_exact_mut(layout.words_per_block());
                for (words, quants) in words.zip(quants.as_chunks::<BLOCK>().0) {
                    pack_block(quants, words);
                }
                for piece in &pieces[..count] {
                    scales[next_scale / 2] |= u32::from(*piece) << (16 * (next_scale % 2));
                    next_scale += 1;
                }
            }
        }
    }
}

/// 32 quants into 8, 6 or 4 words: see [`Layout`].
fn pack_block(quants: &[u8; BLOCK], words: &mut [u32]) {
    let fours: [u32; 8] = std::array::from_fn(|i| le32(&quants[4 * i..]));
    if let Ok(words) = <&mut [u32; 8]>::try_from(&mut *words) {
        *words = fours;
        return;
    }
    let (low, high) = words.split_at_mut(4);
    for (word, fours) in low.iter_mut().zip(fours.as_chunks::<2>().0) {
        *word = fours[0] & 0x0f0f_0f0f | (fours[1] & 0x0f0f_0f0f) << 4;
    }
    for (word, fours) in high.iter_mut().zip(fours.as_chunks::<4>().0) {
        *word = (0..4).fold(0, |word, c| word | (fours[c] >> 4 & 0x0303_0303) << (2 * c));
    }
}

/// A quantised block: its quants into zeroed `q`, in the order of the weights, and what the scale plane has for it into
/// `scales`. Returns how many pieces that are.
fn spread_block(kind: TensorType, block: &[u8], q: &mut [u8], scales: &mut [u16; MAX_SCALES]) -> usize {
    match kind {
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 => 0,
        TensorType::Q8_0 => {
            q.copy_from_slice(&block[2..]);
            scales[0] = le16(block);
            1
        }
        TensorType::Q4_0 => {
            spread(&block[2..18], 4, 0, q);
            scales[0] = le16(block);
            1
        }
        TensorType::Q4_1 => {
            spread(&block[4..20], 4, 0, q);
            minimum(block, scales)
        }
        TensorType::Q5_0 => {
            spread(&block[6..22], 4, 0, q);
            fifth_bits(le32(&block[2..]), q);
            q.iter_mut().for_each(|q| *q = q.wrapping_sub(16));
            scales[0] = le16(block);
            1
        }
        TensorType::Q5_1 => {
            spread(&block[8..24], 4, 0, q);
            fifth_bits(le32(&block[4..]), q);
            minimum(block, scales)
        }
        TensorType::Iq4Nl => {
            spread(&block[2..18], 4, 0, q);
            q.iter_mut().for_each(|q| *q = IQ4[usize::from(*q)] as u8);
            scales[0] = le16(block);
            1
        }
        // scales [16], 2 bits [64], d, e
        TensorType::Q2K => {
            spread_each(&block[16..80], 32, 2, 0, q);
            for (pair, byte) in scales[2..].iter_mut().zip(&block[..16]) {
                *pair = pair_of(byte & 15, byte >> 4);
            }
            super_scales(le16(&block[80..]), le16(&block[82..]), scales, 16)
        }
        // third bits [32], 2 bits [64], scales [12], d; (s − 32) · (q − 4) = (s − 32) · q − 4 · (s − 32)
        TensorType::Q3K => {
            spread_each(&block[32..96], 32, 2, 0, q);
            spread(&block[..32], 1, 2, q);
            for (i, pair) in scales[2..].iter_mut().enumerate() {
                let low = block[96 + i % 8] >> (4 * (i / 8)) & 15;
                let high = block[104 + i % 4] >> (2 * (i / 4)) & 3;
                let scale = (low | high << 4).wrapping_sub(32);
                *pair = pair_of(scale, scale.wrapping_mul(4));
            }
            let d = le16(&block[108..]);
            super_scales(d, d, scales, 16)
        }
        // d, e, scales [12], 4 bits [128]
        TensorType::Q4K => {
            spread_each(&block[16..], 32, 4, 0, q);
            six_bits(&block[4..16], scales);
            super_scales(le16(block), le16(&block[2..]), scales, 8)
        }
        // d, e, scales [12], fifth bits [32], 4 bits [128]
        TensorType::Q5K => {
            spread_each(&block[48..], 32, 4, 0, q);
            spread(&block[16..48], 1, 4, q);
            q.iter_mut().for_each(|q| *q += 32);
            let mut pairs = [0; MAX_SCALES];
            six_bits(&block[4..16], &mut pairs);
            for (twice, pair) in scales[2..].chunks_exact_mut(2).zip(&pairs[2..]) {
                twice.fill(*pair); // one for each half of its 32 weights
            }
            super_scales(le16(block), le16(&block[2..]), scales, 16)
        }
        // low 4 bits [128], high 2 bits [64], scales [16], d
        TensorType::Q6K => {
            spread_each(&block[..128], 64, 4, 0, q);
            spread_each(&block[128..192], 32, 2, 4, q);
            for (pair, scale) in scales[2..].iter_mut().zip(&block[192..208]) {
                *pair = pair_of(*scale, 0);
            }
            super_scales(le16(&block[208..]), 0, scales, 16)
        }
        // d, high bits of the scales (u16), low bits [4], 4 bits [128]
        TensorType::Iq4Xs => {
            spread_each(&block[8..], 16, 4, 0, q);
            q.iter_mut().for_each(|q| *q = IQ4[usize::from(*q)] as u8);
            for (i, pair) in scales[2..10].iter_mut().enumerate() {
                let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
                let high = (le16(&block[2..]) >> (2 * i) & 3) as u8;
                *pair = pair_of((low | high << 4).wrapping_sub(32), 0);
            }
            super_scales(le16(block), 0, scales, 8)
        }
    }
}

/// Bytes of several fields of `bits` bits: the lowest field of every byte in order, then the next one's. Each goes to
/// the place `up` bits up in its quant.
#[inline(always)] // so that the number of bytes is a constant
fn spread(bytes: &[u8], bits: u32, up: u32, q: &mut [u8]) {
    let mask = (1 << bits) - 1;
    for (field, q) in q.chunks_exact_mut(bytes.len()).enumerate() {
        let down = bits * field as u32;
        for (q, byte) in q.iter_mut().zip(bytes) {
            *q |= (byte >> down & mask) << up;
        }
    }
}

/// [`spread`] for each `group` bytes.
#[inline(always)]
fn spread_each(bytes: &[u8], group: usize, bits: u32, up: u32, q: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact(group).zip(q.chunks_exact_mut(group * 8 / bits as usize)) {
        spread(bytes, bits, up, q);
    }
}

/// Bit i of `bits` is the fifth bit of quant i.
fn fifth_bits(bits: u32, q: &mut [u8]) {
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((bits >> i & 1) << 4) as u8;
    }
}

/// d and m of `d · q + m`, as s and o of `s · q − o`.
fn minimum(block: &[u8], scales: &mut [u16; MAX_SCALES]) -> usize {
    scales[0] = le16(block);
    scales[1] = le16(&block[2..]) ^ 0x8000;
    2
}

/// Two bytes of a pair, both read as i8.
fn pair_of(a: u8, b: u8) -> u16 {
    u16::from_le_bytes([a, b])
}

/// The pairs of `Q4_K` and `Q5_K`: 8 scales and 8 minima of 6 bits in 12 bytes. The first four of each are the low bits
/// of bytes 0–3 and 4–7; the others have their low 4 bits in bytes 8–11 and their high 2 above the first ones.
fn six_bits(bytes: &[u8], scales: &mut [u16; MAX_SCALES]) {
    for i in 0..4 {
        scales[2 + i] = pair_of(bytes[i] & 63, bytes[4 + i] & 63);
        scales[6 + i] = pair_of(bytes[8 + i] & 15 | bytes[i] >> 6 << 4, bytes[8 + i] >> 4 | bytes[4 + i] >> 6 << 4);
    }
}

/// The scales of a super-block before its `pairs` pairs.
fn super_scales(d: u16, e: u16, scales: &mut [u16; MAX_SCALES], pairs: usize) -> usize {
    scales[0] = d;
    scales[1] = e;
    2 + pairs
}

/// The first two bytes, lowest first.
fn le16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// The first four bytes, lowest first.
fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
