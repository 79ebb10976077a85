//! The tokenizer against vectors of llama.cpp, transformers.js, Hugging Face and sentencepiece, against the plain
//! algorithm, and against small vocabularies worked out by hand.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::explicit_write, reason = "a test")]
#![cfg(not(target_arch = "wasm32"))] // Files and `xz`; the checks themselves are in `vectors`.

#[path = "tokenizer/vectors.rs"]
mod vectors;

use proptest::prelude::*;
use sinkstream::detokenizer::Detokenizer;
use sinkstream::error::Error;
use sinkstream::gguf::Gguf;
use sinkstream::source::Source;
use sinkstream::tokenizer::{Special, Tokenizer, Vocabulary};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use vectors::{Case, SETS, check};

// Vocabularies and vectors of others, where they are at hand.

/// The folder of shared data beside the repository; says so and returns `None` when it is not there.
fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    // Not `eprintln!`: the test harness would swallow it.
    writeln!(std::io::stderr(), "SKIPPED: no vectors at {}", folder.display()).unwrap();
    None
}

/// A file's bytes; `.xz` is unpacked by the `xz` command.
fn bytes_of(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output().expect("xz is installed");
        assert!(output.status.success(), "xz -dc {} failed", path.display());
        return output.stdout;
    }
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text_of(path: &Path) -> String {
    String::from_utf8(bytes_of(path)).unwrap()
}

#[derive(Default)]
struct OwnedVocabulary {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    scores: Vec<f32>,
    token_types: Vec<i32>,
    merges: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    unk: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
}

impl OwnedVocabulary {
    fn borrow(&self) -> Vocabulary<'_> {
        Vocabulary {
            model: &self.model,
            pre: self.pre.as_deref(),
            tokens: &self.tokens,
            scores: &self.scores,
            token_types: &self.token_types,
            merges: &self.merges,
            bos: self.bos,
            eos: self.eos,
            eot: self.eot,
            unk: self.unk,
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            add_space_prefix: self.add_space_prefix,
            takes_space: false,
        }
    }

    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_vocabulary(&self.borrow()).unwrap()
    }
}

/// The tokenizer's part of a GGUF file.
fn vocabulary_of(path: &Path) -> OwnedVocabulary {
    let gguf = pollster::block_on(Gguf::read(&mut Source::memory("vocabulary", bytes_of(path)))).unwrap();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| gguf.get_u32(&key(name)).unwrap();
    let flag = |name: &str| gguf.get_bool(&key(name)).unwrap();
    let text = |name: &str| gguf.get_str(&key(name)).unwrap().map(str::to_owned);
    let strings = |name: &str| gguf.strings(&key(name)).unwrap_or_default().to_vec();
    let kinds = gguf.get_integers(&key("token_type")).unwrap().unwrap_or_default();
    OwnedVocabulary {
        model: text("model").unwrap(),
        pre: text("pre"),
        tokens: strings("tokens"),
        scores: gguf.floats(&key("scores")).unwrap_or_default().to_vec(),
        token_types: kinds.into_iter().map(|kind| kind as i32).collect(),
        merges: strings("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        unk: id("unknown_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
    }
}

/// The vocabulary of a byte-level `tokenizer.json`, as a GGUF file would hold it.
fn vocabulary_of_json(json: &[u8], pre: &str) -> OwnedVocabulary {
    let file: serde_json::Value = serde_json::from_slice(json).unwrap();
    let mut tokens: HashMap<u64, (String, i32)> = HashMap::new();
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        tokens.insert(id.as_u64().unwrap(), (token.clone(), 1));
    }
    for token in file["added_tokens"].as_array().unwrap() {
        let kind = if token["special"] == true { 3 } else { 4 };
        tokens.insert(token["id"].as_u64().unwrap(), (token["content"].as_str().unwrap().to_owned(), kind));
    }
    let (tokens, token_types) = (0..tokens.len() as u64).map(|id| tokens[&id].clone()).unzip();
    OwnedVocabulary {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        tokens,
        token_types,
        merges: file["model"]["merges"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().to_owned()).collect(),
        ..Default::default()
    }
}

