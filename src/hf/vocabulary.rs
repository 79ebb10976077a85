//! A folder's tokenizer as GGUF metadata: whole, or as the lists that every GGUF reader knows; with the ids that have a
//! part to play and the chat template.

use serde_json::Value as JsonValue;

use super::folder::Folder;
use super::header::{Metadata, Value};
use crate::error::Result;
use crate::tokenizer::{Exported, export};

/// Texts of tokens that end a turn.
const TURN_ENDS: [&str; 5] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>"];

/// The `tokenizer.json` in one piece, under GGUF's key for it. Nothing if there is none.
pub(super) fn as_it_is(folder: &Folder) -> Result<Metadata> {
    let Some(json) = folder.text("tokenizer.json")? else { return Ok(vec![]) };
    let mut metadata = special(folder)?;
    metadata.push(("tokenizer.huggingface.json".into(), Value::Text(json)));
    Ok(metadata)
}

/// Tokens, types, scores or merges. `count`: rows of the embedding.
pub(super) fn for_everyone(folder: &Folder, count: u32) -> Result<Metadata> {
    folder.required("tokenizer.json")?;
    let json = folder.text("tokenizer.json")?.unwrap_or_default();
    let Exported { model, pre, tokens, token_types, scores, merges, add_space_prefix } = export(&json, count)?;
    let mut metadata: Metadata = vec![];
    let mut add = |key: &str, value: Value| metadata.push((format!("tokenizer.ggml.{key}"), value));
    add("model", Value::Text(model.into()));
    add("pre", Value::Text(pre.into()));
    add("tokens", Value::Texts(tokens));
    add("token_type", Value::Integers(token_types));
    if model == "llama" {
        add("scores", Value::Floats(scores));
        add("add_space_prefix", Value::Bool(add_space_prefix));
    } else {
        add("merges", Value::Texts(merges));
    }
    metadata.extend(special(folder)?);
    Ok(metadata)
}

/// Ids of special tokens, whether BOS and EOS are added, and the chat template.
fn special(folder: &Folder) -> Result<Metadata> {
    let read = |name: &str| Ok::<_, crate::Error>(folder.json(name)?.unwrap_or_default());
    let tokenizer = read("tokenizer.json")?;
    let settings = read("tokenizer_config.json")?;
    let configs = [read("generation_config.json")?, read("config.json")?];

    let id_of = |text: &str| {
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
        let added = added.filter(|token| token["content"] == text).find_map(|token| token["id"].as_u64());
        added.or_else(|| tokenizer["model"]["vocab"][text].as_u64()).and_then(|id| u32::try_from(id).ok())
    };
    // By name from the tokenizer's settings, else by number from the model's; of several numbers the first.
    let role = |name: &str| {
        let named = &settings[format!("{name}_token")];
        let named = named.as_str().or_else(|| named["content"].as_str()).and_then(id_of);
        named.or_else(|| configs.iter().find_map(|config| ids(&config[format!("{name}_token_id")]).first().copied()))
    };
    let mut metadata: Metadata = vec![];
    let mut add = |key: &str, value: Value| metadata.push((key.to_owned(), value));
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some(id) = role(name) {
            add(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
        }
    }
    let ends = ids(&configs[0]["eos_token_id"]);
    if let Some(id) = TURN_ENDS.iter().filter_map(|text| id_of(text)).find(|id| ends.contains(id)) {
        add("tokenizer.ggml.eot_token_id", Value::U32(id));
    }
    let (first, last) = template(&tokenizer["post_processor"]);
    for (name, found) in [("bos", first), ("eos", last)] {
        let is_added = settings[format!("add_{name}_token")].as_bool().unwrap_or(found);
        add(&format!("tokenizer.ggml.add_{name}_token"), Value::Bool(is_added && role(name).is_some()));
    }
    let template = match folder.text("chat_template.jinja")? {
        Some(template) => Some(template),
        None => chat_template(&settings["chat_template"]).map(str::to_owned),
    };
    if let Some(template) = template {
        add("tokenizer.chat_template", Value::Text(template));
    }
    Ok(metadata)
}

/// An id, or a list of them.
fn ids(value: &JsonValue) -> Vec<u32> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// Whether a post-processor puts a special token before a text, and after it.
fn template(processor: &JsonValue) -> (bool, bool) {
    if let Some(processors) = processor["processors"].as_array() {
        let both: Vec<_> = processors.iter().map(template).collect();
        return (both.iter().any(|(first, _)| *first), both.iter().any(|(_, last)| *last));
    }
    let is_special = |part: Option<&JsonValue>| part.is_some_and(|part| part["SpecialToken"].is_object());
    let single = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
    (is_special(single.first()), is_special(single.last()))
}

/// A template, or of several named ones the default.
fn chat_template(value: &JsonValue) -> Option<&str> {
    let named = || value.as_array()?.iter().find(|template| template["name"] == "default")?["template"].as_str();
    value.as_str().or_else(named)
}
