//! `sinkstream bench` on a GPU adapter, software ones too: what it counts at the calls into wgpu. `steady.rs` counts from outside.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "common/command.rs"]
mod command;
mod common;

#[test]
fn a_token_takes_few_dispatches_a_part_of_a_submit_and_no_wait_of_its_own() {
    if common::gpu().is_none() {
        return;
    }
    let tiny = ["bench", "--device", "gpu", "--shape", "tiny", "--sinks", "4", "--window", "60", "--json", "--quiet"];
    let report = command::json(&tiny);
    let number = |field: &str| report[field].as_f64().unwrap_or_else(|| panic!("{field} in {report}"));
    assert_eq!(report["executor"], "gpu");
    assert_eq!(number("dispatches_per_token"), 23.0, "5 a layer and 3");
    assert!(number("submits_per_token") <= 0.25, "{report}");
    assert_eq!(number("waits_on_one_token"), 0.0);
    assert!(number("copy_bandwidth_gbps") > 0.0);
    assert!(report["driver"].as_str().is_some_and(|driver| !driver.is_empty()));
    let probe = &report["probe"];
    assert!(probe["dispatch_us"].as_f64().unwrap() > 0.0);
    assert!(probe["reads"].as_array().unwrap().len() >= 3);
}