/// Fails with every line of disagreement; says how many cases agreed.
fn all_agree(set: &str, tokenizer: &Tokenizer, cases: &[Case], expected_count: usize) {
    assert_eq!(cases.len(), expected_count, "{set}: the vectors are not those that were counted");
    let failures = check(tokenizer, cases);
    assert!(failures.is_empty(), "{set}: {} of {}\n{}", failures.len(), cases.len(), failures.join("\n"));
    println!("{set}: {expected_count} of {expected_count}");
}

/// Checks the sets of one origin: its name is what theirs begin with.
fn agrees_with(origin: &str) {
    let Some(folder) = shared() else { return };
    let sets = SETS.iter().filter(|set| set.name.starts_with(origin));
    for set in sets {
        let vocabulary = found(&folder.join(set.vocabulary));
        let tokenizer = match set.vocabulary.ends_with(".json") {
            true => Tokenizer::from_json(&bytes_of(&vocabulary)).unwrap(),
            false => vocabulary_of(&vocabulary).tokenizer(),
        };
        let files: Vec<String> = set.files.iter().map(|file| text_of(&folder.join(file))).collect();
        all_agree(set.name, &tokenizer, &(set.cases)(&files, &tokenizer), set.count);
    }
}

/// The file, or the packed one beside its place.
fn found(path: &Path) -> PathBuf {
    if path.exists() { path.to_owned() } else { PathBuf::from(format!("{}.xz", path.display())) }
}

#[test]
fn agrees_with_llama_cpp() {
    agrees_with("llama.cpp: ");
}

#[test]
fn agrees_with_transformers_js() {
    agrees_with("transformers.js: ");
}

#[test]
fn agrees_with_hugging_face() {
    agrees_with("Hugging Face: ");
}

#[test]
fn agrees_with_hugging_face_on_a_vocabulary_as_gguf_holds_it() {
    let Some(folder) = shared() else { return };
    let set = SETS.iter().find(|set| set.name == "Hugging Face: smollm2").unwrap();
    let tokenizer = vocabulary_of_json(&bytes_of(&found(&folder.join(set.vocabulary))), "smollm").tokenizer();
    all_agree(set.name, &tokenizer, &(set.cases)(&[text_of(&folder.join(set.files[0]))], &tokenizer), set.count);
}

#[test]
fn agrees_with_llama2_c_on_stories260k() {
    agrees_with("llama2.c: ");
    let Some(folder) = shared() else { return };
    let tokenizer = vocabulary_of(&folder.join("models/stories260K/stories260K-f32.gguf")).tokenizer();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos()), (Some(1), Some(2), true));
}

#[test]
fn agrees_with_sentencepiece_on_babyllama105() {
    agrees_with("sentencepiece: ");
}

// Against the algorithm as it is written down.

/// Sentencepiece's BPE, one merge at a time: of all neighbours that make a token, the best score; of equals the
/// leftmost. Text never makes a special, byte or user-defined token, and a character that is no token gives its bytes.
fn merged_one_by_one(vocabulary: &OwnedVocabulary, text: &str) -> Vec<u32> {
    let ids: HashMap<&str, u32> = vocabulary
        .tokens
        .iter()
        .zip(0..)
        .filter(|(_, id)| vocabulary.token_types[*id as usize] == 1)
        .map(|(token, id)| (token.as_str(), id))
        .collect();
    let score = |token: &str| ids.get(token).map(|&id| vocabulary.scores[id as usize]);
    if text.is_empty() {
        return Vec::new();
    }
    let mut symbols: Vec<String> = format!(" {text}").replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..symbols.len() {
            let Some(score) = score(&(symbols[at - 1].clone() + &symbols[at])) else {
                continue;
            };
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at);
        symbols[at - 1] += &right;
    }
    let byte =
        |byte: u8| vocabulary.tokens.iter().position(|token| *token == format!("<0x{byte:02X}>")).unwrap() as u32;
    symbols
        .iter()
        .flat_map(|symbol| match ids.get(symbol.as_str()) {
            Some(&id) => vec![id],
            None => symbol.bytes().map(byte).collect(),
        })
        .collect()
}

