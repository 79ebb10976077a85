// attention.wgsl for GPUs: out = softmax(q · K) · V of one column and a group of heads, over one of SPLITS parts of the
// tokens that the column sees, so that one stream alone keeps the whole GPU busy (Flash-Decoding, Dao et al. 2023).
//
// Tiles of 128 tokens: an invocation scores one token for all heads of the group, then sums its 16 bytes of every n-th
// value. No tile holds both sinks and others: their queries are brought once for all sinks, once for all others.
// With more than one part the sums are left for `project` to put together (shared/split_input.wgsl): [column][SPLITS]
// [stride / 2] pairs of sums, then [column][SPLITS][n_heads] pairs of largest score and sum of weights.
// Grid: (n_heads / HEADS, columns, SPLITS). Twin: src/kernels/attention.rs.

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

override HEADS: u32;  // of one workgroup, all of one key head; 1 to 8, HEADS · half is at most 1024
override WORDS: u32;  // vec4 of a key: (1 + CACHE_F32) · half / 4, at most 128
override SPLITS: u32; // parts of the tokens

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>; // [2][column][n_heads][half / 2] two pairs of f32, scaled
@group(0) @binding(3) var<storage, read> k: array<vec4<u32>>; // [lane][kv_head][slot][WORDS] pairs, see cache.wgsl
@group(0) @binding(4) var<storage, read> v: array<vec4<u32>>; // [lane][kv_head][slot][WORDS] pairs, see cache.wgsl
@group(0) @binding(5) var<storage, read> slopes: array<f32>; // [n_heads]: what a score loses per token of distance (ALiBi)
@group(0) @binding(6) var<storage, read> sink_logits: array<f32>; // [n_heads]: score of no key; -3e38 for none
@group(0) @binding(7) var<storage, read_write> out: array<vec2<f32>>; // [column][stride / 2] pairs of f32; with SPLITS > 1 see above

const TILE: u32 = 128u;    // tokens at once: one for each invocation
const ROW: u32 = 176u;     // of scores: a tile, then zeros
const LOWEST: f32 = -3e38; // below every score; finite, because WGSL does not promise infinities
override LOADS: u32 = (2u - CACHE_F32) * WORDS; // vec4<f32> of a head
override TEAMS: u32 = min(TILE / WORDS, 16u);   // values read side by side: WORDS invocations each
override QUERIES: u32 = max(HEADS, TEAMS) * LOADS;
override SCORES: u32 = HEADS * ROW;

var<workgroup> queries: array<vec4<f32>, QUERIES>; // [head][LOADS]; at last [team][LOADS] sums of a head
var<workgroup> scores: array<f32, SCORES>;         // [head][ROW]: scores, then weights
var<workgroup> highest: array<f32, 128>;           // [head][16]: largest score of eight neighbours; at last sums of weights
var<workgroup> maximum: array<f32, HEADS>;         // [head]: largest score so far
var<workgroup> correction: array<f32, 8>;          // [head], indexed by constants: what sums over earlier tiles must be multiplied with
var<private> own: array<vec4<f32>, 16>;            // [head][2]: this invocation's sums; indexed by constants, for registers

// The first and the other half of what a word of the cache holds; of f32 there is only the first.
fn first_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_pair(word.x, word.y), select(load_pair(word.y, 0u), load_pair(word.z, word.w), CACHE_F32 == 1u));
}

fn other_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_pair(word.z, 0u), load_pair(word.w, 0u));
}

// Query `head` times word `i` of a key, in four sums.
fn products(head: u32, i: u32, key: vec4<u32>) -> vec4<f32> {
    if (CACHE_F32 == 1u) {
        return queries[head * LOADS + i] * first_half(key);
    }
    let at = head * LOADS + 2u * i;
    return queries[at] * first_half(key) + queries[at + 1u] * other_half(key);
}

// What becomes of a score: ALiBi (Press et al., arXiv 2108.12409) with distances within the cache, as in StreamingLLM.
fn put_score(head: u32, first_head: u32, sums: vec4<f32>, distance: u32, is_seen: bool, invocation: u32) {
    let score = soft_cap((sums.x + sums.z) + (sums.y + sums.w), params.cap);
    scores[head * ROW + invocation] = select(LOWEST, score - slopes[first_head + head] * f32(distance), is_seen);
}

fn put_weight(head: u32, invocation: u32) {
    let at = head * ROW + invocation;
    scores[at] = exponential(scores[at] - maximum[head]);
}

