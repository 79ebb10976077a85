//! Which family a `config.json` describes, and its sizes: what names and shapes of the tensors follow from.

use super::folder::{Json, shown};
use crate::error::{Error, Result};

/// What we know how to bring over. The names are GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Phi3,
    GptNeox,
    Falcon,
    Mpt,
    Gemma2,
    Gemma3,
}

/// Class names of transformers (`architectures` of `config.json`) and their families.
const CLASSES: [(&str, Family); 12] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Llama),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Phi3ForCausalLM", Family::Phi3),
    ("GPTNeoXForCausalLM", Family::GptNeox),
    ("FalconForCausalLM", Family::Falcon),
    ("RWForCausalLM", Family::Falcon),
    ("MptForCausalLM", Family::Mpt),
    ("MPTForCausalLM", Family::Mpt),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
];

impl Family {
    /// `general.architecture`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Phi3 => "phi3",
            Self::GptNeox => "gptneox",
            Self::Falcon => "falcon",
            Self::Mpt => "mpt",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
        }
    }

    fn of(config: Json<'_>) -> Result<Self> {
        let class = config.get(&["architectures"]).and_then(|classes| classes[0].as_str());
        let class = class.ok_or_else(|| Error::Model("config.json: architectures is missing".into()))?;
        CLASSES.iter().find(|(name, _)| *name == class).map(|&(_, family)| family).ok_or_else(|| Error::Unsupported {
            what: format!("architecture {}", shown(class)),
            supported: format!("these work: {}", CLASSES.map(|(name, _)| name).join(", ")),
        })
    }

    /// Whether norms add 1 to their weights (Gemma); GGUF has the sum.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Whether the output matrix is the embedding unless `config.json` says otherwise (transformers' defaults).
    fn is_tied(self) -> bool {
        self.is_gemma() || matches!(self, Self::Falcon | Self::Mpt)
    }
}

/// Family and sizes.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) family: Family,
    pub(super) n_layers: u32,
    pub(super) dim: u32,
    pub(super) ffn_dim: u32,
    pub(super) n_heads: u32,
    pub(super) n_kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) vocab_size: u32,
    /// The output matrix is the embedding.
    pub(super) is_tied: bool,
    /// Falcon: two norms before a block (`num_ln_in_parallel_attn` = 2).
    pub(super) has_two_norms: bool,
}

impl Shape {
    /// # Errors
    /// [`Error::Unsupported`] for a class or a variant that we cannot bring over, [`Error::Model`] for a value that is
    /// missing or cannot be; each names it.
    pub(super) fn new(config: Json<'_>) -> Result<Self> {
        let family = Family::of(config)?;
        check_variant(config, family)?;
        let dim = config.size(&["hidden_size", "d_model", "n_embed"])?;
        let n_heads = config.size(&["num_attention_heads", "n_heads", "n_head"])?;
        let head_dim = match config.number(&["head_dim"])? {
            Some(head_dim @ 1..) => head_dim,
            // transformers' default of both classes, whatever the sizes.
            None if family.is_gemma() => 256,
            None if family == Family::Qwen3 => 128,
            _ if dim.is_multiple_of(n_heads) => dim / n_heads,
            _ => {
                return Err(Error::Model(format!(
                    "config.json: hidden_size {dim} is not whole heads, {n_heads} of them"
                )));
            }
        };
        let is_new_falcon = config.flag(&["new_decoder_architecture"]).unwrap_or(false);
        let n_kv_heads = match family {
            Family::Falcon if is_new_falcon => config.number(&["num_kv_heads", "n_head_kv"])?.unwrap_or(n_heads),
            Family::Falcon if config.flag(&["multi_query"]).unwrap_or(true) => 1,
            Family::Falcon | Family::Mpt | Family::GptNeox => n_heads,
            _ => config.number(&["num_key_value_heads"])?.unwrap_or(n_heads),
        };
        if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
            return Err(Error::Model(format!("config.json: {n_heads} heads for {n_kv_heads} key heads")));
        }
        let ffn_dim = match family {
            Family::Falcon => match config.number(&["ffn_hidden_size"])? {
                Some(ffn_dim @ 1..) => ffn_dim,
                _ => times(4, dim)?,
            },
            Family::Mpt => times(config.number(&["expansion_ratio"])?.unwrap_or(4), dim)?,
            _ => config.size(&["intermediate_size"])?,
        };
        let shape = Self {
            family,
            n_layers: config.size(&["num_hidden_layers", "n_layers", "n_layer"])?,
            dim,
            ffn_dim,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: config.size(&["vocab_size"])?,
            is_tied: config.flag(&["tie_word_embeddings"]).unwrap_or_else(|| family.is_tied()),
            has_two_norms: is_new_falcon && config.number(&["num_ln_in_parallel_attn"])?.unwrap_or(2) == 2,
        };
        // With this, no product of two sizes leaves u64, and no table of tensors is longer than any model's.
        let sizes = [shape.dim, shape.ffn_dim, shape.n_heads, shape.head_dim, shape.vocab_size];
        if let Some(size) = sizes.into_iter().find(|&size| size > 1 << 24) {
            return Err(Error::Model(format!("config.json: a size of {size} is beyond any model")));
        }
        if shape.n_layers > 1 << 12 {
            return Err(Error::Model(format!("config.json: {} layers are beyond any model", shape.n_layers)));
        }
        if family != Family::Mpt && head_dim % 2 == 1 {
            return Err(Error::Model(format!("config.json: a head size of {head_dim} cannot be rotated")));
        }
        Ok(shape)
    }
}

fn times(factor: u32, dim: u32) -> Result<u32> {
    factor
        .checked_mul(dim)
        .filter(|&size| size > 0)
        .ok_or_else(|| Error::Model(format!("config.json: {factor} · {dim} inner weights")))
}

/// Refuses what the family's forward pass in GGUF has no place for.
fn check_variant(config: Json<'_>, family: Family) -> Result<()> {
    let refused = |what: String| {
        let supported = format!("a {} model of the usual form works", family.name());
        Err(Error::Unsupported { what, supported })
    };
    let activation = config.get(&["hidden_activation", "hidden_act", "activation"]).and_then(|name| name.as_str());
    let is_gelu = family.is_gemma() || matches!(family, Family::GptNeox | Family::Falcon | Family::Mpt);
    if let Some(name) = activation.filter(|name| !if is_gelu { name.starts_with("gelu") } else { *name == "silu" }) {
        return refused(format!("the activation {}", shown(name)));
    }
    let flags: &[(&str, bool)] = match family {
        Family::Falcon => &[("alibi", false), ("bias", false), ("parallel_attn", true)],
        Family::Mpt => &[("no_bias", true)],
        _ => &[],
    };
    for (flag, wanted) in flags {
        if config.flag(&[flag]).is_some_and(|value| value != *wanted) {
            return refused(format!("{} with {flag} = {}", family.name(), !wanted));
        }
    }
    if let Some(attention) = config.get(&["attn_config"]).map(Json).filter(|_| family == Family::Mpt) {
        for (flag, wanted) in [("alibi", true), ("qk_ln", false), ("prefix_lm", false)] {
            if attention.flag(&[flag]).is_some_and(|value| value != wanted) {
                return refused(format!("mpt with {flag} = {}", !wanted));
            }
        }
        if attention.get(&["attn_type"]).is_some_and(|kind| kind != "multihead_attention") {
            return refused(format!("mpt with attn_type {}", attention.0["attn_type"]));
        }
        if attention.get(&["softmax_scale"]).is_some() {
            return refused("mpt with a softmax_scale".into());
        }
    }
    Ok(())
}
