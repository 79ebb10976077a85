//! What a perplexity run has come to so far: sums, rows of blocks, pairs with fresh runs. All of it can be written down and
//! taken up again, to the last digit.

use serde_json::{Value, json};
use sinkstream::{Error, Result};

/// Sums over the tokens scored so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Tokens scored.
    pub(super) tokens: u64,
    /// Of their NLLs, in nats. In f64: millions of tokens.
    pub(super) nll: f64,
    /// Seconds that took.
    pub(super) seconds: f64,
}

impl Sums {
    pub(super) fn mean(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    fn add(&mut self, nll: f32) {
        self.tokens += 1;
        self.nll += f64::from(nll);
    }

    fn to_json(&self) -> Value {
        json!([self.tokens, self.nll, self.seconds])
    }

    fn from_json(value: &Value) -> Result<Self> {
        let number = |n: usize| value[n].as_f64().ok_or_else(damaged);
        Ok(Self { tokens: value[0].as_u64().ok_or_else(damaged)?, nll: number(1)?, seconds: number(2)? })
    }
}

/// One token scored in the stream and from a fresh run: its place in the text, both NLLs.
pub(super) type Pair = (u64, f32, f32);

/// A run so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Running {
    /// Everything.
    pub(super) all: Sums,
    /// The tokens whose queries miss one.
    pub(super) after_eviction: Sums,
    /// The block that is not full yet.
    pub(super) block: Sums,
    /// One row a full block, for reports.
    pub(super) blocks: Vec<Value>,
    /// Ascending places.
    pub(super) pairs: Vec<Pair>,
}

impl Running {
    /// Counts the next token of the text; `capacity`: S + R.
    pub(super) fn add(&mut self, nll: f32, capacity: u64) {
        self.all.add(nll);
        self.block.add(nll);
        if self.all.tokens > capacity + 1 {
            self.after_eviction.add(nll);
        }
    }

    /// Counts the time of what was added last.
    pub(super) fn add_seconds(&mut self, seconds: f64) {
        self.all.seconds += seconds;
        self.block.seconds += seconds;
    }

    /// Makes a row of the block. `bytes`: held by the executor.
    pub(super) fn end_block(&mut self, bytes: u64) -> &Value {
        let block = std::mem::take(&mut self.block);
        self.blocks.push(json!({
            "tokens": self.all.tokens,
            "perplexity": block.mean().exp(),
            "running_perplexity": self.all.mean().exp(),
            "tokens_per_second": block.tokens as f64 / block.seconds,
            "bytes": bytes,
        }));
        &self.blocks[self.blocks.len() - 1]
    }

    /// As text; `text` tells one text and one way of cutting it from another.
    pub(super) fn to_json(&self, text: &str) -> Value {
        json!({
            "text": text,
            "all": self.all.to_json(),
            "after_eviction": self.after_eviction.to_json(),
            "block": self.block.to_json(),
            "blocks": self.blocks,
            "pairs": self.pairs,
        })
    }

    /// What [`Self::to_json`] wrote, if it is of the same text.
    pub(super) fn from_json(value: &Value, text: &str) -> Result<Self> {
        if value["text"] != text {
            return Err(Error::Snapshot("it is of another text, or was made with other arguments".into()));
        }
        let blocks = value["blocks"].as_array().ok_or_else(damaged)?.clone();
        let pairs = serde_json::from_value(value["pairs"].clone()).map_err(|_| damaged())?;
        let sums = |key: &str| Sums::from_json(&value[key]);
        let (all, after_eviction, block) = (sums("all")?, sums("after_eviction")?, sums("block")?);
        Ok(Self { all, after_eviction, block, blocks, pairs })
    }

    /// The pairs at places `range`: how much the stream's NLL is above that of fresh runs.
    pub(super) fn paired(&self, range: std::ops::Range<u64>) -> Value {
        let pairs: Vec<&Pair> = self.pairs.iter().filter(|(place, ..)| range.contains(place)).collect();
        let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(|pair| of(pair)).sum::<f64>() / pairs.len() as f64;
        let difference = |(_, stream, fresh): &Pair| f64::from(*stream) - f64::from(*fresh);
        let gap = mean(&difference);
        let variance = mean(&|pair| (difference(pair) - gap).powi(2)) * pairs.len() as f64 / (pairs.len() as f64 - 1.0);
        json!({
            "from": range.start,
            "to": range.end,
            "pairs": pairs.len(),
            "stream_nll": mean(&|(_, stream, _)| f64::from(*stream)),
            "recompute_nll": mean(&|(.., fresh)| f64::from(*fresh)),
            "ratio": gap.exp(),
            "standard_error": (variance / pairs.len() as f64).sqrt(),
        })
    }
}

fn damaged() -> Error {
    Error::Snapshot("it contradicts itself".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Running {
        let mut running = Running::default();
        for n in 0..5 {
            running.add(1.0 / (n as f32 + 3.0), 2);
        }
        running.add_seconds(0.1 + 0.2);
        running.end_block(7);
        running.add(0.7, 2);
        running.pairs = vec![(1, 2.0, 1.5), (3, 1.0, 1.2), (9, 4.0, 4.0)];
        running
    }

    #[test]
    fn comes_back_to_the_last_digit() {
        let running = some();
        let text = serde_json::to_string(&running.to_json("a")).unwrap_or_default();
        let read: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(Running::from_json(&read, "a").ok(), Some(running));
        assert!(Running::from_json(&read, "b").is_err());
        assert!(Running::from_json(&json!({"text": "a"}), "a").is_err());
    }

    #[test]
    fn counts_evictions_from_the_first_query_that_misses_a_token() {
        // The first token is not scored: the fourth score is by the query at index 3, which sees itself and 2 of 3 others.
        assert_eq!(some().after_eviction.tokens, 3);
        assert_eq!(some().all.tokens, 6);
        assert_eq!(some().block.tokens, 1);
    }

    #[test]
    fn pairs_have_a_ratio_and_its_error() {
        let found = some().paired(0..5);
        let near = |key: &str, wanted: f64| (found[key].as_f64().unwrap_or(f64::NAN) - wanted).abs() < 1e-6;
        assert!(near("ratio", 0.15_f64.exp()) && near("standard_error", 0.35) && found["pairs"] == 2, "{found}");
    }
}
