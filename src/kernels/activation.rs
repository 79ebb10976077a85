//! Activations of the feed-forward, the same bits on both executors. Twin of `shaders/shared/activation.wgsl`.

use super::exp::exponential;
use crate::platform::{Vectors, Work, vectorised};

/// What the inner layer of a feed-forward goes through. The numbers are those of the override `ACTIVATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activation {
    /// Nothing.
    None = 0,
    /// `x · sigmoid(x)` (`SiLU`; Hendrycks and Gimpel, arXiv 1606.08415).
    Silu = 1,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the approximation of `GELU` in the same paper.
    GeluTanh = 2,
    /// `0.5 x (1 + erf(x / √2))`.
    GeluErf = 3,
}

impl Activation {
    /// From the override `ACTIVATION`.
    ///
    /// # Panics
    /// If there is none of that number: it comes from our own plans, never from a file.
    #[inline(always)]
    pub fn from_constant(constant: u32) -> Self {
        [Self::None, Self::Silu, Self::GeluTanh, Self::GeluErf][constant as usize]
    }

    /// The activation of every value.
    pub fn apply_to(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Silu => vectorised(All::<{ Self::Silu as u32 }>(values)),
            Self::GeluTanh => vectorised(All::<{ Self::GeluTanh as u32 }>(values)),
            Self::GeluErf => vectorised(All::<{ Self::GeluErf as u32 }>(values)),
        }
    }

    /// The activation of one value.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Silu => x * sigmoid(x),
            // 0.5 (1 + tanh(u)) is sigmoid(2 u)
            Self::GeluTanh => x * sigmoid(x * (1.595_769_2 + 0.071_354_814 * (x * x))),
            Self::GeluErf => {
                // 1 + erf of a negative number is the tail of its size: no difference of nearly equal numbers
                let tail = erf_tail(x.abs());
                0.5 * x * if x < 0.0 { tail } else { 2.0 - tail }
            }
        }
    }
}

/// Values that go through the activation of this number: a constant, so that the loop has no branch.
struct All<'a, const ACTIVATION: u32>(&'a mut [f32]);

impl<const ACTIVATION: u32> Work for All<'_, ACTIVATION> {
    #[inline(always)]
    fn run<V: Vectors>(self, _: V) {
        for value in self.0 {
            *value = Activation::from_constant(ACTIVATION).apply(*value);
        }
    }
}

/// `1 / (1 + e⁻ˣ)`: 0 to f32's last bit below −80, where the reciprocal still is a normal number.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exponential(-x.max(-80.0)))
}

/// `1 − erf(x / √2)` for x ≥ 0, to 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; the √2 is in
/// its constants).
#[inline(always)]
fn erf_tail(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.231_641_89 * x);
    let series = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_7) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    series * exponential(-0.5 * (x * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function as the integral of its density, by Simpson's rule in f64.
    fn erf_by_integration(x: f64) -> f64 {
        let (steps, density) = (2000, |t: f64| (-t * t).exp());
        let width = x / f64::from(steps);
        let inner: f64 = (1..steps).map(|i| density(f64::from(i) * width) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (density(0.0) + inner + density(x)) * width / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn activations_are_right_everywhere() {
        for i in -1200..=1200 {
            let x = i as f32 / 100.0;
            let (y, tanh) =
                (f64::from(x), (0.797_884_560_8 * (f64::from(x) + 0.044_715 * f64::from(x).powi(3))).tanh());
            let wanted = [y, y / (1.0 + (-y).exp()), 0.5 * y * (1.0 + tanh), {
                0.5 * y * (1.0 + erf_by_integration(y / std::f64::consts::SQRT_2))
            }];
            for (number, wanted) in wanted.iter().enumerate() {
                let got = f64::from(Activation::from_constant(number as u32).apply(x));
                assert!((got - wanted).abs() < 1e-6 * (1.0 + wanted.abs()), "{number} of {x}: {got}, not {wanted}");
            }
        }
    }
}
