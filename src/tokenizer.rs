//! Text to ids and back. Between the caller's text and the first token of a step; after the last, `detokenizer`.
//!
//! Everything runs through the `tokenizers` crate: [`gguf`] builds its parts from a GGUF file's metadata, [`json`]
//! loads a Hugging Face `tokenizer.json`, [`export`] turns one into the other. What is kept beside it is a table of the exact bytes that each id adds
//! to a text, because ids come one at a time and a character may be spread over several of them.

mod cut;
mod export;
mod gguf;
mod json;
mod pre;

pub(crate) use export::{Exported, export};
pub use gguf::Vocabulary;

use crate::error::{Error, Result};
use cut::{Cut, PIECE_BYTES};
use tokenizers::{AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizer};

/// What becomes of text that looks like a special token, for example `<|im_end|>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is the special token.
    Parse,
    /// It is text like any other. Tokens that the vocabulary calls user-defined are still matched whole.
    Plain,
}

/// Turns text into ids and ids into bytes. Built by [`Tokenizer::from_vocabulary`] or [`Tokenizer::from_json`].
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added tokens of `inner`, set to leave the special ones alone: what [`Special::Plain`] uses.
    plain: AddedVocabulary,
    pieces: Pieces,
    roles: Roles,
    /// The vocabulary is of the kind that puts a space before every text; decoding a whole text takes it away.
    space_prefix: bool,
    /// How long texts may be cut, if they may.
    cut: Option<Cut>,
}

/// Ids with a part to play in a stream.
#[derive(Debug, Default)]
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// The token in front of every training sample (`sinkstream.sink_token_id`).
    sink: Option<u32>,
    /// Ids that end a generation, sorted.
    ends: Vec<u32>,
}

impl Tokenizer {
    fn new(inner: tokenizers::Tokenizer, pieces: Pieces, roles: Roles, space_prefix: bool, cut: Option<Cut>) -> Self {
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let cut = cut.filter(|cut| cut.suits(&plain));
        Self { inner, plain, pieces, roles, space_prefix, cut }
    }

    /// The ids of a text, without BOS or EOS. Empty text has none.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the `tokenizers` crate refuses, for example a text with a character that neither
    /// the vocabulary nor its unknown token covers.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        self.encode_in_pieces(text, special, PIECE_BYTES)
    }

    /// Encodes a text in pieces of at least `bytes`.
    fn encode_in_pieces(&self, text: &str, special: Special, bytes: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let piece;
            (piece, rest) = self.cut.map_or((rest, ""), |cut| cut.divide(rest, bytes));
            self.encode_piece(piece, special, &mut ids)?;
        }
        Ok(ids)
    }

    /// The steps of `tokenizers::Tokenizer::encode`, without its truncation and offsets.
    fn encode_piece(&self, text: &str, special: Special, ids: &mut Vec<u32>) -> Result<()> {
        let added = match special {
            Special::Parse => self.inner.get_added_vocabulary(),
            Special::Plain => &self.plain,
        };
        let mut words = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre) = self.inner.get_pre_tokenizer() {
            pre.pre_tokenize(&mut words).map_err(refused)?;
        }
        let model = self.inner.get_model();
        words.tokenize(|word| model.tokenize(word.get())).map_err(refused)?;
        for (_, _, tokens) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        Ok(())
    }

    /// The ids of a text that begins a stream: first the sink token, or BOS if the model expects it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_start(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let start = self.roles.sink.or(self.roles.bos.filter(|_| self.roles.add_bos));
        let mut ids: Vec<u32> = start.into_iter().collect();
        ids.extend(self.encode(text, special)?);
        Ok(ids)
    }

    /// The text of ids. Special tokens give no text; bytes that are no UTF-8 become U+FFFD. A vocabulary that puts
    /// a space before every text has it taken away again.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, |id| self.token_bytes(id))
    }

    /// As [`Tokenizer::decode`], but special tokens are written out: the reverse of [`Special::Parse`].
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when an id is not in the vocabulary.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, |id| self.pieces.get(id))
    }

    fn decode_with<'a>(&'a self, ids: &[u32], bytes_of: impl Fn(u32) -> &'a [u8]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size()) {
            return Err(Error::Tokenizer(format!("id {id} is beyond the vocabulary of {} tokens", self.vocab_size())));
        }
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| bytes_of(id)).copied().collect();
        let text = match bytes.strip_prefix(b" ") {
            Some(rest) if self.space_prefix => rest,
            _ => &bytes,
        };
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// The exact bytes that an id adds to a text: a byte token its byte, a byte-level token the bytes it stands for,
    /// `▁` a space. Special tokens and ids beyond the vocabulary add none.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        if self.pieces.is_special(id) { &[] } else { self.pieces.get(id) }
    }

    /// Whether the vocabulary puts a space before every text (sentencepiece's "dummy prefix").
    pub fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// The token that begins a stream, if the vocabulary names one.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token that ends a text, if the vocabulary names one.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Whether the model expects BOS before a text. Never true without [`Tokenizer::bos`].
    pub fn add_bos(&self) -> bool {
        self.roles.add_bos
    }

    /// Whether the model expects EOS after a text. Never true without [`Tokenizer::eos`].
    pub fn add_eos(&self) -> bool {
        self.roles.add_eos
    }

    /// Whether an id ends a generation: EOS, end of turn, and what llama.cpp counts among them by name.
    pub fn is_end(&self, id: u32) -> bool {
        self.roles.ends.binary_search(&id).is_ok()
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }
}

