//! The forward pass, written into plans. Reads like the block diagram of a transformer:
//!
//! ```text
//! x = embedding[token]
//! every layer:  q, k, v = rope(W · norm(x));  x += W_o · attention(q, K, V);  x += W_down · (silu(gate) ⊙ up)
//! logits = W_output · norm(x)        then the next token (decode) or its NLL (score)
//! ```
//!
//! [`crate::family`] says where a family differs: one more dispatch a layer for heads that are normed; with a compressive
//! memory, one that blends what it remembers into the attention's result. What a block adds and is normed first is left beside x
//! for the next one. A feed-forward side by side with the attention is begun before the attention's result is added.

mod cut;
mod dispatches;
mod memory;
mod parts;

pub(crate) use memory::gates;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::Shape;
use crate::plan::{BufferId, Buffers, Plan, Purpose};
use crate::quant::BLOCK;
use crate::tuning::Tuning;
use crate::weights::{Directory, Matrix, Wanted};

use cut::Cut;
use dispatches::Attended;

struct Layer {
    attn_norm: Norm,
    qkv: Vec<Matrix>,
    qkv_bias: Option<BufferId>,
    /// Gains of queries and of keys, if heads are normed.
    head_gains: Option<BufferId>,
    /// RoPE's turns per position in this layer.
    rope: BufferId,
    /// Most tokens that a query sees besides itself.
    reach: u32,
    /// Scores of no key, f32 for each head.
    sink_logits: BufferId,
    k: BufferId,
    v: BufferId,
    memory: Option<memory::Memory>,
    output: Linear,
    ffn_norm: Norm,
    /// Gates on top of the inner layer, or the inner layer alone.
    up: Linear,
    down: Linear,
}

/// A matrix and its bias, if it has one.
struct Linear {
    matrix: Matrix,
    bias: Option<BufferId>,
}

/// A norm of x in front of a block.
#[derive(Clone, Copy)]
struct Norm {
    /// Its gain; behind it the biases of a layer norm, or the gain for what the block before added.
    gain: BufferId,
    /// Floats from x to what the block before added and is yet to be normed; 0 if there is nothing.
    added: u32,
}

/// Everything that the dispatches of a plan refer to.
pub(crate) struct Forward<'a> {
    config: &'a Config,
    shape: &'a Shape,
    slots: u32,
    given: Given,
    embedding: Vec<Matrix>,
    layers: Vec<Layer>,
    output_norm: Norm,
    output: Vec<Matrix>,
    output_bias: Option<BufferId>,
    /// The residual stream; where what blocks add is normed first, what the attention left and what the feed-forward left follow.
    x: BufferId,
    pub(crate) q: BufferId,
    attended: BufferId,
    /// What attention over parts of the cache leaves for `project` to put together.
    parts: BufferId,
    h: BufferId,
    /// Queries, keys and values before `head_norm`.
    raw: BufferId,
    /// Bound where a kernel has nothing to read.
    none: BufferId,
    pub(crate) logits: BufferId,
}

/// Buffers that the host writes.
#[derive(Clone, Copy)]
pub(crate) struct Given {
    /// The columns of the next step.
    pub(crate) columns: BufferId,
    /// RoPE's turns per position.
    pub(crate) rope: BufferId,
    /// The same in layers with a window of their own.
    pub(crate) local_rope: BufferId,
    /// What a score loses per token of distance, f32 for each head.
    pub(crate) slopes: BufferId,
    /// Scores of no key in models that have not learned any, f32 for each head.
    pub(crate) sink_logits: BufferId,
}

/// What `sample` works with besides the logits.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    /// How to choose, column by column.
    pub(crate) settings: BufferId,
    /// Recent tokens, lane by lane.
    pub(crate) recent: BufferId,
    /// Tokens chosen, lane by lane.
    pub(crate) ids: BufferId,
    /// Their log-probabilities.
    pub(crate) logprobs: BufferId,
}

