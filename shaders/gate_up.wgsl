// h = f(W_gate · x̂) ⊙ (W_up · x̂), x̂ = norm(x): the gated feed-forward (Shazeer, arXiv 2002.05202), f = silu in SwiGLU.
//
// Row pair i is row i of the gate and row i of the up matrix, ffn_dim rows further on. Grid: (ffn_dim / PAIRS,
// columns / COLUMNS, excess of x). Twin: src/kernels/gate_up.rs.

struct Params {
    ffn_dim: u32,    // rows of h; W holds as many gate rows, then as many up rows
    blocks: u32,     // blocks of 32 weights in a row
    in_stride: u32,  // floats from one column of x to the next; a multiple of 4
    out_stride: u32, // floats from one column of h to the next
    dim: u32,        // dimensions of the norm
    eps: f32,        // added to its mean square
    added: u32,      // floats from x to what the block before added, see added.wgsl; a multiple of 4
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [1 or 3][column][in_stride / 4], f32, zero behind dim
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>; // [1 or 2][blocks · 8], f32, see norm.wgsl
@group(0) @binding(4) var<storage, read> quants: array<vec4<u32>>; // [2 · ffn_dim][blocks][words / 4], see weights.wgsl
@group(0) @binding(5) var<storage, read> scales: array<u32>; // [2 · ffn_dim][words], see weights.wgsl
@group(0) @binding(6) var<storage, read_write> h: array<f32>; // [column][out_stride], f32

fn quant_words(at: u32) -> vec4<u32> {
    return quants[at];
}

fn scale_word(at: u32) -> u32 {
    return scales[at];
}

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

// The row of the gate and the row of the up matrix.
fn rows_of(pair: u32) -> vec2<u32> {
    let row = min(pair, params.ffn_dim - 1u);
    return vec2<u32>(row, params.ffn_dim + row);
}

fn keep(row: u32, column: u32, products: vec2<f32>) {
    if (column < columns.active_ && row < params.ffn_dim) {
        let y = products * factor_of(column - first_of_tile, params.dim, params.eps);
        h[column * params.out_stride + row] = activate(y.x) * y.y;
    }
}

@compute @workgroup_size(WORKGROUP)
fn gate_up(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let first_row = (workgroup.x + workgroup.z * grid.x) * PAIRS;
    let first_column = workgroup.y * COLUMNS;
    if (first_row >= params.ffn_dim || first_column >= columns.active_) {
        return;
    }
    measure(first_column, 8u * params.blocks, params.dim, params.eps, invocation);
    multiply(params.blocks, first_row, first_column, invocation);
}
