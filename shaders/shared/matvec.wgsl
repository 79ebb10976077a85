// Packed weights times columns: a workgroup multiplies WORKGROUP / LANES row pairs with COLUMNS columns.
//
// LANES invocations share a row pair, each taking every LANES-th block; a block is unpacked once and used for all
// columns. Their sums are added in the order of the lanes, so a result does not depend on timing. LANES is 1 on
// software adapters, where barriers cost most, and 16 or 32 on GPUs, where neighbours should read neighbouring blocks.
// f32 sums, weights unpacked in registers: as in llama.cpp's and TVM's WebGPU kernels, but the packing is our own.
// With several lanes the inputs are brought into workgroup memory, STAGE blocks at a time, where neighbours read neighbouring
// words; the first weights are asked for before that, so that they come meanwhile. The kernel says  override IS_DEAR: u32,
// whether that is better with one lane too.
//
// The kernel defines  fn load_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on),
// fn rows_of(pair: u32) -> vec2<u32>  (the rows of a pair of the dispatch, or of its last one) and
// fn keep(pair: u32, column: u32, y: vec2<f32>)  for the products of a pair of the dispatch and a column, which may be
// none of those in use. For many columns matmul.wgsl stands in the place of this file, for one on GPUs matvec_integers.wgsl.

override LANES: u32;   // power of two, at most 64
override COLUMNS: u32; // columns of a workgroup, 1 to 8
override WORKGROUP: u32 = 64u; // invocations; COLUMNS · WORKGROUP is at most 512
override PAIRS: u32 = WORKGROUP / LANES; // row pairs of a workgroup

override SHARERS: u32 = WORKGROUP; // invocations that measure a column, see norm.wgsl

var<private> sums: array<vec2<f32>, 8>;        // [column]: with LANES = 1, the products of this invocation's pair

// Eight sums of each row, as two vec4: input k belongs to sum k mod 8. The order of a CPU's vectors, so that with
// LANES = 1, where multiplications and additions are not contracted, the twin gets the same bits.
struct Lanes {
    a: array<vec4<f32>, 2>,
    b: array<vec4<f32>, 2>,
}

// With one lane: four inputs, from workgroup memory where it would take much to load them for every row pair.
fn own_input(c: u32, column: u32, word: u32) -> vec4<f32> {
    if (IS_DEAR == 1u) {
        return staged[(8u * c + word % 8u) * ROW + word / 8u % STAGE];
    }
    return load_input(column, word);
}

// Adds the products of two rows of a block with 32 inputs of a column, which is column `c` of the workgroup.
fn add_products(sums: Lanes, a: array<vec4<f32>, 8>, b: array<vec4<f32>, 8>, c: u32, column: u32, word: u32) -> Lanes {
    let x0 = own_input(c, column, word);
    let x1 = own_input(c, column, word + 1u);
    let x2 = own_input(c, column, word + 2u);
    let x3 = own_input(c, column, word + 3u);
    let x4 = own_input(c, column, word + 4u);
    let x5 = own_input(c, column, word + 5u);
    let x6 = own_input(c, column, word + 6u);
    let x7 = own_input(c, column, word + 7u);
    return Lanes(
        array<vec4<f32>, 2>(
            (((sums.a[0] + a[0] * x0) + a[2] * x2) + a[4] * x4) + a[6] * x6,
            (((sums.a[1] + a[1] * x1) + a[3] * x3) + a[5] * x5) + a[7] * x7),
        array<vec4<f32>, 2>(
            (((sums.b[0] + b[0] * x0) + b[2] * x2) + b[4] * x4) + b[6] * x6,
            (((sums.b[1] + b[1] * x1) + b[3] * x3) + b[5] * x5) + b[7] * x7));
}

// The eight sums of each row, added as `fold` in src/kernels/matmul.rs does it.
fn fold(sums: Lanes) -> vec2<f32> {
    let a = sums.a[0] + sums.a[1];
    let b = sums.b[0] + sums.b[1];
    return vec2<f32>((a.x + a.z) + (a.y + a.w), (b.x + b.z) + (b.y + b.w));
}

// Whether each word of the inputs is loaded by exactly one invocation of a workgroup, so that squares may be added up then.
fn is_staged() -> bool {
    return LANES > 1u;
}

// Multiplies row pairs with the columns from `first` on, and hands the products of the workgroup to the kernel; `first_pair`:
// the first of the workgroup. Every invocation of the workgroup must call it, also those without a pair.
fn multiply(blocks: u32, first_pair: u32, first: u32, invocation: u32) {
    multiply_own(rows_of(first_pair + invocation / LANES), blocks, first, invocation);
    keep_products(first_pair, first, invocation);
}

