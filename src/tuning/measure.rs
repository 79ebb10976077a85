//! Times tunings on the device itself: two layers and the output of one token, at a full cache.

use crate::config::{Config, Keep};
use crate::engine::{Settings, lay_out};
use crate::error::Result;
use crate::executor::gpu::GpuExecutor;
use crate::gguf::Gguf;
use crate::gpu::binding_bytes;
use crate::model::Model;
use crate::plan::{Column, ColumnsHeader, Dispatch, Plan, Purpose};
use crate::platform;
use crate::tuning::Tuning;

/// No other tuning is tried after so long: loading should not be felt to wait.
const MOST_SECONDS: f64 = 0.8;
/// Tokens that are timed together.
const TOKENS: u32 = 16;
/// What of a token is timed.
const PARTS: [&str; 3] = ["blk.0", "blk.1", "output"];

/// What a tuning is remembered under: the adapter with its driver, and all that shapes depend on.
pub(crate) fn key(executor: &GpuExecutor, config: &Config, keep: &Keep, model: &Model) -> String {
    let Config { n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab_size, .. } = config;
    format!(
        "{}, {}: {n_layers} x {dim}, {ffn_dim}, {n_heads}/{n_kv_heads} x {head_dim}, {vocab_size}; {} + {} bytes; {} tokens",
        executor.adapter(),
        executor.gpu().tier().name(),
        model.buffers.bytes(Purpose::Weights),
        model.buffers.bytes(Purpose::Cache),
        keep.sinks + keep.window
    )
}

/// The fastest tuning that is found from `start` on. Overwrites the columns and, in the cache, the slot behind the last.
///
/// # Errors
/// Those of the executor.
pub(crate) async fn measure(
    start: Tuning,
    executor: &mut GpuExecutor,
    (gguf, settings): (&Gguf, &Settings),
    (keep, model): (&Keep, &Model),
) -> Result<Tuning> {
    let began = platform::seconds();
    let full = keep.sinks + keep.window;
    let column =
        Column { position: full, slot: full, cached: full, sinks: keep.sinks, capacity: full, ..Column::default() };
    let header = ColumnsHeader { active: 1, pad: [0; 3] };
    executor.write(model.columns, 0, &[bytemuck::bytes_of(&header), bytemuck::bytes_of(&column)].concat())?;
    let time = async |tuning: Tuning| {
        if platform::seconds() - began > MOST_SECONDS {
            return Ok(None);
        }
        let (_, _, mut other) = lay_out(gguf, settings, tuning, binding_bytes(Some(executor.gpu())))?;
        let is_part =
            |dispatch: &Dispatch| PARTS.iter().any(|part| dispatch.label.split('.').take(2).eq(part.split('.')));
        let decode = other.plans.swap_remove(other.decode.plan_for(1));
        let dispatches = decode.dispatches.into_iter().filter(is_part).collect();
        executor.seconds(&Plan { dispatches, ..decode }, TOKENS).await.map(Some)
    };
    start.improve(time).await
}
