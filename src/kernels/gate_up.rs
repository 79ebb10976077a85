//! `h = f(W_gate · x̂) ⊙ (W_up · x̂)` with `x̂ = norm(x)`: the first half of the gated feed-forward (`SwiGLU` with f = silu).

use bytemuck::{Pod, Zeroable};

use super::activation::Activation;
use super::matmul::{Input, Matrix, Norm, matmul};
use crate::executor::cpu::Call;
use crate::kernel::{INTEGERS, Kernel, MATVEC, SHARE, TILES, Variant, read, uniform, wgsl, write};

/// Mirrors `Params` in `shaders/gate_up.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Rows of `h`; the matrix holds as many gate rows, then as many up rows.
    pub ffn_dim: u32,
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub in_stride: u32,
    /// Floats from one column of `h` to the next.
    pub out_stride: u32,
    /// Dimensions of the norm.
    pub dim: u32,
    /// Added to its mean square.
    pub eps: f32,
    /// Floats from `x` to what the block before added, a multiple of 4; read if `ADDED`.
    pub added: u32,
}

/// Grid: (`ffn_dim` / pairs of a workgroup, columns / COLUMNS). Overrides: `LAYOUT`; `LANES`, `WORKGROUP`, `COLUMNS`, for integers `STAGE`, for tiles `TILE`; `LAYER_NORM`, `ADDED`,
/// `ACTIVATION`.
pub const KERNEL: Kernel = Kernel {
    name: "gate_up",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/weights.wgsl"),
        wgsl!("../../shaders/shared/mean.wgsl"),
        wgsl!("../../shaders/shared/added.wgsl"),
        wgsl!("../../shaders/shared/norm.wgsl"),
        MATVEC,
        SHARE,
        wgsl!("../../shaders/shared/exp.wgsl"),
        wgsl!("../../shaders/shared/activation.wgsl"),
        wgsl!("../../shaders/gate_up.wgsl"),
    ],
    variants: &[(Variant::Integers, INTEGERS), (Variant::Tiled, TILES)],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("x"),
        read("gain"),
        read("quants"),
        read("scales"),
        write("h"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let input = Input {
        x: call.input(2),
        stride: params.in_stride as usize,
        columns: call.columns(1).len(),
        norm: Some(Norm::of(call, [2, 3], params.dim, params.eps, params.added)),
    };
    let matrix =
        Matrix { layout: call.layout(), quants: call.input(4), scales: call.input(5), blocks: params.blocks as usize };
    let activation = Activation::from_constant(call.constant("ACTIVATION"));
    let ffn_dim = params.ffn_dim as usize;
    let cores = call.cores();
    let ([h], scratch) = call.outputs();
    let columns = bytemuck::cast_slice_mut(h).chunks_mut(params.out_stride as usize).take(input.columns);
    matmul(matrix, 2 * ffn_dim, input, cores, scratch, columns, |_, products, h: &mut [f32]| {
        let (gate, up) = products.split_at_mut(ffn_dim);
        activation.apply_to(gate);
        for ((h, gate), up) in h.iter_mut().zip(gate).zip(up) {
            *h = *gate * *up;
        }
    });
}
