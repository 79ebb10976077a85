//! `sinkstream convert`: a Hugging Face folder to a GGUF file.

use sinkstream::{Error, hf};

use super::args::ConvertArgs;
use super::{Outcome, interrupted, progress_bar};

pub(crate) fn run(args: &ConvertArgs) -> Outcome {
    let bar = progress_bar(args.quiet, "converting");
    let quant = args.quant.map(Into::into);
    pollster::block_on(hf::convert(&args.source, &args.target, quant, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.loaded);
        if interrupted() { Err(Error::Aborted) } else { Ok(()) }
    }))?;
    bar.finish_and_clear();
    Ok(())
}
