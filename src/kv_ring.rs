//! The ring of keys and values: which slot a token has, which tokens a query sees. Pure arithmetic.
//!
//! Slots `0..sinks` hold the first tokens of the stream for ever. The others are a ring of
//! `ring_slots = window + slack`. A query at position p sees the sinks, the `window` tokens before it and itself
//! (StreamingLLM, arXiv 2309.17453, §3.2; mit-han-lab/streaming-llm keeps the same tokens). The slack lets a chunk
//! be written before its first query is answered, and lets tokens be taken back. Nothing is ever moved.
//!
//! Where a stream is divided into turns, a window that would begin within a turn begins with the next turn instead:
//! whole turns leave, and only one that is longer than the window loses its tokens one by one. That is arithmetic too:
//! the slots stay as they are, a query just sees fewer of them.
//!
//! With a compressive memory (Infini-attention, arXiv 2404.07143) the stream is divided into segments of one length, and a
//! query sees the open one only, up to itself. A step goes no further than to its end; before the first token of the next
//! one is read, the segment is folded into the memory. That writes another copy of it than it reads, so that a token that
//! is read once more finds the memory as it was, and a fold that is made once more has the same result.

use std::collections::VecDeque;

use crate::kernels::memory::copy_after;
use crate::mutants;
use crate::plan::Column;

/// Where one stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRing {
    sinks: u32,
    window: u32,
    ring_slots: u32,
    /// Position of the stream's first token; 0 but for `--position`.
    start: u64,
    /// Tokens written so far.
    written: u64,
    /// Numbers of the tokens that begin a turn, ascending; those that nothing can reach again are forgotten.
    turns: VecDeque<u64>,
    /// Tokens that the ring may be taken back, if these are more than its slots: see [`Self::remember`].
    memory: u64,
    segments: Option<Segments>,
}

/// How a stream with a compressive memory is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segments {
    /// Tokens of one.
    length: u32,
    /// The memory is read and written.
    is_remembered: bool,
}

impl KvRing {
    /// An empty ring. `slack` is the largest number of tokens written before the first of them is attended,
    /// or in flight when a stop is found, whichever is larger.
    pub fn new(sinks: u32, window: u32, slack: u32) -> Self {
        let ring_slots = window + mutants::slack(slack);
        let (window, turns) = (mutants::window(window), VecDeque::new());
        Self { sinks, window, ring_slots, start: 0, written: 0, turns, memory: 0, segments: None }
    }

    /// An empty ring for segments of so many tokens, at least one.
    pub fn with_segments(length: u32, slack: u32) -> Self {
        let segments = Segments { length: mutants::segment(length), is_remembered: true };
        Self { segments: Some(segments), ..Self::new(0, length - 1, slack) }
    }

    /// Remembers the turns of the last `tokens`, for [`Self::rewound`].
    pub fn remember(&mut self, tokens: u64) {
        self.memory = self.memory.max(tokens);
    }

    /// The same ring when it had taken so many tokens.
    pub fn rewound(&self, written: u64) -> Self {
        Self { written, ..self.clone() }
    }

    /// Slots of the whole ring: `sinks + window + slack`.
    pub fn slots(&self) -> u32 {
        self.sinks + self.ring_slots
    }

    /// Forgets everything; the next token stands at `start`.
    pub fn reset(&mut self, start: u64) {
        (self.start, self.written) = (start, 0);
        self.turns.clear();
    }

    /// Makes the first `sinks` tokens of an empty ring the ones that stay. The slots stay as many as they are, so the
    /// window becomes longer or shorter.
    pub fn pin(&mut self, sinks: u32) {
        self.window = self.window + self.sinks - sinks;
        self.ring_slots = self.ring_slots + self.sinks - sinks;
        self.sinks = sinks;
    }

    /// Goes on where another ring stood.
    pub fn resume(&mut self, start: u64, written: u64, turns: Vec<u64>) {
        (self.start, self.written, self.turns) = (start, written, turns.into());
    }

    /// Whether the compressive memory is read and written; none if there is none.
    pub fn is_remembered(&self) -> Option<bool> {
        self.segments.map(|segments| segments.is_remembered)
    }

    /// From here on nothing is folded, and the memory reads as zero.
    pub fn forget(&mut self) {
        if let Some(segments) = &mut self.segments {
            segments.is_remembered = false;
        }
    }

    /// How many tokens, at least one and at most `most`, may be read in one step from the one `ahead` places after the next
    /// one on: those of its segment.
    pub fn step(&self, ahead: u32, most: u32) -> u32 {
        let index = self.written + u64::from(ahead);
        self.segments.map_or(most, |segments| most.min(segments.length - self.cached(index)))
    }

    /// If the token `ahead` places after the next one is the first of a segment: the column of the last one before it. That
    /// segment must be folded first.
    pub fn filled(&self, ahead: u32, lane: u32) -> Option<Column> {
        let segments = self.segments.filter(|segments| segments.is_remembered)?;
        let index = self.written + u64::from(ahead);
        let last = index.checked_sub(1).filter(|_| index.is_multiple_of(u64::from(segments.length)))?;
        Some(self.column_of(last, 0, lane, self.segment(last)))
    }

