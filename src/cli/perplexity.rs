//! `sinkstream perplexity`: how surprised the model is by a text, token by token.

use serde_json::json;
use sinkstream::engine::Settings;
use sinkstream::gguf::Gguf;
use sinkstream::platform::seconds;
use sinkstream::tokenizer::{Special, Tokenizer};
use sinkstream::{Error, Result};

use super::args::{ModelArgs, PerplexityArgs};
use super::{Outcome, interrupted, load, open, print_json, progress_bar, read_file};

/// Tokens scored between two looks at Ctrl-C.
const STEP: usize = 1024;

pub(crate) fn run(args: &PerplexityArgs) -> Outcome {
    let settings = Settings { scores: true, ..args.run.settings() };
    let ids = match (&args.tokens_file, &args.text) {
        (Some(path), _) => read_ids(path)?,
        (None, Some(path)) => encode(&args.model, &String::from_utf8_lossy(&read_file(path)?))?,
        (None, None) => vec![], // clap asks for one of them
    };
    let ids = limited(ids, args.tokens);
    if ids.len() < 2 {
        return Err(Error::Settings(format!("{} tokens: perplexity needs at least two", ids.len())).into());
    }
    let mut engine =
        load(&args.model, &Settings { expected: u32::try_from(ids.len()).ok(), ..settings }, args.run.quiet)?;
    let bytes_at_start = engine.bytes();
    let mut session = engine.session();
    session.start_at(args.position);
    let bar = progress_bar(args.run.quiet, "scoring");
    bar.set_length(ids.len() as u64);

    let started = seconds();
    pollster::block_on(session.append(&mut engine, &ids[..1]))?;
    let mut nlls: Vec<f32> = Vec::with_capacity(ids.len() - 1);
    for piece in ids[1..].chunks(STEP) {
        if interrupted() {
            return Err(Error::Aborted.into());
        }
        nlls.extend(pollster::block_on(session.score(&mut engine, piece))?);
        bar.set_position(nlls.len() as u64);
    }
    let took = seconds() - started;
    bar.finish_and_clear();

    if let Some(path) = &args.nll_out {
        let finite: Vec<Option<f32>> = nlls.iter().map(|nll| Some(*nll).filter(|nll| nll.is_finite())).collect();
        let write =
            serde_json::to_vec(&finite).map_err(std::io::Error::from).and_then(|json| std::fs::write(path, json));
        write.map_err(|error| Error::Read {
            what: format!("{} (to write it)", path.display()),
            reason: error.to_string(),
        })?;
    }
    let keep = engine.keep();
    let capacity = keep.sinks as usize + keep.window as usize;
    let after_eviction = nlls.get(capacity + 1..).filter(|nlls| !nlls.is_empty());
    let mean_nll = mean(&nlls);
    let info = engine.info();
    let report = json!({
        "tokens": ids.len(),
        "mean_nll": mean_nll,
        "perplexity": mean_nll.exp(),
        "perplexity_after_eviction": after_eviction.map(|nlls| mean(nlls).exp()),
        "evicted_tokens": (ids.len() - 1).saturating_sub(capacity),
        "seconds": took,
        "tokens_per_second": ids.len() as f64 / took,
        "kv_bytes": info["kv_bytes"],
        "gpu_bytes_at_start": bytes_at_start,
        "gpu_bytes_at_end": engine.bytes(),
        "attention": info["attention"],
        "sinks": info["sinks"],
        "window": info["window"],
        "executor": info["executor"],
        "adapter": info["adapter"],
    });
    if args.run.json {
        return Ok(print_json(&report)?);
    }
    let after =
        after_eviction.map_or(String::new(), |nlls| format!(", {:.4} after the first eviction", mean(nlls).exp()));
    use std::io::Write;
    writeln!(
        std::io::stdout(),
        "perplexity {:.4}{after} ({} tokens, {:.0} tokens/s)",
        mean_nll.exp(),
        ids.len(),
        ids.len() as f64 / took
    )?;
    Ok(())
}

/// The mean in f64: a sum over millions of tokens.
fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}

fn limited(mut ids: Vec<u32>, most: Option<u64>) -> Vec<u32> {
    ids.truncate(most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)));
    ids
}

/// A JSON array of ids.
pub(super) fn read_ids(path: &std::path::Path) -> Result<Vec<u32>> {
    serde_json::from_slice(&read_file(path)?).map_err(|error| Error::Read {
        what: path.display().to_string(),
        reason: format!("not a JSON array of token ids: {error}"),
    })
}

/// The text's ids, from the model's header alone: the number of tokens decides the room that dense attention needs.
pub(super) fn encode(model: &ModelArgs, text: &str) -> Result<Vec<u32>> {
    let header = pollster::block_on(Gguf::read(&mut open(model)?))?;
    Tokenizer::from_gguf(&header)?.encode_start(text, Special::Plain)
}
