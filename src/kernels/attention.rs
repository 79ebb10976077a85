//! Attention of every query over the sinks and the window, heads of a group sharing one read of keys and values.
//!
//! `out = softmax(q · K) · V` over the tokens that the column sees: its `cached` tokens and itself. Which slots
//! these are is arithmetic, so there is no mask: the first `sinks` tokens stand in their slots, the others lie in the
//! ring behind the column's own slot. Sinks meet the second query (see [`super::rope`]).
//!
//! With slopes, a score loses so much per token of distance within the cache (ALiBi, Press et al., arXiv 2108.12409;
//! StreamingLLM §3.2). A reach hides all but the last so-many tokens (layers with a window of their own).
//!
//! A sink logit is the score of a token without key and value: it stands in softmax's denominator alone, so that a head
//! that finds nothing to attend to can rest on it. 0 is `SoftMax₁`, `eˣ / (1 + Σ eˣ)` ("zero sink", `StreamingLLM` §3.3,
//! eq. 2); learned ones come head by head, as in `gpt-oss` (arXiv 2508.10925, §2).
//!
//! Tiles and sums are those of the shader, operation by operation, so that both can have the same bits.

mod attend;

use bytemuck::{Pod, Zeroable};

use self::attend::{Attend, Cache, Heads, follows};
use super::cache::CacheType;
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, Variant, read, uniform, wgsl, write};
use crate::platform::vectorised;

/// Most query heads of one workgroup.
pub const MAX_HEADS: u32 = 8;
/// A sink logit that changes nothing: its weight is lost in the rounding of any sum.
pub const NO_SINK_LOGIT: f32 = -3e38;
/// Most parts of the cache, of all columns of a plan: every workgroup of `project` reads them all.
pub const MAX_SPLITS: u32 = 16;
/// Most query heads of a workgroup of 256 invocations of [`Variant::Split`]: workgroup memory holds no more.
pub const WIDE_HEADS: u32 = 3;
/// Most floats of all parts of a column.
pub const MAX_JOINED: u32 = 1 << 15;
/// Invocations of a workgroup of [`Variant::Tiled`].
pub const INVOCATIONS: u32 = 128;
/// Most pairs of output of one workgroup: 16 for each invocation.
pub const MAX_ITEMS: u32 = 1024;

/// Tokens that a workgroup of [`Variant::Split`] reads at once: its `TILE`.
pub fn tile(invocations: u32, words: u32, heads: u32) -> u32 {
    4 * (invocations / words).min(32).min(invocations / heads)
}

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

const ATTENTION: &str = wgsl!("../../shaders/attention.wgsl");
const SLOTS: &str = wgsl!("../../shaders/shared/slots.wgsl");

/// Grid: (`n_heads / heads`, columns). Overrides: `CACHE_F32`, `HEADS`.
/// `q` as [`super::qkv`] leaves it; `out` is `[column][n_heads][head_dim]`.
///
/// [`Variant::Split`] has z = `SPLITS` in its grid and the overrides `HEADS`, `WORDS`, `SPLITS`, `INVOCATIONS` (`shaders/attention_split.wgsl`).
/// With more than one part `out` means something to `project` of the same variant only; their twins know no parts.
///
/// [`Variant::Tiled`] takes `COLUMNS` columns a workgroup, whose `COLUMNS · heads` queries are worked on in `FOURS` fours of them: 2, 4
/// or 8, and `FOURS · half / 2` is at most [`INVOCATIONS`]. Overrides: `HEADS`, `WORDS`, `COLUMNS`, `FOURS`
/// (`shaders/attention_tiled.wgsl`).
pub const KERNEL: Kernel = Kernel {
    name: "attention",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/cache.wgsl"),
        wgsl!("../../shaders/shared/exp.wgsl"),
        SLOTS,
        ATTENTION,
    ],
    variants: &[
        (Variant::Split, &[(ATTENTION, wgsl!("../../shaders/attention_split.wgsl"))]),
        (Variant::Tiled, &[(ATTENTION, wgsl!("../../shaders/attention_tiled.wgsl")), (SLOTS, "")]),
    ],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("q"),
        read("k"),
        read("v"),
        read("slopes"),
        read("sink_logits"),
        write("out"),
    ],
    twin,
};

