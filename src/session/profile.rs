//! How long each kernel takes in a step of streams that go on together.

use super::Session;
use crate::engine::Engine;
use crate::error::Result;
use crate::sampler::Sampling;

/// The kernel and the milliseconds of each dispatch of the next step of these sessions, which is run once and not counted: they
/// stay where they are. `None` on a device that does not time dispatches.
///
/// # Errors
/// As [`Session::generate`].
pub async fn profile_together(
    engine: &mut Engine,
    sessions: &mut [Session],
    sampling: &Sampling,
) -> Result<Option<Vec<(&'static str, f64)>>> {
    let mut columns = Vec::with_capacity(sessions.len());
    for session in sessions {
        session.check(engine, &[])?;
        let lane = session.enter(engine).await?;
        let pending = session.ready(engine, lane)?;
        session.is_moved = true; // what was computed ahead stands on the device no more
        columns.push(session.ring.column(0, pending, lane));
    }
    engine.write_columns(&columns)?;
    engine.write_settings(&vec![sampling.settings()?; columns.len()])?;
    engine.executor.profile(engine.model.decode.plan_for(columns.len() as u32)).await
}
