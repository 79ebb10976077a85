//! `sinkstream bench`: how fast a model, or a well-known shape with random weights, reads and writes with a full cache, beside
//! what the device itself gives in the same run.
//!
//! A round begins an empty stream, reads as many tokens as the cache holds (prefill), and then writes (decode, greedy) for
//! about half a second. With `--against`, two streams that stand at two positions take short turns instead.

mod report;

use std::ops::ControlFlow;

use sinkstream::engine::Device;
use sinkstream::platform::{cpu_seconds, seconds};
use sinkstream::probe::Probe;
use sinkstream::quant::TensorType;
use sinkstream::random::{self, SHAPES, Shape};
use sinkstream::session::{Part, generate_together, profile_together};
use sinkstream::{Attention, Engine, Error, Result, Sampling, Session};

use super::args::{ModelArgs, QuantArg, RunArgs};
use super::{Outcome, interrupted, load, print_json, progress_bar};

/// Its arguments.
#[derive(clap::Args)]
#[command(mut_arg("seed", |flag| flag.help("Seed of the random weights [default: 0]")))]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// A well-known shape with random weights, of type --quant [default: `q4_0`], instead of a model
    #[arg(long, value_name = "NAME", value_parser = SHAPES.map(|shape| shape.name), conflicts_with = "model")]
    shape: Option<String>,
    /// Where in the stream it is measured, with a full cache [default: where the cache has just become full]
    #[arg(long, value_name = "P")]
    position: Option<u64>,
    /// Streams that go on together; each has a full cache
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    streams: u32,
    /// A second position, in turns with the first
    #[arg(long, value_name = "P")]
    against: Option<u64>,
}

/// How the time is spent.
struct Effort {
    /// Rounds at each position, unless they take too long.
    rounds: usize,
    /// Seconds that a round writes for.
    decode_seconds: f64,
    /// No new round begins after so many seconds.
    most_seconds: f64,
    /// Every round reads a new stream; otherwise the streams of the first one go on.
    reads_anew: bool,
}

/// One position.
const ALONE: Effort = Effort { rounds: 7, decode_seconds: 0.5, most_seconds: 12.0, reads_anew: true };
/// Two positions: many short turns, so that both meet the same neighbours on the machine.
const IN_TURNS: Effort = Effort { rounds: 48, decode_seconds: 0.05, most_seconds: 25.0, reads_anew: false };

/// Tokens of which one time is taken, at least.
const BURST: u32 = 32;
/// Most bursts of a round.
const MOST_BURSTS: u32 = 64;
/// Profiled steps.
const PROFILES: usize = 9;

pub(crate) fn run(args: &BenchArgs) -> Outcome {
    let mut settings = args.run.settings();
    let (effort, positions) = if args.against.is_some() { (IN_TURNS, 2) } else { (ALONE, 1) };
    settings.streams = positions * args.streams;
    let gpu = pollster::block_on(settings.gpu())?;
    let probe = pollster::block_on(Probe::measure(gpu.clone(), settings.threads))?;
    settings.device = gpu.map_or(Device::Cpu, |gpu| Device::Open(Box::new(gpu)));
    let mut engine = match args.shape.as_deref().and_then(Shape::find) {
        Some(shape) => {
            let kind = match args.model.quant {
                Some(QuantArg::Q8_0) => TensorType::Q8_0,
                Some(QuantArg::F16) => TensorType::F16,
                Some(QuantArg::Q4_0) | None => TensorType::Q4_0,
            };
            let gguf = pollster::block_on(random::gguf(shape, kind))?;
            pollster::block_on(Engine::random(gguf, &settings, args.run.seed.unwrap_or(0)))?
        }
        None => load(&args.model, &settings, args.run.quiet)?,
    };

    let filled = filled(&engine)?;
    let mut runs = vec![Run::new(&engine, args, args.position, filled)?];
    if args.against.is_some() {
        runs.push(Run::new(&engine, args, args.against, filled)?);
    }
    if args.streams > 1 && engine.keep().attention == Attention::Recompute {
        let fresh = "--streams with --attention recompute: fresh runs come one after the other".into();
        return Err(Error::Settings(fresh).into());
    }
    // What runs for the first time is slower.
    runs[0].round(&mut engine, &effort)?;
    let _warm_up = std::mem::take(&mut runs[0].rounds);
    let bar = progress_bar(args.run.quiet, "measuring");
    bar.set_length(effort.rounds as u64);
    let started = seconds();
    for round in 0..effort.rounds {
        for at in 0..runs.len() {
            // Whatever comes first, comes second in the next round.
            let count = runs.len();
            runs[(at + round) % count].round(&mut engine, &effort)?;
        }
        bar.inc(1);
        if seconds() - started > effort.most_seconds {
            break;
        }
    }
    bar.finish_and_clear();
    let kernels = profile(&mut engine, &mut runs[0].sessions)?;
    let report = report::Report { shape: args.shape.clone(), engine, probe, runs, kernels };
    match args.run.json {
        true => print_json(&report.json())?,
        false => report.print()?,
    }
    Ok(())
}

