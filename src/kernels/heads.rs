//! Where queries, keys and values go, and how they are turned on the way. Twin of `shaders/shared/heads.wgsl`.
//!
//! A unit of work is a *pair*: the two rows that RoPE turns together. Queries and keys are kept in the order of their
//! pairs (pair i of a head at 2i, 2i + 1), which no dot product notices, so a pair of the cache is one packed word.
//! Each query is written twice: turned by its position in the stream for the window, by its in-cache position for
//! the sinks (StreamingLLM §3.2; the algebra is in the docs of [`super::rope`]). With a compressive memory, which goes
//! without sinks, the second one is as it came, neither turned nor scaled, and so are the keys behind all queries.

use std::ops::Range;

use super::cache::CacheType;
use super::rope::{phase, sin_cos};
use crate::mutants::query_position_for_sinks;
use crate::plan::Column;
use crate::platform::{Vectors, Work, vectorised};

/// Pairs that are turned at once.
const LANES: usize = 8;

/// The shape of a layer's heads.
#[derive(Clone, Copy)]
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
    /// Turns per position of every rotated pair.
    pub frequencies: &'a [u32],
    /// Number type of the cache.
    pub cache: CacheType,
    /// Queries and keys are wanted as they came too: override `MEMORY`.
    pub memory: bool,
}

/// Where the heads of one column go.
pub(super) struct Target<'a> {
    /// Queries for the window: `[n_heads][head_dim / 2]` pairs.
    pub window: &'a mut [f32],
    /// Queries for the sinks, as `window`; with a memory, queries as they came.
    pub sinks: &'a mut [f32],
    /// With a memory, keys as they came: `[n_kv_heads][head_dim / 2]` pairs.
    pub raw_keys: &'a mut [f32],
    /// Keys, then values: `[2 · n_kv_heads][head_dim / 2]` pairs.
    pub kept: &'a mut [f32],
}

impl<'a> Heads<'a> {
    /// The number of all heads: queries, keys and values.
    pub(super) fn count(&self) -> usize {
        self.n_heads + 2 * self.n_kv_heads
    }

    /// A target for each of `columns` columns of a plan of `of_plan`, in `q` as [`super::qkv`] leaves it and in `room`.
    pub(super) fn targets<'b>(
        &self,
        of_plan: usize,
        columns: usize,
        q: &'b mut [f32],
        room: &'b mut Vec<f32>,
    ) -> impl ExactSizeIterator<Item = Target<'b>> + use<'b> {
        let kept_size = 2 * self.n_kv_heads * self.head_dim;
        room.resize(columns * kept_size, 0.0);
        let (window, rest) = q.split_at_mut(of_plan * self.n_heads * self.head_dim);
        let (sinks, mut rest) = rest.split_at_mut(of_plan * self.n_heads * self.head_dim);
        let raw_size = if self.memory { self.n_kv_heads * self.head_dim } else { 0 };
        let queries = window.chunks_exact_mut(self.n_heads * self.head_dim);
        let queries = queries.zip(sinks.chunks_exact_mut(self.n_heads * self.head_dim));
        let all = queries.zip(room.chunks_exact_mut(kept_size));
        all.map(move |((window, sinks), kept)| {
            let (raw_keys, others) = std::mem::take(&mut rest).split_at_mut(raw_size);
            rest = others;
            Target { window, sinks, raw_keys, kept }
        })
    }

    /// Turns heads `heads` of a column; `rows` are theirs.
    pub(super) fn turn(&self, column: &Column, heads: Range<usize>, rows: &[f32], target: Target<'_>) {
        vectorised(Turn { shape: *self, column, heads, rows, target });
    }

    /// Puts the keys and values among `heads` of all columns into the ring. `k`, `v`: `[lane][kv_head][slot]` heads.
    pub(super) fn keep(
        &self,
        columns: &[Column],
        heads: &Range<usize>,
        kept: &mut [f32],
        k: &mut [u32],
        v: &mut [u32],
    ) {
        let kept_size = 2 * self.n_kv_heads * self.head_dim;
        for (column, kept) in columns.iter().zip(kept.chunks_exact_mut(kept_size)) {
            for (n, row) in kept.chunks_exact_mut(self.head_dim).enumerate() {
                if heads.contains(&(self.n_heads + n)) {
                    let ring = if n < self.n_kv_heads { &mut *k } else { &mut *v };
                    let head = column.lane as usize * self.n_kv_heads + n % self.n_kv_heads;
                    let at = (head * self.slots + column.slot as usize) * self.head_dim / 2;
                    self.cache.store(ring, at, row);
                }
            }
        }
    }
}

