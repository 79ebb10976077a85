// How keys and values lie in the cache: pairs, two f16 in a word clamped to ±65,504, or two f32 in two words.
//
// Pair number p begins at word p · (1 + CACHE_F32). Twin: src/kernels/cache.rs.

override CACHE_F32: u32; // 0 or 1

// f32 to f16 bits, nearest, ties to even. By hand, because pack2x16float may round either way: keys are written once
// and should have the same bits everywhere.
fn narrow(value: f32) -> u32 {
    let bits = bitcast<u32>(clamp(value, -65504.0, 65504.0));
    let magnitude = bits & 0x7fffffffu;
    let normal = (magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u;
    let subnormal = u32(round(bitcast<f32>(magnitude) * 16777216.0)); // multiples of 2^-24
    return select(normal, subnormal, magnitude < 0x38800000u) | ((bits >> 16u) & 0x8000u);
}

// The word or the two words of a pair; without CACHE_F32 only the first counts.
fn store_pair(pair: vec2<f32>) -> vec2<u32> {
    if (CACHE_F32 == 1u) {
        return bitcast<vec2<u32>>(pair);
    }
    return vec2<u32>(narrow(pair.x) | (narrow(pair.y) << 16u), 0u);
}

// The pair in its word or two words.
fn load_pair(first: u32, second: u32) -> vec2<f32> {
    if (CACHE_F32 == 1u) {
        return vec2<f32>(bitcast<f32>(first), bitcast<f32>(second));
    }
    return unpack2x16float(first);
}
