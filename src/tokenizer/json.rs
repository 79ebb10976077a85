//! A Hugging Face `tokenizer.json`: the `tokenizers` crate loads it, we find out what its ids stand for.

use super::{Pieces, Roles, Tokenizer, byte_level, byte_token, ends, refused};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;

/// Texts of tokens that begin a stream, and that end a text, the most telling first. Asked only when the
/// post-processor does not say.
const BEGINS: &[&str] = &["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|endoftext|>"];
const EOS: &[&str] = &["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<|im_end|>"];

impl Tokenizer {
    /// Loads a `tokenizer.json`. Its truncation and padding are not applied. BOS and EOS are those that its
    /// post-processor adds, else special tokens with the usual names.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when it is damaged; [`Error::Unsupported`] for a model other than BPE and for a decoder
    /// whose tokens do not stand for bytes one by one.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let file: Value = serde_json::from_slice(bytes).map_err(refused)?;
        check_model(&file["model"])?;
        let mut decoding = Decoding::default();
        decoding.read(&file["decoder"])?;
        let inner: tokenizers::Tokenizer = serde_json::from_slice(bytes).map_err(refused)?;

        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut tokens: HashMap<u32, String> =
            inner.get_vocab(false).into_iter().map(|(text, id)| (id, text)).collect();
        tokens.extend(added.iter().map(|(&id, token)| (id, token.content.clone())));
        let count = tokens.keys().max().map_or(0, |&id| id as usize + 1);
        // Every entry takes more than a byte of the file, so a gap larger than the file is no vocabulary.
        if count == 0 || count > bytes.len() {
            return Err(Error::Tokenizer(format!("a vocabulary of {count} ids in {} bytes", bytes.len())));
        }
        let mut pieces = Pieces::default();
        for id in 0..count as u32 {
            match (added.get(&id), tokens.get(&id)) {
                (Some(token), _) => pieces.push(token.content.as_bytes(), token.special),
                (None, Some(token)) => pieces.push(&decoding.bytes(token), false),
                (None, None) => pieces.push(&[], false),
            }
        }
        let special_named = |names: &[&str]| {
            names.iter().find_map(|&name| added.iter().find(|(_, token)| token.special && token.content == name))
        };
        let (first, last) = template(&file["post_processor"]);
        let within = |id: &u32| (*id as usize) < count;
        let (first, last) = (first.filter(within), last.filter(within));
        let bos = first.or_else(|| special_named(BEGINS).map(|(&id, _)| id));
        let eos = last.or_else(|| special_named(EOS).map(|(&id, _)| id));
        let roles = Roles {
            sink: None,
            bos,
            eos,
            add_bos: first.is_some(),
            add_eos: last.is_some(),
            ends: ends(tokens.iter().map(|(&id, text)| (id, text.as_str())), [eos]),
        };
        // Its parts may be any; nothing is known of where a text may be cut.
        Ok(Self::new(inner, pieces, roles, decoding.strip, None))
    }
}

impl Tokenizer {
    /// What stands beside a `tokenizer.json`: BOS, EOS and end of turn, and whether BOS and EOS are added. What is
    /// `None` stays as the file has it; ids that it does not have are passed over.
    pub(super) fn name_roles(&mut self, ids: [Option<u32>; 3], add_bos: Option<bool>, add_eos: Option<bool>) {
        let count = self.vocab_size();
        let [bos, eos, eot] = ids.map(|id| id.filter(|&id| (id as usize) < count));
        let roles = &mut self.roles;
        (roles.bos, roles.eos) = (bos.or(roles.bos), eos.or(roles.eos));
        roles.add_bos = roles.bos.is_some() && add_bos.unwrap_or(roles.add_bos);
        roles.add_eos = roles.eos.is_some() && add_eos.unwrap_or(roles.add_eos);
        roles.ends.extend(eos.into_iter().chain(eot));
        roles.ends.sort_unstable();
        roles.ends.dedup();
    }
}

/// What the crate takes for granted and would panic over.
pub(super) fn check_model(model: &Value) -> Result<()> {
    let Some(vocab) = model["vocab"].as_object().filter(|_| matches!(model["type"].as_str(), None | Some("BPE")))
    else {
        return Err(Error::Unsupported {
            what: format!("tokenizer model {}", model["type"]),
            supported: "a tokenizer.json with a BPE model works".to_owned(),
        });
    };
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[affix].as_str().is_some_and(|text| !text.is_empty()) {
            return Err(Error::Unsupported {
                what: format!("a tokenizer with a {affix}"),
                supported: "BPE without affixes works".to_owned(),
            });
        }
    }
    let empty = Vec::new();
    for (row, merge) in model["merges"].as_array().unwrap_or(&empty).iter().enumerate() {
        let merged = match merge {
            Value::String(pair) => pair.replacen(' ', "", 1),
            pair => pair.as_array().unwrap_or(&empty).iter().filter_map(Value::as_str).collect(),
        };
        if !vocab.contains_key(&merged) {
            return Err(Error::Tokenizer(format!("merge {row}, {merge}, does not give a token")));
        }
    }
    Ok(())
}

/// How tokens become text, from the `decoder` of the file.
#[derive(Default)]
struct Decoding {
    /// Characters stand for bytes, as in GPT-2.
    byte_level: bool,
    /// `<0xHH>` is a byte.
    byte_fallback: bool,
    /// `▁` is a space.
    spaces: bool,
    /// The first space of a text is not part of it.
    strip: bool,
}

impl Decoding {
    fn read(&mut self, decoder: &Value) -> Result<()> {
        match decoder["type"].as_str() {
            Some("Sequence") => {
                for part in decoder["decoders"].as_array().into_iter().flatten() {
                    self.read(part)?;
                }
            }
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Fuse") => {}
            Some("Metaspace") if decoder["replacement"] == "▁" => {
                self.spaces = true;
                // Older files say `add_prefix_space`, newer ones `prepend_scheme`.
                self.strip |= decoder["prepend_scheme"] != "never" && decoder["add_prefix_space"] != false;
            }
            Some("Replace") if decoder["pattern"]["String"] == "▁" && decoder["content"] == " " => self.spaces = true,
            Some("Strip") if decoder["content"] == " " && decoder["start"] == 1 && decoder["stop"] == 0 => {
                self.strip = true;
            }
            _ => {
                return Err(Error::Unsupported {
                    what: format!("tokenizer decoder {decoder}"),
                    supported: "ByteLevel, and Replace or Metaspace of ▁ with ByteFallback, Fuse and Strip, work"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The bytes of a token that was not added.
    fn bytes(&self, token: &str) -> Vec<u8> {
        if let Some(byte) = byte_token(token).filter(|_| self.byte_fallback) {
            return vec![byte];
        }
        if self.byte_level {
            return byte_level(token).unwrap_or_else(|| token.as_bytes().to_vec());
        }
        if self.spaces { token.replace('▁', " ").into_bytes() } else { token.as_bytes().to_vec() }
    }
}

/// The ids that a post-processor puts before and after a single text.
fn template(processor: &Value) -> (Option<u32>, Option<u32>) {
    if let Some(processors) = processor["processors"].as_array() {
        let both: Vec<_> = processors.iter().map(template).collect();
        return (both.iter().find_map(|(first, _)| *first), both.iter().find_map(|(_, last)| *last));
    }
    let single = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
    let id = |part: Option<&Value>| {
        let ids = &processor["special_tokens"][part?["SpecialToken"]["id"].as_str()?]["ids"];
        u32::try_from(ids[0].as_u64()?).ok()
    };
    (id(single.first()), id(single.last()))
}
