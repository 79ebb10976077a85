//! Times tunings on the device itself: two layers and the output of one token, at a full cache; the two layers count for all. And
//! tiers: two layers of a chunk.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::config::{Config, Keep};
use crate::engine::{Settings, lay_out};
use crate::error::{Error, Result};
use crate::executor::gpu::GpuExecutor;
use crate::gguf::Gguf;
use crate::gpu::{Gpu, binding_bytes};
use crate::kernel::Tier;
use crate::kernels::ALL;
use crate::kv_ring::KvRing;
use crate::model::Model;
use crate::plan::{BufferId, Column, ColumnsHeader, Dispatch, Plan, Purpose};
use crate::tuning::Tuning;

/// Tokens that are timed together.
const TOKENS: u32 = 16;
/// The layers that are timed: in some models every other one has a window of its own.
const LAYERS: [&str; 2] = ["blk.0", "blk.1"];
const OUTPUT: &str = "output";
/// What makes the residual stream that results are compared by.
const STREAM: [&str; 3] = ["token_embd", LAYERS[0], LAYERS[1]];
/// Tokens of a chunk are multiples of it, all different; one token is this.
const SOME_TOKEN: u32 = 7919;
/// Chunks that are timed together.
const CHUNKS: u32 = 4;
/// What the tier `matrix` or integers may be off to be used, root mean square, as a part of the residual stream's. Twice the most of five
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

/// The fastest tuning that is found from `start` on, and whether all were tried before so many seconds were measured. Overwrites
/// the columns, activations and, in the cache, the slot behind the last.
///
/// # Errors
/// Those of the executor, where it is not a tuning that the device refuses.
pub(crate) async fn measure(
    (start, most_seconds): (Tuning, f64),
    executor: &mut GpuExecutor,
    (gguf, settings): (&Gguf, &Settings),
    (keep, model): (&Keep, &Model),
) -> Result<(Tuning, bool)> {
    let mut spent = 0.0; // without what compilation takes: no search would come to its end on a slow driver
    let full = keep.sinks + keep.window;
    let gpu = executor.gpu().clone();
    let decode = |tuning| {
        let (config, _, mut laid_out) = lay_out(gguf, settings, tuning, binding_bytes(Some(&gpu)))?;
        Ok((config, laid_out.plans.swap_remove(laid_out.decode.plan_for(1))))
    };
    let (config, usual) = decode(start)?;
    let token = SOME_TOKEN % config.vocab_size;
    let column = Column {
        token,
        position: full,
        slot: full,
        cached: full,
        sinks: keep.sinks,
        capacity: full,
        ..Column::default()
    };
    let header = ColumnsHeader { active: 1, pad: [0; 3] };
    executor.write(model.columns, 0, &[bytemuck::bytes_of(&header), bytemuck::bytes_of(&column)].concat())?;
    let weight = f64::from(config.n_layers) / f64::from(config.n_layers.min(LAYERS.len() as u32));
    let time = async |tuning: Tuning| {
        if spent > most_seconds {
            return Ok(None);
        }
        let (_, plan) = decode(tuning)?;
        let mut token = 0.0;
        for (parts, weight) in [(&LAYERS[..], weight), (&[OUTPUT], 1.0)] {
            match executor.seconds(&gpu, &part_of(&plan, parts), TOKENS).await {
                Ok(seconds) => {
                    spent += seconds * f64::from(TOKENS);
                    token += seconds * weight;
                }
                Err(lost @ Error::DeviceLost(_)) => return Err(lost),
                Err(_) => return Ok(Some(f64::INFINITY)), // refused
            }
        }
        Ok(Some(token))
    };
    let (best, is_whole) = start.improve(gpu.invocations(), time).await?;
    if let (1.., Some(x)) = (best.invocations, stream(model)) {
        let (_, expected) = run(executor, &gpu, &part_of(&usual, &STREAM), x).await?;
        let (_, found) = run(executor, &gpu, &part_of(&decode(best)?.1, &STREAM), x).await?;
        if !is_right(&found, &expected) {
            return Ok((Tuning { invocations: 0, ..best }, is_whole));
        }
    }
    Ok((best, is_whole))
}

/// These parts of a plan.
fn part_of(plan: &Plan, parts: &[&str]) -> Plan {
    let is_of = |label: &str| parts.iter().any(|part| label.split('.').take(2).eq(part.split('.')));
    let dispatches = plan.dispatches.iter().filter(|dispatch| is_of(&dispatch.label)).cloned().collect();
    Plan { name: plan.name.clone(), columns: plan.columns, dispatches }
}

/// The residual stream and its bytes.
fn stream(model: &Model) -> Option<(BufferId, u64)> {
    let x = model.buffers.find("x")?;
    Some((x, model.buffers.spec(x).bytes))
}

/// Seconds that a plan takes, and the residual stream that it makes.
async fn run(executor: &mut GpuExecutor, gpu: &Gpu, plan: &Plan, x: (BufferId, u64)) -> Result<(f64, Vec<f32>)> {
    let seconds = executor.seconds(gpu, plan, CHUNKS).await?;
    let mut values = vec![0.0_f32; x.1 as usize / 4];
    executor.read(x.0, 0, bytemuck::cast_slice_mut(&mut values)).await?;
    Ok((seconds, values))
}

/// Whether results are those expected, up to rounding.
fn is_right(found: &[f32], expected: &[f32]) -> bool {
    let off: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let whole: f64 = expected.iter().map(|value| f64::from(*value).powi(2)).sum();
    off <= MOST_OFF * MOST_OFF * whole // false where something is not a number
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
    let plan = part_of(&chunk, &STREAM);
    let differs = |dispatch: &Dispatch| dispatch.kernel.differs(dispatch.variant, matrix.tier());
    let Some(x) = stream(model).filter(|_| plan.dispatches.iter().any(differs)) else { return Ok(usual) };
    let ring = KvRing::new(keep.sinks, keep.window, model.slack);
    let column = |n| ring.column(n, n * SOME_TOKEN % config.vocab_size, 0);
    let columns: Vec<Column> = (0..plan.columns).map(column).collect();
    let header = ColumnsHeader { active: plan.columns, pad: [0; 3] };
    executor.write(model.columns, 0, &[bytemuck::bytes_of(&header), bytemuck::cast_slice(&columns)].concat())?;
    let expected = run(executor, &usual, &plan, x).await?;
    let found: Result<_> = run(executor, &matrix, &plan, x).await; // what is experimental may fail
    Ok(if found.is_ok_and(|found| is_better(&found, &expected)) { matrix } else { usual })
}

/// Whether these results are right, and came in clearly fewer seconds.
fn is_better((seconds, found): &(f64, Vec<f32>), (usual, expected): &(f64, Vec<f32>)) -> bool {
    *seconds < 0.97 * usual && is_right(found, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_right_up_to_rounding_is_taken() {
        let expected = [1000.0, -0.5];
        for (values, wanted) in [
            ([1000.0, -0.5], true),
            ([1001.0, -0.4], true),
            ([1000.0, 2.5], false),
            ([0.0, 0.0], false),
            ([1000.0, f32::NAN], false),
        ] {
            assert_eq!(is_right(&values, &expected), wanted, "{values:?}");
        }
        assert!(!is_right(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]));
    }

    #[test]
    fn only_what_is_faster_and_right_is_better() {
        let usual = (1.0, vec![1000.0]);
        for (seconds, value, wanted) in [(0.5, 1000.0, true), (0.98, 1000.0, false), (0.5, 900.0, false)] {
            assert_eq!(is_better(&(seconds, vec![value]), &usual), wanted, "{seconds} s: {value}");
        }
    }
}
