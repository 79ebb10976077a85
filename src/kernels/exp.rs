//! e^x, the same bits on both executors: what it feeds ends in the cache, where a flipped rounding stays.
//!
//! Twin of `shaders/shared/exp.wgsl`.

/// e^x to 2 units in the last place, x clamped to [−87, 88].
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2, e^x = 2ⁿ · eʳ; eʳ is the polynomial of Cephes (`expf`). No branch, so that loops
/// vectorise.
#[inline(always)]
pub fn exponential(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0); // 2ⁿ stays a normal number
    let n = (x * std::f32::consts::LOG2_E + 0.5).floor();
    // ln 2 = 355 / 512 − 2.12e-4; the first product is exact.
    let r = x - n * (355.0 / 512.0) - n * -2.121_944_4e-4;
    let y = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_6e-1)
        * r
        + 0.5;
    // 2ⁿ: n stands in the last bits of n + 1.5 · 2²³. A conversion to integers would not be made in vectors.
    let power = f32::from_bits(((n + 12_582_912.0).to_bits() << 23).wrapping_add(127 << 23));
    (y * (r * r) + (r + 1.0)) * power
}

/// `cap · tanh(value / cap)`: keeps a value inside ±cap (Gemma 2, arXiv 2408.00118, §2); cap 0 for no cap.
#[inline(always)]
pub fn soft_cap(value: f32, cap: f32) -> f32 {
    if cap == 0.0 {
        return value;
    }
    cap * (1.0 - 2.0 * (1.0 / (1.0 + exponential(2.0 * (value * (1.0 / cap))))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_right_to_two_units_everywhere() {
        let mut worst = 0.0_f64;
        for i in 0..=1_750_000 {
            let x = -87.0 + i as f32 * 1e-4;
            let (got, wanted) = (exponential(x), f64::from(x).exp());
            let unit = f64::from(f32::from_bits((wanted as f32).to_bits() + 1)) - f64::from(wanted as f32);
            worst = worst.max((f64::from(got) - wanted).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units");
        assert_eq!(exponential(0.0), 1.0);
    }

    #[test]
    fn soft_caps_are_hyperbolic_tangents() {
        for i in -400..=400 {
            let (x, cap) = (i as f32, 50.0);
            let wanted = 50.0 * (f64::from(x) / 50.0).tanh();
            assert!((f64::from(soft_cap(x, cap)) - wanted).abs() < 2e-5, "{x}");
            assert_eq!(soft_cap(x, 0.0), x);
        }
    }

    #[test]
    fn is_finite_and_positive_beyond_its_range() {
        assert_eq!(exponential(-3e38), exponential(-87.0));
        assert_eq!(exponential(3e38), exponential(88.0));
        assert!(exponential(-87.0).is_normal() && exponential(88.0).is_finite());
    }
}
