//! Rows of weights from the types of a safetensors file to those of a GGUF file.
//!
//! The blocks are bit for bit those of ggml's reference (`quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`).

use half::{bf16, f16};

use crate::quant::{BLOCK, TensorType};

/// One row: unpacks `bytes` of type `from` (F32, F16 or BF16), adds `plus` to every weight and packs it as `to`. A row
/// that stays as it is keeps its bytes. `floats` is room for the row; `out` is appended to.
///
/// Halves round to the nearest, ties to even; what is too large for an f16 becomes infinite.
///
/// # Panics
/// If a quantised row is not whole blocks of 32, or `from` is a quantised type: the caller chose them.
pub(super) fn convert(
    from: TensorType,
    bytes: &[u8],
    plus: f32,
    to: TensorType,
    floats: &mut Vec<f32>,
    out: &mut Vec<u8>,
) {
    if from == to && plus == 0.0 {
        return out.extend(bytes);
    }
    floats.clear();
    let halves = || bytes.chunks_exact(2).map(|half| u16::from_le_bytes([half[0], half[1]]));
    match from {
        TensorType::F32 => {
            floats.extend(bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])));
        }
        TensorType::F16 => floats.extend(halves().map(|half| f16::from_bits(half).to_f32())),
        TensorType::Bf16 => floats.extend(halves().map(|half| bf16::from_bits(half).to_f32())),
        other => panic!("no safetensors type: {}", other.name()),
    }
    if plus != 0.0 {
        floats.iter_mut().for_each(|weight| *weight += plus);
    }
    match to {
        TensorType::F32 => out.extend(floats.iter().flat_map(|weight| weight.to_le_bytes())),
        TensorType::F16 => out.extend(floats.iter().flat_map(|&weight| f16::from_f32(weight).to_le_bytes())),
        TensorType::Bf16 => out.extend(floats.iter().flat_map(|&weight| bf16::from_f32(weight).to_le_bytes())),
        TensorType::Q8_0 => blocks(floats).for_each(|block| q8_0(block, out)),
        TensorType::Q4_0 => blocks(floats).for_each(|block| q4_0(block, out)),
        #[allow(unreachable_patterns, reason = "types that are only read")]
        other => panic!("nothing is packed as {}", other.name()),
    }
}

fn blocks(weights: &[f32]) -> impl Iterator<Item = &[f32; BLOCK]> {
    let (blocks, rest) = weights.as_chunks();
    assert!(rest.is_empty(), "{} weights are not whole blocks", weights.len());
    blocks.iter()
}

/// The scale is the largest magnitude over 127; quants round half away from zero.
fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(block.iter().map(|weight| ((weight * inverse).round() as i8).to_le_bytes()[0]));
}

/// The scale is the first weight of the largest magnitude over −8, so that this one is exact; quants are cut off after
/// adding 8.5. Product and sum are rounded one after the other.
fn q4_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let extreme =
        block.iter().fold(0.0_f32, |extreme, &weight| if weight.abs() > extreme.abs() { weight } else { extreme });
    let scale = extreme / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    let quant = |weight: f32| (weight * inverse + 8.5).min(15.0) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(&low, &high)| quant(low) | quant(high) << 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(weights: &[f32], to: TensorType) -> String {
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let mut out = vec![];
        convert(TensorType::F32, &bytes, 0.0, to, &mut vec![], &mut out);
        out.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The expected bytes are those of `gguf.quants.quantize` (gguf 0.19.0).
    #[test]
    fn packs_blocks_as_ggml_does() {
        let ties: Vec<f32> = (0..32).map(|i| ((i * 37 % 64) as f32 - 31.5) / 8.0).collect();
        let equals: Vec<f32> =
            (0..32).map(|i| [(5, -0.3), (9, 0.3)].iter().find(|e| e.0 == i).map_or(0.0, |e| e.1)).collect();
        let fine: Vec<f32> = (0..32).map(|i| (f64::from(i * i * 7919 % 1000) / 1000.0 - 0.5) as f32).collect();
        for (weights, q8_0, q4_0) in [
            (
                &ties,
                "f0278116a93ed267fa8d22b54bde7306992ec257ea7f12a53ace63f6891eb147da6f",
                "e03740d973fc952ec851ea731da63fc862fb",
            ),
            (
                &equals,
                "d6180000000000810000007f00000000000000000000000000000000000000000000",
                "cd288888888888808888888f888888888888",
            ),
            (
                &fine,
                "081c816a2dc63479968950f166b4d6d0a046c417414219c84ba7d8e0bf73ff609aa9",
                "002c409fcbc4ab4fd1206d674ef385e5223c",
            ),
            (
                &vec![0.0; 32],
                "00000000000000000000000000000000000000000000000000000000000000000000",
                "008088888888888888888888888888888888",
            ),
        ] {
            assert_eq!(packed(weights, TensorType::Q8_0), q8_0);
            assert_eq!(packed(weights, TensorType::Q4_0), q4_0);
        }
        let two = [ties.clone(), fine].concat();
        assert_eq!(packed(&two, TensorType::Q4_0)[..36], packed(&ties, TensorType::Q4_0));
        assert_eq!(packed(&[1.5, -2.0], TensorType::F16), "003e00c0");
    }

    #[test]
    fn adds_before_it_packs_and_leaves_the_rest_as_it_is() {
        let row = [1.5_f32, f32::NAN].map(|weight| bf16::from_f32(weight).to_le_bytes()).concat();
        let (mut floats, mut out) = (vec![], vec![]);
        convert(TensorType::Bf16, &row, 0.0, TensorType::Bf16, &mut floats, &mut out);
        assert_eq!(out, row);
        out.clear();
        convert(TensorType::Bf16, &row[..2], 1.0, TensorType::F32, &mut floats, &mut out);
        assert_eq!(out, 2.5_f32.to_le_bytes());
    }
}
