//! `logits = W_output · (x / rms(x) · gain)`: a score for every entry of the vocabulary.

use bytemuck::{Pod, Zeroable};

use super::matmul::{Input, Matrix, Norm, matmul};
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, write};

/// Mirrors `Params` in `shaders/logits.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Rows of the matrix.
    pub vocab_size: u32,
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub in_stride: u32,
    /// Floats from one column of `logits` to the next.
    pub out_stride: u32,
    /// Size of the model: the divisor of the mean square.
    pub dim: u32,
    /// Added to the mean square.
    pub eps: f32,
}

/// Grid: (row pairs · LANES / 64, columns / COLUMNS). Overrides: `LAYOUT`, `LANES`, `COLUMNS`.
pub const KERNEL: Kernel = Kernel {
    name: "logits",
    wgsl: &[
        include_str!("../../shaders/shared/columns.wgsl"),
        include_str!("../../shaders/shared/weights.wgsl"),
        include_str!("../../shaders/shared/rms.wgsl"),
        include_str!("../../shaders/shared/matvec.wgsl"),
        include_str!("../../shaders/logits.wgsl"),
    ],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("x"),
        read("gain"),
        read("quants"),
        read("scales"),
        write("out"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let input = Input {
        x: call.input(2),
        stride: params.in_stride as usize,
        columns: call.columns(1).len(),
        norm: Some(Norm { gain: call.input(3), dim: params.dim as usize, eps: params.eps }),
    };
    let matrix =
        Matrix { layout: call.layout(), quants: call.input(4), scales: call.input(5), blocks: params.blocks as usize };
    let vocab_size = params.vocab_size as usize;
    let ([logits], scratch) = call.outputs();
    let logits: &mut [f32] = bytemuck::cast_slice_mut(logits);
    matmul(matrix, vocab_size, input, scratch, |range, product| {
        for c in range.clone() {
            let logits = &mut logits[c * params.out_stride as usize..][..vocab_size];
            for (row, logit) in logits.iter_mut().enumerate() {
                *logit = product.at(c - range.start, row);
            }
        }
    });
}
