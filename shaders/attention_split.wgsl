// attention.wgsl for GPUs: out = softmax(q · K) · V of one column and a group of heads, over one of SPLITS parts of the
// tokens that the column sees, so that one stream alone keeps the whole GPU busy (Flash-Decoding, Dao et al. 2023).
//
// WORDS neighbours are a team: each has its 16 bytes of a key, a value, and every query, and works on four tokens at once, so
// that eight loads are under way before the first is used. The next tile's are asked for as soon as this one's are used up.
// What a team has of a score is added by one invocation for the four tokens of a head, which then makes weights of them, by the
// largest score that this team has met: teams wait for each other only at the end, when their sums are put together.
// A team's tokens are neighbours, so that few teams see the last sink and the first of the window at once and need both queries.
// Arrays in private memory are indexed by constants alone, so that they are registers.
// With more than one part the sums are left for `project` to put together (shared/split_input.wgsl): [column][SPLITS]
// [stride / 2] pairs of sums, then [column][n_heads][SPLITS, rounded up to fours] pairs of largest score and sum of weights.
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
override INVOCATIONS: u32 = 128u; // of a workgroup: 128, or 256 if HEADS is at most 3, by what workgroup memory holds

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>; // [2][column][n_heads][half / 2] two pairs of f32, scaled
@group(0) @binding(3) var<storage, read> k: array<vec4<u32>>; // [lane][kv_head][slot][WORDS] pairs, see cache.wgsl
@group(0) @binding(4) var<storage, read> v: array<vec4<u32>>; // [lane][kv_head][slot][WORDS] pairs, see cache.wgsl
@group(0) @binding(5) var<storage, read> slopes: array<f32>; // [n_heads]: what a score loses per token of distance (ALiBi)
@group(0) @binding(6) var<storage, read> sink_logits: array<f32>; // [n_heads]: score of no key; -3e38 for none
@group(0) @binding(7) var<storage, read_write> out: array<vec2<f32>>; // [column][stride / 2] pairs of f32; with SPLITS > 1 see above

const LOWEST: f32 = -3e38; // below every score; finite, because WGSL does not promise infinities
override LOADS: u32 = (2u - CACHE_F32) * WORDS; // vec4<f32> of a head
override TEAMS: u32 = min(min(INVOCATIONS / WORDS, 32u), INVOCATIONS / HEADS);
override TILE: u32 = 4u * TEAMS;                       // tokens at once: those of team t are 4 · t to 4 · t + 3
override FOURS: u32 = HEADS * TEAMS;                   // fours of scores of a tile: one for each of the first invocations
override HELD: u32 = min(HEADS, select(4u, 3u, INVOCATIONS > 128u)); // heads whose sums workgroup memory holds at once
override HALF: u32 = (TEAMS + 1u) / 2u;                // of the teams
override HELD_LENGTH: u32 = HELD * max(TEAMS * WORDS, HALF * LOADS);
override ROUNDED: u32 = (SPLITS + 3u) / 4u * 4u;

var<workgroup> held: array<vec4<f32>, HELD_LENGTH>; // [head of the round][team][WORDS] of four scores; at last [head of the round][HALF][LOADS] sums
var<workgroup> weights: array<vec4<f32>, FOURS>;    // [head][team]: of its four tokens
var<workgroup> highest: array<f32, FOURS>;          // [head][team]: largest of its scores so far
var<workgroup> correction: array<f32, FOURS>;       // [head][team]: what its sums over earlier tiles must be multiplied with
var<workgroup> totals: array<vec2<f32>, FOURS>;     // [head][team]: at last, the factor of its sums, and its sum of weights
var<private> queries: array<vec4<f32>, 16>;         // [head][2]: this invocation's word of them
var<private> dots: array<vec4<f32>, 8>;             // [head]: its share of four scores
var<private> own: array<vec4<f32>, 16>;             // [head][2]: its sums of values

// The first half of what four words of the cache hold, and the other one; of f32 there is only the first.
fn first_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_pair(word.x, word.y), select(load_pair(word.y, 0u), load_pair(word.z, word.w), CACHE_F32 == 1u));
}

