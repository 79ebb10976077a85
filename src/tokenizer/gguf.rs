//! The tokenizer of a GGUF file, from its metadata: `llama` (sentencepiece's scored merges) and `gpt2` (byte-level BPE).
//!
//! What the metadata leaves open is done as in llama.cpp (`llama-vocab.cpp`): defaults, which tokens are special,
//! and which of them are matched in plain text. In one thing sentencepiece is followed instead: text never merges
//! into a control token, so that plain text stays plain.

use super::cut::Cut;
use super::pre::Pre;
use super::{ENDS, Pieces, Roles, Tokenizer, byte_level, byte_token, ends, refused};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use std::collections::HashSet;
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

/// The tokenizer part of a GGUF file's metadata, borrowed. Arrays that the file lacks are empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vocabulary<'a> {
    /// `tokenizer.ggml.model`: `llama` or `gpt2`.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`; only `gpt2` looks at it.
    pub pre: Option<&'a str>,
    /// `tokenizer.ggml.tokens`; the place in the list is the id.
    pub tokens: &'a [String],
    /// `tokenizer.ggml.scores`, one per token; only `llama` looks at them. Higher is merged earlier.
    pub scores: &'a [f32],
    /// `tokenizer.ggml.token_type`, one per token; without them every token is a normal one.
    pub token_types: &'a [i32],
    /// `tokenizer.ggml.merges`, earliest first, two tokens and a space between; only `gpt2` has them.
    pub merges: &'a [String],
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the end of a turn.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`; only `llama` looks at it.
    pub add_space_prefix: Option<bool>,
    /// Special tokens take the white space after them, as in Phi-3's vocabulary. No key says so: llama.cpp goes by the
    /// model's name.
    pub takes_space: bool,
}

/// `tokenizer.ggml.token_type`, as far as it makes a difference here.
pub(super) mod token_type {
    pub(in crate::tokenizer) const NORMAL: i32 = 1;
    pub(in crate::tokenizer) const UNKNOWN: i32 = 2;
    pub(in crate::tokenizer) const CONTROL: i32 = 3;
    pub(in crate::tokenizer) const USER_DEFINED: i32 = 4;
    pub(in crate::tokenizer) const UNUSED: i32 = 5;
    pub(in crate::tokenizer) const BYTE: i32 = 6;
}

/// Longest token, in bytes, that text is merged into. Sentencepiece's own limit is 16 characters; this one keeps the
/// search for merges linear in the size of a hostile vocabulary.
pub(super) const LONGEST_MERGED: usize = 256;

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file: from its lists, or from a `tokenizer.json` that it holds whole.
    ///
    /// # Errors
    /// As [`Tokenizer::from_vocabulary`]; [`Error::Format`] for metadata of another type than it must have.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| gguf.get_u32(&key(name));
        let flag = |name: &str| gguf.get_bool(&key(name));
        let Some(model) = gguf.get_str(&key("model"))? else {
            let json = gguf.get_str("tokenizer.huggingface.json")?.ok_or_else(|| Error::Unsupported {
                what: "a file without tokenizer".into(),
                supported: "it runs from token ids".into(),
            })?;
            let mut tokenizer = Self::from_json(json.as_bytes())?;
            let ids = [id("bos_token_id")?, id("eos_token_id")?, id("eot_token_id")?];
            tokenizer.name_roles(ids, flag("add_bos_token")?, flag("add_eos_token")?);
            return Ok(tokenizer);
        };
        let token_types = gguf.get_integers(&key("token_type"))?.unwrap_or_default();
        let token_types: Vec<i32> = token_types.into_iter().map(|kind| i32::try_from(kind).unwrap_or(0)).collect();
        let mut tokenizer = Self::from_vocabulary(&Vocabulary {
            model,
            pre: gguf.get_str(&key("pre"))?,
            tokens: gguf.strings(&key("tokens")).unwrap_or_default(),
            scores: gguf.floats(&key("scores")).unwrap_or_default(),
            token_types: &token_types,
            merges: gguf.strings(&key("merges")).unwrap_or_default(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            unk: id("unknown_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            takes_space: is_phi3(gguf.get_str("general.name")?),
        })?;
        tokenizer.roles.sink = gguf.get_u32("sinkstream.sink_token_id")?;
        Ok(tokenizer)
    }

    /// Builds the tokenizer of a vocabulary.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model other than `llama` and `gpt2` and for an unknown pre-tokenizer;
    /// [`Error::Tokenizer`] when the lists contradict each other, and says which.
    pub fn from_vocabulary(vocabulary: &Vocabulary) -> Result<Self> {
        vocabulary.check()?;
        match vocabulary.model {
            "llama" => vocabulary.scored(),
            "gpt2" => vocabulary.byte_level(),
            other => Err(Error::Unsupported {
                what: format!("tokenizer '{other}'"),
                supported: "llama and gpt2 work, and files with any tokenizer run from token ids".to_owned(),
            }),
        }
    }
}

impl Vocabulary<'_> {
    /// Lengths and ids against the list of tokens.
    fn check(&self) -> Result<()> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(Error::Tokenizer("the vocabulary is empty".to_owned()));
        }
        for (name, length) in [("scores", self.scores.len()), ("token_type", self.token_types.len())] {
            if length != 0 && length != count {
                return Err(Error::Tokenizer(format!("{length} entries in {name} for {count} tokens")));
            }
        }
        for (name, id) in [("bos", self.bos), ("eos", self.eos), ("eot", self.eot), ("unknown", self.unk)] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(Error::Tokenizer(format!("{name}_token_id {id} is beyond the {count} tokens")));
            }
        }
        Ok(())
    }

    /// Sentencepiece's BPE: of all neighbours that together are a token, those whose token has the highest score
    /// merge first, and of equals the leftmost. Characters that no token covers become their byte tokens.
    fn scored(&self) -> Result<Tokenizer> {
        let vocab = self.ids();
        // Out of order, a character without a token would come after the byte tokens of the next; so all or none.
        let byte_fallback = (0..=0xFF_u8).all(|byte| vocab.contains_key(&format!("<0x{byte:02X}>")));
        let unknown = self.unk.or((self.type_of(0) == token_type::UNKNOWN).then_some(0));
        let merges = self.merges_of_scores(&vocab);
        let mut builder = BpeBuilder::new()
            .vocab_and_merges(vocab, merges)
            .byte_fallback(byte_fallback)
            .fuse_unk(true)
            // A whole text is one word here; none comes twice.
            .cache_capacity(0);
        if let Some(id) = unknown {
            builder = builder.unk_token(self.tokens[id as usize].clone());
        }
        let space_prefix = self.add_space_prefix.unwrap_or(true);
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if space_prefix {
            steps.push(Prepend::new("▁".to_owned()).into());
        }
        steps.push(Replace::new(" ", "▁").map_err(refused)?.into());

        let mut inner = tokenizers::Tokenizer::new(builder.build().map_err(refused)?);
        inner.with_normalizer(Some(Sequence::new(steps))).map_err(refused)?;
        let defaults = Defaults { bos: Some(1), eos: Some(2), add_bos: true };
        self.finish(inner, &defaults, space_prefix, self.cut_between_words(space_prefix), |token, kind| match kind {
            token_type::BYTE => byte_token(token).map(|byte| vec![byte]),
            _ => Some(token.replace('▁', " ").into_bytes()),
        })
    }

    /// GPT-2's BPE over bytes: words are cut by the pre-tokenizer, then merged in the order of the list.
    fn byte_level(&self) -> Result<Tokenizer> {
        let pre = Pre::named(self.pre)?;
        let vocab = self.ids();
        let mut merges = Merges::with_capacity(self.merges.len());
        for (row, merge) in self.merges.iter().enumerate() {
            // From the second character on: the first may itself be a space.
            let space = merge.char_indices().skip(1).find(|(_, character)| *character == ' ');
            let parts = space.map(|(at, _)| (&merge[..at], &merge[at + 1..]));
            // The crate takes it for granted that the merged token is in the vocabulary.
            match parts {
                Some((left, right))
                    if [left, right, &format!("{left}{right}")].iter().all(|part| vocab.contains_key(*part)) =>
                {
                    merges.push((left.to_owned(), right.to_owned()));
                }
                _ => {
                    return Err(Error::Tokenizer(format!("merge {row}, '{merge}', is not of two tokens into one")));
                }
            }
        }
        let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.ignore_merges).build();
        let mut inner = tokenizers::Tokenizer::new(model.map_err(refused)?);
        inner.with_pre_tokenizer(Some(pre.build()?));
        let defaults = Defaults { bos: None, eos: None, add_bos: pre.add_bos };
        self.finish(inner, &defaults, false, Some(Cut::BeforeSpace), |token, _| {
            Some(byte_level(token).unwrap_or_else(|| token.as_bytes().to_vec()))
        })
    }

    /// Adds the special tokens and the table of bytes. `bytes_of` is asked for tokens that are neither special nor
    /// user-defined: the bytes for a token of a type.
    fn finish(
        &self,
        mut inner: tokenizers::Tokenizer,
        defaults: &Defaults,
        space_prefix: bool,
        cut: Option<Cut>,
        bytes_of: impl Fn(&str, i32) -> Option<Vec<u8>>,
    ) -> Result<Tokenizer> {
        let mut pieces = Pieces::default();
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let kind = self.type_of(id);
            // As in llama.cpp, a token that ends a generation is special whatever the file calls it.
            let special = matches!(kind, token_type::UNKNOWN | token_type::CONTROL) || ENDS.contains(&token.as_str());
            if special || kind == token_type::USER_DEFINED {
                pieces.push(token.as_bytes(), special);
                let takes_space = self.takes_space && !["<unk>", "<s>", "<|endoftext|>"].contains(&token.as_str());
                added.push(AddedToken::from(token.as_str(), special).normalized(false).rstrip(takes_space));
            } else {
                let bytes = bytes_of(token, kind)
                    .ok_or_else(|| Error::Tokenizer(format!("token {id}, '{token}', is no byte token")))?;
                pieces.push(&bytes, false);
            }
        }
        inner.add_tokens(added).map_err(refused)?;
        let within = |id: Option<u32>| id.filter(|&id| (id as usize) < self.tokens.len());
        let (bos, eos) = (self.bos.or(within(defaults.bos)), self.eos.or(within(defaults.eos)));
        let tokens = self.tokens.iter().zip(0..).map(|(token, id)| (id, token.as_str()));
        let roles = Roles {
            sink: None, // not the vocabulary's business: see `from_gguf`
            bos,
            eos,
            add_bos: bos.is_some() && self.add_bos.unwrap_or(defaults.add_bos),
            add_eos: eos.is_some() && self.add_eos.unwrap_or(false),
            ends: ends(tokens, [eos, self.eot]),
        };
        Ok(Tokenizer::new(inner, pieces, roles, space_prefix, cut))
    }

    /// Ids by text. Of equal texts the first has it.
    fn ids(&self) -> Vocab {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, token) in (0..).zip(self.tokens) {
            vocab.entry(token.clone()).or_insert(id);
        }
        vocab
    }

    fn type_of(&self, id: usize) -> i32 {
        self.token_types.get(id).copied().unwrap_or(token_type::NORMAL)
    }

    /// Whether text may merge into a token. Special tokens, byte tokens and user-defined ones are found otherwise.
    fn is_text(&self, id: usize) -> bool {
        use token_type::{BYTE, CONTROL, UNKNOWN, USER_DEFINED};
        !matches!(self.type_of(id), UNKNOWN | CONTROL | USER_DEFINED | BYTE)
    }

    /// Words can be told apart before they are merged if `▁` is a token (else it would be part of a run of unknown
    /// characters) and no token has it after another character.
    fn cut_between_words(&self, space_prefix: bool) -> Option<Cut> {
        let mut texts = self.tokens.iter().enumerate().filter(|(id, _)| self.is_text(*id)).map(|(_, token)| token);
        let known = texts.clone().any(|token| token == "▁");
        let within = texts.all(|token| !token.trim_start_matches('▁').contains('▁'));
        (known && within).then_some(if space_prefix { Cut::AtSpace } else { Cut::BeforeSpace })
    }

    /// Every way to put a token together from two others, best score first.
    ///
    /// Ways of equal score take the longer token first. That is how leftmost-first works out for the runs of `▁`
    /// which share one score in the Llama vocabulary: the leftmost run grows until no longer token exists.
    fn merges_of_scores(&self, vocab: &Vocab) -> Merges {
        let part = |text: &str| vocab.get(text).is_some_and(|&id| self.is_text(id as usize));
        let mut seen = HashSet::new();
        let mut ways: Vec<(f32, &str, usize)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if token.len() > LONGEST_MERGED || !self.is_text(id) || !seen.insert(token) {
                continue;
            }
            let score = self.scores.get(id).copied().unwrap_or(0.0);
            for (at, _) in token.char_indices().skip(1) {
                if part(&token[..at]) && part(&token[at..]) {
                    ways.push((score, token, at));
                }
            }
        }
        ways.sort_by(|(one, longer, _), (other, shorter, _)| {
            other.total_cmp(one).then_with(|| shorter.len().cmp(&longer.len()))
        });
        ways.into_iter().map(|(_, token, at)| (token[..at].to_owned(), token[at..].to_owned())).collect()
    }
}

/// Whether a model's name is one of Phi-3's, as llama.cpp tells them.
fn is_phi3(name: Option<&str>) -> bool {
    name.is_some_and(|name| ["phi-3", "phi3"].iter().any(|part| name.to_lowercase().contains(part)))
}

/// What llama.cpp takes for granted when the metadata does not say.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
}
