//! `sinkstream streameval` with its own small model: what is in the cache is known, what has left it is not.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Runs a command with the small model.
fn run(command: &str, args: &[&str], input: &str) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/streameval.gguf");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sinkstream"))
        .args([command, "--model", model.to_str().unwrap()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn report(args: &[&str]) -> Value {
    let output = run("streameval", &[&["--device", "cpu", "--quiet", "--json"], args].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn lines_in_the_cache_are_known_and_others_are_not() {
    let report = report(&["--caches", "256", "--distances", "1,10,30,40,100", "--queries", "50"]);
    assert_eq!(report["executor"], "cpu");
    assert_eq!(report["seed"], 1);
    let rows = report["rows"].as_array().unwrap();
    let column = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("distance_lines"), [1, 10, 30, 40, 100]);
    assert_eq!(column("inside"), [true, true, true, false, false]);
    for row in rows {
        assert_eq!((&row["cache"], &row["sinks"], &row["window"]), (&json!(256), &json!(1), &json!(255)));
        assert_eq!(row["queries"], 50);
        let accuracy = row["accuracy"].as_f64().unwrap();
        assert_eq!(accuracy * 50.0, row["correct"].as_f64().unwrap());
        let (low, high) = if row["inside"] == true { (0.95, 1.0) } else { (0.0, 0.04) };
        assert!((low..=high).contains(&accuracy), "{row}");
        // Seven tokens a line, as many for one question in ten lines, and the question itself.
        let lines = row["distance_lines"].as_f64().unwrap();
        let tokens = (row["distance_tokens"].as_f64().unwrap() - 5.0) / lines;
        assert!((7.0..=7.7).contains(&tokens), "{row}");
    }
}

#[test]
fn answers_do_not_depend_on_the_chunk_and_repeat() {
    let args = ["--caches", "128", "--distances", "10,14", "--queries", "20"];
    let first = report(&args);
    assert_eq!(first, report(&args));
    assert_eq!(first["rows"], report(&[&args[..], &["--chunk", "7"]].concat())["rows"]);
}

#[test]
fn a_line_is_few_tokens_with_every_number_whole() {
    let line = "line 12,345: REGISTER_CONTENT is <678>\n";
    let ids = |text: &str| -> Vec<u32> { serde_json::from_slice(&run("tokenize", &[], text).stdout).unwrap() };
    let whole = ids(line);
    assert_eq!(whole, [0, 257, 273, 12, 706, 259, 1039, 260], "the sink token; words and numbers are one each");
    let back = run("tokenize", &["--decode"], &json!(whole).to_string());
    assert_eq!(String::from_utf8_lossy(&back.stdout), line);
}

#[test]
fn impossible_sweeps_are_wrong_usage() {
    for (args, word) in [
        (&["--window", "100"][..], "--caches"),
        (&["--attention", "dense"], "dense"),
        (&["--caches", "1"], "sinks"),
        (&["--distances", "0"], "0"),
        (&["--queries", "0"], "0"),
    ] {
        let output = run("streameval", args, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
}