/// Tokens of a stream with a full cache: those cached and the one to come; in dense mode half of what there is room for.
fn filled(engine: &Engine) -> Result<u64> {
    let keep = engine.keep();
    match keep.attention {
        Attention::Dense if keep.window < 4 * BURST => Err(Error::Settings(format!(
            "--attention dense --window {}: too little room to measure in, at least {} are needed",
            keep.window,
            4 * BURST
        ))),
        Attention::Dense => Ok(u64::from(keep.window) / 2),
        _ => Ok(u64::from(keep.sinks) + u64::from(keep.window) + 1),
    }
}

/// All rounds at one position.
struct Run {
    /// Where writing begins.
    position: u64,
    /// Tokens read before.
    tokens: u64,
    /// Tokens of which one time is taken, at least.
    burst: u32,
    /// How many of them go on together.
    streams: u32,
    /// Those that go on.
    sessions: Vec<Session>,
    rounds: Vec<Round>,
}

/// What one round took.
struct Round {
    /// Reading, if it was done: seconds, and those of all cores.
    prefill: Option<(f64, Option<f64>)>,
    /// Milliseconds a step, one value for each burst.
    ms: Vec<f64>,
    /// Of all bursts and streams.
    tokens: u64,
    seconds: f64,
    /// Of all cores; `None` where the system does not tell.
    cpu_seconds: Option<f64>,
    dispatches: u64,
    submits: u64,
    /// How often the host waited for a single step.
    waits_on_one: u64,
}

impl Run {
    fn new(engine: &Engine, args: &BenchArgs, position: Option<u64>, filled: u64) -> Result<Self> {
        let position = position.unwrap_or(filled);
        if position == 0 {
            return Err(Error::Settings("--position 0: a stream needs a token before it goes on".into()));
        }
        let burst = if engine.keep().attention == Attention::Recompute { 1 } else { BURST };
        let (streams, tokens) = (args.streams, filled.min(position));
        Ok(Self { position, tokens, burst, streams, sessions: vec![], rounds: vec![] })
    }

    /// Tokens that a written token sees besides itself.
    fn cached(&self) -> u32 {
        (self.tokens - 1) as u32
    }

    /// Begins anew: a stream with a full cache, its counter at `position`, and copies of it. What reading took: seconds, and
    /// those of all cores.
    fn read(&mut self, engine: &mut Engine) -> Result<(f64, Option<f64>)> {
        self.sessions.clear();
        let mut first = engine.session();
        first.start_at(self.position - self.tokens);
        let vocab_size = u64::from(engine.config().vocab_size);
        let ids: Vec<u32> = (0..self.tokens).map(|n| (n * 7919 % vocab_size) as u32).collect(); // a prime: all are met
        let (cpu_started, started) = (cpu_seconds(), seconds());
        pollster::block_on(first.append(engine, &ids))?;
        pollster::block_on(engine.wait())?;
        let took = (seconds() - started, since(cpu_started));
        let copies = (1..self.streams).map(|_| pollster::block_on(first.try_clone(engine)));
        self.sessions = copies.collect::<Result<Vec<_>>>()?;
        self.sessions.push(first);
        Ok(took)
    }