#[test]
fn merges_the_llama_vocabulary_as_sentencepiece_does() {
    let Some(folder) = shared().map(|folder| folder.join("tokenizers")) else {
        return;
    };
    let vocabulary = vocabulary_of(&folder.join("ggml-vocab-phi-3.gguf.xz"));
    let tokenizer = vocabulary.tokenizer();
    let spaces = (1..=100).map(|count| " ".repeat(count));
    let words = vocabulary.tokens.iter().step_by(97).zip(1..).map(|(token, count)| {
        format!("{token}{}{token}\n{}x<s>y", " ".repeat(count % 40), " ".repeat(count % 23)).replace('▁', " ")
    });
    for text in spaces.chain(words) {
        let got = tokenizer.encode(&text, Special::Plain).unwrap();
        // `</s>` is matched even in plain text and would have to be cut out first.
        if !text.contains("</s>") {
            assert_eq!(got, merged_one_by_one(&vocabulary, &text), "{text:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merges_random_vocabularies_as_sentencepiece_does(
        words in prop::collection::vec("[ab▁]{2,5}", 1..30),
        texts in prop::collection::vec("[ab xé]{0,40}", 10),
    ) {
        let mut vocabulary = bytes_and_specials();
        for token in ["a", "b", "▁"].map(str::to_owned).into_iter().chain(words) {
            if !vocabulary.tokens.contains(&token) {
                // All scores differ: of equal scores only runs of one character are promised.
                let score = -(vocabulary.tokens.len() as f32);
                vocabulary.add(&token, 1, score);
            }
        }
        let tokenizer = vocabulary.tokenizer();
        for text in texts {
            prop_assert_eq!(tokenizer.encode(&text, Special::Plain).unwrap(), merged_one_by_one(&vocabulary, &text));
        }
    }

    #[test]
    fn detokenizer_gives_whole_characters_and_loses_nothing(
        ids in prop::collection::vec(prop_oneof![4 => 3..260_u32, 1 => 0..300_u32, 1 => Just(3 + 0xE2), 1 => Just(3 + 0x82), 1 => Just(3 + 0xAC)], 0..40),
        byte_level in any::<bool>(),
    ) {
        let tokenizer = if byte_level { mini_gpt2("gpt-2").tokenizer() } else { mini_llama().tokenizer() };
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
        let mut detokenizer = Detokenizer::new();
        let mut text: String = ids.iter().map(|&id| detokenizer.push(&tokenizer, id)).collect();
        text += &detokenizer.finish();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));

        if ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()) {
            let mut detokenizer = Detokenizer::at_text_start();
            let mut text: String = ids.iter().map(|&id| detokenizer.push(&tokenizer, id)).collect();
            text += &detokenizer.finish();
            prop_assert_eq!(text, tokenizer.decode(&ids).unwrap());
        }
    }
}

// Small vocabularies, worked out by hand.

impl OwnedVocabulary {
    fn add(&mut self, token: &str, token_type: i32, score: f32) {
        self.tokens.push(token.to_owned());
        self.token_types.push(token_type);
        self.scores.push(score);
    }
}

/// `<unk>`, `<s>`, `</s>`, and the byte tokens: byte b is id 3 + b.
fn bytes_and_specials() -> OwnedVocabulary {
    let mut vocabulary = OwnedVocabulary { model: "llama".to_owned(), ..Default::default() };
    vocabulary.add("<unk>", 2, 0.0);
    vocabulary.add("<s>", 3, 0.0);
    vocabulary.add("</s>", 3, 0.0);
    for byte in 0..=0xFF_u8 {
        vocabulary.add(&format!("<0x{byte:02X}>"), 6, 0.0);
    }
    vocabulary
}

