// Queries, keys and values of one layer: W · norm(x) + bias, rotated; keys and values go into the ring.
//
// A row pair is what RoPE turns together. Grid: (pairs / PAIRS, columns / COLUMNS, excess of x). Twin:
// src/kernels/qkv.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,   // even
    rotary_dim: u32, // how much of a head is rotated; even
    halves: u32,     // 0: pairs are neighbours; 1: halves
    first_pair: u32, // of this dispatch, counted over all queries, then keys, then values
    pairs: u32,      // of this dispatch: row pairs of W
    other_pair: u32, // of this dispatch: from here on they are of a matrix with OTHER_LAYOUT; `pairs` for none
    blocks: u32,     // blocks of 32 weights in a row
    stride: u32,     // floats from one column of x to the next; a multiple of 4
    dim: u32,        // dimensions of the norm
    eps: f32,        // added to its mean square
    added: u32,      // floats from x to what the block before added, see added.wgsl; a multiple of 4
    scale: f32,      // factor on queries, often 1 / sqrt(head_dim)
    rope_scale: f32, // factor on rotated queries: YaRN's on queries and keys together
    limit: f32,      // results are kept inside ± this
    slots: u32,      // of one head of one lane of the cache
    columns: u32,    // of the plan: the sinks' queries follow so many columns after the window's
}

override BIAS: u32;              // 0 or 1
override FIRST_QUANTS: u32 = 0u; // words of quants before those of the other matrix
override FIRST_SCALES: u32 = 0u; // the same of scales

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<uniform> rope: array<vec4<u32>, 64>; // [rotary_dim / 2] turns per position, 0.32 fixed point
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // [1 or 3][column][stride / 4], f32, zero behind dim
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>; // [1 or 2][blocks · 8], f32, see norm.wgsl
@group(0) @binding(5) var<storage, read> quants: array<vec4<u32>>; // [2 · pairs][blocks][words / 4], see weights.wgsl
@group(0) @binding(6) var<storage, read> scales: array<u32>; // [2 · pairs][words], see weights.wgsl
@group(0) @binding(7) var<storage, read> bias: array<f32>; // [rows], f32, over queries, keys and values; read if BIAS
@group(0) @binding(8) var<storage, read_write> q: array<vec2<f32>>; // [2][column][n_heads][head_dim / 2] pairs of f32
@group(0) @binding(9) var<storage, read_write> k: array<u32>; // [lane][kv_head][slot][head_dim / 2] pairs, see cache.wgsl
@group(0) @binding(10) var<storage, read_write> v: array<u32>; // [lane][kv_head][slot][head_dim / 2] pairs, see cache.wgsl

fn quant_words(at: u32) -> vec4<u32> {
    return quants[at + select(0u, FIRST_QUANTS, is_other)];
}

fn scale_word(at: u32) -> u32 {
    return scales[at + select(0u, FIRST_SCALES, is_other)];
}

// Four inputs of a column and their gains before the norm; `finish_input` norms them.
fn raw_input(column: u32, word: u32) -> Raw {
    let value = x[column * (params.stride / 4u) + word];
    return Raw(with_added(value, column, word, 8u * params.blocks), gain[word]);
}

// See added.wgsl.
fn added_input(column: u32, word: u32) -> vec4<f32> {
    return x[params.added / 4u + column * (params.stride / 4u) + word];
}

fn finish_input(raw: Raw, column: u32, word: u32) -> vec4<f32> {
    return normed(raw, column, word, 8u * params.blocks);
}

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return finish_input(raw_input(column, word), column, word);
}

// The two rows of a pair of the dispatch, or of its last one, in their matrix.
fn rows_of(pair: u32) -> vec2<u32> {
    let own = min(pair, params.pairs - 1u);
    is_other = own >= params.other_pair;
    let before = params.first_pair + select(0u, params.other_pair, is_other);
    return rows_of_pair(params.first_pair + own) - 2u * before;
}

// The two rows that make a pair; both are counted over queries, keys and values.
fn rows_of_pair(pair: u32) -> vec2<u32> {
    let half = params.head_dim / 2u;
    let i = pair % half;
    return rows_in_head(i, pair < (params.n_heads + params.n_kv_heads) * half) + 2u * (pair - i);
}

fn keep(pair: u32, column: u32, products: vec2<f32>) {
    if (column < columns.active_ && pair < params.pairs) {
        var y = products * factor_of(column - first_of_tile, params.dim, params.eps);
        if (BIAS == 1u) {
            let rows = rows_of_pair(params.first_pair + pair);
            y += vec2<f32>(bias[rows.x], bias[rows.y]);
        }
        store(column, params.first_pair + pair, clamp(y, vec2<f32>(-params.limit), vec2<f32>(params.limit)));
    }
}

@compute @workgroup_size(WORKGROUP)
fn qkv(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let first_pair = (workgroup.x + workgroup.z * grid.x) * PAIRS; // of this dispatch
    let first_column = workgroup.y * COLUMNS;
    if (first_pair >= params.pairs || first_column >= columns.active_) {
        return;
    }
    measure(first_column, 8u * params.blocks, params.dim, params.eps, invocation);
    multiply(params.blocks, first_pair, first_column, invocation);
}
