//! `sinkstream perplexity`: how surprised the model is by a text, token by token.

mod running;

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sinkstream::config::{Attention, Keep};
use sinkstream::engine::Settings;
use sinkstream::platform::seconds;
use sinkstream::{Engine, Error, Result, Session};

use self::running::Running;
use super::args::{PerplexityArgs, wrong_usage};
use super::plot::{self, Axis, Figure, Scale, Series};
use super::text::read_ids;
use super::{Failure, Outcome, interrupted, load, print_json, print_line, progress_bar, read_file, write_file};

/// Tokens scored between two looks at Ctrl-C.
const STEP: usize = 1024;
/// Tokens at either end of a text among which the pairs with fresh runs are spread.
const ENDS: u64 = 100_000;
/// Rows of a plot for which no block was given.
const PLOTTED_BLOCKS: u64 = 100;
/// Seconds between two checkpoints.
const CHECKPOINT_SECONDS: f64 = 20.0;

pub(crate) fn run(args: &PerplexityArgs) -> Outcome {
    let settings = Settings { scores: true, ..args.run.settings() };
    let ids = read_ids(&args.model, &args.text, args.tokens)?;
    if let Some(path) = &args.plot {
        plot::check(path)?;
    }
    if ids.len() < 2 {
        return Err(Error::Settings(format!("{} tokens: perplexity needs at least two", ids.len())).into());
    }
    let settings = Settings { expected: u32::try_from(ids.len()).ok(), ..settings };
    let mut engine = load(&args.model, &settings, args.run.quiet)?;
    let bytes_at_start = engine.bytes();
    let keep = engine.keep();
    let capacity = u64::from(keep.sinks) + u64::from(keep.window);
    let mut fresh = Fresh::new(args, &settings, &ids, keep)?;

    let block = args.blocks.or(args.plot.as_ref().map(|_| (ids.len() as u64 / PLOTTED_BLOCKS).max(1)));
    let text = name_of(&ids, args, block);
    let (mut session, mut running) = match args.checkpoint.as_deref().filter(|path| path.exists()) {
        Some(path) => resume(&mut engine, path, &text)?,
        None => (begin(&mut engine, args.position, ids[0])?, Running::default()),
    };
    let bar = progress_bar(args.run.quiet, "scoring");
    bar.set_length(ids.len() as u64);
    let mut nlls: Vec<f32> = Vec::new();
    let mut saved = seconds();
    while running.all.tokens + 1 < ids.len() as u64 {
        let is_over = interrupted();
        if let Some(path) = args.checkpoint.as_deref().filter(|_| is_over || seconds() - saved > CHECKPOINT_SECONDS) {
            save(&session, &mut engine, path, &running.to_json(&text))?;
            saved = seconds();
        }
        if is_over {
            return Err(Error::Aborted.into());
        }
        let first = running.all.tokens as usize + 1;
        let room = block.map_or(STEP, |block| STEP.min((block - running.block.tokens) as usize));
        let piece = &ids[first..ids.len().min(first + room)];
        let started = seconds();
        let found = pollster::block_on(session.score(&mut engine, piece))?;
        running.add_seconds(seconds() - started);
        for (place, nll) in (first as u64..).zip(&found) {
            running.add(*nll, capacity);
            if let Some(fresh) = fresh.as_mut().filter(|fresh| fresh.places.binary_search(&place).is_ok()) {
                running.pairs.push((place, *nll, fresh.nll(&ids, place as usize)?));
            }
        }
        if args.nll_out.is_some() {
            nlls.extend(&found);
        }
        if block == Some(running.block.tokens) {
            let row = running.end_block(engine.bytes());
            if args.blocks.is_some() && !args.run.json {
                bar.suspend(|| print_row(row))?;
            }
        }
        bar.set_position(running.all.tokens);
    }
    bar.finish_and_clear();

    if let Some(path) = &args.checkpoint {
        save(&session, &mut engine, path, &running.to_json(&text))?;
    }
    if let Some(path) = &args.nll_out {
        let finite: Vec<Option<f32>> = nlls.iter().map(|nll| Some(*nll).filter(|nll| nll.is_finite())).collect();
        write_file(path, &serde_json::to_vec(&finite).map_err(std::io::Error::from)?)?;
    }
    if let Some(path) = &args.plot {
        plot::lines(path, &figures(&running.blocks))?;
    }
    let after_eviction = Some(&running.after_eviction).filter(|sums| sums.tokens > 0);
    let info = engine.info();
    let mut report = json!({
        "tokens": ids.len(),
        "mean_nll": running.all.mean(),
        "perplexity": running.all.mean().exp(),
        "perplexity_after_eviction": after_eviction.map(|sums| sums.mean().exp()),
        "evicted_tokens": running.all.tokens.saturating_sub(capacity),
        "seconds": running.all.seconds,
        "tokens_per_second": ids.len() as f64 / running.all.seconds,
        "kv_bytes": info["kv_bytes"],
        "gpu_bytes_at_start": bytes_at_start,
        "gpu_bytes_at_end": engine.bytes(),
        "attention": info["attention"],
        "sinks": info["sinks"],
        "window": info["window"],
        "executor": info["executor"],
        "adapter": info["adapter"],
    });
    if block.is_some() {
        report["blocks"] = running.blocks.clone().into();
    }
    if let Some(fresh) = &fresh {
        report["recompute"] = fresh.ends.iter().map(|end| running.paired(end.clone())).collect();
    }
    if args.run.json {
        return Ok(print_json(&report)?);
    }
    let after =
        after_eviction.map_or(String::new(), |sums| format!(", {:.4} after the first eviction", sums.mean().exp()));
    print_line(&format!(
        "perplexity {:.4}{after} ({} tokens, {:.0} tokens/s)",
        running.all.mean().exp(),
        ids.len(),
        ids.len() as f64 / running.all.seconds
    ))?;
    for end in report["recompute"].as_array().into_iter().flatten() {
        print_line(&format!(
            "tokens {} to {}: {} pairs, streaming / recompute {:.4} (standard error of its logarithm {:.4})",
            end["from"],
            end["to"],
            end["pairs"],
            end["ratio"].as_f64().unwrap_or(f64::NAN),
            end["standard_error"].as_f64().unwrap_or(f64::NAN)
        ))?;
    }
    Ok(())
}

