// Packed weights: unpacks one block of 32 into f32. Layouts and twin: src/quant.rs.
//
// The kernel says where they are:
//   quant_words(i) -> vec4<u32>  [row][block][words / 4]; words per block: F32 32, F16, BF16 16, Q8…, K8… 8, K6… 6, Q4…, K4… 4
//   scale_word(i) -> u32         [row][word]; not read for F32, F16 and BF16; words of a row:
//     Q8, Q4          ceil(blocks / 2), each f16 s of two blocks
//     Q8_MIN, Q4_MIN  blocks, each f16 s, f16 o
//     K8_, K4_BY_32   5 · ceil(blocks / 8): f16 d, f16 e, then i8 a, i8 b for each block: s = d · a, o = e · b
//     K6_, K4_BY_16   9 · ceil(blocks / 8): the same with a, b for each half of a block

override LAYOUT: u32;
override OTHER_LAYOUT: u32 = LAYOUT; // of a second matrix of the dispatch, whose rows are counted anew

var<private> is_other: bool; // whether this invocation's rows are of the second matrix; looked at where its layout is another

const F32: u32 = 0u;
const F16: u32 = 1u;
const BF16: u32 = 2u;
const Q8: u32 = 3u;
const Q4: u32 = 4u;
const Q8_MIN: u32 = 5u;
const Q4_MIN: u32 = 6u;
const K8_BY_32: u32 = 7u;
const K4_BY_32: u32 = 8u;
const K6_BY_16: u32 = 9u;
const K4_BY_16: u32 = 10u;

// Whether this invocation's rows are packed so.
fn is_packed(so: u32) -> bool {
    if (OTHER_LAYOUT == LAYOUT) {
        return so == LAYOUT;
    }
    return so == select(LAYOUT, OTHER_LAYOUT, is_other);
}

// Whether quants are weights.
fn has_no_factors() -> bool {
    return is_packed(F32) || is_packed(F16) || is_packed(BF16);
}

// f16 bits to f32, exactly. By hand, because hardware may flush subnormals, and scales of small weights are subnormal.
fn widen(bits: u32) -> f32 {
    let fraction = bits & 0x3ffu;
    let normal = bitcast<f32>(((bits & 0x7fffu) << 13u) + 0x38000000u);
    let magnitude = select(normal, f32(fraction) * 5.9604644775390625e-8, (bits & 0x7c00u) == 0u); // 2^-24
    return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

// A block as it lies in memory.
struct Packed {
    words: array<vec4<u32>, 8>, // as many as the layout has: 8, 4, 2 or 1; of K6 the two in which the block begins and ends
    scales: vec2<u32>,          // the words that s and o are made of
}

fn fetch(row: u32, blocks: u32, block: u32) -> Packed {
    let at = row * blocks + block;
    var packed: Packed;
    if (is_packed(F32)) {
        let i = at * 8u;
        packed.words = array<vec4<u32>, 8>(
            quant_words(i), quant_words(i + 1u), quant_words(i + 2u), quant_words(i + 3u),
            quant_words(i + 4u), quant_words(i + 5u), quant_words(i + 6u), quant_words(i + 7u));
        return packed;
    }
    if (is_packed(F16) || is_packed(BF16)) {
        let i = at * 4u;
        packed.words[0] = quant_words(i);
        packed.words[1] = quant_words(i + 1u);
        packed.words[2] = quant_words(i + 2u);
        packed.words[3] = quant_words(i + 3u);
        return packed;
    }
    if (is_packed(Q8) || is_packed(Q8_MIN) || is_packed(K8_BY_32)) {
        packed.words[0] = quant_words(at * 2u);
        packed.words[1] = quant_words(at * 2u + 1u);
    } else if (is_packed(K6_BY_16)) {
        packed.words[0] = quant_words(at + at / 2u);
        packed.words[1] = quant_words(at + at / 2u + 1u);
    } else {
        packed.words[0] = quant_words(at);
    }
    let super_block = row * ((blocks + 7u) / 8u) + block / 8u;
    let nth = block & 7u;
    if (is_packed(Q8) || is_packed(Q4)) {
        packed.scales.x = scale_word(row * ((blocks + 1u) / 2u) + block / 2u);
    } else if (is_packed(Q8_MIN) || is_packed(Q4_MIN)) {
        packed.scales.x = scale_word(row * blocks + block);
    } else if (is_packed(K8_BY_32) || is_packed(K4_BY_32)) {
        packed.scales = vec2<u32>(scale_word(5u * super_block), scale_word(5u * super_block + 1u + nth / 2u));
    } else {
        packed.scales = vec2<u32>(scale_word(9u * super_block), scale_word(9u * super_block + 1u + nth));
    }
    return packed;
}

// s and o of a block's first 16 weights, then of its other 16: a weight is s · q - o. Only that subtraction rounds.
fn factors(packed: Packed, block: u32) -> vec4<f32> {
    let word = packed.scales.x;
    if (is_packed(Q8) || is_packed(Q4)) {
        let s = widen((word >> (16u * (block & 1u))) & 0xffffu);
        return vec2<f32>(s, select(0.0, 8.0 * s, is_packed(Q4))).xyxy;
    }
    let head = vec2<f32>(widen(word & 0xffffu), widen(word >> 16u));
    if (is_packed(Q8_MIN) || is_packed(Q4_MIN)) {
        return head.xyxy;
    }
    if (is_packed(K8_BY_32) || is_packed(K4_BY_32)) {
        return (head * vec2<f32>(unpack4xI8(packed.scales.y >> (16u * (block & 1u))).xy)).xyxy;
    }
    return head.xyxy * vec4<f32>(unpack4xI8(packed.scales.y));
}

// Two words of two f16 each.
fn halves(a: u32, b: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(a), unpack2x16float(b));
}