fn mini_llama() -> OwnedVocabulary {
    let mut vocabulary = bytes_and_specials();
    // From id 259 on.
    for token in ["▁", "a", "b", "c", "<", "s", ">"] {
        vocabulary.add(token, 1, -1000.0);
    }
    // From id 266 on.
    for (token, score) in
        [("s>", -1.0), ("ab", -2.0), ("abc", -3.0), ("▁a", -4.0), ("▁ab", -5.0), ("▁▁", -50.0), ("▁▁▁", -50.0)]
    {
        vocabulary.add(token, 1, score);
    }
    vocabulary.add("[U]", 4, 0.0); // 273
    vocabulary.add("<|im_end|>", 1, 0.0); // 274
    vocabulary
}

#[test]
fn merges_by_score() {
    let tokenizer = mini_llama().tokenizer();
    for (text, ids) in [
        ("", &[][..]),
        // ▁abc: ab (-2), then abc (-3) before ▁ab (-5); no token ▁abc.
        ("abc", &[259, 268]),
        // ▁aab: ab (-2), then ▁a (-4).
        ("aab", &[269, 267]),
        // ▁▁a: ▁a (-4) before ▁▁ (-50).
        (" a", &[259, 269]),
        // Four ▁: of equal scores the leftmost, so the first run grows.
        ("   ", &[272, 259]),
        ("é", &[259, 3 + 0xC3, 3 + 0xA9]),
        ("\n", &[259, 3 + 10]),
        // The text of a byte token is no byte token.
        ("<0x0A>", &[259, 263, 3 + 48, 3 + 120, 3 + 48, 3 + 65, 265]),
    ] {
        assert_eq!(tokenizer.encode(text, Special::Parse).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids).unwrap(), text);
    }
    let without_prefix = OwnedVocabulary { add_space_prefix: Some(false), ..mini_llama() }.tokenizer();
    assert_eq!(without_prefix.encode("abc abc", Special::Plain).unwrap(), [268, 259, 268]);
    assert_eq!(without_prefix.decode(&[269]).unwrap(), " a");
}

#[test]
fn parses_special_tokens_or_not_as_asked() {
    let tokenizer = mini_llama().tokenizer();
    // After a special token, as at the start, comes a space.
    assert_eq!(tokenizer.encode("a<s>b", Special::Parse).unwrap(), [269, 1, 259, 261]);
    // `<` and `s>` are `<s>` put together, but text never becomes a control token.
    assert_eq!(tokenizer.encode("a<s>b", Special::Plain).unwrap(), [269, 263, 266, 261]);
    for special in [Special::Parse, Special::Plain] {
        assert_eq!(tokenizer.encode("a[U]b", special).unwrap(), [269, 273, 259, 261]);
    }
    // Not called a control token by the file, but one by its name.
    assert_eq!(tokenizer.encode("<|im_end|>", Special::Parse).unwrap(), [274]);
    assert_eq!(tokenizer.encode("<|im_end|>", Special::Plain).unwrap().len(), 11);
    assert_eq!(tokenizer.decode(&[1, 269, 273, 274]).unwrap(), "a[U]");
    assert_eq!(tokenizer.decode_with_special(&[1, 269, 273, 274]).unwrap(), "<s> a[U]<|im_end|>");
}

#[test]
fn knows_what_begins_and_ends_a_text() {
    let llama = mini_llama().tokenizer();
    assert_eq!((llama.bos(), llama.eos(), llama.add_bos(), llama.add_eos()), (Some(1), Some(2), true, false));
    assert_eq!((0..275).filter(|&id| llama.is_end(id)).collect::<Vec<_>>(), [2, 274]);

    let gpt2 = mini_gpt2("gpt-2");
    let named = OwnedVocabulary { bos: Some(263), eos: Some(263), eot: Some(5), ..mini_gpt2("gpt-2") }.tokenizer();
    assert_eq!((gpt2.tokenizer().bos(), gpt2.tokenizer().add_bos()), (None, false));
    assert_eq!((named.bos(), named.eos(), named.add_bos()), (Some(263), Some(263), false));
    assert_eq!((0..265).filter(|&id| named.is_end(id)).collect::<Vec<_>>(), [5, 263]);
    assert!(OwnedVocabulary { bos: Some(263), ..mini_gpt2("llama-bpe") }.tokenizer().add_bos());

    // gpt-oss: `<|end|>` ends a message, not the generation.
    let mut harmony = mini_llama();
    for token in ["<|end|>", "<|return|>", "<|call|>"] {
        harmony.add(token, 3, 0.0);
    }
    let harmony = harmony.tokenizer();
    assert_eq!((275..278).filter(|&id| harmony.is_end(id)).collect::<Vec<_>>(), [276, 277]);
}

