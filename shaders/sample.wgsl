// Chooses the next token of column 0 and moves the column on, so that the next step needs no host.
//
// In llama.cpp's order: repetition penalty, top-k, top-p, min-p, temperature. The choice is the Gumbel-max trick (Gumbel
// 1954; Maddison et al., arXiv 1411.0030): argmax(logit / temperature - log(-log u)), u a hash of (seed, position, id).
// top-k and top-p work on the 256 most likely tokens, found by a radix select on (logit, id), exact also among equals.
// Grid: (1, 1). Twin: src/kernels/sample.rs.

struct Params {
    vocab_size: u32, // logits of a column; at most 2^24
    stride: u32,     // floats from one column of logits to the next
    slots: u32,      // of the cache: behind the last one the ring begins anew
}

struct Settings {
    temperature: f32,    // 0: the most likely token
    top_k: u32,          // keep so many of the most likely; 0: all
    top_p: f32,          // keep the most likely until their probabilities reach this; 1: all
    ln_min_p: f32,       // keep what is at most so far below the best logit
    repeat_penalty: f32, // divides positive, multiplies negative logits of recent tokens; 1: none
    repeat_last_n: u32,  // how many recent tokens; at most 1024
    seed: u32,
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read_write> columns: Columns; // [512] columns, of which the first moves on
@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // [vocab_size], f32; penalties are applied in place
@group(0) @binding(4) var<storage, read_write> recent: array<u32>; // [1 + 1024]: tokens ever written, then token n at 1 + n % 1024
@group(0) @binding(5) var<storage, read_write> ids: array<u32>; // [1 + burst]: tokens chosen, then they

const WORKGROUP: u32 = 256u; // one workgroup has the whole vocabulary: as wide as a default device takes
const MAX_CANDIDATES: u32 = 256u;
const MAX_RECENT: u32 = 1024u;
const ROOM: u32 = 512u; // entries that are sorted at once: 256 and as many that tie with them or nearly so
const MAX_ID: u32 = 0xffffffu;
const LOWEST: f32 = -3e38;

var<workgroup> values: array<f32, 256>; // [invocation]
var<workgroup> orders: array<u32, 256>; // [invocation]
var<workgroup> values_16: array<f32, 16>; // best of 16 neighbours
var<workgroup> orders_16: array<u32, 16>; // best of 16 neighbours
var<workgroup> histogram: array<atomic<u32>, 256>; // [value of a digit]: entries
var<workgroup> sums_16: array<u32, 16>; // of 16 neighbours of those
var<workgroup> chosen: vec3<u32>; // a digit's value, entries above it, entries with it
var<workgroup> found: atomic<u32>; // entries of `room` in use
var<workgroup> room: array<vec2<u32>, 512>; // ranks of the candidates
var<workgroup> kept: u32; // candidates in the nucleus

// A value and its place in the order in which equals are preferred.
struct Best {
    value: f32,
    order: u32,
}

fn better(a: Best, b: Best) -> Best {
    if (b.value > a.value || (b.value == a.value && b.order < a.order)) {
        return b;
    }
    return a;
}

// The best of all invocations, for all invocations.
fn best_of_all(own: Best, invocation: u32) -> Best {
    values[invocation] = own.value;
    orders[invocation] = own.order;
    workgroupBarrier();
    var best = own;
    if (invocation < 16u) {
        for (var i = 16u * invocation; i < 16u * invocation + 16u; i++) {
            best = better(best, Best(values[i], orders[i]));
        }
        values_16[invocation] = best.value;
        orders_16[invocation] = best.order;
    }
    workgroupBarrier();
    for (var i = 0u; i < 16u; i++) {
        best = better(best, Best(values_16[i], orders_16[i]));
    }
    return best;
}

// A good 32-bit integer hash: lowbias32 of Chris Wellons' hash prospector.
fn mix_bits(value: u32) -> u32 {
    var x = value;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    return x ^ (x >> 16u);
}

// logit / temperature + standard Gumbel noise. 23 bits and a half: u is exact in f32, never 0 or 1.
fn noisy(id: u32, logit: f32, position: u32) -> f32 {
    let hash = mix_bits(mix_bits(mix_bits(settings.seed) ^ position) ^ id);
    let uniform_number = (f32(hash >> 9u) + 0.5) / 8388608.0;
    return logit / settings.temperature - log(-log(uniform_number));
}

// What candidates are sorted by, largest first: bits that order like the logit, then the lower id. -0 counts as 0.
fn rank(id: u32) -> vec2<u32> {
    let bits = bitcast<u32>(logits[id]);
    let key = select(bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u), 0x80000000u, bits == 0x80000000u);
    return vec2<u32>(key, MAX_ID - id);
}

