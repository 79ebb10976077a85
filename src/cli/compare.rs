//! `sinkstream compare`: the same text through four attention modes at several cache sizes, in one run. Figs. 3 and 10 of
//! StreamingLLM (arXiv 2309.17453) on the machine at hand.

mod fit;
mod report;

use sinkstream::config::{Config, Keep};
use sinkstream::engine::{Device, Settings};
use sinkstream::gguf::Gguf;
use sinkstream::gpu::Gpu;
use sinkstream::platform::seconds;
use sinkstream::{Attention, Engine, Error, Result, Session};

use super::args::{CompareArgs, wrong_usage};
use super::text::read_ids;
use super::{Outcome, interrupted, load, open, plot, print_json, progress_bar};

/// Timed steps of each row: one in every round.
const ROUNDS: usize = 128;

/// Tokens scored between two looks at Ctrl-C.
const STEP: usize = 1024;

/// The modes, in the order of the table.
const MODES: [Attention; 4] = [Attention::Dense, Attention::Window, Attention::Recompute, Attention::Streaming];

pub(crate) fn run(args: &CompareArgs) -> Outcome {
    if args.run.attention.is_some() || args.run.window.is_some() {
        eprintln!(
            "sinkstream: warning: compare goes through all modes, with windows by --caches: --attention and --window change nothing"
        );
    }
    let plots = args.plot.as_deref().map(report::plot_paths);
    for path in plots.iter().flatten() {
        plot::check(path)?;
    }
    let mut caches: Vec<usize> = args.caches.iter().map(|&cache| cache as usize).collect();
    caches.sort_unstable();
    caches.dedup();
    let largest = caches[caches.len() - 1]; // clap wants one at least
    let header = pollster::block_on(Gguf::read(&mut open(&args.model)?))?;
    let config = Config::new(&header)?;
    let sinks = Keep::new(&config, Attention::Streaming, args.run.sinks, Some(1), None)?.sinks;
    if caches[0] <= sinks as usize {
        wrong_usage(&format!("--caches {}: must be more than the sinks ({sinks}): they leave no window", caches[0]));
    }
    let ids = read_ids(&args.model, &args.text, Some(args.tokens))?;
    // From the first step behind an eviction in the largest cache on, there is a token to score in every round.
    let first = largest + 2;
    if ids.len() < first + ROUNDS {
        return Err(Error::Settings(format!(
            "{} tokens: a cache of {largest} needs at least {}, {ROUNDS} of them after the first eviction; give a longer text, or \
             smaller --caches",
            ids.len(),
            first + ROUNDS
        ))
        .into());
    }
    let every = (ids.len() - 1 - first) / (ROUNDS - 1);

    // All rows on one device.
    let device = match pollster::block_on(Gpu::choose(&args.run.settings().device))? {
        Some(gpu) => Device::Open(Box::new(gpu)),
        None => Device::Cpu,
    };
    let new_row = |attention, cache: usize| -> Result<Row> {
        let size = cache as u32;
        let (sinks, window) = match attention {
            Attention::Streaming | Attention::Recompute => (Some(sinks), size - sinks),
            Attention::Window | Attention::Infini => (None, size),
            // What is cached, the token itself, and the token that is scored.
            Attention::Dense => (None, size + 2),
        };
        let window = Some(window);
        let settings = Settings {
            device: device.clone(),
            attention: Some(attention),
            sinks,
            window,
            scores: true,
            ..args.run.settings()
        };
        // One row says for all what it runs on, and warns if the model was trained to see less.
        let engine = match attention == Attention::Streaming && cache == largest {
            true => load(&args.model, &settings, args.run.quiet)?,
            false => pollster::block_on(Engine::load(open(&args.model)?, &settings, &mut |_| ()))?,
        };
        let session = engine.session();
        Ok(Row { attention, cache, engine, session, given: 0, nlls: vec![], ms: vec![] })
    };
    let mut rows = Vec::new();
    for attention in MODES {
        for &cache in &caches {
            rows.push(new_row(attention, cache)?);
        }
        if attention == Attention::Dense {
            rows.push(new_row(attention, ids.len() - 2)?);
        }
    }

    let bar = progress_bar(args.run.quiet, "comparing");
    bar.set_length((ROUNDS * rows.len()) as u64);
    for round in 0..ROUNDS {
        for row in &mut rows {
            let at = first + round * every;
            // The last one by itself: a timed step follows another step, as in a stream, and not a chunk.
            row.advance(&ids, at - 1)?;
            row.advance(&ids, at)?;
            row.step(&ids, at)?;
            bar.inc(1);
        }
    }
    for row in &mut rows {
        row.advance(&ids, ids.len())?;
    }
    bar.finish_and_clear();

    let report = report::Report { rows, caches, every, tokens: ids.len() };
    if let Some([perplexity, latency]) = &plots {
        plot::lines(perplexity, &report.perplexity_figures())?;
        plot::lines(latency, &report.latency_figures())?;
    }
    match args.run.json {
        true => print_json(&report.json())?,
        false => report.print()?,
    }
    Ok(())
}

