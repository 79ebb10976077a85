// matvec.wgsl for one column on GPUs: quantised weights times inputs as integers of 22 bits and a sign.
//
// Four bytes times four bytes are one instruction of a GPU (dot4I8Packed), where a weight alone takes several to become f32.
// The inputs of a block become integers by a power of two that brings the largest of them to 2^21 or more, and below 2^22, so
// that little of f32's 24 bits is lost; an integer is 2^16 · high + 2^8 · middle + low, each an i8. A block's sum of
// products is rounded at its end alone, when the planes are joined. llama.cpp's products with q8_1 have inputs of 8 bits.
// LANES neighbours share a row pair as in matvec.wgsl. Workgroups are as large as can be and few, one for each
// multiprocessor: every workgroup makes the integers anew.
//
// The kernel defines raw_input, finish_input, rows_of and keep: see matvec.wgsl. Layouts with factors only.

override LANES: u32;     // power of two, at least 8
override WORKGROUP: u32; // invocations, a multiple of LANES
override STAGE: u32;     // blocks whose inputs are brought at once, at most WORKGROUP / 2
override PAIRS: u32 = WORKGROUP / LANES; // row pairs of a workgroup

override SHARERS: u32 = WORKGROUP; // see norm.wgsl
override COLUMNS: u32 = 1u;
override HALVES: u32 = 2u * STAGE;
override STAGED: u32 = max(6u * STAGE, WORKGROUP / 2u + 4u * PAIRS);

var<workgroup> staged: array<vec4<u32>, STAGED>;  // [plane][half of a block][STAGE]: four words of four inputs; at last sums
var<workgroup> peaks: array<atomic<u32>, STAGE>;  // [block]: its largest input, as the bits of an f32
var<workgroup> totals: array<atomic<i32>, HALVES>; // [block][half]: sum of its integers

// See norm.wgsl.
fn is_staged() -> bool {
    return true;
}

