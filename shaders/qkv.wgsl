// Queries, keys and values of one layer: W · (x / rms(x) · gain), rotated; keys and values go into the ring.
//
// A row pair is what RoPE turns together: rows (2i, 2i + 1) of a head, or (i, i + rotary_dim / 2) with `halves`. Queries
// and keys are kept in the order of their pairs. Each query is written twice, turned by its position in the stream for
// the window and by its in-cache position for the sinks (StreamingLLM §3.2, see src/kernels/rope.rs).
// Grid: (pairs · LANES / 64, columns / COLUMNS, excess of x). Twin: src/kernels/qkv.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,   // even
    rotary_dim: u32, // how much of a head is rotated; even
    halves: u32,     // 0: pairs are neighbours; 1: halves
    first_pair: u32, // of this dispatch, counted over all queries, then keys, then values
    pairs: u32,      // of this dispatch: row pairs of W
    blocks: u32,     // blocks of 32 weights in a row
    stride: u32,     // floats from one column of x to the next; a multiple of 4
    dim: u32,        // divisor of the mean square
    eps: f32,        // added to it
    scale: f32,      // factor on queries: 1 / sqrt(head_dim)
    slots: u32,      // of one head of one lane of the cache
    columns: u32,    // of the plan: the sinks' queries follow so many columns after the window's
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<uniform> rope: array<vec4<u32>, 64>; // [rotary_dim / 2] turns per position, 0.32 fixed point
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // [column][stride / 4], f32, zero behind dim
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>; // [blocks · 8], f32
@group(0) @binding(5) var<storage, read> quants: array<vec4<u32>>; // [2 · pairs][blocks][words / 4], see weights.wgsl
@group(0) @binding(6) var<storage, read> scales: array<u32>; // [2 · pairs][ceil(blocks / 2)], two f16 a word
@group(0) @binding(7) var<storage, read_write> q: array<vec2<f32>>; // [2][column][n_heads][head_dim / 2] pairs of f32
@group(0) @binding(8) var<storage, read_write> k: array<u32>; // [lane][kv_head][slot][head_dim / 2] pairs, see cache.wgsl
@group(0) @binding(9) var<storage, read_write> v: array<u32>; // [lane][kv_head][slot][head_dim / 2] pairs, see cache.wgsl

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return x[column * (params.stride / 4u) + word] * gain[word];
}

// The two rows of W that make a pair; `pair` is counted over queries, keys and values.
fn rows_of_pair(pair: u32) -> vec2<u32> {
    let half = params.head_dim / 2u;
    let i = pair % half;
    let head = pair - i; // pairs before this head
    let rotary_half = params.rotary_dim / 2u;
    let is_turned = pair < (params.n_heads + params.n_kv_heads) * half && i < rotary_half;
    let rows = select(vec2<u32>(2u * i, 2u * i + 1u), vec2<u32>(i, i + rotary_half), params.halves == 1u && is_turned);
    return rows + 2u * (head - params.first_pair);
}

@compute @workgroup_size(64)
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
    let own = params.first_pair + min(first_pair + invocation / LANES, params.pairs - 1u);
    sum_squares(first_column, params.stride / 4u, 8u * params.blocks, invocation);
    multiply(rows_of_pair(own), params.blocks, first_column, invocation);

    for (var item = invocation; item < PAIRS * COLUMNS; item += WORKGROUP) {
        let c = item / PAIRS;
        let column = first_column + c;
        let pair = first_pair + item % PAIRS;
        if (column < columns.active_ && pair < params.pairs) {
            store(column, params.first_pair + pair, product(item) * inverse_rms(c, params.dim, params.eps));
        }
    }
}

// Turns pair `pair` of column number `number`, and puts it where it belongs.
fn store(number: u32, pair: u32, y: vec2<f32>) {
    let column = columns.column[number];
    let half = params.head_dim / 2u;
    let q_pairs = params.n_heads * half;
    let kv_pairs = params.n_kv_heads * half;
    let i = pair % half;
    let is_rotated = 2u * i < params.rotary_dim;
    let frequency = rope[i / 4u % 64u][i % 4u];
    if (pair < q_pairs) {
        let at = number * q_pairs + pair;
        q[at] = params.scale * select(y, rotate(y, column.position, frequency), is_rotated);
        q[at + params.columns * q_pairs] = params.scale * select(y, rotate(y, column.cached, frequency), is_rotated);
        return;
    }
    let is_key = pair < q_pairs + kv_pairs;
    let kv_pair = pair - q_pairs - select(kv_pairs, 0u, is_key);
    let head = column.lane * params.n_kv_heads + kv_pair / half;
    let at = ((head * params.slots + column.slot) * half + i) * (1u + CACHE_F32);
    if (is_key) {
        // A sink keeps its in-cache position for ever; all others are known by their place in the stream.
        let position = select(column.position, column.cached, column.slot < column.sinks);
        let words = store_pair(select(y, rotate(y, position, frequency), is_rotated));
        k[at] = words.x;
        if (CACHE_F32 == 1u) {
            k[at + 1u] = words.y;
        }
    } else {
        let words = store_pair(y);
        v[at] = words.x;
        if (CACHE_F32 == 1u) {
            v[at + 1u] = words.y;
        }
    }
}
