//! Where queries, keys and values go, and how they are turned on the way. Twin of `shaders/shared/heads.wgsl`.
//!
//! A unit of work is a *pair*: the two rows that RoPE turns together. Queries and keys are kept in the order of their
//! pairs (pair i of a head at 2i, 2i + 1), which no dot product notices, so a pair of the cache is one packed word.
//! Each query is written twice: turned by its position in the stream for the window, by its in-cache position for
//! the sinks (StreamingLLM §3.2; the algebra is in the docs of [`super::rope`]). With a compressive memory, which goes
//! without sinks, the second one is as it came, neither turned nor scaled, and so are the keys behind all queries.

use super::cache::CacheType;
use super::rope::{phase, rotate};
use crate::mutants::query_position_for_sinks;
use crate::plan::Column;

/// The shape of a layer's heads, and its buffers.
pub(super) struct Heads<'a> {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// How much of a head is rotated.
    pub rotary_dim: usize,
    /// Pairs are halves of what is rotated, not neighbours.
    pub halves: bool,
    /// Factor on queries.
    pub scale: f32,
    /// Factor on what is rotated of queries.
    pub rope_scale: f32,
    /// Slots of one head of one lane of the cache.
    pub slots: usize,
    /// Columns of the plan.
    pub columns: usize,
    /// Turns per position of every rotated pair.
    pub frequencies: &'a [u32],
    /// Number type of the cache.
    pub cache: CacheType,
    /// Queries and keys are wanted as they came too: override `MEMORY`.
    pub memory: bool,
    /// `[2][column][n_heads][head_dim / 2]` pairs; with a memory `[column][n_kv_heads][head_dim / 2]` behind them.
    pub q: &'a mut [f32],
    /// `[lane][kv_head][slot][head_dim / 2]` pairs.
    pub k: &'a mut [u32],
    /// As `k`.
    pub v: &'a mut [u32],
}

impl Heads<'_> {
    /// Pairs of a head.
    pub(super) fn half(&self) -> usize {
        self.head_dim / 2
    }

    /// Pairs of all queries and keys.
    pub(super) fn turning(&self) -> usize {
        (self.n_heads + self.n_kv_heads) * self.half()
    }

    /// The two rows that make a pair, both counted over queries, keys and values.
    #[inline(always)]
    pub(super) fn rows_of_pair(&self, pair: usize) -> (usize, usize) {
        let i = pair % self.half();
        let row = 2 * (pair - i);
        let rotary_half = self.rotary_dim / 2;
        if self.halves && i < rotary_half && pair < self.turning() {
            (row + i, row + i + rotary_half)
        } else {
            (row + 2 * i, row + 2 * i + 1)
        }
    }

    /// Turns pair `pair` of column number `c`, and puts it where it belongs.
    #[inline(always)]
    pub(super) fn store(&mut self, c: usize, column: &Column, pair: usize, y: (f32, f32)) {
        let half = self.half();
        let (q_pairs, turning, i) = (self.n_heads * half, self.turning(), pair % half);
        let is_rotated = 2 * i < self.rotary_dim;
        let frequency = if is_rotated { self.frequencies[i] } else { 0 };
        let turned = |position: u32| if is_rotated { rotate(y, phase(position, frequency)) } else { y };
        if pair < q_pairs {
            let scale = self.scale * if is_rotated { self.rope_scale } else { 1.0 };
            let scaled = |(a, b): (f32, f32)| (a * scale, b * scale);
            let for_window = scaled(turned(column.position));
            let second = match self.memory {
                true => y,
                false => scaled(turned(query_position_for_sinks(column.cached))),
            };
            for (half_of_q, (a, b)) in [for_window, second].into_iter().enumerate() {
                let at = 2 * ((half_of_q * self.columns + c) * q_pairs + pair);
                (self.q[at], self.q[at + 1]) = (a, b);
            }
            return;
        }
        if self.memory && pair < turning {
            let at = 2 * (2 * self.columns * q_pairs + c * (turning - q_pairs) + pair - q_pairs);
            (self.q[at], self.q[at + 1]) = y;
        }
        // A sink keeps its in-cache position for ever; all others are known by their place in the stream.
        let key_position = if column.slot < column.sinks { column.cached } else { column.position };
        let (ring, pair, y) = if pair < turning {
            (&mut *self.k, pair - q_pairs, turned(key_position))
        } else {
            (&mut *self.v, pair - turning, y)
        };
        let head = column.lane as usize * self.n_kv_heads + pair / half;
        self.cache.store(ring, (head * self.slots + column.slot as usize) * half + i, y);
    }
}
