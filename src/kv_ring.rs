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
}

impl KvRing {
    /// An empty ring. `slack` is the largest number of tokens written before the first of them is attended,
    /// or in flight when a stop is found, whichever is larger.
    pub fn new(sinks: u32, window: u32, slack: u32) -> Self {
        let ring_slots = window + mutants::slack(slack);
        Self { sinks, window: mutants::window(window), ring_slots, start: 0, written: 0 }
    }

    /// Slots of the whole ring: `sinks + window + slack`.
    pub fn slots(&self) -> u32 {
        self.sinks + self.ring_slots
    }

    /// Forgets everything; the next token stands at `start`.
    pub fn reset(&mut self, start: u64) {
        (self.start, self.written) = (start, 0);
    }

    /// The column of the token `ahead` places after the next one.
    pub fn column(&self, ahead: u32, token: u32) -> Column {
        let index = self.written + u64::from(ahead);
        let capacity = self.sinks + self.window;
        Column {
            token,
            position: (self.start + index) as u32, // the low half: phases wrap with it
            slot: self.slot(mutants::slot_index(index)),
            cached: index.min(u64::from(capacity)) as u32,
            sinks: self.sinks,
            capacity,
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
    }

    /// Takes the last `tokens` back, as if they had never been written. At most the slack may be taken back.
    pub fn take_back(&mut self, tokens: u32) {
        self.written -= u64::from(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slots that a column attends to, by the rule of the kernels.
    fn seen(column: &Column, slots: u32) -> Vec<u32> {
        let behind = |distance: u32| {
            let in_ring = column.slot - column.sinks.min(column.slot);
            if in_ring >= distance { column.slot - distance } else { column.slot + slots - column.sinks - distance }
        };
        (0..=column.cached).map(|j| if j < column.sinks { j } else { behind(column.cached - j) }).collect()
    }

    #[test]
    fn a_query_sees_the_sinks_the_window_and_itself_however_the_stream_was_cut() {
        for (sinks, window, slack) in [(0, 1, 1), (0, 5, 3), (1, 0, 4), (1, 4, 2), (4, 7, 5), (4, 28, 8)] {
            for start in [0, 1_u64 << 40, (1 << 32) - 3] {
                let mut ring = KvRing::new(sinks, window, slack);
                ring.reset(start);
                let mut token_in_slot = vec![None; ring.slots() as usize];
                let mut index = 0_u64;
                for chunk in (1..=slack).cycle().take(60) {
                    let columns: Vec<Column> = (0..chunk).map(|ahead| ring.column(ahead, 0)).collect();
                    for (n, column) in (0..).zip(&columns) {
                        token_in_slot[column.slot as usize] = Some(index + n);
                    }
                    for (n, column) in (0..).zip(&columns) {
                        let p = index + n;
                        let tokens: Vec<_> =
                            seen(column, ring.slots()).iter().map(|&slot| token_in_slot[slot as usize]).collect();
                        let wanted = (0..=p).filter(|&t| t < u64::from(sinks) || t + u64::from(window) >= p);
                        assert_eq!(tokens, wanted.map(Some).collect::<Vec<_>>(), "S {sinks} R {window} p {p}");
                    }
                    ring.advance(chunk);
                    index += u64::from(chunk);
                }
            }
        }
    }

    #[test]
    fn taking_tokens_back_is_as_if_they_had_never_been_written() {
        let mut ring = KvRing::new(2, 5, 4);
        ring.advance(20);
        let before = ring.clone();
        ring.advance(4);
        ring.take_back(4);
        assert_eq!(ring, before);
    }
}