fn other_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_pair(word.z, 0u), load_pair(word.w, 0u));
}

// Brings this invocation's word of the queries, the first of them number `query`.
fn bring_queries(query: u32, word: u32) {
    let at = query * LOADS + (2u - CACHE_F32) * word;
    let other = 1u - CACHE_F32;
    queries[0] = q[at];
    queries[1] = q[at + other];
    if (HEADS > 1u) { queries[2] = q[at + LOADS]; queries[3] = q[at + LOADS + other]; }
    if (HEADS > 2u) { queries[4] = q[at + 2u * LOADS]; queries[5] = q[at + 2u * LOADS + other]; }
    if (HEADS > 3u) { queries[6] = q[at + 3u * LOADS]; queries[7] = q[at + 3u * LOADS + other]; }
    if (HEADS > 4u) { queries[8] = q[at + 4u * LOADS]; queries[9] = q[at + 4u * LOADS + other]; }
    if (HEADS > 5u) { queries[10] = q[at + 5u * LOADS]; queries[11] = q[at + 5u * LOADS + other]; }
    if (HEADS > 6u) { queries[12] = q[at + 6u * LOADS]; queries[13] = q[at + 6u * LOADS + other]; }
    if (HEADS > 7u) { queries[14] = q[at + 7u * LOADS]; queries[15] = q[at + 7u * LOADS + other]; }
}

// A query's word times those of four keys.
fn times(first: vec4<f32>, other: vec4<f32>, keys: mat4x4<f32>, others: mat4x4<f32>) -> vec4<f32> {
    if (CACHE_F32 == 1u) {
        return first * keys;
    }
    return first * keys + other * others;
}

// The queries times four keys; those that `keep` names keep what they have.
fn multiply(keys: mat4x4<f32>, others: mat4x4<f32>, keep: vec4<bool>) {
    dots[0] = select(times(queries[0], queries[1], keys, others), dots[0], keep);
    if (HEADS > 1u) { dots[1] = select(times(queries[2], queries[3], keys, others), dots[1], keep); }
    if (HEADS > 2u) { dots[2] = select(times(queries[4], queries[5], keys, others), dots[2], keep); }
    if (HEADS > 3u) { dots[3] = select(times(queries[6], queries[7], keys, others), dots[3], keep); }
    if (HEADS > 4u) { dots[4] = select(times(queries[8], queries[9], keys, others), dots[4], keep); }
    if (HEADS > 5u) { dots[5] = select(times(queries[10], queries[11], keys, others), dots[5], keep); }
    if (HEADS > 6u) { dots[6] = select(times(queries[12], queries[13], keys, others), dots[6], keep); }
    if (HEADS > 7u) { dots[7] = select(times(queries[14], queries[15], keys, others), dots[7], keep); }
}

fn hold_dot(head: u32, round: u32, team: u32, word: u32, dot: vec4<f32>) {
    if (head / HELD == round) {
        held[(head % HELD * TEAMS + team) * WORDS + word] = dot;
    }
}

fn hold_dots(round: u32, team: u32, word: u32) {
    hold_dot(0u, round, team, word, dots[0]);
    if (HEADS > 1u) { hold_dot(1u, round, team, word, dots[1]); }
    if (HEADS > 2u) { hold_dot(2u, round, team, word, dots[2]); }
    if (HEADS > 3u) { hold_dot(3u, round, team, word, dots[3]); }
    if (HEADS > 4u) { hold_dot(4u, round, team, word, dots[4]); }
    if (HEADS > 5u) { hold_dot(5u, round, team, word, dots[5]); }
    if (HEADS > 6u) { hold_dot(6u, round, team, word, dots[6]); }
    if (HEADS > 7u) { hold_dot(7u, round, team, word, dots[7]); }
}

// A team's four scores of a head, from what its members have of them. Every team begins with another member, for the banks.
fn dot_of(head: u32, team: u32) -> vec4<f32> {
    let row = (head % HELD * TEAMS + team) * WORDS;
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < WORDS; i++) {
        sum += held[row + (team + i) % WORDS];
    }
    return sum;
}

