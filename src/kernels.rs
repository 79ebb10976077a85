//! The kernels, in the order in which a token meets them. Five make a layer: `qkv`, `attention`, `project`,
//! `gate_up`, `project` again.

pub mod attention;
pub mod cache;
pub mod embed;
pub mod exp;
pub mod gate_up;
pub mod logits;
pub mod matmul;
pub mod nll;
pub mod project;
pub mod qkv;
pub mod rope;
pub mod sample;

use crate::kernel::Kernel;

/// Every kernel.
pub const ALL: [&Kernel; 8] = [
    &embed::KERNEL,
    &qkv::KERNEL,
    &attention::KERNEL,
    &project::KERNEL,
    &gate_up::KERNEL,
    &logits::KERNEL,
    &nll::KERNEL,
    &sample::KERNEL,
];