/// What each id stands for, as bytes. Row `id` is `bytes[ends[id - 1]..ends[id]]`.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    special: Vec<bool>,
}

impl Pieces {
    fn push(&mut self, bytes: &[u8], special: bool) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.special.push(special);
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

/// The byte of a byte token `<0xHH>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character of a byte-level token stands for. GPT-2 writes printable Latin-1 bytes as themselves and
/// the 68 others as characters from U+0100 on, in order (openai/gpt-2, `encoder.py`, `bytes_to_unicode`).
const BYTE_OF: [Option<u8>; 0x144] = {
    let mut byte_of = [None; 0x144];
    let (mut byte, mut others) = (0_u8, 0);
    loop {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            byte_of[byte as usize] = Some(byte);
        } else {
            byte_of[0x100 + others] = Some(byte);
            others += 1;
        }
        if byte == 0xFF {
            break byte_of;
        }
        byte += 1;
    }
};

/// The bytes of a byte-level token; `None` if one of its characters stands for no byte.
fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|character| BYTE_OF.get(character as usize).copied().flatten()).collect()
}

/// Texts of tokens that end a generation, as llama.cpp collects them (`llama-vocab.cpp`, `special_eog_ids`, with the
/// padding and file separators of fill-in-the-middle).
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The ids that end a generation: those named in `named`, and those whose text is in [`ENDS`]. Two of the texts do
/// not end it where others of the list show that they mean something else there (as in llama.cpp).
fn ends<'a>(tokens: impl Iterator<Item = (u32, &'a str)>, named: impl IntoIterator<Item = Option<u32>>) -> Vec<u32> {
    let mut found: Vec<(u32, &str)> = tokens.filter(|(_, text)| ENDS.contains(text)).collect();
    let has = |text: &str| found.iter().any(|(_, other)| *other == text);
    let end_is_a_mark = (has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>"));
    let close_is_text = has("<|tool_response>");
    found.retain(|(_, text)| !(end_is_a_mark && *text == "<|end|>" || close_is_text && *text == "</s>"));
    let mut ids: Vec<u32> = found.into_iter().map(|(id, _)| id).chain(named.into_iter().flatten()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// An error of the `tokenizers` crate as one of ours.
fn refused(error: impl std::fmt::Display) -> Error {
    Error::Tokenizer(error.to_string())
}
