// logits = W · (x / rms(x) · gain): a score for every entry of the vocabulary.
//
// Row pair i is rows 2i and 2i + 1. Grid: (pairs · LANES / 64, columns / COLUMNS, excess of x). Twin: src/kernels/logits.rs.

struct Params {
    vocab_size: u32, // rows of W
    blocks: u32,     // blocks of 32 weights in a row
    in_stride: u32,  // floats from one column of x to the next; a multiple of 4
    out_stride: u32, // floats from one column of out to the next
    dim: u32,        // divisor of the mean square
    eps: f32,        // added to it
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [column][in_stride / 4], f32, zero behind dim
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>; // [blocks · 8], f32
@group(0) @binding(4) var<storage, read> quants: array<vec4<u32>>; // [vocab_size][blocks][words / 4], see weights.wgsl
@group(0) @binding(5) var<storage, read> scales: array<u32>; // [vocab_size][ceil(blocks / 2)], two f16 a word
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [column][out_stride], f32: the logits

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return x[column * (params.in_stride / 4u) + word] * gain[word];
}

@compute @workgroup_size(64)
fn logits(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let first_pair = (workgroup.x + workgroup.z * grid.x) * PAIRS;
    let first_column = workgroup.y * COLUMNS;
    if (2u * first_pair >= params.vocab_size || first_column >= columns.active_) {
        return;
    }
    let last_row = params.vocab_size - 1u;
    let row = 2u * (first_pair + invocation / LANES);
    sum_squares(first_column, params.in_stride / 4u, 8u * params.blocks, invocation);
    multiply(min(vec2<u32>(row, row + 1u), vec2<u32>(last_row)), params.blocks, first_column, invocation);

    for (var item = invocation; item < PAIRS * COLUMNS; item += WORKGROUP) {
        let c = item / PAIRS;
        let column = first_column + c;
        let row = 2u * (first_pair + item % PAIRS);
        if (column < columns.active_ && row < params.vocab_size) {
            let y = product(item) * inverse_rms(c, params.dim, params.eps);
            let at = column * params.out_stride + row;
            out[at] = y.x;
            if (row < last_row) {
                out[at + 1u] = y.y;
            }
        }
    }
}
