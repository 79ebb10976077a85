//! An RMS norm over each head of queries and keys, then what [`super::qkv`] does with its products: turned, and into the
//! ring. For models that norm their heads (Qwen3, Gemma 3): the norm needs a whole head.

use bytemuck::{Pod, Zeroable};

use super::cache::CacheType;
use super::heads::Heads;
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, WORKGROUP, read, uniform, wgsl, write};
use crate::quant::BLOCK;

/// Mirrors `Params` in `shaders/head_norm.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Size of a head; even; dimensions of the norm.
    pub head_dim: u32,
    /// How much of a head is rotated; even, at most `head_dim`.
    pub rotary_dim: u32,
    /// 0: pairs are neighbours. 1: halves.
    pub halves: u32,
    /// Floats from one column of `raw` to the next.
    pub stride: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Factor on queries, often `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Factor on what is rotated of queries: `YaRN`'s on queries and keys together.
    pub rope_scale: f32,
    /// Slots of one head of one lane of the cache.
    pub slots: u32,
    /// Columns of the plan.
    pub columns: u32,
}

/// Grid: (`n_heads + 2 · n_kv_heads`, columns). Overrides: `CACHE_F32`, `MEMORY`. `raw` is `[column][stride]`: queries, keys and values in
/// rows; `gain` is `[2][head_dim rounded up to 32]`, of queries and of keys; `q`, `k`, `v` as in [`super::qkv`].
pub const KERNEL: Kernel = Kernel {
    name: "head_norm",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/rope.wgsl"),
        wgsl!("../../shaders/shared/cache.wgsl"),
        wgsl!("../../shaders/shared/heads.wgsl"),
        wgsl!("../../shaders/shared/sum.wgsl"),
        wgsl!("../../shaders/head_norm.wgsl"),
    ],
    variants: &[],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        uniform("rope"),
        read("raw"),
        read("gain"),
        write("q"),
        write("k"),
        write("v"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let columns = call.columns(1);
    let frequencies = call.input::<u32>(2);
    let (raw, gain) = (call.input::<f32>(3), call.input::<f32>(4));
    let cache = CacheType::from_constant(call.constant("CACHE_F32"));
    let memory = call.flag("MEMORY");
    let cores = call.cores();
    let ([q, k, v], scratch) = call.outputs();
    let heads = Heads {
        n_heads: params.n_heads as usize,
        n_kv_heads: params.n_kv_heads as usize,
        head_dim: params.head_dim as usize,
        rotary_dim: params.rotary_dim as usize,
        halves: params.halves == 1,
        scale: params.scale,
        rope_scale: params.rope_scale,
        slots: params.slots as usize,
        frequencies,
        cache,
        memory,
    };
    let head_dim = heads.head_dim;
    let (of_queries, of_keys) = gain.split_at(head_dim.next_multiple_of(BLOCK));
    let mut room = scratch.take_room();
    let targets = heads.targets(params.columns as usize, columns.len(), bytemuck::cast_slice_mut(q), &mut room);
    let normed = scratch.product(columns.len() * heads.count() * head_dim).chunks_exact_mut(heads.count() * head_dim);
    let all = columns.iter().zip(raw.chunks(params.stride as usize)).zip(normed).zip(targets);
    cores.each(all, |(((column, raw), normed), target)| {
        for (head, (raw, normed)) in raw.chunks_exact(head_dim).zip(normed.chunks_exact_mut(head_dim)).enumerate() {
            let gain = match head {
                _ if head < heads.n_heads => of_queries,
                _ if head < heads.n_heads + heads.n_kv_heads => of_keys,
                _ => {
                    normed.copy_from_slice(raw);
                    continue;
                }
            };
            let squares = sum_of_workgroup(|invocation| {
                let (mut even, mut odd) = (0.0_f32, 0.0_f32);
                for pair in raw.chunks_exact(2).skip(invocation).step_by(WORKGROUP as usize) {
                    even += pair[0] * pair[0];
                    odd += pair[1] * pair[1];
                }
                even + odd
            });
            let factor = 1.0 / (squares * (1.0 / head_dim as f32) + params.eps).sqrt();
            for ((normed, raw), gain) in normed.iter_mut().zip(raw).zip(gain) {
                *normed = raw * factor * gain;
            }
        }
        heads.turn(column, 0..heads.count(), normed, target);
    });
    heads.keep(columns, &(0..heads.count()), &mut room, k, v);
    scratch.put_room(room);
}

/// The sum of one value of every invocation of a workgroup, in the order of `shaders/shared/sum.wgsl`.
fn sum_of_workgroup(value: impl Fn(usize) -> f32) -> f32 {
    let add = |sum: f32, value: f32| sum + value;
    let eighth = |first: usize| (first..first + 8).map(&value).fold(0.0, add);
    (0..WORKGROUP as usize).step_by(8).map(eighth).fold(0.0, add)
}
