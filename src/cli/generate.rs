//! `sinkstream generate`: continues a text, as it comes.

use std::io::{self, IsTerminal, Write};

use serde_json::json;
use sinkstream::platform::seconds;
use sinkstream::stream::{Request, StopReason, TextStream};
use sinkstream::tokenizer::Special;

use super::args::{GenerateArgs, wrong_usage};
use super::{Outcome, interrupted, load, print_json, random_seed, read_file, read_standard_input};

/// Tokens computed between two looks at the terminal and at Ctrl-C. A GPU works in one go; the CPU shows each token.
pub(super) const BURST: u32 = 4;

pub(crate) fn run(args: &GenerateArgs) -> Outcome {
    let seed = args.run.seed.unwrap_or_else(random_seed);
    let sampling = args.sampling.sampling(seed);
    if let Err(error) = sampling.settings() {
        wrong_usage(&error.to_string());
    }
    let prompt = prompt(args)?;
    let mut engine = load(&args.model, &args.run.settings(), args.run.quiet)?;
    if args.run.seed.is_none() && args.sampling.temperature > 0.0 && !args.run.quiet {
        eprintln!("sinkstream: seed {seed}");
    }
    let mut out = io::stdout().lock();
    let show = !args.run.json;
    if args.echo && show {
        out.write_all(prompt.as_bytes())?;
    }

    let tokenizer = engine.tokenizer()?;
    let mut prompt_ids = tokenizer.encode_start(&prompt, Special::Parse)?;
    if prompt_ids.is_empty() {
        prompt_ids.push(tokenizer.bos().unwrap_or(0)); // an empty prompt is BOS
    }
    let mut session = engine.session();
    let request = Request { sampling, max_tokens: args.tokens, ignore_eos: args.ignore_eos, stop: args.stop.clone() };
    let mut stream = TextStream::new(request);
    let burst = if engine.info()["executor"] == "gpu" { BURST } else { 1 };
    let (mut ids, mut text) = (Vec::new(), String::new());

    let started = seconds();
    pollster::block_on(session.append(&mut engine, &prompt_ids))?;
    let mut first_token = None;
    while !interrupted() {
        let Some(pieces) = pollster::block_on(stream.next(&mut engine, &mut session, burst))? else { break };
        first_token.get_or_insert_with(|| (seconds(), pieces.len()));
        for piece in pieces {
            if show {
                out.write_all(piece.text.as_bytes())?;
            } else {
                ids.push(piece.id);
                text.push_str(&piece.text);
            }
        }
        out.flush()?;
    }
    if show {
        return Ok(());
    }
    let ended = seconds();
    let rate =
        |tokens: usize, seconds: f64| if tokens > 0 && seconds > 0.0 { Some(tokens as f64 / seconds) } else { None };
    let (first_at, first_count) = first_token.unwrap_or((ended, 0));
    let report = json!({
        "prompt_ids": prompt_ids,
        "ids": ids,
        "text": text,
        "stop_reason": stream.ended().map_or("interrupt", StopReason::name),
        "seed": seed,
        "prompt_tokens_per_second": rate(prompt_ids.len(), first_at - started),
        "tokens_per_second": rate(ids.len() - first_count.min(ids.len()), ended - first_at),
        "executor": engine.info()["executor"],
        "adapter": engine.info()["adapter"],
    });
    drop(out);
    Ok(print_json(&report)?)
}

fn prompt(args: &GenerateArgs) -> sinkstream::Result<String> {
    let bytes = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => return Ok(prompt.clone()),
        (None, Some(path)) => read_file(path)?,
        (None, None) if io::stdin().is_terminal() => return Ok(String::new()),
        (None, None) => read_standard_input()?,
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
