//! Streams that go on together: one column each, the weights read once for all of them.
//!
//! The device goes from token to token by itself, several tokens a launch, and on a GPU two launches are always under way:
//! while the host looks at the tokens of one, the device works on the next. So tokens are computed ahead of what is
//! delivered. What is ahead counts until the stream moves in another way (then it is overwritten: the ring has the slack);
//! each stream stands exactly where its delivery stopped. Tokens are the same whoever goes along.
//!
//! Streams of a call that are not equally far are brought to one place, once, and share every step from there on: one that
//! has what this call wants goes on with those that wait, as far as later calls may want more of it.

use std::ops::ControlFlow;

use super::Session;
use crate::config::Attention;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kernels::sample::{MAX_AHEAD, MAX_RECENT, Settings};
use crate::plan::Column;
use crate::sampler::Sampling;

/// Gets a token, and its log-probability if [`Sampling::logprobs`] asks for it.
pub type Deliver<'a> = Box<dyn FnMut(u32, Option<f32>) -> ControlFlow<()> + 'a>;

/// One of the streams that go on together.
pub struct Part<'a> {
    /// The stream.
    pub session: &'a mut Session,
    /// How to choose its tokens.
    pub sampling: Sampling,
    /// Tokens to deliver, unless `deliver` breaks off.
    pub count: u32,
    /// Tokens that may be wanted in all, in this call and in those that follow: so far may be computed ahead.
    pub expected: u64,
    /// Gets them.
    pub deliver: Deliver<'a>,
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({:?}, {} tokens)", self.session, self.count)
    }
}

/// A part under way.
struct Member<'p, 'a> {
    part: &'p mut Part<'a>,
    lane: u32,
    settings: Settings,
    delivered: u32,
    has_broken_off: bool,
    /// Whether it has a column in the next launch.
    goes_on: bool,
}

