// e^x to 2 units in the last place, x clamped to [-87, 88]: WGSL promises its own only to 3 + 2 |x| units.
//
// x = n ln 2 + r with |r| ≤ ln 2 / 2, e^x = 2^n · e^r; e^r is the polynomial of Cephes (expf). The same operations in
// the same order as the twin, src/kernels/exp.rs, so that both have the same bits.

fn exponential(value: f32) -> f32 {
    let x = clamp(value, -87.0, 88.0); // 2^n stays a normal number
    let n = floor(x * 1.442695 + 0.5);
    // ln 2 = 355 / 512 - 2.12e-4. The first product is exact; made of integers, it is not merged with the second.
    let r = x - f32(i32(n) * 355) * 0.001953125 - n * -2.1219444e-4;
    let y = ((((1.9875691e-4 * r + 1.3981999e-3) * r + 8.333452e-3) * r + 4.1665796e-2) * r + 1.6666666e-1) * r + 0.5;
    // r + 1 first: compilers that move constants together leave this order alone
    return (y * (r * r) + (r + 1.0)) * bitcast<f32>(u32(i32(n) + 127) << 23u);
}

// cap · tanh(value / cap): keeps a value inside ±cap; 0 for no cap.
fn soft_cap(value: f32, cap: f32) -> f32 {
    if (cap == 0.0) {
        return value;
    }
    return cap * (1.0 - 2.0 * (1.0 / (1.0 + exponential(2.0 * (value * (1.0 / cap))))));
}
