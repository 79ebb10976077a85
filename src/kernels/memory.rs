//! The compressive memory of Infini-attention (Munkhdalai et al., arXiv 2404.07143, §3.1): how it lies, which copy of it a
//! column reads, and what queries and keys go through. Twin of `shaders/shared/memory.wgsl`.
//!
//! `[lane][copy][kv_head]`: M `[head_dim][head_dim]`, rows by key, then the normaliser z `[head_dim]`, all f32. Queries and
//! keys reach it un-rotated, in the order of their pairs: a sum over them does not notice the order.
//!
//! Folding a segment writes another copy than it reads: tokens that were computed ahead or are taken back across a border
//! find the memory of their segment as it was, and at the border that of the one before, to fold it once more.

use super::exp::exponential;
use super::sample::MAX_AHEAD;
use crate::model::MAX_TAKE_BACK;
use crate::plan::Column;

/// Largest head: what the shaders have room for.
pub const MAX_HEAD_DIM: u32 = 256;

/// Copies of the memory, for segments of so many tokens.
pub fn copies(segment: u32) -> u32 {
    1 + (MAX_AHEAD + MAX_TAKE_BACK + 1).div_ceil(segment)
}

/// Floats of one copy of one key head.
pub fn size(head_dim: usize) -> usize {
    head_dim * (head_dim + 1)
}

/// The copy that holds what `folded` segments left behind, from 1 on; 0: there is none.
pub fn copy_after(folded: u64, segment: u32) -> u32 {
    match folded.checked_sub(1) {
        None => 0,
        Some(last) => 1 + (last % u64::from(copies(segment))) as u32,
    }
}

/// The copy that a column reads: it brings its number in its capacity.
pub(super) fn copy_of(column: &Column, segment: u32) -> u32 {
    column.capacity / segment
}

/// The first float of a copy (not of copy 0) of key head 0.
pub(super) fn place(lane: u32, copies: u32, copy: u32, n_kv_heads: usize, head_dim: usize) -> usize {
    (lane * copies + copy - 1) as usize * n_kv_heads * size(head_dim)
}

/// ELU + 1 (Katharopoulos et al., arXiv 2006.16236): above 0 everywhere.
#[inline(always)]
pub(super) fn sigma(x: f32) -> f32 {
    if x > 0.0 { x + 1.0 } else { exponential(x) }
}

/// What σ of a query (or key) reads from M and z, into `out [head_dim]`; zero while there is nothing.
#[inline(always)]
pub(super) fn read(sigma: &[f32], memory: &[f32], out: &mut [f32]) {
    let head_dim = sigma.len();
    let (matrix, normaliser) = memory.split_at(head_dim * head_dim);
    let mut total = 0.0_f32;
    out.fill(0.0);
    for ((weight, row), z) in sigma.iter().zip(matrix.chunks_exact(head_dim)).zip(normaliser) {
        for (out, value) in out.iter_mut().zip(row) {
            *out += weight * value;
        }
        total += weight * z;
    }
    let factor = 1.0 / total.max(1e-6);
    for out in out.iter_mut() {
        *out *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_that_can_be_read_once_more_finds_its_memory_overwritten() {
        for segment in [1, 2, 5, 32, 64, 96, 97, 98, 2048] {
            for folded in 0..200_u64 {
                // The tokens that follow the `folded`th border, those that can be read once more, and the one before.
                let reach = u64::from(MAX_AHEAD + MAX_TAKE_BACK + 1);
                let oldest = (folded * u64::from(segment)).saturating_sub(reach) / u64::from(segment);
                let mut seen: Vec<_> = (oldest..=folded).map(|folded| copy_after(folded, segment)).collect();
                let count = seen.len();
                assert!(seen.iter().all(|&copy| copy <= copies(segment)));
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), count, "segment {segment}, {folded} folded");
            }
        }
    }
}
