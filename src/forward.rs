//! The forward pass, written into plans. Reads like the block diagram of a transformer:
//!
//! ```text
//! x = embedding[token]
//! every layer:  q, k, v = rope(W · norm(x));  x += W_o · attention(q, K, V);  x += W_down · (silu(gate) ⊙ up)
//! logits = W_output · norm(x)        then the next token (decode) or its NLL (score)
//! ```

use bytemuck::{Pod, bytes_of};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{Kernel, WORKGROUP};
use crate::kernels::cache::CacheType;
use crate::kernels::{attention, embed, gate_up, logits, nll, project, qkv, sample};
use crate::model::Shape;
use crate::plan::{BufferId, Buffers, Dispatch, Plan, Purpose};
use crate::quant::BLOCK;
use crate::weights::{Directory, Matrix, Wanted};

struct Layer {
    attn_norm: BufferId,
    qkv: Vec<Matrix>,
    k: BufferId,
    v: BufferId,
    output: Matrix,
    ffn_norm: BufferId,
    gate_up: Matrix,
    down: Matrix,
}

/// Everything that the dispatches of a plan refer to.
pub(crate) struct Forward<'a> {
    config: &'a Config,
    shape: &'a Shape,
    slots: u32,
    columns: BufferId,
    rope: BufferId,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: BufferId,
    output: Matrix,
    x: BufferId,
    q: BufferId,
    attended: BufferId,
    h: BufferId,
    pub(crate) logits: BufferId,
}

impl<'a> Forward<'a> {
    /// Places the weights, the cache of `slots` slots and the activations: `shape.chunk` columns of them, and logits
    /// of `logit_columns`.
    pub(crate) fn new(
        config: &'a Config,
        shape: &'a Shape,
        (columns, rope): (BufferId, BufferId),
        (slots, logit_columns): (u32, u32),
        gguf: &Gguf,
        directory: &mut Directory,
        buffers: &mut Buffers,
    ) -> Result<Self> {
        let (dim, vocab_size) = (config.dim, config.vocab_size);
        let embedding = directory.matrix(gguf, buffers, &[wanted("token_embd", vocab_size, dim)])?;
        let layers = (0..config.n_layers)
            .map(|n| Layer::new(n, config, gguf, shape, slots, directory, buffers))
            .collect::<Result<Vec<_>>>()?;
        let output_norm = directory.vector(gguf, buffers, "output_norm.weight".into(), dim)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => directory.matrix(gguf, buffers, &[wanted("output", vocab_size, dim)])?,
            None => embedding,
        };
        let q_size = config.n_heads * config.head_dim;
        let mut floats = |name: &str, width: u32, columns: u32| {
            buffers.add(name, 4 * u64::from(padded(width)) * u64::from(columns), Purpose::Work)
        };
        Ok(Self {
            config,
            shape,
            slots,
            columns,
            rope,
            embedding,
            layers,
            output_norm,
            output,
            x: floats("x", dim, shape.chunk),
            q: floats("q", 2 * q_size, shape.chunk),
            attended: floats("attended", q_size, shape.chunk),
            h: floats("h", config.ffn_dim, shape.chunk),
            logits: floats("logits", vocab_size, logit_columns),
        })
    }
}

fn wanted(name: &str, rows: u32, cols: u32) -> Wanted {
    Wanted { name: format!("{name}.weight"), rows, cols }
}

/// Floats of one column of activations: whole blocks.
pub(crate) fn padded(width: u32) -> u32 {
    width.next_multiple_of(BLOCK as u32)
}

impl Layer {
    fn new(
        n: u32,
        config: &Config,
        gguf: &Gguf,
        shape: &Shape,
        slots: u32,
        directory: &mut Directory,
        buffers: &mut Buffers,
    ) -> Result<Self> {
        let name = |tensor: &str| format!("blk.{n}.{tensor}");
        let (dim, ffn_dim) = (config.dim, config.ffn_dim);
        let (q_rows, kv_rows) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let qkv = [
            wanted(&name("attn_q"), q_rows, dim),
            wanted(&name("attn_k"), kv_rows, dim),
            wanted(&name("attn_v"), kv_rows, dim),
        ];
        let cache_words = u64::from(config.n_kv_heads)
            * u64::from(slots)
            * u64::from(config.head_dim / 2)
            * shape.cache.words_per_pair() as u64;
        Ok(Self {
            attn_norm: directory.vector(gguf, buffers, name("attn_norm.weight"), dim)?,
            qkv: directory.stack(gguf, buffers, &qkv)?,
            k: buffers.add(name("k"), 4 * cache_words, Purpose::Cache),
            v: buffers.add(name("v"), 4 * cache_words, Purpose::Cache),
            output: directory.matrix(gguf, buffers, &[wanted(&name("attn_output"), dim, q_rows)])?,
            ffn_norm: directory.vector(gguf, buffers, name("ffn_norm.weight"), dim)?,
            gate_up: directory.matrix(
                gguf,
                buffers,
                &[wanted(&name("ffn_gate"), ffn_dim, dim), wanted(&name("ffn_up"), ffn_dim, dim)],
            )?,
            down: directory.matrix(gguf, buffers, &[wanted(&name("ffn_down"), dim, ffn_dim)])?,
        })
    }
}

