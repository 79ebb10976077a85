//! `sinkstream passkey` with the small model made for it, and the flags of the mode `infini`.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod command;

use std::path::Path;

use command::{Folder, failure, golden, json, refused};
use serde_json::Value;

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/passkey-linear.gguf").display().to_string()
}

fn accuracies(cells: &Value) -> Vec<f64> {
    cells.as_array().unwrap().iter().map(|cell| cell["accuracy"].as_f64().unwrap()).collect()
}

#[test]
fn the_memory_finds_the_number_and_the_controls_guess() {
    let folder = Folder::new("passkey");
    let plot = folder.file("map.svg", b"");
    let args = ["--lengths", "1024", "--depths", "0,0.5", "--trials", "8", "--seed", "3", "--plot", &plot];
    let report = json(&[&["passkey", "--model", &model(), "--device", "cpu", "--quiet", "--json"], &args[..]].concat());
    assert_eq!((&report["attention"], &report["executor"]), (&"infini".into(), &"cpu".into()));
    let shape: Vec<_> =
        report["cells"].as_array().unwrap().iter().map(|cell| (&cell["length"], &cell["depth"])).collect();
    assert_eq!(serde_json::to_string(&shape).unwrap(), "[[1024,0.0],[1024,0.5]]");
    let found = accuracies(&report["cells"]);
    assert!(found.iter().all(|&accuracy| accuracy >= 0.95), "{found:?}");
    let controls = report["controls"].as_array().unwrap();
    assert_eq!(controls.len(), 2);
    for control in controls {
        // 32 digits a cell: a guess is right in one of ten. Half of 1,024 tokens back is beyond the window of the other one.
        let guessed = accuracies(&control["cells"]);
        assert!(guessed.iter().all(|&accuracy| accuracy <= 0.4), "{control}");
    }
    let held = report["kv_bytes"].as_u64().unwrap() + report["memory_bytes"].as_u64().unwrap();
    let other = controls[1]["kv_bytes"].as_u64().unwrap();
    assert!(other <= held && other > held * 99 / 100, "{other} of {held}");
    assert!(std::fs::read_to_string(plot).unwrap().contains("accuracy, %"));
}

#[test]
fn what_the_model_fixes_cannot_be_asked_for_otherwise() {
    let generate = |more: &[&str], code| {
        failure(&[&["generate", "--model", &model(), "-n", "1", "--prompt", "a"], more].concat(), code)
    };
    assert!(generate(&["--window", "5"], 2).contains("--window 63"));
    assert!(generate(&["--attention", "infini", "--sinks", "4"], 2).contains("--sinks"));
    generate(&["--window", "63", "--sinks", "0", "--device", "cpu"], 0);
    generate(&["--attention", "streaming", "--window", "5", "--device", "cpu"], 0);
    let line =
        refused(&["generate", "--model", &golden("q8.gguf"), "--attention", "infini", "-n", "1", "--prompt", "a"]);
    assert!(line.contains("gates"), "{line}");
}

#[test]
fn the_table_of_the_paper_is_made_for_the_model() {
    let report = json(&["info", "--model", &model(), "--memory", "--json"]);
    let rows = report["cached_memory"]["rows"].as_array().unwrap();
    let infini = rows.last().unwrap();
    // 3 layers, 2 key heads of 32; keys and values of 64 tokens beside them.
    assert_eq!((&infini["cached_floats"], &infini["total_floats"]), (&6336.into(), &(6336 + 24_576).into()));
    assert_eq!(report["memory"]["memory_bytes"], 3 * 4 * 6336); // three copies
}
