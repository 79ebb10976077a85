// x += W · input + bias: the output projection of the attention and the down projection of the feed-forward, each with
// the residual.
//
// Row pair i is rows 2i and 2i + 1. Grid: (pairs · LANES / 64, columns / COLUMNS, excess of x). Twin: src/kernels/project.rs.

struct Params {
    rows: u32,       // rows of W
    blocks: u32,     // blocks of 32 weights in a row
    in_stride: u32,  // floats from one column of input to the next; a multiple of 4
    out_stride: u32, // floats from one column of x to the next
    n_heads: u32,    // that `input` consists of, and the pairs of one: read where attention left parts of sums
    half: u32,
    columns: u32,    // of the plan
}

override BIAS: u32; // 0 or 1

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> input: array<vec4<f32>>; // [column][in_stride / 4], f32, zero behind the last; or see split_input.wgsl
@group(0) @binding(3) var<storage, read> quants: array<vec4<u32>>; // [rows][blocks][words / 4], see weights.wgsl
@group(0) @binding(4) var<storage, read> scales: array<u32>; // [rows][words], see weights.wgsl
@group(0) @binding(5) var<storage, read> bias: array<f32>; // [rows], f32; read if BIAS
@group(0) @binding(6) var<storage, read_write> x: array<f32>; // [column][out_stride], f32

fn quant_words(at: u32) -> vec4<u32> {
    return quants[at];
}

fn scale_word(at: u32) -> u32 {
    return scales[at];
}

@compute @workgroup_size(WORKGROUP)
fn project(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let first_pair = (workgroup.x + workgroup.z * grid.x) * PAIRS;
    let first_column = workgroup.y * COLUMNS;
    if (2u * first_pair >= params.rows || first_column >= columns.active_) {
        return;
    }
    let last_row = params.rows - 1u;
    let row = 2u * (first_pair + own_pair(invocation));
    multiply_input(min(vec2<u32>(row, row + 1u), vec2<u32>(last_row)), first_column, invocation);

    for (var item = invocation; item < PAIRS * COLUMNS; item += WORKGROUP) {
        let column = first_column + item / PAIRS;
        let row = 2u * (first_pair + item % PAIRS);
        if (column < columns.active_ && row < params.rows) {
            var y = product(item);
            if (BIAS == 1u) {
                y += vec2<f32>(bias[row], bias[min(row + 1u, last_row)]);
            }
            let at = column * params.out_stride + row;
            x[at] += y.x;
            if (row < last_row) {
                x[at + 1u] += y.y;
            }
        }
    }
}