fn multiply_own(rows: vec2<u32>, blocks: u32, first: u32, invocation: u32) {
    let last = columns.active_ - 1u; // a tile's columns behind it repeat it and are not stored
    if (LANES == 1u) {
        var own: array<Lanes, 8>;
        let tile = select(blocks, STAGE, IS_DEAR == 1u); // blocks
        for (var start = 0u; start < blocks; start += tile) {
            if (IS_DEAR == 1u) {
                workgroupBarrier(); // the tile before is used up
                stage(start, blocks, first, invocation);
                workgroupBarrier();
            }
            for (var block = start; block < min(start + tile, blocks); block++) {
                let a = load_block(rows.x, blocks, block);
                let b = load_block(rows.y, blocks, block);
                let word = 8u * block;
                own[0] = add_products(own[0], a, b, 0u, first, word);
                if (COLUMNS > 1u) { own[1] = add_products(own[1], a, b, 1u, min(first + 1u, last), word); }
                if (COLUMNS > 2u) { own[2] = add_products(own[2], a, b, 2u, min(first + 2u, last), word); }
                if (COLUMNS > 3u) { own[3] = add_products(own[3], a, b, 3u, min(first + 3u, last), word); }
                if (COLUMNS > 4u) { own[4] = add_products(own[4], a, b, 4u, min(first + 4u, last), word); }
                if (COLUMNS > 5u) { own[5] = add_products(own[5], a, b, 5u, min(first + 5u, last), word); }
                if (COLUMNS > 6u) { own[6] = add_products(own[6], a, b, 6u, min(first + 6u, last), word); }
                if (COLUMNS > 7u) { own[7] = add_products(own[7], a, b, 7u, min(first + 7u, last), word); }
            }
        }
        for (var c = 0u; c < COLUMNS; c++) {
            sums[c] = fold(own[c]);
        }
        return;
    }
    multiply_in_tiles(rows, blocks, first, invocation);
}

override STAGE: u32 = select(select(select(8u, 16u, COLUMNS <= 4u), 32u, COLUMNS <= 2u), 64u, COLUMNS == 1u); // blocks; at least LANES
override ROW: u32 = STAGE + 1u;
override STAGED: u32 = select(COLUMNS * 8u * ROW, 1u, LANES == 1u && IS_DEAR == 0u);

var<workgroup> staged: array<vec4<f32>, STAGED>; // [column][word of a block][ROW]: inputs; at last sums, see share.wgsl

// Brings the inputs of STAGE blocks from `start` on, several words of each invocation at once.
fn stage(start: u32, blocks: u32, first: u32, invocation: u32) {
    let last = columns.active_ - 1u;
    let words = 8u * min(STAGE, blocks - start);
    for (var c = 0u; c < COLUMNS; c++) {
        let column = min(first + c, last);
        for (var word = invocation; word < words; word += 4u * WORKGROUP) {
            let x0 = raw_input(column, 8u * start + word);
            let x1 = raw_input(column, 8u * start + min(word + WORKGROUP, words - 1u));
            let x2 = raw_input(column, 8u * start + min(word + 2u * WORKGROUP, words - 1u));
            let x3 = raw_input(column, 8u * start + min(word + 3u * WORKGROUP, words - 1u));
            put_input(c, start, word, words, x0, column);
            put_input(c, start, word + WORKGROUP, words, x1, column);
            put_input(c, start, word + 2u * WORKGROUP, words, x2, column);
            put_input(c, start, word + 3u * WORKGROUP, words, x3, column);
        }
        put_squares(c, invocation, start == 0u);
    }
}

fn put_input(c: u32, start: u32, word: u32, words: u32, raw: Raw, column: u32) {
    if (word < words) {
        staged[(8u * c + word % 8u) * ROW + word / 8u] = finish_input(raw, column, 8u * start + word);
    }
}

// The product of a column's inputs of a block with quants of a row: of the first 16, of the others.
fn dot_block(q: array<vec4<f32>, 8>, x: array<vec4<f32>, 8>) -> vec2<f32> {
    let low = q[0] * x[0] + q[1] * x[1] + q[2] * x[2] + q[3] * x[3];
    let high = q[4] * x[4] + q[5] * x[5] + q[6] * x[6] + q[7] * x[7];
    return vec2<f32>((low.x + low.z) + (low.y + low.w), (high.x + high.z) + (high.y + high.w));
}

