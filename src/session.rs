//! One endless stream: what it was given, where it stands, and how it goes on.
//!
//! A session is data; the engine computes. The last token given is *pending*: it is not in the cache yet, because
//! the step that reads it also chooses its successor.

mod profile;
mod replay;
mod snapshot;
mod together;

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::config::{Attention, Keep};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kernels::sample::MAX_RECENT;
use crate::kv_ring::KvRing;
use crate::lanes::SessionId;
use crate::model::MAX_TAKE_BACK;
use crate::plan::Column;
use crate::sampler::Sampling;

pub use profile::profile_together;
pub use together::{Deliver, Part, generate_together};

/// A stream of tokens. Its keys and values are with the engine, in a lane of the cache or, if others were used later and
/// all lanes are taken, in host memory. Dropping it frees them.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    keep: Keep,
    ring: KvRing,
    pending: Option<u32>,
    /// The first tokens: the sinks, at least one.
    first: Vec<u32>,
    /// The last tokens: for the repetition penalty, for recompute, which runs over them, and for what a lost device held.
    recent: VecDeque<u32>,
    recent_limit: usize,
    /// Whether the stream went on, or back, without the device: nothing that was computed ahead counts.
    is_moved: bool,
    delivered: u64,
    start: u64,
}

impl Session {
    pub(crate) fn new(keep: Keep, n_layers: u32, slack: u32) -> Self {
        let reach = replay::reach(keep, n_layers, slack);
        let mut ring = match keep.attention {
            Attention::Infini => KvRing::with_segments(keep.window + 1, slack),
            _ => KvRing::new(keep.sinks, keep.window, slack),
        };
        ring.remember(reach as u64);
        Self {
            id: SessionId::default(),
            keep,
            ring,
            pending: None,
            first: vec![],
            recent: VecDeque::new(),
            recent_limit: MAX_RECENT.max(reach),
            is_moved: true,
            delivered: 0,
            start: 0,
        }
    }

    /// Lets the counter of an empty stream start at `position`.
    pub fn start_at(&mut self, position: u64) {
        self.start = position;
        self.ring.reset(position);
    }

    /// Makes the first `sinks` tokens of an empty stream the ones that stay, instead of the engine's S. The cache keeps
    /// its size: the window becomes what is left of it.
    ///
    /// # Errors
    /// [`Error::Settings`] if they leave no window, the stream has begun, or the attention mode has no sinks.
    pub fn pin(&mut self, sinks: u32) -> Result<()> {
        let total = self.keep.sinks + self.keep.window;
        if self.keep.attention != Attention::Streaming {
            let mode = self.keep.attention.name();
            return Err(Error::Settings(format!("--attention {mode} pins no tokens: use --attention streaming")));
        }
        if self.delivered > 0 {
            return Err(Error::Settings("only the first tokens of a stream can be pinned".into()));
        }
        if sinks >= total {
            return Err(Error::Settings(format!(
                "{sinks} tokens are to be pinned in a cache of {total}: they must leave room for a window"
            )));
        }
        self.ring.pin(sinks);
        (self.keep.sinks, self.keep.window) = (sinks, total - sinks);
        Ok(())
    }

    /// The next token begins a turn. A stream with turns loses whole ones when the cache is full, oldest first, and
    /// single tokens only of a turn that is longer than the window. Nothing is computed anew, no key is touched.
    pub fn begin_turn(&mut self) {
        self.ring.begin_turn(self.delivered);
        self.is_moved = true; // what was computed ahead knew nothing of it
    }

    /// From here on nothing is remembered of what left the open segment, and what was remembered counts as nothing: to
    /// see what the compressive memory does. Does nothing in other attention modes.
    pub fn forget(&mut self) {
        self.ring.forget();
        self.is_moved = true; // what was computed ahead remembered
    }

    /// A session that stands where this one stands and goes on by itself.
    ///
    /// # Errors
    /// Those of the executor.
    pub async fn try_clone(&mut self, engine: &mut Engine) -> Result<Self> {
        let copy = Self {
            id: SessionId::default(),
            ring: self.ring.clone(),
            first: self.first.clone(),
            recent: self.recent.clone(),
            is_moved: true,
            ..*self
        };
        if let Err(error) = self.copy_lane(engine, &copy).await {
            engine.recover_from(error).await?;
            self.copy_lane(engine, &copy).await?;
        }
        Ok(copy)
    }

