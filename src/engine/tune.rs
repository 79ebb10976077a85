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
        let Executor::Gpu(executor) = &mut self.executor else { return Ok(()) };
        let start = self.settings.tuning_on(Some(executor.gpu()));
        let settings = &mut self.settings;
        let is_usual = !executor.gpu().is_software() && settings.tuning.is_none() && platform::REMEMBERS;
        // With a compressive memory a token that is timed would be remembered.
        if !settings.autotune.unwrap_or(is_usual) || self.keep.attention == Attention::Infini {
            return Ok(());
        }
        let is_remembered = settings.autotune.is_none();
        let memory = platform::remembered(TUNING_FILE).filter(|_| is_remembered).unwrap_or_default();
        let key = tuning::key(executor, settings.tier, &self.config, &self.keep, &self.model);
        let remembered = Tuning::recall(&memory, &key);
        let remembered = remembered.and_then(|(tuning, tier)| Some((tuning, executor.gpu().clone().at(tier).ok()?)));
        let (tuning, gpu) = match remembered {
            Some(found) => found,
            None => {
                let (asked, laid_out) = ((&self.gguf, &*settings), (&self.keep, &self.model));
                let tuning = tuning::measure(start, executor, asked, laid_out).await?;
                (tuning, tuning::in_faster_tier(tuning, executor, asked, laid_out).await?)
            }
        };
        if is_remembered {
            platform::remember(TUNING_FILE, &tuning.remember(gpu.tier(), &memory, &key));
        }
        if tuning != start || gpu.tier() != executor.gpu().tier() {
            let most = binding_bytes(Some(executor.gpu()));
            let (_, _, tuned) = lay_out(&self.gguf, settings, tuning, most)?;
            executor.set_plans(gpu, &tuned.plans).await?;
        }
        settings.tuning = Some(tuning); // for a device that replaces this one
        Ok(())
    }
}
