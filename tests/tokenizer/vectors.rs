//! Known texts with their ids, and the check that a tokenizer agrees with them. Reads no files, so that it also runs
//! compiled to WebAssembly.

use serde_json::Value;
use sinkstream::detokenizer::Detokenizer;
use sinkstream::tokenizer::{Special, Tokenizer};

/// A text, its ids without BOS, and what they decode to with special tokens written out.
pub(crate) struct Case {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// `None`: not known. The text itself where a vocabulary is without loss.
    pub(crate) decoded: Option<String>,
}

/// llama.cpp's `ggml-vocab-*.gguf.inp` and `.out`: texts between marker lines, and a line of ids for each.
pub(crate) fn llama_cpp(inputs: &str, outputs: &str) -> Vec<Case> {
    let texts = inputs.split("\n__ggml_vocab_test__\n");
    let ids = outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    texts.zip(ids).map(|(text, ids)| Case { text: text.to_owned(), ids, decoded: Some(text.to_owned()) }).collect()
}

/// One set of the collection of transformers.js's expectations: an object of `{text, ids}`. `bos` is taken off.
pub(crate) fn transformers_js(collection: &str, set: &str, bos: Option<u32>) -> Vec<Case> {
    let collection: Value = serde_json::from_str(collection).unwrap();
    let cases = collection[set].as_object().unwrap().values();
    cases
        .map(|case| {
            let mut ids = ids_of(&case["ids"]);
            if bos.is_some() && ids.first().copied() == bos {
                ids.remove(0);
            }
            Case { text: case["text"].as_str().unwrap().to_owned(), ids, decoded: None }
        })
        .collect()
}

/// What Hugging Face's `tokenizers` gives: `cases`, a list of `{text, ids, decoded}`.
pub(crate) fn hugging_face(file: &str) -> Vec<Case> {
    let file: Value = serde_json::from_str(file).unwrap();
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

/// The examples of a model's `reference.json`: a list of `{text, ids}` under `key`.
pub(crate) fn reference(file: &str, key: &str) -> Vec<Case> {
    let file: Value = serde_json::from_str(file).unwrap();
    file[key].as_array().unwrap().iter().map(case).collect()
}

fn case(case: &Value) -> Case {
    Case {
        text: case["text"].as_str().unwrap().to_owned(),
        ids: ids_of(&case["ids"]),
        decoded: case["decoded"].as_str().map(str::to_owned),
    }
}

fn ids_of(ids: &Value) -> Vec<u32> {
    ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Every disagreement, as a line of text: ids, decoding, and the detokenizer against the decoding.
pub(crate) fn check(tokenizer: &Tokenizer, cases: &[Case]) -> Vec<String> {
    let mut failures = Vec::new();
    for case in cases {
        let ids = tokenizer.encode(&case.text, Special::Parse).unwrap();
        if ids != case.ids {
            failures.push(format!("{:?}: expected {:?}, got {ids:?}", case.text, case.ids));
        }
        let decoded = tokenizer.decode_with_special(&case.ids).unwrap();
        if let Some(expected) = case.decoded.as_ref().filter(|expected| **expected != decoded) {
            failures.push(format!("{:?}: expected {expected:?}, decoded {decoded:?}", case.ids));
        }
        let mut detokenizer = Detokenizer::at_text_start();
        let mut streamed: String = case.ids.iter().map(|&id| detokenizer.push(tokenizer, id)).collect();
        streamed += &detokenizer.finish();
        if streamed != tokenizer.decode(&case.ids).unwrap() {
            failures.push(format!("{:?}: streamed {streamed:?}", case.ids));
        }
    }
    failures
}
