//! `sinkstream info`, `plan` and `devices`: looking without running.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};
use sinkstream::engine::{Settings, lay_out};
use sinkstream::gguf::{self, Gguf};
use sinkstream::gpu;
use sinkstream::plan::Purpose;
use sinkstream::tuning::Tuning;
use sinkstream::weights::Directory;

use super::args::{DevicesArgs, InfoArgs};
use super::memory_table::{MemoryInfoArgs, Table};
use super::{Outcome, open, print_json};

/// What the file holds, and what it will need; works without a known architecture or tokenizer.
pub(crate) fn info(MemoryInfoArgs { info: args, memory: with_table }: &MemoryInfoArgs) -> Outcome {
    let gguf = pollster::block_on(Gguf::read(&mut open(&args.model)?))?;
    let mut types: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for tensor in &gguf.tensors {
        let entry = types.entry(tensor.kind.to_string()).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.bytes);
    }
    let laid_out = lay_out(&gguf, &args.run.settings(), Tuning::GPU, u64::MAX);
    let table = match &laid_out {
        Ok((config, keep, _)) if *with_table => Some(Table::new(config, *keep)),
        _ => None,
    };
    let memory = match laid_out {
        Ok((_, keep, model)) => json!({
            "attention": keep.attention.name(),
            "sinks": keep.sinks,
            "window": keep.window,
            "weights_bytes": model.buffers.bytes(Purpose::Weights),
            "bits_per_weight": bits_per_weight(&model.directory, |_| true),
            "bits_per_weight_by_type": types
                .keys()
                .map(|name| (name.as_str(), bits_per_weight(&model.directory, |kind| kind == name)))
                .collect::<BTreeMap<_, _>>(),
            "kv_bytes": model.buffers.bytes(Purpose::Cache),
            "memory_bytes": model.buffers.bytes(Purpose::Memory),
            "work_bytes": model.buffers.bytes(Purpose::Work),
        }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let metadata: BTreeMap<&str, Value> =
        gguf.metadata.iter().map(|(key, value)| (key.as_str(), shown(value))).collect();
    let tensors: Vec<Value> = gguf
        .tensors
        .iter()
        .map(|t| json!({ "name": t.name, "type": t.kind.to_string(), "shape": t.shape, "bytes": t.bytes }))
        .collect();
    if args.run.json {
        let mut report = json!({ "version": gguf.version, "metadata": metadata, "tensors": tensors, "memory": memory });
        if let Some(table) = table {
            report["cached_memory"] = table.json();
        }
        return Ok(print_json(&report)?);
    }
    let mut text =
        format!("GGUF version {}, {} metadata entries, {} tensors\n\n", gguf.version, metadata.len(), tensors.len());
    for (key, value) in &metadata {
        let _ = writeln!(text, "{key} = {value}");
    }
    text.push('\n');
    for tensor in &gguf.tensors {
        let _ = writeln!(text, "{:<32} {:>6} {:?}", tensor.name, tensor.kind.to_string(), tensor.shape);
    }
    text.push('\n');
    for (name, (count, bytes)) in &types {
        let _ = match memory["bits_per_weight_by_type"][name].as_f64() {
            Some(bits) => writeln!(text, "{name}: {count} tensors, {bytes} bytes, read as {bits:.3} bits a weight"),
            None => writeln!(text, "{name}: {count} tensors, {bytes} bytes"),
        };
    }
    match memory.get("error").and_then(Value::as_str) {
        Some(error) => _ = writeln!(text, "\ndoes not run: {error}"),
        None => {
            let bytes = |key: &str| memory[key].as_u64().unwrap_or_default();
            let (weights, cache, work) = (bytes("weights_bytes"), bytes("kv_bytes"), bytes("work_bytes"));
            let remembered = bytes("memory_bytes");
            let _ = writeln!(text, "\nmemory with {} sinks and a window of {}:", memory["sinks"], memory["window"]);
            let _ = write!(text, "weights {weights} bytes, cache {cache} bytes, work buffers {work} bytes");
            if remembered > 0 {
                let _ = write!(text, ", compressive memory {remembered} bytes");
            }
            let _ = writeln!(text, "; {} in all", weights + cache + work + remembered);
            let _ =
                writeln!(text, "{:.3} bits are read for a weight", memory["bits_per_weight"].as_f64().unwrap_or(0.0));
        }
    }
    text.extend(table.map(|table| table.text()));
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Bits that the executors read for a weight, scales and padding included, in the mean over the tensors of some types.
fn bits_per_weight(directory: &Directory, is_wanted: impl Fn(&str) -> bool) -> Option<f64> {
    let (mut words, mut weights) = (0, 0);
    for (tensor, layout) in directory.layouts().filter(|(tensor, _)| is_wanted(&tensor.kind.to_string())) {
        let (rows, cols) = (tensor.rows() as usize, tensor.cols() as usize);
        words += layout.quant_words(rows, cols) + layout.scale_words(rows, cols);
        weights += rows * cols;
    }
    (weights > 0).then(|| 32.0 * words as f64 / weights as f64)
}

/// The device of a plan that is only looked at.
const PLAN_ASSUMES: &str = "a GPU that binds every matrix whole";

/// The forward pass, one dispatch a line.
pub(crate) fn plan(args: &InfoArgs) -> Outcome {
    let gguf = pollster::block_on(Gguf::read(&mut open(&args.model)?))?;
    let settings = Settings { scores: true, ..args.run.settings() };
    let (config, _, model) = lay_out(&gguf, &settings, Tuning::GPU, u64::MAX)?;
    if args.run.json {
        let plans: Vec<Value> = model
            .plans
            .iter()
            .map(|plan| {
                let dispatches: Vec<Value> = plan
                    .dispatches
                    .iter()
                    .map(|d| json!({ "kernel": d.kernel.name, "label": d.label, "workgroups": d.workgroups }))
                    .collect();
                json!({ "name": plan.name, "columns": plan.columns, "dispatches": dispatches })
            })
            .collect();
        return Ok(print_json(&json!({
            "layers": config.n_layers,
            "dispatches_per_layer": model.dispatches_per_layer(),
            "dispatches_per_token": model.dispatches_per_token(),
            "assumes": PLAN_ASSUMES,
            "plans": plans,
        }))?);
    }
    std::io::stdout().write_all(format!("for {PLAN_ASSUMES}\n{}", model.describe()).as_bytes())?;
    Ok(())
}

/// The adapters.
pub(crate) fn devices(args: &DevicesArgs) -> Outcome {
    let adapters = pollster::block_on(gpu::adapters());
    let described: Vec<Value> =
        adapters.iter().enumerate().map(|(index, adapter)| gpu::describe(index, adapter)).collect();
    if args.run.json {
        return Ok(print_json(&json!({ "devices": described }))?);
    }
    let mut out = std::io::stdout().lock();
    if described.is_empty() {
        writeln!(out, "no adapter: runs on the CPU executor")?;
    }
    for device in described {
        writeln!(
            out,
            "{}: {} ({}, {}, driver {})",
            device["index"],
            text(&device["name"]),
            text(&device["backend"]),
            text(&device["type"]),
            text(&device["driver"])
        )?;
        writeln!(
            out,
            "   tier {}; features {}; limits {}",
            text(&device["tier"]),
            device["features"],
            device["limits"]
        )?;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A metadata value as JSON; of an array its length alone.
fn shown(value: &gguf::Value) -> Value {
    match value {
        gguf::Value::U8(value) => json!(value),
        gguf::Value::I8(value) => json!(value),
        gguf::Value::U16(value) => json!(value),
        gguf::Value::I16(value) => json!(value),
        gguf::Value::U32(value) => json!(value),
        gguf::Value::I32(value) => json!(value),
        gguf::Value::U64(value) => json!(value),
        gguf::Value::I64(value) => json!(value),
        gguf::Value::F32(value) => json!(value),
        gguf::Value::F64(value) => json!(value),
        gguf::Value::Bool(value) => json!(value),
        gguf::Value::String(value) => json!(value),
        gguf::Value::Array(array) => json!(format!("[{} entries]", array.len())),
    }
}
