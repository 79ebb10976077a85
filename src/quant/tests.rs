//! Hand-computed blocks, and both ways from the file to floats against each other.

use half::f16;

use super::*;

/// Repacks into `layout`, then unpacks every row: `[rows][blocks · 32]`.
fn unpacked(kind: TensorType, bytes: &[u8], rows: usize, cols: usize, layout: Layout) -> Vec<f32> {
    let (quants, scales) = packed(kind, bytes, rows, cols, layout);
    let blocks = cols.div_ceil(BLOCK);
    let mut out = vec![f32::NAN; rows * blocks * BLOCK];
    for (row, out) in out.chunks_exact_mut(blocks * BLOCK).enumerate() {
        unpack_row(layout, &quants, &scales, row, blocks, out);
    }
    out
}

fn packed(kind: TensorType, bytes: &[u8], rows: usize, cols: usize, layout: Layout) -> (Vec<u32>, Vec<u32>) {
    // Filled with ones, so that a word left out shows.
    let mut quants = vec![u32::MAX; layout.quant_words(rows, cols)];
    let mut scales = vec![u32::MAX; layout.scale_words(rows, cols)];
    repack(kind, bytes, rows, cols, layout, &mut quants, &mut scales);
    (quants, scales)
}

/// Weight `k` of a `Q4_0` block, from ggml's definition.
fn q4_0(block: &[u8], k: usize) -> f32 {
    let byte = block[2 + k % 16];
    let nibble = if k < 16 { byte % 16 } else { byte / 16 };
    f16::from_le_bytes([block[0], block[1]]).to_f32() * (i32::from(nibble) - 8) as f32
}

/// Weight `k` of a `Q8_0` block, from ggml's definition.
fn q8_0(block: &[u8], k: usize) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32() * f32::from(i8::from_le_bytes([block[2 + k]]))
}

/// Bytes without a pattern (splitmix64), the scales of blocks of `block_bytes` made finite.
fn noise(len: usize, block_bytes: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u64)
        .map(|index| {
            let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)) as u8
        })
        .collect();
    for block in bytes.chunks_exact_mut(block_bytes) {
        block[1] &= 0xbf; // exponent below 16
    }
    bytes
}

#[test]
fn knows_ggmls_numbers_and_block_sizes() {
    for (id, kind, name, block, layout) in [
        (0, TensorType::F32, "F32", (1, 4), Layout::F32),
        (1, TensorType::F16, "F16", (1, 2), Layout::F16),
        (2, TensorType::Q4_0, "Q4_0", (32, 18), Layout::Q4),
        (3, TensorType::Q4_1, "Q4_1", (32, 20), Layout::Q4Min),
        (6, TensorType::Q5_0, "Q5_0", (32, 22), Layout::Q8),
        (7, TensorType::Q5_1, "Q5_1", (32, 24), Layout::Q8Min),
        (8, TensorType::Q8_0, "Q8_0", (32, 34), Layout::Q8),
        (10, TensorType::Q2K, "Q2_K", (256, 84), Layout::K4By16),
        (11, TensorType::Q3K, "Q3_K", (256, 110), Layout::K4By16),
        (12, TensorType::Q4K, "Q4_K", (256, 144), Layout::K4By32),
        (13, TensorType::Q5K, "Q5_K", (256, 176), Layout::K6By16),
        (14, TensorType::Q6K, "Q6_K", (256, 210), Layout::K6By16),
        (20, TensorType::Iq4Nl, "IQ4_NL", (32, 18), Layout::Q8),
        (23, TensorType::Iq4Xs, "IQ4_XS", (256, 136), Layout::K8By32),
        (30, TensorType::Bf16, "BF16", (1, 2), Layout::Bf16),
    ] {
        assert_eq!(TensorType::from_ggml(id), Some(kind));
        assert_eq!((GgmlType(id).to_string().as_str(), kind.name()), (name, name));
        assert_eq!(GgmlType(id).block(), Some(block));
        assert_eq!((kind.block_len() as u64, kind.block_bytes() as u64), block);
        assert_eq!((Layout::for_type(kind), Layout::from_u32(layout as u32)), (layout, layout));
    }
    assert_eq!((GgmlType(16).tensor_type(), GgmlType(16).block()), (None, Some((256, 66))));
    assert_eq!(GgmlType(16).to_string(), "IQ2_XXS");
    assert_eq!((GgmlType(4).block(), GgmlType(57).block()), (None, None));
    assert_eq!(GgmlType(57).to_string(), "57");
}

#[test]
fn packs_q4_0_so_that_a_mask_gives_neighbours() {
    // Byte i holds weight i = i mod 16 and weight i + 16 = 15 − i.
    let mut block = vec![0x00, 0x38]; // f16 0.5
    block.extend((0..16).map(|i: u8| i | (15 - i) << 4));
    let (quants, scales) = packed(TensorType::Q4_0, &block, 1, 32, Layout::Q4);
    // Weights 0–3 low and 4–7 high; 8–11, 12–15; 16–19, 20–23; 24–27, 28–31.
    assert_eq!(quants, [0x7362_5140, 0xfbea_d9c8, 0x8c9d_aebf, 0x0415_2637]);
    assert_eq!(scales, [0x3800]);
    let weights = unpacked(TensorType::Q4_0, &block, 1, 32, Layout::Q4);
    let expected = (0..32).map(|k| 0.5 * (if k < 16 { k as f32 } else { 31.0 - k as f32 } - 8.0));
    assert_eq!(weights, expected.collect::<Vec<_>>());
}

