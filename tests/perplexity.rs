//! `sinkstream perplexity`: rows, pairs with fresh runs, plots, and runs that are ended and taken up again.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::Command;

use serde_json::Value;

use support::{Folder, command, json, refused, wait};

const ARGS: [&str; 9] = ["perplexity", "--device", "cpu", "--quiet", "--sinks", "1", "--window", "31", "--text"];

/// Text in which no part is like another.
fn text(folder: &Folder, words: usize) -> String {
    let mut text = String::new();
    let mut state = 1_u32;
    for _ in 0..words {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text +=
            ["the ", "old man ", "went ", "home. ", "Rain ", "fell on ", "a house, ", "and "][(state >> 29) as usize];
    }
    folder.file("text", text.as_bytes())
}

#[test]
fn blocks_add_up_to_the_whole() {
    let folder = Folder::new("blocks");
    let text = text(&folder, 1200);
    let report = json(&[&ARGS[..], &[&text, "--json", "--tokens", "1001", "--blocks", "300"]].concat());
    let rows = report["blocks"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["tokens"].as_u64().unwrap()).collect::<Vec<_>>(), [300, 600, 900]);
    let nll_file = folder.0.join("nll").display().to_string();
    json(&[&ARGS[..], &[&text, "--json", "--tokens", "1001", "--nll-out", &nll_file]].concat());
    let nlls: Vec<f64> = serde_json::from_slice(&std::fs::read(&nll_file).unwrap()).unwrap();
    let perplexity = |nlls: &[f64]| (nlls.iter().sum::<f64>() / nlls.len() as f64).exp();
    for (n, row) in rows.iter().enumerate() {
        let near = |key: &str, nlls: &[f64]| (row[key].as_f64().unwrap() / perplexity(nlls) - 1.0).abs() < 1e-6;
        assert!(
            near("perplexity", &nlls[300 * n..300 * n + 300]) && near("running_perplexity", &nlls[..300 * n + 300])
        );
        assert_eq!(row["bytes"], report["gpu_bytes_at_start"]);
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn pairs_are_those_of_recompute() {
    let folder = Folder::new("pairs");
    let text = text(&folder, 600);
    let nlls = |attention: &str| -> Vec<f64> {
        let file = folder.0.join(attention).display().to_string();
        let args = [&text, "--json", "--cache", "f32", "--tokens", "401", "--attention", attention, "--nll-out", &file];
        json(&[&ARGS[..], &args].concat());
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()
    };
    let (streamed, fresh) = (nlls("streaming"), nlls("recompute"));
    let args = [&text, "--json", "--cache", "f32", "--tokens", "401", "--recompute", "5"];
    let report = json(&[&ARGS[..], &args].concat());
    for (end, start, length) in [(&report["recompute"][0], 34, 166), (&report["recompute"][1], 201, 200)] {
        let places = (0..5).map(|n| start + n * length / 5);
        let differences: Vec<f64> = places.map(|place| streamed[place - 1] - fresh[place - 1]).collect();
        let mean = differences.iter().sum::<f64>() / 5.0;
        let variance = differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>() / 4.0;
        assert_eq!(end["pairs"], 5);
        assert!((end["ratio"].as_f64().unwrap() - mean.exp()).abs() < 1e-6, "{end} {mean}");
        assert!((end["standard_error"].as_f64().unwrap() - (variance / 5.0).sqrt()).abs() < 1e-6, "{end}");
        assert!(mean.abs() > 1e-5, "streaming and fresh runs are not the same");
    }
}

/// The model begins every text with its sink token, so a fresh run does too.
#[test]
fn recompute_is_a_fresh_prompt() {
    let folder = Folder::new("fresh");
    let text = text(&folder, 200);
    let ids: Vec<u32> = {
        let mut child = command(&["tokenize"]).stdin(std::fs::File::open(&text).unwrap()).spawn().unwrap();
        let ids = serde_json::from_reader(child.stdout.take().unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        ids
    };
    let file = folder.0.join("nll").display().to_string();
    let cut = (ids.len().min(90)).to_string();
    let args = [&text, "--json", "--cache", "f32", "--attention", "recompute", "--tokens", &cut, "--nll-out", &file];
    json(&[&ARGS[..], &args].concat());
    let nlls: Vec<f64> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for place in [20, 33, 34, 60, 89] {
        let mut prompt = ids[usize::saturating_sub(place, 33)..=place].to_vec();
        prompt[0] = ids[0];
        let prompt = folder.file("prompt", serde_json::to_string(&prompt).unwrap().as_bytes());
        let fresh = folder.0.join("fresh").display().to_string();
        let args = ["perplexity", "--device", "cpu", "--quiet", "--json", "--cache", "f32", "--tokens-file", &prompt];
        json(&[&args[..], &["--attention", "dense", "--nll-out", &fresh]].concat());
        let fresh: Vec<f64> = serde_json::from_slice(&std::fs::read(&fresh).unwrap()).unwrap();
        let difference = (nlls[place - 1] - fresh.last().unwrap()).abs();
        assert!(difference < 1e-4, "token {place}: {difference}");
    }
}

#[test]
fn an_ended_run_goes_on_to_the_same_digits() {
    let folder = Folder::new("checkpoint");
    let text = text(&folder, 12_000);
    let file = folder.0.join("checkpoint").display().to_string();
    let args = [&ARGS[..], &[&text, "--blocks", "1500", "--tokens", "9001", "--recompute", "3"]].concat();
    let mut child = command(&[&args[..], &["--checkpoint", &file]].concat()).spawn().unwrap();
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(rows.next().unwrap().unwrap().contains("1500 tokens"));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(wait(&mut child), Some(130));
    let rows = 1 + rows.count();
    assert!(rows < 6, "ended before the end: {rows}");

    let resumed = json(&[&args[..], &["--json", "--checkpoint", &file]].concat());
    let whole = json(&[&args[..], &["--json"]].concat());
    for key in ["tokens", "mean_nll", "perplexity", "perplexity_after_eviction", "evicted_tokens", "recompute"] {
        assert_eq!(resumed[key], whole[key], "{key}");
    }
    let perplexities = |report: &Value| -> Vec<Value> {
        report["blocks"].as_array().unwrap().iter().map(|row| row["perplexity"].clone()).collect()
    };
    assert_eq!(perplexities(&resumed), perplexities(&whole));

    // Another S has another result, though the cache is as large.
    let args_of_two = ["perplexity", "--device", "cpu", "--quiet", "--sinks", "2", "--window", "30", "--text", &text];
    let sinks = [&args_of_two[..], &["--blocks", "1500", "--tokens", "9001", "--recompute", "3"]].concat();
    assert!(refused(&[&sinks[..], &["--checkpoint", &file]].concat()).contains("other arguments"));
    let shorter = [&ARGS[..], &[&text, "--blocks", "1500", "--tokens", "9000", "--recompute", "3"]].concat();
    let other = refused(&[&shorter[..], &["--checkpoint", &file]].concat());
    assert!(other.contains("another text"), "{other}");
    std::fs::write(&file, b"sinksnap").unwrap();
    assert!(refused(&[&args[..], &["--checkpoint", &file]].concat()).contains("cut short"));
}

/// A fresh run's sink token is far from the tokens that a saved session holds.
#[test]
fn an_ended_recompute_run_goes_on_too() {
    let folder = Folder::new("recompute");
    let text = text(&folder, 1500);
    let file = folder.0.join("checkpoint").display().to_string();
    let args = [&ARGS[..], &[&text, "--attention", "recompute", "--blocks", "200", "--tokens", "1801"]].concat();
    let mut child = command(&[&args[..], &["--checkpoint", &file]].concat()).spawn().unwrap();
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(rows.next().unwrap().unwrap().contains("200 tokens"));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(wait(&mut child), Some(130));
    let resumed = json(&[&args[..], &["--json", "--checkpoint", &file]].concat());
    let whole = json(&[&args[..], &["--json"]].concat());
    assert_eq!(resumed["mean_nll"], whole["mean_nll"]);
}

#[test]
fn a_plot_has_its_axes_and_units() {
    let folder = Folder::new("plot");
    let text = text(&folder, 200);
    let file = folder.0.join("plot.svg").display().to_string();
    json(&[&ARGS[..], &[&text, "--json", "--plot", &file]].concat());
    let svg = std::fs::read_to_string(&file).unwrap();
    for label in ["position in the stream (tokens)", "perplexity", "tokens per second", "held by the executor (MB)"] {
        assert!(svg.contains(label), "{label}");
    }
    let nowhere = folder.0.join("none/plot.svg").display().to_string();
    assert!(refused(&[&ARGS[..], &[&text, "--plot", &nowhere]].concat()).contains("plot.svg"));
}
