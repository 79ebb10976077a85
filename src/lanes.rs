//! Which session has which lane of the cache, who waits in host memory, and what is computed ahead in each lane.
//!
//! A session that is used takes a free lane. If there is none, the one that was used longest ago makes room: its keys and
//! values move to host memory as they lie, and come back, to whichever lane, when it is used again. A session that was
//! dropped leaves its lane, or its place in host memory, free; nobody has to be told.

use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use bytemuck::Zeroable;

use crate::engine::Engine;
use crate::error::Result;
use crate::kernels::sample::{MAX_AHEAD, Settings};
use crate::plan::{BufferId, Purpose};
use crate::platform;

/// Most tokens of one launch.
const MAX_BURST: u32 = 16;
/// Fewest on a device that computes while the host waits, once it runs: fewer than a quarter of a submit a token, with
/// those that the ring's turns cut short.
const LEAST_AHEAD: u32 = 5;
/// What a launch should take at most: its tokens are seen together, and text that comes in lumps is hard to read.
const LUMP_SECONDS: f64 = 0.04;

/// What the engine knows a session by.
pub(crate) type SessionId = Rc<()>;

/// A launch that has not landed.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Tokens of each column.
    steps: u32,
    /// Of each column: its lane, the lane's `era` at launch, and the position of its first token, mod 2³².
    columns: Vec<(u32, u64, u32)>,
    /// Whether log-probabilities come with it.
    has_logprobs: bool,
    /// When it began, in [`platform::seconds`].
    launched: f64,
}

/// A part of the cache, and the tokens computed ahead in it: those that its session has not delivered yet.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    owner: Weak<()>,
    /// When it was used last.
    used: u64,
    /// How its tokens are chosen; `None` if nothing that is ahead counts.
    pub(crate) settings: Option<Settings>,
    /// Counts how often all that was ahead became void.
    era: u64,
    /// Tokens that are known, each with its log-probability if that is asked for.
    pub(crate) arrived: VecDeque<(u32, Option<f32>)>,
    /// Tokens launched and not yet known.
    pub(crate) in_flight: u32,
}

impl Lane {
    /// Tokens computed ahead.
    pub(crate) fn ahead(&self) -> u32 {
        self.arrived.len() as u32 + self.in_flight
    }

    /// Nothing that is ahead counts any more.
    pub(crate) fn void(&mut self) {
        self.era += 1;
        self.settings = None;
        self.arrived.clear();
        self.in_flight = 0;
    }
}

/// All lanes of an engine.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) lanes: Vec<Lane>,
    /// Sessions in host memory: of every cache buffer the bytes of a lane.
    parked: Vec<(Weak<()>, Vec<Vec<u8>>)>,
    clock: u64,
    /// The lanes of the columns as they stand on the device and move on there; empty if something else stands there.
    pub(crate) group: Vec<u32>,
    /// Tokens of the next launch.
    pub(crate) burst: u32,
    pub(crate) flights: VecDeque<Flight>,
    /// When the last of them landed.
    landed: f64,
    /// Flights that have landed, to be used again.
    spare: Vec<Flight>,
}

impl Lanes {
    pub(crate) fn new(streams: u32) -> Self {
        let lane = || Lane { arrived: VecDeque::with_capacity(MAX_AHEAD as usize), ..Lane::default() };
        Self {
            lanes: (0..streams).map(|_| lane()).collect(),
            parked: vec![],
            clock: 0,
            group: Vec::with_capacity(streams as usize),
            burst: 1,
            flights: VecDeque::new(),
            landed: 0.0,
            spare: vec![],
        }
    }

    /// The lane that holds this session.
    pub(crate) fn of(&self, id: &SessionId) -> Option<u32> {
        self.lanes.iter().position(|lane| is(&lane.owner, id)).map(|lane| lane as u32)
    }