/// One attention mode with one cache size, on its way through the text.
struct Row {
    attention: Attention,
    /// Tokens that a timed step sees besides its own.
    cache: usize,
    engine: Engine,
    session: Session,
    /// Tokens given to the session.
    given: usize,
    /// Number of the token in the text, and how surprising it was, in nats; ascending.
    nlls: Vec<(usize, f64)>,
    /// Wall time of the timed steps, in milliseconds.
    ms: Vec<f64>,
}

impl Row {
    /// Goes on until so many tokens of the text are given: those before them are scored, in chunks. Dense attention stops
    /// once its cache has the row's size; a fresh run needs no way there.
    fn advance(&mut self, ids: &[u32], until: usize) -> Result<()> {
        let until = match self.attention {
            Attention::Recompute => return Ok(()),
            Attention::Dense => until.min(self.cache + 1),
            Attention::Streaming | Attention::Window | Attention::Infini => until,
        };
        if self.given == 0 {
            pollster::block_on(self.session.append(&mut self.engine, &ids[..1]))?;
            self.given = 1;
        }
        while self.given < until {
            self.score(ids, until.min(self.given + STEP))?;
        }
        Ok(())
    }

    /// Scores the tokens from the last one given up to `until`.
    fn score(&mut self, ids: &[u32], until: usize) -> Result<()> {
        if interrupted() {
            return Err(Error::Aborted);
        }
        let nlls = pollster::block_on(self.session.score(&mut self.engine, &ids[self.given..until]))?;
        self.nlls.extend((self.given..).zip(nlls.into_iter().map(f64::from)));
        self.given = until;
        Ok(())
    }

    /// Measures one step: a token through the model with a full cache, and the score of its successor `ids[at]`. The
    /// step of recompute begins with the fresh run over the S + R tokens before.
    fn step(&mut self, ids: &[u32], at: usize) -> Result<()> {
        let started = match self.attention {
            Attention::Recompute => {
                let started = seconds();
                self.session = self.engine.session();
                // The first one too: a sink token stays in front.
                pollster::block_on(self.session.append(&mut self.engine, &ids[..1]))?;
                pollster::block_on(self.session.append(&mut self.engine, &ids[at - self.cache - 1..at]))?;
                self.given = at;
                started
            }
            Attention::Dense => {
                // The same step in every round: here too it follows another.
                self.score(ids, self.cache + 2)?;
                self.again()?;
                seconds()
            }
            Attention::Streaming | Attention::Window | Attention::Infini => seconds(),
        };
        self.score(ids, self.given + 1)?;
        self.ms.push(1e3 * (seconds() - started));
        match self.attention {
            Attention::Dense => self.again(),
            _ => Ok(()),
        }
    }
    /// Takes the last token back, to measure its step again.
    fn again(&mut self) -> Result<()> {
        self.session.take_back(1)?;
        self.given -= 1;
        self.nlls.pop();
        Ok(())
    }
}
