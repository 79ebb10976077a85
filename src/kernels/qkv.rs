//! Queries, keys and values of one layer: `W · norm(x) + bias`, rotated, keys and values into the ring.
//!
//! A unit of work is a pair of rows: see [`super::heads`].

use bytemuck::{Pod, Zeroable};

use super::cache::CacheType;
use super::heads::Heads;
use super::matmul::{Input, Matrix, Norm, matmul};
use crate::executor::cpu::Call;
use crate::kernel::{INTEGERS, Kernel, MATVEC, SHARE, TILES, Variant, read, uniform, wgsl, write};

/// Mirrors `Params` in `shaders/qkv.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Size of a head; even.
    pub head_dim: u32,
    /// How much of a head is rotated; even, at most `head_dim`.
    pub rotary_dim: u32,
    /// 0: pairs are neighbours (2i, 2i + 1), as in GGUF `llama`. 1: halves (i, i + `rotary_dim` / 2), as in `NeoX`.
    pub halves: u32,
    /// First pair that this dispatch computes, counted over all queries, then keys, then values.
    pub first_pair: u32,
    /// Pairs that it computes. More than one dispatch is needed only if all three matrices differ in layout.
    pub pairs: u32,
    /// The first of its pairs that are of a second matrix, of the layout `OTHER_LAYOUT`; `pairs` if there is none.
    pub other_pair: u32,
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub stride: u32,
    /// Dimensions of the norm.
    pub dim: u32,
    /// Added to its mean square.
    pub eps: f32,
    /// Floats from `x` to what the block before added, a multiple of 4; read if `ADDED`.
    pub added: u32,
    /// Factor on queries, often `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Factor on what is rotated of queries: `YaRN`'s on queries and keys together.
    pub rope_scale: f32,
    /// Results are kept inside ± this.
    pub limit: f32,
    /// Slots of one head of one lane of the cache.
    pub slots: u32,
    /// Columns of the plan: the sinks' queries follow the window's after so many columns.
    pub columns: u32,
}

/// Grid: (pairs / pairs of a workgroup, columns / COLUMNS). Overrides: `LAYOUT`; `LANES`, `WORKGROUP`, `COLUMNS`, for integers `STAGE`, for tiles `TILE`;
/// `LAYER_NORM`, `ADDED`, `BIAS`, `CACHE_F32`, `MEMORY`; with a second matrix `OTHER_LAYOUT`, `FIRST_QUANTS`, `FIRST_SCALES` ([`Call::other`]).
/// `q` is `[2][column][n_heads][head_dim / 2]` pairs of f32; `k`, `v` are `[lane][kv_head][slot][head_dim / 2]` pairs.
pub const KERNEL: Kernel = Kernel {
    name: "qkv",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/weights.wgsl"),
        wgsl!("../../shaders/shared/mean.wgsl"),
        wgsl!("../../shaders/shared/added.wgsl"),
        wgsl!("../../shaders/shared/norm.wgsl"),
        MATVEC,
        SHARE,
        wgsl!("../../shaders/shared/rope.wgsl"),
        wgsl!("../../shaders/shared/cache.wgsl"),
        wgsl!("../../shaders/shared/heads.wgsl"),
        wgsl!("../../shaders/qkv.wgsl"),
    ],
    variants: &[(Variant::Integers, INTEGERS), (Variant::Tiled, TILES)],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        uniform("rope"),
        read("x"),
        read("gain"),
        read("quants"),
        read("scales"),
        read("bias"),
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
    let input = Input {
        x: call.input(3),
        stride: params.stride as usize,
        columns: columns.len(),
        norm: Some(Norm::of(call, [3, 4], params.dim, params.eps, params.added)),
    };
    let matrix =
        Matrix { layout: call.layout(), quants: call.input(5), scales: call.input(6), blocks: params.blocks as usize };
    let other = call.other(matrix);
    let bias = call.flag("BIAS").then(|| call.input::<f32>(7));
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
    let mut room = scratch.take_room();
    for (matrix, pairs) in [(matrix, 0..params.other_pair), (other, params.other_pair..params.pairs)] {
        if pairs.is_empty() {
            continue;
        }
        let rows = 2 * (params.first_pair + pairs.start) as usize..2 * (params.first_pair + pairs.end) as usize;
        let own = rows.start / heads.head_dim..rows.end / heads.head_dim;
        let targets = heads.targets(params.columns as usize, columns.len(), bytemuck::cast_slice_mut(q), &mut room);
        matmul(matrix, rows.len(), input, cores, scratch, targets, |c, products, target| {
            for (row, product) in rows.clone().zip(&mut *products) {
                *product = (*product + bias.map_or(0.0, |bias| bias[row])).clamp(-params.limit, params.limit);
            }
            heads.turn(&columns[c], own.clone(), products, target);
        });
        heads.keep(columns, &own, &mut room, k, v);
    }
    scratch.put_room(room);
}
