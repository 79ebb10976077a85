//! What a comparison found: table, JSON and plots.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sinkstream::Attention;

use super::fit::{exponent, mean, median, polynomial, standard_error};
use super::plot::{Axis, Figure, Scale, Series};
use super::{MODES, ROUNDS, Row};

/// Points of a curve over the position: each is the perplexity of its part of the text.
const PARTS: usize = 20;

/// A comparison that is through.
pub(super) struct Report {
    /// By mode as in [`MODES`], and by size; behind the dense rows the one that saw the whole text.
    pub(super) rows: Vec<Row>,
    /// Ascending.
    pub(super) caches: Vec<usize>,
    /// Tokens from one timed step to the next.
    pub(super) every: usize,
    /// Tokens of the text.
    pub(super) tokens: usize,
}

/// `F-perplexity.svg` and `F-latency.svg` for `F.svg` or `F`.
pub(super) fn plot_paths(path: &Path) -> [PathBuf; 2] {
    let stem =
        if path.extension().is_some_and(|ending| ending == "svg") { path.with_extension("") } else { path.into() };
    ["-perplexity.svg", "-latency.svg"].map(|ending| {
        let mut name = stem.clone().into_os_string();
        name.push(ending);
        name.into()
    })
}

impl Row {
    /// S and R of the mode, see `sinkstream::config::Keep`. A fresh run keeps nothing; dense attention has the size it had
    /// when it was timed.
    fn sinks_and_window(&self) -> (usize, usize) {
        match self.attention {
            Attention::Streaming => (self.session.sinks() as usize, self.session.window() as usize),
            _ => (0, self.cache),
        }
    }

    /// exp of the mean NLL of the scored tokens from one to another in the text.
    fn perplexity(&self, from: usize, to: usize) -> Option<f64> {
        let within: Vec<f64> =
            self.nlls.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, nll)| *nll).collect();
        mean(&within).map(f64::exp)
    }

    /// Of the tokens whose query missed one: at index ≥ S + R + 1, so the token is one further.
    fn perplexity_after_eviction(&self) -> Option<f64> {
        self.perplexity(self.cache + 2, usize::MAX)
    }

    /// Tokens that the perplexity is about: the fresh runs' are apart, all others follow on a first one.
    fn tokens(&self) -> usize {
        self.nlls.len() + usize::from(self.attention != Attention::Recompute)
    }

    fn ms_p50(&self) -> Option<f64> {
        median(&self.ms)
    }
}

