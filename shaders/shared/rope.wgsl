// Rotary positions in fixed-point turns: phase = position · frequency mod 2^32, exact at any position.
//
// Twin, with the algebra and its source (StreamingLLM, arXiv 2309.17453, §3.2): src/kernels/rope.rs.

// Sine and cosine of a phase in 0.32 fixed-point turns, to 1.5e-7: the nearest quarter turn is split off exactly, the
// rest, at most π/4, goes through the polynomials of Cephes (sinf, cosf). WGSL promises its own only to 2^-11.
fn sin_cos(phase: u32) -> vec2<f32> {
    let quarter = (phase + 0x20000000u) >> 30u;
    let rest = bitcast<i32>(phase - (quarter << 30u));
    let x = f32(rest) * 1.4629180792671596e-9; // 2π / 2^32
    let z = x * x;
    let s = x + x * z * (-1.6666655e-1 + z * (8.332161e-3 + z * -1.9515296e-4));
    let c = 1.0 - 0.5 * z + z * z * (4.1666646e-2 + z * (-1.3887316e-3 + z * 2.4433157e-5));
    let turned = select(vec2<f32>(s, c), vec2<f32>(c, -s), (quarter & 1u) == 1u);
    return select(turned, -turned, (quarter & 2u) == 2u);
}

// Turns a pair by a position.
fn rotate(pair: vec2<f32>, position: u32, frequency: u32) -> vec2<f32> {
    let turn = sin_cos(position * frequency);
    return vec2<f32>(pair.x * turn.y - pair.y * turn.x, pair.x * turn.x + pair.y * turn.y);
}