#[test]
fn packs_q8_0_in_order_with_two_scales_a_word() {
    let mut blocks = Vec::new();
    for (scale, first) in [(0x3c00u16, 0i8), (0xc000, -128), (0x2e66, 96)] {
        blocks.extend(scale.to_le_bytes());
        blocks.extend((0..32).map(|k| first.wrapping_add(k) as u8));
    }
    let (quants, scales) = packed(TensorType::Q8_0, &blocks, 1, 96, Layout::Q8);
    assert_eq!(quants[..2], [0x0302_0100, 0x0706_0504]);
    assert_eq!(quants[8], 0x8382_8180);
    assert_eq!(scales, [0xc000_3c00, 0x0000_2e66]);
    let weights = unpacked(TensorType::Q8_0, &blocks, 1, 96, Layout::Q8);
    assert_eq!(weights[31], 31.0);
    assert_eq!(weights[32..34], [256.0, 254.0]);
    assert_eq!(weights[95], 0.099_975_586 * 127.0);
}

#[test]
fn pads_rows_of_floats_with_zeros() {
    let halves = [0x3c00u16, 0x4000, 0x4200].map(u16::to_le_bytes).concat(); // f16 1, 2, 3
    let (quants, _) = packed(TensorType::F16, &halves, 1, 3, Layout::F16);
    assert_eq!(quants[..3], [0x4000_3c00, 0x4200, 0]);
    let bf16s = [0x3f80u16, 0xc040, 0x7f80, 0x0001].map(u16::to_le_bytes).concat(); // bf16 1, −3, ∞, smallest
    for layout in [Layout::Bf16, Layout::F32] {
        let weights = unpacked(TensorType::Bf16, &bf16s, 2, 2, layout);
        assert_eq!(weights[..3], [1.0, -3.0, 0.0]);
        assert_eq!(weights[32..35], [f32::INFINITY, f32::from_bits(0x1_0000), 0.0]);
    }
    let floats = [1.5f32, -2.5, 3.5].map(f32::to_le_bytes).concat();
    let weights = unpacked(TensorType::F32, &floats, 3, 1, Layout::F32);
    assert_eq!([weights[0], weights[32], weights[64]], [1.5, -2.5, 3.5]);
    assert_eq!(weights.iter().filter(|weight| **weight == 0.0).count(), 93);
}

#[test]
fn every_way_to_floats_agrees_with_ggmls_definition() {
    for (rows, blocks) in [(1, 1), (3, 2), (2, 5)] {
        for (kind, weight) in [(TensorType::Q4_0, q4_0 as fn(&[u8], usize) -> f32), (TensorType::Q8_0, q8_0)] {
            let bytes = noise(rows * blocks * kind.block_bytes(), kind.block_bytes());
            let expected: Vec<f32> =
                bytes.chunks_exact(kind.block_bytes()).flat_map(|block| (0..BLOCK).map(|k| weight(block, k))).collect();
            let cols = blocks * BLOCK;
            for layout in [Layout::for_type(kind), Layout::F32] {
                let found = unpacked(kind, &bytes, rows, cols, layout);
                assert_eq!(found, expected, "{kind:?} {layout:?}");
            }
        }
    }
}

#[test]
fn reads_few_bits_for_a_weight() {
    for (layout, bits) in [
        (Layout::F32, 32.0),
        (Layout::F16, 16.0),
        (Layout::Bf16, 16.0),
        (Layout::Q8, 8.5),
        (Layout::Q4, 4.5),
        (Layout::Q8Min, 9.0),
        (Layout::Q4Min, 5.0),
        (Layout::K8By32, 8.625),
        (Layout::K4By32, 4.625),
        (Layout::K6By16, 7.125),
        (Layout::K4By16, 5.125),
    ] {
        let words = layout.quant_words(3, 512) + layout.scale_words(3, 512);
        assert_eq!(words as f64 * 32.0 / (3.0 * 512.0), bits, "{layout:?}");
    }
}

#[test]
fn packs_rows_a_few_at_a_time() {
    let kind = TensorType::Q4_0;
    let bytes = noise(4 * 3 * 18, 18);
    let whole = packed(kind, &bytes, 4, 96, Layout::Q4);
    let [first, last] = [&bytes[..54], &bytes[54..]].map(|bytes| packed(kind, bytes, bytes.len() / 54, 96, Layout::Q4));
    assert_eq!(whole, ([first.0, last.0].concat(), [first.1, last.1].concat()));
}

#[test]
fn widens_every_finite_half_exactly() {
    for bits in 0..=u16::MAX {
        let half = f16::from_bits(bits);
        if half.is_finite() {
            assert_eq!(widen(bits).to_bits(), half.to_f32().to_bits(), "{bits:#06x}");
        }
    }
}
