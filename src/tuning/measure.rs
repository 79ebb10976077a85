//! Times tunings on the device itself: two layers and the output of one token, at a full cache; the two layers count for all. And
//! tiers: two layers of a chunk.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::config::{Config, Keep};
use crate::engine::{Settings, lay_out};
use crate::error::Result;
use crate::executor::gpu::GpuExecutor;
use crate::gguf::Gguf;
use crate::gpu::{Gpu, binding_bytes};
use crate::kernel::Tier;
use crate::kernels::ALL;
use crate::kv_ring::KvRing;
use crate::model::Model;
use crate::plan::{Column, ColumnsHeader, Dispatch, Plan, Purpose};
use crate::tuning::Tuning;

/// No other tuning is tried once so much time was measured: loading should not be felt to wait.
const MOST_SECONDS: f64 = 0.8;
/// Tokens that are timed together.
const TOKENS: u32 = 16;
/// The layers that are timed: in some models every other one has a window of its own.
const LAYERS: [&str; 2] = ["blk.0", "blk.1"];
const OUTPUT: &str = "output";
/// Chunks that are timed together.
const CHUNKS: u32 = 4;
/// What the tier `matrix` may be off to be used, root mean square, as a part of the residual stream's. Twice the most of five
/// models, which cost 0.0037 nats at most; results that are wrong are off by hundreds of times as much: `docs/checks.md`.
const MOST_OFF: f64 = 2e-3;

/// What a tuning and a tier are remembered under: version and shaders of this program, the adapter with its driver, the tier if
/// one was asked for, and all that shapes depend on.
pub(crate) fn key(executor: &GpuExecutor, tier: Option<Tier>, config: &Config, keep: &Keep, model: &Model) -> String {
    let Config { n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab_size, .. } = config;
    format!(
        "{} {:016x}; {}, {}: {n_layers} x {dim}, {ffn_dim}, {n_heads}/{n_kv_heads} x {head_dim}, {vocab_size}; {} + {} bytes; {} tokens",
        env!("CARGO_PKG_VERSION"),
        shaders(),
        executor.adapter(),
        tier.map_or("any tier", Tier::name),
        model.buffers.bytes(Purpose::Weights),
        model.buffers.bytes(Purpose::Cache),
        keep.sinks + keep.window
    )
}

/// Stands for the texts of all shaders: others may be faster in another cut.
fn shaders() -> u64 {
    let mut hasher = DefaultHasher::new();
    for tier in Tier::ALL.into_iter().chain([Tier::SmallMatrix]) {
        for kernel in ALL {
            kernel.compositions().for_each(|variant| kernel.source(variant, tier).hash(&mut hasher));
        }
    }
    hasher.finish()
}

/// The fastest tuning that is found from `start` on, and whether all were tried. Overwrites the columns and, in the
/// cache, the slot behind the last.
///
/// # Errors
/// Those of the executor.
pub(crate) async fn measure(
    start: Tuning,
    executor: &mut GpuExecutor,
    (gguf, settings): (&Gguf, &Settings),
    (keep, model): (&Keep, &Model),
) -> Result<(Tuning, bool)> {
    let mut spent = 0.0; // without what compilation takes: no search would come to its end on a slow driver
    let full = keep.sinks + keep.window;
    let column =
        Column { position: full, slot: full, cached: full, sinks: keep.sinks, capacity: full, ..Column::default() };
    let header = ColumnsHeader { active: 1, pad: [0; 3] };
    executor.write(model.columns, 0, &[bytemuck::bytes_of(&header), bytemuck::bytes_of(&column)].concat())?;
    let gpu = executor.gpu().clone();
    let time = async |tuning: Tuning| {
        if spent > MOST_SECONDS {
            return Ok(None);
        }
        let (config, _, mut other) = lay_out(gguf, settings, tuning, binding_bytes(Some(&gpu)))?;
        let Plan { name, columns, dispatches } = other.plans.swap_remove(other.decode.plan_for(1));
        let dispatches =
            dispatches.into_iter().filter(|dispatch| is_of(&LAYERS, dispatch) || is_of(&[OUTPUT], dispatch));
        let (layers, output) = dispatches.partition(|dispatch| is_of(&LAYERS, dispatch));
        let weight = f64::from(config.n_layers) / f64::from(config.n_layers.min(LAYERS.len() as u32));
        let mut token = 0.0;
        for (dispatches, weight) in [(layers, weight), (output, 1.0)] {
            let part = Plan { name: name.clone(), columns, dispatches };
            let seconds = executor.seconds(&gpu, &part, TOKENS).await?;
            spent += seconds * f64::from(TOKENS);
            token += seconds * weight;
        }
        Ok(Some(token))
    };
    start.improve(gpu.invocations(), time).await
}

