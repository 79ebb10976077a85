//! `sinkstream passkey`: a number hidden in a long text, and a question about it at the end.
//!
//! The task of Infini-attention (arXiv 2404.07143, §4.2 and App. B; its filler is the first five sentences of ours, which
//! varies). Scored token by token, each with the right ones before it. The controls say what finds the number: the same
//! with the memory zeroed, and with sinks and a window in as many bytes, must guess: 10 % for digits.

mod text;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sinkstream::engine::{Engine, Settings, lay_out};
use sinkstream::gguf::Gguf;
use sinkstream::plan::Purpose;
use sinkstream::tuning::Tuning;
use sinkstream::{Attention, Error, Result, Sampling, Session};

use super::args::{ModelArgs, RunArgs};
use super::plot::{self, HeatMap};
use super::{Outcome, interrupted, load, open, print_json, progress_bar};
use text::Texts;

/// Seed, if none is given: texts are the same in every run.
const SEED: u32 = 1;

#[derive(Args)]
#[command(mut_arg("seed", |flag| flag.help("Seed of the numbers and the filler [default: 1]")))]
pub(crate) struct PasskeyArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Tokens of a text, the question and its answer included; one row each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1024, 4096],
        value_parser = clap::value_parser!(u32).range(128..1 << 30))]
    lengths: Vec<u32>,
    /// Where the number stands: 0 at the start, 1 at the end; one column each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [0.0, 0.5, 1.0], value_parser = depth)]
    depths: Vec<f64>,
    /// Texts for each length and depth
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Draw the accuracy as a heat map, lengths by depths
    #[arg(long, value_name = "F.svg")]
    plot: Option<PathBuf>,
}

fn depth(text: &str) -> std::result::Result<f64, String> {
    let depth: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&depth) { Ok(depth) } else { Err("must be from 0 to 1".into()) }
}

pub(crate) fn run(args: &PasskeyArgs) -> Outcome {
    args.plot.as_deref().map_or(Ok(()), plot::check)?;
    let settings = args.run.settings();
    let mut engine = load(&args.model, &settings, args.run.quiet)?;
    let has_memory = engine.keep().attention == Attention::Infini;
    let bar = progress_bar(args.run.quiet, "asking");
    let tokens: u64 = args.lengths.iter().map(|&length| u64::from(length)).sum();
    let rounds = if has_memory { 3 } else { 1 };
    bar.set_length(rounds * tokens * args.depths.len() as u64 * u64::from(args.trials));

    let mut tables = vec![Table::measure("as it is", &mut engine, args, false, &bar)?];
    let info = engine.info();
    if has_memory {
        tables.push(Table::measure("memory zeroed", &mut engine, args, true, &bar)?);
        let bytes = [&info["kv_bytes"], &info["memory_bytes"]].into_iter().filter_map(Value::as_u64).sum();
        let settings = equal_bytes(args, &settings, bytes)?;
        let mut other = pollster::block_on(Engine::load(open(&args.model)?, &settings, &mut |_| ()))?;
        tables.push(Table::measure("streaming of equal bytes", &mut other, args, false, &bar)?);
    }
    bar.finish_and_clear();

    if let Some(path) = &args.plot {
        let values: Vec<Vec<f64>> =
            tables[0].rows(args).map(|row| row.map(|cell| 100.0 * cell.accuracy()).collect()).collect();
        let map = HeatMap {
            title: "Passkey: digits found",
            rows: ("tokens", args.lengths.iter().map(ToString::to_string).collect()),
            columns: ("depth", args.depths.iter().map(ToString::to_string).collect()),
            unit: "accuracy, %",
            range: Some((0.0, 100.0)),
            values: &values,
        };
        plot::heat_map(path, &map)?;
    }
    if args.run.json {
        let report = json!({
            "model": info["model"],
            "executor": info["executor"],
            "adapter": info["adapter"],
            "attention": info["attention"],
            "sinks": info["sinks"],
            "window": info["window"],
            "seed": args.run.seed.unwrap_or(SEED),
            "kv_bytes": info["kv_bytes"],
            "memory_bytes": info["memory_bytes"],
            "cells": tables[0].json(),
            "controls": tables[1..].iter().map(Table::control).collect::<Vec<_>>(),
        });
        return Ok(print_json(&report)?);
    }
    Ok(print_tables(args, &tables)?)
}

