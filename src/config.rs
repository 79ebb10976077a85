//! The shape of a model, read from the file's metadata and checked once. After this, shapes are trusted.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::plan::MAX_COLUMNS;

/// Largest head: what the rotation table and the attention kernel hold.
pub const MAX_HEAD_DIM: u32 = 512;

/// What runs, for error messages.
const SUPPORTED: &str = "these work: llama (Llama 1 to 3.x, SmolLM2, TinyLlama, Mistral)";

/// A transformer's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or the architecture.
    pub name: String,
    /// Transformer blocks.
    pub n_layers: u32,
    /// Size of the residual stream.
    pub dim: u32,
    /// Size of the feed-forward's inner layer.
    pub ffn_dim: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Size of a head; even.
    pub head_dim: u32,
    /// How much of a head is rotated; even.
    pub rotary_dim: u32,
    /// RoPE turns halves (NeoX) instead of neighbours (GGUF `llama`).
    pub halves: bool,
    /// RoPE base θ: pair i turns by `θ^(−2i / rotary_dim)` radians a position.
    pub rope_base: f32,
    /// Divides every frequency (linear scaling); 1 for none.
    pub rope_factor: f32,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Added to the mean square in RMS norms.
    pub eps: f32,
    /// Tokens that the model was trained to see at once.
    pub context_length: u32,
    /// The token that stood in front of every training sample, if there was one.
    pub sink_token: Option<u32>,
}

impl Config {
    /// Reads the shape from metadata and tensor directory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an architecture that we do not run, [`Error::Model`] for values that cannot be.
    pub fn new(gguf: &Gguf) -> Result<Self> {
        let architecture = gguf.architecture()?.to_owned();
        if architecture != "llama" {
            let what = format!("architecture {architecture:?}");
            return Err(Error::Unsupported { what, supported: SUPPORTED.into() });
        }
        let key = |name: &str| format!("{architecture}.{name}");
        let optional = |name: &str| gguf.get_u32(&key(name));
        let required =
            |name: &str| optional(name)?.ok_or_else(|| Error::Model(format!("metadata {} is missing", key(name))));
        if let Some(experts @ 1..) = optional("expert_count")? {
            return Err(Error::Unsupported {
                what: format!("a mixture of {experts} experts"),
                supported: SUPPORTED.into(),
            });
        }

        let (dim, n_heads) = (required("embedding_length")?, required("attention.head_count")?);
        positive("attention.head_count", n_heads)?;
        let head_dim = optional("attention.key_length")?.unwrap_or(dim / n_heads);
        if let Some(value_length) = optional("attention.value_length")?.filter(|&length| length != head_dim) {
            return Err(Error::Model(format!("values of size {value_length} with keys of size {head_dim}")));
        }
        let (rope_factor, rotary_dim) = (rope_factor(gguf, &architecture)?, optional("rope.dimension_count")?);
        let embedding = gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| Error::Model("tensor token_embd.weight is missing".into()))?;
        let config = Self {
            n_layers: required("block_count")?,
            dim,
            ffn_dim: required("feed_forward_length")?,
            n_heads,
            n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim,
            rotary_dim: rotary_dim.unwrap_or(head_dim),
            halves: false,
            rope_base: gguf.get_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_factor,
            vocab_size: embedding.shape.get(1).and_then(|&rows| u32::try_from(rows).ok()).unwrap_or(0),
            eps: gguf.get_f32(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-5),
            context_length: optional("context_length")?.unwrap_or(2048),
            sink_token: gguf.get_u32("sinkstream.sink_token_id")?,
            name: gguf.get_str("general.name")?.unwrap_or(&architecture).to_owned(),
            architecture,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let counts = [
            ("block_count", self.n_layers),
            ("embedding_length", self.dim),
            ("feed_forward_length", self.ffn_dim),
            ("attention.head_count_kv", self.n_kv_heads),
            ("head size", self.head_dim),
            ("vocabulary", self.vocab_size),
        ];
        for (name, count) in counts {
            positive(name, count)?;
            // With this, products of two sizes and a slot count stay far inside u64, and shapes inside u32.
            if count > 1 << 24 {
                return Err(Error::Model(format!("{name} = {count} is beyond any model")));
            }
        }
        let is_multiple = self.n_heads.is_multiple_of(self.n_kv_heads);
        if !is_multiple || self.n_heads > 1 << 16 {
            return Err(Error::Model(format!("{} heads for {} key heads", self.n_heads, self.n_kv_heads)));
        }
        if self.head_dim % 2 == 1 || self.head_dim > MAX_HEAD_DIM {
            return Err(Error::Model(format!("head size {}: must be even and at most {MAX_HEAD_DIM}", self.head_dim)));
        }
        if self.rotary_dim % 2 == 1 || self.rotary_dim > self.head_dim {
            return Err(Error::Model(format!("{} rotated dimensions in a head of {}", self.rotary_dim, self.head_dim)));
        }
        for (name, value) in [("rope.freq_base", self.rope_base), ("rope scaling", self.rope_factor)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::Model(format!("{name} = {value}")));
            }
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(Error::Model(format!("norm epsilon {}", self.eps)));
        }
        if self.context_length < 2 {
            return Err(Error::Model(format!("context_length {}", self.context_length)));
        }
        match self.sink_token.filter(|&token| token >= self.vocab_size) {
            Some(token) => Err(Error::Model(format!("sink token {token} in a vocabulary of {}", self.vocab_size))),
            None => Ok(()),
        }
    }
}