    async fn copy_lane(&self, engine: &mut Engine, copy: &Self) -> Result<()> {
        self.enter(engine).await?;
        engine.copy_lane(&self.id, &copy.id).await
    }

    /// S: tokens at the start of the stream that stay.
    pub fn sinks(&self) -> u32 {
        self.keep.sinks
    }

    /// Ids of the tokens that stay, as far as they are there.
    pub fn pinned(&self) -> &[u32] {
        &self.first[..self.first.len().min(self.keep.sinks as usize)]
    }

    /// R: most recent tokens that stay.
    pub fn window(&self) -> u32 {
        self.keep.window
    }

    /// The last token, if there is one.
    pub fn last(&self) -> Option<u32> {
        self.pending
    }

    /// Position in the stream: tokens given and generated so far, counted from the start position.
    pub fn position(&self) -> u64 {
        self.start + self.delivered
    }

    /// Tokens that left the cache.
    pub fn evicted(&self) -> u64 {
        self.delivered - u64::from(self.cached())
    }

    /// Tokens of the stream that the model can still see, the last one included.
    pub fn cached(&self) -> u32 {
        self.delivered.checked_sub(1).map_or(0, |last| self.ring.cached(last) + 1)
    }

    /// Goes on with these tokens.
    ///
    /// # Errors
    /// [`Error::Model`] for an id outside the vocabulary, [`Error::CacheFull`] in dense mode; then nothing was taken.
    pub async fn append(&mut self, engine: &mut Engine, ids: &[u32]) -> Result<()> {
        self.check(engine, ids)?;
        for piece in ids.chunks(engine.model.prefill.most_columns() as usize) {
            if let Err(error) = self.append_piece(engine, piece).await {
                engine.recover_from(error).await?;
                self.append_piece(engine, piece).await?;
            }
            self.remember(piece);
        }
        Ok(())
    }

    async fn append_piece(&mut self, engine: &mut Engine, piece: &[u32]) -> Result<()> {
        let lane = self.enter(engine).await?;
        self.is_moved = true;
        let taken: Vec<u32> = self.pending.into_iter().chain(piece.iter().copied()).collect();
        match self.keep.attention {
            Attention::Recompute => Ok(()),
            _ => prefill(engine, lane, &mut self.ring, &taken[..taken.len() - 1]),
        }
    }

    /// Goes on with these tokens and tells how surprised the model was by each, in nats. The stream must not be empty.
    ///
    /// # Errors
    /// As [`Self::append`]; [`Error::Settings`] on an empty stream.
    pub async fn score(&mut self, engine: &mut Engine, ids: &[u32]) -> Result<Vec<f32>> {
        self.check(engine, ids)?;
        let most = match self.keep.attention {
            Attention::Recompute => 1,
            _ => engine.model.score.most_columns() as usize,
        };
        let mut nlls = vec![0.0; ids.len()];
        let mut done = 0;
        while done < ids.len() {
            let count = self.ring.step(0, (ids.len() - done).min(most) as u32) as usize;
            let (piece, nlls) = (&ids[done..done + count], &mut nlls[done..done + count]);
            done += count;
            if let Err(error) = self.score_piece(engine, piece, nlls).await {
                engine.recover_from(error).await?;
                self.score_piece(engine, piece, nlls).await?;
            }
            self.ring.advance(piece.len() as u32);
            self.remember(piece);
        }
        Ok(nlls)
    }

    async fn score_piece(&mut self, engine: &mut Engine, piece: &[u32], nlls: &mut [f32]) -> Result<()> {
        let lane = self.enter(engine).await?;
        self.is_moved = true;
        let pending = self.ready(engine, lane)?;
        let taken = std::iter::once(&pending).chain(piece);
        let columns: Vec<Column> = (0..)
            .zip(taken.zip(piece))
            .map(|(n, (&token, &target))| Column { target, ..self.ring.column(n, token, lane) })
            .collect();
        let plan = engine.model.score.plan_for(columns.len() as u32);
        engine.fold(self.ring.filled(0, lane).as_slice())?;
        engine.write_columns(&columns)?;
        engine.executor.run(plan, 1)?;
        engine.executor.read(engine.model.nll, 0, bytemuck::cast_slice_mut(nlls)).await
    }

