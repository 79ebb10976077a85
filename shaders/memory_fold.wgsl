// M' = M + σ(K)ᵀ V, z' = z + Σ σ(k) over a whole segment that ends with the column's token: it leaves the cache for the
// compressive memory. By the delta rule V - σ(K) M / σ(K) z takes the place of V: what is known already is not added again.
//
// Infini-attention (arXiv 2404.07143, eqs. 8 and 9), un-rotated keys, σ = ELU + 1. All tokens of the segment meet the old
// M and z; the new ones are another copy. A workgroup has eight pairs of values of one key head, and takes eight tokens
// at a time. The sum over the segment is made first and added to the old once: less is lost in a large memory.
// Grid: (half / 8, n_kv_heads, columns). Twin: src/kernels/memory_fold.rs.

struct Params {
    n_kv_heads: u32,
    half: u32,    // pairs of a head; at most 128
    slots: u32,   // of one head of one lane of the cache
    segment: u32, // tokens of a segment
    copies: u32,  // of the memory; at least 2
    delta: u32,   // 0: linear update; 1: delta rule
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns: the last tokens of the segments to fold
@group(0) @binding(2) var<storage, read> keys: array<u32>; // [lane][kv_head][slot][half] pairs, un-rotated, see cache.wgsl
@group(0) @binding(3) var<storage, read> v: array<u32>; // [lane][kv_head][slot][half] pairs, see cache.wgsl
@group(0) @binding(4) var<storage, read_write> memory: array<vec2<f32>>; // [lane][copy][kv_head][M, z], see memory.wgsl

const TOKENS: u32 = 8u; // at once
const PAIRS: u32 = 8u;  // of values, of one workgroup

var<workgroup> key: array<f32, 2048>;       // [token][head_dim]: σ of the keys
var<workgroup> value: array<vec2<f32>, 64>; // [token][pair]: what is added for them

// The first word of pair `i` of the segment's token number `n`.
fn word_of(column: Column, kv_head: u32, n: u32, i: u32) -> u32 {
    let behind = params.segment - 1u - n;
    let slot = select(column.slot, column.slot + params.slots, column.slot < behind) - behind;
    let row = (column.lane * params.n_kv_heads + kv_head) * params.slots + slot;
    return (row * params.half + i) * (1u + CACHE_F32);
}

// Adds to a pair of the new copy; `old`: where it stands in the copy before.
fn add(at: u32, old: u32, sum: vec2<f32>, is_first: bool, is_last: bool) {
    var total = sum;
    if (!is_first) {
        total += memory[at];
    }
    if (is_last) {
        total += memory[old];
    }
    memory[at] = total;
}

@compute @workgroup_size(64)
fn memory_fold(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.z >= columns.active_) {
        return;
    }
    let column = columns.column[workgroup.z];
    let half = params.half;
    let head_dim = 2u * half;
    let kv_head = workgroup.y;
    let copy = copy_of(column);
    let is_begun = copy > 0u;
    let old = memory_of(column.lane, copy, kv_head);
    let new_ = memory_of(column.lane, 1u + copy % params.copies, kv_head);
    let normaliser = head_dim * half; // behind the matrix

    for (var first = 0u; first < params.segment; first += TOKENS) {
        let count = min(TOKENS, params.segment - first);
        workgroupBarrier(); // the tokens before have been added
        for (var item = invocation; item < count * half; item += 64u) {
            let at = word_of(column, kv_head, first + item / half, item % half);
            let pair = load_pair(keys[at], keys[at + CACHE_F32]);
            key[2u * item] = sigma(pair.x);
            key[2u * item + 1u] = sigma(pair.y);
        }
        workgroupBarrier();
        let token = invocation / PAIRS;
        let own = workgroup.x * PAIRS + invocation % PAIRS; // pair of values
        if (token < count && own < half) {
            let at = word_of(column, kv_head, first + token, own);
            var fresh = load_pair(v[at], v[at + CACHE_F32]);
            if (params.delta == 1u && is_begun) {
                var known = vec3<f32>(0.0);
                for (var d = 0u; d < head_dim; d++) {
                    let z = memory[old + normaliser + d / 2u][d % 2u];
                    known += key[token * head_dim + d] * vec3<f32>(memory[old + d * half + own], z);
                }
                fresh -= mean_of(known);
            }
            value[invocation] = fresh;
        }
        workgroupBarrier();
        let is_last = is_begun && first + TOKENS >= params.segment;
        for (var item = invocation; item < head_dim * PAIRS; item += 64u) {
            let d = item / PAIRS;
            let pair = workgroup.x * PAIRS + item % PAIRS;
            if (pair < half) {
                var sum = vec2<f32>(0.0);
                for (var t = 0u; t < count; t++) {
                    sum += key[t * head_dim + d] * value[t * PAIRS + item % PAIRS];
                }
                let at = d * half + pair;
                add(new_ + at, old + at, sum, first == 0u, is_last);
            }
        }
        if (workgroup.x == 0u) {
            for (var i = invocation; i < half; i += 64u) {
                var sum = vec2<f32>(0.0);
                for (var t = 0u; t < count; t++) {
                    sum += vec2<f32>(key[t * head_dim + 2u * i], key[t * head_dim + 2u * i + 1u]);
                }
                add(new_ + normaliser + i, old + normaliser + i, sum, first == 0u, is_last);
            }
        }
    }
}
