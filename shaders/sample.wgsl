// Chooses the next token of every column and moves the column on, so that the next step needs no host.
//
// In llama.cpp's order: repetition penalty, top-k, top-p, min-p, temperature. The choice is the Gumbel-max trick (Gumbel
// 1954; Maddison et al., arXiv 1411.0030): argmax(logit / temperature - log(-log u)), u a hash of (seed, position, id).
// top-k and top-p work on the 256 most likely tokens, found by a radix select on (logit, id), exact also among equals.
// Grid: (1, columns). The same bits with any WORKGROUP. Twin: src/kernels/sample.rs.

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
    wanted: u32,         // 0: nothing, the column is not in use; 1: a token; 2: its log-probability too
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> settings: array<Settings, 512>; // [column]: a uniform, so that barriers may depend on it
@group(0) @binding(2) var<storage, read_write> columns: Columns; // [512] columns, which move on
@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // [column][stride], f32; penalties are applied in place
@group(0) @binding(4) var<storage, read_write> recent: array<u32>; // [lane][1 + 1024]: tokens ever written, then token n at 1 + n % 1024
@group(0) @binding(5) var<storage, read_write> ids: array<u32>; // [lane][64]: chosen at position p: word p % 64
@group(0) @binding(6) var<storage, read_write> logprobs: array<f32>; // [lane][64]: natural logarithms of their probabilities

override WORKGROUP: u32; // invocations: 16 to 256, a power of two; one workgroup has the whole vocabulary

const MAX_CANDIDATES: u32 = 256u;
const MAX_RECENT: u32 = 1024u;
const SHARES: u32 = 256u; // of a sum over the vocabulary, so that its order is the same with any WORKGROUP
const MAX_AHEAD: u32 = 64u; // chosen tokens of a lane that are kept for the host
const ROOM: u32 = 512u; // entries that are sorted at once: 256 and as many that tie with them or nearly so
const MAX_ID: u32 = 0xffffffu;
const LOWEST: f32 = -3e38;

