//! A whole segment leaves the cache for the compressive memory: `M' = M + σ(K)ᵀ V`, `z' = z + Σ σ(k)`.
//!
//! By the delta rule `V − σ(K) M / σ(K) z` takes the place of V, so that what is known already is not added again
//! (Infini-attention, arXiv 2404.07143, eqs. 8 and 9). Un-rotated keys, σ = ELU + 1. All tokens of the segment meet the old M
//! and z, and the new ones are another copy (see [`super::memory`]). The sum over the segment is made first, eight tokens
//! at a time as in the shader, and added to the old once: less is lost in a large memory.

use bytemuck::{Pod, Zeroable};

use super::cache::CacheType;
use super::memory::{MAX_HEAD_DIM, copy_of, place, read as read_memory, sigma, size};
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, wgsl, write};
use crate::plan::Column;
use crate::platform::{Vectors, Work, vectorised};

/// Tokens that are added at once.
const TOKENS: usize = 8;
/// Pairs of values of one workgroup.
pub const PAIRS: u32 = 8;

/// Mirrors `Params` in `shaders/memory_fold.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Pairs of a head: `head_dim / 2`; at most [`MAX_HEAD_DIM`] / 2.
    pub half: u32,
    /// Slots of one head of one lane of the cache.
    pub slots: u32,
    /// Tokens of a segment.
    pub segment: u32,
    /// Copies of the memory; at least 2.
    pub copies: u32,
    /// 0: linear update. 1: delta rule.
    pub delta: u32,
}

/// Grid: (half / [`PAIRS`], `n_kv_heads`, columns). Override: `CACHE_F32`. The columns are the last tokens of the segments.
/// `keys` (un-rotated) and `v` are `[lane][kv_head][slot][half]` pairs; `memory` as in [`super::memory`].
pub const KERNEL: Kernel = Kernel {
    name: "memory_fold",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/cache.wgsl"),
        wgsl!("../../shaders/shared/exp.wgsl"),
        wgsl!("../../shaders/shared/memory.wgsl"),
        wgsl!("../../shaders/memory_fold.wgsl"),
    ],
    variants: &[],
    bindings: &[uniform("params"), uniform("columns"), read("keys"), read("v"), write("memory")],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let columns = call.columns(1);
    let cache = CacheType::from_constant(call.constant("CACHE_F32"));
    let (keys, v) = (call.input::<u32>(2), call.input::<u32>(3));
    let (n_kv_heads, head_dim) = (params.n_kv_heads as usize, 2 * params.half as usize);
    let cores = call.cores();
    let ([memory], scratch) = call.outputs();
    let memory: &mut [f32] = bytemuck::cast_slice_mut(memory);
    let of_copy = n_kv_heads * size(head_dim);
    for column in columns {
        let copy = copy_of(column, params.segment);
        let first = |copy| place(column.lane, params.copies, copy, n_kv_heads, head_dim);
        let new = scratch.product(of_copy);
        let old = (copy > 0).then(|| &memory[first(copy)..][..of_copy]);
        cores.each(new.chunks_exact_mut(size(head_dim)).enumerate(), |(kv_head, new)| {
            let old = old.map(|old| &old[kv_head * size(head_dim)..][..size(head_dim)]);
            vectorised(Fold { params, column, cache, keys, v, kv_head, old, new });
        });
        memory[first(1 + copy % params.copies)..][..of_copy].copy_from_slice(new);
    }
}

/// One key head of one segment.
struct Fold<'a> {
    params: Params,
    /// The segment's last token.
    column: &'a Column,
    cache: CacheType,
    keys: &'a [u32],
    v: &'a [u32],
    kv_head: usize,
    /// M and z before; none: nothing is remembered yet.
    old: Option<&'a [f32]>,
    /// M and z after.
    new: &'a mut [f32],
}

impl Fold<'_> {
    /// The first pair of the segment's token number `n` in the cache.
    #[inline(always)]
    fn pair(&self, n: usize) -> usize {
        let Params { n_kv_heads, half, slots, segment, .. } = self.params;
        let slot = self.column.slot_behind(segment as usize - 1 - n, slots as usize);
        ((self.column.lane * n_kv_heads) as usize + self.kv_head) * (slots * half) as usize + slot * half as usize
    }
}

impl Work for Fold<'_> {
    #[inline(always)]
    fn run<V: Vectors>(self, vectors: V) {
        const WIDEST: usize = MAX_HEAD_DIM as usize;
        let (head_dim, segment) = (2 * self.params.half as usize, self.params.segment as usize);
        let mut room = [[0.0_f32; WIDEST]; 2 * TOKENS + 2];
        let (keys, room) = room.split_at_mut(TOKENS);
        let (values, room) = room.split_at_mut(TOKENS);
        let [known, sum] = room else { return };
        let (known, sum) = (&mut known[..head_dim], &mut sum[..head_dim]);
        self.new.fill(0.0);
        for first in (0..segment).step_by(TOKENS) {
            let count = TOKENS.min(segment - first);
            for (n, (key, value)) in keys.iter_mut().zip(values.iter_mut()).take(count).enumerate() {
                let (key, value) = (&mut key[..head_dim], &mut value[..head_dim]);
                self.cache.load(vectors, self.keys, self.pair(first + n), key);
                self.cache.load(vectors, self.v, self.pair(first + n), value);
                for x in key.iter_mut() {
                    *x = sigma(*x);
                }
                if let Some(old) = self.old.filter(|_| self.params.delta == 1) {
                    read_memory(key, old, known);
                    for (value, known) in value.iter_mut().zip(known.iter()) {
                        *value -= known;
                    }
                }
            }
            let (matrix, normaliser) = self.new.split_at_mut(head_dim * head_dim);
            for ((d, row), z) in matrix.chunks_exact_mut(head_dim).enumerate().zip(normaliser) {
                sum.fill(0.0);
                let mut weights = 0.0_f32;
                for (key, value) in keys.iter().zip(values.iter()).take(count) {
                    for (sum, value) in sum.iter_mut().zip(value) {
                        *sum += key[d] * value;
                    }
                    weights += key[d];
                }
                for (total, sum) in row.iter_mut().zip(sum.iter()) {
                    *total += sum;
                }
                *z += weights;
            }
        }
        if let Some(old) = self.old {
            for (new, old) in self.new.iter_mut().zip(old) {
                *new += old;
            }
        }
    }
}