/// Columns that one core takes at a time if they are of one stream: it reads a key once for all of them.
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
    let (slopes, sink_logits) = (call.input::<f32>(5), call.input::<f32>(6));
    let (n_kv_heads, group) = (params.n_kv_heads as usize, (params.n_heads / params.n_kv_heads) as usize);
    let (size, q_size) = (group * cache.head_dim, params.n_heads as usize * cache.head_dim);
    let (q_window, q_sinks) = q.split_at(params.columns as usize * q_size);
    let cores = call.cores();
    let ([out], scratch) = call.outputs();
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);

    // [block of columns][kv_head][column][group][head_dim]
    let follow = columns.windows(2).any(|pair| follows(&pair[0], &pair[1], cache.slots));
    let block = if follow { BLOCK.min(columns.len()) } else { 1 };
    let room = scratch.product(columns.len().div_ceil(block) * n_kv_heads * block * size);
    let most = columns.iter().map(|column| column.cached as usize + 1).max().unwrap_or(0);
    // Parts that are too short to wake another core go together.
    let least = (SERIAL_WORK / (2 * most * block * size).max(1)).max(1);
    let together = (room.len() / (block * size)).div_ceil(4 * cores.count()).max(least);
    let attend = |part: usize, out: &mut [f32]| {
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
            sink_logits: &sink_logits[kv_head * group..][..group],
            reach: params.reach as usize,
            cap: params.cap,
        };
        vectorised(Attend { heads, columns, out: &mut out[..columns.len() * size] });
    };
    cores.each(room.chunks_mut(together * block * size).enumerate(), |(n, out)| {
        for (i, out) in out.chunks_exact_mut(block * size).enumerate() {
            attend(n * together + i, out);
        }
    });
    for (c, out) in out.chunks_exact_mut(params.stride as usize).take(columns.len()).enumerate() {
        for (kv_head, out) in out[..q_size].chunks_exact_mut(size).enumerate() {
            let part = c / block * n_kv_heads + kv_head;
            out.copy_from_slice(&room[(part * block + c % block) * size..][..size]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;
    use crate::executor::cpu::CpuExecutor;
    use crate::plan::{Buffers, Column, ColumnsHeader, Dispatch, Plan, Purpose};

    const HEAD_DIM: usize = 6;
    const QUERIES: [[f32; HEAD_DIM]; 2] = [[1.0, -0.5, 0.3, 2.0, -1.5, 0.7], [-2.0, 0.4, 1.1, 0.0, 0.9, -0.8]];

    /// So many keys, or values for another `seed`, all of the same size as one.
    fn rows(count: usize, seed: f32) -> Vec<[f32; HEAD_DIM]> {
        let value = |t: usize, d: usize| (seed + 1.7 * t as f32 + 0.9 * d as f32 * (t + 1) as f32).sin();
        (0..count).map(|t| std::array::from_fn(|d| value(t, d))).collect()
    }

    /// What both queries read from these keys and values, by the kernel's twin.
    fn attend(keys: &[[f32; HEAD_DIM]], values: &[[f32; HEAD_DIM]], cap: f32, sink_logits: [f32; 2]) -> Vec<f32> {
        let params = Params {
            n_heads: 2,
            n_kv_heads: 1,
            heads: 2,
            half: HEAD_DIM as u32 / 2,
            slots: keys.len() as u32,
            columns: 1,
            stride: 2 * HEAD_DIM as u32,
            reach: u32::MAX,
            cap,
        };
        let last = keys.len() as u32 - 1;
        let column = Column { slot: last, cached: last, capacity: last, ..Column::default() };
        let header = ColumnsHeader { active: 1, pad: [0; 3] };
        let columns = [bytemuck::bytes_of(&header), bytemuck::bytes_of(&column)].concat();
        let queries = [QUERIES; 2].concat().concat();
        let (keys, values) = (keys.concat(), values.concat());
        let floats: [&[f32]; 6] = [&queries, &keys, &values, &[0.0; 2], &sink_logits, &[0.0; 2 * HEAD_DIM]];
        let data = [&columns[..]].into_iter().chain(floats.iter().map(|values| bytemuck::cast_slice(values)));
        let data: Vec<&[u8]> = data.collect();
        let mut buffers = Buffers::default();
        let ids: Vec<_> = data.iter().map(|bytes| buffers.add("a buffer", bytes.len() as u64, Purpose::Work)).collect();
        let dispatch = Dispatch {
            kernel: &KERNEL,
            variant: Variant::Plain,
            label: "attention".into(),
            params: bytemuck::bytes_of(&params).to_vec(),
            buffers: ids.clone(),
            overrides: vec![("CACHE_F32", 1)],
            workgroups: [1; 3],
        };
        let plan = Plan { name: "attention".into(), columns: 1, dispatches: vec![dispatch] };
        let mut executor = CpuExecutor::new(&buffers, vec![plan], Some(1)).unwrap();
        for (id, bytes) in ids.iter().zip(&data) {
            executor.write(*id, 0, bytes);
        }
        executor.run(0, 1);
        let mut out = vec![0.0_f32; 2 * HEAD_DIM];
        executor.read(ids[6], 0, bytemuck::cast_slice_mut(&mut out));
        out
    }

    /// More than a tile, a whole tile, and one token.
    const COUNTS: [usize; 3] = [150, 64, 1];

    #[test]
    fn a_zero_sink_is_one_more_token_with_key_and_value_zero() {
        for (count, cap) in COUNTS.into_iter().zip([0.0, 3.0, 0.0]) {
            let (mut keys, mut values) = (rows(count, 0.1), rows(count, 0.5));
            let got = attend(&keys, &values, cap, [0.0; 2]);
            let without = attend(&keys, &values, cap, [NO_SINK_LOGIT; 2]);
            keys.insert(0, [0.0; HEAD_DIM]);
            values.insert(0, [0.0; HEAD_DIM]);
            let wanted = attend(&keys, &values, cap, [NO_SINK_LOGIT; 2]);
            let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(largest(&got, &wanted) < 2e-6, "{count} tokens: {got:?}, not {wanted:?}");
            assert!(largest(&got, &without) > 1e-4, "{count} tokens: it makes a difference");
        }
    }

    #[test]
    fn learned_sink_logits_take_their_share_head_by_head() {
        for sink_logits in [[-0.7, 2.5], [9.0, -40.0], [NO_SINK_LOGIT, 1.0]] {
            for count in COUNTS {
                let (keys, values) = (rows(count, 0.2), rows(count, 0.9));
                let got = attend(&keys, &values, 0.0, sink_logits);
                for (head, query) in QUERIES.iter().enumerate() {
                    let (mut sum, mut wanted) = (f64::from(sink_logits[head]).exp(), [0.0; HEAD_DIM]);
                    for (key, value) in keys.iter().zip(&values) {
                        let score: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        sum += score.exp();
                        (0..HEAD_DIM).for_each(|d| wanted[d] += score.exp() * f64::from(value[d]));
                    }
                    for (got, wanted) in got[head * HEAD_DIM..].iter().zip(wanted) {
                        let wanted = wanted / sum;
                        assert!(
                            (f64::from(*got) - wanted).abs() < 2e-6,
                            "{sink_logits:?}, {count}: {got}, not {wanted}"
                        );
                    }
                }
            }
        }
    }
}
