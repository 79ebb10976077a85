//! What a lost device held, computed again.
//!
//! The keys of a token depend on all that it saw, and that on what was seen from there: through n layers, on the last
//! n · R tokens besides the sinks, of which most have left the cache. A run over the tokens still cached is therefore *not*
//! the same state. So a session remembers that many ids: the sinks go in again, then the others, each at its own position
//! and slot, and every key that a later token can see comes out as it was; on an executor whose sums do not depend on the
//! number of columns, with the same bits. A compressive memory depends on all tokens there ever were: a stream that has
//! become too long for its ids to be known is lost with the device.

use super::{Session, prefill};
use crate::config::{Attention, Keep};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Last tokens that the state depends on, with those that may be taken back.
pub(super) fn reach(keep: Keep, n_layers: u32, slack: u32) -> usize {
    match keep.attention {
        Attention::Recompute => keep.window as usize + 1,
        _ => n_layers as usize * (keep.window as usize + 1) + slack as usize + 1,
    }
}

impl Session {
    /// The session's lane, with its keys and values.
    pub(super) async fn enter(&self, engine: &mut Engine) -> Result<u32> {
        let is_lost = !engine.lanes.knows(&self.id) && self.ring.written() > 0;
        let lane = engine.lane(&self.id).await?;
        if is_lost && self.keep.attention != Attention::Recompute {
            self.replay(engine, lane)?;
        }
        Ok(lane)
    }

    fn replay(&self, engine: &mut Engine, lane: u32) -> Result<()> {
        let written = self.ring.written();
        let reach = match self.keep.attention {
            Attention::Infini => u64::MAX,
            _ => reach(self.keep, engine.config().n_layers, engine.model.slack) as u64,
        };
        let known = self.delivered - self.recent.len() as u64; // number of the first of them
        let sinks = u64::from(self.keep.sinks).min(written);
        let begin = written.saturating_sub(reach).max(known);
        if begin > written.saturating_sub(reach) && begin > sinks {
            return Err(Error::DeviceLost("too little is remembered of the stream to go on elsewhere".into()));
        }
        // Sinks that are among the last tokens go in with these.
        let begin = if begin <= sinks { 0 } else { begin };
        if begin > 0 {
            prefill(engine, lane, &mut self.ring.rewound(0), &self.first[..sinks as usize])?;
        }
        let last: Vec<u32> = match begin {
            0 => self.first[..known as usize].iter().chain(&self.recent).copied().take(written as usize).collect(),
            _ => self.recent.range((begin - known) as usize..(written - known) as usize).copied().collect(),
        };
        prefill(engine, lane, &mut self.ring.rewound(begin), &last)
    }
}
