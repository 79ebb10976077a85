//! Chooses the next token of every column and moves the column on, so that the next step needs no host.
//!
//! In llama.cpp's order: repetition penalty, top-k, top-p, min-p, temperature. The choice itself is the Gumbel-max
//! trick, argmax(logit / temperature + g(id)), with g a hash of (seed, position, id): one pass, no sort, the same on
//! every device. top-p and top-k work on the [`MAX_CANDIDATES`] most likely tokens.

use bytemuck::{Pod, Zeroable};

use crate::executor::cpu::Call;
use crate::kernel::{Kernel, uniform, wgsl, write};
use crate::plan::{Column, ColumnsHeader};
use crate::tuning::Tuning;

/// Most tokens that top-k and top-p choose from.
pub const MAX_CANDIDATES: usize = 256;
/// Most recent tokens that the repetition penalty looks at: words of a lane's `recent` ring.
pub const MAX_RECENT: usize = 1024;
/// Chosen tokens of a lane that are kept for the host: it may be so far behind.
pub const MAX_AHEAD: u32 = 64;

/// Invocations of a workgroup, which has the whole vocabulary of a column: as many as a default device takes; on software
/// adapters few, because they take turns there, and in browsers SwiftShader fills workgroup memory with zeros once for each
/// four of them. The bits do not depend on it.
pub const fn workgroup(tuning: Tuning) -> u32 {
    if tuning.lanes == 1 { 16 } else { 256 }
}

/// Mirrors `Params` in `shaders/sample.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Logits of a column.
    pub vocab_size: u32,
    /// Floats from one column of `logits` to the next.
    pub stride: u32,
    /// Slots of the cache: behind the last one the ring begins anew.
    pub slots: u32,
}

/// How to choose for one column: written by the host when it changes. Mirrors `Settings` in `shaders/sample.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// 0: the most likely token.
    pub temperature: f32,
    /// Keep so many of the most likely; 0: all.
    pub top_k: u32,
    /// Keep the most likely until their probabilities reach this; 1: all.
    pub top_p: f32,
    /// log(min-p): keep what is at most so far below the best logit; the lowest finite f32: all.
    pub ln_min_p: f32,
    /// Divides the positive, multiplies the negative logits of recent tokens; 1: none.
    pub repeat_penalty: f32,
    /// How many recent tokens that is; at most [`MAX_RECENT`].
    pub repeat_last_n: u32,
    /// Seed of the random numbers.
    pub seed: u32,
    /// 0: nothing, the column is not in use; 1: a token; 2: its log-probability too.
    pub wanted: u32,
}

