//! How much every head attends to the first token of the stream: Fig. 7 of `StreamingLLM` (arXiv 2309.17453), where most
//! heads of most layers rest on it.
//!
//! Exact, from the queries and keys that the model works with, on either executor: the prefill plan is cut behind every
//! layer's attention; after each piece the host reads the layer's queries and keys and takes softmax by the formula of
//! [`crate::kernels::attention`]. Far slower than a run, because all keys come back with every chunk.

use bytemuck::Pod;
use serde_json::{Value, json};

use crate::config::{Attention, Config, Keep};
use crate::engine::{Settings, lay_out};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::gguf::Gguf;
use crate::gpu::binding_bytes;
use crate::kernels::attention::{self, Params};
use crate::kernels::cache::CacheType;
use crate::kv_ring::KvRing;
use crate::model::Model;
use crate::plan::{BufferId, Column, ColumnsHeader, Dispatch, Plan};
use crate::platform::Plain;
use crate::source::Source;

/// One stream, and the attention on its first token so far.
#[derive(Debug)]
pub struct AttentionMap {
    config: Config,
    keep: Keep,
    model: Model,
    executor: Executor,
    cache: CacheType,
    ring: KvRing,
    /// The plan's pieces, each with what its attention works on.
    layers: Vec<Layer>,
    /// Queries before this one, by their number in the stream, do not count.
    first_query: u64,
}

/// What one layer's attention works on, and its sums.
#[derive(Debug)]
struct Layer {
    q: BufferId,
    k: BufferId,
    params: Params,
    /// `[n_heads]`.
    slopes: Vec<f32>,
    /// `[n_heads]`.
    sink_logits: Vec<f32>,
    /// `[n_heads]`: attention on the first token, added up over the queries that count.
    sums: Vec<f64>,
}

impl AttentionMap {
    /// Reads a model and brings it to the device, with an empty stream. Queries from number `first_query` on count.
    ///
    /// # Errors
    /// As [`crate::Engine::load`]; [`Error::Settings`] in recompute and infini mode.
    pub async fn load(mut source: Source, settings: &Settings, first_query: u64) -> Result<Self> {
        let gguf = Gguf::read(&mut source).await?;
        let gpu = settings.gpu().await?;
        let tuning = settings.tuning_on(gpu.as_ref());
        let (config, keep, mut model) = lay_out(&gguf, settings, tuning, binding_bytes(gpu.as_ref()))?;
        if matches!(keep.attention, Attention::Recompute | Attention::Infini) {
            let mode = keep.attention.name();
            return Err(Error::Settings(format!("--attention {mode} has no first token that stays: use another mode")));
        }
        let plan = &model.plans[model.prefill.plan_for(model.prefill.most_columns())];
        // What follows the last attention is not needed.
        let is_attention = |dispatch: &Dispatch| dispatch.kernel.name == attention::KERNEL.name;
        let pieces =
            plan.dispatches.split_inclusive(is_attention).filter(|piece| piece.last().is_some_and(is_attention));
        let piece = |dispatches: &[Dispatch]| Plan { dispatches: dispatches.to_vec(), ..plan.clone() };
        let pieces: Vec<Plan> = pieces.map(piece).collect();
        let attentions: Vec<Dispatch> = pieces.iter().filter_map(|piece| piece.dispatches.last().cloned()).collect();
        let mut executor = Executor::new(gpu, &model.buffers, pieces, settings.threads).await?;
        model.load(&config, &mut source, &mut executor, &mut |_| {}).await?;
        let mut layers = vec![];
        for Dispatch { params, buffers, .. } in attentions {
            let [_, q, k, _, slopes, sink_logits, _] = buffers[..] else { continue }; // as the kernel binds them
            layers.push(Layer {
                q,
                k,
                params: bytemuck::pod_read_unaligned(&params),
                slopes: read(&mut executor, slopes, config.n_heads as usize).await?,
                sink_logits: read(&mut executor, sink_logits, config.n_heads as usize).await?,
                sums: vec![0.0; config.n_heads as usize],
            });
        }
        let ring = KvRing::new(keep.sinks, keep.window, model.slack);
        Ok(Self { config, keep, model, executor, cache: settings.cache, ring, layers, first_query })
    }

