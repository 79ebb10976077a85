//! How byte-level vocabularies cut a text into words before merging: the `tokenizer.ggml.pre` of a GGUF file.
//!
//! Each name stands for a list of regular expressions, applied one after the other: every match becomes a piece of
//! its own, and so does what lies between. Names and expressions are those of llama.cpp (`llama-vocab.cpp`,
//! `llm_tokenizer_bpe`); where it lists several names for one expression, so do we.

use super::refused;
use crate::error::{Error, Result};
use serde_json::Value;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

/// GPT-2: contractions, words, numbers and signs with the space before them, runs of space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: any one sign may lead a word, numbers in threes, line breaks go with the signs or spaces before them.
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3, but every digit alone.
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Tekken (Mistral Nemo): words change where capitals begin, every digit alone, slashes go with the signs before them.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o: as Tekken, with contractions and numbers in threes.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Runs of punctuation and of the ASCII signs that Unicode calls symbols (Falcon has the grave accent besides).
const FALCON_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const DEFAULT_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";
const DIGITS: &str = r"\p{N}+";
const DIGIT: &str = r"\p{N}";

/// Contractions as `tokenizer.json` files write them, and as the expressions above do.
const CONTRACTIONS: [&str; 2] =
    ["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"];

/// Names for the pre-tokenizers of `tokenizer.json` files: expressions, `ignore_merges`, name. Falcon's files cut at
/// all digits besides, which its merges never cross.
const NAMES: [(&[&str], bool, &str); 9] = [
    (&[GPT2], false, "gpt-2"),
    (&[DIGIT, GPT2], false, "smollm"),
    (&[FALCON_PUNCTUATION, GPT2, DIGITS, THREE_DIGITS], false, "falcon"),
    (&[FALCON_PUNCTUATION, GPT2, THREE_DIGITS], false, "falcon"),
    (&[LLAMA3], true, "llama-bpe"),
    (&[LLAMA3], false, "dbrx"),
    (&[QWEN2], false, "qwen2"),
    (&[TEKKEN], true, "tekken"),
    (&[GPT4O], false, "gpt-4o"),
];

/// What a pre-tokenizer's name says.
#[derive(Debug)]
pub(super) struct Pre {
    expressions: &'static [&'static str],
    /// A word that is itself a token is not merged from its characters.
    pub(super) ignore_merges: bool,
    /// BOS is expected unless the file says otherwise.
    pub(super) add_bos: bool,
}

impl Pre {
    /// Looks a name up; no name is `default`, as in llama.cpp.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is not in the list.
    pub(super) fn named(name: Option<&str>) -> Result<Self> {
        let name = name.unwrap_or("default");
        let expressions: &[&str] = match name {
            "default" => &[DEFAULT_PUNCTUATION, GPT2, DIGITS, THREE_DIGITS],
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "gigachat" | "a.x-4.0"
            | "mellum" | "modern-bert" | "exaone4" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" => {
                &[GPT2]
            }
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
                &[DIGIT, GPT2]
            }
            "falcon" => &[FALCON_PUNCTUATION, GPT2, THREE_DIGITS],
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => &[LLAMA3],
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" | "solar-open"
            | "grok-2" => &[QWEN2],
            "tekken" => &[TEKKEN],
            "gpt-4o" | "llama4" => &[GPT4O],
            _ => return Err(unsupported(name)),
        };
        let llama3 = expressions == [LLAMA3] && !matches!(name, "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe");
        let whole = llama3 || name == "tekken";
        Ok(Self { expressions, ignore_merges: whole, add_bos: whole })
    }

    /// The name for the `pre_tokenizer` of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that none of the names stands for, with its steps.
    pub(super) fn name_of(pre_tokenizer: &Value, ignore_merges: bool) -> Result<&'static str> {
        let mut steps = vec![];
        let is_known = add_steps(pre_tokenizer, &mut steps);
        let name = NAMES.iter().find(|(known, ignores, _)| is_known && *known == steps && *ignores == ignore_merges);
        name.map(|(.., name)| *name).ok_or_else(|| {
            let merges = if ignore_merges { " with ignore_merges" } else { "" };
            unsupported(&format!("{pre_tokenizer}{merges}"))
        })
    }

    /// The expressions as parts of the `tokenizers` crate; the last part writes the bytes of each piece as characters.
    pub(super) fn build(&self) -> Result<Sequence> {
        let mut parts: Vec<PreTokenizerWrapper> = Vec::new();
        for &expression in self.expressions {
            let pattern = SplitPattern::Regex(expression.to_owned());
            parts.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(refused)?.into());
        }
        parts.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(parts))
    }
}

/// Adds the expressions of a step; false if it is none that the expressions above are made of.
fn add_steps(step: &Value, steps: &mut Vec<String>) -> bool {
    let flag = |name: &str, usual: bool| step[name].as_bool().unwrap_or(usual);
    match step["type"].as_str() {
        Some("Sequence") => {
            let parts = step["pretokenizers"].as_array();
            return parts.is_some_and(|parts| parts.iter().all(|part| add_steps(part, steps)));
        }
        Some("ByteLevel") if !flag("add_prefix_space", true) => {
            steps.extend(flag("use_regex", true).then(|| GPT2.to_owned()));
        }
        Some("Digits") => steps.push(if flag("individual_digits", false) { DIGIT } else { DIGITS }.to_owned()),
        Some("Punctuation") if step["behavior"] == "Contiguous" => steps.push(FALCON_PUNCTUATION.to_owned()),
        Some("Split") => {
            // These expressions match everything, so that what they match and what is left when all else is removed
            // is the same.
            let is_isolated = step["behavior"] == "Isolated" && !flag("invert", false);
            let is_kept = step["behavior"] == "Removed" && flag("invert", false);
            let expression = step["pattern"]["Regex"].as_str().filter(|_| is_isolated || is_kept);
            let Some(expression) = expression else { return false };
            steps.push(expression.replace(CONTRACTIONS[0], CONTRACTIONS[1]));
        }
        _ => return false,
    }
    true
}