/// Grid: (1, columns). Overrides: `WORKGROUP`, see [`workgroup`].
/// `settings`: one for each of [`crate::plan::MAX_COLUMNS`] columns. The others have a part for each lane.
/// `recent`: word 0 counts the tokens ever written, token n is word 1 + n mod [`MAX_RECENT`].
/// `ids`, `logprobs`: what was chosen at position p, and log(softmax) of it, temperature 1, is word p mod [`MAX_AHEAD`].
pub const KERNEL: Kernel = Kernel {
    name: "sample",
    wgsl: &[wgsl!("../../shaders/shared/columns.wgsl"), wgsl!("../../shaders/sample.wgsl")],
    variants: &[],
    bindings: &[
        uniform("params"),
        uniform("settings"),
        write("columns"),
        write("logits"),
        write("recent"),
        write("ids"),
        write("logprobs"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let all_settings: &[Settings] = call.input(1);
    let ([columns, logits, recent, ids, logprobs], _) = call.outputs();
    let (_, columns) = columns.split_at_mut(size_of::<ColumnsHeader>() / 4);
    let columns: &mut [Column] = bytemuck::cast_slice_mut(columns);
    let logits: &mut [f32] = bytemuck::cast_slice_mut(logits);
    let logprobs: &mut [f32] = bytemuck::cast_slice_mut(logprobs);
    let all = columns.iter_mut().zip(all_settings).zip(logits.chunks_mut(params.stride as usize));
    for ((column, settings), logits) in all.filter(|((_, settings), _)| settings.wanted > 0) {
        let lane = column.lane as usize;
        let recent = &mut recent[lane * (1 + MAX_RECENT)..][..1 + MAX_RECENT];
        let chosen = lane * MAX_AHEAD as usize + (column.position % MAX_AHEAD) as usize;
        let logits = &mut logits[..params.vocab_size as usize];
        penalise(logits, recent, settings);
        let id = choose(logits, settings, column.position);
        if settings.wanted == 2 {
            logprobs[chosen] = log_probability(logits, id);
        }
        let count = recent[0];
        recent[1 + count as usize % MAX_RECENT] = id;
        recent[0] = count + 1;
        ids[chosen] = id;
        column.token = id;
        column.position = column.position.wrapping_add(1);
        column.slot = if column.slot + 1 == params.slots { column.sinks } else { column.slot + 1 };
        column.cached = (column.cached + 1).min(column.capacity);
    }
}

/// log(softmax) of a token among all.
fn log_probability(logits: &[f32], id: u32) -> f32 {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    logits[id as usize] - highest - sum.ln()
}

/// Lowers the logits of the last `repeat_last_n` tokens, each once.
fn penalise(logits: &mut [f32], recent: &[u32], settings: &Settings) {
    if settings.repeat_penalty == 1.0 {
        return;
    }
    let count = recent[0] as usize;
    let kept = count.min(settings.repeat_last_n as usize);
    let id_at = |n: usize| recent[1 + n % MAX_RECENT] as usize;
    for n in count - kept..count {
        let id = id_at(n);
        if (count - kept..n).any(|earlier| id_at(earlier) == id) {
            continue;
        }
        let logit = &mut logits[id];
        *logit = if *logit > 0.0 { *logit / settings.repeat_penalty } else { *logit * settings.repeat_penalty };
    }
}

/// The chosen id.
fn choose(logits: &[f32], settings: &Settings, position: u32) -> u32 {
    let noisy = |id: u32, logit: f32| logit / settings.temperature + gumbel(settings.seed, position, id);
    let all = || (0_u32..).zip(logits.iter().copied());
    if settings.temperature == 0.0 {
        return first_of_largest(logits);
    }
    if settings.top_k == 0 && settings.top_p >= 1.0 {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let likely = all().filter(|(_, logit)| *logit >= max + settings.ln_min_p);
        return argmax(likely.map(|(id, logit)| (id, noisy(id, logit))));
    }
    let mut room = [(0_u32, 0.0_f32); MAX_CANDIDATES];
    let limit = if settings.top_k == 0 { MAX_CANDIDATES } else { MAX_CANDIDATES.min(settings.top_k as usize) };
    let candidates = most_likely(logits, &mut room[..limit.min(logits.len())]);
    let max = candidates[0].1;
    let kept = nucleus(candidates, settings.top_p);
    let likely = kept.iter().copied().filter(|(_, logit)| *logit >= max + settings.ln_min_p);
    argmax(likely.map(|(id, logit)| (id, noisy(id, logit))))
}

/// The id of the largest logit; of equals the lowest. In two loops, because they become vectors.
fn first_of_largest(logits: &[f32]) -> u32 {
    let (blocks, rest) = logits.as_chunks::<32>();
    let mut largest = [f32::MIN; 32];
    for block in blocks {
        for (largest, &logit) in largest.iter_mut().zip(block) {
            *largest = if logit > *largest { logit } else { *largest };
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::MIN, |largest, &logit| largest.max(logit));
    logits.iter().position(|logit| *logit == largest).unwrap_or(0) as u32
}

/// The id with the largest value; of equals the lowest.
fn argmax(values: impl Iterator<Item = (u32, f32)>) -> u32 {
    let best = values.fold(
        (u32::MAX, f32::MIN),
        |best, (id, value)| if value > best.1 || best.0 == u32::MAX { (id, value) } else { best },
    );
    best.0
}

/// The most likely tokens, best first, lower ids first among equals.
fn most_likely<'a>(logits: &[f32], room: &'a mut [(u32, f32)]) -> &'a [(u32, f32)] {
    let mut count = 0;
    for (id, &logit) in (0_u32..).zip(logits) {
        if count == room.len() {
            if logit <= room[count - 1].1 {
                continue;
            }
            count -= 1;
        }
        let place = room[..count].partition_point(|(_, other)| *other >= logit);
        room.copy_within(place..count, place + 1);
        room[place] = (id, logit);
        count += 1;
    }
    &room[..count]
}

/// The most likely candidates whose probabilities, among all candidates, reach `top_p`; at least one.
fn nucleus(candidates: &[(u32, f32)], top_p: f32) -> &[(u32, f32)] {
    if top_p >= 1.0 {
        return candidates;
    }
    let max = candidates[0].1;
    let sum: f32 = candidates.iter().map(|(_, logit)| (logit - max).exp()).sum();
    let mut reached = 0.0;
    for (n, (_, logit)) in candidates.iter().enumerate() {
        reached += (logit - max).exp();
        if reached >= top_p * sum {
            return &candidates[..=n];
        }
    }
    candidates
}

/// Standard Gumbel noise: −log(−log u), u uniform in (0, 1) from a hash of (seed, position, id).
fn gumbel(seed: u32, position: u32, id: u32) -> f32 {
    let hash = mix(mix(mix(seed) ^ position) ^ id);
    let uniform = ((hash >> 9) as f32 + 0.5) / 8_388_608.0; // 24 bits: exact in f32, never 0 or 1
    -(-uniform.ln()).ln()
}

/// A good 32-bit integer hash: `lowbias32` of Chris Wellons' hash prospector.
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