/// A stream that has been given its first token.
fn begin(engine: &mut Engine, position: u64, first: u32) -> Result<Session> {
    let mut session = engine.session();
    session.start_at(position);
    pollster::block_on(session.append(engine, &[first]))?;
    Ok(session)
}

/// One block's row for people.
fn print_row(row: &Value) -> std::io::Result<()> {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    print_line(&format!(
        "{:>10} tokens  perplexity {:>9.4}  running {:>9.4}  {:>7.0} tokens/s  {} bytes",
        row["tokens"],
        number("perplexity"),
        number("running_perplexity"),
        number("tokens_per_second"),
        row["bytes"]
    ))
}

/// The rows as curves.
fn figures(blocks: &[Value]) -> [Figure; 3] {
    let scaled = |name: &str, key: &str, unit: f64| Series {
        name: name.into(),
        points: blocks.iter().filter_map(|row| Some((row["tokens"].as_f64()?, row[key].as_f64()? / unit))).collect(),
    };
    let series = |name: &str, key: &str| scaled(name, key, 1.0);
    let figure = |title: &str, label: &str, series: Vec<Series>| Figure {
        title: title.into(),
        x: Axis { label: "position in the stream (tokens)".into(), scale: Scale::Linear },
        y: Axis { label: label.into(), scale: Scale::Linear },
        series,
    };
    [
        figure(
            "Perplexity along the stream",
            "perplexity",
            vec![series("of each block", "perplexity"), series("so far", "running_perplexity")],
        ),
        figure("Speed", "tokens per second", vec![series("of each block", "tokens_per_second")]),
        figure("Memory", "held by the executor (MB)", vec![scaled("after each block", "bytes", 1e6)]),
    ]
}

/// What a checkpoint must have been made of: the ids, and how they are cut into rows and pairs.
fn name_of(ids: &[u32], args: &PerplexityArgs, block: Option<u64>) -> String {
    let mut hash = Sha256::new();
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let sinks = args.run.sinks; // a saved session knows the size of its cache, and would keep its own S
    format!("{hex} sinks {sinks:?} position {} blocks {block:?} recompute {:?}", args.position, args.recompute)
}

/// Where a run stood.
fn resume(engine: &mut Engine, path: &Path, text: &str) -> Result<(Session, Running)> {
    let named = |error| Error::Read { what: path.display().to_string(), reason: format!("{error}") };
    let (session, note) = pollster::block_on(Session::restore(engine, &read_file(path)?)).map_err(named)?;
    let note: Value = serde_json::from_slice(&note).map_err(|_| named(Error::Snapshot("it is of no run".into())))?;
    Ok((session, Running::from_json(&note, text).map_err(named)?))
}

/// Writes where a run stands: all of it or nothing.
fn save(session: &Session, engine: &mut Engine, path: &Path, note: &Value) -> std::result::Result<(), Failure> {
    let bytes = pollster::block_on(session.save(engine, note.to_string().as_bytes()))?;
    let part = path.with_extension("part");
    write_file(&part, &bytes)?;
    Ok(std::fs::rename(&part, path)?)
}

/// The same model, given every token of some places in a fresh run over the tokens that a stream could see.
struct Fresh {
    engine: Engine,
    /// Ascending.
    places: Vec<u64>,
    /// The first and the last places of the text.
    ends: [std::ops::Range<u64>; 2],
}

impl Fresh {
    /// None if the arguments do not ask for it.
    fn new(args: &PerplexityArgs, settings: &Settings, ids: &[u32], keep: Keep) -> Result<Option<Self>> {
        let Some(count) = args.recompute else { return Ok(None) };
        let capacity = u64::from(keep.sinks) + u64::from(keep.window);
        if keep.attention != Attention::Streaming {
            wrong_usage("--recompute goes with --attention streaming");
        }
        let tokens = ids.len() as u64;
        let span = ENDS.min(tokens / 2);
        if capacity + 2 + count > span {
            return Err(Error::Settings(format!(
                "{tokens} tokens are too few for --recompute {count}: either half needs {} and more",
                capacity + 2 + count
            )));
        }
        let ends = [capacity + 2..span, tokens - span..tokens];
        let spread = |end: &std::ops::Range<u64>| {
            let (start, length) = (end.start, end.end - end.start);
            (0..count).map(move |n| start + n * length / count)
        };
        let places = ends.iter().flat_map(spread).collect();
        let settings = Settings { attention: Some(Attention::Recompute), ..settings.clone() };
        Ok(Some(Self { engine: load(&args.model, &settings, true)?, places, ends }))
    }

    /// The NLL of the token at a place.
    fn nll(&mut self, ids: &[u32], place: usize) -> Result<f32> {
        let from = place.saturating_sub(self.engine.keep().window as usize + 1).max(1);
        let mut session = begin(&mut self.engine, 0, ids[0])?; // a sink token stays in front
        pollster::block_on(session.append(&mut self.engine, &ids[from..place]))?;
        let nlls = pollster::block_on(session.score(&mut self.engine, &ids[place..=place]))?;
        nlls.first().copied().ok_or(Error::Aborted)
    }
}
