//! Every family against transformers (dense) and a step-by-step reference (streaming), on both executors; what is wrong
//! with a file is said in one line.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[allow(dead_code, reason = "every test binary uses its own part")]
#[path = "common/gguf_writer.rs"]
mod gguf_writer;

use common::model_checks as check;
use common::{load, nlls, try_load};
use gguf_writer::GgufWriter;
use pollster::block_on;
use sinkstream::Error;
use sinkstream::engine::{Device, Settings, lay_out};
use sinkstream::gguf::Value;
use sinkstream::gpu::Gpu;
use sinkstream::kernels::cache::CacheType;
use sinkstream::tuning::Tuning;

macro_rules! families {
    ($($name:ident),*) => {
        mod cpu {
            $(#[test]
            fn $name() {
                super::block_on(super::check::family_nlls(&super::Device::Cpu, stringify!($name), &[1, 33]));
            })*
        }

        mod gpu {
            $(#[test]
            fn $name() {
                if let Some(device) = super::common::gpu() {
                    super::block_on(super::check::family_nlls(&device, stringify!($name), &[16]));
                }
            })*
        }

        #[test]
        fn every_golden_file_is_tested() {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families");
            for file in std::fs::read_dir(folder).unwrap() {
                let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
                assert!([$(stringify!($name)),*].contains(&name.as_str()), "{name}");
            }
        }
    };
}

families!(
    falcon_new,
    falcon_old,
    gemma2,
    gemma3,
    gptneox,
    gptneox_serial,
    hf_llama,
    infini_delta,
    infini_linear,
    llama_linear,
    llama_sinks,
    llama_yarn,
    llama_zero_sink,
    mistral,
    mpt,
    mpt_six_heads,
    phi3,
    phi3_longrope,
    qwen2,
    qwen3
);

/// A layer takes five dispatches, a token four more. Models that norm queries and keys head by head need one more in a
/// layer: a head's norm has to have seen the whole head, which several workgroups make.
#[test]
fn a_token_takes_five_dispatches_a_layer() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families");
    let mut in_parts = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue; // what the models should say
        }
        let mut source = sinkstream::Source::memory("a family", std::fs::read(&path).unwrap());
        let gguf = block_on(sinkstream::gguf::Gguf::read(&mut source)).unwrap();
        for tuning in [Tuning::SOFTWARE, Tuning::GPU] {
            let (config, keep, model) =
                lay_out(&gguf, &Settings { scores: true, ..Settings::default() }, tuning, u64::MAX).unwrap();
            let has_memory = keep.attention == sinkstream::Attention::Infini; // read between attention and project
            let more = u32::from(config.family.head_norms) + u32::from(has_memory);
            let decode = &model.plans[model.decode.plan_for(1)].dispatches;
            let most = (5 + more) * config.n_layers + 4;
            assert!(decode.len() <= most as usize, "{}: {} dispatches, not {most}", path.display(), decode.len());
            for dispatch in model.plans.iter().flat_map(|plan| &plan.dispatches) {
                let (invocations, columns) = (dispatch.constant("WORKGROUP"), dispatch.constant("COLUMNS"));
                assert!(invocations <= 256 && invocations * columns <= 512, "{dispatch:?}");
                if dispatch.kernel.name == "attention" && dispatch.workgroups[2] > 1 {
                    in_parts += 1;
                }
            }
        }
    }
    assert!(in_parts > 0, "no cache is read in parts");
}

fn golden(name: &str) -> Vec<u8> {
    block_on(common::files::golden(&format!("families/{name}.gguf")))
}

/// Writes `new` over every `old`, which is as long.
fn replaced(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> =
        (0..bytes.len() - old.len()).filter(|&at| &bytes[at..at + old.len()] == old.as_bytes()).collect();
    assert!(!places.is_empty(), "{old} is in the file");
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}