var<workgroup> bests: array<Best, 256>; // [invocation]; values alone: [candidate], [share of a sum]
var<workgroup> bests_16: array<Best, 16>; // of WORKGROUP / 16 neighbours of those
var<workgroup> histogram: array<atomic<u32>, 256>; // [value of a digit]: entries
var<workgroup> sums_16: array<u32, 16>; // of 16 neighbours of those
var<workgroup> chosen: vec3<u32>; // a digit's value, entries above it, entries with it
var<workgroup> found: atomic<u32>; // entries of `room` in use
var<workgroup> room: array<vec2<u32>, 512>; // ranks of the candidates
var<workgroup> kept: u32; // candidates in the nucleus
var<private> first_logit: u32;  // of the column
var<private> first_recent: u32; // of the lane

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
    bests[invocation] = own;
    workgroupBarrier();
    var best = own;
    if (invocation < 16u) {
        for (var i = WORKGROUP / 16u * invocation; i < WORKGROUP / 16u * (invocation + 1u); i++) {
            best = better(best, bests[i]);
        }
        bests_16[invocation] = best;
    }
    workgroupBarrier();
    for (var i = 0u; i < 16u; i++) {
        best = better(best, bests_16[i]);
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
fn noisy(column: u32, id: u32, logit: f32, position: u32) -> f32 {
    let hash = mix_bits(mix_bits(mix_bits(settings[column].seed) ^ position) ^ id);
    let uniform_number = (f32(hash >> 9u) + 0.5) / 8388608.0;
    return logit / settings[column].temperature - log(-log(uniform_number));
}

// Logits of a token and of the next ones `step` apart, LOWEST behind the last one. One workgroup has the whole
// vocabulary to read: where many are asked for before the first is used, it waits less often.
fn four_logits(id: u32, step: u32) -> vec4<f32> {
    let last = params.vocab_size - 1u;
    let ids = id + step * vec4<u32>(0u, 1u, 2u, 3u);
    let at = first_logit + min(ids, vec4<u32>(last));
    return select(vec4<f32>(LOWEST), vec4<f32>(logits[at.x], logits[at.y], logits[at.z], logits[at.w]), ids <= vec4<u32>(last));
}

// What candidates are sorted by, largest first: bits that order like the logit, then the lower id. -0 counts as 0.
fn rank(id: u32, logit: f32) -> vec2<u32> {
    let bits = bitcast<u32>(logit);
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
fn penalise(column: u32, invocation: u32) {
    let count = recent[first_recent];
    let first = count - min(count, settings[column].repeat_last_n);
    for (var n = first + invocation; n < count; n += WORKGROUP) {
        let id = recent[first_recent + 1u + n % MAX_RECENT];
        var is_first = true;
        for (var earlier = first; earlier < n; earlier++) {
            is_first = is_first && recent[first_recent + 1u + earlier % MAX_RECENT] != id;
        }
        if (is_first && id < params.vocab_size) {
            let logit = logits[first_logit + id];
            let penalty = settings[column].repeat_penalty;
            logits[first_logit + id] = select(logit * penalty, logit / penalty, logit > 0.0);
        }
    }
}

// Which entries count, and by which of their digits.
struct Counting {
    lowest: vec2<u32>,
    mask: vec2<u32>,
    is_id: bool,
    shift: u32,
}

fn count_one(id: u32, logit: f32, counting: Counting) {
    let entry = rank(id, logit);
    if (id < params.vocab_size && all((entry & counting.mask) == counting.lowest)) {
        atomicAdd(&histogram[(select(entry.x, entry.y, counting.is_id) >> counting.shift) & 255u], 1u);
    }
}

// Puts an entry into the room if it is a candidate.
fn put_one(id: u32, logit: f32, lowest: vec2<u32>) {
    let entry = rank(id, logit);
    if (id < params.vocab_size && !is_before(lowest, entry)) {
        room[atomicAdd(&found, 1u) % ROOM] = entry;
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
        for (var value = invocation; value < 256u; value += WORKGROUP) {
            atomicStore(&histogram[value], 0u);
        }
        workgroupBarrier();
        let counting = Counting(lowest, mask, is_id, shift);
        for (var id = invocation; id < params.vocab_size; id += 4u * WORKGROUP) {
            let four = four_logits(id, WORKGROUP);
            count_one(id, four.x, counting);
            count_one(id + WORKGROUP, four.y, counting);
            count_one(id + 2u * WORKGROUP, four.z, counting);
            count_one(id + 3u * WORKGROUP, four.w, counting);
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
        for (var value = invocation; value < 256u; value += WORKGROUP) {
            var higher = above;
            for (var i = value / 16u + 1u; i < 16u; i++) {
                higher += sums_16[i];
            }
            for (var i = value + 1u; i % 16u != 0u; i++) {
                higher += atomicLoad(&histogram[i]);
            }
            let equal = atomicLoad(&histogram[value]);
            if (higher < count && count <= higher + equal) {
                chosen = vec3<u32>(value, higher, equal);
            }
        }
        let found_digit = workgroupUniformLoad(&chosen);
        let place = select(vec2<u32>(1u, 0u), vec2<u32>(0u, 1u), is_id);
        lowest |= place * (found_digit.x << shift);
        mask |= place * (255u << shift);
        above = found_digit.y;
        reached = found_digit.y + found_digit.z;
    }

    for (var i = invocation; i < ROOM; i += WORKGROUP) {
        room[i] = vec2<u32>(0u); // below every candidate
    }
    atomicStore(&found, 0u);
    workgroupBarrier();
    for (var id = invocation; id < params.vocab_size; id += 4u * WORKGROUP) {
        let four = four_logits(id, WORKGROUP);
        put_one(id, four.x, lowest);
        put_one(id + WORKGROUP, four.y, lowest);
        put_one(id + 2u * WORKGROUP, four.z, lowest);
        put_one(id + 3u * WORKGROUP, four.w, lowest);
    }
    workgroupBarrier();

    // Bitonic sort (Batcher 1968) of the power of two that holds them.
    var size = 2u;
    while (size < reached) {
        size *= 2u;
    }
    for (var run = 2u; run <= size; run *= 2u) {
        for (var step = run / 2u; step > 0u; step /= 2u) {
            for (var pair = invocation; 2u * pair < size; pair += WORKGROUP) {
                let low = 2u * pair - (pair & (step - 1u));
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
fn nucleus(column: u32, count: u32, highest: f32, invocation: u32) -> u32 {
    if (settings[column].top_p >= 1.0) {
        return count;
    }
    for (var i = invocation; i < count; i += WORKGROUP) {
        bests[i].value = exp(logit_of(room[i]) - highest);
    }
    workgroupBarrier();
    if (invocation == 0u) {
        var sum = 0.0; // in the order of the candidates, as the twin does it
        for (var i = 0u; i < count; i++) {
            sum += bests[i].value;
        }
        var last = 1u;
        var reached = bests[0].value;
        while (last < count && !(reached >= settings[column].top_p * sum)) {
            reached += bests[last].value;
            last++;
        }
        kept = last;
    }
    workgroupBarrier();
    return kept;
}

// The id chosen, for all invocations.
fn choose(column: u32, position: u32, invocation: u32) -> u32 {
    var best = Best(LOWEST, 0xffffffffu);
    if (settings[column].temperature == 0.0) {
        return most_likely(invocation).order;
    }
    if (settings[column].top_k == 0u && settings[column].top_p >= 1.0) {
        let likely = most_likely(invocation).value + settings[column].ln_min_p;
        for (var id = invocation; id < params.vocab_size; id += 4u * WORKGROUP) {
            let four = four_logits(id, WORKGROUP);
            for (var i = 0u; i < 4u; i++) {
                let other = id + i * WORKGROUP;
                let logit = select(select(four.x, four.y, i == 1u), select(four.z, four.w, i == 3u), i >= 2u);
                if (other < params.vocab_size && logit >= likely) {
                    best = better(best, Best(noisy(column, other, logit, position), other));
                }
            }
        }
        return best_of_all(best, invocation).order;
    }
    let top_k = settings[column].top_k;
    let count = min(min(select(top_k, MAX_CANDIDATES, top_k == 0u), MAX_CANDIDATES), params.vocab_size);
    sort_most_likely(count, invocation);
    let highest = logit_of(room[0]);
    let in_nucleus = nucleus(column, count, highest, invocation);
    for (var i = invocation; i < in_nucleus; i += WORKGROUP) {
        let logit = logit_of(room[i]);
        if (logit >= highest + settings[column].ln_min_p) {
            best = better(best, Best(noisy(column, MAX_ID - room[i].y, logit, position), i));
        }
    }
    return MAX_ID - room[best_of_all(best, invocation).order % ROOM].y;
}

// The largest of what was seen so far at each of four places, of equals the first; and which round of tokens it was in.
struct Largest {
    value: vec4<f32>,
    first: vec4<u32>,
}

fn larger(before: Largest, four: vec4<f32>, id: u32) -> Largest {
    let is_larger = four > before.value;
    return Largest(select(before.value, four, is_larger), select(before.first, vec4<u32>(id), is_larger));
}

// The most likely token, for all invocations.
fn most_likely(invocation: u32) -> Best {
    var largest = Largest(vec4<f32>(LOWEST), vec4<u32>(0xffffffffu - 3u * WORKGROUP));
    for (var id = invocation; id < params.vocab_size; id += 16u * WORKGROUP) {
        let a = four_logits(id, WORKGROUP);
        let b = four_logits(id + 4u * WORKGROUP, WORKGROUP);
        let c = four_logits(id + 8u * WORKGROUP, WORKGROUP);
        let d = four_logits(id + 12u * WORKGROUP, WORKGROUP);
        largest = larger(largest, a, id);
        largest = larger(largest, b, id + 4u * WORKGROUP);
        largest = larger(largest, c, id + 8u * WORKGROUP);
        largest = larger(largest, d, id + 12u * WORKGROUP);
    }
    let ids = largest.first + WORKGROUP * vec4<u32>(0u, 1u, 2u, 3u);
    let one = better(Best(largest.value.x, ids.x), Best(largest.value.y, ids.y));
    let other = better(Best(largest.value.z, ids.z), Best(largest.value.w, ids.w));
    return best_of_all(better(one, other), invocation);
}

// log(softmax) of a token among all, for invocation 0.
fn log_probability(id: u32, invocation: u32) -> f32 {
    let highest = most_likely(invocation).value;
    workgroupBarrier(); // all have read what it left
    for (var share = invocation; share < SHARES; share += WORKGROUP) {
        var own = vec4<f32>(0.0);
        for (var other = share; other < params.vocab_size; other += 4u * SHARES) {
            own += exp(max(four_logits(other, SHARES) - highest, vec4<f32>(-87.0)));
        }
        bests[share].value = (own.x + own.y) + (own.z + own.w);
    }
    workgroupBarrier();
    var sum = 0.0;
    if (invocation == 0u) {
        for (var i = 0u; i < SHARES; i++) {
            sum += bests[i].value;
        }
    }
    return logits[first_logit + id] - highest - log(sum);
}

@compute @workgroup_size(WORKGROUP)
fn sample(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let number = workgroup.y;
    let wanted = settings[number].wanted;
    if (wanted == 0u) {
        return;
    }
    let lane = columns.column[number].lane;
    let position = columns.column[number].position;
    first_logit = number * params.stride;
    first_recent = lane * (1u + MAX_RECENT);
    if (settings[number].repeat_penalty != 1.0) {
        penalise(number, invocation);
    }
    storageBarrier();
    workgroupBarrier();
    let id = choose(number, position, invocation);
    workgroupBarrier(); // all have read the position
    if (wanted == 2u) {
        let logprob = log_probability(id, invocation);
        if (invocation == 0u) {
            logprobs[lane * MAX_AHEAD + position % MAX_AHEAD] = logprob;
        }
    }
    if (invocation == 0u) {
        let count = recent[first_recent];
        recent[first_recent + 1u + count % MAX_RECENT] = id;
        recent[first_recent] = count + 1u;
        ids[lane * MAX_AHEAD + position % MAX_AHEAD] = id;
        let column = columns.column[number];
        columns.column[number].token = id;
        columns.column[number].position = position + 1u;
        columns.column[number].slot = select(column.slot + 1u, column.sinks, column.slot + 1u == params.slots);
        columns.column[number].cached = min(column.cached + 1u, column.capacity);
    }
}
