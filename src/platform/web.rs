//! Threads (none), vector instructions (SIMD128, at compile time), clock and GPU waiting in a browser.

use super::Work;
use crate::error::Result;

/// The one core of a browser's worker.
#[derive(Debug)]
pub struct Cores;

impl Cores {
    /// The one there is.
    ///
    /// # Errors
    /// None.
    pub fn new(_threads: Option<usize>) -> Result<Self> {
        Ok(Self)
    }

    /// How many: one.
    pub fn count(&self) -> usize {
        1
    }

    /// Runs `work`.
    pub fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

/// Runs `work`: the module is compiled with SIMD128 throughout.
#[inline(always)]
pub fn vectorised(work: impl Work) {
    work.run();
}
