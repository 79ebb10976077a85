//! `sinkstream inspect`: attention on the first token by layer and head, against transformers and a step-by-step reference.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn inspect(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sinkstream"));
    command.arg("inspect").args(args);
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir()); // Mesa's driver complains if there is none
    command.output().unwrap()
}

fn success(args: &[&str]) -> String {
    let output = inspect(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&success(&[args, &["--json", "--quiet"]].concat())).unwrap()
}

/// One clear line, exit code 1.
fn refused(args: &[&str]) -> String {
    let output = inspect(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{args:?}: {stderr}");
    stderr
}

/// A file of this test's own that goes away with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("sinkstream-inspect-{process}-{number}-{name}"));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The tokens of a golden model of the families, and its path.
fn model(name: &str) -> (File, String) {
    let tokens = golden_json(&format!("families/{name}.json"))["tokens"].to_string();
    let path = golden(&format!("families/{name}.gguf")).display().to_string();
    (File::new(&format!("{name}.json"), tokens.as_bytes()), path)
}

/// `[layer][head]`.
fn table(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn every_model_and_mode(device: &str, chunks: &[&str]) {
    let reference = golden_json("attention.json");
    for (name, modes) in reference.as_object().unwrap() {
        let (tokens, model) = model(name);
        for (mode, wanted) in modes.as_object().unwrap() {
            let flags: &[&str] = match &mode[..] {
                "dense" => &["--attention", "dense"],
                "streaming_4_28" => &["--sinks", "4", "--window", "28"],
                _ => &["--attention", "window", "--window", "100"],
            };
            let args = ["--model", &model, "--tokens-file", tokens.path(), "--tokens", "120", "--cache", "f32"];
            for chunk in chunks {
                let report = json(&[&args[..], flags, &["--device", device, "--chunk", chunk]].concat());
                let (got, wanted) = (table(&report["layers"]), table(wanted));
                assert_eq!((got.len(), got[0].len()), (wanted.len(), wanted[0].len()), "{name} {mode}");
                for (got, wanted) in got.iter().flatten().zip(wanted.iter().flatten()) {
                    assert!((got - wanted).abs() < 5e-6, "{name} {mode}, chunk {chunk}: {got}, not {wanted}");
                }
                assert_eq!((report["tokens"].as_u64(), report["first_query"].as_u64()), (Some(120), Some(30)));
                assert_eq!(report["executor"], device);
            }
        }
    }
}

#[test]
fn attention_is_that_of_pytorch_on_the_cpu() {
    every_model_and_mode("cpu", &["1", "7", "128"]);
}

#[test]
fn attention_is_that_of_pytorch_on_a_gpu() {
    if std::env::var("SINKSTREAM_GPU").is_ok_and(|value| value == "skip") {
        eprintln!("NOT CHECKED: SINKSTREAM_GPU=skip");
        return;
    }
    every_model_and_mode("gpu", &["16"]);
}

#[test]
fn a_report_has_means_a_table_and_a_plot() {
    let (tokens, model) = model("llama_sinks");
    let plot = File::new("plot.svg", b"");
    let args = ["--model", &model, "--tokens-file", tokens.path(), "--device", "cpu", "--window", "28"];
    let report = json(&[&args[..], &["--plot", plot.path()]].concat());
    assert_eq!(report["tokens"], 33, "as many as a query can see");
    assert_eq!((report["sinks"].as_u64(), report["window"].as_u64()), (Some(4), Some(28)));
    let layers = table(&report["layers"]);
    for (layer, mean) in layers.iter().zip(report["mean_by_layer"].as_array().unwrap()) {
        let wanted = layer.iter().sum::<f64>() / layer.len() as f64;
        assert!((mean.as_f64().unwrap() - wanted).abs() < 1e-12);
    }
    let text = success(&args);
    assert!(text.contains("the first of 33 tokens") && text.contains("from number 8 on"), "{text}");
    assert!(text.contains(&format!("{:.3}", layers[1][5])), "{text}");
    let svg = std::fs::read_to_string(&plot.0).unwrap();
    for label in ["<svg", "layer", "head", "mean attention", "Attention on the first token"] {
        assert!(svg.contains(label), "{label}");
    }
}

#[test]
fn text_goes_through_the_tokenizer() {
    let text = File::new("text.txt", "The sea was calm, and the ship went on. ".repeat(20).as_bytes());
    let report = json(&["--text", text.path(), "--tokens", "64", "--device", "cpu"]);
    assert_eq!((report["tokens"].as_u64(), report["sinks"].as_u64()), (Some(64), Some(1)));
    assert!(table(&report["layers"]).iter().flatten().all(|value| (0.0..=1.0).contains(value)));
}

#[test]
fn what_cannot_be_looked_at_is_refused() {
    let (tokens, model) = model("llama_sinks");
    let (short, unknown) = (File::new("short.json", b"[1, 2, 3]"), File::new("unknown.json", b"[1, 2, 3, 999]"));
    let of = |file: &str, more: &[&str]| {
        refused(&[&["--model", &model, "--tokens-file", file, "--device", "cpu", "--quiet"], more].concat())
    };
    assert!(of(short.path(), &[]).contains("3 tokens: inspect needs at least 4"));
    assert!(of(unknown.path(), &[]).contains("token 999 in a vocabulary of 113"));
    assert!(of(tokens.path(), &["--attention", "recompute"]).contains("--attention recompute"));
    let full = of(tokens.path(), &["--attention", "dense", "--window", "50", "--tokens", "60"]);
    assert!(full.contains("dense cache full at 50 tokens"), "{full}");
}
