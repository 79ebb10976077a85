//! What a kernel is: a name, its WGSL, its bindings, and its twin in plain Rust.
//!
//! A kernel stands in four places under one name: `shaders/x.wgsl`, `src/kernels/x.rs`, entry point `x`, label `x`.
//! [`crate::plan`] strings dispatches of kernels together; the executors run them.

use crate::executor::cpu::Call;

/// How a kernel uses one of its bindings, in the order of `@binding(0)`, `@binding(1)`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<uniform>`.
    Uniform,
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

/// One binding of a kernel: its name in the WGSL and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the WGSL variable.
    pub name: &'static str,
    /// Uniform, read or read-write storage.
    pub access: Access,
}

/// A uniform binding.
pub const fn uniform(name: &'static str) -> Binding {
    Binding { name, access: Access::Uniform }
}
/// A read-only storage binding.
pub const fn read(name: &'static str) -> Binding {
    Binding { name, access: Access::Read }
}
/// A read-write storage binding.
pub const fn write(name: &'static str) -> Binding {
    Binding { name, access: Access::Write }
}

/// Invocations in a workgroup: 64 suits every GPU that WebGPU runs on. Only `nll` and `sample`, where one workgroup has a
/// whole column of logits, take as many as a default device allows, 256.
pub const WORKGROUP: u32 = 64;

/// A kernel: what both executors need to run it.
///
/// Binding 0 is always `params`, a uniform struct of u32 and f32 scalars written once when the plan is built.
pub struct Kernel {
    /// Name, entry point and label.
    pub name: &'static str,
    /// The whole shader: shared files, then the kernel's own.
    pub wgsl: &'static [&'static str],
    /// The bindings in order, `params` first.
    pub bindings: &'static [Binding],
    /// The same computation on the CPU.
    pub twin: fn(&mut Call<'_>),
}

impl Kernel {
    /// The composed WGSL text.
    pub fn source(&self) -> String {
        self.wgsl.join("\n")
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
