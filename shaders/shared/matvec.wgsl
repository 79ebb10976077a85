// Packed weights times columns: a workgroup multiplies 64 / LANES row pairs with COLUMNS columns.
//
// LANES invocations share a row pair, each taking every LANES-th block; a block is unpacked once and used for all
// columns. Their sums are added in the order of the lanes, so a result does not depend on timing. LANES is 1 on
// software adapters, where barriers cost most, and 16 on GPUs, where neighbours should read neighbouring blocks.
// f32 sums, weights unpacked in registers: as in llama.cpp's and TVM's WebGPU kernels, but the packing is our own.
//
// The kernel defines  fn load_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on). For many columns
// matmul.wgsl stands in the place of this file.

override LANES: u32;   // power of two, at most 64
override COLUMNS: u32; // columns of a workgroup, 1 to 8
override WORKGROUP: u32 = 64u; // invocations; COLUMNS · WORKGROUP is at most 512
override PAIRS: u32 = WORKGROUP / LANES; // row pairs of a workgroup

const SHARERS: u32 = 64u; // invocations that measure a column, see norm.wgsl

var<private> sums: array<vec2<f32>, 8>;        // [column]: with LANES = 1, the products of this invocation's pair

// Eight sums of each row, as two vec4: input k belongs to sum k mod 8. The order of a CPU's vectors, so that with
// LANES = 1, where multiplications and additions are not contracted, the twin gets the same bits.
struct Lanes {
    a: array<vec4<f32>, 2>,
    b: array<vec4<f32>, 2>,
}

// Adds the products of two rows of a block with 32 inputs.
fn add_products(sums: Lanes, a: array<vec4<f32>, 8>, b: array<vec4<f32>, 8>, column: u32, word: u32) -> Lanes {
    let x0 = load_input(column, word);
    let x1 = load_input(column, word + 1u);
    let x2 = load_input(column, word + 2u);
    let x3 = load_input(column, word + 3u);
    let x4 = load_input(column, word + 4u);
    let x5 = load_input(column, word + 5u);
    let x6 = load_input(column, word + 6u);
    let x7 = load_input(column, word + 7u);
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

fn block_product(a: array<vec4<f32>, 8>, b: array<vec4<f32>, 8>, column: u32, word: u32) -> vec2<f32> {
    return fold(add_products(Lanes(), a, b, column, word));
}

// The row pair of the workgroup whose rows this invocation gives to `multiply`.
fn own_pair(invocation: u32) -> u32 {
    return invocation / LANES;
}

// Multiplies this invocation's row pair with the columns from `first` on; `product` has the result.
// Every invocation of the workgroup must call it, also those without a pair (with any valid rows).
fn multiply(rows: vec2<u32>, blocks: u32, first: u32, invocation: u32) {
    let last = columns.active_ - 1u; // a tile's columns behind it repeat it and are not stored
    if (LANES == 1u) {
        var own: array<Lanes, 8>;
        for (var block = 0u; block < blocks; block++) {
            let a = load_block(rows.x, blocks, block);
            let b = load_block(rows.y, blocks, block);
            let word = 8u * block;
            own[0] = add_products(own[0], a, b, first, word);
            if (COLUMNS > 1u) { own[1] = add_products(own[1], a, b, min(first + 1u, last), word); }
            if (COLUMNS > 2u) { own[2] = add_products(own[2], a, b, min(first + 2u, last), word); }
            if (COLUMNS > 3u) { own[3] = add_products(own[3], a, b, min(first + 3u, last), word); }
            if (COLUMNS > 4u) { own[4] = add_products(own[4], a, b, min(first + 4u, last), word); }
            if (COLUMNS > 5u) { own[5] = add_products(own[5], a, b, min(first + 5u, last), word); }
            if (COLUMNS > 6u) { own[6] = add_products(own[6], a, b, min(first + 6u, last), word); }
            if (COLUMNS > 7u) { own[7] = add_products(own[7], a, b, min(first + 7u, last), word); }
        }
        for (var c = 0u; c < COLUMNS; c++) {
            sums[c] = fold(own[c]);
        }
        return;
    }
    share(add_blocks(array<vec2<f32>, 8>(), rows, blocks, vec2<u32>(0u, blocks), first, invocation), invocation);
}

// Several lanes: adds the products of this lane's blocks, of those from range.x to range.y, to `sums`. The eight sums are added after every block, which leaves registers for the columns.
fn add_blocks(
    sums: array<vec2<f32>, 8>,
    rows: vec2<u32>,
    blocks: u32,
    range: vec2<u32>,
    first: u32,
    invocation: u32,
) -> array<vec2<f32>, 8> {
    let last = columns.active_ - 1u;
    var own = sums; // indexed by constants, so that it stays in registers
    for (var block = range.x + invocation % LANES; block < range.y; block += LANES) {
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
    return own;
}

// The product of item c · PAIRS + p: column c and pair p of the workgroup. With LANES = 1 an invocation may ask for
// its own pair only, which is what a loop over items in steps of WORKGROUP does.
fn product(item: u32) -> vec2<f32> {
    if (LANES == 1u) {
        return sums[item / WORKGROUP];
    }
    return sum_of_lanes(item);
}
