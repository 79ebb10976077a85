//! The shape of a model, read from the file's metadata and checked once. After this, shapes are trusted.

mod rope;

pub use rope::{Rope, Scaling, slopes};

use crate::error::{Error, Result};
use crate::family::{Family, Order, Positions};
use crate::gguf::Gguf;
use crate::kernels::memory;
use crate::plan::MAX_COLUMNS;

/// Largest head: what the rotation table and the attention kernel hold.
pub const MAX_HEAD_DIM: u32 = 512;

/// A transformer's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What sets its family apart.
    pub family: &'static Family,
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
    /// RoPE, of all layers but the local ones.
    pub rope: Rope,
    /// From so many cached tokens on, Phi-3's factors for long contexts count.
    pub rope_original: u32,
    /// What layers with a window of their own see.
    pub local: Option<Local>,
    /// Tokens that the model was trained to see back, itself included, in all layers.
    pub sliding_window: Option<u32>,
    /// `ALiBi`: the largest exponent of its slopes; 0 for none.
    pub max_slope: f32,
    /// Queries, keys and values are kept inside ± this.
    pub qkv_limit: f32,
    /// Softmax's denominator has one more score of 0 in every head, if none were learned (`SoftMax₁`).
    pub zero_sink: bool,
    /// Factor on queries.
    pub query_scale: f32,
    /// Scores go through `cap · tanh(score / cap)`; 0 for no cap.
    pub score_cap: f32,
    /// As `score_cap`, of the logits.
    pub logit_cap: f32,
    /// Attention and feed-forward have the same input.
    pub is_parallel: bool,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Added to the mean square in norms.
    pub eps: f32,
    /// Tokens that the model was trained to see at once.
    pub context_length: u32,
    /// The token that stood in front of every training sample, if there was one.
    pub sink_token: Option<u32>,
    /// The compressive memory, if the model carries gates for one.
    pub infini: Option<Infini>,
}

/// A compressive memory: what leaves its segment stays in a matrix of fixed size (Infini-attention, arXiv 2404.07143).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Infini {
    /// Tokens of a segment: N.
    pub segment_length: u32,
    /// What is known already is not added again (eq. 9).
    pub is_delta: bool,
}

/// What is different in layers with a window of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Local {
    /// Their RoPE.
    pub rope: Rope,
    /// Tokens that a query sees besides itself.
    pub reach: u32,
    /// The last of so many layers sees everything.
    pub period: u32,
}

impl Config {
    /// How a stream attends if nobody says otherwise: with the model's compressive memory, if it has one.
    pub fn default_attention(&self) -> Attention {
        if self.infini.is_some() { Attention::Infini } else { Attention::Streaming }
    }

    /// What is different in layer `n`, if it has a window of its own.
    pub fn local(&self, n: u32) -> Option<&Local> {
        self.local.as_ref().filter(|local| n % local.period < local.period - 1)
    }

