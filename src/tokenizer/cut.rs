//! Cuts long texts before they are encoded, where no token and no word reaches across.
//!
//! The `tokenizers` crate keeps about 100 bytes for each byte of a text that it works on; a book at once would take
//! hundreds of megabytes. So long texts go through it in pieces, with the same ids as in one.

use tokenizers::AddedVocabulary;

/// Pieces are at least this long, in bytes. Long enough that the cutting costs nothing.
pub(super) const PIECE_BYTES: usize = 32 * 1024;

/// How a vocabulary's texts may be cut: between words, at a single space with a letter or digit on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The piece begins with the space. Right for the pre-tokenizers of `pre`: none of their expressions matches
    /// across that place (a space is only ever the first of a word), and none looks behind.
    BeforeSpace,
    /// The space is left out, because the vocabulary puts one before every piece. Right if no token has `▁` after
    /// another character.
    AtSpace,
}

impl Cut {
    /// Whether texts with these added tokens can be cut so: none may reach across a cut. Where the space is left out,
    /// none may end before it or begin after it either: the vocabulary puts a space after every added token, and one
    /// that is followed by an added token stands alone.
    pub(super) fn suits(self, added: &AddedVocabulary) -> bool {
        added.get_vocab().keys().all(|token| {
            let across = token.as_bytes().windows(2).any(|pair| pair[1] == b' ' && !pair[0].is_ascii_whitespace());
            let beside = token.starts_with(char::is_alphanumeric) || token.ends_with(char::is_alphanumeric);
            !across && (self == Self::BeforeSpace || !beside)
        })
    }

    /// Divides a text: a piece of at least `bytes`, up to the first place for a cut, and the rest.
    pub(super) fn divide(self, text: &str, bytes: usize) -> (&str, &str) {
        let spaces = text.bytes().enumerate().skip(bytes.max(1)).filter(|&(_, byte)| byte == b' ');
        for (at, _) in spaces {
            let (piece, rest) = text.split_at(at);
            if piece.ends_with(char::is_alphanumeric) && rest[1..].starts_with(char::is_alphanumeric) {
                return (piece, if self == Self::AtSpace { &rest[1..] } else { rest });
            }
        }
        (text, "")
    }
}

#[cfg(test)]
mod tests {
    use crate::tokenizer::{Special, Tokenizer, Vocabulary};

    /// Words with everything that could go wrong at a cut, in an order that is random but always the same.
    fn texts() -> Vec<String> {
        let parts = [
            "ab", "ba", "a", " ", " ", " ", "  ", "\n", " \n", "é", "1", "234", ",", "'s", "<s>", "[U]", "▁", "\u{a0}",
            "~",
        ];
        let mut state = 1_u32;
        let mut next = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as usize % below
        };
        (0..300).map(|_| (0..60).map(|_| parts[next(parts.len())]).collect()).collect()
    }

    fn agrees_in_pieces(tokenizer: &Tokenizer) {
        assert!(tokenizer.cut.is_some());
        for text in texts() {
            for special in [Special::Parse, Special::Plain] {
                let whole = tokenizer.encode_in_pieces(&text, special, usize::MAX).unwrap();
                for bytes in [1, 2, 7, 20] {
                    assert_eq!(tokenizer.encode_in_pieces(&text, special, bytes).unwrap(), whole, "{text:?} {bytes}");
                }
            }
        }
    }

    fn owned(tokens: &[&str]) -> Vec<String> {
        tokens.iter().map(|token| (*token).to_owned()).collect()
    }

    /// Special tokens, byte tokens, and tokens of text with falling scores.
    fn scored(text_tokens: &[&str], add_space_prefix: bool) -> Tokenizer {
        let mut tokens = owned(&["<unk>", "<s>", "[U]"]);
        let mut token_types = vec![2, 3, 4];
        for byte in 0..=0xFF_u8 {
            tokens.push(format!("<0x{byte:02X}>"));
            token_types.push(6);
        }
        tokens.extend(owned(text_tokens));
        token_types.resize(tokens.len(), 1);
        let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
        let vocabulary = Vocabulary {
            model: "llama",
            tokens: &tokens,
            scores: &scores,
            token_types: &token_types,
            add_space_prefix: Some(add_space_prefix),
            ..Default::default()
        };
        Tokenizer::from_vocabulary(&vocabulary).unwrap()
    }

    #[test]
    fn pieces_of_scored_texts_have_the_same_ids() {
        let tokens = ["▁", "a", "b", "ab", "▁a", "▁ab", "aba", "▁▁", "▁▁▁a"];
        agrees_in_pieces(&scored(&tokens, true));
        agrees_in_pieces(&scored(&tokens, false));
    }

    #[test]
    fn vocabularies_with_tokens_across_spaces_are_not_cut() {
        assert!(scored(&["▁", "a", "a▁", "a▁a"], true).cut.is_none());
    }

    #[test]
    fn pieces_of_byte_level_texts_have_the_same_ids() {
        let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('\u{100}'..='\u{143}');
        let mut tokens: Vec<String> = printable.map(String::from).collect();
        let merges = owned(&["a b", "Ġ a", "Ġa b", "b Ġ", "Ġ Ġ", "Ġ Ċ", "Ċ Ċ", "Ġ 1", "2 3", "ĠĠ a", ", Ġ"]);
        tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        tokens.extend(owned(&["<s>", "[U]"]));
        let mut token_types = vec![1; tokens.len()];
        token_types[tokens.len() - 2] = 3;
        token_types[tokens.len() - 1] = 4;
        for pre in ["default", "gpt-2", "smollm", "falcon", "llama-bpe", "qwen2"] {
            let vocabulary = Vocabulary {
                model: "gpt2",
                pre: Some(pre),
                tokens: &tokens,
                token_types: &token_types,
                merges: &merges,
                ..Default::default()
            };
            agrees_in_pieces(&Tokenizer::from_vocabulary(&vocabulary).unwrap());
        }
    }
}