// Makes four inputs known to their block.
fn raise_peak(word: u32, words: u32, x: vec4<f32>) {
    if (word < words) {
        let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu); // in the order of what they are, and above all what is no number
        atomicMax(&peaks[word / 8u], max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
}

// The low bytes of four integers.
fn low_bytes(q: vec4<i32>) -> u32 {
    let b = vec4<u32>(q) & vec4<u32>(0xffu);
    return (b.x | (b.y << 8u)) | ((b.z << 16u) | (b.w << 24u));
}

// The exponent of a block's largest input, in its place in an f32, kept where powers of two around it are normal numbers.
fn exponent_of(peak: u32) -> u32 {
    return clamp(peak & 0x7f800000u, 0x0f000000u, 0x7f000000u);
}

// Brings four inputs as integers: times 2^(21 - exponent).
fn put_integers(word: u32, words: u32, x: vec4<f32>) {
    if (word >= words) {
        return;
    }
    let block = word / 8u;
    let up = bitcast<f32>(0x89800000u - exponent_of(atomicLoad(&peaks[block])));
    let q = bitcast<vec4<i32>>(x * up + 12582912.0) - 0x4b400000; // 1.5 · 2^23: rounds to integers
    let middle = (q + 128) >> vec4<u32>(8u);
    let high = (middle + 128) >> vec4<u32>(8u);
    let at = word / 4u % 2u * STAGE + block;
    staged[at][word % 4u] = low_bytes(high);
    staged[at + 2u * STAGE][word % 4u] = low_bytes(middle);
    staged[at + 4u * STAGE][word % 4u] = low_bytes(q);
    atomicAdd(&totals[word / 4u], (q.x + q.y) + (q.z + q.w));
}

// Brings the inputs of STAGE blocks from `start` on; an invocation has four words of them at most.
fn stage(start: u32, blocks: u32, column: u32, invocation: u32) {
    let words = 8u * min(STAGE, blocks - start);
    let at = vec4<u32>(invocation) + WORKGROUP * vec4<u32>(0u, 1u, 2u, 3u);
    let from_word = 8u * start + min(at, vec4<u32>(words - 1u));
    let raw0 = raw_input(column, from_word.x);
    var raw1: Raw;
    var raw2: Raw;
    var raw3: Raw;
    if (8u * STAGE > WORKGROUP) { raw1 = raw_input(column, from_word.y); }
    if (8u * STAGE > 2u * WORKGROUP) { raw2 = raw_input(column, from_word.z); }
    if (8u * STAGE > 3u * WORKGROUP) { raw3 = raw_input(column, from_word.w); }
    var x0: vec4<f32>;
    var x1: vec4<f32>;
    var x2: vec4<f32>;
    var x3: vec4<f32>;
    if (at.x < words) { x0 = finish_input(raw0, column, from_word.x); }
    if (at.y < words) { x1 = finish_input(raw1, column, from_word.y); }
    if (at.z < words) { x2 = finish_input(raw2, column, from_word.z); }
    if (at.w < words) { x3 = finish_input(raw3, column, from_word.w); }
    raise_peak(at.x, words, x0);
    raise_peak(at.y, words, x1);
    raise_peak(at.z, words, x2);
    raise_peak(at.w, words, x3);
    put_squares(0u, invocation, start == 0u);
    workgroupBarrier();
    put_integers(at.x, words, x0);
    put_integers(at.y, words, x1);
    put_integers(at.z, words, x2);
    put_integers(at.w, words, x3);
}

// Eight words of four quants each, as i8, in order. Those of 6 bits are 32 too large.
fn bytes_of(packed: Packed, row: u32, blocks: u32, block: u32) -> array<u32, 8> {
    let a = packed.words[0];
    let b = packed.words[1];
    if (is_packed(Q8) || is_packed(Q8_MIN) || is_packed(K8_BY_32)) {
        return array<u32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
    }
    if (is_packed(K6_BY_16)) {
        return six_bit_words(packed, row, blocks, block);
    }
    let low = a & vec4<u32>(0x0f0f0f0fu);
    let high = (a >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
    return array<u32, 8>(low.x, high.x, low.y, high.y, low.z, high.z, low.w, high.w);
}

fn dot_half(a: u32, b: u32, c: u32, d: u32, x: vec4<u32>) -> i32 {
    return (dot4I8Packed(a, x.x) + dot4I8Packed(b, x.y)) + (dot4I8Packed(c, x.z) + dot4I8Packed(d, x.w));
}

// The sum of a half's products.
fn join(high: i32, middle: i32, low: i32) -> f32 {
    return 65536.0 * f32(high) + f32(256 * middle + low);
}

// A block of inputs.
struct Integers {
    planes: array<vec4<u32>, 6>, // [plane][half]
    sums: vec2<f32>,             // of the halves
    unit: f32,                   // what an integer of 1 stands for
}

// Block `at` of those staged.
fn integers(at: u32) -> Integers {
    let peak = atomicLoad(&peaks[at]);
    return Integers(
        array<vec4<u32>, 6>(
            staged[at], staged[at + STAGE], staged[at + 2u * STAGE],
            staged[at + 3u * STAGE], staged[at + 4u * STAGE], staged[at + 5u * STAGE]),
        vec2<f32>(f32(atomicLoad(&totals[2u * at])), f32(atomicLoad(&totals[2u * at + 1u]))),
        // what is no number makes the products none
        bitcast<f32>(select(exponent_of(peak) - 0x0a800000u, peak, peak >= 0x7f800000u)));
}

// The product of a block of a row with inputs, in their unit.
fn dot_integers(packed: Packed, row: u32, blocks: u32, block: u32, x: Integers) -> f32 {
    let w = bytes_of(packed, row, blocks, block);
    let f = factors(packed, block);
    let high = vec2<i32>(dot_half(w[0], w[1], w[2], w[3], x.planes[0]), dot_half(w[4], w[5], w[6], w[7], x.planes[1]));
    let middle = vec2<i32>(dot_half(w[0], w[1], w[2], w[3], x.planes[2]), dot_half(w[4], w[5], w[6], w[7], x.planes[3]));
    let low = vec2<i32>(dot_half(w[0], w[1], w[2], w[3], x.planes[4]), dot_half(w[4], w[5], w[6], w[7], x.planes[5]));
    if (is_packed(K6_BY_16) || is_packed(K4_BY_16)) {
        let extra = select(0.0, 32.0, is_packed(K6_BY_16));
        return f.x * (join(high.x, middle.x, low.x) - extra * x.sums.x) - f.y * x.sums.x
            + f.z * (join(high.y, middle.y, low.y) - extra * x.sums.y) - f.w * x.sums.y;
    }
    let all = f.x * join(high.x + high.y, middle.x + middle.y, low.x + low.y);
    if (is_packed(Q8)) {
        return all;
    }
    return all - f.y * (x.sums.x + x.sums.y);
}

// A block of both rows of a pair.
struct PackedPair {
    a: Packed,
    b: Packed,
}

fn fetch_pair(rows: vec2<u32>, blocks: u32, block: u32) -> PackedPair {
    return PackedPair(fetch(rows.x, blocks, block), fetch(rows.y, blocks, block));
}

// Multiplies the workgroup's row pairs, from `first_pair` on, with a column, and hands the products to the kernel. Every
// invocation of the workgroup must call it, also those without a pair.
fn multiply(blocks: u32, first_pair: u32, column: u32, invocation: u32) {
    let lane = invocation % LANES;
    let rows = rows_of(first_pair + invocation / LANES);
    var sum = vec2<f32>(0.0);
    for (var start = 0u; start < blocks; start += STAGE) {
        let end = min(STAGE, blocks - start); // of the tile
        var pair = fetch_pair(rows, blocks, min(start + lane, blocks - 1u)); // comes while the inputs are staged
        workgroupBarrier(); // the tile before is used up
        for (var block = invocation; block < STAGE; block += WORKGROUP) {
            atomicStore(&peaks[block], 0u);
            atomicStore(&totals[2u * block], 0);
            atomicStore(&totals[2u * block + 1u], 0);
        }
        workgroupBarrier();
        stage(start, blocks, column, invocation);
        workgroupBarrier();
        for (var at = lane; at < end; at += LANES) {
            let block = start + at;
            let next = fetch_pair(rows, blocks, start + min(at + LANES, end - 1u));
            let x = integers(at);
            sum += x.unit * vec2<f32>(
                dot_integers(pair.a, rows.x, blocks, block, x), dot_integers(pair.b, rows.y, blocks, block, x));
            pair = next;
        }
    }
    workgroupBarrier(); // the last tile is used up
    add_squares(invocation);
    add_lanes(sum, invocation);
    if (invocation < PAIRS) {
        keep(first_pair + invocation, column, product(invocation));
    }
}

// Sums of two rows lie in half a vec4 of `staged`.
fn staged_sum(at: u32) -> vec2<f32> {
    let two = bitcast<vec4<f32>>(staged[at / 2u]);
    return select(two.xy, two.zw, at % 2u == 1u);
}

fn put_sum(at: u32, sum: vec2<f32>) {
    staged[at / 2u][2u * (at % 2u)] = bitcast<u32>(sum.x);
    staged[at / 2u][2u * (at % 2u) + 1u] = bitcast<u32>(sum.y);
}

// Adds the sums of the lanes of every pair: eight of them by eight invocations, whose sums `product` adds. In a fixed order.
fn add_lanes(own: vec2<f32>, invocation: u32) {
    put_sum(invocation, own);
    workgroupBarrier();
    for (var item = invocation; item < 8u * PAIRS; item += WORKGROUP) {
        let first = item / 8u * LANES;
        var sum = vec2<f32>(0.0);
        for (var lane = item % 8u; lane < LANES; lane += 8u) {
            sum += staged_sum(first + lane);
        }
        put_sum(WORKGROUP + item, sum);
    }
    workgroupBarrier();
}

fn product(pair: u32) -> vec2<f32> {
    var sum = vec2<f32>(0.0);
    for (var part = 0u; part < 8u; part++) {
        sum += staged_sum(WORKGROUP + 8u * pair + part);
    }
    return sum;
}
