//! Attention of every query over the sinks and the window, heads of a group sharing one read of keys and values.
//!
//! `out = softmax(q · K) · V` over the tokens that the column sees: its `cached` tokens and itself. Which slots
//! these are is arithmetic, so there is no mask: the first `sinks` tokens stand in their slots, the others lie in the
//! ring behind the column's own slot. Sinks meet the second query (see [`super::rope`]).
//!
//! With slopes, a score loses so much per token of distance within the cache (ALiBi, Press et al., arXiv 2108.12409;
//! StreamingLLM §3.2). A reach hides all but the last so-many tokens (layers with a window of their own).
//!
//! Tiles and sums are those of the shader, operation by operation, so that both can have the same bits.

mod attend;

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use self::attend::{Attend, Cache, Heads};
use super::cache::CacheType;
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, write};
use crate::platform::vectorised;

/// Most query heads of one workgroup.
pub const MAX_HEADS: u32 = 8;
/// Most pairs of output of one workgroup: 16 for each invocation.
pub const MAX_ITEMS: u32 = 1024;

/// Mirrors `Params` in `shaders/attention.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Query heads that one workgroup serves: a divisor of `n_heads / n_kv_heads`, at most [`MAX_HEADS`].
    pub heads: u32,
    /// Pairs of a head: `head_dim / 2`; `heads · half` is at most [`MAX_ITEMS`].
    pub half: u32,
    /// Slots of one head of one lane of the cache.
    pub slots: u32,
    /// Columns of the plan.
    pub columns: u32,
    /// Floats from one column of `out` to the next.
    pub stride: u32,
    /// Most tokens that a query sees besides itself, whatever is cached.
    pub reach: u32,
    /// Scores go through `cap · tanh(score / cap)`; 0 for no cap.
    pub cap: f32,
}

/// Grid: (`n_heads / heads`, columns). Override: `CACHE_F32`.
/// `q` as [`super::qkv`] leaves it; `out` is `[column][n_heads][head_dim]`.
pub const KERNEL: Kernel = Kernel {
    name: "attention",
    wgsl: &[
        include_str!("../../shaders/shared/columns.wgsl"),
        include_str!("../../shaders/shared/cache.wgsl"),
        include_str!("../../shaders/shared/exp.wgsl"),
        include_str!("../../shaders/attention.wgsl"),
    ],
    bindings: &[uniform("params"), uniform("columns"), read("q"), read("k"), read("v"), read("slopes"), write("out")],
    twin,
};

/// Columns that one core takes at a time: it reads a key once for all of them.
const BLOCK: usize = 16;
/// Multiplications below which another core is not worth waking.
const SERIAL_WORK: usize = 1 << 16;

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let columns = call.columns(1);
    let cache = Cache {
        kind: CacheType::from_constant(call.constant("CACHE_F32")),
        k: call.input(3),
        v: call.input(4),
        head_dim: 2 * params.half as usize,
        slots: params.slots as usize,
    };
    let q = call.input::<f32>(2);
    let slopes = call.input::<f32>(5);
    let (n_kv_heads, group) = (params.n_kv_heads as usize, (params.n_heads / params.n_kv_heads) as usize);
    let (size, q_size) = (group * cache.head_dim, params.n_heads as usize * cache.head_dim);
    let (q_window, q_sinks) = q.split_at(params.columns as usize * q_size);
    let ([out], scratch) = call.outputs();
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);

    // [block of columns][kv_head][column][group][head_dim]
    let block = BLOCK.min(columns.len()).max(1);
    let room = scratch.product(columns.len().div_ceil(block) * n_kv_heads * block * size);
    let most = columns.iter().map(|column| column.cached as usize + 1).max().unwrap_or(0);
    let min_parts = (SERIAL_WORK / (2 * most * block * size).max(1)).max(1);
    room.par_chunks_exact_mut(block * size).with_min_len(min_parts).enumerate().for_each(|(part, out)| {
        let (first, kv_head) = (part / n_kv_heads * block, part % n_kv_heads);
        let columns = &columns[first..columns.len().min(first + block)];
        let start = first * q_size + kv_head * size;
        let heads = Heads {
            cache: &cache,
            n_kv_heads,
            kv_head,
            queries: [&q_window[start..], &q_sinks[start..]],
            q_size,
            slopes: &slopes[kv_head * group..][..group],
            reach: params.reach as usize,
            cap: params.cap,
        };
        vectorised(Attend { heads, columns, out: &mut out[..columns.len() * size] });
    });
    for (c, out) in out.chunks_exact_mut(params.stride as usize).take(columns.len()).enumerate() {
        for (kv_head, out) in out[..q_size].chunks_exact_mut(size).enumerate() {
            let part = c / block * n_kv_heads + kv_head;
            out.copy_from_slice(&room[(part * block + c % block) * size..][..size]);
        }
    }
}