    /// Whether keys and values of this session are anywhere.
    pub(crate) fn knows(&self, id: &SessionId) -> bool {
        self.of(id).is_some() || self.parked.iter().any(|(owner, _)| is(owner, id))
    }

    /// Everything on the device is gone; what is in host memory stays.
    pub(crate) fn forget(&mut self) {
        for lane in &mut self.lanes {
            lane.void();
            lane.owner = Weak::new();
        }
        self.group.clear();
        self.flights.clear();
    }

    /// Puts off that the session makes room for others.
    pub(crate) fn touch(&mut self, lane: u32) {
        self.clock += 1;
        self.lanes[lane as usize].used = self.clock;
    }

    /// A lane without a session.
    fn free(&self) -> Option<u32> {
        self.lanes.iter().position(|lane| lane.owner.strong_count() == 0).map(|lane| lane as u32)
    }

    /// The lane to be used next: a free one, or the one that was used longest ago.
    fn next(&self) -> u32 {
        let oldest = (0..).zip(&self.lanes).min_by_key(|(_, lane)| lane.used).map_or(0, |(lane, _)| lane);
        self.free().unwrap_or(oldest)
    }

    fn give(&mut self, lane: u32, id: &SessionId) {
        let given = &mut self.lanes[lane as usize];
        given.void();
        given.owner = Rc::downgrade(id);
        self.touch(lane);
        self.group.clear();
    }

    /// Sets the tokens of the next launches by the time that one took: the device was free for it when the one before it
    /// landed.
    fn pace(&mut self, flight: &Flight, least: u32) {
        let now = platform::seconds();
        let step = (now - flight.launched.max(self.landed)).max(1e-9) / f64::from(flight.steps);
        self.landed = now;
        self.burst = (2 * self.burst).min((LUMP_SECONDS / step) as u32).clamp(least, MAX_BURST);
    }

    /// Takes in what a launch has chosen. `ids`, and bits of `logprobs` if it has them: `[lane][MAX_AHEAD]`.
    fn arrive(&mut self, mut flight: Flight, ids: &[u32], logprobs: &[u32]) {
        for (lane, era, first) in flight.columns.drain(..) {
            let place = (lane * MAX_AHEAD) as usize;
            let lane = &mut self.lanes[lane as usize];
            if lane.era != era {
                continue;
            }
            lane.in_flight -= flight.steps;
            for step in 0..flight.steps {
                let at = place + (first.wrapping_add(step) % MAX_AHEAD) as usize;
                let is_asked = lane.settings.is_some_and(|settings| settings.wanted == 2);
                let logprob = logprobs.get(at).filter(|_| is_asked).map(|bits| f32::from_bits(*bits));
                lane.arrived.push_back((ids[at], logprob));
            }
        }
        self.spare.push(flight);
    }
}

fn is(owner: &Weak<()>, id: &SessionId) -> bool {
    std::ptr::eq(owner.as_ptr(), Rc::as_ptr(id)) && owner.strong_count() > 0
}

impl Engine {
    /// Goes on with the columns on the device for `steps` tokens. `columns`: of each its lane, the position
    /// of its first token that was not delivered, and its settings.
    pub(crate) fn launch(&mut self, steps: u32, columns: impl Iterator<Item = (u32, u32, Settings)>) -> Result<()> {
        let mut flight = self.lanes.spare.pop().unwrap_or_default();
        (flight.steps, flight.has_logprobs, flight.launched) = (steps, false, platform::seconds());
        for (lane, position, settings) in columns {
            let state = &mut self.lanes.lanes[lane as usize];
            flight.columns.push((lane, state.era, position.wrapping_add(state.ahead())));
            state.in_flight += steps;
            flight.has_logprobs |= settings.wanted == 2;
        }
        let plan = self.model.decode.plan_for(flight.columns.len() as u32);
        let bytes = 4 * u64::from(self.streams() * MAX_AHEAD);
        let copies = [(self.model.ids, bytes), (self.model.logprobs, bytes)];
        self.executor.launch(plan, steps, &copies[..if flight.has_logprobs { 2 } else { 1 }])?;
        self.lanes.flights.push_back(flight);
        Ok(())
    }

