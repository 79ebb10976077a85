// Packed weights times many columns by cooperative matrices: a workgroup multiplies 32 row pairs with 64 columns.
//
// Stands in the place of matmul.wgsl in the tier `matrix`, behind coop_16.wgsl or coop_8.wgsl. By 16 inputs along the rows,
// a part of the invocations unpacks the weights of each of the 64 rows into workgroup memory, the others bring the columns'
// inputs; then each of four subgroups multiplies 32 rows with 32 columns into f32 sums. Plans are made for tiles of
// matmul.wgsl, half as wide: the workgroups that find no columns left return at once.
//
// The matrices are of f16, with 11 significant bits. So a weight and an input come in two parts, what f16 holds of it and what
// f16 holds of the rest, 22 bits: more than quantised weights have. Of the four products that of the two low parts, 2^-22
// of the whole, is left out.
//
// f16 ends at 65504 and thins out below 2^-14. A column that is divided by its rms after the product goes in times a power
// of two near 1 / rms (`input_scale`); what is too large all the same is kept at that end.
//
// The kernel defines  fn load_input(column: u32, word: u32) -> vec4<f32>  (4 inputs from 4 · word on).

const COLUMNS: u32 = 64u; // of a workgroup
const PAIRS: u32 = 32u;   // row pairs of a workgroup
const ROWS: u32 = 64u;
const LOW: u32 = 16u;     // f16 from a high part to its low part
const STRIDE: u32 = 40u;  // f16 from one row or column to the next: 8 more than their parts, which spreads them over the banks
const SHARERS: u32 = 8u;  // invocations that measure a column, see norm.wgsl
const MOST: vec4<f32> = vec4<f32>(65504.0);

override SUBGROUP: u32;                   // most invocations of a subgroup on this adapter, 8 to 64
override WORKGROUP: u32 = 4u * SUBGROUP;  // where subgroups turn out smaller, several do the same

var<workgroup> operands: array<f16, 5120>;  // [row: 32 first ones of the pairs, 32 second ones, then 64 columns][STRIDE]
var<workgroup> products: array<f32, 4096>;  // [column][row, as above]
var<workgroup> powers: array<f32, 64>;      // [column]: what its inputs were multiplied with

// The row pair of the workgroup whose rows this invocation gives to `multiply`.
fn own_pair(invocation: u32) -> u32 {
    return invocation % PAIRS;
}

// Values 4 · word to 4 · word + 3 of the 16 of a row or column (`line` of `operands`), in both parts.
fn put(word: u32, line: u32, values: vec4<f32>) {
    let bits = bitcast<vec4<u32>>(clamp(values, -MOST, MOST));
    // To 11 bits by hand: a compiler may take a number that goes to f16 and back for the number itself.
    let rounded = bitcast<vec4<f32>>((bits + vec4<u32>(0x1000u)) & vec4<u32>(0xffffe000u));
    let high = vec4<f16>(rounded);
    let low = vec4<f16>(clamp(values - rounded, -MOST, MOST));
    let at = STRIDE * line + 4u * word;
    operands[at] = high.x;
    operands[at + 1u] = high.y;
    operands[at + 2u] = high.z;
    operands[at + 3u] = high.w;
    operands[at + LOW] = low.x;
    operands[at + LOW + 1u] = low.y;
    operands[at + LOW + 2u] = low.z;
    operands[at + LOW + 3u] = low.w;
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
    for (var step = 0u; step < 2u * blocks; step++) { // 16 inputs, half of a block
        workgroupBarrier(); // the powers are there, the step before is used up
        for (var item = invocation; item < 128u; item += WORKGROUP) {
            if (item < ROWS) {
                let w = load_block(select(rows.y, rows.x, item < PAIRS), blocks, step / 2u);
                let is_first = step % 2u == 0u;
                put(0u, item, select(w[4], w[0], is_first));
                put(1u, item, select(w[5], w[1], is_first));
                put(2u, item, select(w[6], w[2], is_first));
                put(3u, item, select(w[7], w[3], is_first));
            } else {
                let word = item % 4u;
                for (var c = (item - ROWS) / 4u; c < COLUMNS; c += 16u) {
                    put(word, ROWS + c, powers[c] * load_input(min(first + c, last), 4u * step + word));
                }
            }
        }
        workgroupBarrier();
        for (var part = 0u; part < 3u; part++) { // high times high, low weights, low inputs
            let a = STRIDE * row + select(0u, LOW, part == 1u);
            let b = STRIDE * (ROWS + column) + select(0u, LOW, part == 2u);
            let a0 = left(a);
            let a1 = left(a + 16u * STRIDE);
            let b0 = right(b);
            let b1 = right(b + 16u * STRIDE);
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