fn logit_of(rank: vec2<u32>) -> f32 {
    return bitcast<f32>(rank.x ^ select(0xffffffffu, 0x80000000u, rank.x >= 0x80000000u));
}

fn is_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y > b.y);
}

// Lowers the logits of the last `repeat_last_n` tokens, each once.
fn penalise(invocation: u32) {
    let count = recent[0];
    let first = count - min(count, settings.repeat_last_n);
    for (var n = first + invocation; n < count; n += WORKGROUP) {
        let id = recent[1u + n % MAX_RECENT];
        var is_first = true;
        for (var earlier = first; earlier < n; earlier++) {
            is_first = is_first && recent[1u + earlier % MAX_RECENT] != id;
        }
        if (is_first && id < params.vocab_size) {
            let logit = logits[id];
            logits[id] = select(logit * settings.repeat_penalty, logit / settings.repeat_penalty, logit > 0.0);
        }
    }
}

// Sorts the `count` (at most 256) most likely tokens into the front of `room`, best first.
fn sort_most_likely(count: u32, invocation: u32) {
    // Radix select: finds digit by digit how far down candidates reach, until all from there on up fit into the room.
    var lowest = vec2<u32>(0u); // digits found
    var mask = vec2<u32>(0u);   // where they stand
    var reached = params.vocab_size; // entries from `lowest` on up
    var above = 0u; // entries above all that agree with the digits found
    for (var digit = 0u; digit < 7u && reached > ROOM; digit++) { // two of the id are enough: 256 above, 256 with it
        let is_id = digit >= 4u; // four digits of the logit, then up to three of the id
        let shift = 8u * select(3u - digit, 6u - digit, is_id);
        atomicStore(&histogram[invocation], 0u);
        workgroupBarrier();
        for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
            let entry = rank(id);
            if (all((entry & mask) == lowest)) {
                atomicAdd(&histogram[(select(entry.x, entry.y, is_id) >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if (invocation < 16u) {
            var sum = 0u;
            for (var i = 16u * invocation; i < 16u * invocation + 16u; i++) {
                sum += atomicLoad(&histogram[i]);
            }
            sums_16[invocation] = sum;
        }
        workgroupBarrier();
        var higher = above;
        for (var i = invocation / 16u + 1u; i < 16u; i++) {
            higher += sums_16[i];
        }
        for (var i = invocation + 1u; i % 16u != 0u; i++) {
            higher += atomicLoad(&histogram[i]);
        }
        let equal = atomicLoad(&histogram[invocation]);
        if (higher < count && count <= higher + equal) {
            chosen = vec3<u32>(invocation, higher, equal);
        }
        let found_digit = workgroupUniformLoad(&chosen);
        let place = select(vec2<u32>(1u, 0u), vec2<u32>(0u, 1u), is_id);
        lowest |= place * (found_digit.x << shift);
        mask |= place * (255u << shift);
        above = found_digit.y;
        reached = found_digit.y + found_digit.z;
    }

    room[invocation] = vec2<u32>(0u); // below every candidate
    room[invocation + WORKGROUP] = vec2<u32>(0u);
    if (invocation == 0u) {
        atomicStore(&found, 0u);
    }
    workgroupBarrier();
    for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
        let entry = rank(id);
        if (!is_before(lowest, entry)) {
            room[atomicAdd(&found, 1u) % ROOM] = entry;
        }
    }
    workgroupBarrier();

    // Bitonic sort (Batcher 1968) of the power of two that holds them.
    var size = 2u;
    while (size < reached) {
        size *= 2u;
    }
    for (var run = 2u; run <= size; run *= 2u) {
        for (var step = run / 2u; step > 0u; step /= 2u) {
            if (2u * invocation < size) {
                let low = 2u * invocation - (invocation & (step - 1u));
                let a = room[low];
                let b = room[low + step];
                if (select(is_before(a, b), is_before(b, a), (low & run) == 0u)) {
                    room[low] = b;
                    room[low + step] = a;
                }
            }
            workgroupBarrier();
        }
    }
}

// Of `count` sorted candidates: how many until their probabilities, among all candidates, reach top_p; at least one.
fn nucleus(count: u32, highest: f32, invocation: u32) -> u32 {
    if (settings.top_p >= 1.0) {
        return count;
    }
    if (invocation < count) {
        values[invocation] = exp(logit_of(room[invocation]) - highest);
    }
    workgroupBarrier();
    if (invocation == 0u) {
        var sum = 0.0; // in the order of the candidates, as the twin does it
        for (var i = 0u; i < count; i++) {
            sum += values[i];
        }
        var reached = 0.0;
        var last = 0u;
        while (last < count) {
            reached += values[last];
            last++;
            if (reached >= settings.top_p * sum) {
                break;
            }
        }
        kept = last;
    }
    workgroupBarrier();
    return kept;
}

// The id chosen, for all invocations.
fn choose(position: u32, invocation: u32) -> u32 {
    var best = Best(LOWEST, 0xffffffffu);
    if (settings.temperature == 0.0) {
        for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
            best = better(best, Best(logits[id], id));
        }
        return best_of_all(best, invocation).order;
    }
    if (settings.top_k == 0u && settings.top_p >= 1.0) {
        for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
            best = better(best, Best(logits[id], id));
        }
        let likely = best_of_all(best, invocation).value + settings.ln_min_p;
        best = Best(LOWEST, 0xffffffffu);
        for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
            let logit = logits[id];
            if (logit >= likely) {
                best = better(best, Best(noisy(id, logit, position), id));
            }
        }
        return best_of_all(best, invocation).order;
    }
    let limit = select(min(settings.top_k, MAX_CANDIDATES), MAX_CANDIDATES, settings.top_k == 0u);
    let count = min(limit, params.vocab_size);
    sort_most_likely(count, invocation);
    let highest = logit_of(room[0]);
    let in_nucleus = nucleus(count, highest, invocation);
    let candidate = room[invocation];
    let logit = logit_of(candidate);
    if (invocation < in_nucleus && logit >= highest + settings.ln_min_p) {
        best = Best(noisy(MAX_ID - candidate.y, logit, position), invocation);
    }
    return MAX_ID - room[best_of_all(best, invocation).order % ROOM].y;
}

@compute @workgroup_size(256)
fn sample(@builtin(local_invocation_index) invocation: u32) {
    if (settings.repeat_penalty != 1.0) {
        penalise(invocation);
    }
    storageBarrier();
    workgroupBarrier();
    let id = choose(columns.column[0].position, invocation);
    workgroupBarrier(); // all have read the position
    if (invocation == 0u) {
        let count = recent[0];
        recent[1u + count % MAX_RECENT] = id;
        recent[0] = count + 1u;
        let chosen_ids = ids[0];
        ids[1u + chosen_ids] = id;
        ids[0] = chosen_ids + 1u;
        let column = columns.column[0];
        columns.column[0].token = id;
        columns.column[0].position = column.position + 1u;
        columns.column[0].slot = select(column.slot + 1u, column.sinks, column.slot + 1u == params.slots);
        columns.column[0].cached = min(column.cached + 1u, column.capacity);
    }
}
