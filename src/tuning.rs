//! How kernels are cut up for a device. It changes how long they take, and results by roundings: sums have another order, and
//! integers are inputs with 22 bits.
//!
//! Where nothing better is known it is [`Tuning::GPU`]. On real GPUs the engine tries a few others when it first loads a
//! model of some shape (about a second, besides what it takes to compile them), and whether the tier `matrix` is faster; it
//! remembers what was, natively in a file of the user's cache folder.

mod measure;

use std::ops::AsyncFnMut;

use serde_json::{Value, json};

use crate::error::Result;
use crate::kernel::Tier;

pub(crate) use measure::{in_faster_tier, key, measure};

/// Parameters that suit one device better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Invocations that share a row pair of a matrix, at least (override `LANES`; [`crate::kernels::matmul::Cut`]), a power of two
    /// up to 64. With 1 no kernel has barriers in its loops, and bits are those of the twins. Products with integers have a
    /// number of their own.
    pub lanes: u32,
    /// Workgroups that attention should have at least: what the cache is split for.
    pub workgroups: u32,
    /// Invocations of a workgroup of products with one column of integers
    /// ([`crate::kernels::matmul::Cut::of_integers`]), 256 or 1024; 0 for products with f32.
    pub invocations: u32,
}

/// What [`Tuning::invocations`] may be, the fewest and the most.
pub const INVOCATIONS: [u32; 2] = [256, 1024];

/// One parameter of a tuning.
#[derive(Clone, Copy)]
enum Change {
    Lanes(u32),
    Workgroups(u32),
    Invocations(u32),
}

impl Change {
    /// `tuning` with it.
    fn of(self, tuning: Tuning) -> Tuning {
        match self {
            Self::Lanes(lanes) => Tuning { lanes, ..tuning },
            Self::Workgroups(workgroups) => Tuning { workgroups, ..tuning },
            Self::Invocations(invocations) => Tuning { invocations, ..tuning },
        }
    }
}

impl Tuning {
    /// For software adapters, where barriers cost most, and for the twins, which heed none of it.
    pub const SOFTWARE: Self = Self { lanes: 1, workgroups: 1, invocations: 0 };
    /// For GPUs: neighbours read neighbouring blocks, and there is something to do for 128 multiprocessors.
    pub const GPU: Self = Self { lanes: 16, workgroups: 256, invocations: 0 };

    /// The fastest of a few neighbours of `self`, one parameter after the other, and whether all were tried; `invocations`: the
    /// most of a workgroup. `time` gives the seconds of a token, or `None` when no more time should be spent. What is less than
    /// 3 % faster is taken for noise.
    ///
    /// # Errors
    /// Those of `time`.
    pub async fn improve(
        self,
        invocations: u32,
        mut time: impl AsyncFnMut(Self) -> Result<Option<f64>>,
    ) -> Result<(Self, bool)> {
        let mut best = self;
        let Some(mut least) = time(best).await? else { return Ok((best, false)) };
        // What gives most comes first: on a slow device the time may end before the others.
        let invocations = INVOCATIONS.into_iter().filter(|of| *of <= invocations).map(Change::Invocations);
        let lanes = [8, 32, 4].map(Change::Lanes);
        for change in invocations.chain(lanes).chain([128, 512, 64].map(Change::Workgroups)) {
            if matches!(change, Change::Lanes(_)) && best.invocations > 0 {
                continue;
            }
            let other = change.of(best);
            let Some(seconds) = time(other).await? else { return Ok((best, false)) };
            if seconds < 0.97 * least {
                (best, least) = (other, seconds);
            }
        }
        Ok((best, true))
    }

    /// As remembered under `key` in `text`, and the tier; `None` if it is not there, or not one that [`Self::improve`] could
    /// have found.
    pub fn recall(text: &str, key: &str) -> Option<(Self, Tier)> {
        let all: Value = serde_json::from_str(text).ok()?;
        let number = |name: &str| u32::try_from(all.get(key)?.get(name)?.as_u64()?).ok();
        let tier = all.get(key)?.get("tier")?.as_str()?.parse().ok()?;
        let [lanes, workgroups, invocations] = ["lanes", "workgroups", "invocations"].map(number);
        let tuning = Self { lanes: lanes?, workgroups: workgroups?, invocations: invocations? };
        let is_known = [4, 8, 16, 32].contains(&tuning.lanes)
            && [64, 128, 256, 512].contains(&tuning.workgroups)
            && (tuning.invocations == 0 || INVOCATIONS.contains(&tuning.invocations));
        is_known.then_some((tuning, tier))
    }

