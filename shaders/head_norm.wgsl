// An RMS norm over each head of queries and keys, then what `qkv` does with its products: turned, and into the ring.
//
// For models that norm their heads (Qwen3, Gemma 3): the norm needs a whole head, which the workgroups of `qkv` do not
// have. A workgroup has one head of one column. Grid: (n_heads + 2 · n_kv_heads, columns). Twin: src/kernels/head_norm.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,   // even; dimensions of the norm
    rotary_dim: u32, // how much of a head is rotated; even
    halves: u32,     // 0: pairs are neighbours; 1: halves
    stride: u32,     // floats from one column of raw to the next
    eps: f32,        // added to the mean square
    scale: f32,      // factor on queries, often 1 / sqrt(head_dim)
    rope_scale: f32, // factor on rotated queries: YaRN's on queries and keys together
    slots: u32,      // of one head of one lane of the cache
    columns: u32,    // of the plan: the sinks' queries follow so many columns after the window's
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<uniform> rope: array<vec4<u32>, 64>; // [rotary_dim / 2] turns per position, 0.32 fixed point
@group(0) @binding(3) var<storage, read> raw: array<f32>; // [column][stride]: queries, keys, values, f32, in rows of W
@group(0) @binding(4) var<storage, read> gain: array<f32>; // [2][head_dim rounded up to 32]: of queries, of keys
@group(0) @binding(5) var<storage, read_write> q: array<vec2<f32>>; // [2][column][n_heads][head_dim / 2] pairs of f32
@group(0) @binding(6) var<storage, read_write> k: array<u32>; // [lane][kv_head][slot][head_dim / 2] pairs, see cache.wgsl
@group(0) @binding(7) var<storage, read_write> v: array<u32>; // [lane][kv_head][slot][head_dim / 2] pairs, see cache.wgsl

@compute @workgroup_size(64)
fn head_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.y >= columns.active_) {
        return;
    }
    let head = workgroup.x;
    let half = params.head_dim / 2u;
    let from_row = workgroup.y * params.stride + head * params.head_dim;
    var sum = vec2<f32>(0.0);
    for (var i = invocation; i < half; i += WORKGROUP) {
        let y = vec2<f32>(raw[from_row + 2u * i], raw[from_row + 2u * i + 1u]);
        sum += y * y;
    }
    let squares = sum_of_workgroup(sum.x + sum.y, invocation);
    let factor = 1.0 / sqrt(squares * (1.0 / f32(params.head_dim)) + params.eps);

    let is_normed = head < params.n_heads + params.n_kv_heads; // values are not
    let of_keys = select(0u, (params.head_dim + 31u) / 32u * 32u, head >= params.n_heads);
    for (var i = invocation; i < half; i += WORKGROUP) {
        let rows = rows_in_head(i, is_normed);
        var y = vec2<f32>(raw[from_row + rows.x], raw[from_row + rows.y]);
        if (is_normed) {
            y = y * factor * vec2<f32>(gain[of_keys + rows.x], gain[of_keys + rows.y]);
        }
        store(workgroup.y, head * half + i, y);
    }
}