/// Where weights are found and placed.
struct Weights<'a> {
    config: &'a Config,
    gguf: &'a Gguf,
    directory: &'a mut Directory,
    buffers: &'a mut Buffers,
}

impl Weights<'_> {
    /// A norm of x with what the block before left, if any, `added` floats behind x; `post_norm`: the norm of that.
    fn norm(&mut self, name: &str, (post_norm, added): (&str, u32)) -> Result<Norm> {
        let (dim, family) = (self.config.dim, self.config.family);
        let mut gains = vec![(format!("{name}.weight"), dim)];
        gains.extend((added > 0).then(|| (format!("{post_norm}.weight"), dim)));
        for (gain, _) in &gains {
            self.directory.require(self.gguf, gain)?;
        }
        gains.extend(family.layer_norm.then(|| (format!("{name}.bias"), dim)));
        let gain = self.directory.vectors(self.gguf, self.buffers, &gains, BLOCK)?;
        Ok(Norm { gain, added })
    }

    /// The biases of tensors on top of each other, if the file has some.
    fn bias(&mut self, parts: &[Wanted]) -> Result<Option<BufferId>> {
        let wanted: Vec<(String, u32)> =
            parts.iter().map(|part| (part.name.replace(".weight", ".bias"), part.rows)).collect();
        for (name, _) in &wanted {
            if self.config.family.biased.iter().any(|tensor| name.ends_with(&format!(".{tensor}.bias"))) {
                self.directory.require(self.gguf, name)?;
            }
        }
        if !wanted.iter().any(|(name, _)| self.gguf.tensor(name).is_some()) {
            return Ok(None);
        }
        self.directory.vectors(self.gguf, self.buffers, &wanted, 1).map(Some)
    }

    /// The learned sink logits of layer `n`; a model has them in all layers or in none.
    fn sink_logits(&mut self, n: u32, given: Given) -> Result<BufferId> {
        let name = |n: u32| format!("blk.{n}.attn_sinks.weight");
        match self.gguf.tensor(&name(0)) {
            Some(_) => self.directory.vector(self.gguf, self.buffers, name(n), self.config.n_heads),
            None => Ok(given.sink_logits),
        }
    }

    /// Tensors on top of each other with their biases.
    fn linear(&mut self, parts: &[Wanted]) -> Result<Linear> {
        Ok(Linear { matrix: self.directory.matrix(self.gguf, self.buffers, parts)?, bias: self.bias(parts)? })
    }
}

