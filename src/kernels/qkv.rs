//! Queries, keys and values of one layer: `W · (x / rms(x) · gain)`, rotated, keys and values into the ring.
//!
//! A unit of work is a *pair*: the two rows that RoPE turns together. Queries and keys are kept in the order of their
//! pairs (pair i of a head at 2i, 2i + 1), which no dot product notices, so a pair of the cache is one packed word.
//! Each query is written twice: turned by its position in the stream for the window, by its in-cache position for
//! the sinks (StreamingLLM §3.2; the algebra is in the docs of [`super::rope`]).

use bytemuck::{Pod, Zeroable};

use super::cache::CacheType;
use super::matmul::{Input, Matrix, Norm, matmul};
use super::rope::{phase, rotate};
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, write};
use crate::mutants::query_position_for_sinks;

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
    /// Pairs that it computes. More than one dispatch is needed only if the three matrices differ in layout.
    pub pairs: u32,
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub stride: u32,
    /// Size of the model: the divisor of the mean square.
    pub dim: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Factor on queries: `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Slots of one head of one lane of the cache.
    pub slots: u32,
    /// Columns of the plan: the sinks' queries follow the window's after so many columns.
    pub columns: u32,
}

/// Grid: (pairs · LANES / 64, columns / COLUMNS). Overrides: `LAYOUT`, `LANES`, `COLUMNS`, `CACHE_F32`.
/// `q` is `[2][column][n_heads][head_dim / 2]` pairs of f32; `k`, `v` are `[lane][kv_head][slot][head_dim / 2]` pairs.
pub const KERNEL: Kernel = Kernel {
    name: "qkv",
    wgsl: &[
        include_str!("../../shaders/shared/columns.wgsl"),
        include_str!("../../shaders/shared/weights.wgsl"),
        include_str!("../../shaders/shared/rms.wgsl"),
        include_str!("../../shaders/shared/matvec.wgsl"),
        include_str!("../../shaders/shared/rope.wgsl"),
        include_str!("../../shaders/shared/cache.wgsl"),
        include_str!("../../shaders/qkv.wgsl"),
    ],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        uniform("rope"),
        read("x"),
        read("gain"),
        read("quants"),
        read("scales"),
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
        norm: Some(Norm { gain: call.input(4), dim: params.dim as usize, eps: params.eps }),
    };
    let matrix =
        Matrix { layout: call.layout(), quants: call.input(5), scales: call.input(6), blocks: params.blocks as usize };
    let cache = CacheType::from_constant(call.constant("CACHE_F32"));
    let ([q, k, v], scratch) = call.outputs();
    let q: &mut [f32] = bytemuck::cast_slice_mut(q);
    let half = (params.head_dim / 2) as usize;
    let q_pairs = params.n_heads as usize * half;
    let kv_pairs = params.n_kv_heads as usize * half;
    let first_row = 2 * params.first_pair as usize;

    matmul(matrix, 2 * params.pairs as usize, input, scratch, |range, product| {
        for c in range.clone() {
            let column = columns[c];
            let value = |row: usize| product.at(c - range.start, row - first_row);
            // A sink keeps its in-cache position for ever; all others are known by their place in the stream.
            let key_position = if column.slot < column.sinks { column.cached } else { column.position };
            for pair in params.first_pair as usize..(params.first_pair + params.pairs) as usize {
                let i = pair % half;
                let (a, b) = rows_of_pair(&params, pair, q_pairs + kv_pairs);
                let y = (value(a), value(b));
                let is_rotated = 2 * i < params.rotary_dim as usize;
                let turned = |position: u32| if is_rotated { rotate(y, phase(position, frequencies[i])) } else { y };
                if pair < q_pairs {
                    let for_window = turned(column.position);
                    let for_sinks = turned(query_position_for_sinks(column.cached));
                    for (half_of_q, (a, b)) in [for_window, for_sinks].into_iter().enumerate() {
                        let at = 2 * ((half_of_q * params.columns as usize + c) * q_pairs + pair);
                        (q[at], q[at + 1]) = (a * params.scale, b * params.scale);
                    }
                    continue;
                }
                let (ring, pair, y) = if pair < q_pairs + kv_pairs {
                    (&mut *k, pair - q_pairs, turned(key_position))
                } else {
                    (&mut *v, pair - q_pairs - kv_pairs, y)
                };
                let head = column.lane as usize * params.n_kv_heads as usize + pair / half;
                let at = (head * params.slots as usize + column.slot as usize) * half + pair % half;
                cache.store(ring, at, y);
            }
        }
    });
}

/// The two rows that make a pair, counted over queries, keys and values. `turning`: pairs of queries and keys.
fn rows_of_pair(params: &Params, pair: usize, turning: usize) -> (usize, usize) {
    let half = (params.head_dim / 2) as usize;
    let (head, i) = (pair / half, pair % half);
    let row = head * params.head_dim as usize;
    let rotary_half = (params.rotary_dim / 2) as usize;
    if params.halves == 1 && i < rotary_half && pair < turning {
        (row + i, row + i + rotary_half)
    } else {
        (row + 2 * i, row + 2 * i + 1)
    }
}
