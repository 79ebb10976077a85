//! Level 2: every kernel on this machine's GPU (llvmpipe will do) against its CPU twin.
//!
//! Without an adapter these tests fail, unless `SINKSTREAM_GPU=skip` is set.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "common/kernel_cases.rs"]
mod kernel_cases;

use kernel_cases::SUITES;
use sinkstream::gpu::{Gpu, adapters};
use sinkstream::kernel::Tier;

/// The best adapter; none if skipping was asked for.
fn gpu() -> Option<Gpu> {
    if std::env::var_os("SINKSTREAM_GPU").is_some_and(|value| value == "skip") {
        println!("SKIPPED: no GPU tests, because SINKSTREAM_GPU=skip");
        return None;
    }
    pollster::block_on(async {
        let adapters = adapters().await;
        let adapter =
            adapters.first().expect("no GPU adapter: install mesa-vulkan-drivers, or set SINKSTREAM_GPU=skip");
        Some(Gpu::open(adapter).await.unwrap())
    })
}

fn run(name: &str) {
    let Some(gpu) = gpu() else { return };
    run_on(name, &gpu);
}

fn run_on(name: &str, gpu: &Gpu) {
    let (_, cases) = SUITES.into_iter().find(|(known, _)| *known == name).unwrap();
    let cases = match gpu.tier().name() {
        "matrix" if gpu.is_software() => cases().tiled(4), // seconds each to compile there
        "matrix" => cases().tiled(1),
        _ => cases().within(gpu),
    };
    match pollster::block_on(cases.check(gpu)) {
        Ok(summary) => {
            let kernel_cases::Summary { cases, values, exact } = summary;
            println!("{name}: {cases} cases, {values} values equal, {exact} of them to the bit, on {}", gpu.adapter());
            assert!(summary.cases > 0);
        }
        Err(difference) => panic!("{name}: {difference}"),
    }
}

#[test]
fn lanes_that_are_subgroups_add_up_the_same() {
    let Some(gpu) = gpu() else { return };
    match gpu.at(Tier::Subgroup) {
        Ok(gpu) => ["project", "gate_up", "attention"].iter().for_each(|name| run_on(name, &gpu)),
        Err(error) => println!("NOT CHECKED: {error}"),
    }
}

#[test]
fn cooperative_matrices_multiply_the_same() {
    let Some(gpu) = gpu() else { return };
    match gpu.at(Tier::Matrix) {
        Ok(gpu) => ["qkv", "project", "gate_up", "linear"].iter().for_each(|name| run_on(name, &gpu)),
        Err(error) => {
            assert!(error.to_string().contains("matrix: it has no cooperative matrices"), "{error}");
            println!("NOT CHECKED: {error}");
        }
    }
}

macro_rules! suites {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_kernel_has_a_suite() {
            let tested = [$(stringify!($name)),*];
            for kernel in sinkstream::kernels::ALL {
                assert!(tested.contains(&kernel.name) && SUITES.iter().any(|(name, _)| *name == kernel.name), "{kernel:?}");
            }
        }
    };
}

suites!(embed, qkv, head_norm, attention, memory_read, memory_fold, project, gate_up, linear, nll, sample, probe);
