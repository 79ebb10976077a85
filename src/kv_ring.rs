//! The ring of keys and values: which slot a token has, which tokens a query sees. Pure arithmetic.
//!
//! Slots `0..sinks` hold the first tokens of the stream for ever. The others are a ring of
//! `ring_slots = window + slack`. A query at position p sees the sinks, the `window` tokens before it and itself
//! (StreamingLLM, arXiv 2309.17453, §3.2; mit-han-lab/streaming-llm keeps the same tokens). The slack lets a chunk
//! be written before its first query is answered, and lets tokens be taken back. Nothing is ever moved.

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
    /// Tokens of those that the next query does not see. They stay evicted when tokens are taken back.
    evicted: u64,
}

impl KvRing {
    /// An empty ring. `slack` is the largest number of tokens written before the first of them is attended,
    /// or in flight when a stop is found, whichever is larger.
    pub fn new(sinks: u32, window: u32, slack: u32) -> Self {
        let ring_slots = window + mutants::slack(slack);
        Self { sinks, window: mutants::window(window), ring_slots, start: 0, written: 0, evicted: 0 }
    }

    /// Slots of the whole ring: `sinks + window + slack`.
    pub fn slots(&self) -> u32 {
        self.sinks + self.ring_slots
    }

    /// Forgets everything; the next token stands at `start`.
    pub fn reset(&mut self, start: u64) {
        (self.start, self.written, self.evicted) = (start, 0, 0);
    }

    /// Position in the stream of the next token.
    pub fn position(&self) -> u64 {
        self.start + self.written
    }

    /// Tokens that have left the cache.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Tokens that the next query sees besides itself.
    pub fn cached(&self) -> u32 {
        (self.written - self.evicted) as u32
    }

    /// Most tokens that a query can see besides itself: `sinks + window`.
    pub fn capacity(&self) -> u32 {
        self.sinks + self.window
    }

    /// The column of the token `ahead` places after the next one.
    pub fn column(&self, ahead: u32, token: u32) -> Column {
        let index = self.written + u64::from(ahead);
        let evicted = self.evicted.max(index.saturating_sub(u64::from(self.capacity())));
        Column {
            token,
            position: (self.start + index) as u32, // the low half: phases wrap with it (RoPE in fixed-point turns)
            slot: self.slot(mutants::slot_index(index)),
            cached: (index - evicted) as u32,
            sinks: self.sinks,
            capacity: self.capacity(),
            lane: 0,
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

    /// Counts `tokens` as written.
    pub fn advance(&mut self, tokens: u32) {
        self.written += u64::from(tokens);
        self.evicted = self.evicted.max(self.written.saturating_sub(u64::from(self.capacity())));
    }

    /// Takes the last `tokens` back, as if they had never been written. At most the slack may be taken back.
    pub fn take_back(&mut self, tokens: u32) {
        self.written -= u64::from(tokens);
        self.evicted = self.evicted.min(self.written.saturating_sub(u64::from(self.capacity())));
    }
}