    /// Bursts that there is still room for.
    fn room(&self, engine: &Engine) -> u32 {
        let position = self.sessions.first().map_or(0, Session::position);
        match engine.keep().attention {
            Attention::Dense => u64::from(engine.keep().window).saturating_sub(position) as u32 / self.burst,
            _ => MOST_BURSTS,
        }
    }

    fn round(&mut self, engine: &mut Engine, effort: &Effort) -> Result<()> {
        let is_over = self.sessions.is_empty() || self.room(engine) < 3;
        let prefill = if effort.reads_anew || is_over { Some(self.read(engine)?) } else { None };
        // One burst that does not count: it follows something else, and tells how many make up the time.
        let started = seconds();
        self.write(engine, 1)?;
        let wanted = effort.decode_seconds / (seconds() - started).max(1e-6);
        let bursts = (wanted.ceil() as u32).clamp(2, MOST_BURSTS).min(self.room(engine));
        let (before, cpu_started, started) = (engine.counts(), cpu_seconds(), seconds());
        let ms = self.write(engine, bursts)?;
        let (seconds, cpu_seconds, after) = (seconds() - started, since(cpu_started), engine.counts());
        self.rounds.push(Round {
            prefill,
            ms,
            tokens: u64::from(bursts * self.burst * self.streams),
            seconds,
            cpu_seconds,
            dispatches: after.dispatches - before.dispatches,
            submits: after.submits - before.submits,
            waits_on_one: after.waits_on_one - before.waits_on_one,
        });
        Ok(())
    }

    /// Goes on for so many bursts of tokens in each stream; milliseconds a step of each burst.
    fn write(&mut self, engine: &mut Engine, bursts: u32) -> Result<Vec<f64>> {
        if interrupted() {
            return Err(Error::Aborted);
        }
        let count = bursts * self.burst;
        let (began, mut arrivals) = (seconds(), Vec::with_capacity(count as usize));
        let part = |session, deliver| Part {
            session,
            sampling: Sampling::greedy(),
            count,
            expected: u64::from(count),
            deliver,
        };
        // The last of them tells the time: all are delivered, one after the other, when a launch has landed.
        let (last_one, others) = self.sessions.split_last_mut().expect("one at least");
        let mut parts: Vec<Part<'_>> =
            others.iter_mut().map(|session| part(session, Box::new(|_, _| ControlFlow::Continue(())))).collect();
        parts.push(part(
            last_one,
            Box::new(|_, _| {
                arrivals.push(seconds());
                ControlFlow::Continue(())
            }),
        ));
        pollster::block_on(generate_together(engine, &mut parts))?;
        drop(parts);
        Ok(report::ms_a_step(began, &arrivals, self.burst as usize))
    }
}

/// Processor time since `before`.
fn since(before: Option<f64>) -> Option<f64> {
    cpu_seconds().zip(before).map(|(now, before)| now - before)
}

/// A kernel's part of a step.
struct KernelTime {
    name: &'static str,
    dispatches: usize,
    ms: f64,
}

/// Median times of the dispatches of one step, added up by kernel; `None` where the device does not time them. The step of
/// recompute is mostly a fresh run, which is not seen here.
fn profile(engine: &mut Engine, sessions: &mut [Session]) -> Result<Option<Vec<KernelTime>>> {
    if engine.keep().attention == Attention::Recompute {
        return Ok(None);
    }
    let mut steps = Vec::new();
    for _ in 0..PROFILES {
        match pollster::block_on(profile_together(engine, sessions, &Sampling::greedy()))? {
            Some(step) => steps.push(step),
            None => return Ok(None),
        }
    }
    let mut kernels: Vec<KernelTime> = Vec::new();
    for (at, (name, _)) in steps[0].iter().enumerate() {
        let times: Vec<f64> = steps.iter().map(|step| step[at].1).collect();
        let ms = report::percentile(&times, 50).unwrap_or(0.0);
        match kernels.iter_mut().find(|kernel| kernel.name == *name) {
            Some(kernel) => (kernel.dispatches, kernel.ms) = (kernel.dispatches + 1, kernel.ms + ms),
            None => kernels.push(KernelTime { name, dispatches: 1, ms }),
        }
    }
    Ok(Some(kernels))
}
