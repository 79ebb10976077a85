//! `output = output ^ fold(input)`: reads a buffer once and keeps what it read, folded by exclusive or; or `output = input`. No part of any model:
//! [`crate::probe`] measures with it what memory gives and what a dispatch costs.

use bytemuck::{Pod, Zeroable};

use crate::executor::cpu::Call;
use crate::kernel::{Kernel, WORKGROUP, read, uniform, wgsl, write};

/// Mirrors `Params` in `shaders/probe.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Vectors of 16 bytes for each invocation.
    pub vectors: u32,
}

/// Grid: (invocations / 64). Override: `COPIES`, 1 for `output = input`.
pub const KERNEL: Kernel = Kernel {
    name: "probe",
    wgsl: &[wgsl!("../../shaders/probe.wgsl")],
    variants: &[],
    bindings: &[uniform("params"), read("input"), write("output")],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let Params { vectors } = call.params();
    let count = (call.workgroups()[0] * WORKGROUP) as usize;
    let input: &[[u32; 4]] = bytemuck::cast_slice(call.input::<u32>(1));
    let copies = call.constant("COPIES") == 1;
    let ([output], _) = call.outputs();
    if copies {
        output.copy_from_slice(&bytemuck::cast_slice(input)[..output.len()]);
        return;
    }
    for (id, output) in output.iter_mut().take(count).enumerate() {
        let read = (0..vectors as usize).flat_map(|i| input[i * count + id]);
        *output = read.fold(*output, |folded, word| folded ^ word);
    }
}