/// GPT-2's alphabet in its order (`!` is id 0, byte 0 is id 188, `Ġ` is 220), and a few merges from id 256 on.
fn mini_gpt2(pre: &str) -> OwnedVocabulary {
    let mut vocabulary = OwnedVocabulary { model: "gpt2".to_owned(), pre: Some(pre.to_owned()), ..Default::default() };
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    for character in printable.chain('\u{100}'..='\u{143}') {
        vocabulary.add(&character.to_string(), 1, 0.0);
    }
    vocabulary.merges = ["Ġ a", "b c", "a bc", "' s", "1 2", "12 3"].map(str::to_owned).to_vec();
    for merge in vocabulary.merges.clone() {
        vocabulary.add(&merge.replace(' ', ""), 1, 0.0); // 256 to 261
    }
    vocabulary.add("  ", 4, 0.0); // 262
    vocabulary.add("<|endoftext|>", 3, 0.0); // 263
    vocabulary.add("Ġabc", 1, 0.0); // 264, which no merge makes
    vocabulary
}

#[test]
fn merges_bytes_in_order() {
    for (pre, text, ids) in [
        // Ġ a comes first, so that Ġabc is Ġa, bc.
        ("gpt-2", "abc abc", &[258, 256, 257][..]),
        // A word that is a token is taken whole.
        ("llama-bpe", "abc abc", &[258, 264]),
        ("gpt-2", "é\n", &[127, 102, 198]),
        ("gpt-2", "1234", &[261, 19]),
        ("mpt", "1234", &[261, 19]),
        ("falcon", "1234", &[261, 19]),
        ("smollm", "1234", &[16, 17, 18, 19]),
        ("qwen2", "1234", &[16, 17, 18, 19]),
        // The user-defined run of two spaces is cut out first.
        ("mpt", "a  a", &[64, 262, 64]),
        ("gpt-2", "a's<|endoftext|>", &[64, 259, 263]),
    ] {
        let tokenizer = mini_gpt2(pre).tokenizer();
        assert_eq!(tokenizer.encode(text, Special::Parse).unwrap(), ids, "{pre} {text:?}");
        assert_eq!(tokenizer.decode_with_special(ids).unwrap(), text);
    }
    let tokenizer = mini_gpt2("gpt-2").tokenizer();
    assert_eq!(tokenizer.encode("<|endoftext|>", Special::Plain).unwrap().len(), 13);
    assert_eq!(tokenizer.token_bytes(127), [0xC3]);
    assert!(tokenizer.token_bytes(263).is_empty());
    assert!(tokenizer.token_bytes(9999).is_empty());
}

/// A byte-level `tokenizer.json` of six tokens; `model` and `rest` replace parts of it.
fn mini_json(model: serde_json::Value, decoder: serde_json::Value) -> Vec<u8> {
    let file = serde_json::json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": null,
        "added_tokens": [
            { "id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true },
            { "id": 5, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }
        ],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [4], "tokens": ["<s>"] } }
        },
        "decoder": decoder,
        "model": model
    });
    file.to_string().into_bytes()
}

fn mini_bpe() -> serde_json::Value {
    serde_json::json!({ "type": "BPE", "vocab": { "a": 0, "Ġ": 1, "b": 2, "Ġa": 3 }, "merges": ["Ġ a"] })
}

