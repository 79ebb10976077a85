//! A `tokenizer.json` as the vocabulary of a GGUF file: the lists that `tokenizer::gguf` reads.
//!
//! Two kinds of BPE have a place there: byte-level (`gpt2`, with the name of the pre-tokenizer) and sentencepiece's
//! (`llama`, where merges follow from the tokens' scores). What those lists cannot say is an error, with one exception
//! that llama.cpp makes too: the normalisation to NFC is left out.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::gguf::{LONGEST_MERGED, token_type};
use super::json::check_model;
use super::pre::Pre;
use super::{byte_token, refused};
use crate::error::{Error, Result};

/// The lists of `tokenizer.ggml.*`.
#[derive(Debug)]
pub(crate) struct Exported {
    /// `gpt2` or `llama`.
    pub(crate) model: &'static str,
    /// `gpt2` only.
    pub(crate) pre: &'static str,
    pub(crate) tokens: Vec<String>,
    pub(crate) token_types: Vec<i32>,
    /// `llama` only.
    pub(crate) scores: Vec<f32>,
    /// `gpt2` only.
    pub(crate) merges: Vec<String>,
    /// `llama` only.
    pub(crate) add_space_prefix: bool,
}

/// The lists of a `tokenizer.json`, filled up to `count` tokens: the rows of the embedding.
///
/// # Errors
/// [`Error::Unsupported`] for what GGUF's lists cannot say, [`Error::Tokenizer`] for lists that contradict each other
/// or hold more than `count` tokens.
pub(crate) fn export(json: &str, count: u32) -> Result<Exported> {
    let file: Value = serde_json::from_str(json).map_err(refused)?;
    let model = &file["model"];
    check_model(model)?;
    let is_scored = model["byte_fallback"] == true;
    let (tokens, token_types) = tokens(&file, count as usize, is_scored)?;
    let merges = merges(model)?;
    if is_scored {
        let add_space_prefix = space_prefix(&file)?;
        let scores = scores(&tokens, &token_types, &merges)?;
        return Ok(Exported {
            model: "llama",
            pre: "default",
            tokens,
            token_types,
            scores,
            merges: vec![],
            add_space_prefix,
        });
    }
    match file["normalizer"]["type"].as_str() {
        None | Some("NFC") => {}
        Some(_) => {
            return Err(unsupported(format!("a byte-level tokenizer with the normalizer {}", file["normalizer"])));
        }
    }
    let pre = Pre::name_of(&file["pre_tokenizer"], model["ignore_merges"] == true)?;
    let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    Ok(Exported { model: "gpt2", pre, tokens, token_types, scores: vec![], merges, add_space_prefix: false })
}

fn unsupported(what: String) -> Error {
    Error::Unsupported { what, supported: "GGUF has no word for it; the folder itself can be loaded".into() }
}

/// Texts and types by id.
fn tokens(file: &Value, count: usize, is_scored: bool) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![token_type::UNUSED; count];
    let unknown = file["model"]["unk_token"].as_str();
    let mut put = |text: &str, id: &Value, kind: i32| {
        let place = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < count);
        let place =
            place.ok_or_else(|| Error::Tokenizer(format!("token {text:?} has id {id}, the embedding {count} rows")))?;
        (tokens[place], types[place]) = (text.to_owned(), kind);
        Ok::<_, Error>(())
    };
    for (text, id) in file["model"]["vocab"].as_object().into_iter().flatten() {
        let is_byte = is_scored && byte_token(text).is_some();
        put(text, id, if is_byte { token_type::BYTE } else { token_type::NORMAL })?;
    }
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let text = token["content"].as_str().unwrap_or_default();
        let kind = match (token["special"] == true, unknown == Some(text)) {
            (_, true) => token_type::UNKNOWN,
            (true, _) => token_type::CONTROL,
            (false, _) => token_type::USER_DEFINED,
        };
        put(text, &token["id"], kind)?;
    }
    Ok((tokens, types))
}

