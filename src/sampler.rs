//! How the next token is chosen: the settings that a person sees, checked once. The choosing itself is
//! [`crate::kernels::sample`].

use crate::error::{Error, Result};
use crate::kernels::sample::{MAX_CANDIDATES, MAX_RECENT, Settings};

/// Sampling settings, with llama.cpp's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; higher is more varied.
    pub temperature: f32,
    /// Only so many of the most likely tokens; 0 switches it off. Above 256 counts as 256.
    pub top_k: u32,
    /// Only the most likely tokens that together reach this probability; 1 switches it off.
    /// Counted among the `top_k`, at most 256, most likely tokens.
    pub top_p: f32,
    /// Only tokens at least so likely compared to the most likely one; 0 switches it off.
    pub min_p: f32,
    /// Above 1 makes recent tokens less likely; 1 switches it off.
    pub repeat_penalty: f32,
    /// How many recent tokens that concerns; at most 1,024.
    pub repeat_last_n: u32,
    /// Seed of the random numbers.
    pub seed: u32,
    /// Whether the log-probability of each token is wanted too: of the softmax at temperature 1, over all tokens, after the
    /// repetition penalty.
    pub logprobs: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
            logprobs: false,
        }
    }
}

impl Sampling {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// What the kernel reads.
    ///
    /// # Errors
    /// [`Error::Settings`] naming the value that cannot be.
    pub fn settings(&self) -> Result<Settings> {
        let check = |name: &str, value: f32, is_right: bool| match is_right && value.is_finite() {
            true => Ok(()),
            false => Err(Error::Settings(format!("{name} {value} is out of range"))),
        };
        check("temperature", self.temperature, self.temperature >= 0.0)?;
        check("top-p", self.top_p, (0.0..=1.0).contains(&self.top_p))?;
        check("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p))?;
        check("repeat-penalty", self.repeat_penalty, self.repeat_penalty > 0.0)?;
        if self.repeat_last_n as usize > MAX_RECENT {
            return Err(Error::Settings(format!("repeat-last-n {}: at most {MAX_RECENT}", self.repeat_last_n)));
        }
        Ok(Settings {
            temperature: self.temperature,
            top_k: self.top_k.min(MAX_CANDIDATES as u32),
            top_p: self.top_p,
            ln_min_p: if self.min_p > 0.0 { self.min_p.ln() } else { f32::MIN },
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            seed: self.seed,
            wanted: 1 + u32::from(self.logprobs),
        })
    }
}