    /// Reads the shape from metadata and tensor directory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an architecture that we do not run, [`Error::Model`] for values that cannot be.
    pub fn new(gguf: &Gguf) -> Result<Self> {
        let family = Family::find(gguf.architecture()?)?;
        let key = |name: &str| format!("{}.{name}", family.name);
        let optional = |name: &str| gguf.get_u32(&key(name));
        let required =
            |name: &str| optional(name)?.ok_or_else(|| Error::Model(format!("metadata {} is missing", key(name))));
        if let Some(experts @ 1..) = optional("expert_count")? {
            return Err(Error::Unsupported {
                what: format!("a mixture of {experts} experts"),
                supported: Family::supported(),
            });
        }

        let (dim, n_heads) = (required("embedding_length")?, required("attention.head_count")?);
        positive("attention.head_count", n_heads)?;
        let head_dim = optional("attention.key_length")?.unwrap_or(dim / n_heads);
        if let Some(value_length) = optional("attention.value_length")?.filter(|&length| length != head_dim) {
            return Err(Error::Model(format!("values of size {value_length} with keys of size {head_dim}")));
        }
        let float = |name: &str| gguf.get_f32(&key(name));
        let n_layers = required("block_count")?;
        let rotary_dim = match family.positions {
            Positions::Slopes => 0,
            _ => optional("rope.dimension_count")?.unwrap_or(head_dim),
        };
        let rope = Rope::new(gguf, family, rotary_dim)?;
        let sliding_window = optional("attention.sliding_window")?.filter(|&window| window > 0);
        // llama.cpp and the models' authors: the largest of each Gemma scales by dim / heads instead.
        let is_largest_gemma = [("gemma2", 46), ("gemma3", 62)].contains(&(family.name, n_layers));
        let scaled_by = if is_largest_gemma { dim / n_heads } else { head_dim };
        let eps_name = if family.layer_norm { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
        let embedding = gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| Error::Model("tensor token_embd.weight is missing".into()))?;
        let config = Self {
            family,
            n_layers,
            dim,
            ffn_dim: required("feed_forward_length")?,
            n_heads,
            n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim,
            rope,
            rope_original: optional("rope.scaling.original_context_length")?.unwrap_or(u32::MAX),
            local: match sliding_window.filter(|_| family.global_every > 0) {
                None => None,
                Some(window) => {
                    let scaling = if family.head_norms { Scaling::Linear(1.0) } else { rope.scaling };
                    let base = if family.head_norms { 10_000.0 } else { rope.base };
                    let base = float("rope.freq_base_swa")?.unwrap_or(base);
                    let period = optional("attention.sliding_window_pattern")?.unwrap_or(family.global_every);
                    positive("attention.sliding_window_pattern", period)?;
                    Some(Local { rope: Rope { base, scaling, ..rope }, reach: window - 1, period })
                }
            },
            sliding_window: sliding_window.filter(|_| family.global_every == 0),
            max_slope: match family.positions {
                Positions::Slopes => float("attention.max_alibi_bias")?.unwrap_or(8.0),
                _ => 0.0,
            },
            qkv_limit: float("attention.clamp_kqv")?.filter(|&limit| limit > 0.0).unwrap_or(f32::MAX),
            zero_sink: gguf.get_bool("sinkstream.zero_sink")?.unwrap_or(false),
            query_scale: float("attention.scale")?.unwrap_or(1.0 / (scaled_by as f32).sqrt()),
            score_cap: float("attn_logit_softcapping")?.unwrap_or(0.0),
            logit_cap: float("final_logit_softcapping")?.unwrap_or(0.0),
            is_parallel: match family.order {
                Order::Serial => false,
                Order::Parallel => true,
                Order::InFile => gguf.get_bool(&key("use_parallel_residual"))?.unwrap_or(true),
            },
            vocab_size: embedding.shape.get(1).and_then(|&rows| u32::try_from(rows).ok()).unwrap_or(0),
            eps: float(&format!("attention.{eps_name}"))?.unwrap_or(1e-5),
            context_length: optional("context_length")?.unwrap_or(2048),
            sink_token: gguf.get_u32("sinkstream.sink_token_id")?,
            infini: Infini::new(gguf)?,
            name: gguf.get_str("general.name")?.unwrap_or(family.name).to_owned(),
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
        if self.rope.dim % 2 == 1 || self.rope.dim > self.head_dim {
            return Err(Error::Model(format!("{} rotated dimensions in a head of {}", self.rope.dim, self.head_dim)));
        }
        let numbers = [
            ("norm epsilon", self.eps),
            ("attention.scale", self.query_scale),
            ("attention.max_alibi_bias", self.max_slope),
            ("attention.clamp_kqv", self.qkv_limit),
            ("attn_logit_softcapping", self.score_cap),
            ("final_logit_softcapping", self.logit_cap),
        ];
        for (name, value) in numbers {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Model(format!("{name} = {value}")));
            }
        }
        if self.context_length < 2 {
            return Err(Error::Model(format!("context_length {}", self.context_length)));
        }
        if self.infini.is_some() && self.head_dim > memory::MAX_HEAD_DIM {
            let most = memory::MAX_HEAD_DIM;
            return Err(Error::Model(format!("head size {}: with a compressive memory at most {most}", self.head_dim)));
        }
        match self.sink_token.filter(|&token| token >= self.vocab_size) {
            Some(token) => Err(Error::Model(format!("sink token {token} in a vocabulary of {}", self.vocab_size))),
            None => Ok(()),
        }
    }
}

