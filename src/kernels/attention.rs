//! Attention of every query over the sinks and the window, heads of a group sharing one read of keys and values.
//!
//! `out = softmax(q · K) · V` over the tokens that the column sees: its `cached` tokens and itself. Which slots
//! these are is arithmetic, so there is no mask: the first `sinks` tokens stand in their slots, the others lie in the
//! ring behind the column's own slot. Sinks meet the second query (see [`super::rope`]).

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::cache::CacheType;
use super::matmul::fold;
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, write};
use crate::plan::Column;
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
}

/// Grid: (`n_heads / heads`, columns). Override: `CACHE_F32`.
/// `q` as [`super::qkv`] leaves it; `out` is `[column][n_heads][head_dim]`.
pub const KERNEL: Kernel = Kernel {
    name: "attention",
    wgsl: &[
        include_str!("../../shaders/shared/columns.wgsl"),
        include_str!("../../shaders/shared/cache.wgsl"),
        include_str!("../../shaders/attention.wgsl"),
    ],
    bindings: &[uniform("params"), uniform("columns"), read("q"), read("k"), read("v"), write("out")],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let columns = call.columns(1);
    let cache = Cache {
        kind: CacheType::from_constant(call.constant("CACHE_F32")),
        k: call.input(3),
        v: call.input(4),
        half: params.half as usize,
        slots: params.slots as usize,
    };
    let q = call.input::<f32>(2);
    let ([out], _) = call.outputs();
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    let head_dim = 2 * params.half as usize;
    let group = (params.n_heads / params.n_kv_heads) as usize;
    let q_size = params.n_heads as usize * head_dim;
    out.par_chunks_exact_mut(params.stride as usize).zip(columns).enumerate().for_each(|(c, (out, column))| {
        let sinks_from = (params.columns as usize + c) * q_size;
        let (q_window, q_sinks) = (&q[c * q_size..][..q_size], &q[sinks_from..][..q_size]);
        let (scored, heads) = (column.cached as usize * group * head_dim, params.n_kv_heads as usize);
        let min_heads = (SERIAL_WORK / (2 * scored).max(1)).clamp(1, heads);
        out[..q_size].par_chunks_exact_mut(group * head_dim).with_min_len(min_heads).enumerate().for_each(
            |(kv_head, out)| {
                let queries = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
                let head = column.lane as usize * heads + kv_head;
                vectorised(|| attend(&cache, head, column, &q_window[queries.clone()], &q_sinks[queries], out));
            },
        );
    });
}

/// Multiplications below which another core is not worth waking.
const SERIAL_WORK: usize = 1 << 16;

struct Cache<'a> {
    kind: CacheType,
    k: &'a [u32],
    v: &'a [u32],
    half: usize,
    slots: usize,
}

thread_local! {
    /// Scores `[slot][head]`, and one key or value; one set a core.
    static ROOM: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// All query heads of one key head, for one column. `q_*` and `out`: `[group][head_dim]`.
#[inline(always)]
fn attend(cache: &Cache<'_>, head: usize, column: &Column, q_window: &[f32], q_sinks: &[f32], out: &mut [f32]) {
    let head_dim = 2 * cache.half;
    let group = out.len() / head_dim;
    let seen = column.cached as usize + 1;
    ROOM.with_borrow_mut(|(scores, row)| {
        if scores.len() < seen * group {
            scores.resize(seen * group, 0.0);
        }
        row.resize(head_dim, 0.0);
        let mut at = 0;
        for (slots, is_sink) in runs(column, cache.slots) {
            let q = if is_sink { q_sinks } else { q_window };
            for slot in slots {
                cache.kind.load(cache.k, (head * cache.slots + slot) * cache.half, row);
                for (score, q) in scores[at..][..group].iter_mut().zip(q.chunks_exact(head_dim)) {
                    *score = dot(q, row);
                }
                at += group;
            }
        }
        for g in 0..group {
            softmax(&mut scores[..seen * group], group, g);
        }
        out.fill(0.0);
        at = 0;
        for (slots, _) in runs(column, cache.slots) {
            for slot in slots {
                cache.kind.load(cache.v, (head * cache.slots + slot) * cache.half, row);
                for (weight, out) in scores[at..][..group].iter().zip(out.chunks_exact_mut(head_dim)) {
                    for (out, v) in out.iter_mut().zip(row.iter()) {
                        *out += weight * v;
                    }
                }
                at += group;
            }
        }
    });
}

/// The slots that a column sees, oldest first, as runs of neighbours: the sinks, then the ring up to its own slot.
fn runs(column: &Column, slots: usize) -> [(Range<usize>, bool); 3] {
    let (slot, sinks, cached) = (column.slot as usize, column.sinks as usize, column.cached as usize);
    if cached < sinks {
        return [(0..cached + 1, true), (0..0, false), (0..0, false)];
    }
    let before = cached - sinks; // tokens of the window before its own
    let behind_seam = slot - sinks; // room in front of it in the ring
    if before <= behind_seam {
        [(0..sinks, true), (0..0, false), (slot - before..slot + 1, false)]
    } else {
        [(0..sinks, true), (slots - (before - behind_seam)..slots, false), (sinks..slot + 1, false)]
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    fold(sums) + rest
}

/// Softmax over the scores of head `g` of `group`.
#[inline(always)]
fn softmax(scores: &mut [f32], group: usize, g: usize) {
    let max = scores.iter().skip(g).step_by(group).fold(f32::MIN, |max, &score| max.max(score));
    let mut sum = 0.0;
    for score in scores.iter_mut().skip(g).step_by(group) {
        *score = (*score - max).exp();
        sum += *score;
    }
    for score in scores.iter_mut().skip(g).step_by(group) {
        *score /= sum;
    }
}