    /// `text` with this and a tier under `key`; what cannot be read is begun anew.
    pub fn remember(self, tier: Tier, text: &str, key: &str) -> String {
        let mut all: Value = serde_json::from_str(text).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
        all[key] = json!({ "lanes": self.lanes, "workgroups": self.workgroups, "invocations": self.invocations, "tier": tier.name() });
        format!("{all:#}\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use std::cell::RefCell;

    use super::*;

    /// What is found with these seconds, and what was tried.
    fn improve(seconds: impl Fn(Tuning) -> Option<f64>) -> ((Tuning, bool), Vec<Tuning>) {
        let tried = RefCell::new(vec![]);
        let time = async |tuning| {
            tried.borrow_mut().push(tuning);
            Ok(seconds(tuning))
        };
        let best = pollster::block_on(Tuning::GPU.improve(1024, time)).unwrap();
        (best, tried.into_inner())
    }

    #[test]
    fn finds_the_fastest() {
        let slow = |a: u32, b: u32| (f64::from(a).log2() - f64::from(b).log2()).abs();
        for lanes in [4, 8, 16, 32] {
            for workgroups in [64, 128, 256, 512] {
                for invocations in [0, 256, 1024] {
                    let (best, tried) = improve(|tuning| {
                        let others = f64::from(tuning.invocations.abs_diff(invocations)) / 256.0;
                        Some(1.0 + slow(tuning.lanes, lanes) + slow(tuning.workgroups, workgroups) + others)
                    });
                    // Integers have lanes of their own: theirs are not tried.
                    let (lanes, tries) = if invocations == 0 { (lanes, 9) } else { (Tuning::GPU.lanes, 6) };
                    assert_eq!((best, tried.len()), ((Tuning { lanes, workgroups, invocations }, true), tries));
                }
            }
        }
    }

    #[test]
    fn takes_noise_for_noise_and_stops_when_told() {
        assert_eq!(improve(|tuning| Some(1.0 - f64::from(tuning.lanes % 3) * 0.01)).0, (Tuning::GPU, true));
        assert_eq!(improve(|_| None), ((Tuning::GPU, false), vec![Tuning::GPU]));
        let ((best, is_whole), tried) = improve(|tuning| (tuning.lanes != 4).then_some(f64::from(tuning.lanes)));
        assert_eq!((best.lanes, is_whole, tried.len()), (8, false, 6));
    }

    #[test]
    fn remembers_by_key_and_takes_no_nonsense() {
        let eight = Tuning { lanes: 8, workgroups: 512, invocations: 1024 };
        let text = eight.remember(Tier::Matrix, &Tuning::GPU.remember(Tier::Portable, "not JSON", "a"), "b");
        assert_eq!(Tuning::recall(&text, "a"), Some((Tuning::GPU, Tier::Portable)));
        assert_eq!(Tuning::recall(&text, "b"), Some((eight, Tier::Matrix)));
        assert_eq!(Tuning::recall(&text, "c"), None);
        for nonsense in [
            "",
            "[]",
            r#"{"b":{"lanes":3,"workgroups":256,"invocations":0,"tier":"portable"}}"#,
            r#"{"b":{"lanes":8,"workgroups":256,"invocations":512,"tier":"portable"}}"#,
            r#"{"b":{"lanes":8,"invocations":0,"tier":"portable"}}"#,
            r#"{"b":{"lanes":8,"workgroups":256,"invocations":0,"tier":"none"}}"#,
            r#"{"b":{"lanes":8,"workgroups":256,"invocations":0}}"#,
        ] {
            assert_eq!(Tuning::recall(nonsense, "b"), None);
        }
    }
}
