//! The command `sinkstream`, as a person or a script meets it.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod support;

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use support::{Folder, command, failure, golden, json, refused, run, success, wait, with_input};

const CPU: [&str; 4] = ["--device", "cpu", "--quiet", "--seed"];

#[test]
fn the_bundled_model_continues_a_text_with_nothing_set_up() {
    let args = ["generate", "--prompt", "Once upon a time", "-n", "40", "--device", "cpu", "--quiet", "--seed", "3"];
    let text = success(&args);
    assert!(text.len() > 40 && !text.starts_with("Once"), "{text}");
    assert_eq!(success(&args), text, "the same seed gives the same text");
    let echoed = success(&[&args[..], &["--echo"]].concat());
    assert_eq!(echoed, format!("Once upon a time{text}"));
    let report = json(&[&args[..], &["--json"]].concat());
    assert_eq!(report["text"], text);
    assert_eq!(report["stop_reason"], "length");
    assert_eq!(report["seed"], 3);
    assert_eq!(report["ids"].as_array().unwrap().len(), 40);
    assert_eq!(report["executor"], "cpu");
    assert!(report["prompt_ids"].as_array().unwrap().len() > 2);
    assert!(report["tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_prompt_comes_from_standard_input_or_a_file() {
    let folder = Folder::new("prompt");
    let file = folder.file("prompt.txt", b"The sea was");
    let args = ["generate", "-n", "12", "--device", "cpu", "--quiet", "--seed", "1"];
    let from_input = with_input(&args, b"The sea was").stdout;
    assert_eq!(from_input, success(&[&args[..], &["--prompt-file", &file]].concat()).into_bytes());
    assert_eq!(from_input, success(&[&args[..], &["--prompt", "The sea was"]].concat()).into_bytes());
    assert!(!with_input(&args, b"").stdout.is_empty(), "an empty prompt is BOS");
}

#[test]
fn the_seed_is_said_unless_it_was_given() {
    let output = run(&["generate", "--prompt", "A", "-n", "2", "--device", "cpu"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("seed "));
    let output = run(&["generate", "--prompt", "A", "-n", "2", "--device", "cpu", "--quiet"]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_stop_text_ends_the_stream_and_is_not_shown() {
    let args = ["generate", "--prompt", "Once upon a time", "-n", "60", "--device", "cpu", "--quiet", "--seed", "3"];
    let text = success(&args);
    let stop: String = text.chars().skip(20).take(5).collect();
    let report = json(&[&args[..], &["--json", "--stop", "never in there", "--stop", &stop]].concat());
    let end = text.find(&stop).unwrap();
    assert_eq!(report["text"], text[..end]);
    assert_eq!(report["stop_reason"], "stop");
}

#[test]
fn an_endless_stream_ends_quietly_when_nobody_reads() {
    let mut child =
        command(&["generate", "--prompt", "A", "--quiet", "--device", "cpu", "--window", "40"]).spawn().unwrap();
    let mut first = [0; 200];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(0));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
}

#[test]
fn ctrl_c_ends_an_endless_stream_with_130() {
    for extra in [&[][..], &["--json"]] {
        let args = [&["generate", "--prompt", "A", "--quiet", "--device", "cpu", "--window", "40"], extra].concat();
        let mut child = command(&args).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).unwrap();
            text
        });
        std::thread::sleep(Duration::from_secs(2));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert_eq!(wait(&mut child), Some(130));
        let text = reader.join().unwrap();
        assert!(!text.is_empty(), "what was written is not lost");
        if !extra.is_empty() {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["stop_reason"], "interrupt");
        }
    }
}

