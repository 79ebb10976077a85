// Packed weights times columns: a workgroup multiplies 64 / LANES row pairs with COLUMNS columns.
//
// LANES invocations share a row pair, each taking every LANES-th block; a block is unpacked once and used for all
// columns. Their sums are added in the order of the lanes, so a result does not depend on timing. LANES is 1 on
// software adapters, where barriers cost most, and 16 on GPUs, where neighbours should read neighbouring blocks.
// f32 sums, weights unpacked in registers: as in llama.cpp's and TVM's WebGPU kernels, but the packing is our own.
//
// The kernel defines  fn load_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on).

override LANES: u32;   // power of two, at most 64
override COLUMNS: u32; // columns of a workgroup, 1 to 8

const WORKGROUP: u32 = 64u;
override PAIRS: u32 = WORKGROUP / LANES; // row pairs of a workgroup

var<workgroup> partial: array<vec2<f32>, 512>; // [column][invocation]: its lane's share of the sums
var<private> sums: array<vec2<f32>, 8>;        // [column]: this invocation's share

// Two rows of a block times 32 inputs.
fn block_product(a: array<vec4<f32>, 8>, b: array<vec4<f32>, 8>, column: u32, word: u32) -> vec2<f32> {
    let x0 = load_input(column, word);
    let x1 = load_input(column, word + 1u);
    let x2 = load_input(column, word + 2u);
    let x3 = load_input(column, word + 3u);
    let x4 = load_input(column, word + 4u);
    let x5 = load_input(column, word + 5u);
    let x6 = load_input(column, word + 6u);
    let x7 = load_input(column, word + 7u);
    return vec2<f32>(
        (dot(a[0], x0) + dot(a[1], x1)) + (dot(a[2], x2) + dot(a[3], x3))
            + ((dot(a[4], x4) + dot(a[5], x5)) + (dot(a[6], x6) + dot(a[7], x7))),
        (dot(b[0], x0) + dot(b[1], x1)) + (dot(b[2], x2) + dot(b[3], x3))
            + ((dot(b[4], x4) + dot(b[5], x5)) + (dot(b[6], x6) + dot(b[7], x7))));
}

// Multiplies this invocation's row pair with the columns from `first` on; `product` has the result.
// Every invocation of the workgroup must call it, also those without a pair (with any valid rows).
fn multiply(rows: vec2<u32>, blocks: u32, first: u32, invocation: u32) {
    var own: array<vec2<f32>, 8>; // indexed by constants, so that it stays in registers
    let last = columns.active_ - 1u; // a tile's columns behind it repeat it and are not stored
    for (var block = invocation % LANES; block < blocks; block += LANES) {
        let a = load_block(rows.x, blocks, block);
        let b = load_block(rows.y, blocks, block);
        let word = 8u * block;
        own[0] += block_product(a, b, first, word);
        if (COLUMNS > 1u) { own[1] += block_product(a, b, min(first + 1u, last), word); }
        if (COLUMNS > 2u) { own[2] += block_product(a, b, min(first + 2u, last), word); }
        if (COLUMNS > 3u) { own[3] += block_product(a, b, min(first + 3u, last), word); }
        if (COLUMNS > 4u) { own[4] += block_product(a, b, min(first + 4u, last), word); }
        if (COLUMNS > 5u) { own[5] += block_product(a, b, min(first + 5u, last), word); }
        if (COLUMNS > 6u) { own[6] += block_product(a, b, min(first + 6u, last), word); }
        if (COLUMNS > 7u) { own[7] += block_product(a, b, min(first + 7u, last), word); }
    }
    if (LANES == 1u) {
        sums = own;
        return;
    }
    for (var c = 0u; c < COLUMNS; c++) {
        partial[c * WORKGROUP + invocation] = own[c];
    }
    workgroupBarrier();
}

// The product of item c · PAIRS + p: column c and pair p of the workgroup. With LANES = 1 an invocation may ask for
// its own pair only, which is what a loop over items in steps of WORKGROUP does.
fn product(item: u32) -> vec2<f32> {
    if (LANES == 1u) {
        return sums[item / WORKGROUP];
    }
    var sum = vec2<f32>(0.0);
    for (var lane = 0u; lane < LANES; lane++) {
        sum += partial[item * LANES + lane];
    }
    return sum;
}