fn positive(name: &str, count: u32) -> Result<()> {
    if count == 0 { Err(Error::Model(format!("{name} is zero"))) } else { Ok(()) }
}

/// The divisor of linear RoPE scaling. Llama 3's scaling comes as the tensor `rope_freqs.weight` instead.
fn rope_factor(gguf: &Gguf, architecture: &str) -> Result<f32> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    match gguf.get_str(&key("scaling.type"))?.unwrap_or("none") {
        "none" => Ok(gguf.get_f32(&key("scale_linear"))?.unwrap_or(1.0)),
        "linear" => Ok(gguf.get_f32(&key("scaling.factor"))?.unwrap_or(1.0)),
        other => {
            let supported = "these work: none, linear, and Llama 3's frequency factors".into();
            Err(Error::Unsupported { what: format!("RoPE scaling {other:?}"), supported })
        }
    }
}

/// Which earlier tokens a token attends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// Sinks and window, positions within the cache (StreamingLLM).
    #[default]
    Streaming,
    /// Window only.
    Window,
    /// Everything, up to a fixed capacity.
    Dense,
    /// Each token from a fresh run over the last S + R + 1 tokens.
    Recompute,
}

impl Attention {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Window => "window",
            Self::Dense => "dense",
            Self::Recompute => "recompute",
        }
    }
}

/// What one stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How it attends.
    pub attention: Attention,
    /// Tokens at the start that stay for ever: S.
    pub sinks: u32,
    /// Most recent tokens that stay: R.
    pub window: u32,
}

impl Keep {
    /// Fills in the defaults of `docs`: S = 4, or 1 with a sink token; S + R = min(2048, trained context − 1).
    /// `expected`: the number of tokens to come, if known (dense mode).
    ///
    /// # Errors
    /// [`Error::Settings`] if nothing could be seen, or sinks are asked for where there are none.
    pub fn new(
        config: &Config,
        attention: Attention,
        sinks: Option<u32>,
        window: Option<u32>,
        expected: Option<u32>,
    ) -> Result<Self> {
        let capacity = 2048.min(config.context_length - 1);
        let default_sinks = if config.sink_token.is_some() { 1 } else { 4 };
        let (sinks, window) = match attention {
            Attention::Dense => {
                if sinks.is_some_and(|sinks| sinks > 0) {
                    return Err(Error::Settings("--attention dense keeps everything: --sinks does not apply".into()));
                }
                (0, window.or(expected).unwrap_or(4 * config.context_length))
            }
            Attention::Window => {
                if sinks.is_some_and(|sinks| sinks > 0) {
                    return Err(Error::Settings("--attention window has no sinks: use --attention streaming".into()));
                }
                (0, window.unwrap_or(capacity))
            }
            Attention::Streaming | Attention::Recompute => {
                let sinks = sinks.unwrap_or(default_sinks.min(capacity));
                (sinks, window.unwrap_or(capacity.saturating_sub(sinks)))
            }
        };
        let total = u64::from(sinks) + u64::from(window);
        if total > 1 << 30 {
            return Err(Error::DoesNotFit(format!("a cache of {total} tokens; at most 2^30 are possible")));
        }
        if attention == Attention::Dense && window == 0 {
            return Err(Error::Settings("--attention dense needs room: --window 0 keeps nothing".into()));
        }
        // A fresh run over the last S + R + 1 tokens needs no sinks of its own: its first tokens take their place.
        Ok(if attention == Attention::Recompute {
            Self { attention, sinks: 0, window: sinks + window }
        } else {
            Self { attention, sinks, window }
        })
    }
}

/// Checks a chunk size.
///
/// # Errors
/// [`Error::Settings`] outside 1..=[`MAX_COLUMNS`].
pub fn check_chunk(chunk: u32) -> Result<u32> {
    if (1..=MAX_COLUMNS).contains(&chunk) {
        Ok(chunk)
    } else {
        Err(Error::Settings(format!("--chunk {chunk}: must be from 1 to {MAX_COLUMNS}")))
    }
}
