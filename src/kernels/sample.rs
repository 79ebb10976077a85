//! Chooses the next token of column 0 and moves the column on, so that the next step needs no host.
//!
//! In llama.cpp's order: repetition penalty, top-k, top-p, min-p, temperature. The choice itself is the Gumbel-max
//! trick, argmax(logit / temperature + g(id)), with g a hash of (seed, position, id): one pass, no sort, the same on
//! every device. top-p and top-k work on the [`MAX_CANDIDATES`] most likely tokens.

use bytemuck::{Pod, Zeroable};

use crate::executor::cpu::Call;
use crate::kernel::{Kernel, uniform, write};
use crate::plan::{Column, ColumnsHeader};

/// Most tokens that top-k and top-p choose from.
pub const MAX_CANDIDATES: usize = 256;
/// Most recent tokens that the repetition penalty looks at: words of the `recent` ring.
pub const MAX_RECENT: usize = 1024;
/// Most tokens that one batch of steps chooses before the host reads them: words of `ids`.
pub const MAX_BURST: u32 = 32;

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

/// How to choose: written by the host when it changes. Mirrors `Settings` in `shaders/sample.wgsl`.
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
    /// Unused; makes 32 bytes.
    pub pad: u32,
}

/// Grid: (1, 1): only column 0 is chosen for. No overrides.
/// `recent`: word 0 counts the tokens ever written, token n is word 1 + n mod [`MAX_RECENT`].
/// `ids`: word 0 counts the tokens chosen, then come they. Both belong to column 0.
pub const KERNEL: Kernel = Kernel {
    name: "sample",
    wgsl: &[include_str!("../../shaders/shared/columns.wgsl"), include_str!("../../shaders/sample.wgsl")],
    bindings: &[
        uniform("params"),
        uniform("settings"),
        write("columns"),
        write("logits"),
        write("recent"),
        write("ids"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let settings: Settings = call.input::<Settings>(1)[0];
    let ([columns, logits, recent, ids], _) = call.outputs();
    let (_, columns) = columns.split_at_mut(size_of::<ColumnsHeader>() / 4);
    let column: &mut Column = &mut bytemuck::cast_slice_mut(columns)[0];
    let logits: &mut [f32] = &mut bytemuck::cast_slice_mut(logits)[..params.vocab_size as usize];

    penalise(logits, recent, &settings);
    let id = choose(logits, &settings, column.position);

    let count = recent[0];
    recent[1 + count as usize % MAX_RECENT] = id;
    recent[0] = count + 1;
    ids[1 + ids[0] as usize] = id;
    ids[0] += 1;
    column.token = id;
    column.position = column.position.wrapping_add(1);
    column.slot = if column.slot + 1 == params.slots { column.sinks } else { column.slot + 1 };
    column.cached = (column.cached + 1).min(column.capacity);
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
        return argmax(all());
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
