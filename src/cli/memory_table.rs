//! `sinkstream info --memory`: what methods with a memory keep of the past, by the formulas of Table 1 of the Infini-attention
//! paper (arXiv 2404.07143), for the model at hand; and what they hold in truth.
//!
//! The paper counts cached memory alone. The keys and values of the open segment are there in every method and counted in
//! none of its rows: the second number counts them too.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};
use sinkstream::config::{Config, Keep};

use super::args::InfoArgs;

#[derive(Args)]
pub(crate) struct MemoryInfoArgs {
    #[command(flatten)]
    pub(crate) info: InfoArgs,
    /// What methods with a memory would keep of the past, by the formulas of the Infini-attention paper, and hold in truth
    #[arg(long)]
    pub(crate) memory: bool,
}

/// Tokens of the past that methods without a fixed size keep: the memory of the Memorizing Transformers in the paper's Table 2.
const REMEMBERED: u64 = 65_536;
/// Vectors of the Recurrent Memory Transformer in the paper's experiments.
const RMT_VECTORS: u64 = 100;
/// Summary vectors of a segment of the `AutoCompressors` (Chevalier et al., arXiv 2305.14788).
const AUTO_VECTORS: u64 = 50;
/// Compressed tokens for each token of memory, and how many tokens one of them stands for (Rae et al., arXiv 1911.05507).
const COMPRESSED: (u64, u64) = (1, 4);

/// One method: cached floats by formula, and the tokens that it can reach.
struct Row {
    name: &'static str,
    formula: &'static str,
    cached: u64,
    reach: u64,
}

/// The table for one model, in floats.
pub(crate) struct Table {
    rows: Vec<Row>,
    /// Keys and values of the open segment.
    open: u64,
    symbols: Vec<(&'static str, u64, &'static str)>,
}

impl Table {
    /// N is the model's segment; without one, all that a query sees.
    pub(crate) fn new(config: &Config, keep: Keep) -> Self {
        let n = config
            .infini
            .map_or_else(|| u64::from(keep.sinks + keep.window) + 1, |infini| u64::from(infini.segment_length));
        let [l, d_model, h, d] = [config.n_layers, config.dim, config.n_kv_heads, config.head_dim].map(u64::from);
        let s = REMEMBERED.div_ceil(n);
        let (c, r) = (COMPRESSED.0 * n, COMPRESSED.1);
        let (p, p_auto, m) = (RMT_VECTORS, AUTO_VECTORS, s);
        let row = |name, formula, cached, reach| Row { name, formula, cached, reach };
        let rows = vec![
            row("Transformer-XL", "(dk + dv) H N l", 2 * d * h * n * l, n * l),
            row("Compressive Transformer", "d (c + N) l", d_model * (c + n) * l, (c * r + n) * l),
            row("Memorizing Transformers", "(dk + dv) H N S", 2 * d * h * n * s, n * s),
            row("  with their XL cache", "(dk + dv) H N (S + l)", 2 * d * h * n * (s + l), n * s),
            row("RMT", "d p l 2", d_model * p * l * 2, n * s),
            row("AutoCompressors", "d p' (m + 1) l", d_model * p_auto * (m + 1) * l, n * s),
            row("Infini-attention", "dk (dv + 1) H l", d * (d + 1) * h * l, n * s),
        ];
        let symbols = vec![
            ("N", n, "tokens of a segment"),
            ("S", s, "segments: 65,536 tokens"),
            ("l", l, "layers"),
            ("H", h, "key heads: each has one memory, shared by its group"),
            ("dk = dv", d, "size of a head"),
            ("d", d_model, "size of the residual stream"),
            ("c", c, "compressed tokens: as many as a segment has"),
            ("r", r, "tokens that one of them stands for"),
            ("p", p, "vectors of RMT"),
            ("p'", p_auto, "summary vectors of AutoCompressors"),
            ("m", m, "segments whose summaries are kept: all"),
        ];
        Self { rows, open: 2 * d * h * n * l, symbols }
    }

    /// Cached floats, floats with the open segment, and how often Infini-attention's go into each.
    fn numbers(&self, row: &Row) -> [f64; 4] {
        let infini = self.rows.last().map_or(1, |row| row.cached);
        let (cached, total) = (row.cached as f64, (row.cached + self.open) as f64);
        [cached, total, cached / infini as f64, total / (infini + self.open) as f64]
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let [cached, total, cached_ratio, total_ratio] = self.numbers(row);
            json!({
                "name": row.name.trim(),
                "formula": row.formula,
                "context_tokens": row.reach,
                "cached_floats": cached as u64,
                "total_floats": total as u64,
                "cached_over_infini": cached_ratio,
                "total_over_infini": total_ratio,
            })
        };
        let symbols: serde_json::Map<String, Value> =
            self.symbols.iter().map(|(name, value, _)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "open_segment_floats": self.open,
            "symbols": symbols,
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "\ncached memory in floats (arXiv 2404.07143, Table 1), and all that is held: with the open segment's keys and values\n",
        );
        let _ = writeln!(
            text,
            "{:<24} {:<22} {:>9} {:>13} {:>9} {:>13} {:>9}",
            "", "", "reach", "cached", "x Infini", "in all", "x Infini"
        );
        for row in &self.rows {
            let [cached, total, cached_ratio, total_ratio] = self.numbers(row);
            let _ = writeln!(
                text,
                "{:<24} {:<22} {:>9} {cached:>13} {cached_ratio:>9.2} {total:>13} {total_ratio:>9.2}",
                row.name, row.formula, row.reach
            );
        }
        for (name, value, meaning) in &self.symbols {
            let _ = writeln!(text, "{name} = {value}: {meaning}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;
    use crate::cli::BUNDLED;
    use sinkstream::Attention;
    use sinkstream::config::Infini;
    use sinkstream::gguf::Gguf;

    /// The paper's model: 12 layers, 8 heads of 128, segments of 2,048.
    #[test]
    fn the_papers_numbers_come_out() {
        let mut source = sinkstream::Source::memory("bundled", BUNDLED);
        let mut config = Config::new(&pollster::block_on(Gguf::read(&mut source)).unwrap()).unwrap();
        (config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.dim) = (12, 8, 8, 128, 1024);
        config.infini = Some(Infini { segment_length: 2048, is_delta: false });
        let keep = Keep::new(&config, Attention::Infini, None, None, None).unwrap();
        let table = Table::new(&config, keep);
        let cached: Vec<u64> = table.rows.iter().map(|row| row.cached).collect();
        assert_eq!((cached[0], cached[4], cached[6]), (50_331_648, 2_457_600, 1_585_152)); // Table 2: 50M, 2.5M, 1.6M
        let [cached, _, cached_ratio, total_ratio] = table.numbers(&table.rows[3]);
        assert!((cached - 184.5e6).abs() < 0.1e6, "{cached}"); // Table 2: 183M with 65,000 tokens
        assert!(
            (cached_ratio - 116.4).abs() < 0.1 && (total_ratio - 4.52).abs() < 0.01,
            "{cached_ratio} {total_ratio}"
        );
    }
}
