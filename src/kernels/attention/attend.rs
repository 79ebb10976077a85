//! Attention on one core: a few columns of one key head, tile by tile.
//!
//! Neighbouring columns of a stream see nearly the same tokens, so the keys and values of a tile are widened once for
//! all of them. Everything else is made column by column, in the order of the shader: tiles of 64 tokens, eight sums a
//! score, one running maximum and sum a head.

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;

use crate::kernels::cache::CacheType;
use crate::kernels::exp::{exponential, soft_cap};
use crate::kernels::matmul::fold;
use crate::plan::Column;
use crate::platform::{Vectors, Work};

/// Tokens at once.
const TILE: usize = 64;
/// Floats of a vector: heads are padded with zeros to whole ones.
const LANES: usize = 8;
/// Below every score.
const HIDDEN: f32 = -3e38;

/// Keys and values of one layer: `[lane][kv_head][slot][head_dim]`, packed in pairs.
pub(super) struct Cache<'a> {
    pub(super) kind: CacheType,
    pub(super) k: &'a [u32],
    pub(super) v: &'a [u32],
    pub(super) head_dim: usize,
    /// Slots of one head of one lane.
    pub(super) slots: usize,
}

/// All query heads of one key head, for a few columns.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) cache: &'a Cache<'a>,
    /// Key heads of a lane.
    pub(super) n_kv_heads: usize,
    pub(super) kv_head: usize,
    /// For the window and for the sinks: `[column][q_size]`, of which the first `[group][head_dim]` count.
    pub(super) queries: [&'a [f32]; 2],
    pub(super) q_size: usize,
    /// `[group]`.
    pub(super) slopes: &'a [f32],
    /// `[group]`: scores of no key.
    pub(super) sink_logits: &'a [f32],
    pub(super) reach: usize,
    pub(super) cap: f32,
}

/// What a core needs to attend. Rows are a head long, padded.
#[derive(Default)]
struct Room {
    /// `[token]` rows of the tile, for all columns: sinks, then window.
    keys: Vec<f32>,
    /// As `keys`.
    values: Vec<f32>,
    /// `[column][window, sinks][head]` rows.
    queries: Vec<f32>,
    /// `[column][head]` rows.
    sums: Vec<f32>,
    /// `[column][head]`: largest score so far, sum of the weights so far.
    state: Vec<(f32, f32)>,
    /// `[token]`: the eight sums of a score.
    eights: Vec<[f32; LANES]>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// `out`: `[column][group][head_dim]`.
pub(super) struct Attend<'a> {
    pub(super) heads: Heads<'a>,
    pub(super) columns: &'a [Column],
    pub(super) out: &'a mut [f32],
}

impl Work for Attend<'_> {
    #[inline(always)]
    fn run<V: Vectors>(self, vectors: V) {
        let Self { heads, columns, out } = self;
        let mut room = ROOM.take(); // not a closure: it might not be inlined
        let mut first = 0;
        for columns in columns.chunk_by(|a, b| follows(a, b, heads.cache.slots)) {
            let size = heads.slopes.len() * heads.cache.head_dim;
            Run { heads, columns, first }.attend(vectors, &mut room, &mut out[first * size..][..columns.len() * size]);
            first += columns.len();
        }
        ROOM.set(room);
    }
}

/// Whether two columns are neighbours in a stream, and the view moves by one token at most.
#[inline(always)]
pub(super) fn follows(a: &Column, b: &Column, slots: usize) -> bool {
    let next = if a.slot as usize + 1 == slots { a.sinks } else { a.slot + 1 };
    let is_next = a.lane == b.lane && a.sinks == b.sinks && b.slot == next;
    is_next && (b.cached == a.cached || b.cached == a.cached + 1)
}

/// Columns that follow each other, `first` among those of the queries.
struct Run<'a> {
    heads: Heads<'a>,
    columns: &'a [Column],
    first: usize,
}

