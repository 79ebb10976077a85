//! The arguments of every command.

mod common;

use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use sinkstream::sampler::Sampling;

pub(crate) use self::common::{AttentionArg, ModelArgs, QuantArg, RUN, RunArgs, unlisted};
use super::bench::BenchArgs;
use super::memory_table::MemoryInfoArgs;
use super::passkey::PasskeyArgs;
use super::serve::ServeArgs;
use super::streameval::StreamevalArgs;

/// Small quantized language models that stream without end.
#[derive(Parser)]
#[command(name = "sinkstream", version, about, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Continue a text, without end if wanted
    Generate(GenerateArgs),
    /// Talk with the model, without end
    Chat(ChatArgs),
    /// How surprised the model is by a text
    Perplexity(PerplexityArgs),
    /// The same text through four attention modes: perplexity and latency by cache size
    Compare(CompareArgs),
    /// How fast it reads and writes with a full cache, beside what the device gives
    Bench(BenchArgs),
    /// Whether the model can still answer for a line of an endless stream, by its distance
    Streameval(StreamevalArgs),
    /// Whether the model finds a number far back in a text, by length and depth
    Passkey(PasskeyArgs),
    /// Text to token ids, and back
    Tokenize(TokenizeArgs),
    /// A Hugging Face folder to a GGUF file
    Convert(ConvertArgs),
    /// Mean attention on the first token, by layer and head
    Inspect(InspectArgs),
    /// What a model file holds and what it will need
    Info(MemoryInfoArgs),
    /// The forward pass as text, one dispatch a line
    Plan(InfoArgs),
    /// The adapters that wgpu finds
    Devices(DevicesArgs),
    /// The demo page on this machine
    Serve(ServeArgs),
}

/// Ends the program as clap does: one message, exit code 2.
pub(crate) fn wrong_usage(message: &str) -> ! {
    use clap::CommandFactory;
    Args::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
}

#[derive(ClapArgs)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Text to continue; standard input is read if this is missing and it is not a terminal
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Stop after N tokens, or at an end token; 0: never
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 0)]
    pub(crate) tokens: u64,
    /// Go on past end tokens, shown as line breaks
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Stop where this text appears; may be given more than once
    #[arg(long, value_name = "TEXT", action = ArgAction::Append, allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Show the prompt too
    #[arg(long)]
    pub(crate) echo: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvictArg {
    /// The oldest token
    Token,
    /// The oldest question with its answer
    Turn,
}

#[derive(ClapArgs)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// What stands before the first question
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// The whole system prompt stays for ever: it becomes the sinks
    #[arg(long, requires = "system")]
    pub(crate) pin_system: bool,
    /// What leaves a full cache
    #[arg(long, value_enum, default_value = "token")]
    pub(crate) evict: EvictArg,
    /// Most tokens of an answer; 0: until the model ends it
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 0)]
    pub(crate) tokens: u64,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(ClapArgs)]
pub(crate) struct SamplingArgs {
    /// 0: always the most likely token
    #[arg(long, default_value_t = 0.8, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Only the K most likely tokens; 0: all
    #[arg(long, default_value_t = 40, value_name = "K")]
    pub(crate) top_k: u32,
    /// Only the most likely tokens that together reach this probability
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub(crate) top_p: f32,
    /// Only tokens at least so likely compared to the most likely one
    #[arg(long, default_value_t = 0.05, value_name = "P")]
    pub(crate) min_p: f32,
    /// Above 1: recent tokens become less likely
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub(crate) repeat_penalty: f32,
    /// How many recent tokens that concerns
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub(crate) repeat_last_n: u32,
}

impl SamplingArgs {
    /// As the library wants it.
    pub(crate) fn sampling(&self, seed: u32) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            seed,
            logprobs: false,
        }
    }
}

/// What is scored.
#[derive(ClapArgs)]
pub(crate) struct TextArgs {
    /// Text file; bytes that are not UTF-8 are replaced
    #[arg(long, value_name = "FILE", required_unless_present = "tokens_file", conflicts_with = "tokens_file")]
    pub(crate) text: Option<PathBuf>,
    /// JSON array of token ids, fed as they are
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens_file: Option<PathBuf>,
}

#[derive(ClapArgs)]
#[command(mut_args(unlisted(&["seed"])))]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// At most so many tokens, the first one counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) tokens: Option<u64>,
    /// Write the NLL of each token but the first, in nats, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub(crate) nll_out: Option<PathBuf>,
    /// Let the stream's counter start here
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub(crate) position: u64,
    /// A row for every N tokens: perplexity, tokens per second, bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) blocks: Option<u64>,
    /// Draw perplexity, speed and memory along the text
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Also from fresh runs, at N tokens of the first and N of the last 100,000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..), conflicts_with = "position")]
    pub(crate) recompute: Option<u64>,
    /// Write down from time to time where the run stands; go on from there if the file exists
    #[arg(long, value_name = "FILE", conflicts_with = "nll_out")]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// Attention and cache sizes are what is compared: single ones change nothing.
#[derive(ClapArgs)]
#[command(mut_args(unlisted(&["attention", "window", "seed"])))]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// At most so many tokens; the time that dense attention takes grows with their square
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) tokens: u64,
    /// Cache sizes S + R, in tokens
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "256,512,768,1024")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub(crate) caches: Vec<u32>,
    /// Write two plots, F-perplexity.svg and F-latency.svg
    #[arg(long, value_name = "F.svg")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(ClapArgs)]
#[command(mut_args(unlisted(&["seed"])))]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// At most so many tokens, the first one counted [default: as many as a query can see, S + R + 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(4..))]
    pub(crate) tokens: Option<u64>,
    /// Draw a heat map, layers by heads
    #[arg(long, value_name = "F.svg")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(ClapArgs)]
#[command(mut_args(unlisted(RUN)))]
#[command(mut_arg("json", |flag| flag.help("Print one JSON object, with the ids or the text in it")))]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Ids to text instead
    #[arg(long)]
    pub(crate) decode: bool,
    /// Without the beginning-of-text token
    #[arg(long)]
    pub(crate) no_bos: bool,
    /// Text that looks like a special token is plain text
    #[arg(long)]
    pub(crate) no_special: bool,
}

#[derive(ClapArgs)]
pub(crate) struct ConvertArgs {
    /// Folder with config.json, safetensors and tokenizer.json
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// GGUF file to write; one that is there is replaced in the end
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// What the matrices become [default: as they are]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) quant: Option<QuantArg>,
    /// Say nothing on standard error but errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(ClapArgs)]
#[command(mut_args(unlisted(&["device", "tier", "threads", "seed", "quiet"])))]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(ClapArgs)]
#[command(mut_args(unlisted(&["model", "quant"])), mut_args(unlisted(RUN)))]
pub(crate) struct DevicesArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
