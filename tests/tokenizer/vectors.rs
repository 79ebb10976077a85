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

/// A vocabulary and texts whose ids are known, in files of the shared data (named without `.xz`).
pub(crate) struct Set {
    /// Who says so, and of which vocabulary.
    pub(crate) name: &'static str,
    /// A GGUF file or a `tokenizer.json`.
    pub(crate) vocabulary: &'static str,
    /// What `cases` reads.
    pub(crate) files: &'static [&'static str],
    pub(crate) cases: fn(&[String], &Tokenizer) -> Vec<Case>,
    /// How many cases that makes.
    pub(crate) count: usize,
}

const GPT_2: &str = "tokenizers/ggml-vocab-gpt-2.gguf";
const FALCON: &str = "tokenizers/ggml-vocab-falcon.gguf";
const MPT: &str = "tokenizers/ggml-vocab-mpt.gguf";
const PHI_3: &str = "tokenizers/ggml-vocab-phi-3.gguf";
const INPUTS: &str = "tokenizers/ggml-vocab.inp";
const JS: &str = "tokenizers/transformersjs_vectors.json";

/// All of them.
#[rustfmt::skip] // a table
pub(crate) const SETS: [Set; 12] = [
    Set { name: "llama.cpp: gpt-2", vocabulary: GPT_2, files: &[INPUTS, "tokenizers/ggml-vocab-gpt-2.gguf.out"], cases: |files, _| llama_cpp(files), count: 46 },
    Set { name: "llama.cpp: falcon", vocabulary: FALCON, files: &[INPUTS, "tokenizers/ggml-vocab-falcon.gguf.out"], cases: |files, _| llama_cpp(files), count: 46 },
    Set { name: "llama.cpp: mpt", vocabulary: MPT, files: &[INPUTS, "tokenizers/ggml-vocab-mpt.gguf.out"], cases: |files, _| llama_cpp(files), count: 46 },
    Set { name: "llama.cpp: phi-3", vocabulary: PHI_3, files: &[INPUTS, "tokenizers/ggml-vocab-phi-3.gguf.out"], cases: |files, _| llama_cpp(files), count: 46 },
    Set { name: "transformers.js: gpt-2", vocabulary: GPT_2, files: &[JS], cases: |files, tokenizer| transformers_js(files, "gpt-2", tokenizer), count: 26 },
    Set { name: "transformers.js: falcon", vocabulary: FALCON, files: &[JS], cases: |files, tokenizer| transformers_js(files, "falcon", tokenizer), count: 24 },
    Set { name: "transformers.js: llama-spm", vocabulary: PHI_3, files: &[JS], cases: |files, tokenizer| transformers_js(files, "llama-spm", tokenizer), count: 37 },
    Set { name: "Hugging Face: smollm2", vocabulary: "tokenizers/smollm2.tokenizer.json", files: &["tokenizers/hf_vectors_smollm2.json"], cases: |files, _| hugging_face(files), count: 135 },
    Set { name: "Hugging Face: gpt-neox-20b", vocabulary: "tokenizers/gpt-neox-20b.tokenizer.json", files: &["tokenizers/hf_vectors_gpt-neox-20b.json"], cases: |files, _| hugging_face(files), count: 135 },
    Set { name: "Hugging Face: phi-3", vocabulary: "tokenizers/phi-3.tokenizer.json", files: &["tokenizers/hf_vectors_phi-3.json"], cases: |files, _| hugging_face(files), count: 135 },
    Set { name: "llama2.c: stories260K", vocabulary: "models/stories260K/stories260K-f32.gguf", files: &["models/stories260K/reference.json"], cases: |files, _| reference(files, "encode_examples_numpy_port_of_llama2.c_encode"), count: 4 },
    Set { name: "sentencepiece: babyllama105", vocabulary: "models/babyllama105/babyllama105-q8_0.gguf", files: &["models/babyllama105/reference.json"], cases: |files, _| without_trailing_spaces(reference(files, "sentencepiece_encode_examples")), count: 3 },
];

/// llama.cpp's `ggml-vocab-*.gguf.inp` and `.out`: texts between marker lines, and a line of ids for each.
fn llama_cpp(files: &[String]) -> Vec<Case> {
    let (inputs, outputs) = (&files[0], &files[1]);
    let texts = inputs.split("\n__ggml_vocab_test__\n");
    let ids = outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    texts.zip(ids).map(|(text, ids)| Case { text: text.to_owned(), ids, decoded: Some(text.to_owned()) }).collect()
}

/// One set of the collection of transformers.js's expectations: an object of `{text, ids}`. BOS is taken off.
fn transformers_js(files: &[String], set: &str, tokenizer: &Tokenizer) -> Vec<Case> {
    let collection: Value = serde_json::from_str(&files[0]).unwrap();
    let bos = tokenizer.bos();
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
fn hugging_face(files: &[String]) -> Vec<Case> {
    let file: Value = serde_json::from_str(&files[0]).unwrap();
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

/// The examples of a model's `reference.json`: a list of `{text, ids}` under `key`.
fn reference(files: &[String], key: &str) -> Vec<Case> {
    let file: Value = serde_json::from_str(&files[0]).unwrap();
    file[key].as_array().unwrap().iter().map(case).collect()
}

/// The sentencepiece model of babyllama105 drops spaces at the end, which its GGUF file does not say (nor does
/// llama.cpp do it).
fn without_trailing_spaces(mut cases: Vec<Case>) -> Vec<Case> {
    for case in &mut cases {
        case.text = case.text.trim_end_matches(' ').to_owned();
    }
    cases
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
