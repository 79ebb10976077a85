//! A model laid out: its buffers, its plans, and where the host writes and reads. Needs the header alone, so that the
//! memory plan is known before anything is loaded.

use std::fmt::Write;

use crate::config::{Attention, Config, Infini, Keep, MAX_HEAD_DIM, Rope, slopes};
use crate::error::Result;
use crate::executor::Executor;
use crate::forward::{Chosen, Forward, Given, gates};
use crate::gguf::Gguf;
use crate::kernels::attention;
use crate::kernels::cache::CacheType;
use crate::kernels::rope::turns_per_position;
use crate::kernels::sample;
use crate::kv_ring::KvRing;
use crate::plan::{BufferId, Buffers, Column, ColumnsHeader, MAX_COLUMNS, Plan, Purpose};
use crate::source::Source;
use crate::tuning::Tuning;
use crate::weights::Directory;

/// Bytes of logits of one chunk that are scored at once: the binding limit of a default WebGPU device.
const MAX_LOGITS_BYTES: u64 = 128 << 20;

/// Most tokens of the past that may be taken back.
pub const MAX_TAKE_BACK: u32 = 32;

/// Tensors with divisors of RoPE's frequencies: Llama 3's, and Phi-3's for few and for many tokens.
const ROPE_FACTORS: [&str; 3] = ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// What the plans are made for, besides the model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What a stream keeps.
    pub keep: Keep,
    /// Most tokens of one prefill step.
    pub chunk: u32,
    /// Streams at once: lanes of the cache.
    pub streams: u32,
    /// Number type of the cache.
    pub cache: CacheType,
    /// Plans that score every token of a chunk are wanted too.
    pub scores: bool,
    /// How the kernels are cut up.
    pub tuning: Tuning,
    /// Most bytes that a dispatch can bind of one buffer: an embedding beyond it comes in parts.
    pub binding_bytes: u64,
}

impl Shape {
    /// The model's compressive memory, if streams use it.
    pub fn memory(&self, config: &Config) -> Option<Infini> {
        config.infini.filter(|_| self.keep.attention == Attention::Infini)
    }
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
    /// One token of each stream, then sampling.
    pub decode: Series,
    /// Chunks without logits.
    pub prefill: Series,
    /// Chunks with the NLL of every target; empty unless asked for.
    pub score: Series,
    /// A full segment into the compressive memory, if there is one: index into `plans`.
    pub fold: Option<usize>,
    /// The columns of the next step.
    pub columns: BufferId,
    /// RoPE's turns per position, one u32 for each pair.
    pub rope: BufferId,
    /// The same in layers with a window of their own.
    pub local_rope: BufferId,
    /// What a score loses per token of distance, f32 for each head.
    pub slopes: BufferId,
    /// Scores of no key in models that have not learned any, f32 for each head.
    pub sink_logits: BufferId,
    /// Divisors of RoPE's frequencies, f32, if the model has some.
    pub rope_factors: Option<BufferId>,
    /// [`sample::Settings`], column by column.
    pub settings: BufferId,
    /// Recent tokens of each lane, for the repetition penalty.
    pub recent: BufferId,
    /// Tokens chosen, lane by lane.
    pub ids: BufferId,
    /// Their log-probabilities.
    pub logprobs: BufferId,
    /// A large buffer of which nothing is needed between two steps.
    pub bounce: BufferId,
    /// NLLs of a scored chunk.
    pub nll: BufferId,
    /// Logits of the last step.
    pub logits: BufferId,
}