/// Goes on with several streams, one token each at a time. Those that end earlier leave the others to go on. A stream
/// stands where its delivery stopped, whatever happens to the others.
///
/// In recompute mode, where each token is a run of its own, they go on one after the other.
///
/// # Errors
/// As [`Session::generate`]; [`Error::Settings`] for more streams than [`Engine::streams`].
pub async fn generate_together(engine: &mut Engine, parts: &mut [Part<'_>]) -> Result<()> {
    if parts.len() > engine.streams() as usize {
        return Err(Error::Settings(format!(
            "{} streams cannot go on together on an engine that was loaded for {}",
            parts.len(),
            engine.streams()
        )));
    }
    for part in &mut *parts {
        part.session.check(engine, &[])?;
        if let Some(lane) = engine.lanes.of(&part.session.id) {
            engine.lanes.touch(lane); // before others look for a place
        }
    }
    let mut members = Vec::with_capacity(parts.len());
    for part in parts {
        let settings = part.sampling.settings()?;
        members.push(Member { part, lane: 0, settings, delivered: 0, has_broken_off: false, goes_on: false });
    }
    if let Err(error) = run(engine, &mut members).await {
        engine.recover_from(error).await?;
        run(engine, &mut members).await?;
    }
    Ok(())
}

/// Goes on until all are done.
async fn run(engine: &mut Engine, members: &mut [Member<'_, '_>]) -> Result<()> {
    for member in &mut *members {
        member.lane = member.part.session.enter(engine).await?;
    }
    if engine.keep().attention == Attention::Recompute {
        for member in members {
            member.run_anew(engine).await?;
        }
        return Ok(());
    }
    for member in &mut *members {
        member.part.session.ready(engine, member.lane)?;
        member.begin(engine)?;
    }
    loop {
        launch(engine, members)?;
        members.iter_mut().for_each(|member| member.deliver(engine));
        if members.iter().all(Member::is_done) {
            return Ok(());
        }
        if engine.lanes.flights.is_empty() {
            launch(engine, members)?;
        }
        if engine.lanes.flights.is_empty() {
            // What was delivered is not lost with an error: the next call finds the cache full at once.
            return match members.iter().any(|member| member.delivered > 0) {
                true => Ok(()),
                false => Err(Error::CacheFull(u64::from(engine.keep().window))),
            };
        }
        engine.land().await?;
    }
}

/// Launches for whoever needs tokens, and for those that go along, until as much is under way as can be, or something must
/// land first.
fn launch(engine: &mut Engine, members: &mut [Member<'_, '_>]) -> Result<()> {
    let is_ahead = engine.executor.max_flights() > 1;
    while engine.lanes.flights.len() < engine.executor.max_flights() {
        members.iter_mut().for_each(|member| member.goes_on = member.room(engine, is_ahead) > 0);
        if !members.iter().any(|member| member.goes_on && !member.is_done()) {
            return Ok(());
        }
        if !is_under_way(engine, members) {
            if members.iter().any(|member| member.goes_on && engine.lanes.lanes[member.lane as usize].in_flight > 0) {
                return Ok(()); // its last token is not known yet
            }
            regroup(engine, members)?;
        }
        let going = || members.iter().filter(|member| member.goes_on);
        let (burst, room) =
            (engine.lanes.burst, going().map(|member| member.room(engine, is_ahead)).min().unwrap_or(0));
        // A last token goes along: it would be waited for alone.
        let most = if room == burst + 1 { room } else { room.min(burst) };
        let steps = going().fold(most, |steps, member| member.part.session.ring.run(member.ahead(engine), steps));
        let columns = going().map(|member| (member.lane, member.next_position(), member.settings));
        engine.launch(steps, columns)?;
    }
    Ok(())
}

/// Whether the columns of those that go on, in whatever order, stand on the device and move on there by themselves.
fn is_under_way(engine: &Engine, members: &[Member<'_, '_>]) -> bool {
    let going = || members.iter().filter(|member| member.goes_on);
    let moves_on = |member: &Member<'_, '_>| {
        engine.lanes.group.contains(&member.lane) && member.part.session.ring.follows(member.ahead(engine))
    };
    going().count() == engine.lanes.group.len() && going().all(moves_on)
}

/// Puts the columns of those that go on on the device, at tokens that all of them have: what some are further ahead is
/// computed again, so that they stay together from here on.
fn regroup(engine: &mut Engine, members: &mut [Member<'_, '_>]) -> Result<()> {
    let mut columns = Vec::with_capacity(members.len());
    let going = || members.iter().filter(|member| member.goes_on);
    let least = going().map(|member| member.ahead(engine)).min().unwrap_or(0);
    for member in going() {
        let arrived = &mut engine.lanes.lanes[member.lane as usize].arrived;
        if arrived.len() > least as usize {
            arrived.truncate(least as usize);
            member.write_recent(engine)?;
        }
        columns.push(member.column(engine)?);
    }
    let settings: Vec<Settings> = going().map(|member| member.settings).collect();
    let filled: Vec<Column> =
        going().filter_map(|member| member.part.session.ring.filled(least, member.lane)).collect();
    engine.fold(&filled)?;
    engine.write_columns(&columns)?;
    engine.write_settings(&settings)?;
    engine.lanes.group.extend(columns.iter().map(|column| column.lane));
    if least == 0 {
        engine.lanes.burst = 1; // the first token should not wait for others
    }
    Ok(())
}

impl Member<'_, '_> {
    /// Tokens computed ahead.
    fn ahead(&self, engine: &Engine) -> u32 {
        engine.lanes.lanes[self.lane as usize].ahead()
    }

    /// Whether it has what this call wants.
    fn is_done(&self) -> bool {
        self.has_broken_off || self.delivered == self.part.count
    }

    /// Tokens that may be launched; on a device that computes while the host waits, no more than are to be delivered.
    fn room(&self, engine: &Engine, is_ahead: bool) -> u32 {
        if self.has_broken_off {
            return 0;
        }
        let wanted =
            if is_ahead { self.part.expected.max(u64::from(self.part.count)) } else { u64::from(self.part.count) };
        let ahead = self.ahead(engine);
        let (keep, delivered) = (self.part.session.keep, self.part.session.delivered);
        let in_cache = match keep.attention {
            Attention::Dense => u64::from(keep.window).saturating_sub(delivered),
            _ => u64::MAX,
        };
        let most = (wanted - u64::from(self.delivered)).min(in_cache).min(u64::from(MAX_AHEAD));
        most.saturating_sub(u64::from(ahead)) as u32
    }

    /// Position of the first token that was not delivered, mod 2³².
    fn next_position(&self) -> u32 {
        self.part.session.ring.column(0, 0, 0).position
    }

    /// Makes the lane ready: what is ahead counts only if nothing has changed.
    fn begin(&mut self, engine: &mut Engine) -> Result<()> {
        let lane = &mut engine.lanes.lanes[self.lane as usize];
        if self.part.session.is_moved || lane.settings != Some(self.settings) {
            lane.void();
            lane.settings = Some(self.settings);
            engine.lanes.group.clear();
            self.write_recent(engine)?;
            self.part.session.is_moved = false;
        }
        Ok(())
    }

    /// The column of the next token to be launched.
    fn column(&self, engine: &Engine) -> Result<Column> {
        let arrived = &engine.lanes.lanes[self.lane as usize].arrived;
        let last = arrived.back().map(|(id, _)| *id).or(self.part.session.pending);
        let last = last.ok_or_else(|| Error::Settings("the stream is empty: give it a token first".into()))?;
        Ok(self.part.session.ring.column(arrived.len() as u32, last, self.lane))
    }

    /// Brings the lane's list of recent tokens up to date; those that the device chooses itself are in it already.
    fn write_recent(&self, engine: &mut Engine) -> Result<()> {
        let arrived = engine.lanes.lanes[self.lane as usize].arrived.iter().map(|(id, _)| *id);
        let known: Vec<u32> = self.part.session.recent.iter().copied().chain(arrived).collect();
        let kept = &known[known.len().saturating_sub(MAX_RECENT)..];
        let words: Vec<u32> = std::iter::once(kept.len() as u32).chain(kept.iter().copied()).collect();
        let offset = 4 * u64::from(self.lane) * (1 + MAX_RECENT as u64);
        engine.executor.write(engine.model.recent, offset, bytemuck::cast_slice(&words))
    }

    /// Delivers what has arrived.
    fn deliver(&mut self, engine: &mut Engine) {
        while !self.is_done() {
            let Some((id, logprob)) = engine.lanes.lanes[self.lane as usize].arrived.pop_front() else { return };
            self.part.session.ring.advance(1);
            self.part.session.remember(&[id]);
            self.delivered += 1;
            self.has_broken_off = (self.part.deliver)(id, logprob).is_break();
        }
    }

    /// Goes on in recompute mode: every token from a fresh run over those before it.
    async fn run_anew(&mut self, engine: &mut Engine) -> Result<()> {
        while !self.is_done() {
            self.part.session.ready(engine, self.lane)?;
            self.part.session.is_moved = true;
            self.begin(engine)?;
            engine.write_columns(&[self.column(engine)?])?;
            engine.write_settings(&[self.settings])?;
            engine.launch(1, std::iter::once((self.lane, self.next_position(), self.settings)))?;
            engine.land().await?;
            self.deliver(engine);
        }
        Ok(())
    }
}
