//! `sinkstream inspect`: attention on the first token by layer and head, against transformers and a step-by-step reference.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod support;

use serde_json::Value;

use support::{Folder, golden};

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn success(args: &[&str]) -> String {
    support::success(&[&["inspect"], args].concat())
}

fn json(args: &[&str]) -> Value {
    support::json(&[&["inspect"], args, &["--json", "--quiet"]].concat())
}

/// The tokens of a golden model of the families, as a file in the folder, and the model's path.
fn model(name: &str, folder: &Folder) -> (String, String) {
    let tokens = golden_json(&format!("families/{name}.json"))["tokens"].to_string();
    (folder.file(&format!("{name}.json"), tokens.as_bytes()), golden(&format!("families/{name}.gguf")))
}

/// `[layer][head]`.
fn table(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn every_model_and_mode(device: &str, chunks: &[&str]) {
    let (reference, folder) = (golden_json("attention.json"), Folder::new(&format!("inspect-{device}")));
    for (name, modes) in reference.as_object().unwrap() {
        let (tokens, model) = model(name, &folder);
        for (mode, wanted) in modes.as_object().unwrap() {
            let flags: &[&str] = match &mode[..] {
                "dense" => &["--attention", "dense"],
                "streaming_4_28" => &["--sinks", "4", "--window", "28"],
                _ => &["--attention", "window", "--window", "100"],
            };
            let args = ["--model", &model, "--tokens-file", &tokens, "--tokens", "120", "--cache", "f32"];
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
    let folder = Folder::new("inspect-report");
    let (tokens, model) = model("llama_sinks", &folder);
    let plot = folder.0.join("plot.svg").display().to_string();
    let args = ["--model", &model, "--tokens-file", &tokens, "--device", "cpu", "--window", "28"];
    let report = json(&[&args[..], &["--plot", &plot]].concat());
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
    let svg = std::fs::read_to_string(&plot).unwrap();
    for label in ["<svg", "layer", "head", "mean attention", "Attention on the first token"] {
        assert!(svg.contains(label), "{label}");
    }
}

#[test]
fn text_goes_through_the_tokenizer() {
    let folder = Folder::new("inspect-text");
    let text = folder.file("text.txt", "The sea was calm, and the ship went on. ".repeat(20).as_bytes());
    let report = json(&["--text", &text, "--tokens", "64", "--device", "cpu"]);
    assert_eq!((report["tokens"].as_u64(), report["sinks"].as_u64()), (Some(64), Some(1)));
    assert!(table(&report["layers"]).iter().flatten().all(|value| (0.0..=1.0).contains(value)));
}

#[test]
fn what_cannot_be_looked_at_is_refused() {
    let folder = Folder::new("inspect-refused");
    let (tokens, model) = model("llama_sinks", &folder);
    let (short, unknown) = (folder.file("short.json", b"[1, 2, 3]"), folder.file("unknown.json", b"[1, 2, 3, 999]"));
    let of = |file: &str, more: &[&str]| {
        support::refused(
            &[&["inspect", "--model", &model, "--tokens-file", file, "--device", "cpu", "--quiet"], more].concat(),
        )
    };
    assert!(of(&short, &[]).contains("3 tokens: inspect needs at least 4"));
    assert!(of(&unknown, &[]).contains("token 999 in a vocabulary of 113"));
    assert!(of(&tokens, &["--attention", "recompute"]).contains("--attention recompute"));
    let full = of(&tokens, &["--attention", "dense", "--window", "50", "--tokens", "60"]);
    assert!(full.contains("dense cache full at 50 tokens"), "{full}");
}
