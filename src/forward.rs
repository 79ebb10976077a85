//! The forward pass, written into plans. Reads like the block diagram of a transformer:
//!
//! ```text
//! x = embedding[token]
//! every layer:  q, k, v = rope(W · norm(x));  x += W_o · attention(q, K, V);  x += W_down · (silu(gate) ⊙ up)
//! logits = W_output · norm(x)        then the next token (decode) or its NLL (score)
//! ```

use std::fmt::Write;

use bytemuck::{Pod, bytes_of};

use crate::config::{Config, Keep};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{Kernel, WORKGROUP};
use crate::kernels::cache::CacheType;
use crate::kernels::{attention, embed, gate_up, logits, nll, project, qkv, sample};
use crate::kv_ring::KvRing;
use crate::plan::{BufferId, Buffers, Column, ColumnsHeader, Dispatch, MAX_COLUMNS, Plan, Purpose};
use crate::quant::BLOCK;
use crate::weights::{Directory, Matrix, Wanted};

/// Bytes of logits of one chunk that are scored at once: the binding limit of a default WebGPU device.
const MAX_LOGITS_BYTES: u64 = 128 << 20;

/// The tensor of Llama 3's frequency factors.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What the plans are made for, besides the model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What a stream keeps.
    pub keep: Keep,
    /// Most tokens of one prefill step.
    pub chunk: u32,
    /// Number type of the cache.
    pub cache: CacheType,
    /// Plans that score every token of a chunk are wanted too.
    pub scores: bool,
    /// Invocations that share one row pair: 1 on software adapters, where barriers cost most, else 16.
    pub lanes: u32,
}

/// A model laid out: its buffers, its plans, and where the host writes and reads.
#[derive(Debug)]
pub struct Model {
    /// All buffers.
    pub buffers: Buffers,
    /// All plans.
    pub plans: Vec<Plan>,
    /// Which tensor goes where.
    pub directory: Directory,
    /// Slots behind the window: what may be written ahead or taken back.
    pub slack: u32,
    /// One token, then sampling: index into `plans`.
    pub decode: usize,
    /// Chunks without logits.
    pub prefill: Series,
    /// Chunks with the NLL of every target; empty unless asked for.
    pub score: Series,
    /// The columns of the next step.
    pub columns: BufferId,
    /// RoPE's turns per position, one u32 for each pair.
    pub rope: BufferId,
    /// Divisors of RoPE's frequencies, f32, if the model has some.
    pub rope_factors: Option<BufferId>,
    /// [`sample::Settings`].
    pub settings: BufferId,
    /// Recent tokens, for the repetition penalty.
    pub recent: BufferId,
    /// Tokens chosen.
    pub ids: BufferId,
    /// NLLs of a scored chunk.
    pub nll: BufferId,
    /// Logits of the last step.
    pub logits: BufferId,
}

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
struct Writer<'a> {
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
    logits: BufferId,
}

impl Model {
    /// Lays a model out from its header alone.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Unsupported`] if the tensors are not those of the architecture.
    pub fn new(config: &Config, gguf: &Gguf, shape: &Shape) -> Result<Self> {
        let mut buffers = Buffers::default();
        let mut directory = Directory::default();
        let slack = shape.chunk.max(sample::MAX_BURST + 1);
        let slots = KvRing::new(shape.keep.sinks, shape.keep.window, slack).slots();

        let add = |directory: &mut Directory, buffers: &mut Buffers, wanted: &[Wanted]| {
            directory.matrix(gguf, buffers, wanted)
        };
        let (dim, vocab_size) = (config.dim, config.vocab_size);
        let embedding = add(&mut directory, &mut buffers, &[wanted("token_embd", vocab_size, dim)])?;
        let layers = (0..config.n_layers)
            .map(|n| Layer::new(n, config, gguf, shape, slots, &mut directory, &mut buffers))
            .collect::<Result<Vec<_>>>()?;
        let output_norm = directory.vector(gguf, &mut buffers, "output_norm.weight".into(), dim)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => add(&mut directory, &mut buffers, &[wanted("output", vocab_size, dim)])?,
            None => embedding,
        };
        let rope_factors = match gguf.tensor(ROPE_FACTORS) {
            Some(_) => Some(directory.vector(gguf, &mut buffers, ROPE_FACTORS.into(), config.rotary_dim / 2)?),
            None => None,
        };
        directory.check_complete(gguf)?;

