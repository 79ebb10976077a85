//! Which tuning and tier a loaded model gets: those given, remembered or measured to be fastest.

use super::{Engine, Settings, lay_out};
use crate::config::Attention;
use crate::error::Result;
use crate::executor::Executor;
use crate::gpu::{Gpu, binding_bytes};
use crate::platform;
use crate::tuning::{self, Tuning};

/// Where the fastest tunings are remembered.
const TUNING_FILE: &str = "tuning.json";
/// No other tuning is tried once so much time was measured: loading should not be felt to wait.
const MOST_SECONDS: f64 = 0.8;

impl Settings {
    /// The GPU to run on, in the tier asked for, if any; `None` for the CPU executor.
    ///
    /// # Errors
    /// [`crate::Error::NoGpu`].
    pub async fn gpu(&self) -> Result<Option<Gpu>> {
        Gpu::choose(&self.device).await?.map(|gpu| gpu.at(self.tier.unwrap_or_default())).transpose()
    }

    /// How kernels are cut up on this device, or on the CPU.
    pub fn tuning_on(&self, gpu: Option<&Gpu>) -> Tuning {
        self.tuning.unwrap_or_else(|| gpu.map_or(Tuning::SOFTWARE, Gpu::tuning))
    }
}

impl Engine {
    /// Puts better plans in the place of those on the GPU, or in a better tier, if there are any.
    ///
    /// # Errors
    /// Those of the executor.
    pub(super) async fn tune(&mut self) -> Result<()> {
        let Executor::Gpu(executor) = &self.executor else { return Ok(()) };
        let settings = &self.settings;
        let is_usual = !executor.gpu().is_software() && settings.tuning.is_none() && platform::REMEMBERS;
        // With a compressive memory a token that is timed would be remembered.
        if !settings.autotune.unwrap_or(is_usual) || self.keep.attention == Attention::Infini {
            return Ok(());
        }
        let is_remembered = settings.autotune.is_none();
        let memory = platform::remembered(TUNING_FILE).filter(|_| is_remembered).unwrap_or_default();
        let changed = self.tune_by(&memory, MOST_SECONDS).await?;
        if let Some(memory) = changed.filter(|_| is_remembered) {
            platform::remember(TUNING_FILE, &memory);
        }
        Ok(())
    }

    /// As [`Self::tune`], by what `memory` says or else by measuring for so long; then `memory` with what was found, if all was tried.
    async fn tune_by(&mut self, memory: &str, most_seconds: f64) -> Result<Option<String>> {
        let Executor::Gpu(executor) = &mut self.executor else { return Ok(None) };
        let settings = &mut self.settings;
        let start = settings.tuning_on(Some(executor.gpu()));
        let key = tuning::key(executor, settings.tier, &self.config, &self.keep, &self.model);
        let most_invocations = executor.gpu().invocations(); // the key does not say with what limits the device was opened
        let remembered = Tuning::recall(memory, &key).filter(|(tuning, _)| tuning.invocations <= most_invocations);
        let remembered = remembered.and_then(|(tuning, tier)| Some((tuning, executor.gpu().clone().at(tier).ok()?)));
        let mut changed = None;
        let (tuning, gpu) = match remembered {
            Some(found) => found,
            None => {
                let (asked, laid_out) = ((&self.gguf, &*settings), (&self.keep, &self.model));
                let (tuning, is_whole) = tuning::measure((start, most_seconds), executor, asked, laid_out).await?;
                let gpu = tuning::in_faster_tier(tuning, executor, asked, laid_out).await?;
                changed = is_whole.then(|| tuning.remember(gpu.tier(), memory, &key));
                (tuning, gpu)
            }
        };
        if tuning != start || gpu.tier() != executor.gpu().tier() {
            let most = binding_bytes(Some(executor.gpu()));
            let (_, _, tuned) = lay_out(&self.gguf, settings, tuning, most)?;
            executor.set_plans(gpu, &tuned.plans).await?;
        }
        settings.tuning = Some(tuning); // for a device that replaces this one
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
    use super::*;
    use crate::engine::Device;
    use crate::source::Source;

    /// The tuning of a model that is loaded with this memory, and what is remembered then.
    async fn tuned(gpu: &Gpu, memory: &str) -> (Tuning, Option<String>) {
        let device = Device::Open(Box::new(gpu.clone()));
        let settings =
            Settings { device, window: Some(28), chunk: 8, tuning: Some(Tuning::GPU), ..Settings::default() };
        let model = include_bytes!("../../tests/golden/q8.gguf").to_vec();
        let mut engine = Engine::load(Source::memory("q8", model), &settings, &mut |_| {}).await.unwrap();
        let changed = engine.tune_by(memory, f64::INFINITY).await.unwrap();
        (engine.settings.tuning.unwrap(), changed)
    }

    #[test]
    fn what_was_found_is_not_looked_for_again() {
        let Ok(Some(gpu)) = pollster::block_on(Gpu::choose(&Device::Gpu)) else {
            println!("NOT CHECKED: no GPU adapter");
            return;
        };
        pollster::block_on(async {
            let (found, memory) = tuned(&gpu, "").await;
            let memory = memory.unwrap();
            assert_eq!(tuned(&gpu, &memory).await, (found, None));
            // It is what is remembered that counts, and only of the same program.
            let other = if found.lanes == 8 { 4 } else { 8 };
            let changed = memory.replace(&format!("\"lanes\": {}", found.lanes), &format!("\"lanes\": {other}"));
            assert_eq!(tuned(&gpu, &changed).await, (Tuning { lanes: other, ..found }, None));
            let version = env!("CARGO_PKG_VERSION");
            assert!(tuned(&gpu, &memory.replacen(version, "0.0.9", 1)).await.1.is_some());
        });
    }
}