/// The merges as pairs, earliest first. Old files have one text with a space between, new ones a list of two.
fn merges(model: &Value) -> Result<Vec<(&str, &str)>> {
    let list = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let parts = list.iter().enumerate().map(|(row, merge)| {
        let parts = match merge {
            Value::String(pair) => pair.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        // A space between is how GGUF tells the two apart.
        parts
            .filter(|(left, right)| !left.contains(' ') && !right.contains(' '))
            .ok_or_else(|| Error::Tokenizer(format!("merge {row}, {merge}, is not of two tokens")))
    });
    parts.collect()
}

/// Scores from which the same merges follow: a token's is its first place in the list, negative.
///
/// Scores say only which token is made, so every way to put one together must stand in the list, all at one place. That
/// is how sentencepiece vocabularies are converted to `tokenizer.json`.
fn scores(tokens: &[String], types: &[i32], merges: &[(&str, &str)]) -> Result<Vec<f32>> {
    let is_text = |kind: i32| kind == token_type::NORMAL;
    let ids: HashMap<&str, usize> =
        tokens.iter().map(String::as_str).zip(0..).filter(|(_, id)| is_text(types[*id])).collect();
    let refused = || {
        Err(unsupported(
            "a tokenizer with byte fallback whose merges do not follow from scores, as sentencepiece's do,".into(),
        ))
    };
    let (mut scores, mut seen) = (vec![0.0; tokens.len()], HashSet::new());
    let (mut made, mut ways) = (HashSet::new(), 0);
    let mut last = None;
    for (rank, &(left, right)) in merges.iter().enumerate() {
        let merged = format!("{left}{right}");
        // An added token is found before anything merges, so that no merge makes one or takes part of one.
        let (true, true, Some(&id)) = (ids.contains_key(left), ids.contains_key(right), ids.get(merged.as_str()))
        else {
            continue;
        };
        ways += usize::from(seen.insert((left, right)));
        if last != Some(id) {
            if !made.insert(id) {
                return refused();
            }
            scores[id] = -(rank as f32);
            last = Some(id);
        }
    }
    let possible = |token: &str| {
        let cuts = token.char_indices().skip(1);
        cuts.filter(|(at, _)| ids.contains_key(&token[..*at]) && ids.contains_key(&token[*at..])).count()
    };
    if ids.keys().any(|token| token.len() > LONGEST_MERGED)
        || ids.keys().map(|token| possible(token)).sum::<usize>() != ways
    {
        return refused();
    }
    Ok(scores)
}

/// Whether sentencepiece's steps put a space before every text. Other steps than its are an error.
fn space_prefix(file: &Value) -> Result<bool> {
    let (mut replaces, mut prepends) = (false, false);
    let parts = |part: &Value, name: &str| part[name].as_array().cloned().unwrap_or_else(|| vec![part.clone()]);
    let steps = [parts(&file["normalizer"], "normalizers"), parts(&file["pre_tokenizer"], "pretokenizers")].concat();
    for step in steps.iter().filter(|step| !step.is_null()) {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prepends = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => replaces = true,
            Some("Metaspace") if step["replacement"] == "▁" && step["split"] == false => {
                replaces = true;
                prepends |= step["prepend_scheme"] != "never" && step["add_prefix_space"] != false;
            }
            // No space is left to split at.
            Some("Split") if step["pattern"]["String"] == " " && replaces => {}
            _ => return Err(unsupported(format!("a tokenizer with byte fallback and the step {step}"))),
        }
    }
    if replaces { Ok(prepends) } else { Err(unsupported("a tokenizer with byte fallback that keeps spaces".into())) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokenizer::{Special, Tokenizer, Vocabulary};

    /// As converted from sentencepiece: bytes, and every way to put a token together among the merges.
    fn scored() -> Value {
        let mut vocab = serde_json::Map::new();
        let bytes = (0..=0xFF_u8).map(|byte| format!("<0x{byte:02X}>"));
        let texts = ["▁", "a", "b", "ab", "▁a", "▁ab", "▁▁", "ba"].map(String::from);
        let special = ["<unk>", "<s>"].map(String::from);
        for token in special.into_iter().chain(bytes).chain(texts) {
            vocab.insert(token, json!(vocab.len()));
        }
        let added = |id: u32, text: &str| json!({ "id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false });
        json!({
            "version": "1.0",
            "added_tokens": [added(0, "<unk>"), added(1, "<s>")],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            ] },
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
                { "type": "ByteFallback" }, { "type": "Fuse" },
            ] },
            "model": {
                "type": "BPE", "vocab": vocab, "byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true,
                "merges": [["a", "b"], ["▁", "a"], ["▁", "▁"], ["▁", "ab"], ["▁a", "b"], ["b", "a"]],
            },
        })
    }

    fn built(exported: &Exported) -> Tokenizer {
        let vocabulary = Vocabulary {
            model: exported.model,
            pre: Some(exported.pre),
            tokens: &exported.tokens,
            scores: &exported.scores,
            token_types: &exported.token_types,
            merges: &exported.merges,
            add_space_prefix: Some(exported.add_space_prefix),
            ..Default::default()
        };
        Tokenizer::from_vocabulary(&vocabulary).unwrap()
    }

    #[test]
    fn scores_give_the_ids_of_the_merges() {
        let mut json = scored();
        for prefix in [true, false] {
            let exported = export(&json.to_string(), 270).unwrap();
            assert_eq!((exported.model, exported.add_space_prefix), ("llama", prefix));
            assert_eq!(exported.tokens[269], "[PAD269]");
            assert_eq!([0, 1, 2, 259, 269].map(|id: usize| exported.token_types[id]), [2, 3, 6, 1, 5]);
            let (one, other) = (Tokenizer::from_json(json.to_string().as_bytes()).unwrap(), built(&exported));
            for text in ["ab", " ab a  b", "aab   bab", "aba", "é a<s>b", "a a a ab\n"] {
                assert_eq!(
                    one.encode(text, Special::Parse).unwrap(),
                    other.encode(text, Special::Parse).unwrap(),
                    "{text:?}"
                );
            }
            json["normalizer"] = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        }
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] =
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
        assert!(export(&json.to_string(), 270).unwrap().add_space_prefix);
    }

    #[test]
    fn what_scores_cannot_say_is_refused() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut json = scored();
            change(&mut json);
            export(&json.to_string(), 270).unwrap_err().to_string()
        };
        let merges = |merges: Value| move |json: &mut Value| json["model"]["merges"] = merges.clone();
        // A way is missing; the ways of a token stand apart.
        let missing = refused(&merges(json!(["a b", "▁ a", "▁ ▁", "▁ ab", "b a"])));
        assert!(missing.contains("do not follow from scores"), "{missing}");
        let apart = refused(&merges(json!(["a b", "▁ ab", "▁ a", "▁ ▁", "▁a b", "b a"])));
        assert!(apart.contains("do not follow from scores"), "{apart}");
        assert!(refused(&|json| json["normalizer"] = json!({ "type": "Lowercase" })).contains("Lowercase"));
        assert!(refused(&|json| json["normalizer"] = Value::Null).contains("keeps spaces"));
        let many = export(&scored().to_string(), 260).unwrap_err().to_string();
        assert!(many.contains("the embedding 260 rows"), "{many}");
    }
}
