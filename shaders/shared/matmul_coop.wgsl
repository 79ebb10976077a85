// Packed weights times many columns by cooperative matrices: a workgroup multiplies up to 64 row pairs with 64 columns.
//
// Stands in the place of matmul.wgsl in the tier `matrix`, behind coop_16.wgsl or coop_8.wgsl. By DEPTH blocks along the rows,
// the workgroup unpacks weights into workgroup memory and brings the columns' inputs; then each subgroup multiplies a unit: 32
// rows with 32 columns or 16, by SPAN fours of inputs, into f32 sums. There are two buffers for that, so that some subgroups unpack
// while others multiply, and one barrier a step; what comes next is asked for one step or two before. Units along the inputs
// (SLICES) are for few rows: their sums are added at last. Plans are made for the smaller tiles of the two, matmul.wgsl's and
// these: the workgroups that find no rows or columns left return at once.
//
// The matrices are of f16, with 11 significant bits. An input comes in two parts, what f16 holds of it and what f16 holds of
// the rest (PARTS), a weight in one: docs/checks.md says how far off that is. f16 ends at 65504 and thins out below 2^-14.
// A column that is divided by its rms after the product goes in times a power of two near 1 / rms (`input_power`), and weights
// go in times 64; what is too large all the same is kept at that end.
//
// The kernel defines raw_input, finish_input and keep: see matmul.wgsl.

override TILE: u32; // 0: few rows, 1: more, 2: enough for large tiles; see src/kernels/matmul.rs
override SUBGROUP: u32; // most invocations of a subgroup on this adapter, 8 to 64
override ROOM: u32; // 2 where there are 48 KiB of workgroup memory, else 1

override BUFFERS: u32 = select(1u, 2u, TILE == 0u); // of operands
override ROW_UNITS: u32 = select(select(1u, 2u, TILE == 1u), 4u, TILE == 2u);
override COLUMN_UNITS: u32 = select(1u, 2u, TILE > 0u);
override DEPTH: u32 = select(ROOM, 2u * ROOM, TILE == 0u); // blocks of 32 inputs in a step
override SLICES: u32 = select(select(DEPTH, 2u, TILE == 1u), 1u, TILE == 2u); // units that share them, at most 2 · DEPTH
override UNITS: u32 = ROW_UNITS * COLUMN_UNITS * SLICES;
override UNIT: u32 = select(SUBGROUP, 32u, SUBGROUP < 32u); // invocations: of smaller subgroups several do the same
override WORKGROUP: u32 = UNITS * UNIT;
override STAGERS: u32 = UNITS * 32u;         // of them, those that bring something
override WIDE: u32 = select(2u, 1u, TILE == 0u);        // 16 columns of a unit
override PAIRS: u32 = 16u * ROW_UNITS; // row pairs of a workgroup
override COLUMNS: u32 = 16u * WIDE * COLUMN_UNITS; // of a workgroup
override WEIGHERS: u32 = 2u * PAIRS * DEPTH; // invocations that unpack a block of weights: at most STAGERS
override SHARERS: u32 = STAGERS / COLUMNS;   // invocations that bring a column's inputs, and measure it, see norm.wgsl
override WORDS: u32 = 8u * DEPTH / SHARERS;  // of a step, that each of them brings: 1 to 8
override SPAN: u32 = 8u * DEPTH / SLICES;    // of a step, that a unit multiplies: at least 4
// Fours from one row, or column, to the next: 2 more than their inputs, which spreads them over the banks.
override STRIDE: u32 = 8u * DEPTH + 2u;
override COLUMN_STRIDE: u32 = PARTS * 8u * DEPTH + 2u;
override FIRST_COLUMN: u32 = 2u * PAIRS * STRIDE; // where those of columns begin
override BUFFER: u32 = FIRST_COLUMN + COLUMNS * COLUMN_STRIDE;
override OPERANDS: u32 = BUFFERS * BUFFER;
override PRODUCTS: u32 = 256u * UNITS;

const PARTS: u32 = 2u; // f16 of an input: 1 or 2
const WEIGHT_SCALE: f32 = 64.0;
const MOST: vec4<f16> = vec4<f16>(65504.0h);

// Lines of operands, fours: by 8 pairs their first rows, their second rows; columns, each first its high parts: coop_16.wgsl
var<workgroup> products: array<f32, PRODUCTS>; // [unit][16 columns][8 first rows, 8 second ones]
var<workgroup> powers: array<f32, COLUMNS>;    // [column]: what takes the scales of weights and inputs out again

// See norm.wgsl.
fn is_staged() -> bool {
    return true;
}

