//! A loaded model on an executor: what sessions run on.

mod tune;

use std::rc::Rc;

use serde_json::{Value, json};

use crate::chat::ChatTemplate;
use crate::config::{Attention, Config, Keep, check_columns};
use crate::error::{Error, Result};
use crate::executor::{Counts, Executor};
use crate::gguf::Gguf;
use crate::gpu::{Gpu, binding_bytes};
use crate::kernel::Tier;
use crate::kernels::cache::CacheType;
use crate::kernels::sample::MAX_AHEAD;
use crate::lanes::Lanes;
use crate::model::{Model, Shape};
use crate::plan::{Column, ColumnsHeader, Purpose};
use crate::session::Session;
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::tuning::Tuning;

/// Where to run.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// A real GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// Any adapter, software ones too; never the CPU executor.
    Gpu,
    /// The CPU executor; never touches wgpu.
    Cpu,
    /// The adapter with this number or part of a name.
    Named(String),
    /// A device that is open already: engines on it share its compiled pipelines.
    Open(Box<Gpu>),
}

impl From<&str> for Device {
    /// As users name it: auto, gpu, cpu, an adapter's number or part of its name.
    fn from(name: &str) -> Self {
        match name {
            "auto" => Self::Auto,
            "gpu" => Self::Gpu,
            "cpu" => Self::Cpu,
            name => Self::Named(name.into()),
        }
    }
}

/// How to load a model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to run.
    pub device: Device,
    /// Which earlier tokens a token attends to; as the model wants it if `None`.
    pub attention: Option<Attention>,
    /// S; the model's default if `None`.
    pub sinks: Option<u32>,
    /// R; the model's default if `None`.
    pub window: Option<u32>,
    /// Tokens to come, if known: the room that `Attention::Dense` makes.
    pub expected: Option<u32>,
    /// Most tokens of a prefill step: 1 to 512.
    pub chunk: u32,
    /// Sessions that the device holds at once: 1 to 512. More wait in host memory.
    pub streams: u32,
    /// Number type of the cache.
    pub cache: CacheType,
    /// Whether [`Session::score`] will be called: it needs room for the logits of a whole chunk.
    pub scores: bool,
    /// Cores of the CPU executor; all if `None`.
    pub threads: Option<usize>,
    /// Which optional features of a GPU the shaders use. If `None`, none, but `matrix` where [`Self::autotune`] finds that to be
    /// faster and right.
    pub tier: Option<Tier>,
    /// How kernels are cut up, to begin with; as suits the device if `None`.
    pub tuning: Option<Tuning>,
    /// Whether better tunings, and a better tier, are looked for by timing them. If `None`, on real GPUs that are not in a browser and
    /// where [`Self::tuning`] is not given; only then are they remembered, too.
    pub autotune: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            attention: None,
            sinks: None,
            window: None,
            expected: None,
            chunk: 128,
            streams: 1,
            cache: CacheType::F16,
            scores: false,
            threads: None,
            tier: None,
            tuning: None,
            autotune: None,
        }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of tensors loaded.
    pub loaded: u64,
    /// Bytes of all tensors.
    pub total: u64,
}

/// A model, ready to run.
#[derive(Debug)]
pub struct Engine {
    gguf: Gguf,
    config: Config,
    keep: Keep,
    settings: Settings,
    /// Where the weights come from once more if the device is lost.
    source: Option<Source>,
    pub(crate) model: Model,
    pub(crate) executor: Executor,
    weight_bytes_per_step: u64,
    pub(crate) lanes: Lanes,
    /// What a launch brings back: ids, then log-probabilities, `[lane][MAX_AHEAD]` each.
    pub(crate) landing: Vec<u32>,
    tokenizer: Option<Rc<Tokenizer>>,
    recoveries: u32,
}

impl Engine {
    /// Reads a model and brings it to the device.
    ///
    /// # Errors
    /// Whatever is wrong with the source, the file, the settings or the device, each with its own variant.
    pub async fn load(mut source: Source, settings: &Settings, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let gguf = Gguf::read(&mut source).await?;
        let mut engine = Self::without_weights(gguf, settings).await?;
        let total = engine.model.directory.file_bytes();
        let mut report = |loaded| progress(Progress { loaded, total });
        engine.model.load(&engine.config, &mut source, &mut engine.executor, &mut report).await?;
        // A device may be lost, memory is not; and a stream cannot be read again.
        engine.source = (engine.executor.name() == "gpu" && !source.is_sequential()).then_some(source);
        engine.tune().await?;
        Ok(engine)
    }

