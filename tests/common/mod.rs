//! What the tests of whole models share: the golden models, the shared data, and the comparison with a reference.
//! Asynchronous throughout, so that the same checks run natively and in a browser.
#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "a test")]

pub mod files;
pub mod model_checks;
pub mod stream_checks;

/// All checks.
#[allow(unused_imports, reason = "every test binary uses its own part")]
pub mod check {
    pub use super::model_checks::*;
    pub use super::stream_checks::*;
}

use serde_json::Value;
use sinkstream::config::Attention;
use sinkstream::engine::{Device, Engine, Settings};
use sinkstream::kernel::Tier;
use sinkstream::kernels::cache::CacheType;
use sinkstream::{Result, Source};

/// Models with random weights and what PyTorch makes of them: `tests/golden/README.md`.
pub const GOLDEN: [&str; 3] = ["odd_tied", "q8", "q4_mixed"];

/// Any GPU adapter, software ones too; none if `SINKSTREAM_GPU=skip` asks for that out loud.
#[cfg(not(target_arch = "wasm32"))]
pub fn gpu() -> Option<Device> {
    if std::env::var("SINKSTREAM_GPU").is_ok_and(|value| value == "skip") {
        files::not_checked("SINKSTREAM_GPU=skip");
        return None;
    }
    let gpu = pollster::block_on(sinkstream::gpu::Gpu::choose(&Device::Gpu)).unwrap().unwrap();
    Some(Device::Open(Box::new(gpu))) // each pipeline is compiled once, not for every model that a test loads
}

/// A JSON file's value.
pub fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// An array of ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// An array of numbers.
pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Settings, in the tier whose results are compared with references (a real GPU may choose `matrix`, which has bounds and checks of
/// its own), from a name such as `streaming_4_28`, `window_0_32`, `dense`, `recompute_65`.
pub fn settings(name: &str, device: &Device, cache: CacheType, chunk: u32) -> Settings {
    let parts: Vec<&str> = name.split('_').collect();
    let number = |n: usize| parts.get(n).and_then(|part| part.parse::<u32>().ok());
    let (attention, sinks, window) = match parts[0] {
        "streaming" => (Attention::Streaming, number(1), number(2)),
        "window" => (Attention::Window, None, number(2)),
        "dense" => (Attention::Dense, None, Some(512)),
        "infini" => (Attention::Infini, None, None),
        _ => (Attention::Recompute, Some(0), number(1).map(|run| run - 1)),
    };
    let (attention, tier) = (Some(attention), Some(Tier::Portable));
    Settings {
        device: device.clone(),
        tier,
        attention,
        sinks,
        window,
        chunk,
        cache,
        scores: true,
        ..Settings::default()
    }
}

/// A loaded model.
pub async fn load(bytes: &[u8], settings: &Settings) -> Engine {
    try_load(bytes, settings).await.unwrap()
}

/// A loaded model, or why not.
pub async fn try_load(bytes: &[u8], settings: &Settings) -> Result<Engine> {
    Engine::load(Source::memory("the model", bytes.to_vec()), settings, &mut |_| {}).await
}

/// The NLLs of all tokens but the first, from a stream whose counter starts at `position`.
pub async fn nlls(engine: &mut Engine, tokens: &[u32], position: u64) -> Vec<f32> {
    let mut session = engine.session();
    session.start_at(position);
    session.append(engine, &tokens[..1]).await.unwrap();
    session.score(engine, &tokens[1..]).await.unwrap()
}

/// Mean and largest absolute difference.
pub fn difference(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len(), "number of values");
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    let (sum, max) =
        differences.fold((0.0, 0.0_f64), |(sum, max), d| (sum + d, if d > max || d.is_nan() { d } else { max }));
    (sum / a.len() as f64, max)
}

/// Asserts that two series agree in the mean and everywhere.
pub fn assert_close(a: &[f32], b: &[f32], mean: f64, largest: f64, what: &str) {
    let (got_mean, got_largest) = difference(a, b);
    assert!(got_mean <= mean && got_largest <= largest, "{what}: mean {got_mean:.2e}, largest {got_largest:.2e}");
}
