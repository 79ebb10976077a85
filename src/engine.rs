//! A loaded model on an executor: what sessions run on.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::config::{Attention, Config, Keep, check_chunk};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::executor::gpu::GpuExecutor;
use crate::gguf::Gguf;
use crate::gpu::{self, Gpu};
use crate::kernels::cache::CacheType;
use crate::kernels::rope::turns_per_position;
use crate::model::{Model, Shape};
use crate::plan::Purpose;
use crate::session::Session;
use crate::source::Source;
use crate::tokenizer::Tokenizer;

/// Where to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
}

/// How to load a model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to run.
    pub device: Device,
    /// Which earlier tokens a token attends to.
    pub attention: Attention,
    /// S; the model's default if `None`.
    pub sinks: Option<u32>,
    /// R; the model's default if `None`.
    pub window: Option<u32>,
    /// Tokens to come, if known: the room that `Attention::Dense` makes.
    pub expected: Option<u32>,
    /// Most tokens of a prefill step: 1 to 512.
    pub chunk: u32,
    /// Number type of the cache.
    pub cache: CacheType,
    /// Whether [`Session::score`] will be called: it needs room for the logits of a whole chunk.
    pub scores: bool,
    /// Cores of the CPU executor; all if `None`.
    pub threads: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            attention: Attention::Streaming,
            sinks: None,
            window: None,
            expected: None,
            chunk: 128,
            cache: CacheType::F16,
            scores: false,
            threads: None,
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
    pub(crate) model: Model,
    pub(crate) executor: Executor,
    /// The session whose keys and values the executor holds.
    pub(crate) current_session: u64,
    tokenizer: Option<Rc<Tokenizer>>,
}

impl Engine {
    /// Reads a model and brings it to the device.
    ///
    /// # Errors
    /// Whatever is wrong with the source, the file, the settings or the device, each with its own variant.
    pub async fn load(mut source: Source, settings: &Settings, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let gguf = Gguf::read(&mut source).await?;
        let gpu = open_gpu(&settings.device).await?;
        let lanes = if gpu.as_ref().is_some_and(Gpu::is_software) { 1 } else { DEFAULT_LANES };
        let (config, keep, mut model) = lay_out(&gguf, settings, lanes)?;
        let plans = std::mem::take(&mut model.plans);
        let mut executor = match gpu {
            Some(gpu) => Executor::Gpu(GpuExecutor::new(gpu, &model.buffers, plans).await?),
            None => Executor::cpu(&model.buffers, plans, settings.threads)?,
        };
        let mut directory = std::mem::take(&mut model.directory);
        let total = directory.file_bytes();
        directory.load(&mut source, &mut executor, &mut |loaded| progress(Progress { loaded, total })).await?;
        let mut engine = Self { gguf, config, keep, model, executor, current_session: 0, tokenizer: None };
        engine.write_frequencies().await?;
        Ok(engine)
    }

    /// Computes RoPE's frequencies in f64 and rounds them once.
    async fn write_frequencies(&mut self) -> Result<()> {
        let Self { config, model, executor, .. } = self;
        let pairs = config.rotary_dim as usize / 2;
        let mut factors = vec![1.0_f32; pairs];
        if let Some(buffer) = model.rope_factors {
            executor.read(buffer, 0, bytemuck::cast_slice_mut(&mut factors)).await?;
        }
        let turns = |(i, factor): (usize, &f32)| {
            let exponent = -2.0 * i as f64 / f64::from(config.rotary_dim);
            turns_per_position(
                f64::from(config.rope_base).powf(exponent) / f64::from(config.rope_factor) / f64::from(*factor),
            )
        };
        let frequencies: Vec<u32> = factors.iter().enumerate().map(turns).collect();
        executor.write(model.rope, 0, bytemuck::cast_slice(&frequencies))
    }

    /// A new, empty stream. An engine holds one at a time: a new one takes the place of the last.
    pub fn session(&mut self) -> Session {
        self.current_session += 1;
        Session::new(self.current_session, self.keep, self.model.slack)
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

    /// Dispatches given to the GPU so far; 0 on the CPU.
    pub fn dispatches(&self) -> u64 {
        self.executor.dispatches()
    }

    /// Model, executor, adapter, attention and memory plan, for reports.
    pub fn info(&self) -> Value {
        let bytes = |purpose| self.model.buffers.bytes(purpose);
        json!({
            "model": self.config.name,
            "executor": self.executor.name(),
            "adapter": self.executor.adapter(),
            "attention": self.keep.attention.name(),
            "sinks": self.keep.sinks,
            "window": self.keep.window,
            "vocab_size": self.config.vocab_size,
            "weights_bytes": bytes(Purpose::Weights),
            "kv_bytes": bytes(Purpose::Cache),
            "work_bytes": bytes(Purpose::Work),
        })
    }
}

/// Invocations that share one row pair on a real GPU.
pub const DEFAULT_LANES: u32 = 16;

/// Shape, cache and plans of a model, from its header alone.
///
/// # Errors
/// What [`Config::new`], [`Keep::new`] and [`Model::new`] find wrong.
pub fn lay_out(gguf: &Gguf, settings: &Settings, lanes: u32) -> Result<(Config, Keep, Model)> {
    let config = Config::new(gguf)?;
    let keep = Keep::new(&config, settings.attention, settings.sinks, settings.window, settings.expected)?;
    let shape =
        Shape { keep, chunk: check_chunk(settings.chunk)?, cache: settings.cache, scores: settings.scores, lanes };
    let model = Model::new(&config, gguf, &shape)?;
    Ok((config, keep, model))
}

/// The GPU to run on; `None` for the CPU executor.
async fn open_gpu(device: &Device) -> Result<Option<Gpu>> {
    let adapters = match device {
        Device::Cpu => return Ok(None),
        _ => gpu::adapters().await,
    };
    let names = || adapters.iter().map(|adapter| adapter.get_info().name).collect::<Vec<_>>().join(", ");
    let chosen = match device {
        Device::Auto => match adapters.iter().find(|adapter| !gpu::is_software(adapter)) {
            None => return Ok(None),
            real => real,
        },
        Device::Named(wanted) => match wanted.parse::<usize>() {
            Ok(number) => adapters.get(number),
            Err(_) => {
                adapters.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase()))
            }
        },
        _ => adapters.iter().find(|adapter| !gpu::is_software(adapter)).or(adapters.first()),
    };
    match (chosen, device) {
        (Some(adapter), _) => Ok(Some(Gpu::open(adapter).await?)),
        (None, Device::Named(wanted)) => Err(Error::NoGpu(format!("no adapter {wanted:?}; there are: [{}]", names()))),
        (None, _) => Err(Error::NoGpu("no adapter found; --device cpu runs without one".into())),
    }
}
