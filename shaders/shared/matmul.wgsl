// Packed weights times many columns: a workgroup multiplies 32 row pairs with 32 columns.
//
// Stands in the place of matvec.wgsl in plans of many columns on GPUs. Block by block along the rows, half of the
// invocations unpack a block of each of the 64 rows into workgroup memory, the other half bring the columns' inputs; then
// each multiplies a pair of rows with eight columns. So a weight is unpacked once for 32 columns, and an input is read
// once for 64 rows. A product is one f32 sum in the order of the inputs: not the eight sums of the twin.
//
// The kernel defines  fn load_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on).

const COLUMNS: u32 = 32u;    // of a workgroup
const PAIRS: u32 = 32u;      // row pairs of a workgroup
const WORKGROUP: u32 = 128u; // invocations: each has a pair and the columns q, q + 4, … of quarter q
const SHARERS: u32 = 4u;     // invocations that measure a column, see norm.wgsl

var<workgroup> unpacked: array<f32, 2048>;     // [input of the block][row: 32 first ones, 32 second ones]; at last [item][2]
var<workgroup> inputs: array<vec4<f32>, 256>;  // [input of the block][8]: two vec4 for each quarter's columns

// The row pair of the workgroup whose rows this invocation gives to `multiply`.
fn own_pair(invocation: u32) -> u32 {
    return invocation % PAIRS;
}

// Four weights of row `row` of the workgroup, inputs 4 · word to 4 · word + 3 of the block.
fn put_weights(word: u32, row: u32, w: vec4<f32>) {
    let at = 256u * word + row;
    unpacked[at] = w.x;
    unpacked[at + 64u] = w.y;
    unpacked[at + 128u] = w.z;
    unpacked[at + 192u] = w.w;
}

// The products of item `invocation` + 128 · n and the three after it in n.
fn put_products(n: u32, invocation: u32, a: vec4<f32>, b: vec4<f32>) {
    let at = 2u * (invocation + WORKGROUP * n);
    unpacked[at] = a.x;
    unpacked[at + 1u] = b.x;
    unpacked[at + 256u] = a.y;
    unpacked[at + 257u] = b.y;
    unpacked[at + 512u] = a.z;
    unpacked[at + 513u] = b.z;
    unpacked[at + 768u] = a.w;
    unpacked[at + 769u] = b.w;
}

// Multiplies the workgroup's row pairs with the columns from `first` on; `product` has the result.
// Every invocation of the workgroup must call it, also those without a pair (with any valid rows).
fn multiply(rows: vec2<u32>, blocks: u32, first: u32, invocation: u32) {
    let last = columns.active_ - 1u; // a tile's columns behind it repeat it and are not stored
    let pair = invocation % PAIRS;
    let quarter = invocation / PAIRS;
    let row = select(rows.y, rows.x, quarter == 0u); // unpacked by this invocation, if it unpacks
    let group = invocation / 8u % 8u;                // the four columns that it brings, if it brings
    let column = first + group / 2u + 16u * (group % 2u);
    let word = invocation % 8u;
    var a0 = vec4<f32>(0.0); // first row, columns n = 0 to 3 of the quarter
    var a1 = vec4<f32>(0.0); // columns n = 4 to 7
    var b0 = vec4<f32>(0.0); // second row
    var b1 = vec4<f32>(0.0);
    for (var block = 0u; block < blocks; block++) {
        workgroupBarrier(); // the block before is used up
        if (invocation < 64u) {
            let w = load_block(row, blocks, block);
            put_weights(0u, invocation, w[0]);
            put_weights(1u, invocation, w[1]);
            put_weights(2u, invocation, w[2]);
            put_weights(3u, invocation, w[3]);
            put_weights(4u, invocation, w[4]);
            put_weights(5u, invocation, w[5]);
            put_weights(6u, invocation, w[6]);
            put_weights(7u, invocation, w[7]);
        } else {
            let x0 = load_input(min(column, last), 8u * block + word);
            let x1 = load_input(min(column + 4u, last), 8u * block + word);
            let x2 = load_input(min(column + 8u, last), 8u * block + word);
            let x3 = load_input(min(column + 12u, last), 8u * block + word);
            let at = 32u * word + group;
            inputs[at] = vec4<f32>(x0.x, x1.x, x2.x, x3.x);
            inputs[at + 8u] = vec4<f32>(x0.y, x1.y, x2.y, x3.y);
            inputs[at + 16u] = vec4<f32>(x0.z, x1.z, x2.z, x3.z);
            inputs[at + 24u] = vec4<f32>(x0.w, x1.w, x2.w, x3.w);
        }
        workgroupBarrier();
        for (var i = 0u; i < 32u; i++) {
            let a = unpacked[64u * i + pair];
            let b = unpacked[64u * i + 32u + pair];
            let x0 = inputs[8u * i + 2u * quarter];
            let x1 = inputs[8u * i + 2u * quarter + 1u];
            a0 += a * x0;
            a1 += a * x1;
            b0 += b * x0;
            b1 += b * x1;
        }
    }
    workgroupBarrier();
    put_products(0u, invocation, a0, b0);
    put_products(4u, invocation, a1, b1);
}

// The product of item c · PAIRS + p: column c and pair p of the workgroup. An invocation may ask for its own items only,
// which is what a loop over items in steps of WORKGROUP does.
fn product(item: u32) -> vec2<f32> {
    return vec2<f32>(unpacked[2u * item], unpacked[2u * item + 1u]);
}
