//! `sinkstream bench`: what it reports is so, and it is the same wherever the stream stands.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod command;

use command::{failure, golden, json};
use serde_json::Value;
use sinkstream::engine::{Settings, lay_out};
use sinkstream::quant::TensorType;
use sinkstream::random::{self, SHAPES};
use sinkstream::tuning::Tuning;

const CPU: [&str; 6] = ["bench", "--device", "cpu", "--threads", "1", "--json"];
const TINY: [&str; 6] = ["--shape", "tiny", "--sinks", "4", "--window", "60"];

fn bench(args: &[&str]) -> Value {
    json(&[&CPU, args].concat())
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("{field} in {report}"))
}

#[test]
fn every_shape_needs_five_dispatches_a_layer_and_four_more() {
    // The most that a device of the default limits binds, half the addresses of 32 bits, and no limit.
    for binding_bytes in [128 << 20, (2 << 30) - 4, u64::MAX] {
        for shape in SHAPES {
            for kind in [TensorType::Q4_0, TensorType::Q8_0, TensorType::F16] {
                let gguf = pollster::block_on(random::gguf(&shape, kind)).unwrap();
                let (config, _, model) = lay_out(&gguf, &Settings::default(), Tuning::GPU, binding_bytes).unwrap();
                // Two parts of an embedding go in one dispatch; these have three and four of 128 MiB.
                let is_large = ["llama-3.2-1b", "qwen2.5-0.5b"].contains(&shape.name) && kind == TensorType::F16;
                let more = if is_large && binding_bytes == 128 << 20 { 2 } else { 0 };
                let (count, wanted) = (model.dispatches_per_token(), 5 * config.n_layers as usize + 3 + more);
                assert_eq!(count, wanted, "{} {} in {binding_bytes}", shape.name, kind.name());
                let parts = model.buffers.specs().iter().filter(|spec| spec.name == "token_embd").count();
                assert!(binding_bytes < 1 << 30 || parts == 1, "{} {}", shape.name, kind.name());
            }
        }
    }
}

#[test]
fn the_shapes_have_the_sizes_of_the_models() {
    // Parameters as their authors give them; without Qwen2.5's and Llama 3.2's tied output.
    let expected = [6_738_415_616, 1_235_814_400, 134_515_008, 361_821_120, 494_032_768];
    for (shape, expected) in SHAPES.iter().zip(expected) {
        let gguf = pollster::block_on(random::gguf(shape, TensorType::Q8_0)).unwrap();
        let parameters: u64 = gguf.tensors.iter().map(|tensor| tensor.cols() * tensor.rows()).sum();
        assert_eq!(parameters, expected, "{}", shape.name);
    }
}

#[test]
fn reports_what_the_contract_names() {
    let report = bench(&[&TINY[..], &["--quant", "q8_0", "--position", "5000000000"]].concat());
    let expected = [
        ("model", "tiny"),
        ("quant", "q8_0"),
        ("attention", "streaming"),
        ("tier", "portable"),
        ("executor", "cpu"),
        ("backend", "cpu"),
        ("adapter", "1 threads"),
    ];
    for (field, value) in expected {
        assert_eq!(report[field], value, "{field}");
    }
    let counts = [("layers", 4), ("sinks", 4), ("window", 60), ("streams", 1), ("position", 5_000_000_000_u64)];
    for (field, value) in counts {
        assert_eq!(report[field], value, "{field}");
    }
    for field in ["prefill_tokens_per_second", "decode_tokens_per_second", "copy_bandwidth_gbps", "bandwidth_ratio"] {
        assert!(number(&report, field) > 0.0, "{field}");
    }
    assert!(number(&report, "decode_ms_p50") <= number(&report, "decode_ms_p99"));
    assert!(report["driver"].is_null());
    assert!(report["commit"].as_str().is_none_or(|commit| commit.len() >= 7));

    // 4 layers of 5, and embedding, output and sampling.
    assert_eq!(number(&report, "dispatches_per_token"), 23.0);
    assert_eq!(number(&report, "submits_per_token"), 0.0);
    // Per layer 2·256·(256 + 128) + 3·256·704 weights, and the output, in blocks of 34 bytes for 32; norms; a row of the
    // embedding; and 64 tokens of 2·2·64 16-bit numbers in each layer.
    let weights = 4 * (2 * 256 * (256 + 128) + 3 * 256 * 704) + 4096 * 256 + 256;
    let bytes = weights / 32 * 34 + 9 * 256 * 4 + 4 * 64 * 2 * 2 * 64 * 2;
    assert_eq!(number(&report, "bytes_per_token"), f64::from(bytes));
    let plan = json(&["plan", "--model", &golden("q8.gguf"), "--json"]);
    let kernels = report["kernels"].as_array().unwrap();
    let timed: u64 = kernels.iter().map(|kernel| kernel["dispatches"].as_u64().unwrap()).sum();
    assert_eq!(timed, 23);
    assert_eq!(plan["dispatches_per_layer"], 5);
}

#[test]
fn streams_share_the_weights() {
    let [one, four] = ["1", "4"].map(|streams| bench(&[&TINY[..], &["--streams", streams, "--quiet"]].concat()));
    assert_eq!((&one["streams"], &four["streams"]), (&Value::from(1), &Value::from(4)));
    let cache = f64::from(4 * 64 * 2 * 2 * 64 * 2);
    let weights = number(&one, "bytes_per_token") - cache;
    let row = 144.0; // of the embedding: each has its own
    assert_eq!(number(&four, "bytes_per_token"), (weights - row) / 4.0 + row + cache);
    assert_eq!(number(&four, "dispatches_per_token"), 23.0 / 4.0);
    assert_eq!(number(&four, "kv_bytes"), 4.0 * number(&one, "kv_bytes"));
}

#[test]
fn measures_a_real_file_in_every_mode() {
    for mode in ["streaming", "window", "dense", "recompute"] {
        let report = bench(&["--model", &golden("q8.gguf"), "--attention", mode, "--window", "200", "--quiet"]);
        assert_eq!(report["attention"], mode);
        assert!(number(&report, "decode_tokens_per_second") > 0.0);
        assert_eq!(report["bytes_per_token"].is_null(), mode == "recompute");
    }
}

/// In turns, in one process, by the processor's own time: other programs hardly matter. Still, a single run may be off; code
/// that slows down with the position is so in every one.
#[test]
fn a_token_takes_as_long_at_position_1000000_as_at_2000() {
    let mut ratios = vec![];
    for _ in 0..4 {
        let report = bench(&[&TINY[..], &["--position", "1000000", "--against", "2000", "--quiet"]].concat());
        ratios.push(number(&report["against"], "cpu_ratio"));
        if (0.98..1.02).contains(ratios.last().unwrap()) {
            return;
        }
    }
    panic!("time at 1,000,000 over time at 2,000: {ratios:?}");
}

#[test]
fn wrong_usage_ends_with_2() {
    failure(&["bench", "--shape", "gpt-5"], 2);
    failure(&["bench", "--shape", "tiny", "--model", "x.gguf"], 2);
    failure(&["bench", "--shape", "tiny", "--quant", "q4_k"], 2);
    failure(&["bench", "--shape", "tiny", "--streams", "0"], 2);
    failure(&[&CPU[..], &TINY[..], &["--position", "0"]].concat(), 1);
    failure(&[&CPU[..], &TINY[..], &["--streams", "2", "--attention", "recompute"]].concat(), 1);
}
