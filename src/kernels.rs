//! The kernels, in the order in which a token meets them. Five make a layer: `qkv`, `attention`, `project`,
//! `gate_up` (or `linear`), `project` again. Models that norm heads need `head_norm`, those
//! with a compressive memory `memory_read`, and `memory_fold` for every full segment.

pub mod activation;
pub mod attention;
pub mod cache;
pub mod embed;
pub mod exp;
pub mod gate_up;
pub mod head_norm;
mod heads;
pub mod linear;
pub mod matmul;
pub mod memory;
pub mod memory_fold;
pub mod memory_read;
pub mod nll;
pub mod probe;
pub mod project;
pub mod qkv;
pub mod rope;
pub mod sample;

use crate::kernel::Kernel;

/// Every kernel.
pub const ALL: [&Kernel; 12] = [
    &embed::KERNEL,
    &qkv::KERNEL,
    &head_norm::KERNEL,
    &attention::KERNEL,
    &memory_read::KERNEL,
    &memory_fold::KERNEL,
    &project::KERNEL,
    &gate_up::KERNEL,
    &linear::KERNEL,
    &nll::KERNEL,
    &sample::KERNEL,
    &probe::KERNEL,
];
