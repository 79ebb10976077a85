//! Hugging Face folders: against transformers, against the GGUF file made of them, and damaged.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::explicit_write, reason = "a test")]
#![cfg(not(target_arch = "wasm32"))] // files

#[path = "hf/folder.rs"]
mod folder;
#[allow(dead_code, reason = "not every set is of a tokenizer.json")]
#[path = "tokenizer/vectors.rs"]
mod vectors;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use folder::{Folder, golden, with_header};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::{Value, json};
use sinkstream::engine::{Device, Engine, Settings};
use sinkstream::gguf::Gguf;
use sinkstream::hf::{self, Quant};
use sinkstream::kernels::cache::CacheType;
use sinkstream::tokenizer::{Special, Tokenizer};
use sinkstream::{Attention, Error, Result, Source};

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(golden().with_extension("json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// NLLs of the golden tokens, dense, on the CPU.
fn nlls(source: Source) -> Vec<f32> {
    let tokens = ids(&expected()["tokens"]);
    let settings = Settings {
        device: Device::Cpu,
        attention: Some(Attention::Dense),
        expected: Some(tokens.len() as u32),
        scores: true,
        cache: CacheType::F32,
        threads: Some(1),
        ..Settings::default()
    };
    let mut engine = block_on(Engine::load(source, &settings, &mut |_| {})).unwrap();
    let mut session = engine.session();
    block_on(session.append(&mut engine, &tokens[..1])).unwrap();
    block_on(session.score(&mut engine, &tokens[1..])).unwrap()
}

fn open(folder: &Path, quant: Option<Quant>) -> Result<Source> {
    block_on(hf::open(folder, quant))
}

/// The folder's GGUF file.
fn converted(folder: &Path, into: &Folder, quant: Option<Quant>) -> Source {
    let target = into.0.join("model.gguf");
    block_on(hf::convert(folder, &target, quant, &mut |_| Ok(()))).unwrap();
    Source::open(&target).unwrap()
}

fn header(source: &mut Source) -> Gguf {
    block_on(Gguf::read(source)).unwrap()
}

fn tokenizer(mut source: Source) -> Tokenizer {
    Tokenizer::from_gguf(&header(&mut source)).unwrap()
}

fn bytes(source: &mut Source, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    block_on(source.read(offset, &mut bytes)).unwrap();
    bytes
}

/// A tensor of a file, as f32.
fn floats(source: &mut Source, name: &str) -> Vec<f32> {
    let tensor = header(source).tensor(name).unwrap_or_else(|| panic!("no {name}")).clone();
    let bytes = bytes(source, tensor.offset, tensor.bytes);
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

// What is computed.

#[test]
fn a_folder_computes_what_transformers_does() {
    let expected: Vec<f32> = serde_json::from_value(expected()["nll"].clone()).unwrap();
    let nlls = nlls(open(&golden(), None).unwrap());
    assert_eq!(nlls.len(), expected.len());
    for (at, (ours, theirs)) in nlls.iter().zip(&expected).enumerate() {
        // The same weights; float sums in another order.
        assert!((ours - theirs).abs() < 1e-4, "NLL {at}: {ours}, not {theirs}");
    }
}

#[test]
fn a_converted_folder_computes_the_same() {
    for quant in [None, Some(Quant::F16), Some(Quant::Q8_0), Some(Quant::Q4_0)] {
        let into = Folder::new(&format!("same-{quant:?}"));
        let direct = nlls(open(&golden(), quant).unwrap());
        let through_a_file = nlls(converted(&golden(), &into, quant));
        assert_eq!(direct, through_a_file, "{quant:?}");
        // 8 bits cost little, 4 bits more, and both something.
        let plain = nlls(open(&golden(), None).unwrap());
        let cost = direct.iter().zip(&plain).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        let range = match quant {
            None => 0.0..=0.0,
            Some(Quant::F16) => 0.0..=1e-3,
            Some(Quant::Q8_0) => 1e-4..=0.2,
            Some(Quant::Q4_0) => 0.05..=3.0,
        };
        assert!(range.contains(&cost), "{quant:?} costs {cost}");
    }
}

#[test]
fn matrices_get_the_type_asked_for_and_vectors_stay_f32() {
    let kinds = |quant| {
        let gguf = header(&mut open(&golden(), quant).unwrap());
        ["token_embd", "output", "blk.1.ffn_down", "blk.0.attn_norm"]
            .map(|name| gguf.tensor(&format!("{name}.weight")).unwrap().kind.to_string())
    };
    assert_eq!(kinds(None), ["BF16", "BF16", "BF16", "F32"]);
    assert_eq!(kinds(Some(Quant::F16)), ["F16", "F16", "F16", "F32"]);
    assert_eq!(kinds(Some(Quant::Q8_0)), ["Q8_0", "Q8_0", "Q8_0", "F32"]);
    assert_eq!(kinds(Some(Quant::Q4_0)), ["Q4_0", "Q8_0", "Q4_0", "F32"]);
}

#[test]
fn any_range_of_the_bytes_is_that_of_the_whole() {
    let mut source = open(&golden(), Some(Quant::Q4_0)).unwrap();
    let len = source.len().unwrap();
    let whole = bytes(&mut source, 0, len);
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..300 {
        let offset = next(len);
        let count = next((len - offset).min(9000)) + 1;
        assert!(bytes(&mut source, offset, count) == whole[offset as usize..][..count as usize], "{offset} {count}");
    }
    assert!(block_on(source.read(len - 1, &mut [0; 2])).is_err());
}

/// Weights that say in which row of the folder they stood.
fn numbered(rows: u64, cols: u64) -> Vec<f32> {
    (0..rows).flat_map(|row| (0..cols).map(move |_| row as f32)).collect()
}

#[test]
fn fused_rows_and_their_biases_are_regrouped() {
    let folder = Folder::new("neox");
    let config = json!({
        "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 4, "vocab_size": 3, "rotary_pct": 0.5, "hidden_act": "gelu",
    });
    folder.write("config.json", config.to_string());
    let layer = |name: &str| format!("gpt_neox.layers.0.{name}");
    let names = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "attention.query_key_value.weight",
        "attention.query_key_value.bias",
        "attention.dense.weight",
        "mlp.dense_h_to_4h.weight",
        "mlp.dense_4h_to_h.weight",
        "attention.bias",
    ]
    .map(layer);
    folder.weights(&[
        ("gpt_neox.embed_in.weight", &[3, 8], numbered(3, 8)),
        ("gpt_neox.final_layer_norm.weight", &[8], numbered(8, 1)),
        ("embed_out.weight", &[3, 8], numbered(3, 8)),
        (&names[0], &[8], numbered(8, 1)),
        (&names[1], &[8], numbered(8, 1)),
        (&names[2], &[24, 8], numbered(24, 8)),
        (&names[3], &[24], numbered(24, 1)),
        (&names[4], &[8, 8], numbered(8, 8)),
        (&names[5], &[4, 8], numbered(4, 8)),
        (&names[6], &[8, 4], numbered(8, 4)),
        (&names[7], &[1], vec![1.0]), // a mask that nothing reads
    ]);
    let mut source = open(&folder.0, None).unwrap();
    // Two heads of 4: rows 0 to 11 of the folder are query, key and value of the first.
    let rows: [f32; 24] = [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 16, 17, 18, 19, 8, 9, 10, 11, 20, 21, 22, 23]
        .map(|row: u8| row.into());
    assert_eq!(floats(&mut source, "blk.0.attn_qkv.bias"), rows);
    let weights = floats(&mut source, "blk.0.attn_qkv.weight");
    assert_eq!(weights.chunks(8).map(|row| row[7]).collect::<Vec<_>>(), rows);
    assert_eq!(floats(&mut source, "blk.0.ffn_down.weight"), numbered(8, 4));
    assert!(header(&mut source).tensor("blk.0.attn_output.bias").is_none());
}

// Text.

/// Texts with everything that could go wrong.
fn text() -> impl Strategy<Value = String> {
    let parts = [
        "hello", "the", "HELLO", " ", "  ", "\n", "\t", "'ll", "123", "1", ",", "~`", "é", "🙂", "ooo  eee", "<|end|>",
        "▁", "<s>", "\u{a0}",
    ];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..40).prop_map(|parts| parts.concat())
}

#[test]
fn texts_have_transformers_ids_before_and_after() {
    let into = Folder::new("ids");
    let (before, after) = (tokenizer(open(&golden(), None).unwrap()), tokenizer(converted(&golden(), &into, None)));
    let alone = tokenizer(hf::open_vocabulary(&golden()).unwrap());
    let expected = expected();
    for tokenizer in [&before, &after, &alone] {
        let found = tokenizer.encode_start(expected["text"].as_str().unwrap(), Special::Parse).unwrap();
        assert_eq!(found, ids(&expected["ids"]));
        assert!(tokenizer.add_bos() && !tokenizer.add_eos());
        assert!(tokenizer.is_end(tokenizer.eos().unwrap()));
    }
    assert_eq!((before.bos(), before.eos()), (after.bos(), after.eos()));
    proptest!(ProptestConfig::with_cases(200), |(text in text())| {
        for special in [Special::Parse, Special::Plain] {
            prop_assert_eq!(before.encode(&text, special).unwrap(), after.encode(&text, special).unwrap(), "{:?}", text);
        }
    });
}

#[test]
fn chat_template_and_special_ids_come_along() {
    let folder = Folder::golden("special");
    folder.edit("generation_config.json", |config| config["eos_token_id"] = json!([343, 342]));
    folder.edit("tokenizer_config.json", |config| config["add_bos_token"] = json!(false));
    let gguf = header(&mut open(&folder.0, None).unwrap());
    let id = |name: &str| gguf.get_u32(&format!("tokenizer.ggml.{name}_token_id")).unwrap();
    assert_eq!([id("bos"), id("eos"), id("eot"), id("padding")], [Some(341), Some(342), Some(342), Some(343)]);
    assert_eq!(gguf.get_bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    let template = std::fs::read_to_string(folder.0.join("chat_template.jinja")).unwrap();
    assert_eq!(gguf.get_str("tokenizer.chat_template").unwrap(), Some(template.as_str()));
    assert!(!Tokenizer::from_gguf(&gguf).unwrap().add_bos());
    // Without a file of its own, it stands among the tokenizer's settings.
    std::fs::remove_file(folder.0.join("chat_template.jinja")).unwrap();
    folder.edit("tokenizer_config.json", |config| {
        config["chat_template"] =
            json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
    });
    let gguf = header(&mut open(&folder.0, None).unwrap());
    assert_eq!(gguf.get_str("tokenizer.chat_template").unwrap(), Some("d"));
}

/// Real vocabularies through a GGUF file, against the ids of the `tokenizers` package in Python.
#[test]
fn converted_vocabularies_agree_with_known_vectors() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !shared.is_dir() {
        return writeln!(std::io::stderr(), "SKIPPED: no vectors at {}", shared.display()).unwrap();
    }
    let mut count = 0;
    for set in vectors::SETS.iter().filter(|set| set.vocabulary.ends_with(".json")) {
        let folder = Folder::new(&set.vocabulary.replace('/', "-"));
        let packed = shared.join(format!("{}.xz", set.vocabulary));
        let json = Command::new("xz").arg("-dc").arg(packed).output().expect("xz is installed").stdout;
        folder.write("tokenizer.json", json);
        tiny_llama(&folder, 50_304);
        let tokenizer = tokenizer(converted(&folder.0, &folder, None));
        let texts: Vec<String> =
            set.files.iter().map(|file| std::fs::read_to_string(shared.join(file)).unwrap()).collect();
        let cases = (set.cases)(&texts, &tokenizer);
        assert_eq!(cases.len(), set.count);
        assert_eq!(vectors::check(&tokenizer, &cases), Vec::<String>::new(), "{}", set.name);
        count += 1;
    }
    assert_eq!(count, 3);
}

/// A model of one layer and two dimensions around a vocabulary.
fn tiny_llama(folder: &Folder, vocab_size: u64) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 2, "num_attention_heads": 1, "num_hidden_layers": 1,
        "intermediate_size": 2, "vocab_size": vocab_size, "tie_word_embeddings": true,
    });
    folder.write("config.json", config.to_string());
    let square = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| format!("model.layers.0.self_attn.{name}.weight"));
    let gated = ["gate_proj", "up_proj", "down_proj"].map(|name| format!("model.layers.0.mlp.{name}.weight"));
    let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| format!("model.layers.0.{name}.weight"));
    let mut tensors: Vec<(&str, &[u64], Vec<f32>)> = vec![("model.norm.weight", &[2], vec![1.0; 2])];
    let size = [vocab_size, 2];
    tensors.push(("model.embed_tokens.weight", &size, vec![0.0; 2 * vocab_size as usize]));
    tensors.extend(square.iter().chain(&gated).map(|name| (name.as_str(), &[2, 2][..], vec![0.0; 4])));
    tensors.extend(norms.iter().map(|name| (name.as_str(), &[2][..], vec![1.0; 2])));
    folder.weights(&tensors);
}

