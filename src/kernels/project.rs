//! `x += W · input + bias`: the output projection of the attention and the down projection of the feed-forward, each with
//! the residual. Where what a block adds is normed first, it is left beside `x`, and `x` is given what the block before left.

use bytemuck::{Pod, Zeroable};

use super::matmul::{Added, Input, Matrix, matmul};
use crate::executor::cpu::Call;
use crate::kernel::{INTEGERS, Kernel, MATVEC, SHARE, TILES, Variant, read, uniform, wgsl, write};

/// Mirrors `Params` in `shaders/project.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Rows of the matrix.
    pub rows: u32,
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `input` to the next.
    pub in_stride: u32,
    /// Floats from one column of `x` to the next.
    pub out_stride: u32,
    /// Heads that `input` consists of; read by [`Variant::Split`] only, as are the next two.
    pub n_heads: u32,
    /// Pairs of such a head; even.
    pub half: u32,
    /// Columns of the plan.
    pub columns: u32,
    /// Floats from `x` to where the product is left, in models that norm it first; 0 where it goes to `x`.
    pub left: u32,
    /// Floats from `x` to what the block before left; read if `ADDED`, as is the next.
    pub added: u32,
    /// Added to its mean square.
    pub eps: f32,
}

/// What one product's input is read by: as it is, or from what attention left in parts.
const WHOLE_INPUT: &str = wgsl!("../../shaders/shared/whole_input.wgsl");
const PARTS: (&str, &str) = (WHOLE_INPUT, wgsl!("../../shaders/shared/split_input.wgsl"));

/// Grid: (row pairs / pairs of a workgroup, columns / COLUMNS). Overrides: `LAYOUT`, `BIAS`, `ADDED`; for [`Variant::Tiled`] `TILE`, else
/// `LANES`, `WORKGROUP`, `COLUMNS`, for integers `STAGE`; for [`Variant::Split`] also `SPLITS`: there `input` is what attention of as many parts left.
pub const KERNEL: Kernel = Kernel {
    name: "project",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/weights.wgsl"),
        MATVEC,
        SHARE,
        wgsl!("../../shaders/shared/mean.wgsl"),
        wgsl!("../../shaders/shared/added.wgsl"),
        WHOLE_INPUT,
        wgsl!("../../shaders/project.wgsl"),
    ],
    variants: &[
        (Variant::Integers, INTEGERS),
        (Variant::SplitIntegers, &[INTEGERS[0], INTEGERS[1], PARTS]),
        (Variant::Split, &[PARTS]),
        (Variant::Tiled, TILES),
    ],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("input"),
        read("quants"),
        read("scales"),
        read("bias"),
        write("x"),
        read("gain"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let input =
        Input { x: call.input(2), stride: params.in_stride as usize, columns: call.columns(1).len(), norm: None };
    let matrix =
        Matrix { layout: call.layout(), quants: call.input(3), scales: call.input(4), blocks: params.blocks as usize };
    let bias = call.flag("BIAS").then(|| call.input::<f32>(5));
    let (rows, stride) = (params.rows as usize, params.out_stride as usize);
    let gain = call.flag("ADDED").then(|| &call.input::<f32>(7)[stride..]);
    let cores = call.cores();
    let ([x], scratch) = call.outputs();
    let x: &mut [f32] = bytemuck::cast_slice_mut(x);
    if let Some(gain) = gain {
        let (x, values) = x.split_at_mut(params.added as usize);
        for (x, values) in x.chunks_mut(stride).zip(values.chunks(stride)).take(input.columns) {
            let added = Added { values, gain, dim: rows, eps: params.eps };
            x.iter_mut().zip(added.terms()).for_each(|(x, term)| *x += term);
        }
    }
    let columns = x[params.left as usize..].chunks_mut(stride).take(input.columns);
    matmul(matrix, rows, input, cores, scratch, columns, |_, products, out: &mut [f32]| {
        for (row, (out, product)) in out.iter_mut().zip(products).enumerate() {
            let y = *product + bias.map_or(0.0, |bias| bias[row]);
            *out = if params.left == 0 { *out + y } else { y };
        }
    });
}
