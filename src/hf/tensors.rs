//! Which tensor of a Hugging Face folder becomes which tensor of a GGUF file, and in what order of rows.
//!
//! Names are those of llama.cpp's `gguf` package (`tensor_mapping.py`), row orders those of its converter.

use super::family::{Family, Shape};

/// How many rows or columns, in the model's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    One,
    Dim,
    Ffn,
    /// Gate and up on top of each other.
    TwoFfn,
    /// All query heads.
    Q,
    /// All key heads.
    Kv,
    /// Query, key and value heads on top of each other.
    Qkv,
    HeadDim,
    Vocab,
}

/// A weight: name in the GGUF file, name in the folder (both without `.weight`), rows, columns.
type Line = (&'static str, &'static str, Size, Size);

use Size::{Dim, Ffn, HeadDim, Kv, One, Q, Qkv, TwoFfn, Vocab};

/// Outside the blocks: embedding, last norm, output.
const LLAMA_ENDS: [Line; 3] = [
    ("token_embd", "model.embed_tokens", Vocab, Dim),
    ("output_norm", "model.norm", One, Dim),
    ("output", "lm_head", Vocab, Dim),
];
const GPTNEOX_ENDS: [Line; 3] = [
    ("token_embd", "gpt_neox.embed_in", Vocab, Dim),
    ("output_norm", "gpt_neox.final_layer_norm", One, Dim),
    ("output", "embed_out", Vocab, Dim),
];
const FALCON_ENDS: [Line; 3] = [
    ("token_embd", "transformer.word_embeddings", Vocab, Dim),
    ("output_norm", "transformer.ln_f", One, Dim),
    ("output", "lm_head", Vocab, Dim),
];
const MPT_ENDS: [Line; 3] = [
    ("token_embd", "transformer.wte", Vocab, Dim),
    ("output_norm", "transformer.norm_f", One, Dim),
    ("output", "lm_head", Vocab, Dim),
];

/// A block's parts.
const NORMS: &[Line] =
    &[("attn_norm", "input_layernorm", One, Dim), ("ffn_norm", "post_attention_layernorm", One, Dim)];
const GEMMA_NORMS: &[Line] = &[
    ("attn_norm", "input_layernorm", One, Dim),
    ("post_attention_norm", "post_attention_layernorm", One, Dim),
    ("ffn_norm", "pre_feedforward_layernorm", One, Dim),
    ("post_ffw_norm", "post_feedforward_layernorm", One, Dim),
];
const ATTENTION: &[Line] = &[
    ("attn_q", "self_attn.q_proj", Q, Dim),
    ("attn_k", "self_attn.k_proj", Kv, Dim),
    ("attn_v", "self_attn.v_proj", Kv, Dim),
    ("attn_output", "self_attn.o_proj", Dim, Q),
];
const HEAD_NORMS: &[Line] =
    &[("attn_q_norm", "self_attn.q_norm", One, HeadDim), ("attn_k_norm", "self_attn.k_norm", One, HeadDim)];
const GATED: &[Line] = &[
    ("ffn_gate", "mlp.gate_proj", Ffn, Dim),
    ("ffn_up", "mlp.up_proj", Ffn, Dim),
    ("ffn_down", "mlp.down_proj", Dim, Ffn),
];
const PHI3: &[Line] = &[
    ("attn_qkv", "self_attn.qkv_proj", Qkv, Dim),
    ("attn_output", "self_attn.o_proj", Dim, Q),
    ("ffn_up", "mlp.gate_up_proj", TwoFfn, Dim),
    ("ffn_down", "mlp.down_proj", Dim, Ffn),
];
const GPTNEOX: &[Line] = &[
    ("attn_qkv", "attention.query_key_value", Qkv, Dim),
    ("attn_output", "attention.dense", Dim, Q),
    ("ffn_up", "mlp.dense_h_to_4h", Ffn, Dim),
    ("ffn_down", "mlp.dense_4h_to_h", Dim, Ffn),
];
const FALCON: &[Line] = &[
    ("attn_qkv", "self_attention.query_key_value", Qkv, Dim),
    ("attn_output", "self_attention.dense", Dim, Q),
    ("ffn_up", "mlp.dense_h_to_4h", Ffn, Dim),
    ("ffn_down", "mlp.dense_4h_to_h", Dim, Ffn),
];
const FALCON_NORM: &[Line] = &[("attn_norm", "input_layernorm", One, Dim)];
const FALCON_NORMS: &[Line] = &[("attn_norm", "ln_mlp", One, Dim), ("attn_norm_2", "ln_attn", One, Dim)];
const MPT: &[Line] = &[
    ("attn_norm", "norm_1", One, Dim),
    ("attn_qkv", "attn.Wqkv", Qkv, Dim),
    ("attn_output", "attn.out_proj", Dim, Q),
    ("ffn_norm", "norm_2", One, Dim),
    ("ffn_up", "ffn.up_proj", Ffn, Dim),
    ("ffn_down", "ffn.down_proj", Dim, Ffn),
];

/// Tensors that old checkpoints carry and nothing reads: the mask and the rotation's constants.
const IGNORED: [&str; 3] = [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];

/// Whether a tensor of the folder that no [`Wanted`] names may be left out.
pub(super) fn is_ignored(name: &str, shape: &Shape) -> bool {
    // A tied output is the embedding once more.
    IGNORED.iter().any(|end| name.ends_with(end))
        || shape.is_tied && ["lm_head.weight", "embed_out.weight"].contains(&name)
}

