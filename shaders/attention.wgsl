// out = softmax(q · K) · V of one column and a group of heads, over the column's `cached` tokens and itself.
//
// Tiles of 64 slots: an invocation scores one slot for all heads of the group, then sums a share of the (head, pair)
// items over the tile. Online softmax (Milakov and Gimelshein, arXiv 1805.02867; the tiling is FlashAttention's). Heads
// of a group share one read of keys and values. Which slots a column sees is arithmetic: no mask, no copy.
// The denominator has one more score, that of no key and no value: a head that finds nothing to attend to can rest on it.
// Grid: (n_heads / HEADS, columns). Twin: src/kernels/attention.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    heads: u32,   // HEADS
    half: u32,    // pairs of a head
    slots: u32,   // of one head of one lane of the cache
    columns: u32, // of the plan: the sinks' queries follow so many columns after the window's
    stride: u32,  // floats from one column of out to the next; even
    reach: u32,   // most tokens that a query sees besides itself, whatever is cached
    cap: f32,     // scores go through cap · tanh(score / cap); 0 for no cap
}

override HEADS: u32; // of one workgroup, all of one key head; 1 to 8, HEADS · half is at most 1024

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> q: array<vec2<f32>>; // [2][column][n_heads][half] pairs of f32, scaled
@group(0) @binding(3) var<storage, read> k: array<u32>; // [lane][kv_head][slot][half] pairs, see cache.wgsl
@group(0) @binding(4) var<storage, read> v: array<u32>; // [lane][kv_head][slot][half] pairs, see cache.wgsl
@group(0) @binding(5) var<storage, read> slopes: array<f32>; // [n_heads]: what a score loses per token of distance (ALiBi)
@group(0) @binding(6) var<storage, read> sink_logits: array<f32>; // [n_heads]: score of no key; -3e38 for none
@group(0) @binding(7) var<storage, read_write> out: array<vec2<f32>>; // [column][stride / 2], pairs [n_heads][half] of f32

const TILE: u32 = 64u;     // slots at once: one for each invocation
const LOWEST: f32 = -3e38; // below every score; finite, because WGSL does not promise infinities
override SCORES: u32 = HEADS * TILE;

var<workgroup> scores: array<f32, SCORES>;    // [head][slot of the tile]: scores, then weights
var<workgroup> highest: array<f32, 64>;       // [head][8]: largest score so far among those of eight neighbours
var<workgroup> maximum: array<f32, HEADS>;    // [head]: largest score so far
var<workgroup> correction: array<f32, HEADS>; // [head]: what sums over earlier tiles must be multiplied with

// Pair `i` of a query times pair `i` of a key.
fn pair_product(query: u32, key: u32, i: u32) -> vec2<f32> {
    let at = (key + i) * (1u + CACHE_F32);
    return q[query + i] * load_pair(k[at], k[at + CACHE_F32]);
}

// Query times key in eight sums, element e in sum e mod 8: the order of the twin's vectors.
fn score_of(query: u32, key: u32) -> f32 {
    let half = params.half;
    let whole = half - half % 4u;
    var a = vec4<f32>(0.0);
    var b = vec4<f32>(0.0);
    for (var i = 0u; i < whole; i += 4u) {
        a += vec4<f32>(pair_product(query, key, i), pair_product(query, key, i + 1u));
        b += vec4<f32>(pair_product(query, key, i + 2u), pair_product(query, key, i + 3u));
    }
    if (whole < half) {
        a += vec4<f32>(pair_product(query, key, whole), 0.0, 0.0);
    }
    if (whole + 1u < half) {
        a += vec4<f32>(0.0, 0.0, pair_product(query, key, whole + 1u));
    }
    if (whole + 2u < half) {
        b += vec4<f32>(pair_product(query, key, whole + 2u), 0.0, 0.0);
    }
    let sum = a + b;
    return (sum.x + sum.z) + (sum.y + sum.w);
}

@compute @workgroup_size(64)
fn attention(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.y >= columns.active_) {
        return;
    }
    let column = columns.column[workgroup.y];
    let half = params.half;
    let first_head = workgroup.x * HEADS;
    let kv_head = first_head / (params.n_heads / params.n_kv_heads);
    let cache = (column.lane * params.n_kv_heads + kv_head) * params.slots * half; // first pair of the key head
    let q_window = (workgroup.y * params.n_heads + first_head) * half;
    let q_sinks = q_window + params.columns * params.n_heads * half;
    let oldest = column.cached - min(column.cached, params.reach); // the oldest token seen
    let seen = column.cached + 1u;

    var totals: array<vec3<f32>, 16>; // of item n · 64 + invocation: weighted sum of its pair, sum of the weights
    highest[invocation] = LOWEST;
    if (invocation < HEADS) {
        maximum[invocation] = LOWEST;
    }

    for (var first = oldest; first < seen; first += TILE) {
        workgroupBarrier(); // the tile before has used its weights
        let n = min(first + invocation, column.cached); // invocations behind the last token repeat it: not summed below
        let key = cache + slot_of(column, n) * half;
        let query = select(q_window, q_sinks, n < column.sinks);
        for (var head = 0u; head < HEADS; head++) {
            // ALiBi (Press et al., arXiv 2108.12409) with distances within the cache, as in StreamingLLM.
            let lost = slopes[first_head + head] * f32(column.cached - n);
            scores[head * TILE + invocation] = soft_cap(score_of(query + head * half, key), params.cap) - lost;
        }
        workgroupBarrier();
        if (invocation < 8u * HEADS) {
            var high = highest[invocation];
            for (var i = 0u; i < 8u; i++) {
                high = max(high, scores[8u * invocation + i]);
            }
            highest[invocation] = high;
        }
        workgroupBarrier();
        if (invocation < HEADS) {
            var high = LOWEST;
            for (var i = 0u; i < 8u; i++) {
                high = max(high, highest[8u * invocation + i]);
            }
            correction[invocation] = exponential(maximum[invocation] - high); // the first tile's meets zeros
            maximum[invocation] = high;
        }
        workgroupBarrier();
        for (var head = 0u; head < HEADS; head++) {
            let at = head * TILE + invocation;
            scores[at] = exponential(scores[at] - maximum[head]);
        }
        workgroupBarrier();
        let count = min(TILE, seen - first);
        for (var item = invocation; item < HEADS * half; item += TILE) {
            let head = item / half;
            var total = totals[item / TILE] * correction[head];
            for (var i = 0u; i < count; i++) {
                let at = (cache + slot_of(column, first + i) * half + item % half) * (1u + CACHE_F32);
                total += scores[head * TILE + i] * vec3<f32>(load_pair(v[at], v[at + CACHE_F32]), 1.0);
            }
            totals[item / TILE] = total;
        }
    }

    let at = workgroup.y * (params.stride / 2u) + first_head * half;
    for (var item = invocation; item < HEADS * half; item += TILE) {
        let total = totals[item / TILE];
        let head = item / half;
        // The tokens' weights sum to 1 or more, so that the 1e-38 that is left of no logit changes no bit of it.
        let none = exponential(sink_logits[first_head + head] - maximum[head]);
        out[at + item] = total.xy * (1.0 / (total.z + none));
    }
}
