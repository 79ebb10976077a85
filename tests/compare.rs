//! `sinkstream compare` as a person or a script meets it: four attention modes at several cache sizes.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Fewest tokens with a largest cache of 64: that cache, what fills it, and 128 timed steps.
const FEWEST: usize = 64 + 2 + 128;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sinkstream"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn success(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failure(args: &[&str], code: i32) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty() && !stderr.contains("panicked"), "{args:?}: {stderr}");
    stderr
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&success(args)).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// A file of a test's own that goes away with it.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("sinkstream-{}-{name}", std::process::id())))
    }

    /// So many ids, the bundled model's sink token first.
    fn ids(name: &str, count: usize) -> Self {
        let file = Self::new(name);
        let ids: Vec<usize> = (0..count).map(|n| n * n * 7919 % 3001).collect();
        std::fs::write(&file.0, serde_json::to_vec(&ids).unwrap()).unwrap();
        file
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn row<'a>(report: &'a Value, attention: &str, cache: u64) -> &'a Value {
    let size = |row: &Value| row["sinks"].as_u64().unwrap() + row["window"].as_u64().unwrap();
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["attention"] == attention && size(row) == cache).unwrap()
}

#[test]
fn the_report_is_the_contracts_and_the_plots_are_there() {
    let (ids, plot) = (File::ids("compare.json", 400), File::new("compare.svg"));
    let stem = plot.name().strip_suffix(".svg").unwrap();
    let plots = [File(format!("{stem}-perplexity.svg").into()), File(format!("{stem}-latency.svg").into())];
    let base = ["compare", "--device", "cpu", "--threads", "1", "--caches", "64,32,64", "--tokens-file", ids.name()];
    let report = json(&[&base[..], &["--json", "--plot", plot.name()]].concat());

    let rows = report["rows"].as_array().unwrap();
    let order: Vec<&str> = rows.iter().map(|row| row["attention"].as_str().unwrap()).collect();
    let modes = [["dense"; 3].as_slice(), &["window"; 2], &["recompute"; 2], &["streaming"; 2]];
    assert_eq!(order, modes.concat());
    for row in rows {
        for field in ["sinks", "window", "tokens", "kv_bytes"] {
            assert!(row[field].is_u64(), "{field} in {row}");
        }
        assert!(row["perplexity"].as_f64().unwrap() > 1.0 && row["ms_per_token_p50"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["perplexity_after_eviction"].is_null(), row["attention"] == "dense", "{row}");
    }
    assert_eq!(
        (row(&report, "streaming", 64)["sinks"].as_u64(), row(&report, "window", 32)["sinks"].as_u64()),
        (Some(1), Some(0))
    );
    assert_eq!(row(&report, "streaming", 64)["tokens"], 400);
    let ms = |attention| row(&report, attention, 64)["ms_per_token_p50"].as_f64().unwrap();
    let ratio = report["recompute_over_streaming"].as_f64().unwrap();
    assert!((ratio - ms("recompute") / ms("streaming")).abs() < 1e-9 * ratio && ratio > 2.0, "{ratio}");
    assert_eq!(report["executor"], "cpu");
    assert!(report["adapter"].is_string());

    let (perplexity, latency) =
        (std::fs::read_to_string(&plots[0].0).unwrap(), std::fs::read_to_string(&plots[1].0).unwrap());
    for mode in ["dense", "window", "recompute", "streaming"] {
        assert!(perplexity.contains(mode) && latency.contains(mode), "{mode}");
    }
    for text in ["cache of 32", "cache of 64", "position (tokens)", "perplexity of 20 tokens"] {
        assert!(perplexity.contains(text), "{text}");
    }
    for text in ["cache size (tokens)", "ms per token"] {
        assert!(latency.contains(text), "{text}");
    }
    let table =
        success(&["compare", "--device", "cpu", "--threads", "1", "--caches", "16", "--tokens-file", ids.name()]);
    for text in ["after eviction", "recompute / streaming at the largest cache", "ms = ", "least squares", "tokens/s"] {
        assert!(table.contains(text), "{text} in {table}");
    }
}

/// A model without a sink token, so that the command's own recompute reads the same tokens.
#[test]
fn every_mode_scores_as_the_perplexity_command_does() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/q8.gguf").display().to_string();
    let (ids, nlls) = (File::new("ids.json"), File::new("nlls.json"));
    let numbers: Vec<usize> = (0..FEWEST).map(|n| n * n * 7 % 90).collect();
    std::fs::write(&ids.0, serde_json::to_vec(&numbers).unwrap()).unwrap();
    let run = [
        "--model",
        &model,
        "--device",
        "cpu",
        "--threads",
        "1",
        "--cache",
        "f32",
        "--tokens-file",
        ids.name(),
        "--json",
    ];
    let report = json(&[&["compare", "--caches", "64", "--sinks", "4"], &run[..]].concat());
    let mut scored = vec![];
    for (attention, flags) in [
        ("window", &["--window", "64"][..]),
        ("recompute", &["--sinks", "4", "--window", "60"]),
        ("streaming", &["--sinks", "4", "--window", "60"]),
    ] {
        let alone =
            json(&[&["perplexity", "--attention", attention, "--nll-out", nlls.name()], flags, &run[..]].concat());
        let row = row(&report, attention, 64);
        let (mine, other) = (&row["perplexity_after_eviction"], &alone["perplexity_after_eviction"]);
        let (mine, other) = (mine.as_f64().unwrap(), other.as_f64().unwrap());
        assert!((mine.ln() - other.ln()).abs() < 1e-5, "{attention}: {mine} for {other}");
        assert_eq!(row["tokens"], if attention == "recompute" { 128 } else { FEWEST });
        scored.push(floats(&serde_json::from_slice(&std::fs::read(&nlls.0).unwrap()).unwrap()));
    }
    // The last 128 tokens are those of the timed steps.
    let differences: f64 = (FEWEST - 129..FEWEST - 1).map(|n| scored[2][n] - scored[1][n]).sum();
    let ratio = report["perplexity_ratios"][0]["perplexity_ratio"].as_f64().unwrap();
    assert!((ratio.ln() - differences / 128.0).abs() < 1e-5, "{ratio} for {}", (differences / 128.0).exp());
    assert!(report["perplexity_ratios"][0]["standard_error_nats"].as_f64().unwrap() > 0.0);
}

#[test]
fn impossible_wishes_are_refused() {
    let ids = File::ids("short.json", FEWEST - 1);
    let base = ["compare", "--device", "cpu", "--tokens-file", ids.name()];
    let with = |more: &[&str], code| failure(&[&base, more].concat(), code);
    let short = with(&["--caches", "32,64"], 1);
    assert_eq!(
        short,
        format!(
            "sinkstream: {} tokens: a cache of 64 needs at least {FEWEST}, 128 of them after the first eviction; give a longer \
         text, or smaller --caches\n",
            FEWEST - 1
        )
    );
    let nowhere = with(&["--caches", "32", "--plot", "no/such/folder/plot.svg"], 1);
    assert!(nowhere.starts_with("sinkstream: cannot write no/such/folder/plot-perplexity.svg: "), "{nowhere}");
    for caches in ["0", "32,x", "", "1"] {
        assert!(with(&["--caches", caches], 2).contains("--caches"), "{caches}");
    }
    assert!(with(&["--caches", "1", "--window", "16"], 2).starts_with("sinkstream: warning: ")); // taken, and said
    failure(&["compare", "--caches", "32"], 2);
}
