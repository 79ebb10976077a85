// Packed weights times many columns: a workgroup multiplies 32 row pairs, or 16, with 32 columns.
//
// Stands in the place of matvec.wgsl in plans of many columns on GPUs. Block by block along the rows, each invocation
// unpacks a block of one of the 64 rows into workgroup memory and brings a half of a column's inputs; then it multiplies
// eight rows with four columns. So a weight is unpacked once for 32 columns, an input is read once for 64 rows, and twelve
// vec4 from workgroup memory are 128 products. The next block is asked for before that. A product is one f32 sum in the
// order of the inputs: not the eight sums of the twin.
//
// The kernel defines  fn raw_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on), fn finish_input, which
// norms them, and  fn keep(pair: u32, column: u32, y: vec2<f32>)  for the products, as in matvec.wgsl.

override TILE: u32; // 0: few rows; see src/kernels/matmul.rs
override PAIRS: u32 = select(32u, 16u, TILE == 0u); // row pairs of a workgroup
override ROWS: u32 = 2u * PAIRS;

const COLUMNS: u32 = 32u;   // of a workgroup
const WORKGROUP: u32 = 64u; // invocations
const SHARERS: u32 = 2u;    // invocations that bring a column's inputs, and measure it, see norm.wgsl
const STRIDE: u32 = 9u;     // vec4 from one row or column to the next: 1 more than a block, which spreads them over the banks

var<workgroup> unpacked: array<vec4<f32>, 576>; // [row: first ones of the pairs, then second ones][STRIDE]; at last products
var<workgroup> inputs: array<vec4<f32>, 288>;   // [column][STRIDE]

// See norm.wgsl.
fn is_staged() -> bool {
    return true;
}

// The row pair of the workgroup whose rows this invocation unpacks.
fn own_pair(invocation: u32) -> u32 {
    return invocation % PAIRS;
}

// Adds the products of four inputs of a row with those of four columns: t[i] has input i of the columns.
fn add_products(sums: vec4<f32>, w: vec4<f32>, t: mat4x4<f32>) -> vec4<f32> {
    return (((sums + w.x * t[0]) + w.y * t[1]) + w.z * t[2]) + w.w * t[3];
}

// The place of the products of pair `pair` with columns `column` and `column` + 8, and behind it of those 16 columns on.
fn place_of(pair: u32, column: u32) -> u32 {
    return 2u * (pair + PAIRS * column);
}

// Multiplies the workgroup's row pairs, from `first_pair` on, with the columns from `first` on, and hands the products to the
// kernel. Every invocation of the workgroup must call it, also those without a pair.
fn multiply(blocks: u32, first_pair: u32, first: u32, invocation: u32) {
    let rows = rows_of(first_pair + own_pair(invocation));
    let own_row = select(rows.x, rows.y, invocation % ROWS >= PAIRS);
    let sharer = invocation % SHARERS;
    let own_column = min(first + invocation / SHARERS, columns.active_ - 1u); // columns behind the last repeat it
    let r = invocation % 8u; // rows r, r + 8, …
    let c = invocation / 8u; // columns c, c + 8, …
    var a0 = vec4<f32>(0.0); // first row of pair r, its four columns
    var a1 = vec4<f32>(0.0); // of pair r + 8
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
    var b0 = vec4<f32>(0.0); // second rows
    var b1 = vec4<f32>(0.0);
    var b2 = vec4<f32>(0.0);
    var b3 = vec4<f32>(0.0);
    var packed = fetch(own_row, blocks, 0u);
    var x0 = raw_input(own_column, sharer);
    var x1 = raw_input(own_column, sharer + 2u);
    var x2 = raw_input(own_column, sharer + 4u);
    var x3 = raw_input(own_column, sharer + 6u);
    for (var block = 0u; block < blocks; block++) {
        workgroupBarrier(); // the block before is used up
        if (invocation < ROWS) {
            let w = unpack(packed, own_row, blocks, block, 1.0);
            let at = STRIDE * invocation;
            unpacked[at] = w[0];
            unpacked[at + 1u] = w[1];
            unpacked[at + 2u] = w[2];
            unpacked[at + 3u] = w[3];
            unpacked[at + 4u] = w[4];
            unpacked[at + 5u] = w[5];
            unpacked[at + 6u] = w[6];
            unpacked[at + 7u] = w[7];
        }
        let word = 8u * block + sharer;
        let at = STRIDE * (invocation / SHARERS) + sharer;
        inputs[at] = finish_input(x0, own_column, word);
        inputs[at + 2u] = finish_input(x1, own_column, word + 2u);
        inputs[at + 4u] = finish_input(x2, own_column, word + 4u);
        inputs[at + 6u] = finish_input(x3, own_column, word + 6u);
        workgroupBarrier();
        let next = min(block + 1u, blocks - 1u);
        packed = fetch(own_row, blocks, next);
        x0 = raw_input(own_column, 8u * next + sharer);
        x1 = raw_input(own_column, 8u * next + sharer + 2u);
        x2 = raw_input(own_column, 8u * next + sharer + 4u);
        x3 = raw_input(own_column, 8u * next + sharer + 6u);
        for (var i = 0u; i < 8u; i++) {
            let y = STRIDE * c + i;
            let t = transpose(mat4x4<f32>(
                inputs[y], inputs[y + 8u * STRIDE], inputs[y + 16u * STRIDE], inputs[y + 24u * STRIDE]));
            let a = STRIDE * r + i;
            let b = a + STRIDE * PAIRS;
            a0 = add_products(a0, unpacked[a], t);
            a1 = add_products(a1, unpacked[a + 8u * STRIDE], t);
            b0 = add_products(b0, unpacked[b], t);
            b1 = add_products(b1, unpacked[b + 8u * STRIDE], t);
            if (PAIRS > 16u) {
                a2 = add_products(a2, unpacked[a + 16u * STRIDE], t);
                a3 = add_products(a3, unpacked[a + 24u * STRIDE], t);
                b2 = add_products(b2, unpacked[b + 16u * STRIDE], t);
                b3 = add_products(b3, unpacked[b + 24u * STRIDE], t);
            }
        }
    }
    put_squares(invocation / SHARERS, sharer, true);
    workgroupBarrier();
    put_products(r, c, a0, b0);
    put_products(r + 8u, c, a1, b1);
    if (PAIRS > 16u) {
        put_products(r + 16u, c, a2, b2);
        put_products(r + 24u, c, a3, b3);
    }
    workgroupBarrier();
    for (var item = invocation; item < PAIRS * COLUMNS; item += WORKGROUP) {
        let column = item / PAIRS;
        let two = unpacked[place_of(item % PAIRS, column % 8u) + column / 16u];
        keep(first_pair + item % PAIRS, first + column, select(two.xy, two.zw, column / 8u % 2u == 1u));
    }
}

fn put_products(pair: u32, column: u32, a: vec4<f32>, b: vec4<f32>) {
    let at = place_of(pair, column);
    unpacked[at] = vec4<f32>(a.x, b.x, a.y, b.y);
    unpacked[at + 1u] = vec4<f32>(a.z, b.z, a.w, b.w);
}
