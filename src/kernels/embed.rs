//! `x[c] = scale · embedding[token of c]`: the tokens' rows of the embedding, unpacked.

use bytemuck::{Pod, Zeroable};

use crate::executor::cpu::Call;
use crate::kernel::{Kernel, read, uniform, write};
use crate::quant::{BLOCK, unpack_row};

/// Mirrors `Params` in `shaders/embed.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub stride: u32,
    /// Rows of this part of the embedding: a large one comes in several dispatches.
    pub rows: u32,
    /// First row of this part.
    pub first_row: u32,
    /// Factor, 1 in most models.
    pub scale: f32,
}

/// Grid: (blocks of a row / 64, columns). Override: `LAYOUT`.
pub const KERNEL: Kernel = Kernel {
    name: "embed",
    wgsl: &[
        include_str!("../../shaders/shared/columns.wgsl"),
        include_str!("../../shaders/shared/weights.wgsl"),
        include_str!("../../shaders/embed.wgsl"),
    ],
    variants: &[],
    bindings: &[uniform("params"), uniform("columns"), read("quants"), read("scales"), write("x")],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let (columns, layout) = (call.columns(1), call.layout());
    let (quants, scales) = (call.input::<u32>(2), call.input::<u32>(3));
    let ([x], _) = call.outputs();
    let x: &mut [f32] = bytemuck::cast_slice_mut(x);
    let blocks = params.blocks as usize;
    for (column, x) in columns.iter().zip(x.chunks_exact_mut(params.stride as usize)) {
        let row = column.token.wrapping_sub(params.first_row);
        if row >= params.rows {
            continue;
        }
        let x = &mut x[..blocks * BLOCK];
        unpack_row(layout, quants, scales, row as usize, blocks, x);
        for x in x {
            *x *= params.scale;
        }
    }
}