// The line of operands whose weights this invocation unpacks, one block of them.
fn own_line(invocation: u32) -> u32 {
    return invocation / DEPTH % (2u * PAIRS);
}

// The row pair of the workgroup whose rows this invocation unpacks.
fn own_pair(invocation: u32) -> u32 {
    return own_line(invocation) / 16u * 8u + own_line(invocation) % 8u;
}

fn as_f16(values: vec4<f32>) -> vec4<f16> {
    return clamp(vec4<f16>(values), -MOST, MOST);
}

// Four inputs, in both parts; `at`: where the first one goes.
fn put_input(at: u32, values: vec4<f32>) {
    if (PARTS == 1u) {
        put(at, as_f16(values));
        return;
    }
    // To 11 bits by hand: a compiler may take a number that goes to f16 and back for the number itself.
    let bits = bitcast<vec4<u32>>(values) + vec4<u32>(0x1000u);
    let rounded = bitcast<vec4<f32>>(bits & vec4<u32>(0xffffe000u));
    put(at, as_f16(rounded));
    put(at + 8u * DEPTH, as_f16(values - rounded));
}

// This invocation's inputs of the step from word `start` on: up to 8 fours, SHARERS words from each other.
struct Inputs {
    x: array<Raw, 8>,
}

fn fetch_inputs(column: u32, start: u32, last_word: u32) -> Inputs {
    var inputs: Inputs;
    inputs.x[0] = raw_input(column, min(start, last_word));
    if (WORDS > 1u) {
        inputs.x[1] = raw_input(column, min(start + SHARERS, last_word));
    }
    if (WORDS > 2u) {
        inputs.x[2] = raw_input(column, min(start + 2u * SHARERS, last_word));
        inputs.x[3] = raw_input(column, min(start + 3u * SHARERS, last_word));
    }
    if (WORDS > 4u) {
        inputs.x[4] = raw_input(column, min(start + 4u * SHARERS, last_word));
        inputs.x[5] = raw_input(column, min(start + 5u * SHARERS, last_word));
        inputs.x[6] = raw_input(column, min(start + 6u * SHARERS, last_word));
        inputs.x[7] = raw_input(column, min(start + 7u * SHARERS, last_word));
    }
    return inputs;
}

// Puts word `word` of a column at `at`; zeros behind the last. Without branches, so that nothing waits for one word alone.
fn put_word(at: u32, raw: Raw, column: u32, word: u32, last_word: u32, power: f32) {
    let is_inside = DEPTH == 1u || word <= last_word;
    var own = raw;
    own.value = select(vec4<f32>(0.0), raw.value, is_inside);
    let inputs = finish_input(own, column, min(word, last_word));
    put_input(at, select(vec4<f32>(0.0), power * inputs, is_inside));
}

