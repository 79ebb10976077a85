// x += y / rms(y) · gain, and y is zero again: the residual of models that norm what a block adds (Gemma 2 and 3). The
// norm needs the whole of y, which the workgroups of `project` do not have.
//
// A workgroup has one column. Grid: (1, columns). Twin: src/kernels/add_norm.rs.

struct Params {
    stride: u32, // floats from one column of x and y to the next
    dim: u32,    // dimensions
    eps: f32,    // added to the mean square
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> gain: array<f32>; // [dim], f32
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [column][stride], f32
@group(0) @binding(4) var<storage, read_write> x: array<f32>; // [column][stride], f32

@compute @workgroup_size(64)
fn add_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.y >= columns.active_) {
        return;
    }
    let column = workgroup.y * params.stride;
    var sum = 0.0;
    for (var i = invocation; i < params.dim; i += WORKGROUP) {
        sum += y[column + i] * y[column + i];
    }
    let squares = sum_of_workgroup(sum, invocation);
    let factor = 1.0 / sqrt(squares * (1.0 / f32(params.dim)) + params.eps);
    for (var i = invocation; i < params.dim; i += WORKGROUP) {
        x[column + i] += y[column + i] * factor * gain[i];
        y[column + i] = 0.0;
    }
}