#[test]
fn perplexity_reports_what_the_contract_names() {
    let folder = Folder::new("perplexity");
    let text = folder
        .file("text", "It was a dark and stormy night; \u{fffd} the rain fell in torrents. ".repeat(8).as_bytes());
    let nll_file = folder.0.join("nll.json").display().to_string();
    let args = ["perplexity", "--text", &text, "--json", "--device", "cpu", "--sinks", "1", "--window", "31"];
    let report = json(&[&args[..], &["--nll-out", &nll_file]].concat());
    let tokens = report["tokens"].as_u64().unwrap();
    let nlls: Vec<f64> = serde_json::from_slice(&std::fs::read(&nll_file).unwrap()).unwrap();
    assert_eq!(nlls.len() as u64, tokens - 1);
    let mean = nlls.iter().sum::<f64>() / nlls.len() as f64;
    assert!((report["mean_nll"].as_f64().unwrap() - mean).abs() < 1e-6);
    assert!((report["perplexity"].as_f64().unwrap() - mean.exp()).abs() < 1e-3);
    let after = nlls[33..].iter().sum::<f64>() / (nlls.len() - 33) as f64;
    assert!((report["perplexity_after_eviction"].as_f64().unwrap() - after.exp()).abs() < 1e-3);
    assert_eq!(report["evicted_tokens"], tokens - 1 - 32);
    assert_eq!(report["gpu_bytes_at_start"], report["gpu_bytes_at_end"]);
    for key in ["seconds", "tokens_per_second", "kv_bytes"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let short = json(&[&args[..], &["--tokens", "20"]].concat());
    assert_eq!(short["tokens"], 20);
    assert_eq!(short["perplexity_after_eviction"], Value::Null);
    assert_eq!(short["evicted_tokens"], 0);
}

#[test]
fn tokens_go_in_as_they_are() {
    let folder = Folder::new("tokens");
    let file = folder.file("ids.json", b"[5, 9, 2, 33, 7]");
    let model = golden("odd_tied.gguf");
    let args = ["perplexity", "--model", &model, "--tokens-file", &file, "--json", "--device", "cpu"];
    assert_eq!(json(&args)["tokens"], 5);
    let bad = folder.file("bad.json", b"[5, 97]");
    assert!(
        refused(&["perplexity", "--model", &model, "--tokens-file", &bad, "--device", "cpu", "--quiet"]).contains("97")
    );
    let broken = folder.file("broken.json", b"[5, ");
    assert!(
        refused(&["perplexity", "--model", &model, "--tokens-file", &broken, "--device", "cpu", "--quiet"])
            .contains("JSON")
    );
    let one = folder.file("one.json", b"[5]");
    assert!(
        refused(&["perplexity", "--model", &model, "--tokens-file", &one, "--device", "cpu", "--quiet"])
            .contains("two")
    );
}

#[test]
fn text_becomes_ids_and_ids_text() {
    let text = "Hello, wörld! <sink> \u{1f600}\n";
    for options in [&[][..], &["--no-special"], &["--no-bos"]] {
        let ids = with_input(&[&["tokenize"], options].concat(), text.as_bytes()).stdout;
        let list: Vec<u32> = serde_json::from_slice(&ids).unwrap();
        assert_eq!(list[0] == 0, options != ["--no-bos"], "the sink token comes first");
        let sinks = list.iter().filter(|&&id| id == 0).count();
        assert_eq!(sinks, usize::from(options != ["--no-bos"]) + usize::from(options != ["--no-special"]));
        let back = String::from_utf8(with_input(&["tokenize", "--decode"], &ids).stdout).unwrap();
        let wanted = if options == ["--no-special"] { text.to_owned() } else { text.replace("<sink>", "") };
        assert_eq!(back, wanted);
    }
}

#[test]
fn info_shows_the_file_and_the_memory_plan() {
    let report = json(&["info", "--json", "--sinks", "1", "--window", "255"]);
    assert_eq!(report["metadata"]["general.architecture"], "llama");
    for key in ["weights_bytes", "kv_bytes", "work_bytes"] {
        assert!(report["memory"][key].as_u64().unwrap() > 0, "{key}");
    }
    assert!(success(&["info"]).contains("blk.0.attn_q.weight"));

    // What is read, not what the file has: a row of three blocks has two words of scales.
    let report = json(&["info", "--json", "--model", &golden("q4_mixed.gguf")]);
    let bits = &report["memory"]["bits_per_weight_by_type"];
    assert_eq!(bits["Q8_0"].as_f64(), Some(8.5));
    assert!((4.51..4.66).contains(&bits["Q4_0"].as_f64().unwrap()), "{bits}");
    let size =
        |tensor: &Value| tensor["shape"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).product::<f64>();
    let weights: f64 = report["tensors"].as_array().unwrap().iter().map(size).sum();
    let bytes = report["memory"]["bits_per_weight"].as_f64().unwrap() * weights / 8.0;
    let in_buffers = report["memory"]["weights_bytes"].as_f64().unwrap();
    assert!(bytes <= in_buffers && bytes > 0.98 * in_buffers, "{bytes} of {in_buffers}"); // empty planes have 16 bytes
    let text = success(&["info", "--model", &golden("q4_mixed.gguf")]);
    assert!(text.contains(" bytes, read as 8.500 bits a weight\n"), "{text}");
}

#[test]
fn the_plan_of_a_golden_model_is_the_golden_plan() {
    let plan = success(&["plan", "--model", &golden("q4_mixed.gguf"), "--sinks", "4", "--window", "28"]);
    let file = golden("q4_mixed.plan.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &plan).unwrap();
    }
    assert_eq!(plan, std::fs::read_to_string(&file).unwrap_or_default(), "UPDATE_GOLDEN=1 rewrites it");
    let report = json(&["plan", "--json"]);
    assert_eq!(report["dispatches_per_layer"], 5);
}

#[test]
fn a_layer_takes_five_dispatches_and_one_more_for_norms_of_heads_or_a_memory() {
    let files = std::fs::read_dir(golden("families")).unwrap().map(|entry| entry.unwrap().path());
    let models = files.filter(|path| path.extension().is_some_and(|end| end == "gguf"));
    for model in models.chain([golden("q4_mixed.gguf").into(), golden("q8.gguf").into()]) {
        let report = json(&["plan", "--json", "--model", model.to_str().unwrap()]);
        let name = model.file_stem().unwrap().to_str().unwrap();
        let of_layer = match name {
            "qwen3" | "gemma3" | "infini_delta" | "infini_linear" => 6, // norms of heads; the memory's read
            _ => 5,
        };
        assert_eq!(report["dispatches_per_layer"], of_layer, "{name}");
        assert_eq!(report["dispatches_per_token"], of_layer * report["layers"].as_u64().unwrap() + 3, "{name}");
    }
}

#[test]
fn devices_are_listed() {
    let devices = json(&["devices", "--json"]);
    for device in devices["devices"].as_array().unwrap() {
        assert!(device["tier"] == "portable" && device["tiers"][0] == "portable", "{device}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["generate", "--temprature", "1"][..],
        &["generate", "--chunk", "0"],
        &["generate", "--prompt", "A", "--top-p", "1.5"],
        &["generate", "--prompt", "A", "--temperature", "-1"],
        &["generate", "--attention", "window", "--sinks", "4"],
        &["perplexity"],
        &["frobnicate"],
        &[],
    ] {
        failure(args, 2);
    }
}

#[test]
fn impossible_wishes_are_refused_in_one_line() {
    let base = ["generate", "--prompt", "A", "-n", "3", "--device", "cpu", "--quiet"];
    for (extra, word) in [
        (&["--window", "4000000000"][..], "2^30"),
        (&["--attention", "dense", "--window", "2", "--prompt-file", "/nonexistent"], "nonexistent"),
        (&["--model", "/nonexistent.gguf"], "nonexistent"),
    ] {
        let base = if extra.contains(&"--prompt-file") { [&base[..1], &base[3..]].concat() } else { base.to_vec() };
        assert!(refused(&[&base[..], extra].concat()).contains(word), "{word}");
    }
    assert!(refused(&["generate", "--prompt", "A", "-n", "9", "--quiet", "--device", "Voodoo 2"]).contains("Voodoo"));
}

#[test]
fn a_full_dense_cache_says_so() {
    let args = [&["generate", "--prompt", "A", "--attention", "dense", "--window", "20"], &CPU[..], &["1"]].concat();
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("dense cache full at 20 tokens"));
    assert!(!output.stdout.is_empty(), "what was written before is not lost");
}

#[test]
fn broken_files_are_refused_in_one_line() {
    let folder = Folder::new("broken");
    let whole = std::fs::read(golden("q8.gguf")).unwrap();
    let mut files: Vec<(String, Vec<u8>)> =
        (0..whole.len()).step_by(1024).map(|length| (format!("cut at {length}"), whole[..length].to_vec())).collect();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let after = |key: &str| whole.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len();
    let random: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    files.push(("random".into(), random));
    files.push(("wrong magic".into(), patched(0, b"GGML")));
    files.push(("version 1".into(), patched(4, &1_u32.to_le_bytes())));
    files.push(("huge tensor count".into(), patched(8, &u64::MAX.to_le_bytes())));
    files.push(("huge metadata count".into(), patched(16, &(1_u64 << 60).to_le_bytes())));
    files.push(("unknown architecture".into(), patched(after("general.architecture") + 12, b"lambda"[..5].into())));
    files.push(("zero heads".into(), patched(after("llama.attention.head_count") + 4, &0_u32.to_le_bytes())));
    let ids = folder.file("ids.json", b"[1, 2, 3]");
    for (name, bytes) in files {
        let file = folder.file("model.gguf", &bytes);
        let args = ["perplexity", "--model", &file, "--tokens-file", &ids, "--device", "cpu", "--quiet"];
        let line = refused(&args);
        if name == "unknown architecture" {
            assert!(line.contains("lambd"), "{line}");
        }
    }
}