// Adds the words of four values to the sums of a head; `i`: the first one's place in the tile.
fn add_values(head: u32, i: u32, a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>) {
    let at = head * ROW + i;
    let w = vec4<f32>(scores[at], scores[at + TEAMS], scores[at + 2u * TEAMS], scores[at + 3u * TEAMS]);
    own[2u * head] += w.x * first_half(a) + w.y * first_half(b) + w.z * first_half(c) + w.w * first_half(d);
    if (CACHE_F32 == 0u) {
        own[2u * head + 1u] += w.x * other_half(a) + w.y * other_half(b) + w.z * other_half(c) + w.w * other_half(d);
    }
}

fn correct(head: u32) {
    own[2u * head] *= correction[head];
    own[2u * head + 1u] *= correction[head];
}

// Adds what the teams have of a head and writes it to out[to] on; `factor`: what finished sums are multiplied with.
fn put_sums(head: u32, to: u32, factor: f32, invocation: u32) {
    workgroupBarrier();
    let team = invocation / WORDS;
    if (team < TEAMS) {
        let at = team * LOADS + (2u - CACHE_F32) * (invocation % WORDS);
        queries[at] = own[2u * head];
        if (CACHE_F32 == 0u) {
            queries[at + 1u] = own[2u * head + 1u];
        }
    }
    workgroupBarrier();
    for (var i = invocation; i < LOADS; i += TILE) {
        var sum = queries[i];
        for (var team = 1u; team < TEAMS; team++) {
            sum += queries[team * LOADS + i];
        }
        out[to + 2u * i] = factor * sum.xy;
        out[to + 2u * i + 1u] = factor * sum.zw;
    }
}

