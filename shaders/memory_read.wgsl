// out = gate · σ(q) M / σ(q) z + (1 - gate) · out of one column and query head: what the compressive memory remembers,
// blended with what `attention` read from the open segment.
//
// Infini-attention (arXiv 2404.07143, eqs. 7 and 10): q un-rotated, σ = ELU + 1, gate = sigmoid of one learned number a
// head, M as it was before the open segment. Also keeps the column's un-rotated keys for `memory_fold`.
// Grid: (n_heads, columns). Twin: src/kernels/memory_read.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    half: u32,    // pairs of a head; at most 128
    slots: u32,   // of one head of one lane of the cache
    columns: u32, // of the plan: the second queries follow so many columns after the first, un-rotated keys after those
    stride: u32,  // floats from one column of out to the next; even
    segment: u32, // tokens of a segment
    copies: u32,  // of the memory
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>; // [2][column][n_heads][half], then [column][n_kv_heads][half]
@group(0) @binding(3) var<storage, read> gates: array<f32>; // [n_heads], before the sigmoid
@group(0) @binding(4) var<storage, read> memory: array<vec2<f32>>; // [lane][copy][kv_head][M, z], see memory.wgsl
@group(0) @binding(5) var<storage, read_write> keys: array<u32>; // [lane][kv_head][slot][half] pairs, un-rotated, see cache.wgsl
@group(0) @binding(6) var<storage, read_write> out: array<vec2<f32>>; // [column][stride / 2], pairs [n_heads][half] of f32

var<workgroup> query: array<f32, 256>; // σ of the head's query

@compute @workgroup_size(64)
fn memory_read(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.y >= columns.active_) {
        return;
    }
    let column = columns.column[workgroup.y];
    let half = params.half;
    let head = workgroup.x;
    let group = params.n_heads / params.n_kv_heads;
    let kv_head = head / group;
    let raw = ((params.columns + workgroup.y) * params.n_heads + head) * half;
    for (var i = invocation; i < half; i += 64u) {
        let pair = q[raw + i];
        query[2u * i] = sigma(pair.x);
        query[2u * i + 1u] = sigma(pair.y);
    }
    if (head % group == 0u) {
        let raw_key = (2u * params.columns * params.n_heads + workgroup.y * params.n_kv_heads + kv_head) * half;
        let row = (column.lane * params.n_kv_heads + kv_head) * params.slots + column.slot;
        for (var i = invocation; i < half; i += 64u) {
            let words = store_pair(q[raw_key + i]);
            let at = (row * half + i) * (1u + CACHE_F32);
            keys[at] = words.x;
            if (CACHE_F32 == 1u) {
                keys[at + 1u] = words.y;
            }
        }
    }
    workgroupBarrier();

    let copy = copy_of(column);
    let matrix = memory_of(column.lane, copy, kv_head);
    let normaliser = matrix + 2u * half * half;
    let gate = 1.0 / (1.0 + exponential(-gates[head]));
    for (var i = invocation; i < half; i += 64u) {
        var total = vec3<f32>(0.0);
        if (copy > 0u) {
            for (var d = 0u; d < 2u * half; d++) {
                total += query[d] * vec3<f32>(memory[matrix + d * half + i], memory[normaliser + d / 2u][d % 2u]);
            }
        }
        let at = workgroup.y * (params.stride / 2u) + head * half + i;
        out[at] = gate * mean_of(total) + (1.0 - gate) * out[at];
    }
}