impl Model {
    /// Lays a model out from its header alone.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Unsupported`] if the tensors are not those of the architecture.
    pub fn new(config: &Config, gguf: &Gguf, shape: &Shape) -> Result<Self> {
        // What a chunk, or tokens computed ahead with others taken back before them, may overwrite.
        let slack = shape.chunk.max(sample::MAX_AHEAD + MAX_TAKE_BACK + 1);
        let lanes = shape.streams as usize;
        let slots = KvRing::new(shape.keep.sinks, shape.keep.window, slack).slots();
        let score_columns = match (shape.scores, MAX_LOGITS_BYTES / (4 * u64::from(config.vocab_size))) {
            (false, _) => 0,
            (true, most) => shape.chunk.min(u32::try_from(most).unwrap_or(MAX_COLUMNS)).max(1),
        };
        let mut buffers = Buffers::default();
        let mut directory = Directory::default();
        let mut work = |name: &str, bytes: usize| buffers.add(name, bytes as u64, Purpose::Work);
        let columns = work("columns", size_of::<ColumnsHeader>() + MAX_COLUMNS as usize * size_of::<Column>());
        let rope = work("rope", 4 * MAX_HEAD_DIM as usize / 2);
        let local_rope = work("local_rope", 4 * MAX_HEAD_DIM as usize / 2);
        let slopes = work("slopes", 4 * config.n_heads as usize);
        let sink_logits = work("sink_logits", 4 * config.n_heads as usize);
        let settings = work("settings", MAX_COLUMNS as usize * size_of::<sample::Settings>());
        let recent = work("recent", lanes * 4 * (1 + sample::MAX_RECENT));
        let ids = work("ids", lanes * 4 * sample::MAX_AHEAD as usize);
        let logprobs = work("logprobs", lanes * 4 * sample::MAX_AHEAD as usize);
        let chosen = Chosen { settings, recent, ids, logprobs };
        let nll = work("nll", 4 * shape.chunk as usize);
        let sizes = (slots, score_columns.max(shape.streams));
        let given = Given { columns, rope, local_rope, slopes, sink_logits };
        let forward = Forward::new(config, shape, given, sizes, gguf, &mut directory, &mut buffers)?;
        let is_long = shape.keep.sinks + shape.keep.window >= config.rope_original;
        let [plain, short, long] = ROPE_FACTORS;
        let factors = [plain, if is_long { long } else { short }].into_iter().find(|name| gguf.tensor(name).is_some());
        let rope_factors = match factors {
            Some(name) => Some(directory.vector(gguf, &mut buffers, name.into(), config.rope.dim / 2)?),
            None => None,
        };
        // A model with gates runs in the other modes too.
        let gates: Vec<String> = (0..config.n_layers).filter(|_| config.infini.is_some()).map(gates).collect();
        let unused: Vec<&str> = [short, long].into_iter().chain(gates.iter().map(String::as_str)).collect();
        directory.check_complete(gguf, &unused)?;

        let mut plans = vec![];
        let mut series = |name: &str, most: u32, end: &dyn Fn(&mut Plan)| -> Result<Series> {
            let mut sizes = vec![1, 8.min(most), most];
            sizes.dedup();
            let mut series = Series::default();
            for columns in sizes {
                series.plans.push((plans.len(), columns));
                plans.push(forward.plan(name, columns, end)?);
            }
            Ok(series)
        };
        let decode = series("decode", shape.streams, &|plan| forward.sample(plan, &chosen))?;
        let prefill = series("prefill", shape.chunk, &|_| {})?;
        let score = match score_columns {
            0 => Series::default(),
            most => series("score", most, &|plan| forward.score(plan, nll))?,
        };
        let fold = forward.fold().map(|plan| {
            plans.push(plan);
            plans.len() - 1
        });
        let (logits, bounce) = (forward.logits, forward.q);
        Ok(Self {
            buffers,
            plans,
            directory,
            slack,
            decode,
            prefill,
            score,
            fold,
            columns,
            rope,
            local_rope,
            slopes,
            sink_logits,
            rope_factors,
            settings,
            recent,
            ids,
            logprobs,
            bounce,
            nll,
            logits,
        })
    }
}

impl Model {
    /// Brings the weights and RoPE's frequencies to the executor. `progress` gets the bytes of tensors loaded.
    ///
    /// # Errors
    /// Those of the source and the executor.
    pub async fn load(
        &mut self,
        config: &Config,
        source: &mut Source,
        executor: &mut Executor,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        self.directory.load(source, executor, progress).await?;
        self.write_constants(config, executor).await
    }

    /// As [`Self::load`], with random weights: see [`crate::random`].
    ///
    /// # Errors
    /// Those of the executor.
    pub async fn fill(&mut self, config: &Config, executor: &mut Executor, seed: u32) -> Result<()> {
        self.directory.fill(executor, seed)?;
        self.write_constants(config, executor).await
    }

    async fn write_constants(&self, config: &Config, executor: &mut Executor) -> Result<()> {
        let pairs = config.rope.dim / 2;
        let mut factors = vec![1.0_f32; pairs as usize];
        if let Some(buffer) = self.rope_factors {
            executor.read(buffer, 0, bytemuck::cast_slice_mut(&mut factors)).await?;
        }
        // In f64, and rounded once: see `rope::turns_per_position`.
        let turns = |rope: &Rope, factors: &[f32]| -> Vec<u32> {
            let radians = (0..pairs).zip(factors).map(|(i, factor)| rope.radians(i) / f64::from(*factor));
            radians.map(turns_per_position).collect()
        };
        executor.write(self.rope, 0, bytemuck::cast_slice(&turns(&config.rope, &factors)))?;
        if let Some(local) = &config.local {
            executor.write(self.local_rope, 0, bytemuck::cast_slice(&turns(&local.rope, &factors)))?;
        }
        executor.write(self.slopes, 0, bytemuck::cast_slice(&slopes(config.n_heads, config.max_slope)))?;
        let sink_logit = if config.zero_sink { 0.0 } else { attention::NO_SINK_LOGIT };
        executor.write(self.sink_logits, 0, bytemuck::cast_slice(&vec![sink_logit; config.n_heads as usize]))
    }

    /// All plans as text, one dispatch a line.
    pub fn describe(&self) -> String {
        let (of_layer, of_token) = (self.dispatches_per_layer(), self.dispatches_per_token());
        let mut text = format!("dispatches per layer: {of_layer}, per token: {of_token}\n");
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

    /// Dispatches of a decoded token.
    pub fn dispatches_per_token(&self) -> usize {
        self.plans[self.decode.plan_for(1)].dispatches.len()
    }

    /// Dispatches of one transformer block.
    pub fn dispatches_per_layer(&self) -> usize {
        let first = self.plans[self.decode.plan_for(1)].dispatches.iter();
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
