//! The tests that run in browsers: the very same checks as natively, under names that `www/tests/checks.mjs` calls.
//!
//! A check that fails panics; the message goes to the console, through the hook of `sinkstream::web`.
#![cfg(target_arch = "wasm32")]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/kernel_cases.rs"]
mod kernel_cases;
#[path = "../tokenizer/vectors.rs"]
mod vectors;

use std::cell::RefCell;

use common::check;
use common::files::{NOT_CHECKED, shared};
use sinkstream::Source;
use sinkstream::engine::Device;
use sinkstream::gguf::Gguf;
use sinkstream::gpu::Gpu;
use sinkstream::kernels::cache::CacheType;
use sinkstream::tokenizer::Tokenizer;
use wasm_bindgen::prelude::*;

/// What the last check could not check, if anything.
#[wasm_bindgen(js_name = notChecked)]
pub fn not_checked() -> String {
    NOT_CHECKED.take().join("; ")
}

thread_local! {
    static GPU: RefCell<Option<Gpu>> = const { RefCell::new(None) };
}

/// The page's device: what was compiled for one check is there for the next.
async fn gpu() -> Gpu {
    if let Some(gpu) = GPU.with_borrow(Clone::clone) {
        return gpu;
    }
    let gpu = Gpu::choose(&Device::Gpu).await.unwrap().unwrap();
    GPU.set(Some(gpu.clone()));
    gpu
}

/// The names for [`kernel`].
#[wasm_bindgen]
pub fn kernels() -> Vec<String> {
    kernel_cases::SUITES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// A kernel on the GPU against its twin, in cases with every value of its constants; says how much was compared.
#[wasm_bindgen]
pub async fn kernel(name: String) -> String {
    let gpu = gpu().await;
    let (_, cases) = kernel_cases::SUITES.into_iter().find(|(known, _)| *known == name).unwrap();
    let summary =
        cases().of_every_constant().check(&gpu).await.unwrap_or_else(|difference| panic!("{name}: {difference}"));
    assert!(summary.cases > 0 && summary.values > 0);
    format!("{} cases, {} values equal on {}", summary.cases, summary.values, gpu.adapter())
}

/// A check of whole models, on `gpu` or `cpu`. Fewer cases than natively: a software adapter in a browser takes seconds
/// to compile the pipelines of each kind of model, and some hundred microseconds for a dispatch.
#[wasm_bindgen]
pub async fn model(name: String, device: String) {
    let device = match device.as_str() {
        "gpu" => Device::Open(Box::new(gpu().await)),
        _ => Device::Cpu,
    };
    match name.as_str() {
        "tensors" => check::tensors(&device).await,
        "dense_logits" => check::dense_logits(&device).await,
        "golden_nlls" => check::golden_nlls(&device, &[128], "streaming_4").await,
        "families" => {
            for name in ["qwen3", "gptneox", "falcon_new", "mpt_six_heads", "gemma2"] {
                check::family_nlls(&device, name, &[16]).await;
            }
        }
        "stories_nlls" => check::stories_nlls(&device, 300, &[CacheType::F32]).await,
        "stories_greedy" => check::stories_greedy(&device).await,
        "far_positions" => check::far_positions(&device, 50).await,
        "chunk_sizes" => check::chunk_sizes(&device, &[7, 33]).await,
        "together_as_alone" => check::together_as_alone(&device, &["streaming_4_28"], &[(5, 5), (3, 2)]).await,
        "moved_streams" => check::moved_streams(&device).await,
        "taking_back" => check::taking_back(&device).await,
        "same_text_as_cpu" => check::same_text_as_cpu(&device, 2, 100).await,
        "close_to_cpu" => check::close_to_cpu(&device).await,
        other => panic!("no check {other}"),
    }
}

/// The names for [`tokenizer`].
#[wasm_bindgen]
pub fn tokenizers() -> Vec<String> {
    vectors::SETS.iter().map(|set| set.name.to_owned()).collect()
}

/// A tokenizer against others' vectors.
#[wasm_bindgen]
pub async fn tokenizer(name: String) {
    let set = vectors::SETS.iter().find(|set| set.name == name).unwrap();
    let Some(vocabulary) = shared(set.vocabulary).await else { return };
    let mut files = vec![];
    for file in set.files {
        files.push(String::from_utf8(shared(file).await.unwrap()).unwrap());
    }
    let tokenizer = match set.vocabulary.ends_with(".json") {
        true => Tokenizer::from_json(&vocabulary).unwrap(),
        false => Tokenizer::from_gguf(&Gguf::read(&mut Source::memory(&*name, vocabulary)).await.unwrap()).unwrap(),
    };
    let cases = (set.cases)(&files, &tokenizer);
    assert_eq!(cases.len(), set.count, "the vectors are not those that were counted");
    let failures = vectors::check(&tokenizer, &cases);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
