//! Who runs a plan: the CPU through each kernel's twin, or a GPU through wgpu.

pub mod cpu;
pub mod gpu;