struct Turn<'a> {
    shape: Heads<'a>,
    column: &'a Column,
    heads: Range<usize>,
    rows: &'a [f32],
    target: Target<'a>,
}

impl Work for Turn<'_> {
    #[inline(always)]
    fn run<V: Vectors>(mut self, _: V) {
        let rotated = self.shape.rotary_dim / 2;
        let whole = rotated / LANES * LANES;
        for first in (0..whole).step_by(LANES) {
            self.turn::<LANES>(first);
        }
        for first in whole..rotated {
            self.turn::<1>(first);
        }
        self.copy();
    }
}

impl Turn<'_> {
    /// Turns `N` pairs from pair `first` on, of every head that is turned.
    #[inline(always)]
    fn turn<const N: usize>(&mut self, first: usize) {
        let Heads { n_heads, n_kv_heads, head_dim, rotary_dim, halves, memory, .. } = self.shape;
        let column = self.column;
        // A sink keeps its in-cache position for ever; all others are known by their place in the stream.
        let key_position = if column.slot < column.sinks { column.cached } else { column.position };
        let frequencies: &[u32; N] = self.shape.frequencies[first..].first_chunk().expect("one for each rotated pair");
        let for_window = turns(column.position, frequencies);
        let for_sinks = turns(query_position_for_sinks(column.cached), frequencies);
        let for_key = turns(key_position, frequencies);
        let scale = self.shape.scale * self.shape.rope_scale;
        for (head, rows) in self.heads.clone().zip(self.rows.chunks_exact(head_dim)) {
            let mut pairs = [(0.0, 0.0); N];
            for (i, pair) in pairs.iter_mut().enumerate() {
                let i = first + i;
                *pair = if halves { (rows[i], rows[i + rotary_dim / 2]) } else { (rows[2 * i], rows[2 * i + 1]) };
            }
            let at = head * head_dim + 2 * first;
            if head < n_heads {
                rotate_all(&pairs, &for_window, scale, &mut self.target.window[at..][..2 * N]);
                let second = &mut self.target.sinks[at..][..2 * N];
                if memory { copy_all(&pairs, second) } else { rotate_all(&pairs, &for_sinks, scale, second) }
            } else if head < n_heads + n_kv_heads {
                let at = at - n_heads * head_dim;
                if memory {
                    copy_all(&pairs, &mut self.target.raw_keys[at..][..2 * N]);
                }
                rotate_all(&pairs, &for_key, 1.0, &mut self.target.kept[at..][..2 * N]);
            }
        }
    }

    /// What is not turned: the tails of heads, and values.
    #[inline(always)]
    fn copy(&mut self) {
        let Heads { n_heads, n_kv_heads, head_dim, rotary_dim, scale, memory, .. } = self.shape;
        for (head, rows) in self.heads.clone().zip(self.rows.chunks_exact(head_dim)) {
            let from = if head < n_heads + n_kv_heads { rotary_dim } else { 0 };
            let places = head * head_dim + from..(head + 1) * head_dim;
            let rows = &rows[from..];
            if head < n_heads {
                let second = if memory { 1.0 } else { scale };
                let Target { window, sinks, .. } = &mut self.target;
                for (out, scale) in [(&mut window[places.clone()], scale), (&mut sinks[places], second)] {
                    out.iter_mut().zip(rows).for_each(|(out, value)| *out = value * scale);
                }
                continue;
            }
            let places = places.start - n_heads * head_dim..places.end - n_heads * head_dim;
            if memory && head < n_heads + n_kv_heads {
                self.target.raw_keys[places.clone()].copy_from_slice(rows);
            }
            self.target.kept[places].copy_from_slice(rows);
        }
    }
}

/// Sines and cosines of some frequencies' phases at a position.
#[inline(always)]
fn turns<const N: usize>(position: u32, frequencies: &[u32; N]) -> [(f32, f32); N] {
    let mut turns = [(0.0, 0.0); N];
    for (turn, frequency) in turns.iter_mut().zip(frequencies) {
        *turn = sin_cos(phase(position, *frequency));
    }
    turns
}

/// Turns pairs, and multiplies them.
#[inline(always)]
fn rotate_all<const N: usize>(pairs: &[(f32, f32); N], turns: &[(f32, f32); N], scale: f32, out: &mut [f32]) {
    for ((out, (a, b)), (sin, cos)) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs).zip(turns) {
        *out = [(a * cos - b * sin) * scale, (a * sin + b * cos) * scale];
    }
}

/// Pairs as they are.
#[inline(always)]
fn copy_all<const N: usize>(pairs: &[(f32, f32); N], out: &mut [f32]) {
    for (out, (a, b)) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        *out = [*a, *b];
    }
}
