// Packed weights times many columns by cooperative matrices: a workgroup multiplies 32 row pairs with 64 columns.
//
// Stands in the place of matmul.wgsl in the tier `matrix`, behind coop_16.wgsl or coop_8.wgsl. Block by block along the
// rows, a part of the invocations unpacks a block of each of the 64 rows into workgroup memory, the others bring the columns'
// inputs, all of it rounded to f16; then each of four subgroups multiplies 32 rows with 32 columns into f32 sums. Plans
// are made for tiles of matmul.wgsl, half as wide: the workgroups that find no columns left return at once.
//
// f16 ends at 65504 and thins out below 2^-14. A column that is divided by its rms after the product goes in times a power
// of two near 1 / rms (`input_scale`); what is too large all the same is kept at that end.
//
// The kernel defines  fn load_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on).

const COLUMNS: u32 = 64u; // of a workgroup
const PAIRS: u32 = 32u;   // row pairs of a workgroup
const ROWS: u32 = 64u;
const STRIDE: u32 = 40u;  // f16 from one row or column to the next: 8 more than a block, which spreads them over the banks
const SHARERS: u32 = 8u;  // invocations that measure a column, see norm.wgsl
const MOST: vec4<f32> = vec4<f32>(65504.0);

override SUBGROUP: u32;                   // most invocations of a subgroup on this adapter, 8 to 64
override WORKGROUP: u32 = 4u * SUBGROUP;  // where subgroups turn out smaller, several do the same

var<workgroup> unpacked: array<f16, 2560>;  // [row: 32 first ones of the pairs, 32 second ones][STRIDE]
var<workgroup> inputs: array<f16, 2560>;    // [column][STRIDE]
var<workgroup> products: array<f32, 4096>;  // [column][row, as above]
var<workgroup> powers: array<f32, 64>;      // [column]: what its inputs were multiplied with

// The row pair of the workgroup whose rows this invocation gives to `multiply`.
fn own_pair(invocation: u32) -> u32 {
    return invocation % PAIRS;
}

// Four weights of row `row` of the workgroup, inputs 4 · word to 4 · word + 3 of the block.
fn put_weights(word: u32, row: u32, w: vec4<f32>) {
    let at = STRIDE * row + 4u * word;
    unpacked[at] = f16(w.x);
    unpacked[at + 1u] = f16(w.y);
    unpacked[at + 2u] = f16(w.z);
    unpacked[at + 3u] = f16(w.w);
}

// Four inputs of column `c` of the workgroup.
fn put_inputs(word: u32, c: u32, x: vec4<f32>) {
    let at = STRIDE * c + 4u * word;
    inputs[at] = f16(x.x);
    inputs[at + 1u] = f16(x.y);
    inputs[at + 2u] = f16(x.z);
    inputs[at + 3u] = f16(x.w);
}

// Multiplies the workgroup's row pairs with the columns from `first` on; `product` has the result.
// Every invocation of the workgroup must call it, also those without a pair (with any valid rows).
fn multiply(rows: vec2<u32>, blocks: u32, first: u32, invocation: u32) {
    let last = columns.active_ - 1u; // a tile's columns behind it repeat it and are not stored
    for (var c = invocation; c < COLUMNS; c += WORKGROUP) {
        powers[c] = bitcast<f32>(bitcast<u32>(input_scale(c)) & 0x7f800000u);
    }
    let quarter = invocation / SUBGROUP;
    let row = 32u * (quarter % 2u);
    let column = 32u * (quarter / 2u);
    var s00 = Sums(); // rows 0 to 15 of the quarter, columns 0 to 15
    var s01 = Sums(); // columns 16 to 31
    var s10 = Sums();
    var s11 = Sums();
    for (var block = 0u; block < blocks; block++) {
        workgroupBarrier(); // the powers are there, the block before is used up
        for (var item = invocation; item < 128u; item += WORKGROUP) {
            if (item < 64u) {
                let w = load_block(select(rows.y, rows.x, item < 32u), blocks, block);
                put_weights(0u, item, w[0]);
                put_weights(1u, item, w[1]);
                put_weights(2u, item, w[2]);
                put_weights(3u, item, w[3]);
                put_weights(4u, item, w[4]);
                put_weights(5u, item, w[5]);
                put_weights(6u, item, w[6]);
                put_weights(7u, item, w[7]);
            } else {
                let word = item % 8u;
                for (var c = (item - 64u) / 8u; c < COLUMNS; c += 8u) {
                    let x = powers[c] * load_input(min(first + c, last), 8u * block + word);
                    put_inputs(word, c, clamp(x, -MOST, MOST));
                }
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += 16u) {
            let a0 = left(STRIDE * row + k);
            let a1 = left(STRIDE * (row + 16u) + k);
            let b0 = right(STRIDE * column + k);
            let b1 = right(STRIDE * (column + 16u) + k);
            s00 = multiply_add(a0, b0, s00);
            s01 = multiply_add(a0, b1, s01);
            s10 = multiply_add(a1, b0, s10);
            s11 = multiply_add(a1, b1, s11);
        }
    }
    put_sums(s00, ROWS * column + row);
    put_sums(s01, ROWS * (column + 16u) + row);
    put_sums(s10, ROWS * column + row + 16u);
    put_sums(s11, ROWS * (column + 16u) + row + 16u);
    workgroupBarrier();
}

// The product of item c · PAIRS + p: column c and pair p of the workgroup.
fn product(item: u32) -> vec2<f32> {
    let c = item / PAIRS;
    let at = ROWS * c + item % PAIRS;
    return vec2<f32>(products[at], products[at + PAIRS]) / powers[c];
}