/// Whether a dispatch belongs to one of these parts of a token.
fn is_of(parts: &[&str], dispatch: &Dispatch) -> bool {
    parts.iter().any(|part| dispatch.label.split('.').take(2).eq(part.split('.')))
}

/// The device in the tier `matrix` if that is faster and its results are the same up to rounding, else as it is. Overwrites the
/// columns, activations, and the beginning of the first lane of the cache.
///
/// # Errors
/// Those of the executor.
pub(crate) async fn in_faster_tier(
    tuning: Tuning,
    executor: &mut GpuExecutor,
    (gguf, settings): (&Gguf, &Settings),
    (keep, model): (&Keep, &Model),
) -> Result<Gpu> {
    let usual = executor.gpu().clone();
    let (Ok(matrix), None) = (usual.clone().at(Tier::Matrix), settings.tier) else { return Ok(usual) };
    let (config, _, mut other) = lay_out(gguf, settings, tuning, binding_bytes(Some(&usual)))?;
    let chunk = other.plans.swap_remove(other.prefill.plan_for(other.prefill.most_columns()));
    let dispatches = chunk.dispatches.into_iter();
    let dispatches =
        dispatches.filter(|dispatch| dispatch.kernel.name == "embed" || is_of(&LAYERS, dispatch)).collect();
    let plan = Plan { dispatches, ..chunk };
    let differs = |dispatch: &Dispatch| dispatch.kernel.differs(dispatch.variant, matrix.tier());
    let Some(x) = model.buffers.find("x").filter(|_| plan.dispatches.iter().any(differs)) else { return Ok(usual) };
    let ring = KvRing::new(keep.sinks, keep.window, model.slack);
    let columns: Vec<Column> = (0..plan.columns).map(|n| ring.column(n, n * 7919 % config.vocab_size, 0)).collect();
    let header = ColumnsHeader { active: plan.columns, pad: [0; 3] };
    executor.write(model.columns, 0, &[bytemuck::bytes_of(&header), bytemuck::cast_slice(&columns)].concat())?;
    let mut run = async |gpu: &Gpu| {
        let seconds = executor.seconds(gpu, &plan, CHUNKS).await?;
        let mut values = vec![0.0_f32; model.buffers.spec(x).bytes as usize / 4];
        executor.read(x, 0, bytemuck::cast_slice_mut(&mut values)).await?;
        Ok((seconds, values))
    };
    let expected = run(&usual).await?;
    let found: Result<_> = run(&matrix).await; // what is experimental may fail
    Ok(if found.is_ok_and(|found| is_better(&found, &expected)) { matrix } else { usual })
}

/// Whether these results are as good as those expected, and in clearly fewer seconds.
fn is_better((seconds, found): &(f64, Vec<f32>), (usual, expected): &(f64, Vec<f32>)) -> bool {
    let off: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let whole: f64 = expected.iter().map(|value| f64::from(*value).powi(2)).sum();
    *seconds < 0.97 * usual && off <= MOST_OFF * MOST_OFF * whole // false where something is not a number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_faster_and_right_is_better() {
        let usual = (1.0, vec![1000.0, -0.5]);
        for (seconds, values, wanted) in [
            (0.5, [1000.0, -0.5], true),
            (0.5, [1001.0, -0.4], true),
            (0.98, [1000.0, -0.5], false),
            (0.5, [1000.0, 2.5], false),
            (0.5, [0.0, 0.0], false),
            (0.5, [1000.0, f32::NAN], false),
        ] {
            assert_eq!(is_better(&(seconds, values.to_vec()), &usual), wanted, "{seconds} s: {values:?}");
        }
        let broken = (1.0, vec![f32::INFINITY, 1.0]);
        assert!(!is_better(&(0.5, broken.1.clone()), &broken));
    }
}