    /// Generates up to `count` tokens and hands each to `deliver`. When that breaks off, the tokens computed ahead
    /// do not count: the stream stands exactly where delivery stopped. Returns the number delivered.
    ///
    /// # Errors
    /// [`Error::Settings`] on an empty stream or for impossible settings, [`Error::CacheFull`] in dense mode.
    pub async fn generate(
        &mut self,
        engine: &mut Engine,
        sampling: &Sampling,
        count: u32,
        mut deliver: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<u32> {
        let mut delivered = 0;
        let part = Part {
            session: self,
            sampling: *sampling,
            count,
            expected: u64::from(count),
            deliver: Box::new(|id, _| {
                delivered += 1;
                deliver(id)
            }),
        };
        generate_together(engine, &mut [part]).await?;
        Ok(delivered)
    }

    /// Forgets the last `tokens` of the stream, as if they had never been: those that the last call of
    /// [`Self::generate`] delivered and nobody wants.
    ///
    /// # Errors
    /// [`Error::Settings`] for more than 32 tokens: older ones may have pushed others out of the ring.
    pub fn take_back(&mut self, tokens: u32) -> Result<()> {
        if tokens > MAX_TAKE_BACK || tokens as usize >= self.recent.len() {
            return Err(Error::Settings(format!("{tokens} tokens cannot be taken back")));
        }
        if self.keep.attention != Attention::Recompute {
            self.ring.take_back(tokens);
        }
        self.recent.truncate(self.recent.len() - tokens as usize);
        self.pending = self.recent.back().copied();
        self.delivered -= u64::from(tokens);
        self.first.truncate(usize::try_from(self.delivered).unwrap_or(usize::MAX));
        self.is_moved = true;
        Ok(())
    }

    fn check(&self, engine: &Engine, ids: &[u32]) -> Result<()> {
        let vocab_size = engine.config().vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(Error::Model(format!("token {id} in a vocabulary of {vocab_size}")));
        }
        let is_full = self.delivered + ids.len() as u64 > u64::from(self.keep.window);
        match self.keep.attention == Attention::Dense && is_full {
            true => Err(Error::CacheFull(u64::from(self.keep.window))),
            false => Ok(()),
        }
    }

    /// The pending token, with everything before it in the cache.
    fn ready(&mut self, engine: &mut Engine, lane: u32) -> Result<u32> {
        let pending =
            self.pending.ok_or_else(|| Error::Settings("the stream is empty: give it a token first".into()))?;
        if self.keep.attention == Attention::Recompute {
            let run = self.recent.len().min(self.keep.window as usize + 1);
            let mut before: Vec<u32> =
                self.recent.range(self.recent.len() - run..self.recent.len() - 1).copied().collect();
            if let (Some(first), Some(sink)) = (before.first_mut(), self.sink_token()) {
                *first = sink;
            }
            self.ring.reset(0);
            prefill(engine, lane, &mut self.ring, &before)?;
        }
        Ok(pending)
    }

    /// The sink token that the stream began with, if it did and is to be put in front of every fresh run.
    fn sink_token(&self) -> Option<u32> {
        self.keep.sink_token.filter(|sink| self.first.first() == Some(sink))
    }

    /// Counts tokens as part of the stream; the last one is pending.
    fn remember(&mut self, ids: &[u32]) {
        let pinned = self.keep.sinks.max(1) as usize;
        self.first.extend(&ids[..ids.len().min(pinned.saturating_sub(self.first.len()))]);
        self.delivered += ids.len() as u64;
        self.pending = ids.last().copied().or(self.pending);
        self.recent.extend(ids);
        self.recent.drain(..self.recent.len().saturating_sub(self.recent_limit));
    }
}

/// Puts tokens into the cache. The ring goes on only if all went well.
fn prefill(engine: &mut Engine, lane: u32, ring: &mut KvRing, ids: &[u32]) -> Result<()> {
    let most = engine.model.prefill.most_columns() as usize;
    let (mut begin, mut rest) = (0, ids);
    while !rest.is_empty() {
        let piece;
        (piece, rest) = rest.split_at(ring.step(begin, rest.len().min(most) as u32) as usize);
        engine.fold(ring.filled(begin, lane).as_slice())?;
        let columns: Vec<Column> = (begin..).zip(piece).map(|(n, &token)| ring.column(n, token, lane)).collect();
        let plan = engine.model.prefill.plan_for(columns.len() as u32);
        engine.write_columns(&columns)?;
        engine.executor.run(plan, 1)?;
        begin += columns.len() as u32;
    }
    ring.advance(begin);
    Ok(())
}