    /// Goes on with these tokens.
    ///
    /// # Errors
    /// [`Error::Model`] for an id outside the vocabulary, [`Error::CacheFull`] in dense mode; those of the executor.
    pub async fn append(&mut self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(Error::Model(format!("token {id} in a vocabulary of {vocab_size}")));
        }
        let (window, tokens) = (u64::from(self.keep.window), self.ring.written() + ids.len() as u64);
        if self.keep.attention == Attention::Dense && tokens > window {
            return Err(Error::CacheFull(window));
        }
        for ids in ids.chunks(self.model.prefill.most_columns() as usize) {
            let columns: Vec<Column> = (0..).zip(ids).map(|(n, &token)| self.ring.column(n, token, 0)).collect();
            let header = ColumnsHeader { active: columns.len() as u32, pad: [0; 3] };
            let bytes = [bytemuck::bytes_of(&header), bytemuck::cast_slice(&columns)].concat();
            self.executor.write(self.model.columns, 0, &bytes)?;
            for (piece, layer) in self.layers.iter_mut().enumerate() {
                self.executor.run(piece, 1)?;
                let Params { n_heads, columns: of_plan, half, n_kv_heads, slots, .. } = layer.params;
                let q = read(&mut self.executor, layer.q, (4 * of_plan * n_heads * half) as usize).await?;
                let pairs = (n_kv_heads * slots * half) as usize;
                let words: Vec<u32> = read(&mut self.executor, layer.k, pairs * self.cache.words_per_pair()).await?;
                let mut keys = vec![0.0; 2 * pairs];
                self.cache.load(Plain::<8>, &words, 0, &mut keys);
                for ((number, c), column) in (self.ring.written()..).zip(0..).zip(&columns) {
                    let is_kept = column.sinks > 0 || u64::from(column.cached) == number;
                    if number >= self.first_query && is_kept && column.cached <= layer.params.reach {
                        layer.add(c, column, &q, &keys);
                    }
                }
            }
            self.ring.advance(columns.len() as u32);
        }
        Ok(())
    }

    /// Mean attention on the first token, `[layer][head]`: parts of 1. Not a number as long as no query counts.
    pub fn mean(&self) -> Vec<Vec<f64>> {
        let queries = self.ring.written().saturating_sub(self.first_query) as f64;
        self.layers.iter().map(|layer| layer.sums.iter().map(|sum| sum / queries).collect()).collect()
    }

    /// Model, executor, adapter and attention, for reports.
    pub fn info(&self) -> Value {
        json!({
            "model": self.config.name,
            "executor": self.executor.name(),
            "adapter": self.executor.adapter(),
            "attention": self.keep.attention.name(),
            "sinks": self.keep.sinks,
            "window": self.keep.window,
        })
    }
}

impl Layer {
    /// Adds what column number `c` attends to the first token. `q`: `[2][column][n_heads][head_dim]`, scaled and rotated for
    /// the window and for the sinks; `keys`: `[kv_head][slot][head_dim]`.
    fn add(&mut self, c: usize, column: &Column, q: &[f32], keys: &[f32]) {
        let Params { n_heads, n_kv_heads, half, slots, columns, cap, .. } = self.params;
        let cap = f64::from(cap);
        let (heads, head_dim, slots) = (n_heads as usize, 2 * half as usize, slots as usize);
        for head in 0..heads {
            let kv_head = head / (n_heads / n_kv_heads) as usize;
            let score = |n: usize| {
                let copy = usize::from(n < column.sinks as usize);
                let query = &q[((copy * columns as usize + c) * heads + head) * head_dim..][..head_dim];
                // The sinks in their slots, then the ring up to the column's own slot.
                let slot = if copy == 1 { n } else { column.slot_behind(column.cached as usize - n, slots) };
                let key = &keys[(kv_head * slots + slot) * head_dim..][..head_dim];
                let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let capped = if cap > 0.0 { cap * (product / cap).tanh() } else { product };
                capped - f64::from(self.slopes[head]) * (column.cached as usize - n) as f64
            };
            let scores: Vec<f64> = (0..=column.cached as usize).map(score).collect();
            let sink_logit = f64::from(self.sink_logits[head]);
            let highest = scores.iter().copied().fold(sink_logit, f64::max);
            let sum: f64 = scores.iter().chain([&sink_logit]).map(|score| (score - highest).exp()).sum();
            self.sums[head] += (scores[0] - highest).exp() / sum;
        }
    }
}

/// The first `count` values of a buffer.
async fn read<T: Pod>(executor: &mut Executor, buffer: BufferId, count: usize) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); count];
    executor.read(buffer, 0, bytemuck::cast_slice_mut(&mut values)).await?;
    Ok(values)
}
