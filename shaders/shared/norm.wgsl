// The norm in front of a product, of the columns of a workgroup, by the means of mean.wgsl.
//
// RMS norm: x / rms · gain, rms² = mean(x²) + eps; 1 / rms multiplies the finished products: (W · (x · gain)) / rms.
// Layer norm: (x - mean) / sqrt(variance + eps) · gain + bias, all of it before the product; `gain` holds gain, then bias.
// With ADDED x is what it is after what added.wgsl tells of, whose gain is behind the first one.
// Every workgroup computes it anew from x, which stays in the caches: cheaper than a dispatch of its own. The kernel
// binds gain: array<vec4<f32>>, [1 or 2][words], and defines  fn raw_input(column: u32, word: u32) -> Raw, zero behind `dim`.
// Twin: `Norm` in src/kernels/matmul.rs.

override LAYER_NORM: u32; // 0 or 1
override MEASURES: u32 = 1u;
override IS_DEAR: u32 = ADDED; // to load an input takes much, see matvec.wgsl

var<workgroup> means: array<f32, COLUMNS>; // [column], layer norm only
var<private> square: vec4<f32>;            // of what this invocation has staged of a column

// Four inputs as they come from memory.
struct Raw {
    value: vec4<f32>,
    gain: vec4<f32>,
}

// Four values of x, with what the block before added to them. `words`: vec4 of a gain.
fn with_added(value: vec4<f32>, column: u32, word: u32, words: u32) -> vec4<f32> {
    if (ADDED == 0u) {
        return value;
    }
    return value + added_input(column, word) * inverses[column - first_of_tile] * gain[words + word];
}

// Sums of x or of squares (of the distance from the mean). `words`: vec4 in a column; `dim`: floats that count.
fn add_up(words: u32, dim: u32, invocation: u32, is_square: bool) {
    let sharer = invocation % SHARERS;
    for (var c = invocation / SHARERS; c < COLUMNS; c += WORKGROUP / SHARERS) {
        let column = min(first_of_tile + c, columns.active_ - 1u);
        var sum = vec4<f32>(0.0); // by component: a sum of four squares at once may be reordered by a compiler
        for (var word = sharer; word < words; word += SHARERS) {
            var value = raw_input(column, word).value;
            if (LAYER_NORM == 1u && is_square) {
                let index = vec4<u32>(4u * word) + vec4<u32>(0u, 1u, 2u, 3u);
                value = select(vec4<f32>(0.0), value - means[c], index < vec4<u32>(dim));
            }
            sum += value * select(vec4<f32>(1.0), value, is_square);
        }
        put_part(c, sharer, sum);
    }
    gather_parts(invocation);
}

// Gets ready for `raw_input`, `normed` and `factor_of` (or `add_squares`); every invocation of the workgroup must call it.
fn measure(first: u32, words: u32, dim: u32, eps: f32, invocation: u32) {
    first_of_tile = first;
    measure_added(words, dim, eps, invocation);
    if (squares_come_later()) {
        return;
    }
    if (LAYER_NORM == 1u) {
        add_up(words, dim, invocation, false);
        for (var c = invocation; c < COLUMNS; c += WORKGROUP) {
            means[c] = mean_of(c, dim);
        }
        workgroupBarrier();
    }
    add_up(words, dim, invocation, true);
    if (LAYER_NORM == 1u) {
        put_inverses(dim, eps, invocation);
    }
}

// Whether the squares of an RMS norm are added up while the inputs are staged, so that x is read once.
fn squares_come_later() -> bool {
    return LAYER_NORM == 0u && is_staged();
}

// After this invocation has staged its part of column `c` of the workgroup, or of one tile of it (`is_first`: the first).
// `sharer`: which of the SHARERS parts that is.
fn put_squares(c: u32, sharer: u32, is_first: bool) {
    if (squares_come_later()) {
        let at = c * SHARERS + sharer;
        parts[at] = select(parts[at], 0.0, is_first) + (square.x + square.z) + (square.y + square.w);
        square = vec4<f32>(0.0);
    }
}

// After all parts and a barrier, and with a barrier behind it: gets ready for `factor_of` where there are many parts.
fn add_squares(invocation: u32) {
    if (squares_come_later() && SHARERS >= 64u) {
        add_eighths(invocation);
    }
}

// Four inputs of a column as they go into the product. `words`: vec4 of the gain.
fn normed(raw: Raw, column: u32, word: u32, words: u32) -> vec4<f32> {
    if (LAYER_NORM == 1u) {
        let c = column - first_of_tile;
        return (raw.value - means[c]) * inverses[c] * raw.gain + gain[words + word];
    }
    if (is_staged()) {
        square += raw.value * raw.value;
    }
    return raw.value * raw.gain;
}

// What multiplies the products of column `c` of the workgroup.
fn factor_of(c: u32, dim: u32, eps: f32) -> f32 {
    if (LAYER_NORM == 1u) {
        return 1.0;
    }
    return 1.0 / sqrt(mean_of(c, dim) + eps);
}

// A power of two that brings the inputs of a column near to 1, for those that round them to f16: 1 / rms of 32 values, which
// may be far off, as f16 reaches from 2^-14 to 2^16.
fn input_power(column: u32) -> f32 {
    if (LAYER_NORM == 1u) {
        return 1.0;
    }
    var sum = vec4<f32>(0.0);
    for (var n = 0u; n < 8u; n++) {
        let value = raw_input(column, n * params.blocks).value;
        sum += value * value;
    }
    let inverse = 1.0 / sqrt(0.03125 * ((sum.x + sum.z) + (sum.y + sum.w)) + params.eps);
    return bitcast<f32>(bitcast<u32>(inverse) & 0x7f800000u);
}
