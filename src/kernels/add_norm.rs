//! `x += y / rms(y) · gain`, and y is zero again: the residual of models that norm what a block adds (Gemma 2 and 3).
//! The norm needs the whole of y.

use bytemuck::{Pod, Zeroable};

use crate::executor::cpu::Call;
use crate::kernel::{Kernel, WORKGROUP, read, uniform, write};

/// Mirrors `Params` in `shaders/add_norm.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    /// Floats from one column of `x` and `y` to the next.
    pub stride: u32,
    /// Dimensions.
    pub dim: u32,
    /// Added to the mean square.
    pub eps: f32,
}

/// Grid: (1, columns).
pub const KERNEL: Kernel = Kernel {
    name: "add_norm",
    wgsl: &[
        include_str!("../../shaders/shared/columns.wgsl"),
        include_str!("../../shaders/shared/sum.wgsl"),
        include_str!("../../shaders/add_norm.wgsl"),
    ],
    variants: &[],
    bindings: &[uniform("params"), uniform("columns"), read("gain"), write("y"), write("x")],
    twin,
};

fn twin(call: &mut Call<'_>) {
    let params: Params = call.params();
    let (columns, gain) = (call.columns(1).len(), call.input::<f32>(2));
    let ([y, x], _) = call.outputs();
    let (stride, dim) = (params.stride as usize, params.dim as usize);
    let columns_of = |buffer| bytemuck::cast_slice_mut::<u32, f32>(buffer).chunks_exact_mut(stride).take(columns);
    for (y, x) in columns_of(y).zip(columns_of(x)) {
        let y = &mut y[..dim];
        let squares = sum_of_workgroup(|invocation| {
            y.iter().skip(invocation).step_by(WORKGROUP as usize).fold(0.0, |sum, y| sum + y * y)
        });
        let factor = 1.0 / (squares * (1.0 / dim as f32) + params.eps).sqrt();
        for ((x, y), gain) in x.iter_mut().zip(y).zip(gain) {
            *x += *y * factor * gain;
            *y = 0.0;
        }
    }
}

/// The sum of one value of every invocation of a workgroup, in the order of `shaders/shared/sum.wgsl`.
pub(super) fn sum_of_workgroup(value: impl Fn(usize) -> f32) -> f32 {
    let add = |sum: f32, value: f32| sum + value;
    let eighth = |first: usize| (first..first + 8).map(&value).fold(0.0, add);
    (0..WORKGROUP as usize).step_by(8).map(eighth).fold(0.0, add)
}
