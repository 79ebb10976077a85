//! RoPE's frequencies: base, scaling, and the factors that come as a tensor.

use crate::error::{Error, Result};
use crate::family::Family;
use crate::gguf::Gguf;

/// How frequencies are stretched for contexts longer than those of the first training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Every frequency divided by this; 1 for none.
    Linear(f32),
    /// High frequencies as they are, low ones divided by `factor`, a ramp between (`YaRN`, arXiv 2309.00071, §3.2).
    Yarn {
        /// Divisor of low frequencies.
        factor: f32,
        /// Tokens of the first training.
        original: u32,
        /// Turns within those tokens from which on a frequency stays as it is.
        fast: f32,
        /// Turns up to which it is divided by the whole factor.
        slow: f32,
    },
}

/// RoPE of one kind of layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base θ: pair i of n turns by `θ^(−i / n)` radians a position.
    pub base: f32,
    /// Rotated dimensions of a head; even.
    pub dim: u32,
    /// How frequencies are stretched.
    pub scaling: Scaling,
    /// Factor on rotated queries and on rotated keys alike.
    pub magnitude: f32,
}

impl Rope {
    /// Reads it from the metadata.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another kind of scaling, [`Error::Model`] for values that cannot be.
    pub fn new(gguf: &Gguf, family: &Family, dim: u32) -> Result<Self> {
        let key = |name: &str| format!("{}.rope.{name}", family.name);
        let float = |name: &str, default: f32| Ok::<_, Error>(gguf.get_f32(&key(name))?.unwrap_or(default));
        let mut magnitude = float("scaling.attn_factor", 1.0)?;
        let scaling = match gguf.get_str(&key("scaling.type"))?.unwrap_or("none") {
            "none" => Scaling::Linear(float("scale_linear", 1.0)?),
            "linear" => Scaling::Linear(float("scaling.factor", 1.0)?),
            "longrope" => Scaling::Linear(1.0), // its factors come as tensors
            "yarn" => {
                let factor = float("scaling.factor", 1.0)?;
                let original = gguf.get_u32(&key("scaling.original_context_length"))?;
                let original = original.ok_or_else(|| {
                    Error::Model(format!("metadata {} is missing", key("scaling.original_context_length")))
                })?;
                magnitude *= 0.1 * factor.max(1.0).ln() + 1.0;
                let (fast, slow) = (float("scaling.yarn_beta_fast", 32.0)?, float("scaling.yarn_beta_slow", 1.0)?);
                Scaling::Yarn { factor, original, fast, slow }
            }
            other => {
                let supported = "these work: none, linear, yarn, longrope, and Llama 3's frequency factors".into();
                return Err(Error::Unsupported { what: format!("RoPE scaling {other:?}"), supported });
            }
        };
        let rope = Self { base: float("freq_base", 10_000.0)?, dim, scaling, magnitude };
        rope.check()?;
        Ok(rope)
    }

    fn check(&self) -> Result<()> {
        let mut values = vec![("rope.freq_base", self.base), ("rope.scaling.attn_factor", self.magnitude)];
        match self.scaling {
            Scaling::Linear(factor) => values.push(("rope scaling", factor)),
            Scaling::Yarn { factor, original, fast, slow } => values.extend([
                ("rope.scaling.factor", factor),
                ("rope.scaling.original_context_length", original as f32),
                ("rope.scaling.yarn_beta_fast", fast),
                ("rope.scaling.yarn_beta_slow", slow),
            ]),
        }
        match values.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            Some((name, value)) => Err(Error::Model(format!("{name} = {value}"))),
            None => Ok(()),
        }
    }

    /// Radians per position of pair `i`, in f64: rounded once, to turns.
    pub fn radians(&self, i: u32) -> f64 {
        let (dim, base) = (f64::from(self.dim), f64::from(self.base));
        let plain = base.powf(-2.0 * f64::from(i) / dim);
        match self.scaling {
            Scaling::Linear(factor) => plain / f64::from(factor),
            Scaling::Yarn { factor, original, fast, slow } => {
                // The pair that makes so many turns within the first training's tokens.
                let pair = |turns: f32| {
                    dim * (f64::from(original) / (f64::from(turns) * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
                };
                let low = pair(fast).floor().max(0.0);
                let high = pair(slow).ceil().min(dim - 1.0);
                let ramp = ((f64::from(i) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                plain / f64::from(factor) * ramp + plain * (1.0 - ramp)
            }
        }
    }
}

/// What a score loses per token of distance, for each head: powers of 2^(−max / n), n the next lower power of two of
/// heads, then the odd powers of its square root; zeros for max = 0 (`ALiBi`, arXiv 2108.12409, §3; the authors' code for other numbers).
pub fn slopes(n_heads: u32, max: f32) -> Vec<f32> {
    if max == 0.0 {
        return vec![0.0; n_heads as usize];
    }
    let n = 1_u32 << n_heads.ilog2();
    let power = |exponent: f64| (-f64::from(max) / f64::from(n) * exponent).exp2() as f32;
    (0..n_heads).map(|h| if h < n { power(f64::from(h + 1)) } else { power(f64::from(h - n) + 0.5) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(slopes(4, 8.0), [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(slopes(6, 8.0), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
    }

    #[test]
    fn yarn_keeps_high_and_divides_low_frequencies() {
        let scaling = Scaling::Yarn { factor: 4.0, original: 4096, fast: 32.0, slow: 1.0 };
        let yarn = Rope { base: 10_000.0, dim: 128, scaling, magnitude: 1.0 };
        let plain = Rope { scaling: Scaling::Linear(1.0), ..yarn };
        let ratio = |i: u32| plain.radians(i) / yarn.radians(i);
        assert!((ratio(0) - 1.0).abs() < 1e-12 && (ratio(63) - 4.0).abs() < 1e-12);
        // LlamaRotaryEmbedding of transformers 5.23 with rope_type "yarn" and these numbers
        for (i, wanted) in [(20, 5.623412877e-02), (32, 6.538461894e-03), (45, 4.294026003e-04)] {
            assert!((yarn.radians(i) / wanted - 1.0).abs() < 1e-6, "{i}: {}", yarn.radians(i));
        }
    }
}