fn refusal(bytes: &[u8]) -> Error {
    block_on(try_load(bytes, &Settings { device: Device::Cpu, ..Settings::default() })).expect_err("refused")
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        // Biases that a family needs are missed, not taken for zeros.
        (
            replaced(golden("gptneox"), "blk.1.attn_qkv.bias", "blk.1.attn_qkv.bixs"),
            "tensor blk.1.attn_qkv.bias is missing",
        ),
        (replaced(golden("qwen2"), "blk.0.attn_k.bias", "blk.0.attn_k.bixs"), "tensor blk.0.attn_k.bias is missing"),
        (
            replaced(golden("qwen3"), "blk.0.attn_k_norm", "blk.0.attn_x_norm"),
            "tensor blk.0.attn_k_norm.weight is missing",
        ),
        (replaced(golden("gemma2"), "post_ffw_norm", "post_fxw_norm"), "tensor blk.0.post_ffw_norm.weight is missing"),
        (
            replaced(golden("falcon_new"), "attn_norm.weight", "attn_nxrm.weight"),
            "tensor blk.0.attn_norm.weight is missing",
        ),
        // Nor is what nothing uses passed over.
        (
            replaced(golden("llama_linear"), "blk.0.ffn_up.weight", "blk.0.ffn_ux.weight"),
            "tensor blk.0.ffn_up.weight is missing",
        ),
        (replaced(golden("mpt"), "blk.1.ffn_norm", "blk.9.ffn_norm"), "tensor blk.1.ffn_norm.weight is missing"),
        (replaced(golden("gptneox"), "gptneox", "gptnexx"), "architecture \"gptnexx\""),
        (replaced(golden("llama_yarn"), "yarn", "yard"), "RoPE scaling \"yard\""),
    ];
    for (bytes, wanted) in cases {
        let text = refusal(&bytes).to_string();
        assert!(text.contains(wanted) && !text.contains('\n'), "{text:?} does not say {wanted:?}");
    }
    let text = refusal(&replaced(golden("gptneox"), "gptneox", "gptnexx")).to_string();
    assert!(["llama", "qwen3", "falcon", "mpt", "gemma3"].iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn a_models_own_window_is_the_most_that_it_keeps() {
    let keep = |name, window| {
        let settings = Settings { device: Device::Cpu, window, ..Settings::default() };
        block_on(try_load(&golden(name), &settings)).unwrap().keep()
    };
    assert_eq!((keep("mistral", None).sinks, keep("mistral", None).window), (4, 255)); // sliding_window 256, context 512
    assert_eq!(keep("mistral", Some(300)).window, 300);
    assert_eq!(keep("qwen2", None).window, 512 - 1 - 4);
    assert_eq!(keep("gemma2", None).window, 512 - 1 - 4); // its window is that of some layers only
}

#[test]
fn the_file_says_which_layers_of_gemma_see_everything() {
    let key = "gemma3.attention.sliding_window_pattern";
    let mut bytes = golden("gemma3");
    let value = bytes.windows(key.len()).position(|part| part == key.as_bytes()).unwrap() + key.len() + 4;
    let whole = |bytes: &[u8]| {
        let engine = block_on(try_load(bytes, &Settings { device: Device::Cpu, ..Settings::default() })).unwrap();
        (0..engine.config().n_layers).filter(|&n| engine.config().local(n).is_none()).collect::<Vec<_>>()
    };
    assert_eq!((bytes[value], whole(&bytes)), (6, vec![5]));
    bytes[value] = 3;
    assert_eq!(whole(&bytes), [2, 5]);
    bytes[value] = 0;
    assert!(refusal(&bytes).to_string().contains("sliding_window_pattern is zero"));
}

/// A llama of one layer whose embedding, also its output, has a million rows of 32: as f32 more than one binding holds.
fn large_vocabulary(rows: u64, ggml_type: u32) -> Vec<u8> {
    let value = |n: u64| f32::from((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as i8 - 64) / 256.0; // exact in 16 bits
    let matrix = |count: u64, seed: u64, ggml_type: u32| -> Vec<u8> {
        let values = (0..count).map(|n| value(n * n + seed * 7919 + n));
        match ggml_type {
            0 => values.flat_map(f32::to_le_bytes).collect(),
            _ => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
        }
    };
    let number = |name: &str| format!("llama.{name}");
    let mut file = GgufWriter::new().set("general.architecture", Value::String("llama".into()));
    let numbers = [
        ("block_count", 1),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 1),
        ("context_length", 64),
    ];
    for (name, value) in numbers {
        file = file.set(&number(name), Value::U32(value));
    }
    file = file.set(&number("attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
    file = file.tensor("token_embd.weight", ggml_type, &[32, rows], &matrix(32 * rows, 1, ggml_type));
    for (seed, name) in
        ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"].iter().enumerate()
    {
        file = file.tensor(&format!("blk.0.{name}.weight"), 0, &[32, 32], &matrix(32 * 32, 2 + seed as u64, 0));
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        file = file.tensor(&format!("{name}.weight"), 0, &[32], &1.0_f32.to_le_bytes().repeat(32));
    }
    file.finish()
}

/// Limits of WebGPU, but with bindings of so many bytes.
fn limits(binding_bytes: u64) -> wgpu::Limits {
    wgpu::Limits { max_storage_buffer_binding_size: binding_bytes, ..wgpu::Limits::defaults() }
}

/// Whether a device with the default limits of WebGPU, which checks everything and computes nothing, takes the model.
fn fits_default_limits(file: &[u8]) -> bool {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    assert_eq!(device.limits(), limits(128 << 20));
    let gpu = Gpu::new(device.clone(), queue, device.adapter_info());
    let settings = common::settings("streaming_2_3", &Device::Open(Box::new(gpu)), CacheType::F32, 4);
    block_on(try_load(file, &settings)).is_ok()
}

/// The first adapter, with bindings of so many bytes and no more.
async fn small_device(binding_bytes: u64) -> Device {
    let adapters = sinkstream::gpu::adapters().await;
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits(binding_bytes), ..Default::default() };
    let (device, queue) = adapters[0].request_device(&descriptor).await.unwrap();
    Device::Open(Box::new(Gpu::new(device, queue, adapters[0].get_info())))
}

#[test]
fn embeddings_beyond_one_binding_come_in_parts() {
    let rows = 1_070_001; // 137 MB as f32: in two parts of the limits' 128 MiB
    assert!(fits_default_limits(&large_vocabulary(rows, 0)), "every plane is at most what a default device binds");
    if common::gpu().is_none() {
        return;
    }
    let rows = 20_003; // 2.56 MB as f32, in parts of 8,192, 8,192 and 3,619 rows: two together, then the last
    let tokens = [5, 8_191, 8_192, 20_002, 77, 16_383, 16_384, 0, 8_193, 12_345];
    let file = large_vocabulary(rows, 0);
    let of = |device: &Device| {
        let settings = common::settings("streaming_2_3", device, CacheType::F32, 4);
        let mut engine = block_on(load(&file, &settings));
        (block_on(nlls(&mut engine, &tokens, 0)), block_on(engine.read_floats("logits")).unwrap())
    };
    let (whole, logits) = of(&Device::Cpu);
    let (in_parts, logits_in_parts) = of(&block_on(small_device(1 << 20)));
    common::assert_close(&whole, &in_parts, 1e-5, 1e-4, "in parts on a GPU");
    let logits = [logits, logits_in_parts].map(|logits| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    let is_software = block_on(sinkstream::gpu::adapters()).first().is_some_and(sinkstream::gpu::is_software);
    assert!(!is_software || logits[0] == logits[1], "software adapters have the bits of the CPU");
}