/// The error that names a pre-tokenizer.
fn unsupported(name: &str) -> Error {
    Error::Unsupported {
        what: format!("pre-tokenizer '{name}'"),
        supported:
            "default, gpt-2, mpt, olmo, smollm, falcon, llama-bpe, qwen2, tekken, gpt-4o and their relatives work"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// The words of a text, as text.
    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        Pre::named(Some(pre)).unwrap().build().unwrap().pre_tokenize(&mut pieces).unwrap();
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn cuts_as_each_name_says() {
        let text = "I'll SHE'LL  pay $1234.5,\n\n ok~`d\t\n x ";
        for (pre, expected) in [
            (
                "gpt-2",
                &[
                    "I", "'ll", " SHE", "'", "LL", " ", " pay", " $", "1234", ".", "5", ",", "\n\n", " ok", "~`", "d",
                    "\t\n", " x", " ",
                ][..],
            ),
            (
                "smollm",
                &[
                    "I", "'ll", " SHE", "'", "LL", " ", " pay", " $", "1", "2", "3", "4", ".", "5", ",", "\n\n", " ok",
                    "~`", "d", "\t\n", " x", " ",
                ],
            ),
            (
                "falcon",
                &[
                    "I", "'", "ll", " SHE", "'", "LL", " ", " pay", " ", "$", "123", "4", ".", "5", ",", "\n\n", " ok",
                    "~`", "d", "\t\n", " x", " ",
                ],
            ),
            (
                "default",
                &[
                    "I", "'", "ll", " SHE", "'", "LL", " ", " pay", " ", "$", "123", "4", ".", "5", ",", "\n\n", " ok",
                    "~", "`", "d", "\t\n", " x", " ",
                ],
            ),
            (
                "llama-bpe",
                &[
                    "I", "'ll", " SHE", "'LL", " ", " pay", " $", "123", "4", ".", "5", ",\n\n", " ok", "~`", "d",
                    "\t\n", " x", " ",
                ],
            ),
            (
                "qwen2",
                &[
                    "I", "'ll", " SHE", "'LL", " ", " pay", " $", "1", "2", "3", "4", ".", "5", ",\n\n", " ok", "~`",
                    "d", "\t\n", " x", " ",
                ],
            ),
            (
                "tekken",
                &[
                    "I", "'ll", " SHE", "'LL", " ", " pay", " $", "1", "2", "3", "4", ".", "5", ",\n\n", " ok", "~`",
                    "d", "\t\n", " x", " ",
                ],
            ),
            (
                "gpt-4o",
                &[
                    "I'll", " SHE'LL", " ", " pay", " $", "123", "4", ".", "5", ",\n\n", " ok", "~`", "d", "\t\n",
                    " x", " ",
                ],
            ),
        ] {
            assert_eq!(words(pre, text), expected, "{pre}");
        }
        let capitals = ["camel", "Case", " HTTPServer", " a", "/b", " //", "x", "\n"];
        assert_eq!(words("tekken", "camelCase HTTPServer a/b //x\n"), capitals);
    }

    #[test]
    fn finds_the_name_of_a_files_steps() {
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": true });
        let bytes_only = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let sequence = |parts: &[&Value]| json!({ "type": "Sequence", "pretokenizers": parts });
        let split = |expression: &str| {
            let pattern = expression.replace(CONTRACTIONS[1], CONTRACTIONS[0]);
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
        };
        let digits = |individual: bool| json!({ "type": "Digits", "individual_digits": individual });
        let signs = json!({ "type": "Punctuation", "behavior": "Contiguous" });
        let name = |steps: &Value, ignore: bool| Pre::name_of(steps, ignore).map_err(|error| error.to_string());
        assert_eq!(name(&byte_level, false), Ok("gpt-2"));
        assert_eq!(name(&sequence(&[&digits(true), &byte_level]), false), Ok("smollm"));
        let falcon = sequence(&[&signs, &byte_level, &digits(false), &split(THREE_DIGITS)]);
        assert_eq!(name(&falcon, false), Ok("falcon"));
        for (expression, ignore, expected) in [
            (LLAMA3, true, "llama-bpe"),
            (LLAMA3, false, "dbrx"),
            (QWEN2, false, "qwen2"),
            (TEKKEN, true, "tekken"),
            (GPT4O, false, "gpt-4o"),
        ] {
            let steps = sequence(&[&split(expression), &bytes_only]);
            assert_eq!(name(&steps, ignore), Ok(expected));
            // The name means what was asked for.
            let pre = Pre::named(Some(expected)).unwrap();
            assert_eq!((pre.expressions, pre.ignore_merges), (&[expression][..], ignore));
        }
        let unknown = name(&sequence(&[&split("[a-z]+"), &bytes_only]), false).unwrap_err();
        assert!(unknown.starts_with("pre-tokenizer '{") && unknown.contains("[a-z]+"), "{unknown}");
        assert!(name(&byte_level, true).unwrap_err().contains("with ignore_merges"));
        let spaced = json!({ "type": "ByteLevel", "add_prefix_space": true });
        assert!(name(&spaced, false).is_err());
    }

    #[test]
    fn only_llama_3_and_its_like_ignore_merges() {
        let of = |name| Pre::named(Some(name)).map(|pre| (pre.ignore_merges, pre.add_bos)).unwrap();
        assert_eq!(of("llama-bpe"), (true, true));
        assert_eq!(of("dbrx"), (false, false));
        assert_eq!(of("qwen2"), (false, false));
    }
}
