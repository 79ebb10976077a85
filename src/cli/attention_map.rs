//! `sinkstream inspect`: how much every head attends to the first token, over a text (Fig. 7 of `StreamingLLM`).

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::json;
use sinkstream::attention_map::AttentionMap;
use sinkstream::config::{Attention, Config, Keep};
use sinkstream::engine::Settings;
use sinkstream::gguf::Gguf;
use sinkstream::{Error, Result};

use super::args::InspectArgs;
use super::plot::HeatMap;
use super::text::read_ids;
use super::{Outcome, interrupted, open, plot, print_json, progress_bar};

/// Tokens read between two looks at Ctrl-C.
const STEP: usize = 128;

/// Fewest tokens that leave something to average.
const FEWEST: usize = 4;

pub(crate) fn run(args: &InspectArgs) -> Outcome {
    let ids = tokens(args)?;
    if ids.len() < FEWEST {
        return Err(Error::Settings(format!("{} tokens: inspect needs at least {FEWEST}", ids.len())).into());
    }
    // The first queries see so little that the first token is much of it.
    let first_query = ids.len() / 4;
    let settings = Settings { expected: u32::try_from(ids.len()).ok(), ..args.run.settings() };
    let mut map = pollster::block_on(AttentionMap::load(open(&args.model)?, &settings, first_query as u64))?;
    let bar = progress_bar(args.run.quiet, "looking");
    bar.set_length(ids.len() as u64);
    for piece in ids.chunks(STEP) {
        if interrupted() {
            return Err(Error::Aborted.into());
        }
        pollster::block_on(map.append(piece))?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();

    let (layers, info) = (map.mean(), map.info());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let mean_by_layer: Vec<f64> = layers.iter().map(|heads| mean(heads)).collect();
    if let Some(path) = &args.plot {
        let title = format!("Attention on the first token: {}", info["model"].as_str().unwrap_or_default());
        let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect();
        let map = HeatMap {
            title: &title,
            rows: ("layer", numbers(layers.len())),
            columns: ("head", numbers(layers.first().map_or(0, Vec::len))),
            unit: "mean attention",
            range: None,
            values: &layers,
        };
        plot::heat_map(path, &map)?;
    }
    if args.run.json {
        let mut report = info;
        report["tokens"] = ids.len().into();
        report["first_query"] = first_query.into();
        report["layers"] = json!(layers);
        report["mean_by_layer"] = json!(mean_by_layer);
        return Ok(print_json(&report)?);
    }
    let mut text = format!(
        "attention on the first of {} tokens, mean over the queries from number {first_query} on\n\nlayer   mean   heads\n",
        ids.len()
    );
    for (n, (heads, mean)) in layers.iter().zip(&mean_by_layer).enumerate() {
        let heads: Vec<String> = heads.iter().map(|value| format!("{value:.3}")).collect();
        let _ = writeln!(text, "{n:>5}  {mean:.3}   {}", heads.join(" "));
    }
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// The tokens to read: as many as wanted, or as a query can see.
fn tokens(args: &InspectArgs) -> Result<Vec<u32>> {
    let most = match args.tokens {
        Some(tokens) => tokens,
        None => {
            let settings = args.run.settings();
            let header = pollster::block_on(Gguf::read(&mut open(&args.model)?))?;
            let config = Config::new(&header)?;
            let attention = settings.attention.unwrap_or(config.default_attention());
            let keep = Keep::new(&config, attention, settings.sinks, settings.window, None)?;
            let itself = u64::from(keep.attention != Attention::Dense); // a dense cache holds it already
            u64::from(keep.sinks) + u64::from(keep.window) + itself
        }
    };
    read_ids(&args.model, &args.text, Some(most))
}