impl Run<'_> {
    /// How many tokens left the view between the first column and this one.
    #[inline(always)]
    fn shift(&self, column: usize) -> usize {
        self.columns[0].cached as usize + column - self.columns[column].cached as usize
    }

    /// What a column sees in a tile that begins `start` tokens behind the oldest: numbers within its view, 0 the first sink.
    #[inline(always)]
    fn tokens(&self, column: usize, start: usize) -> Range<usize> {
        let cached = self.columns[column].cached as usize;
        let start = cached - cached.min(self.heads.reach) + start;
        start..(start + TILE).min(cached + 1)
    }

    #[inline(always)]
    fn attend<V: Vectors>(&self, vectors: V, room: &mut Room, out: &mut [f32]) {
        let Heads { cache, slopes, cap, .. } = self.heads;
        let head_dim = cache.head_dim;
        let width = head_dim.next_multiple_of(LANES);
        let group = slopes.len();
        let sinks = self.columns[0].sinks as usize;
        self.begin(room, width);
        let Room { keys, values, queries, sums, state, eights } = room;

        let last = self.columns.len() - 1;
        for start in (0..).step_by(TILE) {
            let (front, back) = (self.tokens(0, start), self.tokens(last, start));
            if back.is_empty() {
                break;
            }
            // Sinks by their number, the others by their number in the first column's view.
            let pinned = front.start.min(sinks)..back.end.min(sinks);
            let recent = front.start.max(sinks)..(back.end.max(sinks) + self.shift(last));
            self.load(vectors, pinned.clone(), recent.clone(), width, keys, values);
            for column in 0..=last {
                let tokens = self.tokens(column, start);
                if tokens.is_empty() {
                    continue;
                }
                let of_sinks = tokens.start.min(sinks)..tokens.end.min(sinks);
                let of_window = tokens.start.max(sinks)..tokens.end.max(sinks);
                let split = of_sinks.len();
                let rows = |from: usize, count: usize| from * width..(from + count) * width;
                let sink_rows = rows(of_sinks.start - pinned.start, split);
                let behind = pinned.len() + of_window.start + self.shift(column) - recent.start;
                let window_rows = rows(behind, of_window.len());
                let distance = (self.columns[column].cached as usize - tokens.start) as f32;
                for (head, slope) in slopes.iter().enumerate() {
                    let mut weights = [HIDDEN; TILE];
                    let (of_sinks, of_window) = weights[..tokens.len()].split_at_mut(split);
                    let query = |sinks: usize| &queries[((2 * column + sinks) * group + head) * width..][..width];
                    scores(vectors, query(1), &keys[sink_rows.clone()], eights, of_sinks);
                    scores(vectors, query(0), &keys[window_rows.clone()], eights, of_window);
                    if cap != 0.0 {
                        weights[..tokens.len()].iter_mut().for_each(|score| *score = soft_cap(*score, cap));
                    }
                    if *slope != 0.0 {
                        for (n, score) in weights[..tokens.len()].iter_mut().enumerate() {
                            *score -= slope * (distance - n as f32);
                        }
                    }
                    let at = column * group + head;
                    let correction = soften(&mut weights, tokens.len(), &mut state[at]);
                    let sums = &mut sums[at * width..][..width];
                    sums.iter_mut().for_each(|sum| *sum *= correction);
                    let (of_sinks, of_window) = weights[..tokens.len()].split_at(split);
                    weigh(vectors, of_sinks, &values[sink_rows.clone()], sums);
                    weigh(vectors, of_window, &values[window_rows.clone()], sums);
                }
            }
        }
        let heads = out.chunks_exact_mut(head_dim).zip(sums.chunks_exact(width)).zip(state);
        for (((out, sums), (maximum, sum)), sink_logit) in heads.zip(self.heads.sink_logits.iter().cycle()) {
            // The sum is 1 or more, so that the 1e-38 that is left of no logit changes no bit of it.
            let factor = 1.0 / (*sum + exponential(sink_logit - *maximum));
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * factor;
            }
        }
    }

    /// Copies the queries, and sets sums and states to nothing.
    #[inline(always)]
    fn begin(&self, room: &mut Room, width: usize) {
        let Heads { cache, queries, q_size, slopes, .. } = self.heads;
        let rows = self.columns.len() * slopes.len();
        room.state.clear();
        room.state.resize(rows, (HIDDEN, 0.0));
        room.sums.clear();
        room.sums.resize(rows * width, 0.0);
        room.eights.resize(TILE, [0.0; LANES]);
        room.queries.clear();
        room.queries.resize(2 * rows * width, 0.0);
        let size = slopes.len() * cache.head_dim;
        for (n, copied) in room.queries.chunks_exact_mut(slopes.len() * width).enumerate() {
            let query = &queries[n % 2][(self.first + n / 2) * q_size..][..size];
            for (copied, query) in copied.chunks_exact_mut(width).zip(query.chunks_exact(cache.head_dim)) {
                copied[..cache.head_dim].copy_from_slice(query);
            }
        }
    }

    /// Widens the keys and values of a tile.
    #[inline(always)]
    fn load<V: Vectors>(
        &self,
        vectors: V,
        pinned: Range<usize>,
        recent: Range<usize>,
        width: usize,
        keys: &mut Vec<f32>,
        values: &mut Vec<f32>,
    ) {
        let Heads { cache, n_kv_heads, kv_head, .. } = self.heads;
        let newest = self.columns[self.columns.len() - 1];
        let number = self.columns[0].cached as usize + self.columns.len() - 1;
        let first = (newest.lane as usize * n_kv_heads + kv_head) * cache.slots;
        // The sinks in their slots, then the ring up to the newest column's own slot.
        let slot_of = |token: usize| newest.slot_behind(number - token, cache.slots);
        for rows in [&mut *keys, &mut *values] {
            rows.resize((pinned.len() + recent.len()) * width, 0.0);
        }
        let words = cache.head_dim / 2 * cache.kind.words_per_pair();
        let rows = keys.chunks_exact_mut(width).zip(values.chunks_exact_mut(width));
        for ((key, value), slot) in rows.zip(pinned.chain(recent.map(slot_of))) {
            let pair = (first + slot) * (cache.head_dim / 2);
            for (row, packed) in [(key, cache.k), (value, cache.v)] {
                for line in (0..words).step_by(16) {
                    vectors.prefetch(packed, (first + slot + TILE) * words + line);
                }
                let (row, padding) = row.split_at_mut(cache.head_dim);
                cache.kind.load(vectors, packed, pair, row);
                padding.fill(0.0);
            }
        }
    }
}