impl<'a> Forward<'a> {
    /// Places the weights, the cache of `slots` slots a lane and the activations: columns enough for a chunk and for all
    /// streams, and logits of `logit_columns`.
    pub(crate) fn new(
        config: &'a Config,
        shape: &'a Shape,
        given: Given,
        (slots, logit_columns): (u32, u32),
        gguf: &Gguf,
        directory: &mut Directory,
        buffers: &mut Buffers,
    ) -> Result<Self> {
        let (dim, vocab_size) = (config.dim, config.vocab_size);
        let mut weights = Weights { config, gguf, directory, buffers };
        let of_embedding = wanted("token_embd", vocab_size, dim);
        let embedding = weights.directory.parts(gguf, weights.buffers, &of_embedding, shape.binding_bytes)?;
        let layers = (0..config.n_layers)
            .map(|n| Layer::new(n, config, shape, slots, given, &mut weights))
            .collect::<Result<Vec<_>>>()?;
        let post_norm = format!("blk.{}.post_ffw_norm", config.n_layers - 1);
        let output_norm = weights.norm("output_norm", (&post_norm, left_at(config, shape, 2)))?;
        let of_output = wanted("output", vocab_size, dim);
        let output = match gguf.tensor("output.weight") {
            Some(_) => weights.directory.parts(gguf, weights.buffers, &of_output, shape.binding_bytes)?,
            None => embedding.clone(),
        };
        let output_bias = weights.bias(&[of_output])?;
        let q_size = config.n_heads * config.head_dim;
        let raw_keys = if shape.memory(config).is_some() { config.n_kv_heads * config.head_dim } else { 0 };
        let qkv_size = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim;
        // The same for every tuning, so that plans of one run on the buffers of another.
        let most_split = Shape { tuning: Tuning { workgroups: u32::MAX, ..Tuning::GPU }, ..*shape };
        let columns = most_columns(shape);
        let parts = (1..=columns.min(8)).map(|columns| {
            columns * Cut::new(config, &most_split, columns, u32::MAX, false).splits.next_multiple_of(4)
        });
        let parts = parts.max().unwrap_or(1);
        let mut floats = |name: &str, width: u32, columns: u32| {
            buffers.add(name, 4 * u64::from(padded(width)) * u64::from(columns), Purpose::Work)
        };
        let if_any = |needed: bool| if needed { columns } else { 0 };
        Ok(Self {
            config,
            shape,
            slots,
            given,
            embedding,
            layers,
            output_norm,
            output,
            output_bias,
            x: floats("x", dim, if config.family.post_norms { 3 * columns } else { columns }),
            q: floats("q", 2 * q_size + raw_keys, columns),
            attended: floats("attended", q_size, columns),
            parts: floats("parts", padded(q_size) + 2 * config.n_heads, parts),
            h: floats("h", config.ffn_dim, columns),
            raw: floats("raw", qkv_size, if_any(config.family.head_norms)),
            none: floats("none", 1, 1),
            logits: floats("logits", vocab_size, logit_columns),
        })
    }

    /// One forward pass over up to `columns` tokens, and what `end` adds to it.
    pub(crate) fn plan(&self, name: &str, columns: u32, end: impl Fn(&mut Plan)) -> Result<Plan> {
        let mut plan = Plan { name: format!("{name} {columns}"), columns, dispatches: vec![] };
        self.embed(&mut plan);
        for (n, layer) in self.layers.iter().enumerate() {
            let label = format!("blk.{n}");
            let (attn_output, ffn_down) = (format!("{label}.attn_output"), format!("{label}.ffn_down"));
            self.qkv(&mut plan, &label, layer);
            if self.config.is_parallel {
                self.up(&mut plan, &label, layer); // before x changes
            }
            let attended = self.attention(&mut plan, &label, layer, name != "decode");
            self.memory_read(&mut plan, &label, layer);
            self.project(&mut plan, &attn_output, attended, &layer.output, (layer.attn_norm, 1));
            if !self.config.is_parallel {
                self.up(&mut plan, &label, layer);
            }
            let inner = Attended { buffer: self.h, splits: 1 };
            self.project(&mut plan, &ffn_down, inner, &layer.down, (layer.ffn_norm, 2));
        }
        end(&mut plan);
        let most = plan.dispatches.iter().flat_map(|dispatch| dispatch.workgroups).max();
        match most.filter(|&most| most > 65_535) {
            Some(most) => Err(Error::DoesNotFit(format!("{most} workgroups in one dimension; a device takes 65535"))),
            None => Ok(plan),
        }
    }
}

fn wanted(name: &str, rows: u32, cols: u32) -> Wanted {
    Wanted { name: format!("{name}.weight"), rows, cols }
}

/// Columns that there are buffers for.
fn most_columns(shape: &Shape) -> u32 {
    shape.chunk.max(shape.streams)
}

/// Floats from x to what block `number` of a layer leaves: 1, its attention, or 2, its feed-forward; 0 where x takes it at once.
fn left_at(config: &Config, shape: &Shape, number: u32) -> u32 {
    if config.family.post_norms { number * padded(config.dim) * most_columns(shape) } else { 0 }
}

/// Floats of one column of activations: whole blocks.
pub(crate) fn padded(width: u32) -> u32 {
    width.next_multiple_of(BLOCK as u32)
}