// Multiplies the workgroup's row pairs, from `first_pair` on, with the columns from `first` on, and hands the products to the
// kernel. Every invocation of the workgroup must call it, also those without a pair.
fn multiply(blocks: u32, first_pair: u32, first: u32, invocation: u32) {
    let line = own_line(invocation);
    let rows = rows_of(first_pair + own_pair(invocation));
    let own_row = select(rows.x, rows.y, line % 16u >= 8u);
    let own_block = invocation % DEPTH; // of a step
    let own_column = invocation / SHARERS % COLUMNS; // of the workgroup
    let column = min(first + own_column, columns.active_ - 1u); // columns behind the last repeat it
    let sharer = invocation % SHARERS;
    let last_block = blocks - 1u;
    let last_word = 8u * blocks - 1u;
    var packed = fetch(own_row, blocks, min(own_block, last_block));
    var inputs = fetch_inputs(column, sharer, last_word);
    var later = fetch(own_row, blocks, min(DEPTH + own_block, last_block)); // weights come from afar: two steps ahead
    let power = input_power(column);
    if (invocation < STAGERS && sharer == 0u) {
        powers[own_column] = 1.0 / (WEIGHT_SCALE * power);
    }
    let unit = invocation / UNIT; // [rows][columns][slice of a step]
    let of_weights = STRIDE * 32u * (unit / (SLICES * COLUMN_UNITS)) + SPAN * (unit % SLICES);
    let of_inputs = FIRST_COLUMN + COLUMN_STRIDE * 16u * WIDE * (unit / SLICES % COLUMN_UNITS) + SPAN * (unit % SLICES);
    let weights_at = STRIDE * line + 8u * own_block;
    let inputs_at = FIRST_COLUMN + COLUMN_STRIDE * own_column + sharer;
    var s00 = Sums(); // rows 0 to 15 of the unit, columns 0 to 15
    var s01 = Sums(); // columns 16 to 31
    var s10 = Sums();
    var s11 = Sums();
    var buffer = 0u;
    for (var step = 0u; step < blocks; step += DEPTH) {
        if (invocation < WEIGHERS) {
            let w = unpack(packed, own_row, blocks, min(step + own_block, last_block), WEIGHT_SCALE);
            let at = buffer + weights_at;
            put(at, as_f16(w[0]));
            put(at + 1u, as_f16(w[1]));
            put(at + 2u, as_f16(w[2]));
            put(at + 3u, as_f16(w[3]));
            put(at + 4u, as_f16(w[4]));
            put(at + 5u, as_f16(w[5]));
            put(at + 6u, as_f16(w[6]));
            put(at + 7u, as_f16(w[7]));
        }
        packed = later;
        later = fetch(own_row, blocks, min(step + 2u * DEPTH + own_block, last_block));
        if (invocation < STAGERS) {
            let word = 8u * step + sharer;
            let at = buffer + inputs_at;
            put_word(at, inputs.x[0], column, word, last_word, power);
            if (WORDS > 1u) {
                put_word(at + SHARERS, inputs.x[1], column, word + SHARERS, last_word, power);
            }
            if (WORDS > 2u) {
                put_word(at + 2u * SHARERS, inputs.x[2], column, word + 2u * SHARERS, last_word, power);
                put_word(at + 3u * SHARERS, inputs.x[3], column, word + 3u * SHARERS, last_word, power);
            }
            if (WORDS > 4u) {
                put_word(at + 4u * SHARERS, inputs.x[4], column, word + 4u * SHARERS, last_word, power);
                put_word(at + 5u * SHARERS, inputs.x[5], column, word + 5u * SHARERS, last_word, power);
                put_word(at + 6u * SHARERS, inputs.x[6], column, word + 6u * SHARERS, last_word, power);
                put_word(at + 7u * SHARERS, inputs.x[7], column, word + 7u * SHARERS, last_word, power);
            }
        }
        inputs = fetch_inputs(column, 8u * (step + DEPTH) + sharer, last_word);
        workgroupBarrier(); // with two buffers the only one: what is put next goes where the step before was read
        for (var i = 0u; i < SPAN; i += 4u) {
            let a = buffer + of_weights + i;
            let b = buffer + of_inputs + i;
            let b0 = right(b);
            var b1 = b0;
            if (WIDE == 2u) {
                b1 = right(b + 16u * COLUMN_STRIDE);
            }
            let a0 = left(a);
            let a1 = left(a + 16u * STRIDE);
            s00 = multiply_add(a0, b0, s00);
            s10 = multiply_add(a1, b0, s10);
            if (WIDE == 2u) {
                s01 = multiply_add(a0, b1, s01);
                s11 = multiply_add(a1, b1, s11);
            }
            if (PARTS == 2u) {
                let low0 = right(b + 8u * DEPTH);
                s00 = multiply_add(a0, low0, s00);
                s10 = multiply_add(a1, low0, s10);
                if (WIDE == 2u) {
                    let low1 = right(b + 8u * DEPTH + 16u * COLUMN_STRIDE);
                    s01 = multiply_add(a0, low1, s01);
                    s11 = multiply_add(a1, low1, s11);
                }
            }
        }
        if (BUFFERS == 2u) {
            buffer = BUFFER - buffer;
        } else {
            workgroupBarrier(); // used up
        }
    }
    if (invocation < STAGERS) {
        put_squares(own_column, sharer, true);
    }
    for (var turn = 0u; turn < 4u; turn += 3u - WIDE) { // 16 rows and columns of each unit at a time, to save workgroup memory
        workgroupBarrier(); // the turn before is used up
        switch turn {
            case 0u: { put_sums(s00, 256u * unit); }
            case 1u: { put_sums(s01, 256u * unit); }
            case 2u: { put_sums(s10, 256u * unit); }
            default: { put_sums(s11, 256u * unit); }
        }
        workgroupBarrier();
        for (var item = invocation; item < 128u * (UNITS / SLICES); item += WORKGROUP) {
            let tile = item / 128u; // [rows][columns]
            var y = vec2<f32>(0.0);
            for (var slice = 0u; slice < SLICES; slice++) {
                let at = 256u * (tile * SLICES + slice) + 2u * (item % 128u) - item % 8u;
                y += vec2<f32>(products[at], products[at + 8u]);
            }
            let c = 16u * WIDE * (tile % COLUMN_UNITS) + 16u * (turn % 2u) + item / 8u % 16u;
            let pair = 16u * (tile / COLUMN_UNITS) + 8u * (turn / 2u) + item % 8u;
            keep(first_pair + pair, first + c, y * powers[c]);
        }
    }
}