/// Query times every key in eight sums, element e in sum e mod 8.
#[inline(always)]
fn scores<V: Vectors>(vectors: V, query: &[f32], keys: &[f32], eights: &mut [[f32; LANES]], out: &mut [f32]) {
    let (query, keys) = (query.as_chunks().0, keys.as_chunks().0);
    let (fours, rest) = eights[..out.len()].as_chunks_mut::<4>();
    let (keys, last_keys) = keys.split_at(4 * fours.len() * query.len());
    for (keys, sums) in keys.chunks_exact(4 * query.len()).zip(fours) {
        *sums = sums_of(vectors, query, keys);
    }
    for (key, sums) in last_keys.chunks_exact(query.len()).zip(rest) {
        [*sums] = sums_of(vectors, query, key);
    }
    // Not above: the compiler would interleave the lanes of the sums.
    for (out, sums) in out.iter_mut().zip(black_box(eights)) {
        *out = fold(*sums);
    }
}

/// The eight sums of `N` keys.
#[inline(always)]
fn sums_of<V: Vectors, const N: usize>(vectors: V, query: &[[f32; LANES]], keys: &[[f32; LANES]]) -> [[f32; LANES]; N] {
    let mut sums = [[0.0; LANES]; N];
    for (e, q) in query.iter().enumerate() {
        for (n, sums) in sums.iter_mut().enumerate() {
            vectors.add_products(sums, q, &keys[n * query.len() + e]);
        }
    }
    sums
}

/// Scores to weights, the first `count` of which are added up; gives the factor for earlier sums (online softmax).
#[inline(always)]
fn soften(scores: &mut [f32; TILE], count: usize, (maximum, sum): &mut (f32, f32)) -> f32 {
    let mut highest = [*maximum; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for (highest, &score) in highest.iter_mut().zip(scores) {
            *highest = highest.max(score);
        }
    }
    let high = highest.iter().fold(*maximum, |high, &score| high.max(score));
    let correction = exponential(*maximum - high);
    *maximum = high;
    for score in scores.iter_mut() {
        *score = exponential(*score - high);
    }
    *sum = scores[..count].iter().fold(*sum * correction, |sum, weight| sum + weight);
    correction
}

/// Adds rows, weighted, to `sums`.
#[inline(always)]
fn weigh<V: Vectors>(vectors: V, weights: &[f32], rows: &[f32], sums: &mut [f32]) {
    let width = sums.len() / LANES;
    let (mut rest, rows) = (sums.as_chunks_mut().0, rows.as_chunks().0);
    while !rest.is_empty() {
        let at = width - rest.len();
        // As many sums as stay in the registers.
        let most = if V::REGISTERS < 16 { 4 } else { 8 };
        rest = match most.min(rest.len()) {
            8 => weigh_block::<V, 8>(vectors, weights, rows, width, at, rest),
            4..8 => weigh_block::<V, 4>(vectors, weights, rows, width, at, rest),
            _ => weigh_block::<V, 1>(vectors, weights, rows, width, at, rest),
        };
    }
}

/// As [`weigh`], for `N` eights, which are number `at` and on of a row; gives those that follow.
#[inline(always)]
fn weigh_block<'a, V: Vectors, const N: usize>(
    vectors: V,
    weights: &[f32],
    rows: &[[f32; LANES]],
    width: usize,
    at: usize,
    sums: &'a mut [[f32; LANES]],
) -> &'a mut [[f32; LANES]] {
    let (sums, rest) = sums.split_first_chunk_mut::<N>().expect("so many are left");
    let mut total = *sums;
    for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
        for (total, values) in total.iter_mut().zip(&row[at..at + N]) {
            vectors.add_products(total, &[*weight; LANES], values);
        }
    }
    *sums = total;
    rest
}