        let score_columns = match (shape.scores, MAX_LOGITS_BYTES / (4 * u64::from(vocab_size))) {
            (false, _) => 0,
            (true, most) => shape.chunk.min(u32::try_from(most).unwrap_or(MAX_COLUMNS)).max(1),
        };
        let mut work = |name: &str, words: u64| buffers.add(name, 4 * words, Purpose::Work);
        let floats = |width: u32, columns: u32| u64::from(padded(width)) * u64::from(columns);
        let (q_size, chunk) = (config.n_heads * config.head_dim, shape.chunk);
        let columns_words = (size_of::<ColumnsHeader>() + MAX_COLUMNS as usize * size_of::<Column>()) as u64 / 4;
        let writer = Writer {
            config,
            shape,
            slots,
            columns: work("columns", columns_words),
            rope: work("rope", 256),
            embedding,
            layers,
            output_norm,
            output,
            x: work("x", floats(dim, chunk)),
            q: work("q", 2 * u64::from(q_size) * u64::from(chunk)),
            attended: work("attended", floats(q_size, chunk)),
            h: work("h", floats(config.ffn_dim, chunk)),
            logits: work("logits", floats(vocab_size, score_columns.max(1))),
        };
        let settings = work("settings", size_of::<sample::Settings>() as u64 / 4);
        let recent = work("recent", 1 + sample::MAX_RECENT as u64);
        let ids = work("ids", 1 + u64::from(sample::MAX_BURST));
        let nll = work("nll", u64::from(chunk));

        let mut plans = vec![writer.plan("decode", 1, |plan| writer.sample(plan, settings, recent, ids))?];
        let mut series = |name: &str, most: u32, end: &dyn Fn(&mut Plan)| -> Result<Series> {
            let mut sizes = vec![1, 8.min(most), most];
            sizes.dedup();
            let mut series = Series::default();
            for columns in sizes {
                series.plans.push((plans.len(), columns));
                plans.push(writer.plan(name, columns, end)?);
            }
            Ok(series)
        };
        let prefill = series("prefill", chunk, &|_| {})?;
        let score = match score_columns {
            0 => Series::default(),
            most => series("score", most, &|plan| writer.score(plan, nll))?,
        };
        let Writer { columns, rope, logits, .. } = writer;
        Ok(Self {
            buffers,
            plans,
            directory,
            slack,
            decode: 0,
            prefill,
            score,
            columns,
            rope,
            rope_factors,
            settings,
            recent,
            ids,
            nll,
            logits,
        })
    }
}

impl Model {
    /// All plans as text, one dispatch a line.
    pub fn describe(&self) -> String {
        let mut text = format!("dispatches per layer: {}\n", self.dispatches_per_layer());
        for plan in &self.plans {
            let _ = writeln!(text, "\n{} ({} dispatches)", plan.name, plan.dispatches.len());
            for dispatch in &plan.dispatches {
                let [x, y, z] = dispatch.workgroups;
                let buffers: Vec<&str> =
                    dispatch.buffers.iter().map(|&id| self.buffers.spec(id).name.as_str()).collect();
                let _ = writeln!(
                    text,
                    "  {:<10} {:<18} {x} x {y} x {z}  {}",
                    dispatch.kernel.name,
                    dispatch.label,
                    buffers.join(" ")
                );
            }
        }
        text
    }

    /// Dispatches of one transformer block.
    pub fn dispatches_per_layer(&self) -> usize {
        let first = self.plans[self.decode].dispatches.iter();
        first.filter(|dispatch| dispatch.label.split('.').take(2).eq(["blk", "0"])).count()
    }
}

/// The same plan for 1, 8 and the most columns.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Index of the plan, and its columns; smallest first.
    plans: Vec<(usize, u32)>,
}

impl Series {
    /// Most columns of one step.
    pub fn most_columns(&self) -> u32 {
        self.plans.last().map_or(0, |(_, columns)| *columns)
    }

    /// The smallest plan that holds so many columns; at most [`Self::most_columns`].
    pub fn plan_for(&self, columns: u32) -> usize {
        let fits = self.plans.iter().find(|(_, most)| *most >= columns);
        fits.map_or(0, |(plan, _)| *plan)
    }
}

fn wanted(name: &str, rows: u32, cols: u32) -> Wanted {
    Wanted { name: format!("{name}.weight"), rows, cols }
}

/// Floats of one column of activations: whole blocks.
fn padded(width: u32) -> u32 {
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

impl Writer<'_> {
    /// One forward pass over up to `columns` tokens, and what `end` adds to it.
    fn plan(&self, name: &str, columns: u32, end: impl Fn(&mut Plan)) -> Result<Plan> {
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

    fn score(&self, plan: &mut Plan, nll: BufferId) {
        self.logits(plan);
        let params = nll::Params { vocab_size: self.config.vocab_size, stride: padded(self.config.vocab_size) };
        let workgroups = [1, plan.columns, 1];
        push(plan, &nll::KERNEL, "score", &params, &[self.columns, self.logits, nll], &[], workgroups);
    }

    fn sample(&self, plan: &mut Plan, settings: BufferId, recent: BufferId, ids: BufferId) {
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
