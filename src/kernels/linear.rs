//! `out = f(W · norm(x) + bias)`: a score for every entry of the vocabulary, the inner layer of a feed-forward without
//! gates, or queries, keys and values that [`super::head_norm`] makes ready.

use bytemuck::{Pod, Zeroable};

use super::activation::Activation;
use super::exp::soft_cap;
use super::matmul::{Input, Matrix, Norm, matmul};
use crate::executor::cpu::Call;
use crate::kernel::{INTEGERS, Kernel, MATVEC, SHARE, TILES, Variant, read, uniform, wgsl, write};

/// Mirrors `Params` in `shaders/linear.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Rows of the matrix.
    pub rows: u32,
    /// The first of them that is of a second matrix, of the layout `OTHER_LAYOUT`; `rows` if there is none.
    pub other_row: u32,
    /// Its first row among those of `out`: a very large matrix comes in several dispatches.
    pub first_row: u32,
    /// Blocks of 32 weights in a row.
    pub blocks: u32,
    /// Floats from one column of `x` to the next.
    pub in_stride: u32,
    /// Floats from one column of `out` to the next.
    pub out_stride: u32,
    /// Dimensions of the norm.
    pub dim: u32,
    /// Added to its mean square.
    pub eps: f32,
    /// Floats from `x` to what the block before added, a multiple of 4; read if `ADDED`.
    pub added: u32,
    /// Results go through `cap · tanh(y / cap)`; 0 for no cap.
    pub cap: f32,
}

/// Grid: (row pairs / pairs of a workgroup, columns / COLUMNS). Overrides: `LAYOUT`; `LANES`, `WORKGROUP`, `COLUMNS`, for integers `STAGE`, for tiles `TILE`; `LAYER_NORM`, `ADDED`, `BIAS`,
/// `ACTIVATION`; `FIRST_QUANTS` and `FIRST_SCALES` if the matrix comes in two parts; with `OTHER_LAYOUT` those are two matrices.
pub const KERNEL: Kernel = Kernel {
    name: "linear",
    wgsl: &[
        wgsl!("../../shaders/shared/columns.wgsl"),
        wgsl!("../../shaders/shared/parts.wgsl"),
        wgsl!("../../shaders/shared/weights.wgsl"),
        wgsl!("../../shaders/shared/mean.wgsl"),
        wgsl!("../../shaders/shared/added.wgsl"),
        wgsl!("../../shaders/shared/norm.wgsl"),
        MATVEC,
        SHARE,
        wgsl!("../../shaders/shared/exp.wgsl"),
        wgsl!("../../shaders/shared/activation.wgsl"),
        wgsl!("../../shaders/linear.wgsl"),
    ],
    variants: &[(Variant::Integers, INTEGERS), (Variant::Tiled, TILES)],
    bindings: &[
        uniform("params"),
        uniform("columns"),
        read("x"),
        read("gain"),
        read("quants"),
        read("scales"),
        read("bias"),
        write("out"),
        read("more_quants"),
        read("more_scales"),
    ],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let norm = Norm::of(call, [2, 3], params.dim, params.eps, params.added);
    let input =
        Input { x: call.input(2), stride: params.in_stride as usize, columns: call.columns(1).len(), norm: Some(norm) };
    let blocks = params.blocks as usize;
    let matrix = Matrix { layout: call.layout(), quants: call.input(4), scales: call.input(5), blocks };
    let bias = call.flag("BIAS").then(|| call.input::<f32>(6));
    let activation = Activation::from_constant(call.constant("ACTIVATION"));
    let rows = params.rows as usize;
    let (of_first, more) = match params.other_row < params.rows {
        true => (params.other_row as usize, call.other(matrix)),
        false => {
            let more = Matrix { quants: call.input(8), scales: call.input(9), ..matrix };
            (matrix.rows_in(call.constant("FIRST_QUANTS")).unwrap_or(rows), more)
        }
    };
    let cores = call.cores();
    let ([out], scratch) = call.outputs();
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    for (matrix, part) in [(matrix, 0..of_first), (more, of_first..rows)] {
        let first_row = params.first_row as usize + part.start;
        let columns = out.chunks_mut(params.out_stride as usize).take(input.columns);
        matmul(matrix, part.len(), input, cores, scratch, columns, |_, products, out: &mut [f32]| {
            if let Some(bias) = bias {
                products.iter_mut().zip(&bias[first_row..]).for_each(|(product, bias)| *product += bias);
            }
            activation.apply_to(products);
            let out = &mut out[first_row..][..products.len()];
            if params.cap == 0.0 {
                out.copy_from_slice(products);
            } else {
                out.iter_mut().zip(products).for_each(|(out, product)| *out = soft_cap(*product, params.cap));
            }
        });
    }
}
