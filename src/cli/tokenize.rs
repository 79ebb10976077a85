//! `sinkstream tokenize`: standard input to ids, or ids to text.

use std::io::Write;

use serde_json::json;
use sinkstream::detokenizer::Detokenizer;
use sinkstream::gguf::Gguf;
use sinkstream::tokenizer::{Special, Tokenizer};
use sinkstream::{Error, Result, hf};

use super::args::TokenizeArgs;
use super::{Outcome, open, print_json, read_file, read_standard_input};

pub(crate) fn run(args: &TokenizeArgs) -> Outcome {
    let tokenizer = tokenizer(args)?;
    let input = read_standard_input()?;
    if args.decode {
        let ids: Vec<u32> = serde_json::from_slice(&input).map_err(|error| Error::Read {
            what: "standard input".into(),
            reason: format!("not a JSON array of token ids: {error}"),
        })?;
        let vocab_size = tokenizer.vocab_size();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Tokenizer(format!("token {id} in a vocabulary of {vocab_size}")).into());
        }
        let mut detokenizer = Detokenizer::at_text_start();
        let mut text: String = ids.iter().map(|&id| detokenizer.push(&tokenizer, id)).collect();
        text.push_str(&detokenizer.finish());
        if args.run.json {
            return Ok(print_json(&json!({ "text": text }))?);
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    }
    let special = if args.no_special { Special::Plain } else { Special::Parse };
    let text = String::from_utf8_lossy(&input);
    let ids = if args.no_bos { tokenizer.encode(&text, special)? } else { tokenizer.encode_start(&text, special)? };
    Ok(print_json(&if args.run.json { json!({ "ids": ids }) } else { json!(ids) })?)
}

/// From a GGUF file of any architecture, a `tokenizer.json`, or a folder that has one.
fn tokenizer(args: &TokenizeArgs) -> Result<Tokenizer> {
    match &args.model.model {
        Some(path) if path.extension().is_some_and(|extension| extension == "json") => {
            Tokenizer::from_json(&read_file(path)?)
        }
        Some(path) if path.is_dir() => {
            Tokenizer::from_gguf(&pollster::block_on(Gguf::read(&mut hf::open_vocabulary(path)?))?)
        }
        _ => Tokenizer::from_gguf(&pollster::block_on(Gguf::read(&mut open(&args.model)?))?),
    }
}