/// Which row of the folder's tensor a row of the GGUF tensor is. Biases have one weight a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As they are.
    Same,
    /// Per head from (first half, second half) to neighbouring pairs, as GGUF's `llama` rotates.
    Pairs { head_dim: u64 },
    /// From `[group][queries of the group, key, value][head_dim]` to all queries, all keys, all values. A group is the
    /// query heads that share a key head.
    Grouped { groups: u64, queries: u64, head_dim: u64 },
}

impl Order {
    /// The row in the folder for a row of the GGUF tensor.
    pub(super) fn source_row(self, row: u64) -> u64 {
        match self {
            Self::Same => row,
            Self::Pairs { head_dim } => {
                let (head, at) = (row / head_dim, row % head_dim);
                head * head_dim + at % 2 * (head_dim / 2) + at / 2
            }
            Self::Grouped { groups, queries, head_dim } => {
                let (head, at) = (row / head_dim, row % head_dim);
                let n_queries = groups * queries;
                let (group, within) = if head < n_queries {
                    (head / queries, head % queries)
                } else {
                    ((head - n_queries) % groups, queries + (head - n_queries) / groups)
                };
                (group * (queries + 2) + within) * head_dim + at
            }
        }
    }
}

/// A tensor of the GGUF file and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// GGUF name, without `.weight`.
    pub(super) name: String,
    /// Name in the folder, without `.weight`.
    pub(super) from: String,
    /// 1 for a vector.
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) order: Order,
}

/// All weights of a model in the order of the file. Their biases are the folder's business.
pub(super) fn wanted(shape: &Shape) -> Vec<Wanted> {
    let (ends, prefix): ([Line; 3], &str) = match shape.family {
        Family::GptNeox => (GPTNEOX_ENDS, "gpt_neox.layers"),
        Family::Falcon => (FALCON_ENDS, "transformer.h"),
        Family::Mpt => (MPT_ENDS, "transformer.blocks"),
        _ => (LLAMA_ENDS, "model.layers"),
    };
    let block: &[&[Line]] = match shape.family {
        Family::Llama | Family::Qwen2 => &[NORMS, ATTENTION, GATED],
        Family::Qwen3 => &[NORMS, ATTENTION, HEAD_NORMS, GATED],
        Family::Phi3 => &[NORMS, PHI3],
        Family::GptNeox => &[NORMS, GPTNEOX],
        Family::Falcon if shape.has_two_norms => &[FALCON_NORMS, FALCON],
        Family::Falcon => &[FALCON_NORM, FALCON],
        Family::Mpt => &[MPT],
        Family::Gemma2 => &[GEMMA_NORMS, ATTENTION, GATED],
        Family::Gemma3 => &[GEMMA_NORMS, ATTENTION, HEAD_NORMS, GATED],
    };
    let outside = ends.iter().filter(|line| line.0 != "output" || !shape.is_tied);
    let mut all: Vec<Wanted> = outside.map(|line| shape.weight(line, String::new(), String::new())).collect();
    for layer in 0..shape.n_layers {
        let lines = block.iter().copied().flatten();
        all.extend(lines.map(|line| shape.weight(line, format!("blk.{layer}."), format!("{prefix}.{layer}."))));
    }
    all
}

impl Shape {
    fn weight(&self, &(name, from, rows, cols): &Line, blk: String, layer: String) -> Wanted {
        Wanted {
            name: blk + name,
            from: layer + from,
            rows: self.size(rows),
            cols: self.size(cols),
            order: self.order(name),
        }
    }

    fn size(&self, size: Size) -> u64 {
        let of = |factor: u32, other: u32| u64::from(factor) * u64::from(other);
        match size {
            One => 1,
            Dim => self.dim.into(),
            Ffn => self.ffn_dim.into(),
            TwoFfn => of(2, self.ffn_dim),
            Q => of(self.n_heads, self.head_dim),
            Kv => of(self.n_kv_heads, self.head_dim),
            Qkv => of(self.n_heads, self.head_dim) + 2 * of(self.n_kv_heads, self.head_dim),
            HeadDim => self.head_dim.into(),
            Vocab => self.vocab_size.into(),
        }
    }

    fn order(&self, name: &str) -> Order {
        let head_dim = u64::from(self.head_dim);
        match (self.family, name) {
            (Family::Llama, "attn_q" | "attn_k") => Order::Pairs { head_dim },
            (Family::GptNeox | Family::Falcon, "attn_qkv") => {
                let (groups, queries) = (u64::from(self.n_kv_heads), u64::from(self.n_heads / self.n_kv_heads));
                Order::Grouped { groups, queries, head_dim }
            }
            _ => Order::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of the folder in the order of the GGUF file.
    fn rows(order: Order, count: u64) -> Vec<u64> {
        (0..count).map(|row| order.source_row(row)).collect()
    }

    #[test]
    fn pairs_stand_side_by_side() {
        // Two heads of 6: the folder has 0 1 2 | 3 4 5, rotated as (0, 3), (1, 4), (2, 5).
        assert_eq!(rows(Order::Pairs { head_dim: 6 }, 12), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn queries_come_first_then_keys_then_values() {
        // GPT-NeoX, two heads of 2: q q k k v v of the first, then of the second.
        let neox = Order::Grouped { groups: 2, queries: 1, head_dim: 2 };
        assert_eq!(rows(neox, 12), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        // Falcon, two key heads with three query heads each, heads of 1: q q q k v of the first, then of the second.
        let falcon = Order::Grouped { groups: 2, queries: 3, head_dim: 1 };
        assert_eq!(rows(falcon, 10), [0, 1, 2, 5, 6, 7, 3, 8, 4, 9]);
        // One key head for all: as it was.
        let one = Order::Grouped { groups: 1, queries: 3, head_dim: 2 };
        assert_eq!(rows(one, 10), rows(Order::Same, 10));
    }
}
