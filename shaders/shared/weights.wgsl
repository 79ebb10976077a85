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

// f16 bits to f32, exactly. By hand, because hardware may flush subnormals, and scales of small weights are subnormal.
fn widen(bits: u32) -> f32 {
    let fraction = bits & 0x3ffu;
    let normal = bitcast<f32>(((bits & 0x7fffu) << 13u) + 0x38000000u);
    let magnitude = select(normal, f32(fraction) * 5.9604644775390625e-8, (bits & 0x7c00u) == 0u); // 2^-24
    return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

// s and o of a block's first 16 weights, then of its other 16: a weight is s · q - o. Only that subtraction rounds.
fn factors(row: u32, blocks: u32, block: u32) -> vec4<f32> {
    if (is_packed(Q8) || is_packed(Q4)) {
        let word = scale_word(row * ((blocks + 1u) / 2u) + block / 2u);
        let s = widen((word >> (16u * (block & 1u))) & 0xffffu);
        return vec2<f32>(s, select(0.0, 8.0 * s, is_packed(Q4))).xyxy;
    }
    if (is_packed(Q8_MIN) || is_packed(Q4_MIN)) {
        let word = scale_word(row * blocks + block);
        return vec2<f32>(widen(word & 0xffffu), widen(word >> 16u)).xyxy;
    }
    let super_block = row * ((blocks + 7u) / 8u) + block / 8u;
    let nth = block & 7u;
    if (is_packed(K8_BY_32) || is_packed(K4_BY_32)) {
        let head = scale_word(5u * super_block);
        let pair = scale_word(5u * super_block + 1u + nth / 2u) >> (16u * (nth & 1u));
        let ab = vec2<f32>(unpack4xI8(pair).xy);
        return (vec2<f32>(widen(head & 0xffffu), widen(head >> 16u)) * ab).xyxy;
    }
    let head = scale_word(9u * super_block);
    let abab = vec4<f32>(unpack4xI8(scale_word(9u * super_block + 1u + nth)));
    return vec2<f32>(widen(head & 0xffffu), widen(head >> 16u)).xyxy * abab;
}

// Two words of two f16 each.
fn halves(a: u32, b: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(a), unpack2x16float(b));
}

// Two words of two bf16 each: the upper halves of f32.
fn brain_floats(a: u32, b: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}

// One word of four i8.
fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// The low nibbles of a word's four bytes.
fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}

// Four quants of 6 bits: the low nibbles of `low`'s bytes, and above them bits 4 and 5 of `high`'s.
fn six_bits(low: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((low & 0x0f0f0f0fu) | (high & 0x30303030u))) - 32.0;
}

// The 32 weights of block `block` of row `row`, in order; `blocks`: blocks of a row.
fn load_block(row: u32, blocks: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = row * blocks + block;
    if (is_packed(F32)) {
        let i = at * 8u;
        return array<vec4<f32>, 8>(
            bitcast<vec4<f32>>(quant_words(i)), bitcast<vec4<f32>>(quant_words(i + 1u)),
            bitcast<vec4<f32>>(quant_words(i + 2u)), bitcast<vec4<f32>>(quant_words(i + 3u)),
            bitcast<vec4<f32>>(quant_words(i + 4u)), bitcast<vec4<f32>>(quant_words(i + 5u)),
            bitcast<vec4<f32>>(quant_words(i + 6u)), bitcast<vec4<f32>>(quant_words(i + 7u)));
    }
    if (is_packed(F16)) {
        let a = quant_words(at * 4u);
        let b = quant_words(at * 4u + 1u);
        let c = quant_words(at * 4u + 2u);
        let d = quant_words(at * 4u + 3u);
        return array<vec4<f32>, 8>(
            halves(a.x, a.y), halves(a.z, a.w), halves(b.x, b.y), halves(b.z, b.w),
            halves(c.x, c.y), halves(c.z, c.w), halves(d.x, d.y), halves(d.z, d.w));
    }
    if (is_packed(BF16)) {
        let a = quant_words(at * 4u);
        let b = quant_words(at * 4u + 1u);
        let c = quant_words(at * 4u + 2u);
        let d = quant_words(at * 4u + 3u);
        return array<vec4<f32>, 8>(
            brain_floats(a.x, a.y), brain_floats(a.z, a.w), brain_floats(b.x, b.y), brain_floats(b.z, b.w),
            brain_floats(c.x, c.y), brain_floats(c.z, c.w), brain_floats(d.x, d.y), brain_floats(d.z, d.w));
    }
    let f = factors(row, blocks, block);
    if (is_packed(Q8) || is_packed(Q8_MIN) || is_packed(K8_BY_32)) {
        let a = quant_words(at * 2u);
        let b = quant_words(at * 2u + 1u);
        return array<vec4<f32>, 8>(
            f.x * bytes(a.x) - f.y, f.x * bytes(a.y) - f.y, f.x * bytes(a.z) - f.y, f.x * bytes(a.w) - f.y,
            f.z * bytes(b.x) - f.w, f.z * bytes(b.y) - f.w, f.z * bytes(b.z) - f.w, f.z * bytes(b.w) - f.w);
    }
    if (is_packed(K6_BY_16)) {
        // six words a block: an even block begins with a vec4, an odd one in the middle of one
        let c = quant_words(at + at / 2u);
        let d = quant_words(at + at / 2u + 1u);
        let is_odd = (at & 1u) == 1u;
        let a = select(c, vec4<u32>(c.zw, d.xy), is_odd);
        let high = select(d.xy, d.zw, is_odd);
        let x = high.x;
        let y = high.y;
        return array<vec4<f32>, 8>(
            f.x * six_bits(a.x, x << 4u) - f.y, f.x * six_bits(a.x >> 4u, x << 2u) - f.y,
            f.x * six_bits(a.y, x) - f.y, f.x * six_bits(a.y >> 4u, x >> 2u) - f.y,
            f.z * six_bits(a.z, y << 4u) - f.w, f.z * six_bits(a.z >> 4u, y << 2u) - f.w,
            f.z * six_bits(a.w, y) - f.w, f.z * six_bits(a.w >> 4u, y >> 2u) - f.w);
    }
    let a = quant_words(at);
    let b = a >> vec4<u32>(4u);
    return array<vec4<f32>, 8>(
        f.x * nibbles(a.x) - f.y, f.x * nibbles(b.x) - f.y, f.x * nibbles(a.y) - f.y, f.x * nibbles(b.y) - f.y,
        f.z * nibbles(a.z) - f.w, f.z * nibbles(b.z) - f.w, f.z * nibbles(a.w) - f.w, f.z * nibbles(b.w) - f.w);
}
