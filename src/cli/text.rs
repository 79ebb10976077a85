//! The tokens of a text or of a token file, for the commands that score them.

use sinkstream::gguf::Gguf;
use sinkstream::tokenizer::{Special, Tokenizer};
use sinkstream::{Error, Result};

use super::args::{ModelArgs, TextArgs};
use super::{open, read_file};

/// Ids of a JSON array as they are, or else of a text: with BOS or the sink token in front if the model says so. Needs the
/// model's header alone: the number of tokens decides the room that dense attention needs. `most`: so many at most.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read or is no array of ids; those of the tokenizer.
pub(crate) fn read_ids(model: &ModelArgs, text: &TextArgs, most: Option<u64>) -> Result<Vec<u32>> {
    let mut ids = match (&text.tokens_file, &text.text) {
        (Some(path), _) => serde_json::from_slice(&read_file(path)?).map_err(|error| Error::Read {
            what: path.display().to_string(),
            reason: format!("not a JSON array of token ids: {error}"),
        })?,
        (None, Some(path)) => {
            let header = pollster::block_on(Gguf::read(&mut open(model)?))?;
            let text = read_file(path)?;
            Tokenizer::from_gguf(&header)?.encode_start(&String::from_utf8_lossy(&text), Special::Plain)?
        }
        (None, None) => vec![], // clap asks for one of them
    };
    ids.truncate(most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)));
    Ok(ids)
}