fn byte_level_decoder() -> serde_json::Value {
    serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

#[test]
fn reads_a_tokenizer_json() {
    let tokenizer = Tokenizer::from_json(&mini_json(mini_bpe(), byte_level_decoder())).unwrap();
    // Longer than the two tokens that the file would cut texts to.
    assert_eq!(tokenizer.encode("a ab</s>", Special::Parse).unwrap(), [0, 3, 2, 5]);
    assert_eq!(tokenizer.decode(&[4, 0, 3, 2, 5]).unwrap(), "a ab");
    assert_eq!((tokenizer.bos(), tokenizer.add_bos()), (Some(4), true));
    assert_eq!((tokenizer.eos(), tokenizer.add_eos()), (Some(5), false));
    assert!(tokenizer.is_end(5) && !tokenizer.is_end(4));
    assert_eq!(tokenizer.vocab_size(), 6);
}

// What is refused.

#[test]
fn names_what_it_does_not_know() {
    let unsupported = |vocabulary: OwnedVocabulary| match Tokenizer::from_vocabulary(&vocabulary.borrow()) {
        Err(Error::Unsupported { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(unsupported(OwnedVocabulary { model: "t5".to_owned(), ..mini_llama() }), "tokenizer 't5'");
    assert_eq!(unsupported(mini_gpt2("kimi-k2")), "pre-tokenizer 'kimi-k2'");

    let unsupported = |json: Vec<u8>| match Tokenizer::from_json(&json) {
        Err(Error::Unsupported { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let unigram = serde_json::json!({ "type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]] });
    assert_eq!(unsupported(mini_json(unigram, byte_level_decoder())), "tokenizer model \"Unigram\"");
    assert!(unsupported(mini_json(mini_bpe(), serde_json::json!({ "type": "CTC" }))).contains("CTC"));
}

#[test]
fn refuses_vocabularies_that_contradict_themselves() {
    let refused = |vocabulary: OwnedVocabulary| match Tokenizer::from_vocabulary(&vocabulary.borrow()) {
        Err(Error::Tokenizer(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(OwnedVocabulary { tokens: Vec::new(), ..mini_llama() }), "the vocabulary is empty");
    assert_eq!(refused(OwnedVocabulary { scores: vec![0.0], ..mini_llama() }), "1 entries in scores for 275 tokens");
    assert_eq!(
        refused(OwnedVocabulary { eos: Some(275), ..mini_llama() }),
        "eos_token_id 275 is beyond the 275 tokens"
    );
    // Merged, it would be longer than any token of the vocabulary.
    let merges = vec!["<|endoftext|> <|endoftext|>".to_owned()];
    assert!(refused(OwnedVocabulary { merges, ..mini_gpt2("gpt-2") }).starts_with("merge 0, "));
    assert!(refused(OwnedVocabulary { merges: vec!["Ġa".to_owned()], ..mini_gpt2("gpt-2") }).starts_with("merge 0, "));
    let mut no_byte = mini_llama();
    no_byte.add("<0xFFF>", 6, 0.0);
    assert_eq!(refused(no_byte), "token 275, '<0xFFF>', is no byte token");

    let refused = |json: &[u8]| match Tokenizer::from_json(json) {
        Err(Error::Tokenizer(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let too_long = serde_json::json!({ "type": "BPE", "vocab": { "a": 0, "b": 1 }, "merges": [["a", "b"]] });
    assert!(refused(&mini_json(too_long, byte_level_decoder())).starts_with("merge 0, "));
    let gap = serde_json::json!({ "type": "BPE", "vocab": { "a": 0, "b": 4_000_000_000_u32 }, "merges": [] });
    assert!(refused(&mini_json(gap, byte_level_decoder())).starts_with("a vocabulary of 4000000001 ids"));
    assert!(!refused(b"{").is_empty());
    assert!(mini_llama().tokenizer().decode(&[275]).is_err());
}

#[test]
fn survives_long_runs() {
    let (llama, gpt2) = (mini_llama().tokenizer(), mini_gpt2("llama-bpe").tokenizer());
    for text in
        [" ".repeat(300_000), "a".repeat(300_000), "\n".repeat(300_000), " \n".repeat(150_000), "é".repeat(150_000)]
    {
        for tokenizer in [&llama, &gpt2] {
            let ids = tokenizer.encode(&text, Special::Parse).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
}