    /// The stream's token number `index`, not yet written, begins a turn.
    pub fn begin_turn(&mut self, index: u64) {
        // What a window could begin with after as many tokens were taken back as can be.
        let reach = self.written.saturating_sub(self.memory.max(u64::from(self.ring_slots)));
        while self.turns.front().is_some_and(|&turn| turn < reach) {
            self.turns.pop_front();
        }
        self.turns.push_back(index);
    }

    /// Numbers of the tokens that begin a turn and may still matter.
    pub fn turns(&self) -> impl Iterator<Item = u64> {
        self.turns.iter().copied()
    }

    /// Tokens written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Tokens of the stream that token number `index` sees besides itself.
    pub fn cached(&self, index: u64) -> u32 {
        if let Some(segments) = self.segments {
            return (index % u64::from(segments.length)) as u32;
        }
        let (sinks, window) = (u64::from(self.sinks), u64::from(self.window));
        let oldest = index.saturating_sub(window);
        if oldest <= sinks {
            return index as u32; // everything: at most sinks + window
        }
        // The first turn that is wholly within the window; without one, the window.
        let turn = self.turns.partition_point(|&turn| turn < oldest);
        let begin = self.turns.get(turn).copied().filter(|&turn| turn <= index).unwrap_or(oldest);
        (sinks + index - begin) as u32
    }

    /// Whether the `sample` kernel goes on by itself to the token `ahead` places after the next one: it takes the number of
    /// cached tokens up by one, to at most the capacity, and knows nothing of turns and segments.
    pub fn follows(&self, ahead: u32) -> bool {
        let index = self.written + u64::from(ahead);
        let is_in_segment = self.segments.is_none() || self.cached(index) > 0;
        index > 0 && is_in_segment && self.cached(index) == (self.cached(index - 1) + 1).min(self.sinks + self.window)
    }

    /// How many tokens the kernel can go on from the one `ahead` places after the next one, that one included: at least
    /// one, at most `most`.
    pub fn run(&self, ahead: u32, most: u32) -> u32 {
        1 + (1..most).take_while(|n| self.follows(ahead + n)).count() as u32
    }

    /// The slots of the tokens that the ring holds, oldest first: sinks, then those that no later one has overwritten,
    /// even if `ahead` more were computed.
    pub fn held(&self, ahead: u32) -> Vec<u32> {
        let sinks = self.written.min(u64::from(self.sinks));
        let oldest = (self.written + u64::from(ahead))
            .saturating_sub(u64::from(self.ring_slots))
            .clamp(sinks, self.written.max(sinks));
        (0..sinks).chain(oldest..self.written).map(|index| self.slot(index)).collect()
    }

    /// The column of the token `ahead` places after the next one, in that lane of the cache.
    pub fn column(&self, ahead: u32, token: u32, lane: u32) -> Column {
        let index = self.written + u64::from(ahead);
        self.column_of(index, token, lane, mutants::folded(self.segment(index)))
    }

    /// The column of the stream's token number `index`, with the memory of so many segments.
    fn column_of(&self, index: u64, token: u32, lane: u32, folded: u64) -> Column {
        Column {
            token,
            position: (self.start + index) as u32, // the low half: phases wrap with it
            slot: self.slot(mutants::slot_index(index)),
            cached: self.cached(index),
            sinks: self.sinks,
            capacity: self.sinks + self.window + self.memory_copy(folded) * (self.window + 1),
            lane,
            target: 0,
        }
    }

    /// The slot of the stream's token number `index`.
    fn slot(&self, index: u64) -> u32 {
        let sinks = u64::from(self.sinks);
        if index < sinks {
            return index as u32;
        }
        let ring = (self.start + index - sinks) % u64::from(self.ring_slots);
        self.sinks + ring as u32
    }

    /// The segment of token number `index`; without segments, 0.
    fn segment(&self, index: u64) -> u64 {
        self.segments.map_or(0, |segments| index / u64::from(segments.length))
    }

    /// The copy of the memory that holds so many segments; 0 for none.
    fn memory_copy(&self, folded: u64) -> u32 {
        let segments = self.segments.filter(|segments| segments.is_remembered);
        segments.map_or(0, |segments| copy_after(folded, segments.length))
    }

    /// Counts `tokens` as written.
    pub fn advance(&mut self, tokens: u32) {
        self.written += u64::from(tokens);
    }

    /// Takes the last `tokens` back, as if they had never been written. At most the slack may be taken back.
    pub fn take_back(&mut self, tokens: u32) {
        self.written -= u64::from(tokens);
        // Token `written` is pending, the one behind it may begin a turn.
        while self.turns.back().is_some_and(|&turn| turn > self.written + 1) {
            self.turns.pop_back();
        }
    }
}

#[cfg(test)]
mod tests;
