//! `x[c] = scale · embedding[token of c]`: the tokens' rows of the embedding, unpacked.

use bytemuck::{Pod, Zeroable};

use super::matmul::Matrix;
use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, wgsl, write};
use crate::quant::{BLOCK, unpack_row};

/// Mirrors `Params` in `shaders/embed.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub stride: u32,
    /// Rows of the embedding in this dispatch: a very large one comes in several.
    pub rows: u32,
    /// The first of them.
    pub first_row: u32,
    /// Factor, 1 in most models.
    pub scale: f32,
}

/// Grid: (blocks of a row / 64, columns). Overrides: `LAYOUT`; `FIRST_QUANTS` and `FIRST_SCALES` if the rows come in two parts.
pub const KERNEL: Kernel = Kernel {
    name: "embed",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/parts.wgsl"),
        wgsl!("../../shaders/shared/weights.wgsl"),
        wgsl!("../../shaders/embed.wgsl"),
    ],
    variants: &[],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("quants"),
        read("scales"),
        write("x"),
        read("more_quants"),
        read("more_scales"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let (columns, blocks) = (call.columns(1), params.blocks as usize);
    let matrix = Matrix { layout: call.layout(), quants: call.input(2), scales: call.input(3), blocks };
    let more = Matrix { quants: call.input(5), scales: call.input(6), ..matrix };
    let of_first = matrix.rows_in(call.constant("FIRST_QUANTS")).unwrap_or(params.rows as usize);
    let ([x], _) = call.outputs();
    let x: &mut [f32] = bytemuck::cast_slice_mut(x);
    for (column, x) in columns.iter().zip(x.chunks_exact_mut(params.stride as usize)) {
        let row = column.token.wrapping_sub(params.first_row);
        if row >= params.rows {
            continue;
        }
        let (x, row) = (&mut x[..blocks * BLOCK], row as usize);
        let (matrix, row) = if row < of_first { (matrix, row) } else { (more, row - of_first) };
        unpack_row(matrix.layout, matrix.quants, matrix.scales, row, blocks, x);
        for x in x {
            *x *= params.scale;
        }
    }
}