impl Forward<'_> {
    /// One forward pass over up to `columns` tokens, and what `end` adds to it.
    pub(crate) fn plan(&self, name: &str, columns: u32, end: impl Fn(&mut Plan)) -> Result<Plan> {
        let mut plan = Plan { name: format!("{name} {columns}"), columns, dispatches: vec![] };
        self.embed(&mut plan);
        for (n, layer) in self.layers.iter().enumerate() {
            let label = format!("blk.{n}");
            self.qkv(&mut plan, &label, layer);
            self.attention(&mut plan, &label, layer);
            self.project(&mut plan, &format!("{label}.attn_output"), self.attended, &layer.output);
            self.gate_up(&mut plan, &label, layer);
            self.project(&mut plan, &format!("{label}.ffn_down"), self.h, &layer.down);
        }
        end(&mut plan);
        let most = plan.dispatches.iter().flat_map(|dispatch| dispatch.workgroups).max();
        match most.filter(|&most| most > 65_535) {
            Some(most) => Err(Error::DoesNotFit(format!("{most} workgroups in one dimension; a device takes 65535"))),
            None => Ok(plan),
        }
    }

    fn embed(&self, plan: &mut Plan) {
        let params = embed::Params {
            blocks: self.embedding.blocks,
            stride: padded(self.config.dim),
            vocab_size: self.config.vocab_size,
        };
        let buffers = [self.columns, self.embedding.quants, self.embedding.scales, self.x];
        let workgroups = [self.embedding.blocks.div_ceil(WORKGROUP), plan.columns, 1];
        push(
            plan,
            &embed::KERNEL,
            "token_embd",
            &params,
            &buffers,
            &[("LAYOUT", self.embedding.layout as u32)],
            workgroups,
        );
    }

    fn qkv(&self, plan: &mut Plan, label: &str, layer: &Layer) {
        let config = self.config;
        let mut first_pair = 0;
        for matrix in &layer.qkv {
            let params = qkv::Params {
                n_heads: config.n_heads,
                n_kv_heads: config.n_kv_heads,
                head_dim: config.head_dim,
                rotary_dim: config.rotary_dim,
                halves: u32::from(config.halves),
                first_pair,
                pairs: matrix.rows / 2,
                blocks: matrix.blocks,
                stride: padded(config.dim),
                dim: config.dim,
                eps: config.eps,
                scale: 1.0 / (config.head_dim as f32).sqrt(),
                slots: self.slots,
                columns: plan.columns,
            };
            first_pair += params.pairs;
            let buffers = [
                self.columns,
                self.rope,
                self.x,
                layer.attn_norm,
                matrix.quants,
                matrix.scales,
                self.q,
                layer.k,
                layer.v,
            ];
            self.push_matrix(plan, &qkv::KERNEL, label, &params, &buffers, matrix, params.pairs);
        }
    }

    fn attention(&self, plan: &mut Plan, label: &str, layer: &Layer) {
        let (config, half) = (self.config, self.config.head_dim / 2);
        let group = config.n_heads / config.n_kv_heads;
        let fits = |heads: &u32| group.is_multiple_of(*heads) && heads * half <= attention::MAX_ITEMS;
        let heads = (1..=attention::MAX_HEADS).rev().find(fits).unwrap_or(1);
        let params = attention::Params {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            heads,
            half,
            slots: self.slots,
            columns: plan.columns,
            stride: padded(config.n_heads * config.head_dim),
        };
        let buffers = [self.columns, self.q, layer.k, layer.v, self.attended];
        let workgroups = [config.n_heads / heads, plan.columns, 1];
        push(plan, &attention::KERNEL, label, &params, &buffers, &[self.cache_override()], workgroups);
    }

    fn project(&self, plan: &mut Plan, label: &str, input: BufferId, matrix: &Matrix) {
        let params = project::Params {
            rows: matrix.rows,
            blocks: matrix.blocks,
            in_stride: matrix.blocks * BLOCK as u32,
            out_stride: padded(self.config.dim),
        };
        let buffers = [self.columns, input, matrix.quants, matrix.scales, self.x];
        self.push_matrix(plan, &project::KERNEL, label, &params, &buffers, matrix, matrix.rows.div_ceil(2));
    }

    fn gate_up(&self, plan: &mut Plan, label: &str, layer: &Layer) {
        let (config, matrix) = (self.config, &layer.gate_up);
        let params = gate_up::Params {
            ffn_dim: config.ffn_dim,
            blocks: matrix.blocks,
            in_stride: padded(config.dim),
            out_stride: padded(config.ffn_dim),
            dim: config.dim,
            eps: config.eps,
        };
        let buffers = [self.columns, self.x, layer.ffn_norm, matrix.quants, matrix.scales, self.h];
        self.push_matrix(plan, &gate_up::KERNEL, label, &params, &buffers, matrix, config.ffn_dim);
    }

    fn logits(&self, plan: &mut Plan) {
        let (config, matrix) = (self.config, &self.output);
        let params = logits::Params {
            vocab_size: config.vocab_size,
            blocks: matrix.blocks,
            in_stride: padded(config.dim),
            out_stride: padded(config.vocab_size),
            dim: config.dim,
            eps: config.eps,
        };
        let buffers = [self.columns, self.x, self.output_norm, matrix.quants, matrix.scales, self.logits];
        self.push_matrix(plan, &logits::KERNEL, "output", &params, &buffers, matrix, matrix.rows.div_ceil(2));
    }

    pub(crate) fn score(&self, plan: &mut Plan, nll: BufferId) {
        self.logits(plan);
        let params = nll::Params { vocab_size: self.config.vocab_size, stride: padded(self.config.vocab_size) };
        let workgroups = [1, plan.columns, 1];
        push(plan, &nll::KERNEL, "score", &params, &[self.columns, self.logits, nll], &[], workgroups);
    }

    pub(crate) fn sample(&self, plan: &mut Plan, settings: BufferId, recent: BufferId, ids: BufferId) {
        self.logits(plan);
        let params = sample::Params {
            vocab_size: self.config.vocab_size,
            stride: padded(self.config.vocab_size),
            slots: self.slots,
        };
        let buffers = [settings, self.columns, self.logits, recent, ids];
        push(plan, &sample::KERNEL, "sample", &params, &buffers, &[], [1, 1, 1]);
    }

    fn cache_override(&self) -> (&'static str, u32) {
        ("CACHE_F32", u32::from(self.shape.cache == CacheType::F32))
    }

    /// A dispatch over the row pairs of a matrix.
    #[allow(clippy::too_many_arguments, reason = "what makes a dispatch")]
    fn push_matrix<P: Pod>(
        &self,
        plan: &mut Plan,
        kernel: &'static Kernel,
        label: &str,
        params: &P,
        buffers: &[BufferId],
        matrix: &Matrix,
        pairs: u32,
    ) {
        let columns = plan.columns.min(8);
        let mut overrides = vec![("LAYOUT", matrix.layout as u32), ("LANES", self.shape.lanes), ("COLUMNS", columns)];
        if kernel.name == "qkv" {
            overrides.push(self.cache_override());
        }
        let tiles = pairs.div_ceil(WORKGROUP / self.shape.lanes);
        let across = tiles.min(1 << 15); // beyond a device's 65,535 workgroups the tiles go on in z
        let workgroups = [across, plan.columns.div_ceil(columns), tiles.div_ceil(across)];
        push(plan, kernel, label, params, buffers, &overrides, workgroups);
    }
}

fn push<P: Pod>(
    plan: &mut Plan,
    kernel: &'static Kernel,
    label: &str,
    params: &P,
    buffers: &[BufferId],
    overrides: &[(&'static str, u32)],
    workgroups: [u32; 3],
) {
    plan.dispatches.push(Dispatch {
        kernel,
        label: label.into(),
        params: bytes_of(params).to_vec(),
        buffers: buffers.to_vec(),
        overrides: overrides.to_vec(),
        workgroups,
    });
}