impl Report {
    fn row(&self, attention: Attention, cache: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.attention == attention && row.cache == cache)
    }

    /// (cache size, median milliseconds) of a mode.
    fn latencies(&self, attention: Attention) -> Vec<(f64, f64)> {
        let rows = self.caches.iter().filter_map(|&cache| self.row(attention, cache));
        rows.filter_map(|row| Some((row.cache as f64, row.ms_p50()?))).collect()
    }

    /// NLL of streaming less that of a fresh run, by token, with one cache size.
    fn differences(&self, cache: usize) -> Vec<(usize, f64)> {
        let (Some(streaming), Some(recompute)) =
            (self.row(Attention::Streaming, cache), self.row(Attention::Recompute, cache))
        else {
            return vec![];
        };
        let mut later = streaming.nlls.iter();
        let paired = recompute.nlls.iter().filter_map(|&(at, fresh)| {
            later.find(|(token, _)| *token == at).map(|(_, streamed)| (at, streamed - fresh))
        });
        paired.collect()
    }

    /// exp of the mean difference, and the standard error of that mean, in nats.
    fn perplexity_ratio(&self, cache: usize) -> (Option<f64>, Option<f64>) {
        let differences: Vec<f64> = self.differences(cache).into_iter().map(|(_, nats)| nats).collect();
        (mean(&differences).map(f64::exp), standard_error(&differences))
    }

    /// Milliseconds of recompute by those of streaming, and the tokens that a fresh run reads in a second; largest cache.
    fn speeds(&self) -> (Option<f64>, Option<f64>) {
        let last = |attention| self.latencies(attention).last().copied();
        let recompute = last(Attention::Recompute);
        let ratio = recompute.zip(last(Attention::Streaming)).map(|((_, slow), (_, fast))| slow / fast);
        (ratio, recompute.map(|(cache, ms)| 1e3 * (cache + 1.0) / ms))
    }

    /// The growth of a mode's latency with the cache: coefficients of milliseconds, and the exponent.
    fn growth(&self, attention: Attention) -> (Option<Vec<f64>>, Option<f64>) {
        let points = self.latencies(attention);
        // Fig. 10: recompute grows with the square of the cache, streaming with the cache.
        let degree = if attention == Attention::Recompute { 2 } else { 1 };
        (polynomial(&points, degree), exponent(&points))
    }

    /// The contract's object.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (sinks, window) = row.sinks_and_window();
                json!({
                    "attention": row.attention.name(),
                    "sinks": sinks,
                    "window": window,
                    "tokens": row.tokens(),
                    "perplexity": row.perplexity(0, usize::MAX),
                    "perplexity_after_eviction": row.perplexity_after_eviction(),
                    "ms_per_token_p50": row.ms_p50(),
                    "kv_bytes": row.engine.info()["kv_bytes"],
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .caches
            .iter()
            .map(|&cache| {
                let (ratio, error) = self.perplexity_ratio(cache);
                json!({ "cache": cache, "tokens": ROUNDS, "perplexity_ratio": ratio, "standard_error_nats": error })
            })
            .collect();
        let (streaming, streaming_exponent) = self.growth(Attention::Streaming);
        let (recompute, recompute_exponent) = self.growth(Attention::Recompute);
        let (ratio, prefill) = self.speeds();
        let info = self.rows[0].engine.info();
        json!({
            "rows": rows,
            "recompute_over_streaming": ratio,
            "prefill_tokens_per_second": prefill,
            "perplexity_ratios": ratios,
            "fits": {
                "streaming_ms": streaming, "streaming_exponent": streaming_exponent,
                "recompute_ms": recompute, "recompute_exponent": recompute_exponent,
            },
            "tokens": self.tokens,
            "timed_steps": ROUNDS,
            "model": info["model"],
            "executor": info["executor"],
            "adapter": info["adapter"],
        })
    }

    /// The table for a person, and what it says.
    pub(super) fn print(&self) -> io::Result<()> {
        let out = &mut io::stdout().lock();
        let shown = |number: Option<f64>, digits| number.map_or("-".into(), |number| format!("{number:.digits$}"));
        writeln!(out, "attention   sinks  window  tokens  perplexity  after eviction  ms/token  cache bytes")?;
        for row in &self.rows {
            let (sinks, window) = row.sinks_and_window();
            writeln!(
                out,
                "{:<10} {sinks:>6} {window:>7} {:>7} {:>11} {:>15} {:>9} {:>12}",
                row.attention.name(),
                row.tokens(),
                shown(row.perplexity(0, usize::MAX), 3),
                shown(row.perplexity_after_eviction(), 3),
                shown(row.ms_p50(), 3),
                row.engine.info()["kv_bytes"].as_u64().unwrap_or_default(),
            )?;
        }
        let every = self.every;
        writeln!(
            out,
            "\nperplexity: of the first so many tokens of the text; recompute of every {every}th token alone, {ROUNDS} in all"
        )?;
        writeln!(
            out,
            "ms/token: median of {ROUNDS} single steps with a full cache, one of each row in turn; dense after `window` tokens"
        )?;
        writeln!(
            out,
            "\nperplexity of streaming / recompute, the same {ROUNDS} tokens (standard error of the logarithm):"
        )?;
        for &cache in &self.caches {
            let (ratio, error) = self.perplexity_ratio(cache);
            writeln!(out, "  cache {cache}: {} ({})", shown(ratio, 4), shown(error, 4))?;
        }
        writeln!(out, "\nlatency over cache size, least squares:")?;
        for attention in [Attention::Streaming, Attention::Recompute] {
            let (curve, exponent) = self.growth(attention);
            let curve = curve.map_or("too few cache sizes for a curve".into(), |coefficients| {
                let terms = coefficients.iter().zip(["", " * cache", " * cache^2"]);
                terms.map(|(coefficient, power)| format!("{coefficient:.4e}{power}")).collect::<Vec<_>>().join(" + ")
            });
            writeln!(
                out,
                "  {}: ms = {curve}; as a power of the cache size: {}",
                attention.name(),
                shown(exponent, 2)
            )?;
        }
        let (ratio, prefill) = self.speeds();
        let last = |attention| self.latencies(attention).last().map(|(_, ms)| *ms);
        writeln!(
            out,
            "\nrecompute / streaming at the largest cache: {} ms / {} ms = {}; the fresh run reads {} tokens/s",
            shown(last(Attention::Recompute), 3),
            shown(last(Attention::Streaming), 3),
            shown(ratio, 1),
            shown(prefill, 0),
        )
    }

    /// Fig. 3: perplexity over the position, one figure for each cache size.
    pub(super) fn perplexity_figures(&self) -> Vec<Figure> {
        let ends: Vec<(usize, usize)> =
            (0..PARTS).map(|part| (self.tokens * part / PARTS, self.tokens * (part + 1) / PARTS)).collect();
        let figure = |&cache: &usize| {
            let curve = |row: &Row| -> Vec<(f64, f64)> {
                let points = ends.iter().filter_map(|&(from, to)| Some((to as f64, row.perplexity(from, to)?)));
                points.collect()
            };
            let series = MODES.iter().filter_map(|&attention| {
                let size = if attention == Attention::Dense { self.tokens - 2 } else { cache };
                let row = self.row(attention, size)?;
                let points = match attention {
                    Attention::Recompute => self.recompute_curve(cache, &ends),
                    _ => curve(row),
                };
                Some(Series { name: attention.name().into(), points })
            });
            Figure {
                title: format!("Perplexity over the stream, cache of {cache}"),
                x: Axis { label: "position (tokens)".into(), scale: Scale::Linear },
                y: Axis { label: format!("perplexity of {} tokens", self.tokens / PARTS), scale: Scale::Log },
                series: series.collect(),
            }
        };
        self.caches.iter().map(figure).collect()
    }

    /// Fresh runs are too few for a perplexity of their own in each part of the text: streaming's, less the mean difference
    /// at the tokens that both scored.
    fn recompute_curve(&self, cache: usize, parts: &[(usize, usize)]) -> Vec<(f64, f64)> {
        let differences = self.differences(cache);
        let point = |&(from, to): &(usize, usize)| {
            let within: Vec<f64> =
                differences.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, nats)| *nats).collect();
            let streaming = self.row(Attention::Streaming, cache)?.perplexity(from, to)?;
            Some((to as f64, streaming / mean(&within)?.exp()))
        };
        parts.iter().filter_map(point).collect()
    }

    /// Fig. 10: latency over the cache size, on even scales for its growth and on logarithmic ones for its size.
    pub(super) fn latency_figures(&self) -> Vec<Figure> {
        let figure = |(scale, scales): (Scale, &str)| {
            let series = MODES
                .iter()
                .map(|&attention| Series { name: attention.name().into(), points: self.latencies(attention) });
            Figure {
                title: format!("Latency of a token over the cache size, {scales} scales"),
                x: Axis { label: "cache size (tokens)".into(), scale },
                y: Axis { label: "latency (ms per token, median)".into(), scale },
                series: series.collect(),
            }
        };
        [(Scale::Linear, "linear"), (Scale::Log, "logarithmic")].map(figure).into()
    }
}