// What a block of both rows adds to the sums of column `c` of the workgroup; `at`: the block in the tile.
fn pair_product(
    c: u32,
    at: u32,
    a: array<vec4<f32>, 8>,
    b: array<vec4<f32>, 8>,
    factors_a: vec4<f32>,
    factors_b: vec4<f32>,
) -> vec2<f32> {
    let base = 8u * c * ROW + at;
    let x = array<vec4<f32>, 8>(
        staged[base], staged[base + ROW], staged[base + 2u * ROW], staged[base + 3u * ROW],
        staged[base + 4u * ROW], staged[base + 5u * ROW], staged[base + 6u * ROW], staged[base + 7u * ROW]);
    let of_a = dot_block(a, x);
    let of_b = dot_block(b, x);
    if (has_no_factors()) {
        return vec2<f32>(of_a.x + of_a.y, of_b.x + of_b.y);
    }
    if (is_packed(Q8)) {
        return vec2<f32>(factors_a.x * (of_a.x + of_a.y), factors_b.x * (of_b.x + of_b.y));
    }
    let low = x[0] + x[1] + x[2] + x[3];
    let high = x[4] + x[5] + x[6] + x[7];
    let sums = vec2<f32>((low.x + low.z) + (low.y + low.w), (high.x + high.z) + (high.y + high.w));
    return vec2<f32>(
        dot(factors_a.xz, of_a) - dot(factors_a.yw, sums),
        dot(factors_b.xz, of_b) - dot(factors_b.yw, sums));
}

// A block of both rows of a pair.
struct PackedPair {
    a: Packed,
    b: Packed,
}

fn fetch_pair(rows: vec2<u32>, blocks: u32, block: u32) -> PackedPair {
    return PackedPair(fetch(rows.x, blocks, block), fetch(rows.y, blocks, block));
}

// Adds the products of a block, `at` of the tile from `start` on.
fn add_block(
    sums: array<vec2<f32>, 8>,
    pair: PackedPair,
    rows: vec2<u32>,
    blocks: u32,
    start: u32,
    at: u32,
) -> array<vec2<f32>, 8> {
    let a = quants_of(pair.a, rows.x, blocks, start + at);
    let b = quants_of(pair.b, rows.y, blocks, start + at);
    let factors_a = factors(pair.a, start + at);
    let factors_b = factors(pair.b, start + at);
    var own = sums; // indexed by constants, so that it stays in registers
    own[0] += pair_product(0u, at, a, b, factors_a, factors_b);
    if (COLUMNS > 1u) { own[1] += pair_product(1u, at, a, b, factors_a, factors_b); }
    if (COLUMNS > 2u) { own[2] += pair_product(2u, at, a, b, factors_a, factors_b); }
    if (COLUMNS > 3u) { own[3] += pair_product(3u, at, a, b, factors_a, factors_b); }
    if (COLUMNS > 4u) { own[4] += pair_product(4u, at, a, b, factors_a, factors_b); }
    if (COLUMNS > 5u) { own[5] += pair_product(5u, at, a, b, factors_a, factors_b); }
    if (COLUMNS > 6u) { own[6] += pair_product(6u, at, a, b, factors_a, factors_b); }
    if (COLUMNS > 7u) { own[7] += pair_product(7u, at, a, b, factors_a, factors_b); }
    return own;
}

// Several lanes: every LANES-th block is this invocation's.
fn multiply_in_tiles(rows: vec2<u32>, blocks: u32, first: u32, invocation: u32) {
    var own = array<vec2<f32>, 8>();
    let lane = invocation % LANES;
    for (var start = 0u; start < blocks; start += STAGE) {
        let end = min(STAGE, blocks - start); // of the tile
        let ahead = fetch_pair(rows, blocks, min(start + lane, blocks - 1u));
        workgroupBarrier(); // the tile before is used up
        stage(start, blocks, first, invocation);
        workgroupBarrier();
        if (lane < end) {
            own = add_block(own, ahead, rows, blocks, start, lane);
        }
        for (var at = lane + LANES; at < end; at += LANES) {
            own = add_block(own, fetch_pair(rows, blocks, start + at), rows, blocks, start, at);
        }
    }
    workgroupBarrier(); // the last tile is used up
    add_squares(invocation);
    put_share(0u, invocation, own[0]);
    if (COLUMNS > 1u) { put_share(1u, invocation, own[1]); }
    if (COLUMNS > 2u) { put_share(2u, invocation, own[2]); }
    if (COLUMNS > 3u) { put_share(3u, invocation, own[3]); }
    if (COLUMNS > 4u) { put_share(4u, invocation, own[4]); }
    if (COLUMNS > 5u) { put_share(5u, invocation, own[5]); }
    if (COLUMNS > 6u) { put_share(6u, invocation, own[6]); }
    if (COLUMNS > 7u) { put_share(7u, invocation, own[7]); }
    workgroupBarrier();
}

// The product of item c · PAIRS + p: column c and pair p of the workgroup. With LANES = 1 an invocation may ask for
// its own pair only, which is what a loop over items in steps of WORKGROUP does.
fn product(item: u32) -> vec2<f32> {
    if (LANES == 1u) {
        return sums[item / WORKGROUP];
    }
    return sum_of_lanes(item);
}

fn keep_products(first_pair: u32, first: u32, invocation: u32) {
    for (var item = invocation; item < PAIRS * COLUMNS; item += WORKGROUP) {
        keep(first_pair + item % PAIRS, first + item / PAIRS, product(item));
    }
}