// Two words of two bf16 each: the upper halves of f32.
fn brain_floats(a: u32, b: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}

// One word of four u8. By shifts: on NVIDIA a token of a Q4_0 model takes a tenth less time than by unpack4xU8 (docs/speed-log.md).
fn unsigned_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4<u32>(word & 0xffu, (word >> 8u) & 0xffu, (word >> 16u) & 0xffu, word >> 24u));
}

// One word of four i8.
fn bytes(word: u32) -> vec4<f32> {
    return unsigned_bytes(word ^ 0x80808080u) - 128.0;
}

// The low nibbles of a word's four bytes.
fn nibbles(word: u32) -> vec4<f32> {
    return unsigned_bytes(word & 0x0f0f0f0fu);
}

// Four quants of 6 bits.
fn six_bits(word: u32) -> vec4<f32> {
    return unsigned_bytes(word) - 32.0;
}

// A word of four quants of 6 bits, each 32 too large: the low nibbles of `low`'s bytes, and above them bits 4 and 5 of `high`'s.
fn six_bit_word(low: u32, high: u32) -> u32 {
    return (low & 0x0f0f0f0fu) | (high & 0x30303030u);
}

// The eight of a block.
fn six_bit_words(packed: Packed, row: u32, blocks: u32, block: u32) -> array<u32, 8> {
    let a = packed.words[0];
    let b = packed.words[1];
    // six words a block: an even block begins with a vec4, an odd one in the middle of one
    let is_odd = ((row * blocks + block) & 1u) == 1u;
    let low = select(a, vec4<u32>(a.zw, b.xy), is_odd);
    let high = select(b.xy, b.zw, is_odd);
    let x = high.x;
    let y = high.y;
    return array<u32, 8>(
        six_bit_word(low.x, x << 4u), six_bit_word(low.x >> 4u, x << 2u), six_bit_word(low.y, x), six_bit_word(low.y >> 4u, x >> 2u),
        six_bit_word(low.z, y << 4u), six_bit_word(low.z >> 4u, y << 2u), six_bit_word(low.w, y), six_bit_word(low.w >> 4u, y >> 2u));
}

// The 32 quants of block `block` of row `row`, or weights where there are no quants, in order.
fn quants_of(packed: Packed, row: u32, blocks: u32, block: u32) -> array<vec4<f32>, 8> {
    let a = packed.words[0];
    let b = packed.words[1];
    let c = packed.words[2];
    let d = packed.words[3];
    if (is_packed(F32)) {
        let p = packed.words;
        return array<vec4<f32>, 8>(
            bitcast<vec4<f32>>(p[0]), bitcast<vec4<f32>>(p[1]), bitcast<vec4<f32>>(p[2]), bitcast<vec4<f32>>(p[3]),
            bitcast<vec4<f32>>(p[4]), bitcast<vec4<f32>>(p[5]), bitcast<vec4<f32>>(p[6]), bitcast<vec4<f32>>(p[7]));
    }
    if (is_packed(F16)) {
        return array<vec4<f32>, 8>(
            halves(a.x, a.y), halves(a.z, a.w), halves(b.x, b.y), halves(b.z, b.w),
            halves(c.x, c.y), halves(c.z, c.w), halves(d.x, d.y), halves(d.z, d.w));
    }
    if (is_packed(BF16)) {
        return array<vec4<f32>, 8>(
            brain_floats(a.x, a.y), brain_floats(a.z, a.w), brain_floats(b.x, b.y), brain_floats(b.z, b.w),
            brain_floats(c.x, c.y), brain_floats(c.z, c.w), brain_floats(d.x, d.y), brain_floats(d.z, d.w));
    }
    if (is_packed(Q8) || is_packed(Q8_MIN) || is_packed(K8_BY_32)) {
        return array<vec4<f32>, 8>(
            bytes(a.x), bytes(a.y), bytes(a.z), bytes(a.w), bytes(b.x), bytes(b.y), bytes(b.z), bytes(b.w));
    }
    if (is_packed(K6_BY_16)) {
        let w = six_bit_words(packed, row, blocks, block);
        return array<vec4<f32>, 8>(
            six_bits(w[0]), six_bits(w[1]), six_bits(w[2]), six_bits(w[3]),
            six_bits(w[4]), six_bits(w[5]), six_bits(w[6]), six_bits(w[7]));
    }
    let e = a >> vec4<u32>(4u);
    return array<vec4<f32>, 8>(
        nibbles(a.x), nibbles(e.x), nibbles(a.y), nibbles(e.y), nibbles(a.z), nibbles(e.z), nibbles(a.w), nibbles(e.w));
}

// The 32 weights of a block, times `scale`, in order.
fn unpack(packed: Packed, row: u32, blocks: u32, block: u32, scale: f32) -> array<vec4<f32>, 8> {
    let q = quants_of(packed, row, blocks, block);
    var f = vec4<f32>(scale, 0.0, scale, 0.0);
    if (!has_no_factors()) {
        f = scale * factors(packed, block);
    }
    return array<vec4<f32>, 8>(
        f.x * q[0] - f.y, f.x * q[1] - f.y, f.x * q[2] - f.y, f.x * q[3] - f.y,
        f.z * q[4] - f.w, f.z * q[5] - f.w, f.z * q[6] - f.w, f.z * q[7] - f.w);
}

// The 32 weights of block `block` of row `row`, in order; `blocks`: blocks of a row.
fn load_block(row: u32, blocks: u32, block: u32) -> array<vec4<f32>, 8> {
    return unpack(fetch(row, blocks, block), row, blocks, block, 1.0);
}
