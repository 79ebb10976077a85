//! What sets one transformer family apart from another: one description each. [`crate::config`] reads a file's numbers by
//! it, [`crate::forward`] lays the shared blocks out by it; no kernel knows of families.

use crate::error::{Error, Result};
use crate::kernels::activation::Activation;

/// How a family knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// RoPE on neighbouring rows of a head (2i, 2i + 1).
    Neighbours,
    /// RoPE on halves of what is rotated (i, i + `rotary_dim` / 2), as in `NeoX`.
    Halves,
    /// Scores lose so much per token of distance (`ALiBi`).
    Slopes,
}

/// The two parts of a block: one after the other, or side by side on the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Attention, then the feed-forward on its result.
    Serial,
    /// Both on the block's input.
    Parallel,
    /// `use_parallel_residual` in the file says which.
    InFile,
}

/// A transformer family, as GGUF names them.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `general.architecture`.
    pub name: &'static str,
    /// Models that people know, for messages.
    pub models: &'static str,
    /// Layer norms instead of RMS norms.
    pub layer_norm: bool,
    /// How it knows where a token stands.
    pub positions: Positions,
    /// Queries, keys and values come as one tensor.
    pub fused_qkv: bool,
    /// What the feed-forward's inner layer goes through.
    pub activation: Activation,
    /// The feed-forward has gates.
    pub gated: bool,
    /// Gates and inner layer come as one tensor.
    pub fused_gate_up: bool,
    /// One after the other or side by side.
    pub order: Order,
    /// The feed-forward shares the attention's norm `attn_norm`; with `attn_norm_2` that one is the attention's.
    pub shared_norm: bool,
    /// Queries and keys of a head are normed.
    pub head_norms: bool,
    /// What a block adds is normed (`post_attention_norm`, `post_ffw_norm`).
    pub post_norms: bool,
    /// The embedding is multiplied by `sqrt(dim)`.
    pub scaled_embedding: bool,
    /// With a sliding window in the file, all but every so-manieth layer have it, unless `attention.sliding_window_pattern`
    /// says otherwise; 0: it is the whole model's.
    pub global_every: u32,
    /// Tensors of a layer that must have a bias. Others may.
    pub biased: &'static [&'static str],
}

const LLAMA: Family = Family {
    name: "llama",
    models: "Llama 1 to 3.x, SmolLM2, TinyLlama, Mistral",
    layer_norm: false,
    positions: Positions::Neighbours,
    fused_qkv: false,
    activation: Activation::Silu,
    gated: true,
    fused_gate_up: false,
    order: Order::Serial,
    shared_norm: false,
    head_norms: false,
    post_norms: false,
    scaled_embedding: false,
    global_every: 0,
    biased: &[],
};

const GPT_NEOX: Family = Family {
    name: "gptneox",
    models: "Pythia",
    layer_norm: true,
    positions: Positions::Halves,
    fused_qkv: true,
    activation: Activation::GeluErf,
    gated: false,
    order: Order::InFile,
    biased: &["attn_qkv", "attn_output", "ffn_up", "ffn_down"],
    ..LLAMA
};

const GEMMA2: Family = Family {
    name: "gemma2",
    models: "Gemma 2",
    positions: Positions::Halves,
    activation: Activation::GeluTanh,
    post_norms: true,
    scaled_embedding: true,
    global_every: 2,
    ..LLAMA
};

/// All families that run.
pub const FAMILIES: [Family; 9] = [
    LLAMA,
    Family {
        name: "qwen2",
        models: "Qwen2, Qwen2.5",
        positions: Positions::Halves,
        biased: &["attn_q", "attn_k", "attn_v"],
        ..LLAMA
    },
    Family { name: "qwen3", models: "Qwen3", positions: Positions::Halves, head_norms: true, ..LLAMA },
    Family {
        name: "phi3",
        models: "Phi-3",
        positions: Positions::Halves,
        fused_qkv: true,
        fused_gate_up: true,
        ..LLAMA
    },
    GPT_NEOX,
    Family {
        name: "falcon",
        models: "Falcon 7B, 11B, 40B",
        order: Order::Parallel,
        shared_norm: true,
        biased: &[],
        ..GPT_NEOX
    },
    Family { name: "mpt", models: "MPT", positions: Positions::Slopes, order: Order::Serial, biased: &[], ..GPT_NEOX },
    GEMMA2,
    Family { name: "gemma3", models: "Gemma 3", head_norms: true, global_every: 6, ..GEMMA2 },
];

impl Family {
    /// The family of that name.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with those that work.
    pub fn find(name: &str) -> Result<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| family.name == name)
            .ok_or_else(|| Error::Unsupported { what: format!("architecture {name:?}"), supported: Self::supported() })
    }

    /// What runs, for messages.
    pub fn supported() -> String {
        let names = FAMILIES.iter().map(|family| format!("{} ({})", family.name, family.models));
        format!("these work: {}", names.collect::<Vec<_>>().join(", "))
    }
}
