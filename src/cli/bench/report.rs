//! What `bench` found: the table and the JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::Command;

use serde_json::{Value, json};
use sinkstream::probe::Probe;
use sinkstream::{Attention, Engine};

use super::{KernelTime, Round, Run};

/// Part of the copy bandwidth that large matrices are read with at best, in the roofline model.
const READ_SHARE: f64 = 0.8;

/// Everything that was measured.
pub(super) struct Report {
    pub(super) shape: Option<String>,
    pub(super) engine: Engine,
    pub(super) probe: Probe,
    /// At `--position`, and at `--against` if it was given.
    pub(super) runs: Vec<Run>,
    pub(super) kernels: Option<Vec<KernelTime>>,
}

/// The value below which so many hundredths lie: the nearest one of them.
pub(super) fn percentile(values: &[f64], hundredths: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last * hundredths + 50) / 100])
}

impl Run {
    /// Milliseconds a step.
    fn ms(&self, hundredths: usize) -> Option<f64> {
        let all: Vec<f64> = self.rounds.iter().flat_map(|round| round.ms.iter().copied()).collect();
        percentile(&all, hundredths)
    }

    /// Milliseconds of processor time a written token: the median of the rounds.
    fn cpu_ms(&self) -> Option<f64> {
        self.median(|round| Some(1e3 * round.cpu_seconds? / round.tokens as f64))
    }

    /// The same of a token that is read.
    fn prefill_cpu_ms(&self) -> Option<f64> {
        self.median(|round| Some(1e3 * round.prefill?.1? / self.tokens as f64))
    }

    /// Of those rounds that have one.
    fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        percentile(&self.rounds.iter().filter_map(of).collect::<Vec<f64>>(), 50)
    }

    fn sum(&self, of: impl Fn(&Round) -> f64) -> f64 {
        self.rounds.iter().map(of).sum()
    }

    fn per_token(&self, of: impl Fn(&Round) -> u64) -> f64 {
        self.sum(|round| of(round) as f64) / self.sum(|round| round.tokens as f64)
    }
}

impl Report {
    /// The fields of the contract, and more.
    pub(super) fn json(&self) -> Value {
        let (engine, run) = (&self.engine, &self.runs[0]);
        let (info, keep, gpu) = (engine.info(), engine.keep(), engine.gpu().map(sinkstream::gpu::Gpu::info));
        let is_recompute = keep.attention == Attention::Recompute;
        let prefill = run.median(|round| Some(run.tokens as f64 / round.prefill?.0));
        let decode = run.sum(|round| round.tokens as f64) / run.sum(|round| round.seconds);
        let streams = f64::from(run.streams);
        let (weights, cache) = (engine.weight_bytes_per_step(), engine.cache_bytes_per_token(run.cached()));
        // The weights are read once for all streams; a fresh run reads them again and again.
        let bytes = (!is_recompute).then_some(weights as f64 / streams + cache as f64);
        let kernels = self.kernels.as_ref().map(|kernels| {
            let row = |kernel: &KernelTime| json!({ "kernel": kernel.name, "dispatches": kernel.dispatches, "ms": kernel.ms });
            kernels.iter().map(row).collect::<Vec<_>>()
        });
        // On the CPU nothing is given to wgpu: the calls of one step.
        let calls = || self.kernels.as_ref().map(|kernels| kernels.iter().map(|kernel| kernel.dispatches as f64).sum());
        let dispatches: Option<f64> = match gpu {
            Some(_) => Some(run.per_token(|round| round.dispatches)),
            None => calls().map(|calls: f64| calls / streams),
        };
        json!({
            "model": self.shape.clone().map_or_else(|| info["model"].clone(), Value::from),
            "layers": engine.config().n_layers,
            "quant": self.quant(),
            "attention": keep.attention.name(),
            "sinks": keep.sinks,
            "window": keep.window,
            "streams": run.streams,
            "position": run.position,
            "tier": info["tier"].as_str().unwrap_or("portable"),
            "executor": info["executor"],
            "adapter": info["adapter"],
            "backend": gpu.map_or("cpu".into(), |gpu| gpu.backend.to_string()),
            "driver": gpu.map(|gpu| format!("{} {}", gpu.driver, gpu.driver_info).trim().to_owned()),
            "prefill_tokens": run.tokens,
            "prefill_tokens_per_second": prefill.filter(|_| !is_recompute),
            "prefill_cpu_ms": run.prefill_cpu_ms().filter(|_| !is_recompute),
            "decode_tokens": run.sum(|round| round.tokens as f64) as u64,
            "decode_tokens_per_second": decode,
            "decode_ms_p50": run.ms(50),
            "decode_ms_p99": run.ms(99),
            "decode_cpu_ms": run.cpu_ms(),
            "dispatches_per_token": dispatches,
            "submits_per_token": run.per_token(|round| round.submits),
            "waits_on_one_token": run.sum(|round| round.waits_on_one as f64) as u64,
            "bytes_per_token": bytes,
            "copy_bandwidth_gbps": self.probe.copy_gbps,
            "bandwidth_ratio": bytes.map(|bytes| 1e-9 * bytes * decode / self.probe.copy_gbps),
            "kv_bytes": info["kv_bytes"],
            "executor_bytes": engine.bytes(),
            "commit": commit(),
            "roofline": bytes.map(|bytes| self.roofline(bytes * streams, dispatches.unwrap_or(0.0) * streams)),
            "kernels": kernels,
            "probe": self.probe.json(),
            "against": self.runs.get(1).map(|other| against(run, other)),
        })
    }

