//! The arguments that all commands have in common.

use std::path::PathBuf;

use clap::{Arg, Args as ClapArgs, ValueEnum};
use sinkstream::config::Attention;
use sinkstream::engine::{Device, Settings};
use sinkstream::hf::Quant;
use sinkstream::kernel::Tier;
use sinkstream::kernels::cache::CacheType;

use super::wrong_usage;

#[derive(ClapArgs)]
pub(crate) struct ModelArgs {
    /// GGUF file, or folder with config.json and safetensors; the bundled model if not given
    #[arg(long, value_name = "FILE|FOLDER")]
    pub(crate) model: Option<PathBuf>,
    /// What the matrices of a folder become on the way in [default: as they are]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) quant: Option<QuantArg>,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum QuantArg {
    Q8_0,
    Q4_0,
    F16,
}

impl From<QuantArg> for Quant {
    fn from(quant: QuantArg) -> Self {
        match quant {
            QuantArg::Q8_0 => Self::Q8_0,
            QuantArg::Q4_0 => Self::Q4_0,
            QuantArg::F16 => Self::F16,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttentionArg {
    /// First and most recent tokens, positions within the cache
    Streaming,
    /// Most recent tokens only
    Window,
    /// Everything, up to a fixed capacity
    Dense,
    /// Each token from a fresh run over the last S + R + 1; a sink token stays in front unless S is 0
    Recompute,
    /// The open segment, and a compressive memory of all before it, for models that carry gates for one
    Infini,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CacheArg {
    F16,
    F32,
}

#[derive(ClapArgs)]
pub(crate) struct RunArgs {
    /// auto (a real GPU, else the CPU), gpu (any adapter), cpu, or an adapter's number or name
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// What of a GPU the shaders use: portable, subgroup or matrix [default: portable, or matrix where that is faster on a real GPU]
    #[arg(long, value_name = "NAME")]
    pub(crate) tier: Option<Tier>,
    /// Which earlier tokens a token sees [default: streaming, or infini where the model carries gates for it]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) attention: Option<AttentionArg>,
    /// Tokens at the start of the stream that stay for ever [default: 4, or 1 with a sink-token model]
    #[arg(long, value_name = "S")]
    pub(crate) sinks: Option<u32>,
    /// Most recent tokens that stay [default: S + R = min(2048, trained context - 1)]
    #[arg(long, value_name = "R")]
    pub(crate) window: Option<u32>,
    /// Most tokens read at once
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) chunk: u32,
    /// Number type of the cache
    #[arg(long, value_enum, default_value = "f16")]
    pub(crate) cache: CacheArg,
    /// Cores of the CPU executor [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Seed of the random numbers [default: random, and printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u32>,
    /// Say nothing on standard error but errors and warnings
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl RunArgs {
    /// As the library wants it; a wrong combination ends the program with exit code 2.
    pub(crate) fn settings(&self) -> Settings {
        let attention = self.attention.map(|mode| Attention::ALL[mode as usize]); // in the same order
        let has_no_sinks = |mode| matches!(mode, Attention::Window | Attention::Dense | Attention::Infini);
        if let (Some(mode), Some(1..)) = (attention.filter(|&mode| has_no_sinks(mode)), self.sinks) {
            wrong_usage(&format!("--sinks does not go with --attention {}; use --attention streaming", mode.name()));
        }
        Settings {
            device: Device::from(self.device.as_str()),
            attention,
            sinks: self.sinks,
            window: self.window,
            chunk: self.chunk,
            cache: match self.cache {
                CacheArg::F16 => CacheType::F16,
                CacheArg::F32 => CacheType::F32,
            },
            threads: self.threads.map(usize::from),
            tier: self.tier,
            ..Settings::default()
        }
    }
}

/// All of [`RunArgs`] but `--json`.
pub(crate) const RUN: &[&str] =
    &["device", "tier", "attention", "sinks", "window", "chunk", "cache", "threads", "seed", "quiet"];

/// Takes these flags without listing them: scripts may give the common ones to every command, and here they change nothing.
pub(crate) fn unlisted(flags: &'static [&'static str]) -> impl Fn(Arg) -> Arg {
    |flag| match flags.contains(&flag.get_id().as_str()) {
        true => flag.hide(true),
        false => flag,
    }
}