impl Layer {
    fn new(
        n: u32,
        config: &Config,
        shape: &Shape,
        slots: u32,
        given: Given,
        weights: &mut Weights<'_>,
    ) -> Result<Self> {
        let (family, head_dim) = (config.family, config.head_dim);
        let name = |tensor: &str| format!("blk.{n}.{tensor}");
        let part = |tensor: &str, rows: u32, cols: u32| wanted(&name(tensor), rows, cols);
        let (dim, ffn_dim) = (config.dim, config.ffn_dim);
        let (q_rows, kv_rows) = (config.n_heads * head_dim, config.n_kv_heads * head_dim);
        let qkv = match family.fused_qkv {
            true => vec![part("attn_qkv", q_rows + 2 * kv_rows, dim)],
            false => vec![part("attn_q", q_rows, dim), part("attn_k", kv_rows, dim), part("attn_v", kv_rows, dim)],
        };
        let up = match (family.gated, family.fused_gate_up) {
            (true, true) => vec![part("ffn_up", 2 * ffn_dim, dim)],
            (true, false) => vec![part("ffn_gate", ffn_dim, dim), part("ffn_up", ffn_dim, dim)],
            (false, _) => vec![part("ffn_up", ffn_dim, dim)],
        };
        // Falcon's newer layout names the norm of the feed-forward `attn_norm` and that of the attention `attn_norm_2`.
        let has_second = family.shared_norm && weights.gguf.tensor(&name("attn_norm_2.weight")).is_some();
        let post_norms = [format!("blk.{}.post_ffw_norm", n.wrapping_sub(1)), name("post_attention_norm")];
        let added = [if n == 0 { 0 } else { left_at(config, shape, 2) }, left_at(config, shape, 1)];
        let [of_attn, of_ffn] = [0, 1].map(|block| (&*post_norms[block], added[block]));
        let attn_norm = weights.norm(&name(if has_second { "attn_norm_2" } else { "attn_norm" }), of_attn)?;
        let ffn_norm = match (family.shared_norm, has_second) {
            (false, _) => weights.norm(&name("ffn_norm"), of_ffn)?,
            (true, true) => weights.norm(&name("attn_norm"), of_ffn)?,
            (true, false) => attn_norm,
        };
        let head_gains = match family.head_norms {
            true => {
                let gains = [name("attn_q_norm.weight"), name("attn_k_norm.weight")];
                for gain in &gains {
                    weights.directory.require(weights.gguf, gain)?;
                }
                let gains = gains.map(|gain| (gain, head_dim));
                Some(weights.directory.vectors(weights.gguf, weights.buffers, &gains, BLOCK)?)
            }
            false => None,
        };
        let cache_words = u64::from(config.n_kv_heads)
            * u64::from(slots)
            * u64::from(head_dim / 2)
            * shape.cache.words_per_pair() as u64;
        let memory = match shape.memory(config) {
            Some(infini) => Some(memory::Memory::new(n, config, infini, (4 * cache_words, shape.streams), weights)?),
            None => None,
        };
        let local = config.local(n);
        Ok(Self {
            attn_norm,
            qkv: weights.directory.stack(weights.gguf, weights.buffers, &qkv)?,
            qkv_bias: weights.bias(&qkv)?,
            head_gains,
            rope: if local.is_some() { given.local_rope } else { given.rope },
            reach: local.map_or(u32::MAX, |local| local.reach),
            sink_logits: weights.sink_logits(n, given)?,
            k: weights.buffers.add_lanes(name("k"), Purpose::Cache, 4 * cache_words, shape.streams),
            v: weights.buffers.add_lanes(name("v"), Purpose::Cache, 4 * cache_words, shape.streams),
            memory,
            output: weights.linear(&[part("attn_output", dim, q_rows)])?,
            ffn_norm,
            up: weights.linear(&up)?,
            down: weights.linear(&[part("ffn_down", dim, ffn_dim)])?,
        })
    }
}
