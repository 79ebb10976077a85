//! Every way to multiply, of every layout, against the definition: [`unpack_row`], and eight sums in plain loops.

use super::*;
use crate::kernels::matmul::fold;
use crate::platform::{WAYS, vectorised_in};
use crate::quant::unpack_row;

/// Not a multiple of four.
const ROWS_IN_ALL: usize = 7;

/// Words without a pattern (splitmix64).
fn noise(len: usize, mask: u32) -> Vec<u32> {
    let word = |index: u64| {
        let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) as u32 & mask
    };
    (1..=len as u64).map(word).collect()
}

/// `[column][row]`.
fn by_definition(matrix: Matrix<'_>, x: &[f32]) -> Vec<[f32; ROWS_IN_ALL]> {
    let width = matrix.blocks * BLOCK;
    let mut products = vec![[0.0; ROWS_IN_ALL]; x.len() / width];
    let mut weights = vec![0.0; width];
    for row in 0..ROWS_IN_ALL {
        unpack_row(matrix.layout, matrix.quants, matrix.scales, row, matrix.blocks, &mut weights);
        for (x, products) in x.chunks_exact(width).zip(&mut products) {
            let mut sums = [0.0_f32; 8];
            for (k, (weight, x)) in weights.iter().zip(x).enumerate() {
                sums[k % 8] += weight * x;
            }
            products[row] = fold(sums);
        }
    }
    products
}

fn every_way_gives_the_same_bits<P: Packed>() {
    const SMALL: u32 = 0xbfff_bfff; // read as f32, f16 or bf16
    let mask = if P::LAYOUT.is_quantised() { u32::MAX } else { SMALL };
    // Less than a group of blocks, a group, and one and a bit.
    for blocks in [3, GROUP, GROUP + 1] {
        let quants = noise(ROWS_IN_ALL * blocks * P::LAYOUT.words_per_block(), mask);
        let scales = noise(ROWS_IN_ALL * P::LAYOUT.row_scales(blocks), SMALL);
        let matrix = Matrix { layout: P::LAYOUT, quants: &quants, scales: &scales, blocks };
        let stride = blocks * BLOCK;
        for count in [1, 2, 3, 5, 8] {
            let x: Vec<f32> = (0..count * stride).map(|k| (1.0 + k as f32).sin()).collect();
            let wanted = by_definition(matrix, &x);
            for way in WAYS {
                let mut out = vec![f32::NAN; count * CHUNK];
                let chunk = Chunk { matrix, rows: 0..ROWS_IN_ALL, x: &x, stride, count, out: &mut out };
                if !vectorised_in(way, Product::<P>(chunk, PhantomData)) {
                    continue;
                }
                for (c, (found, wanted)) in out.chunks_exact(CHUNK).zip(&wanted).enumerate() {
                    assert_eq!(
                        found[..ROWS_IN_ALL].iter().map(|found| found.to_bits()).collect::<Vec<_>>(),
                        wanted.map(f32::to_bits),
                        "{:?}, {way}, {blocks} blocks, column {c} of {count}: {found:?}, not {wanted:?}",
                        P::LAYOUT
                    );
                }
            }
        }
    }
}

#[test]
fn floats() {
    every_way_gives_the_same_bits::<Floats>();
    every_way_gives_the_same_bits::<Halves>();
    every_way_gives_the_same_bits::<BrainFloats>();
}

#[test]
fn bytes() {
    every_way_gives_the_same_bits::<Bytes<{ Layout::Q8 as u32 }>>();
    every_way_gives_the_same_bits::<Bytes<{ Layout::Q8Min as u32 }>>();
    every_way_gives_the_same_bits::<Bytes<{ Layout::K8By32 as u32 }>>();
}

#[test]
fn nibbles() {
    every_way_gives_the_same_bits::<Nibbles<{ Layout::Q4 as u32 }>>();
    every_way_gives_the_same_bits::<Nibbles<{ Layout::Q4Min as u32 }>>();
    every_way_gives_the_same_bits::<Nibbles<{ Layout::K4By32 as u32 }>>();
    every_way_gives_the_same_bits::<Nibbles<{ Layout::K4By16 as u32 }>>();
}

#[test]
fn six_bits() {
    every_way_gives_the_same_bits::<SixBits>();
}