// The sum of `count` of what is held, from `at` on, one from the other by `step`.
fn add_up(at: u32, step: u32, count: u32) -> vec4<f32> {
    var a = vec4<f32>(0.0);
    var b = a;
    for (var i = 0u; i + 4u <= count; i += 4u) {
        let first = at + i * step;
        a += held[first] + held[first + step];
        b += held[first + 2u * step] + held[first + 3u * step];
    }
    for (var i = count / 4u * 4u; i < count; i++) {
        a += held[at + i * step];
    }
    return a + b;
}

// The largest score that any team has met of a head.
fn highest_of(head: u32) -> f32 {
    let last = head * TEAMS + TEAMS - 1u;
    var a = vec4<f32>(LOWEST);
    for (var i = head * TEAMS; i <= last; i += 4u) {
        a = max(a, vec4<f32>(highest[i], highest[min(i + 1u, last)], highest[min(i + 2u, last)], highest[min(i + 3u, last)]));
    }
    return max(max(a.x, a.y), max(a.z, a.w));
}

// The sum of the weights that the teams have of a head.
fn weights_of(head: u32) -> f32 {
    var sum = 0.0;
    for (var team = 0u; team < TEAMS; team++) {
        sum += totals[head * TEAMS + team].y;
    }
    return sum;
}

// Of numbers that are at most 0, by the GPU's own function: few invocations make the weights, and all others wait for them.
fn exponentials(x: vec4<f32>) -> vec4<f32> {
    return exp(max(x, vec4<f32>(-87.0)));
}

// What becomes of scores: ALiBi (Press et al., arXiv 2108.12409) with distances within the cache, as in StreamingLLM.
fn scores(sums: vec4<f32>, slope: f32, distances: vec4<u32>) -> vec4<f32> {
    var capped = sums;
    if (params.cap != 0.0) {
        capped = vec4<f32>(
            soft_cap(sums.x, params.cap), soft_cap(sums.y, params.cap), soft_cap(sums.z, params.cap), soft_cap(sums.w, params.cap));
    }
    return capped - slope * vec4<f32>(distances);
}

// Adds the words of four values to the sums.
fn add_values(values: mat4x4<f32>, others: mat4x4<f32>, team: u32) {
    let a = weights[team];
    own[0] = own[0] * correction[team] + values * a;
    own[1] = own[1] * correction[team] + others * a;
    if (HEADS > 1u) {
        let b = weights[TEAMS + team];
        own[2] = own[2] * correction[TEAMS + team] + values * b;
        own[3] = own[3] * correction[TEAMS + team] + others * b;
    }
    if (HEADS > 2u) {
        let c = weights[2u * TEAMS + team];
        own[4] = own[4] * correction[2u * TEAMS + team] + values * c;
        own[5] = own[5] * correction[2u * TEAMS + team] + others * c;
    }
    if (HEADS > 3u) {
        let d = weights[3u * TEAMS + team];
        own[6] = own[6] * correction[3u * TEAMS + team] + values * d;
        own[7] = own[7] * correction[3u * TEAMS + team] + others * d;
    }
    if (HEADS > 4u) {
        let e = weights[4u * TEAMS + team];
        own[8] = own[8] * correction[4u * TEAMS + team] + values * e;
        own[9] = own[9] * correction[4u * TEAMS + team] + others * e;
    }
    if (HEADS > 5u) {
        let f = weights[5u * TEAMS + team];
        own[10] = own[10] * correction[5u * TEAMS + team] + values * f;
        own[11] = own[11] * correction[5u * TEAMS + team] + others * f;
    }
    if (HEADS > 6u) {
        let g = weights[6u * TEAMS + team];
        own[12] = own[12] * correction[6u * TEAMS + team] + values * g;
        own[13] = own[13] * correction[6u * TEAMS + team] + others * g;
    }
    if (HEADS > 7u) {
        let h = weights[7u * TEAMS + team];
        own[14] = own[14] * correction[7u * TEAMS + team] + values * h;
        own[15] = own[15] * correction[7u * TEAMS + team] + others * h;
    }
}

