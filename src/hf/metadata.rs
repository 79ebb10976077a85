//! From `config.json` to the metadata of a GGUF file, with the keys of llama.cpp, and the rotation's tables that GGUF
//! keeps as tensors; [`super::rope`] has the rotation.

use super::family::{Family, Shape};
use super::folder::Json;
use super::header::{Metadata, Value};
use super::rope::rope;
use crate::error::{Error, Result};

/// A tensor that stands in no safetensors file: its name and values.
pub(super) type Table = (&'static str, Vec<f32>);

/// Where values of one architecture go.
pub(super) struct Keys<'a> {
    architecture: &'a str,
    metadata: Metadata,
    pub(super) tables: Vec<Table>,
}

impl Keys<'_> {
    pub(super) fn add(&mut self, key: &str, value: Value) {
        self.metadata.push((format!("{}.{key}", self.architecture), value));
    }

    pub(super) fn number(&mut self, key: &str, value: u32) {
        self.add(key, Value::U32(value));
    }

    pub(super) fn float(&mut self, key: &str, value: f64) {
        self.add(key, Value::F32(value as f32));
    }

    pub(super) fn float_if(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.float(key, value);
        }
    }
}

/// The keys below the architecture's name, and the tables.
///
/// # Errors
/// [`Error::Unsupported`] or [`Error::Model`] for values that GGUF has no place for; each names them.
pub(super) fn metadata(config: Json<'_>, shape: &Shape) -> Result<(Metadata, Vec<Table>)> {
    let family = shape.family;
    let mut keys = Keys { architecture: family.name(), metadata: vec![], tables: vec![] };
    let context = config.number(&["max_position_embeddings", "max_seq_len", "n_positions"])?.unwrap_or(2048);
    keys.number("context_length", context);
    keys.number("embedding_length", shape.dim);
    keys.number("block_count", shape.n_layers);
    keys.number("feed_forward_length", shape.ffn_dim);
    keys.number("vocab_size", shape.vocab_size);
    keys.number("attention.head_count", shape.n_heads);
    keys.number("attention.head_count_kv", shape.n_kv_heads);
    if u64::from(shape.head_dim) * u64::from(shape.n_heads) != u64::from(shape.dim) || family.is_gemma() {
        keys.number("attention.key_length", shape.head_dim);
        keys.number("attention.value_length", shape.head_dim);
    }
    let eps = config.float(&["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"])?;
    if matches!(family, Family::GptNeox | Family::Falcon | Family::Mpt) {
        keys.float("attention.layer_norm_epsilon", eps.unwrap_or(1e-5));
    } else {
        keys.float("attention.layer_norm_rms_epsilon", eps.unwrap_or(1e-6));
    }
    match family {
        Family::GptNeox => {
            keys.add("use_parallel_residual", Value::Bool(config.flag(&["use_parallel_residual"]).unwrap_or(true)));
        }
        // The order of the query, key and value rows.
        Family::Falcon => keys.add("tensor_data_layout", Value::Text("jploski".into())),
        Family::Mpt => {
            let attention = Json(config.get(&["attn_config"]).unwrap_or(&serde_json::Value::Null));
            keys.float("attention.max_alibi_bias", attention.float(&["alibi_bias_max"])?.unwrap_or(8.0));
            keys.float_if("attention.clamp_kqv", attention.float(&["clip_qkv"])?.filter(|clip| *clip != 0.0));
        }
        _ => {}
    }
    if family.is_gemma() {
        keys.float_if("attn_logit_softcapping", config.float(&["attn_logit_softcapping"])?);
        keys.float_if("final_logit_softcapping", config.float(&["final_logit_softcapping"])?);
        // Without the key, scores are divided by the root of the head's size.
        let scalar = config.float(&["query_pre_attn_scalar"])?.unwrap_or(256.0);
        if scalar != f64::from(shape.head_dim) {
            keys.float("attention.scale", 1.0 / scalar.sqrt());
        }
    }
    sliding_window(config, shape, &mut keys)?;
    if family != Family::Mpt {
        rope(config, shape, context, &mut keys)?;
    }
    Ok((keys.metadata, keys.tables))
}