    /// A model with random weights of this seed, made on the device, of the shape that a header has: see [`crate::random`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn random(gguf: Gguf, settings: &Settings, seed: u32) -> Result<Self> {
        let mut engine = Self::without_weights(gguf, settings).await?;
        engine.model.fill(&engine.config, &mut engine.executor, seed).await?;
        engine.tune().await?;
        Ok(engine)
    }

    async fn without_weights(gguf: Gguf, settings: &Settings) -> Result<Self> {
        let gpu = settings.gpu().await?;
        let (config, keep, mut model) =
            lay_out(&gguf, settings, settings.tuning_on(gpu.as_ref()), binding_bytes(gpu.as_ref()))?;
        let weight_bytes_per_step = model.plans[model.decode.plan_for(settings.streams)].weight_bytes(&model.buffers);
        let plans = std::mem::take(&mut model.plans);
        let executor = Executor::new(gpu, &model.buffers, plans, settings.threads).await?;
        Ok(Self {
            gguf,
            config,
            keep,
            settings: settings.clone(),
            source: None,
            model,
            executor,
            weight_bytes_per_step,
            lanes: Lanes::new(settings.streams),
            landing: vec![0; 2 * (settings.streams * MAX_AHEAD) as usize],
            tokenizer: None,
            recoveries: 0,
        })
    }

    /// If the error is that the device was lost: opens it anew and brings the weights to it once more. Sessions follow when
    /// they are used, each from the ids that it remembers.
    ///
    /// # Errors
    /// The error itself if it is another, or the model came from a stream that cannot be read again; [`Error::DeviceLost`] with
    /// what goes wrong. The next call tries again.
    pub(crate) async fn recover_from(&mut self, error: Error) -> Result<()> {
        let (Error::DeviceLost(reason), Executor::Gpu(lost), Some(source)) = (&error, &self.executor, &mut self.source)
        else {
            return Err(error);
        };
        lost.gpu().destroy(); // it may have been lost because it holds too much
        let replace = async {
            let gpu = lost.gpu().reopen().await?;
            let (config, _, mut model) =
                lay_out(&self.gguf, &self.settings, self.settings.tuning_on(Some(&gpu)), binding_bytes(Some(&gpu)))?;
            let plans = std::mem::take(&mut model.plans);
            let mut executor = Executor::new(Some(gpu), &model.buffers, plans, None).await?;
            model.load(&config, source, &mut executor, &mut |_| {}).await?;
            Ok((model, executor))
        };
        let failed = |why: Error| Error::DeviceLost(format!("{reason}, and could not be replaced: {why}"));
        (self.model, self.executor) = replace.await.map_err(failed)?;
        self.lanes.forget();
        self.recoveries += 1;
        Ok(())
    }

    /// How often a lost device was replaced.
    pub fn recoveries(&self) -> u32 {
        self.recoveries
    }

    /// Gives the GPU up with everything on it: what is used after that has lost its device. Nothing on the CPU.
    pub fn destroy_device(&self) {
        if let Executor::Gpu(gpu) = &self.executor {
            gpu.gpu().destroy();
        }
    }

    /// A new, empty stream. There may be any number of them; [`Settings::streams`] of them are on the device at once.
    pub fn session(&self) -> Session {
        Session::new(self.keep, self.config.n_layers, self.model.slack)
    }

    /// Streams that can go on together.
    pub fn streams(&self) -> u32 {
        self.lanes.lanes.len() as u32
    }

    /// The tokenizer, built at the first call.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::Tokenizer`] if the file's tokenizer is unknown or broken.
    pub fn tokenizer(&mut self) -> Result<Rc<Tokenizer>> {
        let tokenizer = match self.tokenizer.take() {
            Some(tokenizer) => tokenizer,
            None => Rc::new(Tokenizer::from_gguf(&self.gguf)?),
        };
        self.tokenizer = Some(Rc::clone(&tokenizer));
        Ok(tokenizer)
    }

    /// The model's chat template; plain lines if it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`] and [`Self::tokenizer`].
    pub fn chat_template(&mut self) -> Result<ChatTemplate> {
        let tokenizer = self.tokenizer()?;
        ChatTemplate::from_gguf(&self.gguf, &tokenizer)
    }

    /// The file's header.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Number type of the cache.
    pub fn cache_type(&self) -> CacheType {
        self.settings.cache
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a stream keeps.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Bytes held by the executor.
    pub fn bytes(&self) -> u64 {
        self.executor.bytes()
    }

    /// What the GPU was given so far; nothing on the CPU.
    pub fn counts(&self) -> Counts {
        self.executor.counts()
    }

    /// Columns of the next step; what moved on by itself on the device ends with it.
    pub(crate) fn write_columns(&mut self, columns: &[Column]) -> Result<()> {
        self.lanes.group.clear();
        let header = ColumnsHeader { active: columns.len() as u32, pad: [0; 3] };
        self.executor.write(self.model.columns, 0, bytemuck::bytes_of(&header))?;
        self.executor.write(self.model.columns, size_of::<ColumnsHeader>() as u64, bytemuck::cast_slice(columns))
    }

    /// The open device, if the executor has one.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.executor.gpu()
    }

    /// Bytes of weights that one step of decoding reads; of the embedding, a row.
    pub fn weight_bytes_per_step(&self) -> u64 {
        self.weight_bytes_per_step
    }

    /// Bytes of keys and values that a token reads which sees `cached` tokens.
    pub fn cache_bytes_per_token(&self, cached: u32) -> u64 {
        let config = &self.config;
        let seen = |n: u32| u64::from(config.local(n).map_or(cached, |local| cached.min(local.reach)));
        let token_bytes =
            u64::from(config.n_kv_heads * config.head_dim) * 4 * self.settings.cache.words_per_pair() as u64;
        (0..config.n_layers).map(seen).sum::<u64>() * token_bytes
    }

    /// Waits until the device has done all that it was given.
    ///
    /// # Errors
    /// Those of the executor; a lost device is replaced.
    pub async fn wait(&mut self) -> Result<()> {
        match self.executor.read(self.model.ids, 0, &mut [0; 4]).await {
            Err(error) => self.recover_from(error).await,
            Ok(()) => Ok(()),
        }
    }

    /// Folds full segments into the compressive memory; `columns`: their last tokens.
    pub(crate) fn fold(&mut self, columns: &[Column]) -> Result<()> {
        match self.model.fold.filter(|_| !columns.is_empty()) {
            Some(plan) => {
                self.write_columns(columns)?;
                self.executor.run(plan, 1)
            }
            None => Ok(()),
        }
    }

    /// A whole buffer of floats by its name in the plan, for a look inside: `logits` after a step, for example.
    ///
    /// # Errors
    /// [`Error::Settings`] if there is no such buffer; those of the executor.
    pub async fn read_floats(&mut self, buffer: &str) -> Result<Vec<f32>> {
        let id = self.model.buffers.find(buffer).ok_or_else(|| Error::Settings(format!("no buffer {buffer}")))?;
        let mut floats = vec![0.0; self.model.buffers.spec(id).bytes as usize / 4];
        self.executor.read(id, 0, bytemuck::cast_slice_mut(&mut floats)).await?;
        Ok(floats)
    }

    /// Model, executor, adapter, attention and memory plan, for reports.
    pub fn info(&self) -> Value {
        let mut info = memory_plan(&self.gguf, &self.config, self.keep, &self.model, self.streams());
        info["executor"] = self.executor.name().into();
        info["adapter"] = self.executor.adapter().into();
        info["tier"] = self.executor.tier().map(Tier::name).into();
        info
    }
}

