//! Deliberate off-by-ones, for `tests/mutants.rs`: a comparison counts once it has been seen to fail.
//!
//! Each is the identity unless the crate is compiled with the feature `mutants` and the test has switched it on.

/// One mistake that a streaming engine could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mutant {
    /// The window is one token too long.
    WindowPlusOne = 1,
    /// The window is one token too short.
    WindowMinusOne,
    /// Queries see the sinks one position too far away.
    SinkPositionPlusOne,
    /// Queries see the sinks one position too near.
    SinkPositionMinusOne,
    /// The ring has one slot too few.
    SlackMinusOne,
    /// A token's key and value go where those of the token before it belong.
    KeyWrittenLate,
    /// Segments are one token too long.
    SegmentPlusOne,
    /// A query reads the memory as it was one segment before.
    StaleMemory,
}

#[cfg(feature = "mutants")]
static ACTIVE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Switches one mutant on, or all off.
#[cfg(feature = "mutants")]
pub fn switch(mutant: Option<Mutant>) {
    ACTIVE.store(mutant.map_or(0, |mutant| mutant as u32), std::sync::atomic::Ordering::SeqCst);
}

#[cfg(feature = "mutants")]
fn is_on(mutant: Mutant) -> bool {
    ACTIVE.load(std::sync::atomic::Ordering::SeqCst) == mutant as u32
}
#[cfg(not(feature = "mutants"))]
const fn is_on(_: Mutant) -> bool {
    false
}

/// The window, as the mutants see it.
pub(crate) fn window(window: u32) -> u32 {
    window + u32::from(is_on(Mutant::WindowPlusOne)) - u32::from(is_on(Mutant::WindowMinusOne))
}

/// The slack, as the mutants see it.
pub(crate) fn slack(slack: u32) -> u32 {
    slack - u32::from(is_on(Mutant::SlackMinusOne))
}

/// A query's in-cache position, as the mutants see it.
#[inline(always)]
pub(crate) fn query_position_for_sinks(cached: u32) -> u32 {
    if is_on(Mutant::SinkPositionPlusOne) {
        cached + 1
    } else if is_on(Mutant::SinkPositionMinusOne) {
        cached.saturating_sub(1)
    } else {
        cached
    }
}

/// The number of the token whose slot a token takes, as the mutants see it.
pub(crate) fn slot_index(index: u64) -> u64 {
    index - u64::from(index > 0 && is_on(Mutant::KeyWrittenLate))
}

/// The length of a segment, as the mutants see it.
pub(crate) fn segment(length: u32) -> u32 {
    length + u32::from(is_on(Mutant::SegmentPlusOne))
}

/// How many segments the memory that a query reads holds, as the mutants see it.
pub(crate) fn folded(segments: u64) -> u64 {
    segments - u64::from(segments > 0 && is_on(Mutant::StaleMemory))
}