// A head's sums of a team of the other half; of one of the first half, with what its fellow of the other half left added, each
// with its factor.
fn hold_sum(head: u32, round: u32, team: u32, word: u32, first: vec4<f32>, other: vec4<f32>, is_other: bool) {
    if (head / HELD != round || (team >= HALF) != is_other) {
        return;
    }
    let at = (head % HELD * HALF + team % HALF) * LOADS + (2u - CACHE_F32) * word;
    var sum = first;
    var other_sum = other;
    if (!is_other) {
        let own_factor = totals[head * TEAMS + team].x;
        sum *= own_factor;
        other_sum *= own_factor;
        if (team + HALF < TEAMS) {
            let factor = totals[head * TEAMS + team + HALF].x;
            sum += factor * held[at];
            if (CACHE_F32 == 0u) { other_sum += factor * held[at + 1u]; }
        }
    }
    held[at] = sum;
    if (CACHE_F32 == 0u) {
        held[at + 1u] = other_sum;
    }
}

fn hold_sums(round: u32, team: u32, word: u32, is_other: bool) {
    if (team >= TEAMS) {
        return;
    }
    hold_sum(0u, round, team, word, own[0], own[1], is_other);
    if (HEADS > 1u) { hold_sum(1u, round, team, word, own[2], own[3], is_other); }
    if (HEADS > 2u) { hold_sum(2u, round, team, word, own[4], own[5], is_other); }
    if (HEADS > 3u) { hold_sum(3u, round, team, word, own[6], own[7], is_other); }
    if (HEADS > 4u) { hold_sum(4u, round, team, word, own[8], own[9], is_other); }
    if (HEADS > 5u) { hold_sum(5u, round, team, word, own[10], own[11], is_other); }
    if (HEADS > 6u) { hold_sum(6u, round, team, word, own[12], own[13], is_other); }
    if (HEADS > 7u) { hold_sum(7u, round, team, word, own[14], own[15], is_other); }
}

// Where the words of an invocation's four tokens are, those behind the last one's in its place.
fn places(column: Column, tokens: vec4<u32>, last: u32, cache: u32) -> vec4<u32> {
    let n = min(tokens, vec4<u32>(last));
    return cache + WORDS * vec4<u32>(slot_of(column, n.x), slot_of(column, n.y), slot_of(column, n.z), slot_of(column, n.w));
}

