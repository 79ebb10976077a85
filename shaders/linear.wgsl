// out = f(W · norm(x) + bias): a score for every entry of the vocabulary, the inner layer of a feed-forward without
// gates, or queries, keys and values that are not ready for the cache yet.
//
// Row pair i is rows 2i and 2i + 1. Grid: (pairs / PAIRS, columns / COLUMNS, excess of x). Twin: src/kernels/linear.rs.

struct Params {
    rows: u32,       // rows of W
    other_row: u32,  // of W: from here on they are of a matrix with OTHER_LAYOUT; `rows` for none
    first_row: u32,  // of W among those of out: a large W comes in several dispatches
    blocks: u32,     // blocks of 32 weights in a row
    in_stride: u32,  // floats from one column of x to the next; a multiple of 4
    out_stride: u32, // floats from one column of out to the next
    dim: u32,        // dimensions of the norm
    eps: f32,        // added to its mean square
    added: u32,      // floats from x to what the block before added, see added.wgsl; a multiple of 4
    cap: f32,        // results go through cap · tanh(y / cap); 0 for no cap
}

override BIAS: u32; // 0 or 1

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [1 or 3][column][in_stride / 4], f32, zero behind dim
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>; // [1 or 2][blocks · 8], f32, see norm.wgsl
@group(0) @binding(4) var<storage, read> quants: array<vec4<u32>>; // [rows][blocks][words / 4], see weights.wgsl
@group(0) @binding(5) var<storage, read> scales: array<u32>; // [rows][words], see weights.wgsl
@group(0) @binding(6) var<storage, read> bias: array<f32>; // [rows of out], f32; read if BIAS
@group(0) @binding(7) var<storage, read_write> out: array<f32>; // [column][out_stride], f32
@group(0) @binding(8) var<storage, read> more_quants: array<vec4<u32>>; // [rows][blocks][words / 4], the rows behind those in quants; read if FIRST_QUANTS
@group(0) @binding(9) var<storage, read> more_scales: array<u32>; // [rows][words], theirs

// Four inputs of a column and their gains before the norm; `finish_input` norms them.
fn raw_input(column: u32, word: u32) -> Raw {
    let value = x[column * (params.in_stride / 4u) + word];
    return Raw(with_added(value, column, word, 8u * params.blocks), gain[word]);
}

// See added.wgsl.
fn added_input(column: u32, word: u32) -> vec4<f32> {
    return x[params.added / 4u + column * (params.in_stride / 4u) + word];
}

fn finish_input(raw: Raw, column: u32, word: u32) -> vec4<f32> {
    return normed(raw, column, word, 8u * params.blocks);
}

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return finish_input(raw_input(column, word), column, word);
}

fn finish(y: f32, row: u32) -> f32 {
    var sum = y;
    if (BIAS == 1u) {
        sum += bias[row];
    }
    return soft_cap(activate(sum), params.cap);
}

// The two rows of a pair, or the last row for what is behind it, in their matrix.
fn rows_of(pair: u32) -> vec2<u32> {
    let rows = min(vec2<u32>(2u * pair, 2u * pair + 1u), vec2<u32>(params.rows - 1u));
    is_other = rows.x >= params.other_row;
    return rows - select(0u, params.other_row, is_other);
}

fn keep(pair: u32, column: u32, products: vec2<f32>) {
    let row = 2u * pair;
    if (column < columns.active_ && row < params.rows) {
        let y = products * factor_of(column - first_of_tile, params.dim, params.eps);
        let to = params.first_row + row;
        let at = column * params.out_stride + to;
        out[at] = finish(y.x, to);
        if (row < params.rows - 1u) {
            out[at + 1u] = finish(y.y, to + 1u);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn linear(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let first_pair = (workgroup.x + workgroup.z * grid.x) * PAIRS;
    let first_column = workgroup.y * COLUMNS;
    if (2u * first_pair >= params.rows || first_column >= columns.active_) {
        return;
    }
    measure(first_column, 8u * params.blocks, params.dim, params.eps, invocation);
    multiply(params.blocks, first_pair, first_column, invocation);
}