    /// Of one step: bytes over bandwidth, and what the dispatches cost besides. `share` is this over the measured time: 1 is as
    /// fast as the model says it can be.
    fn roofline(&self, bytes: f64, dispatches: f64) -> Value {
        let bytes_ms = 1e-6 * bytes / (READ_SHARE * self.probe.copy_gbps);
        let dispatch_ms = 1e-3 * dispatches * self.probe.dispatch_us.unwrap_or(0.0);
        let share = self.runs[0].ms(50).map(|measured| (bytes_ms + dispatch_ms) / measured);
        json!({ "bytes_ms": bytes_ms, "dispatch_ms": dispatch_ms, "ms": bytes_ms + dispatch_ms, "share": share })
    }

    /// The type that most bytes of the tensors have.
    fn quant(&self) -> Option<String> {
        let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in &self.engine.gguf().tensors {
            *bytes.entry(tensor.kind.to_string().to_lowercase()).or_default() += tensor.bytes;
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name)
    }

    /// The same as text.
    pub(super) fn print(&self) -> io::Result<()> {
        let json = self.json();
        let mut out = io::stdout().lock();
        let Value::Object(fields) = &json else { return Ok(()) };
        for (name, value) in fields {
            match value {
                Value::Object(parts) => {
                    let parts: Vec<String> =
                        parts.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
                    writeln!(out, "{name:<26} {}", parts.join(", "))?;
                }
                Value::Array(rows) => {
                    for row in rows {
                        let (kernel, dispatches) = (shown(&row["kernel"]), shown(&row["dispatches"]));
                        writeln!(out, "{:<26} {} ms in {dispatches}", format!("kernel {kernel}"), shown(&row["ms"]))?;
                    }
                }
                _ => writeln!(out, "{name:<26} {}", shown(value))?,
            }
        }
        Ok(())
    }
}

/// The second position beside the first: medians over the turns of the first's time over that of the second in the same turn,
/// by the clock and by the processor's own time.
fn against(run: &Run, other: &Run) -> Value {
    let ratio = |of: &dyn Fn(&Round) -> Option<f64>| {
        let turns = run.rounds.iter().zip(&other.rounds);
        let ratios = turns.filter_map(|(a, b)| Some((of(a)? / a.tokens as f64) / (of(b)? / b.tokens as f64)));
        percentile(&ratios.collect::<Vec<_>>(), 50)
    };
    json!({
        "at": other.position,
        "turns": other.rounds.len(),
        "ms_p50": other.ms(50),
        "cpu_ms": other.cpu_ms(),
        "ratio": ratio(&|round| Some(round.seconds)),
        "cpu_ratio": ratio(&|round| round.cpu_seconds),
    })
}

/// Milliseconds a step of bursts of at least so many tokens (the last may have fewer), from when each token came, in seconds. Tokens
/// of one launch come together, so a burst ends with a launch: with a token that the next one follows later than after a tenth
/// of a step.
pub(super) fn ms_a_step(began: f64, arrivals: &[f64], least: usize) -> Vec<f64> {
    let (mut ms, mut tokens, mut last) = (vec![], 0, began);
    for (n, now) in (1..).zip(arrivals) {
        let step = (now - last) / (n - tokens) as f64;
        let ends_launch = arrivals.get(n).is_none_or(|next| next - now > 0.1 * step);
        if ends_launch && (n - tokens >= least || n == arrivals.len()) {
            ms.push(1e3 * step);
            (tokens, last) = (n, *now);
        }
    }
    ms
}

/// A value for people: four digits of a float.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let digits = 3 - (number.abs().max(1e-3).log10().floor() as i32).clamp(-3, 3);
            format!("{number:.*}", digits as usize)
        }
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(shown).collect();
            format!("[{}]", values.join("; "))
        }
        Value::Object(parts) => {
            let parts: Vec<String> = parts.values().map(shown).collect();
            parts.join(" ")
        }
        other => other.to_string(),
    }
}

/// The commit: as whoever built it said, or of the source folder if it is still there.
fn commit() -> Option<String> {
    if let Some(commit) = option_env!("SINKSTREAM_COMMIT") {
        return Some(commit.into());
    }
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"])
        .output();
    let output = git.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_known_numbers() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!([0, 50, 99, 100].map(|p| percentile(&values, p)), [0.0, 50.0, 99.0, 100.0].map(Some));
        assert_eq!(percentile(&[2.0, 1.0], 99), Some(2.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn steps_are_timed_by_whole_launches() {
        // A device that takes 4 ms a step, whatever the length of its launches.
        for (launches, bursts) in [
            (&[1, 1, 2, 2, 4, 4, 8, 8, 10, 10, 10, 10, 10, 10, 6][..], 3), // 40, 40 and 16 tokens
            (&[1; 96], 3),
            (&[32, 32], 2),
            (&[5], 1),
        ] {
            let (mut now, mut arrivals) = (7.0, vec![]);
            for tokens in launches {
                now += 0.004 * f64::from(*tokens);
                (0..*tokens).for_each(|n| arrivals.push(now + 1e-6 * f64::from(n)));
            }
            let ms = ms_a_step(7.0, &arrivals, 32);
            assert_eq!(ms.len(), bursts, "{launches:?}: {ms:?}");
            assert!(ms.iter().all(|ms| (ms - 4.0).abs() < 0.01), "{launches:?}: {ms:?}");
        }
        assert_eq!(ms_a_step(0.0, &[1.0, 3.0, 3.5], 1), [1e3, 2e3, 5e2]);
        assert!(ms_a_step(0.0, &[], 32).is_empty());
    }

    #[test]
    fn numbers_are_shown_with_four_digits() {
        let numbers = [json!(0.012345), json!(1.5), json!(123.456), json!(98765.4), json!(7), json!(null)];
        assert_eq!(numbers.each_ref().map(shown), ["0.01235", "1.500", "123.5", "98765", "7", "-"]);
    }
}
