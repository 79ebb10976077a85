//! The rotation of `config.json`: its keys in GGUF, and the divisors of frequencies that GGUF keeps as tensors.

use std::f64::consts::TAU;

use super::family::{Family, Shape};
use super::folder::{Json, shown};
use super::header::Value;
use super::metadata::Keys;
use crate::error::{Error, Result};

/// Base, rotated dimensions and scaling.
///
/// # Errors
/// [`Error::Unsupported`] or [`Error::Model`] for values that GGUF has no place for; each names them.
pub(super) fn rope(config: Json<'_>, shape: &Shape, context: u32, keys: &mut Keys<'_>) -> Result<()> {
    // transformers 5 says `rope_parameters`, before it was `rope_scaling` and `rope_theta`.
    let null = serde_json::Value::Null;
    let all = Json(config.get(&["rope_parameters", "rope_scaling"]).unwrap_or(&null));
    let rope = Json(all.get(&["full_attention"]).unwrap_or(all.0));
    let local = Json(all.get(&["sliding_attention"]).unwrap_or(&null));

    let usual = if shape.family == Family::Gemma3 { 1e6 } else { 1e4 };
    let theta = match rope.float(&["rope_theta"])? {
        Some(theta) => theta,
        None => config.float(&["rope_theta", "rotary_emb_base"])?.unwrap_or(usual),
    };
    keys.float("rope.freq_base", theta);
    if shape.family == Family::Gemma3 {
        let theta = match local.float(&["rope_theta"])? {
            Some(theta) => theta,
            None => config.float(&["rope_local_base_freq"])?.unwrap_or(1e4),
        };
        keys.float("rope.freq_base_swa", theta);
    }

    let part = match rope.float(&["partial_rotary_factor"])? {
        Some(part) => part,
        None => {
            let usual = if shape.family == Family::GptNeox { 0.25 } else { 1.0 };
            config.float(&["partial_rotary_factor", "rotary_pct"])?.unwrap_or(usual)
        }
    };
    let rotary_dim = (f64::from(shape.head_dim) * part) as u32;
    if !(part > 0.0 && part <= 1.0) || rotary_dim == 0 || rotary_dim % 2 == 1 {
        return Err(Error::Model(format!("config.json: {part} of a head of {} cannot be rotated", shape.head_dim)));
    }
    if part != 1.0 && !matches!(shape.family, Family::GptNeox | Family::Phi3) {
        return Err(Error::Unsupported {
            what: format!("{} with partial_rotary_factor {part}", shape.family.name()),
            supported: "gptneox and phi3 rotate a part of a head".into(),
        });
    }
    keys.number("rope.dimension_count", rotary_dim);
    scaling(config, rope, shape, (context, rotary_dim, theta), keys)
}

/// RoPE scaling. `sizes`: trained context, rotated dimensions, base.
fn scaling(config: Json<'_>, rope: Json<'_>, shape: &Shape, sizes: (u32, u32, f64), keys: &mut Keys<'_>) -> Result<()> {
    let (context, rotary_dim, theta) = sizes;
    let original = match rope.number(&["original_max_position_embeddings"])? {
        Some(original) => Some(original),
        None => config.number(&["original_max_position_embeddings"])?,
    };
    let kind = rope.get(&["rope_type", "type"]).and_then(|kind| kind.as_str()).unwrap_or("default");
    let factor = || -> Result<f64> {
        let factor = rope.float(&["factor"])?.filter(|factor| factor.is_finite() && *factor > 0.0);
        factor.ok_or_else(|| Error::Model(format!("config.json: the factor of the {kind} RoPE scaling is missing")))
    };
    if shape.family == Family::Phi3 {
        keys.number("rope.scaling.original_context_length", original.unwrap_or(context));
    }
    match kind {
        "default" => {}
        "linear" => {
            keys.add("rope.scaling.type", Value::Text("linear".into()));
            keys.float("rope.scaling.factor", factor()?);
        }
        "llama3" => {
            let original = f64::from(original.unwrap_or(8192));
            let low = rope.float(&["low_freq_factor"])?.unwrap_or(1.0);
            let high = rope.float(&["high_freq_factor"])?.unwrap_or(4.0);
            let table = llama3_factors(rotary_dim, theta, (factor()?, low, high, original));
            keys.tables.push(("rope_freqs.weight", table));
        }
        "yarn" if shape.family != Family::Phi3 => {
            let factor = factor()?;
            keys.add("rope.scaling.type", Value::Text("yarn".into()));
            keys.float("rope.scaling.factor", factor);
            keys.number("rope.scaling.original_context_length", original.unwrap_or(context));
            if let Some(attention) = rope.float(&["attention_factor"])? {
                // GGUF's factor comes on top of YaRN's own.
                keys.float("rope.scaling.attn_factor", attention / (0.1 * factor.max(1.0).ln() + 1.0));
            }
            keys.float_if("rope.scaling.yarn_beta_fast", rope.float(&["beta_fast"])?);
            keys.float_if("rope.scaling.yarn_beta_slow", rope.float(&["beta_slow"])?);
            for key in ["mscale", "mscale_all_dim"] {
                if rope.get(&[key]).is_some() {
                    return unsupported(&format!("yarn with {key}"));
                }
            }
        }
        "longrope" | "su" if shape.family == Family::Phi3 => {
            let original = original
                .ok_or_else(|| Error::Model("config.json: original_max_position_embeddings is missing".into()))?;
            let ratio = f64::from(context) / f64::from(original);
            let usual = if ratio > 1.0 { (1.0 + ratio.ln() / f64::from(original).ln()).sqrt() } else { 1.0 };
            keys.float("rope.scaling.attn_factor", rope.float(&["attention_factor"])?.unwrap_or(usual));
            for (name, key) in
                [("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor")]
            {
                let factors = rope.floats(key)?;
                if factors.len() != rotary_dim as usize / 2 {
                    return Err(Error::Model(format!(
                        "config.json: {} numbers in {key}, not {}",
                        factors.len(),
                        rotary_dim / 2
                    )));
                }
                keys.tables.push((name, factors));
            }
        }
        other => return unsupported(other),
    }
    Ok(())
}

fn unsupported(kind: &str) -> Result<()> {
    Err(Error::Unsupported {
        what: format!("RoPE scaling {}", shown(kind)),
        supported: "these work: linear, llama3, yarn, and longrope with phi3".into(),
    })
}

/// What Llama 3 divides its frequencies by: short waves by 1, long ones by `factor`, those between by a mean
/// (transformers, `modeling_rope_utils.py`). `scaling`: factor, low and high frequency factor, original context.
fn llama3_factors(rotary_dim: u32, theta: f64, scaling: (f64, f64, f64, f64)) -> Vec<f32> {
    let (factor, low, high, original) = scaling;
    let of_pair = |pair: u32| {
        let wave = TAU * theta.powf(f64::from(2 * pair) / f64::from(rotary_dim));
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..rotary_dim / 2).map(|pair| of_pair(pair) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_slows_long_waves_only() {
        // θ = 2π: pair i of 4 has the wave length 2π · (2π)^(i / 4) = 6.28, 9.95, 15.75, 24.94.
        let factors = llama3_factors(8, TAU, (8.0, 1.0, 2.0, 16.0));
        assert_eq!(factors[0], 1.0); // below 16 / 2
        assert!(factors[1] > 1.0 && factors[1] < factors[2] && factors[2] < 8.0, "{factors:?}");
        assert_eq!(factors[3], 8.0); // above 16 / 1
    }
}
