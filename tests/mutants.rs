//! A comparison counts once it has been seen to fail: each deliberate off-by-one must break the streaming test.
//! Run with `cargo test --release --features mutants --test mutants`.
#![cfg(feature = "mutants")]
#![allow(clippy::print_stdout, reason = "a test")]

mod common;

use common::files::golden;
use common::{GOLDEN, difference, floats, ids, json, load, nlls, settings};
use pollster::block_on;
use sinkstream::engine::Device;
use sinkstream::kernels::cache::CacheType;
use sinkstream::mutants::{Mutant, switch};

/// Largest difference from the reference on any golden model, in nats.
fn largest_difference() -> f64 {
    let of = |name: &str| {
        let reference = json(&block_on(golden(&format!("{name}.json"))));
        let model = block_on(golden(&format!("{name}.gguf")));
        let mut largest = 0.0_f64;
        // With chunks as long as the slack, a ring that is one slot short overwrites what is still seen.
        for chunk in [1, 128] {
            let settings = settings("streaming_4_28", &Device::Cpu, CacheType::F32, chunk);
            let mut engine = block_on(load(&model, &settings));
            let got = block_on(nlls(&mut engine, &ids(&reference["tokens"]), 0));
            largest = largest.max(difference(&got, &floats(&reference["nll"]["streaming_4_28"])).1);
        }
        largest
    };
    GOLDEN.map(of).into_iter().fold(0.0, f64::max)
}

/// The same with a compressive memory.
fn largest_difference_with_memory() -> f64 {
    let of = |name: &str| {
        let reference = json(&block_on(golden(&format!("families/{name}.json"))));
        let model = block_on(golden(&format!("families/{name}.gguf")));
        let mut engine = block_on(load(&model, &settings("infini", &Device::Cpu, CacheType::F32, 16)));
        let got = block_on(nlls(&mut engine, &ids(&reference["tokens"]), 0));
        difference(&got, &floats(&reference["nll"]["infini"])).1
    };
    of("infini_linear").max(of("infini_delta"))
}

/// One test, because the switch is global.
#[test]
fn every_mutant_makes_the_streaming_test_fail() {
    let tolerance = 1e-3; // of the streaming test with --cache f32
    assert!(largest_difference() <= tolerance, "without mutants the test passes");
    for mutant in [
        Mutant::WindowPlusOne,
        Mutant::WindowMinusOne,
        Mutant::SinkPositionPlusOne,
        Mutant::SinkPositionMinusOne,
        Mutant::SlackMinusOne,
        Mutant::KeyWrittenLate,
    ] {
        switch(Some(mutant));
        let difference = largest_difference();
        switch(None);
        println!("{mutant:?}: {difference:.4} nats");
        assert!(difference > 10.0 * tolerance, "{mutant:?} goes unnoticed: {difference:.1e} nats");
    }
    assert!(largest_difference_with_memory() <= tolerance, "without mutants the test passes");
    for mutant in [Mutant::SegmentPlusOne, Mutant::StaleMemory] {
        switch(Some(mutant));
        let difference = largest_difference_with_memory();
        switch(None);
        println!("{mutant:?}: {difference:.4} nats");
        assert!(difference > 10.0 * tolerance, "{mutant:?} goes unnoticed: {difference:.1e} nats");
    }
}
