//! The command line: what the commands share. Results go to standard output, everything else to standard error.

mod args;
mod attention_map;
mod bench;
mod chat;
mod compare;
mod convert;
mod generate;
mod inspect;
mod memory_table;
mod passkey;
mod perplexity;
mod plot;
mod serve;
mod streameval;
mod text;
mod tokenize;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sinkstream::config::{Config, Keep};
use sinkstream::engine::{Engine, Progress, Settings};
use sinkstream::gguf::Gguf;
use sinkstream::{Attention, Error, Result, Source, hf};

use args::{Args, Command, ModelArgs};

/// The model that is compiled into the binary.
static BUNDLED: &[u8] = include_bytes!("../models/sinkstream-2m.gguf");

/// Set by Ctrl-C; long work looks at it between steps.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Set while a person is asked for a line: there is nothing to stop but the program.
static AT_PROMPT: AtomicBool = AtomicBool::new(false);

/// Exit code after Ctrl-C, as shells expect it: 128 + SIGINT.
const INTERRUPT_CODE: u8 = 130;

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    let args = Args::parse(); // exits with 2 on wrong usage
    let handler = ctrlc::set_handler(|| {
        // The second time somebody means it.
        if INTERRUPTED.swap(true, Ordering::SeqCst) || AT_PROMPT.load(Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPT_CODE));
        }
    });
    if let Err(error) = handler {
        eprintln!("sinkstream: Ctrl-C cannot be caught: {error}");
    }
    let result = match args.command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Streameval(args) => streameval::run(&args),
        Command::Passkey(args) => passkey::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => attention_map::run(&args),
        Command::Info(args) => inspect::info(&args),
        Command::Plan(args) => inspect::plan(&args),
        Command::Devices(args) => inspect::devices(&args),
        Command::Serve(args) => serve::run(&args),
    };
    match result {
        Ok(()) if interrupted() => ExitCode::from(INTERRUPT_CODE),
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => fail(&format!("cannot write: {error}")),
        Err(Failure::Library(Error::Aborted)) => ExitCode::from(INTERRUPT_CODE),
        Err(Failure::Library(error)) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("sinkstream: {}", message.replace('\n', " "));
    ExitCode::FAILURE
}

/// Why a command ended early.
enum Failure {
    /// The library's word.
    Library(Error),
    /// Standard output is gone or full.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

type Outcome = std::result::Result<(), Failure>;

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The model's bytes: the file or folder named, or the bundled model.
fn open(model: &ModelArgs) -> Result<Source> {
    match &model.model {
        Some(path) if path.is_dir() => pollster::block_on(hf::open(path, model.quant.map(Into::into))),
        _ if model.quant.is_some() => Err(Error::Settings(
            "--quant is for a folder of safetensors; a GGUF file is read with the types that it has".into(),
        )),
        Some(path) => Source::open(path),
        None => Ok(Source::memory("the bundled model", BUNDLED)),
    }
}

/// Loads the model, with a progress bar on a terminal, and says what it runs on.
fn load(model: &ModelArgs, settings: &Settings, quiet: bool) -> Result<Engine> {
    if settings.sinks.is_some() || settings.window.is_some() {
        check_infini(model, settings)?;
    }
    let bar = progress_bar(quiet, "loading");
    let engine = pollster::block_on(Engine::load(open(model)?, settings, &mut |Progress { loaded, total }| {
        bar.set_length(total);
        bar.set_position(loaded);
    }))?;
    bar.finish_and_clear();
    let keep = engine.keep();
    let seen = u64::from(keep.sinks) + u64::from(keep.window);
    let trained = engine.config().context_length;
    if seen >= u64::from(trained) {
        eprintln!(
            "sinkstream: warning: sinks + window = {seen}, but the model was trained to see {trained} tokens at once"
        );
    }
    if !quiet {
        let info = engine.info();
        let text = |key: &str| info[key].as_str().unwrap_or_default().to_owned();
        eprintln!("sinkstream: {} on {} ({})", text("model"), text("executor").to_uppercase(), text("adapter"));
    }
    Ok(engine)
}

/// Ends the program where flags contradict the segment that a model with a compressive memory fixes.
fn check_infini(model: &ModelArgs, settings: &Settings) -> Result<()> {
    let config = Config::new(&pollster::block_on(Gguf::read(&mut open(model)?))?)?;
    let attention = settings.attention.unwrap_or(config.default_attention());
    if attention == Attention::Infini
        && config.infini.is_some()
        && let Err(error) = Keep::new(&config, attention, settings.sinks, settings.window, None)
    {
        args::wrong_usage(&error.to_string());
    }
    Ok(())
}

/// A progress bar on standard error; hidden in a pipe and with `--quiet`.
fn progress_bar(quiet: bool, what: &'static str) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_message(what)
}

/// Prints one JSON object on a line of its own. Numbers that are not finite become null.
fn print_json(value: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Prints a line.
fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// A seed from the standard library's own randomness.
fn random_seed() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}

/// Standard input, whole.
fn read_standard_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::stdin().lock(), &mut bytes)
        .map_err(|error| Error::Read { what: "standard input".into(), reason: error.to_string() })?;
    Ok(bytes)
}

/// A file, whole.
fn read_file(path: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::Read { what: path.display().to_string(), reason: error.to_string() })
}

/// Writes a file, whole.
fn write_file(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes)
        .map_err(|error| Error::Write { what: path.display().to_string(), reason: error.to_string() })
}