impl Infini {
    /// What the file says, if it says anything.
    fn new(gguf: &Gguf) -> Result<Option<Self>> {
        let [length, update] = ["segment_length", "update"].map(|name| format!("sinkstream.infini.{name}"));
        let Some(segment_length) = gguf.get_u32(&length)? else { return Ok(None) };
        if !(1..=1 << 24).contains(&segment_length) {
            return Err(Error::Model(format!("{length} = {segment_length}: must be from 1 to 2^24")));
        }
        let is_delta = match gguf.get_str(&update)? {
            Some("linear") => false,
            Some("delta") => true,
            Some(other) => return Err(Error::Model(format!("{update} = {other:?}: must be \"linear\" or \"delta\""))),
            None => return Err(Error::Model(format!("metadata {update} is missing"))),
        };
        Ok(Some(Self { segment_length, is_delta }))
    }
}

fn positive(name: &str, count: u32) -> Result<()> {
    if count == 0 { Err(Error::Model(format!("{name} is zero"))) } else { Ok(()) }
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
    /// The open segment, and a compressive memory of all before it (Infini-attention).
    Infini,
}

impl Attention {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Streaming, Self::Window, Self::Dense, Self::Recompute, Self::Infini];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Window => "window",
            Self::Dense => "dense",
            Self::Recompute => "recompute",
            Self::Infini => "infini",
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
    /// With `recompute` and a model that was trained with a sink token: what every fresh run begins with.
    pub sink_token: Option<u32>,
}

impl Keep {
    /// Fills in the defaults: S = 4, or 1 with a sink token; S + R = min(2048, trained context − 1), R at most the model's
    /// own sliding window. With `infini` both are the model's: S = 0 and R = N − 1.
    /// `expected`: the number of tokens to come, if known (dense mode).
    ///
    /// # Errors
    /// [`Error::Settings`] if nothing could be seen, sinks are asked for where there are none, or `infini` of a model without
    /// a memory, or of another size.
    pub fn new(
        config: &Config,
        attention: Attention,
        sinks: Option<u32>,
        window: Option<u32>,
        expected: Option<u32>,
    ) -> Result<Self> {
        let capacity = 2048.min(config.context_length - 1);
        // What a model was trained to see back, it need not see more of.
        let most_window = config.sliding_window.map_or(u32::MAX, |window| window - 1);
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
                (0, window.unwrap_or(capacity.min(most_window)))
            }
            Attention::Streaming | Attention::Recompute => {
                let sinks = sinks.unwrap_or(default_sinks.min(capacity));
                (sinks, window.unwrap_or(capacity.saturating_sub(sinks).min(most_window)))
            }
            Attention::Infini => {
                let Some(Infini { segment_length, .. }) = config.infini else {
                    return Err(Error::Settings(
                        "--attention infini needs a model that carries gates for a compressive memory: this one has none".into(),
                    ));
                };
                let fixed = segment_length - 1;
                if sinks.unwrap_or(0) != 0 || window.unwrap_or(fixed) != fixed {
                    return Err(Error::Settings(format!(
                        "--attention infini: the model fixes the segment: --sinks 0 --window {fixed}"
                    )));
                }
                (0, fixed)
            }
        };
        let total = u64::from(sinks) + u64::from(window);
        if total > 1 << 30 {
            return Err(Error::DoesNotFit(format!("a cache of {total} tokens; at most 2^30 are possible")));
        }
        if attention == Attention::Dense && window == 0 {
            return Err(Error::Settings("--attention dense needs room: --window 0 keeps nothing".into()));
        }
        // A fresh run over the last S + R + 1 tokens needs no sinks of its own: its first tokens take their place. Only the
        // sink token of a model that was trained with one stays in front, as in every text that the model is given.
        Ok(if attention == Attention::Recompute {
            let sink_token = config.sink_token.filter(|_| sinks > 0);
            Self { attention, sinks: 0, window: sinks + window, sink_token }
        } else {
            Self { attention, sinks, window, sink_token: None }
        })
    }
}

/// Checks a number of columns, what `flag` asks for.
///
/// # Errors
/// [`Error::Settings`] outside 1..=[`MAX_COLUMNS`].
pub fn check_columns(flag: &str, columns: u32) -> Result<u32> {
    if (1..=MAX_COLUMNS).contains(&columns) {
        Ok(columns)
    } else {
        Err(Error::Settings(format!("{flag} {columns}: must be from 1 to {MAX_COLUMNS}")))
    }
}