    /// Waits for the oldest launch and takes in its tokens.
    pub(crate) async fn land(&mut self) -> Result<()> {
        let Some(flight) = self.lanes.flights.pop_front() else { return Ok(()) };
        let words = (self.streams() * MAX_AHEAD) as usize;
        let length = if flight.has_logprobs { 2 * words } else { words };
        self.executor.land(bytemuck::cast_slice_mut(&mut self.landing[..length])).await?;
        self.lanes.pace(&flight, if self.executor.max_flights() > 1 { LEAST_AHEAD } else { 1 });
        let (ids, logprobs) = self.landing[..length].split_at(words);
        self.lanes.arrive(flight, ids, logprobs);
        Ok(())
    }

    /// How the next columns choose their tokens.
    pub(crate) fn write_settings(&mut self, settings: &[Settings]) -> Result<()> {
        let mut all = vec![Settings::zeroed(); self.streams() as usize]; // what is not in use wants nothing
        all[..settings.len()].copy_from_slice(settings);
        self.executor.write(self.model.settings, 0, bytemuck::cast_slice(&all))
    }

    /// Bytes of a lane in every buffer of the cache and of the compressive memory.
    fn cache(&self) -> Vec<(BufferId, u64)> {
        let buffers = &self.model.buffers;
        let kept = [Purpose::Cache, Purpose::Memory].into_iter().flat_map(|purpose| buffers.of(purpose));
        kept.map(|id| (id, buffers.spec(id).lane_bytes)).collect()
    }

    /// The lane of a session, with its keys and values; those of another may have to make room.
    pub(crate) async fn lane(&mut self, id: &SessionId) -> Result<u32> {
        if let Some(lane) = self.lanes.of(id) {
            self.lanes.touch(lane);
            return Ok(lane);
        }
        let lane = self.lanes.next();
        self.lanes.parked.retain(|(owner, _)| owner.strong_count() > 0);
        let owner = self.lanes.lanes[lane as usize].owner.clone();
        if owner.strong_count() > 0 {
            let bytes = self.read_lane(lane).await?;
            self.lanes.parked.push((owner, bytes));
        }
        self.lanes.give(lane, id);
        if let Some(place) = self.lanes.parked.iter().position(|(owner, _)| is(owner, id)) {
            for ((buffer, lane_bytes), bytes) in self.cache().into_iter().zip(&self.lanes.parked[place].1) {
                self.executor.write(buffer, u64::from(lane) * lane_bytes, bytes)?;
            }
            self.lanes.parked.swap_remove(place);
        }
        Ok(lane)
    }

    async fn read_lane(&mut self, lane: u32) -> Result<Vec<Vec<u8>>> {
        let mut parts = vec![];
        for (buffer, lane_bytes) in self.cache() {
            let mut part = vec![0; lane_bytes as usize];
            self.executor.read(buffer, u64::from(lane) * lane_bytes, &mut part).await?;
            parts.push(part);
        }
        Ok(parts)
    }

    /// Gives a new session the keys and values of another: on the device if a lane is free, else in host memory.
    pub(crate) async fn copy_lane(&mut self, from: &SessionId, to: &SessionId) -> Result<()> {
        let lane = self.lane(from).await?;
        match self.lanes.free() {
            Some(free) => {
                for (buffer, lane_bytes) in self.cache() {
                    let [source, target] = [lane, free].map(|lane| u64::from(lane) * lane_bytes);
                    self.executor.copy_within(buffer, source, target, lane_bytes, self.model.bounce)?;
                }
                self.lanes.give(free, to);
            }
            None => {
                let bytes = self.read_lane(lane).await?;
                self.lanes.parked.push((Rc::downgrade(to), bytes));
            }
        }
        Ok(())
    }
}
