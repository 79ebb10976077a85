//! What the compressive memory remembers, blended with what attention read from the open segment.
//!
//! `out = gate · σ(q) M / σ(q) z + (1 − gate) · out` (Infini-attention, arXiv 2404.07143, eqs. 7 and 10): q un-rotated,
//! σ = ELU + 1, gate = sigmoid of one learned number a query head, M and z as they were before the open segment, one for all
//! query heads of a key head. The column's un-rotated keys are put where [`super::memory_fold`] finds them.

use bytemuck::{Pod, Zeroable};

use super::cache::CacheType;
use super::exp::exponential;
use super::memory::{MAX_HEAD_DIM, copy_of, place, read as read_memory, sigma, size};
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, wgsl, write};
use crate::platform::{Vectors, Work, vectorised};

/// Mirrors `Params` in `shaders/memory_read.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Pairs of a head: `head_dim / 2`; at most [`MAX_HEAD_DIM`] / 2.
    pub half: u32,
    /// Slots of one head of one lane of the cache.
    pub slots: u32,
    /// Columns of the plan.
    pub columns: u32,
    /// Floats from one column of `out` to the next.
    pub stride: u32,
    /// Tokens of a segment.
    pub segment: u32,
    /// Copies of the memory.
    pub copies: u32,
}

/// Grid: (`n_heads`, columns). Override: `CACHE_F32`. `q` as [`super::qkv`] leaves it with `MEMORY`; `gates` is `[n_heads]`, before
/// the sigmoid; `memory` as in [`super::memory`]; `keys` is `[lane][kv_head][slot][half]` pairs; `out` is `[column][n_heads][head_dim]`.
pub const KERNEL: Kernel = Kernel {
    name: "memory_read",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/cache.wgsl"),
        wgsl!("../../shaders/shared/exp.wgsl"),
        wgsl!("../../shaders/shared/memory.wgsl"),
        wgsl!("../../shaders/memory_read.wgsl"),
    ],
    variants: &[],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("q"),
        read("gates"),
        read("memory"),
        write("keys"),
        write("out"),
    ],
    twin,
};

/// Multiplications below which another core is not worth waking.
const SERIAL_WORK: usize = 1 << 16;

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let columns = call.columns(1);
    let (q, gates, memory) = (call.input::<f32>(2), call.input::<f32>(3), call.input::<f32>(4));
    let cache = CacheType::from_constant(call.constant("CACHE_F32"));
    let (n_heads, n_kv_heads, half) = (params.n_heads as usize, params.n_kv_heads as usize, params.half as usize);
    let (head_dim, q_size, of_plan) = (2 * half, 2 * half * n_heads, params.columns as usize);
    let raw_queries = &q[of_plan * q_size..];
    let raw_keys = &q[2 * of_plan * q_size..];
    let cores = call.cores();
    let ([keys, out], scratch) = call.outputs();
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);

    for (c, column) in columns.iter().enumerate() {
        for kv_head in 0..n_kv_heads {
            let row = (column.lane as usize * n_kv_heads + kv_head) * params.slots as usize + column.slot as usize;
            let key = &raw_keys[(c * n_kv_heads + kv_head) * head_dim..][..head_dim];
            let room = scratch.product(head_dim);
            room.copy_from_slice(key);
            cache.store(keys, row * half, room);
        }
    }
    let least = (SERIAL_WORK / (q_size * head_dim)).max(1);
    let blend = |c: usize, out: &mut [f32]| {
        let (column, queries) = (&columns[c], &raw_queries[c * q_size..][..q_size]);
        let copy = copy_of(column, params.segment);
        for (head, out) in out[..q_size].chunks_exact_mut(head_dim).enumerate() {
            let kv_head = head / (n_heads / n_kv_heads);
            let memory = (copy > 0).then(|| {
                let first = place(column.lane, params.copies, copy, n_kv_heads, head_dim);
                &memory[first + kv_head * size(head_dim)..][..size(head_dim)]
            });
            vectorised(Blend { query: &queries[head * head_dim..][..head_dim], memory, gate: gates[head], out });
        }
    };
    let stride = params.stride as usize;
    cores.each(out[..columns.len() * stride].chunks_mut(least * stride).enumerate(), |(part, out)| {
        for (n, out) in out.chunks_exact_mut(stride).enumerate() {
            blend(part * least + n, out);
        }
    });
}

/// One query head of one column.
struct Blend<'a> {
    /// `[head_dim]`, un-rotated.
    query: &'a [f32],
    /// M and z; none: nothing is remembered.
    memory: Option<&'a [f32]>,
    /// Before the sigmoid.
    gate: f32,
    /// `[head_dim]`.
    out: &'a mut [f32],
}

impl Work for Blend<'_> {
    #[inline(always)]
    fn run<V: Vectors>(self, _: V) {
        let Self { query, memory, gate, out } = self;
        let mut room = [[0.0_f32; MAX_HEAD_DIM as usize]; 2];
        let [weights, remembered] = &mut room;
        let (weights, remembered) = (&mut weights[..query.len()], &mut remembered[..query.len()]);
        for (weight, &x) in weights.iter_mut().zip(query) {
            *weight = sigma(x);
        }
        if let Some(memory) = memory {
            read_memory(weights, memory, remembered);
        }
        let gate = 1.0 / (1.0 + exponential(-gate));
        for (out, remembered) in out.iter_mut().zip(remembered) {
            *out = gate * *remembered + (1.0 - gate) * *out;
        }
    }
}
