//! `nll[c] = log Σ exp(logits[c]) − logits[c][target of c]`, in nats: how surprised the model was.

use bytemuck::{Pod, Zeroable};

use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, wgsl, write};

/// Mirrors `Params` in `shaders/nll.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Logits of a column.
    pub vocab_size: u32,
    /// Floats from one column of `logits` to the next.
    pub stride: u32,
}

/// Grid: (1, columns). No overrides.
pub const KERNEL: Kernel = Kernel {
    name: "nll",
    wgsl: &[wgsl!("../../shaders/shared/columns.wgsl"), wgsl!("../../shaders/nll.wgsl")],
    variants: &[],
    bindings: &[uniform("params"), uniform("columns"), read("logits"), write("out")],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let columns = call.columns(1);
    let logits = call.input::<f32>(2);
    let cores = call.cores();
    let ([nll], _) = call.outputs();
    let nll: &mut [f32] = bytemuck::cast_slice_mut(nll);
    let all = nll.iter_mut().zip(columns).zip(logits.chunks(params.stride as usize));
    cores.each(all, |((nll, column), logits)| {
        let logits = &logits[..params.vocab_size as usize];
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
        *nll = sum.ln() + max - logits[column.target as usize];
    });
}
