//! Ids to whole characters, as the ids come. The last step before text leaves the engine.
//!
//! A token may hold part of a character: a byte token, or a byte-level token cut within a character. Such bytes wait
//! here until the rest has come.

use crate::tokenizer::Tokenizer;

/// Collects the bytes of ids and hands out the characters that they complete.
///
/// All it handed out, with [`Detokenizer::finish`], is the lossy UTF-8 decoding of the bytes of all ids: U+FFFD
/// stands where they are no UTF-8.
#[derive(Debug, Default)]
pub struct Detokenizer {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
    at_text_start: bool,
}

impl Detokenizer {
    /// For a text that goes on: a space at its start is part of it.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a text from its start: the space that the vocabulary puts before every text is left out, as in
    /// [`Tokenizer::decode`].
    pub fn at_text_start() -> Self {
        Self { at_text_start: true, ..Self::default() }
    }

    /// Takes the next id; returns the characters that became whole, perhaps none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let mut bytes = tokenizer.token_bytes(id);
        if self.at_text_start && !bytes.is_empty() {
            self.at_text_start = false;
            if tokenizer.space_prefix() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            // Without an error length the bytes begin a character; at the end, the rest of it may still come.
            let begun = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if begun && chunks.peek().is_none() {
                rest = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - rest);
        text
    }

    /// Ends the text: bytes of a character that never became whole are U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}
