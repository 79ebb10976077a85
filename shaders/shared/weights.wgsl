// Packed weights: unpacks one block of 32 into f32. Layouts and twin: src/quant.rs.
//
// The kernel binds
//   quants: array<vec4<u32>>  [row][block][words / 4]; words per block: F32 32, F16 and BF16 16, Q8 8, Q4 4
//   scales: array<u32>        [row][ceil(blocks / 2)], two f16 a word, the even block low; read for Q8 and Q4 only

override LAYOUT: u32;

const F32: u32 = 0u;
const F16: u32 = 1u;
const BF16: u32 = 2u;
const Q8: u32 = 3u;
const Q4: u32 = 4u;

// f16 bits to f32, exactly. By hand, because hardware may flush subnormals, and scales of small weights are subnormal.
fn widen(bits: u32) -> f32 {
    let fraction = bits & 0x3ffu;
    let normal = bitcast<f32>(((bits & 0x7fffu) << 13u) + 0x38000000u);
    let magnitude = select(normal, f32(fraction) * 5.9604644775390625e-8, (bits & 0x7c00u) == 0u); // 2^-24
    return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

fn scale_of(row: u32, blocks: u32, block: u32) -> f32 {
    let word = scales[row * ((blocks + 1u) / 2u) + block / 2u];
    return widen((word >> (16u * (block & 1u))) & 0xffffu);
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

// The low nibbles of a word's four bytes; a weight is nibble - 8.
fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0;
}

// The 32 weights of block `block` of row `row`, in order; `blocks`: blocks of a row.
fn load_block(row: u32, blocks: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = row * blocks + block;
    if (LAYOUT == F32) {
        let i = at * 8u;
        return array<vec4<f32>, 8>(
            bitcast<vec4<f32>>(quants[i]), bitcast<vec4<f32>>(quants[i + 1u]),
            bitcast<vec4<f32>>(quants[i + 2u]), bitcast<vec4<f32>>(quants[i + 3u]),
            bitcast<vec4<f32>>(quants[i + 4u]), bitcast<vec4<f32>>(quants[i + 5u]),
            bitcast<vec4<f32>>(quants[i + 6u]), bitcast<vec4<f32>>(quants[i + 7u]));
    }
    if (LAYOUT == F16) {
        let a = quants[at * 4u];
        let b = quants[at * 4u + 1u];
        let c = quants[at * 4u + 2u];
        let d = quants[at * 4u + 3u];
        return array<vec4<f32>, 8>(
            halves(a.x, a.y), halves(a.z, a.w), halves(b.x, b.y), halves(b.z, b.w),
            halves(c.x, c.y), halves(c.z, c.w), halves(d.x, d.y), halves(d.z, d.w));
    }
    if (LAYOUT == BF16) {
        let a = quants[at * 4u];
        let b = quants[at * 4u + 1u];
        let c = quants[at * 4u + 2u];
        let d = quants[at * 4u + 3u];
        return array<vec4<f32>, 8>(
            brain_floats(a.x, a.y), brain_floats(a.z, a.w), brain_floats(b.x, b.y), brain_floats(b.z, b.w),
            brain_floats(c.x, c.y), brain_floats(c.z, c.w), brain_floats(d.x, d.y), brain_floats(d.z, d.w));
    }
    let scale = scale_of(row, blocks, block);
    if (LAYOUT == Q8) {
        let a = quants[at * 2u];
        let b = quants[at * 2u + 1u];
        return array<vec4<f32>, 8>(
            scale * bytes(a.x), scale * bytes(a.y), scale * bytes(a.z), scale * bytes(a.w),
            scale * bytes(b.x), scale * bytes(b.y), scale * bytes(b.z), scale * bytes(b.w));
    }
    let a = quants[at];
    let b = a >> vec4<u32>(4u);
    return array<vec4<f32>, 8>(
        scale * nibbles(a.x), scale * nibbles(b.x), scale * nibbles(a.y), scale * nibbles(b.y),
        scale * nibbles(a.z), scale * nibbles(b.z), scale * nibbles(a.w), scale * nibbles(b.w));
}
