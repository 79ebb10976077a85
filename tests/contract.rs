//! What other programs rely on: the flags that all commands have in common, and the fields of their reports.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use sinkstream::engine::{Engine, Settings};
use sinkstream::quant::TensorType;
use sinkstream::random::{self, Shape};
use sinkstream::{Device, Result};

use support::{Folder, command};

/// All of them, but `--model` and `--json`.
const COMMON: &str =
    "--device cpu --attention streaming --sinks 1 --window 31 --chunk 16 --cache f32 --threads 1 --seed 5 --quiet";

/// A command, what it needs besides, and the fields of its report.
const COMMANDS: [(&str, &str, &str); 10] = [
    (
        "generate",
        "--prompt A -n 3",
        "prompt_ids ids text stop_reason seed prompt_tokens_per_second tokens_per_second executor adapter",
    ),
    ("chat", "-n 3", "executor adapter"),
    (
        "perplexity",
        "--tokens-file IDS",
        "tokens mean_nll perplexity perplexity_after_eviction evicted_tokens seconds tokens_per_second kv_bytes \
         gpu_bytes_at_start gpu_bytes_at_end executor adapter",
    ),
    ("compare", "--tokens-file IDS --caches 8", "rows recompute_over_streaming executor adapter"),
    (
        "bench",
        "--position 50 --streams 2 --tier portable",
        "model layers quant sinks window streams position tier backend driver prefill_tokens_per_second \
         decode_tokens_per_second decode_ms_p50 decode_ms_p99 dispatches_per_token submits_per_token bytes_per_token \
         copy_bandwidth_gbps bandwidth_ratio kv_bytes commit executor adapter",
    ),
    ("passkey", "--lengths 128 --depths 0.5 --trials 1", "cells controls executor adapter"),
    ("tokenize", "", "ids"),
    ("info", "", "metadata tensors memory"),
    ("plan", "", "plans"),
    ("devices", "", "devices"),
];

/// Fields of the first entry of a list in a report.
const ROWS: [(&str, &str, &str); 2] = [
    ("compare", "rows", "attention sinks window tokens perplexity perplexity_after_eviction ms_per_token_p50 kv_bytes"),
    ("passkey", "cells", "length depth trials accuracy"),
];

#[test]
fn every_command_takes_the_common_flags_and_reports_its_fields() {
    let folder = Folder::new("contract");
    let ids = format!("{:?}", (0..180).map(|n| 1 + n * 7 % 90).collect::<Vec<u32>>());
    let ids = folder.file("ids.json", ids.as_bytes());
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/sinkstream-2m.gguf");
    for (name, own, fields) in COMMANDS {
        let own = own.split_whitespace().map(|word| if word == "IDS" { &ids } else { word });
        let args: Vec<&str> =
            [name, "--model", model, "--json"].into_iter().chain(COMMON.split(' ')).chain(own).collect();
        let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"Hello\n"); // not all read it
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        let warnings = errors.lines().filter(|line| !line.starts_with("sinkstream: warning: "));
        assert_eq!(warnings.count(), 0, "{name} --quiet: {errors}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report.is_object(), "{name}: {report}");
        for field in fields.split_whitespace() {
            assert!(report.get(field).is_some(), "{name} has no {field}: {report}");
        }
        for (_, list, fields) in ROWS.iter().filter(|(of, ..)| *of == name) {
            for field in fields.split(' ') {
                assert!(report[list][0].get(field).is_some(), "{name} has no {list}[0].{field}: {report}");
            }
        }
    }
}

/// NLLs of a random model.
fn nlls(seed: u32) -> Result<Vec<f32>> {
    let gguf = pollster::block_on(random::gguf(Shape::find("tiny").unwrap(), TensorType::Q8_0))?;
    let settings = Settings { device: Device::Cpu, scores: true, ..Settings::default() };
    let mut engine = pollster::block_on(Engine::random(gguf, &settings, seed))?;
    let mut session = engine.session();
    pollster::block_on(session.append(&mut engine, &[7]))?;
    pollster::block_on(session.score(&mut engine, &[2, 3, 5]))
}

#[test]
fn seeds_make_random_weights() {
    let [none, one, two] = [0, 1, 2].map(|seed| nlls(seed).unwrap());
    assert_eq!(none, nlls(0).unwrap(), "the same seed, the same weights");
    assert!(none != one && one != two && none != two, "{none:?} {one:?} {two:?}");
}

/// Keys and values of twice the memory that this machine has, in 64 buffers each of which would fit. The shell lets the command
/// have a quarter of what is free: a check that is broken ends here with another error, and does not take the machine's memory.
#[test]
fn what_memory_cannot_hold_is_refused_before_it_is_taken() {
    let Ok(meminfo) = std::fs::read_to_string("/proc/meminfo") else {
        eprintln!("NOT CHECKED: this system does not tell its memory");
        return;
    };
    let kilobytes = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let token_bytes = 32 * 2 * 4096 * 2;
    let tokens = 2 * 1024 * (kilobytes("MemTotal:") + kilobytes("SwapTotal:")) / token_bytes;
    let window = (tokens / 16).to_string();
    let args = ["bench", "--device", "cpu", "--shape", "llama-2-7b", "--streams", "16", "--quiet", "--window", &window];
    let limit = (kilobytes("MemAvailable:") / 4).to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v $0 && exec \"$@\"", &limit]).arg(command(&[]).get_program()).args(args);
    let output = shell.output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(
        line.contains("does not fit the device: the CPU executor needs ") && line.contains(" are free; "),
        "{line}"
    );
}