/// What [`Engine::load`] would say of a model before it has seen a device: all but executor, adapter and tier. Reads the header
/// alone.
///
/// # Errors
/// As [`Gguf::read`] and [`lay_out`].
pub async fn estimate(mut source: Source, settings: &Settings) -> Result<Value> {
    let gguf = Gguf::read(&mut source).await?;
    let (config, keep, model) = lay_out(&gguf, settings, Tuning::GPU, u64::MAX)?;
    Ok(memory_plan(&gguf, &config, keep, &model, settings.streams))
}

fn memory_plan(gguf: &Gguf, config: &Config, keep: Keep, model: &Model, streams: u32) -> Value {
    let bytes = |purpose| model.buffers.bytes(purpose);
    json!({
        "model": config.name,
        "attention": keep.attention.name(),
        "sinks": keep.sinks,
        "window": keep.window,
        "streams": streams,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "chat_template": matches!(gguf.get_str("tokenizer.chat_template"), Ok(Some(_))),
        "weights_bytes": bytes(Purpose::Weights),
        "kv_bytes": bytes(Purpose::Cache),
        "memory_bytes": bytes(Purpose::Memory),
        "work_bytes": bytes(Purpose::Work),
    })
}

/// Shape, cache and plans of a model, from its header alone. `binding_bytes`: most that a dispatch can bind of one buffer, see
/// [`binding_bytes`]; `u64::MAX` for a device that takes everything.
///
/// # Errors
/// What [`Config::new`], [`Keep::new`] and [`Model::new`] find wrong.
pub fn lay_out(gguf: &Gguf, settings: &Settings, tuning: Tuning, binding_bytes: u64) -> Result<(Config, Keep, Model)> {
    let config = Config::new(gguf)?;
    let attention = settings.attention.unwrap_or(config.default_attention());
    let keep = Keep::new(&config, attention, settings.sinks, settings.window, settings.expected)?;
    let (chunk, streams) = (check_columns("--chunk", settings.chunk)?, check_columns("--streams", settings.streams)?);
    let shape = Shape { keep, chunk, streams, cache: settings.cache, scores: settings.scores, tuning, binding_bytes };
    let model = Model::new(&config, gguf, &shape)?;
    Ok((config, keep, model))
}
