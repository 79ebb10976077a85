//! Rotary positions in fixed-point turns, exact at any position.
//!
//! A frequency is a number of turns per position in 0.32 fixed point, so the phase `position · frequency mod 2³²` is
//! exact, and differences of phases depend on differences of positions alone, also where u32 positions wrap.
//! f32 angles would be off by 7 % of a radian's score at position 4 million.
//!
//! A key at stream position t is cached as R(t)k and never touched again. A query at p scores it by
//! ⟨R(p)q, R(t)k⟩, a function of p − t: right for the window. StreamingLLM numbers positions within the cache, which
//! shortens only the distance to the sinks: they are cached as R(s)k and meet a second query R(c)q, where c is the
//! query's in-cache position. Twin of `shaders/shared/rope.wgsl`.

use std::f64::consts::TAU;

/// Turns per position in 0.32 fixed point of an angular frequency in radians per position.
pub fn turns_per_position(radians: f64) -> u32 {
    (radians / TAU * 4_294_967_296.0).round() as u64 as u32
}

/// The phase of a position: turns in 0.32 fixed point.
#[inline(always)]
pub fn phase(position: u32, frequency: u32) -> u32 {
    position.wrapping_mul(frequency)
}

/// Sine and cosine of a phase, to 1.5e-7. The nearest quarter turn is split off exactly, the rest, at most π/4, goes
/// through the minimax polynomials of Cephes (`sinf`, `cosf`), because WGSL promises its own only to 2⁻¹¹.
#[inline(always)]
pub fn sin_cos(phase: u32) -> (f32, f32) {
    let quarter = phase.wrapping_add(1 << 29) >> 30;
    let rest = phase.wrapping_sub(quarter << 30) as i32;
    let x = rest as f32 * (TAU / 4_294_967_296.0) as f32;
    let z = x * x;
    let sin = x + x * z * (-1.666_665_5e-1 + z * (8.332_161e-3 + z * -1.951_529_6e-4));
    let cos = 1.0 - 0.5 * z + z * z * (4.166_664_6e-2 + z * (-1.388_731_6e-3 + z * 2.443_315_7e-5));
    // By quarters (sin, cos), (cos, −sin), (−sin, −cos), (−cos, sin). Signs as bits, so that loops vectorise.
    let (sin, cos) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let signed = |value: f32, quarter: u32| f32::from_bits(value.to_bits() ^ (quarter & 2) << 30);
    (signed(sin, quarter), signed(cos, quarter.wrapping_add(1)))
}

/// Turns a pair by a phase.
#[inline(always)]
pub fn rotate((a, b): (f32, f32), phase: u32) -> (f32, f32) {
    let (sin, cos) = sin_cos(phase);
    (a * cos - b * sin, a * sin + b * cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_and_cosine_are_right_all_around() {
        for i in 0..100_000_u32 {
            let phase = i.wrapping_mul(0x9e37_79b9);
            let angle = f64::from(phase) / 4_294_967_296.0 * TAU;
            let (sin, cos) = sin_cos(phase);
            assert!((f64::from(sin) - angle.sin()).abs() < 1.5e-7, "sin of {phase:#x}");
            assert!((f64::from(cos) - angle.cos()).abs() < 1.5e-7, "cos of {phase:#x}");
        }
    }

    #[test]
    fn only_differences_matter_even_where_positions_wrap() {
        let frequency = turns_per_position(0.37);
        let score = |p: u32, t: u32| {
            let (q, k) = (rotate((0.3, -1.2), phase(p, frequency)), rotate((0.7, 0.4), phase(t, frequency)));
            q.0 * k.0 + q.1 * k.1
        };
        let near = score(100, 40);
        for start in [4_000_000_u32, 1 << 31, u32::MAX - 50] {
            let far = score(start.wrapping_add(100), start.wrapping_add(40));
            assert!((near - far).abs() < 1e-6, "{near} {far} at {start}");
        }
    }
}
