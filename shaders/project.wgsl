// x += W · input + bias: the output projection of the attention and the down projection of the feed-forward, each with
// the residual. Where what a block adds is normed first (added.wgsl), the product is left beside x, and x is given what the
// block before left.
//
// Row pair i is rows 2i and 2i + 1. Grid: (pairs / PAIRS, columns / COLUMNS, excess of x). Twin: src/kernels/project.rs.

struct Params {
    rows: u32,       // rows of W
    blocks: u32,     // blocks of 32 weights in a row
    in_stride: u32,  // floats from one column of input to the next; a multiple of 4
    out_stride: u32, // floats from one column of x to the next
    n_heads: u32,    // that `input` consists of, and the pairs of one: read where attention left parts of sums
    half: u32,
    columns: u32,    // of the plan
    left: u32,       // floats from x to where the product is left; 0 where it goes to x
    added: u32,      // floats from x to what the block before left; read if ADDED, as is eps
    eps: f32,
}

override BIAS: u32; // 0 or 1
override MEASURES: u32 = ADDED;
override IS_DEAR: u32 = 0u; // see matvec.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> input: array<vec4<f32>>; // [column][in_stride / 4], f32, zero behind the last; or see split_input.wgsl
@group(0) @binding(3) var<storage, read> quants: array<vec4<u32>>; // [rows][blocks][words / 4], see weights.wgsl
@group(0) @binding(4) var<storage, read> scales: array<u32>; // [rows][words], see weights.wgsl
@group(0) @binding(5) var<storage, read> bias: array<f32>; // [rows], f32; read if BIAS
@group(0) @binding(6) var<storage, read_write> x: array<f32>; // [1 or 3][column][out_stride], f32, with ADDED zero behind rows
@group(0) @binding(7) var<storage, read> gain: array<f32>; // [2][out_stride], f32, the second for what the block before left; read if ADDED

fn quant_words(at: u32) -> vec4<u32> {
    return quants[at];
}

fn scale_word(at: u32) -> u32 {
    return scales[at];
}

// What norm.wgsl has for kernels that norm. Here inputs are taken as they are.
struct Raw {
    value: vec4<f32>,
}

fn raw_input(column: u32, word: u32) -> Raw {
    return Raw(load_input(column, word));
}

fn finish_input(raw: Raw, column: u32, word: u32) -> vec4<f32> {
    return raw.value;
}

fn input_power(column: u32) -> f32 {
    return 1.0;
}

fn put_squares(c: u32, sharer: u32, is_first: bool) {}

fn add_squares(invocation: u32) {}

// See added.wgsl.
fn added_input(column: u32, word: u32) -> vec4<f32> {
    let at = params.added + column * params.out_stride + 4u * word;
    return vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
}

var<private> before: vec2<f32>;     // what the residual is at the first item that this invocation keeps: asked for before
var<private> before_at: vec2<u32>;  // the product, so that nobody waits for it; and that item's pair and column

fn residual(pair: u32, column: u32) -> vec2<f32> {
    let row = min(2u * pair, params.rows - 1u);
    let next = select(row, row + 1u, row + 1u < params.rows);
    let of_column = min(column, columns.active_ - 1u) * params.out_stride;
    let value = vec2<f32>(x[of_column + row], x[of_column + next]);
    if (ADDED == 0u) {
        return value;
    }
    let added = vec2<f32>(x[params.added + of_column + row], x[params.added + of_column + next]);
    let gains = vec2<f32>(gain[params.out_stride + row], gain[params.out_stride + next]);
    return value + added * inverses[min(column - first_of_tile, COLUMNS - 1u)] * gains;
}

// The two rows of a pair, or the last row for what is behind it.
fn rows_of(pair: u32) -> vec2<u32> {
    return min(vec2<u32>(2u * pair, 2u * pair + 1u), vec2<u32>(params.rows - 1u));
}

fn keep(pair: u32, column: u32, products: vec2<f32>) {
    let row = 2u * pair;
    if (column < columns.active_ && row < params.rows) {
        let last_row = params.rows - 1u;
        var y = products;
        if (BIAS == 1u) {
            y += vec2<f32>(bias[row], bias[min(row + 1u, last_row)]);
        }
        let at = column * params.out_stride + row;
        if (params.left > 0u) {
            put_pair(params.left + at, row, y);
            if (ADDED == 1u) {
                put_pair(at, row, known_residual(pair, column));
            }
        } else {
            put_pair(at, row, known_residual(pair, column) + y);
        }
    }
}

fn known_residual(pair: u32, column: u32) -> vec2<f32> {
    if (all(before_at == vec2<u32>(pair, column))) {
        return before;
    }
    return residual(pair, column);
}

fn put_pair(at: u32, row: u32, pair: vec2<f32>) {
    x[at] = pair.x;
    if (row < params.rows - 1u) {
        x[at + 1u] = pair.y;
    }
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
    first_of_tile = first_column;
    measure_added((params.rows + 3u) / 4u, params.rows, params.eps, invocation);
    before_at = vec2<u32>(first_pair + invocation % PAIRS, first_column + invocation / PAIRS);
    before = residual(before_at.x, before_at.y);
    multiply(params.blocks, first_pair, first_column, invocation);
}