@compute @workgroup_size(128)
fn attention(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.y >= columns.active_) {
        return;
    }
    let column = columns.column[workgroup.y];
    let first_head = workgroup.x * HEADS;
    let kv_head = first_head / (params.n_heads / params.n_kv_heads);
    let cache = (column.lane * params.n_kv_heads + kv_head) * params.slots * WORDS; // first word of the key head
    let oldest = column.cached - min(column.cached, params.reach); // the oldest token seen
    let seen = column.cached + 1u;
    let share = (seen - oldest + SPLITS - 1u) / SPLITS;
    let begin = min(oldest + workgroup.z * share, seen);
    let end = min(begin + share, seen);
    let border = clamp(column.sinks, begin, end); // before it are sinks, if any

    // No key is the first token of the first part: a score, and a value of zeros.
    var weights = select(0.0, 1.0, workgroup.z == 0u && invocation % 16u == 0u); // of head invocation / 16, eight tokens of each tile
    if (invocation < HEADS) {
        maximum[invocation] = select(LOWEST, sink_logits[first_head + invocation], workgroup.z == 0u);
    }
    for (var i = invocation; i < HEADS * (ROW - TILE); i += TILE) {
        scores[i / (ROW - TILE) * ROW + TILE + i % (ROW - TILE)] = 0.0;
    }
    for (var i = 0u; i < 16u; i++) {
        own[i] = vec4<f32>(0.0);
    }

    for (var of_sinks = 0u; of_sinks < 2u; of_sinks++) {
        let start = select(border, begin, of_sinks == 0u);
        let stop = select(end, border, of_sinks == 0u);
        if (start == stop) {
            continue;
        }
        workgroupBarrier(); // the queries before are used up
        let query = ((1u - of_sinks) * params.columns + workgroup.y) * params.n_heads + first_head;
        for (var i = invocation; i < HEADS * LOADS; i += TILE) {
            queries[i] = q[query * LOADS + i];
        }
        for (var first = start; first < stop; first += TILE) {
            workgroupBarrier(); // the queries are there, and the tile before has used its weights
            let n = min(first + invocation, stop - 1u);
            let key = cache + slot_of(column, n) * WORDS;
            var sums = array<vec4<f32>, 8>();
            for (var i = 0u; i < WORDS; i++) {
                let word = k[key + i];
                sums[0] += products(0u, i, word);
                if (HEADS > 1u) { sums[1] += products(1u, i, word); }
                if (HEADS > 2u) { sums[2] += products(2u, i, word); }
                if (HEADS > 3u) { sums[3] += products(3u, i, word); }
                if (HEADS > 4u) { sums[4] += products(4u, i, word); }
                if (HEADS > 5u) { sums[5] += products(5u, i, word); }
                if (HEADS > 6u) { sums[6] += products(6u, i, word); }
                if (HEADS > 7u) { sums[7] += products(7u, i, word); }
            }
            let distance = column.cached - n;
            let is_seen = first + invocation < stop;
            put_score(0u, first_head, sums[0], distance, is_seen, invocation);
            if (HEADS > 1u) { put_score(1u, first_head, sums[1], distance, is_seen, invocation); }
            if (HEADS > 2u) { put_score(2u, first_head, sums[2], distance, is_seen, invocation); }
            if (HEADS > 3u) { put_score(3u, first_head, sums[3], distance, is_seen, invocation); }
            if (HEADS > 4u) { put_score(4u, first_head, sums[4], distance, is_seen, invocation); }
            if (HEADS > 5u) { put_score(5u, first_head, sums[5], distance, is_seen, invocation); }
            if (HEADS > 6u) { put_score(6u, first_head, sums[6], distance, is_seen, invocation); }
            if (HEADS > 7u) { put_score(7u, first_head, sums[7], distance, is_seen, invocation); }
            workgroupBarrier();
            let eight = invocation / 16u * ROW + invocation % 16u * 8u;
            if (invocation < 16u * HEADS) {
                var high = LOWEST;
                for (var i = 0u; i < 8u; i++) {
                    high = max(high, scores[eight + i]);
                }
                highest[invocation] = high;
            }
            workgroupBarrier();
            if (invocation < HEADS) {
                var high = maximum[invocation];
                for (var i = 0u; i < 16u; i++) {
                    high = max(high, highest[16u * invocation + i]);
                }
                correction[invocation] = exponential(maximum[invocation] - high); // the first tile's meets zeros
                maximum[invocation] = high;
            }
            workgroupBarrier();
            for (var head = 0u; head < HEADS; head++) {
                put_weight(head, invocation);
            }
            workgroupBarrier();
            if (invocation < 16u * HEADS) {
                weights *= correction[invocation / 16u];
                for (var i = 0u; i < 8u; i++) {
                    weights += scores[eight + i];
                }
            }
            correct(0u);
            if (HEADS > 1u) { correct(1u); }
            if (HEADS > 2u) { correct(2u); }
            if (HEADS > 3u) { correct(3u); }
            if (HEADS > 4u) { correct(4u); }
            if (HEADS > 5u) { correct(5u); }
            if (HEADS > 6u) { correct(6u); }
            if (HEADS > 7u) { correct(7u); }
            let part = invocation % WORDS;
            for (var i = invocation / WORDS; i < min(TILE, stop - first); i += 4u * TEAMS) {
                if (invocation / WORDS >= TEAMS) {
                    break;
                }
                // Four loads at once; those behind the last token repeat it and meet weights of nearly nothing.
                let a = v[cache + slot_of(column, min(first + i, stop - 1u)) * WORDS + part];
                let b = v[cache + slot_of(column, min(first + i + TEAMS, stop - 1u)) * WORDS + part];
                let c = v[cache + slot_of(column, min(first + i + 2u * TEAMS, stop - 1u)) * WORDS + part];
                let d = v[cache + slot_of(column, min(first + i + 3u * TEAMS, stop - 1u)) * WORDS + part];
                add_values(0u, i, a, b, c, d);
                if (HEADS > 1u) { add_values(1u, i, a, b, c, d); }
                if (HEADS > 2u) { add_values(2u, i, a, b, c, d); }
                if (HEADS > 3u) { add_values(3u, i, a, b, c, d); }
                if (HEADS > 4u) { add_values(4u, i, a, b, c, d); }
                if (HEADS > 5u) { add_values(5u, i, a, b, c, d); }
                if (HEADS > 6u) { add_values(6u, i, a, b, c, d); }
                if (HEADS > 7u) { add_values(7u, i, a, b, c, d); }
            }
        }
    }

    workgroupBarrier();
    highest[invocation] = weights;
    workgroupBarrier();
    if (invocation < HEADS) {
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += highest[16u * invocation + i];
        }
        correction[invocation] = 1.0 / sum;
        if (SPLITS > 1u) {
            correction[invocation] = 1.0;
            let to = (workgroup.y * SPLITS + workgroup.z) * params.n_heads + first_head + invocation;
            out[params.columns * SPLITS * (params.stride / 2u) + to] = vec2<f32>(maximum[invocation], sum);
        }
    }
    workgroupBarrier();
    let to = (workgroup.y * SPLITS + workgroup.z) * (params.stride / 2u) + first_head * params.half;
    put_sums(0u, to, correction[0], invocation);
    if (HEADS > 1u) { put_sums(1u, to + params.half, correction[1], invocation); }
    if (HEADS > 2u) { put_sums(2u, to + 2u * params.half, correction[2], invocation); }
    if (HEADS > 3u) { put_sums(3u, to + 3u * params.half, correction[3], invocation); }
    if (HEADS > 4u) { put_sums(4u, to + 4u * params.half, correction[4], invocation); }
    if (HEADS > 5u) { put_sums(5u, to + 5u * params.half, correction[5], invocation); }
    if (HEADS > 6u) { put_sums(6u, to + 6u * params.half, correction[6], invocation); }
    if (HEADS > 7u) { put_sums(7u, to + 7u * params.half, correction[7], invocation); }
}