// What is wrong.

#[test]
fn what_is_missing_or_wrong_is_named() {
    const PART: &str = "model-00001-of-00002.safetensors";
    type Change = fn(&Folder);
    let cases: [(&str, Change, &str); 9] = [
        (
            "class",
            |f| f.edit("config.json", |c| c["architectures"] = json!(["MambaForCausalLM"])),
            "architecture MambaForCausalLM is not supported",
        ),
        (
            "layers",
            |f| f.edit("config.json", |c| c["num_hidden_layers"] = json!(3)),
            "tensor model.layers.2.input_layernorm.weight is missing",
        ),
        ("fewer", |f| f.edit("config.json", |c| c["num_hidden_layers"] = json!(1)), "tensor model.layers.1."),
        (
            "shape",
            |f| f.edit("config.json", |c| c["intermediate_size"] = json!(97)),
            "mlp.gate_proj.weight has shape [96, 64], not [97, 64]",
        ),
        ("part", |f| std::fs::remove_file(f.0.join(PART)).unwrap(), PART),
        (
            "index",
            |f| f.edit("model.safetensors.index.json", |i| i["weight_map"]["x.weight"] = json!(PART)),
            "tensor x.weight is missing in",
        ),
        (
            "outside",
            |f| f.edit("model.safetensors.index.json", |i| i["weight_map"]["x"] = json!("../x.safetensors")),
            "\"../x.safetensors\" is no file name",
        ),
        ("config", |f| std::fs::remove_file(f.0.join("config.json")).unwrap(), "config.json: there is no such file"),
        ("json", |f| f.write("config.json", "{"), "config.json: not JSON"),
    ];
    for (name, change, expected) in cases {
        let folder = Folder::golden(name);
        change(&folder);
        let error = open(&folder.0, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
}

#[test]
fn a_tokenizer_that_gguf_cannot_hold_is_named_but_loads() {
    let folder = Folder::golden("words");
    let change = |change: &dyn Fn(&mut Value)| folder.edit("tokenizer.json", |json| change(json));
    let refused = || match block_on(hf::convert(&folder.0, &folder.0.join("x.gguf"), None, &mut |_| Ok(()))) {
        Err(Error::Unsupported { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    change(&|json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+"));
    assert!(refused().starts_with("pre-tokenizer '{") && refused().contains("[a-z]+"), "{}", refused());
    assert!(tokenizer(open(&folder.0, None).unwrap()).encode("hello", Special::Parse).is_ok());
    change(&|json| json["normalizer"] = json!({ "type": "Lowercase" }));
    assert!(refused().contains("Lowercase"));
    assert!(!folder.0.join("x.gguf").exists());
}

#[test]
fn a_file_that_is_there_stays_until_the_new_one_is_whole() {
    let folder = Folder::new("keeps");
    folder.write("model.gguf", "old");
    let target = folder.0.join("model.gguf");
    let stopped = block_on(hf::convert(&golden(), &target, None, &mut |_| Err(Error::Aborted)));
    assert!(matches!(stopped, Err(Error::Aborted)));
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "a temporary file is left");
    let error = block_on(hf::convert(&golden(), &folder.0, None, &mut |_| Ok(()))).unwrap_err().to_string();
    assert!(error.starts_with("cannot write ") && error.ends_with("it is not the name of a file"), "{error}");
    converted(&golden(), &folder, None);
    assert!(std::fs::read(&target).unwrap().starts_with(b"GGUF"));
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn the_command_reads_and_converts_folders() {
    let folder = Folder::new("command");
    let target = folder.0.join("model.gguf");
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sinkstream")).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (source, target) = (golden().display().to_string(), target.display().to_string());
    assert_eq!(run(&["convert", &source, &target, "--quant", "q8_0"]), (Some(0), String::new(), String::new()));
    let [direct, file] = [vec!["--model", &source, "--quant", "q8_0"], vec!["--model", &target]].map(|model| {
        let (code, out, _) = run(&[&["info", "--json"], model.as_slice()].concat());
        assert_eq!(code, Some(0));
        serde_json::from_str::<Value>(&out).unwrap()
    });
    assert_eq!(direct["tensors"].as_array().unwrap().len(), 22);
    assert_eq!((&direct["tensors"], &direct["memory"]), (&file["tensors"], &file["memory"]));
    let (code, _, error) = run(&["info", "--model", &target, "--quant", "f16"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--quant is for a folder"), "{error}");
    assert_eq!(run(&["convert", &target, "x.gguf"]).0, Some(1));
}

/// A folder with this header before `data` bytes of data.
fn damaged(name: &str, file: &[u8]) -> String {
    let folder = Folder::golden(name);
    std::fs::remove_file(folder.0.join("model.safetensors.index.json")).unwrap();
    folder.write("model.safetensors", file);
    open(&folder.0, None).unwrap_err().to_string()
}

#[test]
fn damaged_headers_are_one_clear_line() {
    let tensor = |range: &str| format!("{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{range}}}");
    for (name, file, expected) in [
        ("empty", vec![], "8 bytes wanted, but it ends at byte 0"),
        ("huge", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "18446744073709551615 bytes in a file of 10"),
        ("cut", with_header("{\"a\":", &[]), "header at byte 0: EOF"),
        ("list", with_header("[]", &[]), "header at byte 0: invalid type"),
        (
            "far",
            with_header(&format!("{{\"a\":{}}}", tensor("[0,9]")), &[0; 8]),
            "tensor a at byte 0: its data end at byte 9 of 8",
        ),
        ("turned", with_header(&format!("{{\"a\":{}}}", tensor("[8,0]")), &[0; 8]), "its data_offsets are no range"),
        ("size", with_header(&format!("{{\"a\":{}}}", tensor("[0,4]")), &[0; 8]), "4 bytes for a shape of [2]"),
        (
            "over",
            with_header(&format!("{{\"a\":{},\"b\":{}}}", tensor("[0,8]"), tensor("[4,12]")), &[0; 12]),
            "tensor b at byte 0: overlaps the data of a",
        ),
        (
            "shape",
            with_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", &[]),
            "0 bytes for a shape of",
        ),
        ("name", with_header("{\"a\":{\"shape\":[],\"data_offsets\":[0,0]}}", &[]), "its dtype is no name"),
    ] {
        let error = damaged(name, &file);
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let part = std::fs::read(golden().join("model-00002-of-00002.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(part[..8].try_into().unwrap()) as usize;
    let folder = Folder::golden("mutated");
    let length = part.len();
    let change = (prop_oneof![0..8_usize, 0..header], any::<u8>());
    let strategy = (proptest::collection::vec(change, 1..4), prop_oneof![Just(length), 0..length]);
    proptest!(ProptestConfig::with_cases(400), |((changes, length) in strategy)| {
        let mut part = part.clone();
        for (at, byte) in changes {
            part[at] = byte;
        }
        part.truncate(length);
        folder.write("model-00002-of-00002.safetensors", &part);
        match open(&folder.0, None) {
            Ok(mut source) => {
                let len = source.len().unwrap();
                // No more than the folder holds: everything is as long as the file says, or the shape is wrong.
                prop_assert!(len < 400_000, "{} bytes", len);
                let _ = block_on(source.read(0, &mut vec![0; len as usize]));
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    });
}