/// `attention.sliding_window`, and which layers it is for.
fn sliding_window(config: Json<'_>, shape: &Shape, keys: &mut Keys<'_>) -> Result<()> {
    let is_qwen = matches!(shape.family, Family::Qwen2 | Family::Qwen3);
    let is_used = config.flag(&["use_sliding_window"]).unwrap_or(!is_qwen);
    let window = config.number(&["sliding_window"])?.filter(|_| is_used);
    let Some(window) = window else { return Ok(()) };
    let kinds = config.get(&["layer_types"]).and_then(|kinds| kinds.as_array());
    let sliding: Option<Vec<bool>> = match kinds {
        Some(kinds) => Some(kinds.iter().map(|kind| kind == "sliding_attention").collect()),
        // Old Qwen configurations: the first layers see everything.
        None if is_qwen => {
            let first = config.number(&["max_window_layers"])?.unwrap_or(28);
            Some((0..shape.n_layers).map(|layer| layer >= first).collect())
        }
        None => None,
    };
    if shape.family.is_gemma() {
        // Every so many layers one sees everything.
        let usual = if shape.family == Family::Gemma2 { 2 } else { 6 };
        let named = config.number(&["sliding_window_pattern", "_sliding_window_pattern"])?.filter(|&period| period > 0);
        let fits = |period: u32| match &sliding {
            Some(sliding) => (1..).zip(sliding).all(|(layer, slides)| (layer % period != 0) == *slides),
            None => period == named.unwrap_or(usual),
        };
        let Some(period) = named.into_iter().chain([usual]).chain(1..=shape.n_layers).find(|&period| fits(period))
        else {
            return Err(Error::Unsupported {
                what: format!("layer_types {}", config.0["layer_types"]),
                supported: "a layer with full attention every so many layers works".into(),
            });
        };
        keys.number("attention.sliding_window_pattern", period);
    } else if let Some(sliding) = sliding.filter(|sliding| !sliding.iter().all(|slides| *slides)) {
        if sliding.iter().any(|slides| *slides) {
            return Err(Error::Unsupported {
                what: format!("{} with a sliding window in some layers only", shape.family.name()),
                supported: "a window in all layers works, or in none".into(),
            });
        }
        return Ok(());
    }
    keys.number("attention.sliding_window", window);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as JsonValue, json};

    use super::*;

    /// The sizes of a small model of a class, and what else its configuration says.
    fn config(class: &str, more: JsonValue) -> JsonValue {
        let mut config = json!({
            "architectures": [class], "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4,
            "intermediate_size": 96, "vocab_size": 10, "max_position_embeddings": 512,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn made(class: &str, more: JsonValue) -> Result<(Metadata, Vec<Table>)> {
        let config = config(class, more);
        metadata(Json(&config), &Shape::new(Json(&config))?)
    }

    fn value(class: &str, more: JsonValue, key: &str) -> Option<Value> {
        let (metadata, _) = made(class, more).unwrap();
        metadata.into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn refused(class: &str, more: JsonValue) -> String {
        made(class, more).unwrap_err().to_string()
    }

    #[test]
    fn scaling_comes_over_in_old_and_new_words() {
        let linear = json!({ "rope_theta": 5e5, "rope_scaling": { "type": "linear", "factor": 4 } });
        assert_eq!(value("LlamaForCausalLM", linear.clone(), "llama.rope.freq_base"), Some(Value::F32(5e5)));
        assert_eq!(value("LlamaForCausalLM", linear, "llama.rope.scaling.factor"), Some(Value::F32(4.0)));
        let yarn = json!({ "rope_parameters": { "rope_type": "yarn", "rope_theta": 7e3, "factor": 2.0, "attention_factor": 2.0 } });
        assert_eq!(value("Qwen2ForCausalLM", yarn.clone(), "qwen2.rope.freq_base"), Some(Value::F32(7e3)));
        assert_eq!(
            value("Qwen2ForCausalLM", yarn.clone(), "qwen2.rope.scaling.original_context_length"),
            Some(Value::U32(512))
        );
        // 2 / (0.1 ln 2 + 1)
        assert_eq!(value("Qwen2ForCausalLM", yarn, "qwen2.rope.scaling.attn_factor"), Some(Value::F32(1.870_356_8)));
        assert!(
            refused("LlamaForCausalLM", json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } }))
                .starts_with("RoPE scaling dynamic is not supported")
        );
        assert!(
            refused("LlamaForCausalLM", json!({ "rope_scaling": { "type": "linear" } }))
                .contains("factor of the linear RoPE scaling is missing")
        );
    }

    #[test]
    fn long_rope_becomes_two_tables_and_a_factor() {
        let factors = |factor: f64| vec![factor; 8];
        let more = json!({
            "original_max_position_embeddings": 128,
            "rope_scaling": { "type": "su", "long_factor": factors(2.0), "short_factor": factors(1.0) },
        });
        // √(1 + ln 4 / ln 128)
        assert_eq!(
            value("Phi3ForCausalLM", more.clone(), "phi3.rope.scaling.attn_factor"),
            Some(Value::F32(1.133_893_4))
        );
        assert_eq!(
            value("Phi3ForCausalLM", more.clone(), "phi3.rope.scaling.original_context_length"),
            Some(Value::U32(128))
        );
        let (_, tables) = made("Phi3ForCausalLM", more.clone()).unwrap();
        assert_eq!(tables, [("rope_factors_long.weight", vec![2.0; 8]), ("rope_factors_short.weight", vec![1.0; 8])]);
        let mut short = more;
        short["rope_scaling"]["long_factor"] = json!([1.0]);
        assert!(refused("Phi3ForCausalLM", short).contains("1 numbers in long_factor, not 8"));
    }

    #[test]
    fn windows_come_over_with_their_layers() {
        let kinds = |kinds: &str| -> Vec<&str> {
            kinds.chars().map(|kind| if kind == 's' { "sliding_attention" } else { "full_attention" }).collect()
        };
        let gemma = |pattern: &str| json!({ "head_dim": 16, "sliding_window": 8, "layer_types": kinds(pattern) });
        let key = "gemma3.attention.sliding_window_pattern";
        assert_eq!(value("Gemma3ForCausalLM", gemma("ssss"), key), Some(Value::U32(6)));
        assert_eq!(value("Gemma3ForCausalLM", gemma("ssfs"), key), Some(Value::U32(3)));
        assert!(refused("Gemma3ForCausalLM", gemma("fsss")).starts_with("layer_types"));
        let key = "qwen2.attention.sliding_window";
        let qwen =
            |pattern: &str| json!({ "sliding_window": 8, "use_sliding_window": true, "layer_types": kinds(pattern) });
        assert_eq!(value("Qwen2ForCausalLM", qwen("ssss"), key), Some(Value::U32(8)));
        assert_eq!(value("Qwen2ForCausalLM", qwen("ffff"), key), None);
        assert!(refused("Qwen2ForCausalLM", qwen("ffss")).contains("some layers only"));
        assert_eq!(value("Qwen2ForCausalLM", json!({ "sliding_window": 8 }), key), None);
        let old = |first: u32| json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": first });
        assert_eq!(value("Qwen2ForCausalLM", old(0), key), Some(Value::U32(8)));
        assert_eq!(value("Qwen2ForCausalLM", old(4), key), None);
        assert!(refused("Qwen2ForCausalLM", old(2)).contains("some layers only"));
        assert_eq!(
            value("MistralForCausalLM", json!({ "sliding_window": 8 }), "llama.attention.sliding_window"),
            Some(Value::U32(8))
        );
    }

    #[test]
    fn each_family_has_keys_of_its_own() {
        let gemma = json!({ "head_dim": 16, "query_pre_attn_scalar": 4, "attn_logit_softcapping": 50.0 });
        assert_eq!(value("Gemma2ForCausalLM", gemma.clone(), "gemma2.attention.scale"), Some(Value::F32(0.5)));
        assert_eq!(value("Gemma2ForCausalLM", gemma, "gemma2.attn_logit_softcapping"), Some(Value::F32(50.0)));
        let neox = json!({ "rotary_pct": 0.5, "use_parallel_residual": false });
        assert_eq!(value("GPTNeoXForCausalLM", neox.clone(), "gptneox.rope.dimension_count"), Some(Value::U32(8)));
        assert_eq!(value("GPTNeoXForCausalLM", neox, "gptneox.use_parallel_residual"), Some(Value::Bool(false)));
        let mpt =
            json!({ "attn_config": { "alibi": true, "alibi_bias_max": 4, "clip_qkv": 6.0 }, "expansion_ratio": 2 });
        assert_eq!(value("MptForCausalLM", mpt.clone(), "mpt.attention.max_alibi_bias"), Some(Value::F32(4.0)));
        assert_eq!(value("MptForCausalLM", mpt.clone(), "mpt.attention.clamp_kqv"), Some(Value::F32(6.0)));
        assert_eq!(value("MptForCausalLM", mpt.clone(), "mpt.feed_forward_length"), Some(Value::U32(128)));
        assert_eq!(value("MptForCausalLM", mpt, "mpt.rope.freq_base"), None);
        let falcon = json!({ "new_decoder_architecture": true, "num_kv_heads": 2 });
        assert_eq!(value("FalconForCausalLM", falcon, "falcon.attention.head_count_kv"), Some(Value::U32(2)));
        assert_eq!(value("FalconForCausalLM", json!({}), "falcon.attention.head_count_kv"), Some(Value::U32(1)));
    }

    #[test]
    fn names_what_it_cannot_bring_over() {
        for (class, more, expected) in [
            ("BertModel", json!({}), "architecture BertModel is not supported"),
            ("LlamaForCausalLM", json!({ "hidden_act": "relu" }), "the activation relu is not supported"),
            ("LlamaForCausalLM", json!({ "num_attention_heads": 5 }), "hidden_size 64 is not whole heads"),
            ("LlamaForCausalLM", json!({ "num_key_value_heads": 3 }), "4 heads for 3 key heads"),
            ("LlamaForCausalLM", json!({ "num_hidden_layers": 0 }), "num_hidden_layers = 0"),
            ("LlamaForCausalLM", json!({ "vocab_size": "many" }), "vocab_size = \"many\""),
            ("LlamaForCausalLM", json!({ "intermediate_size": null }), "intermediate_size is missing"),
            ("LlamaForCausalLM", json!({ "intermediate_size": 1_u32 << 30 }), "beyond any model"),
            ("FalconForCausalLM", json!({ "alibi": true }), "falcon with alibi = true is not supported"),
            ("MptForCausalLM", json!({ "attn_config": { "qk_ln": true } }), "mpt with qk_ln = true"),
            ("Qwen2ForCausalLM", json!({ "partial_rotary_factor": 0.5 }), "qwen2 with partial_rotary_factor 0.5"),
        ] {
            let error = refused(class, more);
            assert!(error.contains(expected), "{error:?} has no {expected:?}");
        }
    }
}