@compute @workgroup_size(INVOCATIONS)
fn attention(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let column = columns.column[workgroup.y]; // asked for before it is known to be in use
    if (workgroup.y >= columns.active_) {
        return;
    }
    let first_head = workgroup.x * HEADS;
    let kv_head = first_head / (params.n_heads / params.n_kv_heads);
    let team = invocation / WORDS;
    let word = invocation % WORDS;
    // of this invocation's word of the key head
    let cache = (column.lane * params.n_kv_heads + kv_head) * params.slots * WORDS + word;
    let oldest = column.cached - min(column.cached, params.reach); // the oldest token seen
    let seen = column.cached + 1u;
    let share = (seen - oldest + SPLITS - 1u) / SPLITS;
    let begin = min(oldest + workgroup.z * share, seen);
    let end = min(begin + share, seen);
    let steps = vec4<u32>(0u, 1u, 2u, 3u);

    var tokens = begin + 4u * team + steps;
    var at = places(column, tokens, end - 1u, cache);
    var key_a = k[at.x];
    var key_b = k[at.y];
    var key_c = k[at.z];
    var key_d = k[at.w];
    var value_a = v[at.x];
    var value_b = v[at.y];
    var value_c = v[at.z];
    var value_d = v[at.w];
    let query = workgroup.y * params.n_heads + first_head;
    let sinks_query = query + params.columns * params.n_heads;
    bring_queries(select(query, sinks_query, tokens.x < column.sinks), word);

    // The head and the team of whose scores this invocation makes weights.
    let head = min(invocation / TEAMS, HEADS - 1u);
    let scored = invocation % TEAMS;
    let slope = slopes[first_head + head];
    // No key is the first token of the first part: a score, and a value of zeros.
    let has_none = workgroup.z == 0u && scored == 0u;
    var maximum = select(LOWEST, sink_logits[first_head + head], has_none); // of what the team has met
    var sum = vec4<f32>(select(0.0, 1.0, has_none), 0.0, 0.0, 0.0); // of weights

    for (var first = begin; first < end; first += TILE) {
        let keys = mat4x4<f32>(first_half(key_a), first_half(key_b), first_half(key_c), first_half(key_d));
        let other_keys = mat4x4<f32>(other_half(key_a), other_half(key_b), other_half(key_c), other_half(key_d));
        multiply(keys, other_keys, vec4<bool>(false));
        if (tokens.x < column.sinks && tokens.w >= column.sinks) {
            bring_queries(query, word);
            multiply(keys, other_keys, tokens < vec4<u32>(column.sinks));
        }
        if (first + TILE < end) {
            if (tokens.x < column.sinks && tokens.x + TILE >= column.sinks) {
                bring_queries(query, word);
            }
            tokens += TILE;
            at = places(column, tokens, end - 1u, cache);
            key_a = k[at.x];
            key_b = k[at.y];
            key_c = k[at.z];
            key_d = k[at.w];
        }

        var of_head = vec4<f32>(0.0);
        for (var round = 0u; round * HELD < HEADS; round++) {
            if (round > 0u) {
                workgroupBarrier(); // the heads before are used up
            }
            if (team < TEAMS) {
                hold_dots(round, team, word);
            }
            workgroupBarrier();
            if (invocation < FOURS && head / HELD == round) {
                of_head = dot_of(head, scored);
            }
        }
        if (invocation < FOURS) {
            let n = first + 4u * scored + steps;
            let is_token = n < vec4<u32>(end);
            of_head = select(vec4<f32>(LOWEST), scores(of_head, slope, column.cached - n), is_token);
            let high = max(maximum, max(max(of_head.x, of_head.y), max(of_head.z, of_head.w)));
            let factor = exp(max(maximum - high, -87.0)); // the first tile's meets zeros
            let of_tokens = select(vec4<f32>(0.0), exponentials(of_head - high), is_token);
            weights[invocation] = of_tokens;
            correction[invocation] = factor;
            highest[invocation] = high;
            sum = sum * factor + of_tokens;
            maximum = high;
        }
        workgroupBarrier();
        if (team < TEAMS) {
            let values = mat4x4<f32>(first_half(value_a), first_half(value_b), first_half(value_c), first_half(value_d));
            let others = mat4x4<f32>(other_half(value_a), other_half(value_b), other_half(value_c), other_half(value_d));
            add_values(values, others, team);
        }
        if (first + TILE < end) {
            value_a = v[at.x];
            value_b = v[at.y];
            value_c = v[at.z];
            value_d = v[at.w];
        }
    }

    // A part without tokens has sums of zeros, and no score.
    var high = LOWEST; // of all teams
    if (invocation < FOURS) {
        if (begin < end) { high = highest_of(head); }
        let factor = exp(max(maximum - high, -87.0));
        totals[invocation] = vec2<f32>(factor, factor * ((sum.x + sum.z) + (sum.y + sum.w)));
    }
    let part = workgroup.y * SPLITS + workgroup.z;
    for (var round = 0u; round * HELD < HEADS; round++) {
        if (round > 0u) {
            workgroupBarrier(); // the heads before are used up
        }
        hold_sums(round, team, word, true);
        workgroupBarrier();
        hold_sums(round, team, word, false);
        workgroupBarrier();
        for (var item = invocation; item < min(HELD, HEADS - round * HELD) * LOADS; item += INVOCATIONS) {
            let of_item = round * HELD + item / LOADS;
            var total = add_up(item / LOADS * HALF * LOADS + item % LOADS, LOADS, HALF);
            if (SPLITS == 1u) {
                total *= 1.0 / weights_of(of_item);
            }
            let to = part * (params.stride / 2u) + (first_head + of_item) * params.half + 2u * (item % LOADS);
            out[to] = total.xy;
            out[to + 1u] = total.zw;
        }
    }
    if (SPLITS > 1u && invocation < FOURS && scored == 0u) {
        let to = (workgroup.y * params.n_heads + first_head + head) * ROUNDED + workgroup.z;
        out[params.columns * SPLITS * (params.stride / 2u) + to] = vec2<f32>(high, weights_of(head));
    }
}