/// Settings for `streaming` with a cache of at most so many bytes.
fn equal_bytes(args: &PasskeyArgs, settings: &Settings, bytes: u64) -> Result<Settings> {
    let header = pollster::block_on(Gguf::read(&mut open(&args.model)?))?;
    let streaming =
        |window| Settings { attention: Some(Attention::Streaming), window: Some(window), ..settings.clone() };
    let of = |window| {
        let (_, _, model) = lay_out(&header, &streaming(window), Tuning::GPU, u64::MAX)?;
        Ok::<u64, Error>(model.buffers.bytes(Purpose::Cache))
    };
    let (one, two) = (of(1)?, of(2)?);
    let more = bytes.saturating_sub(one) / (two - one).max(1);
    Ok(streaming(1 + u32::try_from(more).unwrap_or(u32::MAX - 1)))
}

/// What was found for one length and one depth.
struct Cell {
    length: u32,
    depth: f64,
    trials: u32,
    /// Tokens of answers, and those that were right.
    asked: u64,
    right: u64,
}

impl Cell {
    fn accuracy(&self) -> f64 {
        self.right as f64 / self.asked as f64
    }
}

/// All lengths and depths, one way.
struct Table {
    name: &'static str,
    sinks: u32,
    window: u32,
    kv_bytes: Value,
    /// Lengths, of each its depths.
    cells: Vec<Cell>,
}

impl Table {
    /// `is_zeroed`: nothing is remembered of what left the open segment.
    fn measure(
        name: &'static str,
        engine: &mut Engine,
        args: &PasskeyArgs,
        is_zeroed: bool,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let tokenizer = engine.tokenizer()?;
        let texts = Texts::new(&tokenizer, args.run.seed.unwrap_or(SEED))?;
        let (keep, mut cells) = (engine.keep(), vec![]);
        for &length in &args.lengths {
            for &depth in &args.depths {
                let mut cell = Cell { length, depth, trials: args.trials, asked: 0, right: 0 };
                for trial in 0..args.trials {
                    let text = texts.text(length, depth, trial)?;
                    let mut session = engine.session();
                    if is_zeroed {
                        session.forget();
                    }
                    cell.right += ask(engine, &mut session, &text.ids, &text.answer, bar)?;
                    cell.asked += text.answer.len() as u64;
                }
                cells.push(cell);
            }
        }
        let kv_bytes = engine.info()["kv_bytes"].clone();
        Ok(Self { name, sinks: keep.sinks, window: keep.window, kv_bytes, cells })
    }

    fn rows<'a>(&'a self, args: &PasskeyArgs) -> impl Iterator<Item = std::slice::Iter<'a, Cell>> {
        self.cells.chunks(args.depths.len()).map(<[Cell]>::iter)
    }

    fn json(&self) -> Vec<Value> {
        let cell = |cell: &Cell| json!({ "length": cell.length, "depth": cell.depth, "trials": cell.trials, "accuracy": cell.accuracy() });
        self.cells.iter().map(cell).collect()
    }

    fn control(&self) -> Value {
        json!({
            "name": self.name,
            "sinks": self.sinks,
            "window": self.window,
            "kv_bytes": self.kv_bytes,
            "cells": self.json(),
        })
    }
}

/// Tokens read between two looks at Ctrl-C.
const STEP: usize = 4096;

/// How many tokens of the answer the model finds behind a text, each with the right ones before it.
fn ask(engine: &mut Engine, session: &mut Session, ids: &[u32], answer: &[u32], bar: &ProgressBar) -> Result<u64> {
    for ids in ids.chunks(STEP) {
        if interrupted() {
            return Err(Error::Aborted);
        }
        pollster::block_on(session.append(engine, ids))?;
        bar.inc(ids.len() as u64);
    }
    let mut right = 0;
    for &wanted in answer {
        let deliver = |id| {
            right += u64::from(id == wanted);
            std::ops::ControlFlow::Continue(())
        };
        pollster::block_on(session.generate(engine, &Sampling::greedy(), 1, deliver))?;
        session.take_back(1)?;
        pollster::block_on(session.append(engine, &[wanted]))?;
    }
    bar.inc(answer.len() as u64);
    Ok(right)
}

/// Lengths down, depths across, one table below the other.
fn print_tables(args: &PasskeyArgs, tables: &[Table]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "answers' tokens found, in % ({} texts a cell), by length in tokens and depth", args.trials)?;
    for table in tables {
        write!(out, "\n{} ({} + {})\n{:>10}", table.name, table.sinks, table.window, "")?;
        for depth in &args.depths {
            write!(out, " {depth:>8}")?;
        }
        writeln!(out)?;
        for (row, length) in table.rows(args).zip(&args.lengths) {
            write!(out, "{length:>10}")?;
            for cell in row {
                write!(out, " {:>8.2}", 100.0 * cell.accuracy())?;
            }
            writeln!(out)?;
        }
    }
    out.flush()
}
