//! `sinkstream streameval`: questions about lines of an endless stream, asked some lines later.
//!
//! The evaluation of StreamingLLM (arXiv 2309.17453, Figs. 8 and 9, Table 7), which its authors did not publish as code.
//! A line is `line 12,345: REGISTER_CONTENT is <678>`; after every tenth comes a question about the line some distance
//! back. While that line is in the cache the model can know the answer; once it has left, nobody can.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sinkstream::config::{Attention, Config, Keep};
use sinkstream::engine::{Engine, Settings};
use sinkstream::gguf::Gguf;
use sinkstream::tokenizer::{Special, Tokenizer};
use sinkstream::{Error, Result, Sampling, Session};

use super::args::{ModelArgs, RunArgs, unlisted, wrong_usage};
use super::plot::{self, Axis, Figure, Scale, Series};
use super::{Outcome, interrupted, load, open, print_json, progress_bar};

/// A question comes after so many lines, as in the paper.
const LINES_PER_QUESTION: u64 = 10;
/// Number of the first line: from here on all lines of a run take about the same number of tokens.
const FIRST_LINE: u64 = 1_000;
/// Counting begins when so many caches full of tokens have been evicted.
const EVICTED_CACHES: u64 = 4;
/// Tokens generated for an answer: three digits and the sign after them are at most four, and one for a space.
const ANSWER_TOKENS: u32 = 5;
/// Seed, if none is given: lines are the same in every run.
const SEED: u32 = 1;

/// The cache sizes are what is swept: no single window.
#[derive(Args)]
#[command(mut_arg("seed", |flag| flag.help("Seed of the numbers in the lines [default: 1]")))]
#[command(mut_args(unlisted(&["window"])))]
pub(crate) struct StreamevalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// How many lines back a question asks; one row each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [10, 20, 30, 40, 60, 80, 100, 150, 200],
        value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    distances: Vec<u64>,
    /// Cache sizes S + R, in tokens; one column each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [256, 512, 1024],
        value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    caches: Vec<u32>,
    /// Questions for each distance and cache
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    queries: u64,
    /// Write the accuracy over the distance as a plot
    #[arg(long, value_name = "F.svg")]
    plot: Option<PathBuf>,
}

pub(crate) fn run(args: &StreamevalArgs) -> Outcome {
    let settings = args.run.settings();
    if settings.attention == Some(Attention::Dense) {
        wrong_usage("--attention dense evicts nothing: there is no distance to sweep");
    }
    if settings.window.is_some() {
        wrong_usage("--window does not go with --caches, which sets S + R");
    }
    let sinks = sinks(args, &settings)?;
    if let Some(cache) = args.caches.iter().find(|&&cache| cache <= sinks) {
        wrong_usage(&format!("--caches {cache}: must be more than the {sinks} sinks, they leave no window"));
    }
    args.plot.as_deref().map_or(Ok(()), plot::check)?;
    let bar = progress_bar(args.run.quiet, "asking");
    bar.set_length(args.queries * (args.caches.len() * args.distances.len()) as u64);
    let (mut cells, mut info) = (vec![], Value::Null);
    for &cache in &args.caches {
        let window = cache - sinks;
        let settings = Settings { window: Some(window), ..settings.clone() };
        let mut engine = load(&args.model, &settings, args.run.quiet || !info.is_null())?;
        info = engine.info();
        for &distance in &args.distances {
            cells.push(measure(&mut engine, args, distance, &bar)?);
        }
    }
    bar.finish_and_clear();
    if let Some(path) = &args.plot {
        plot::lines(path, &[figure(args, &cells)])?;
    }
    if args.run.json {
        let report = json!({
            "model": info["model"],
            "executor": info["executor"],
            "adapter": info["adapter"],
            "attention": info["attention"],
            "seed": args.run.seed.unwrap_or(SEED),
            "rows": cells.iter().map(Cell::row).collect::<Vec<_>>(),
        });
        return Ok(print_json(&report)?);
    }
    Ok(print_table(args, &cells)?)
}

/// S as given, or as the model wants it: `--caches` says S + R.
fn sinks(args: &StreamevalArgs, settings: &Settings) -> Result<u32> {
    let header = pollster::block_on(Gguf::read(&mut open(&args.model)?))?;
    let config = Config::new(&header)?;
    let attention = settings.attention.unwrap_or(config.default_attention());
    if attention == Attention::Infini {
        wrong_usage("--attention infini has no cache size to sweep: use another mode");
    }
    Ok(Keep::new(&config, attention, settings.sinks, None, None)?.sinks)
}

/// What was measured for one cache and one distance.
struct Cell {
    keep: Keep,
    distance: u64,
    /// Mean over the questions of the tokens from the line's end to the question's end.
    distance_tokens: f64,
    /// Questions whose line was still in the cache, whole.
    inside: u64,
    /// Questions whose line had left the cache, whole.
    outside: u64,
    queries: u64,
    correct: u64,
}

impl Cell {
    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.queries as f64
    }

    /// Whether the line was in the cache; `None` if it depends on the question, or on the part of the line.
    fn is_inside(&self) -> Option<bool> {
        match self.queries {
            queries if queries == self.inside => Some(true),
            queries if queries == self.outside => Some(false),
            _ => None,
        }
    }

    fn row(&self) -> Value {
        json!({
            "cache": self.keep.sinks + self.keep.window,
            "sinks": self.keep.sinks,
            "window": self.keep.window,
            "distance_lines": self.distance,
            "distance_tokens": self.distance_tokens,
            "inside": self.is_inside(),
            "queries": self.queries,
            "correct": self.correct,
            "accuracy": self.accuracy(),
        })
    }
}

/// The lines of a stream: what stands in them, and where they stand.
struct Lines<'a> {
    tokenizer: &'a Tokenizer,
    seed: u32,
    /// Positions of the first and the last token of each line, from `FIRST_LINE` on.
    places: Vec<(u64, u64)>,
}

impl Lines<'_> {
    /// The next lines, as the ids that follow on a stream of `position` tokens.
    fn next(&mut self, count: u64, position: u64) -> Result<Vec<u32>> {
        let mut ids = vec![];
        for _ in 0..count {
            let line = FIRST_LINE + self.places.len() as u64;
            let first = position + ids.len() as u64;
            let text = format!("line {}: REGISTER_CONTENT is <{}>\n", grouped(line), self.content(line));
            ids.extend(self.tokenizer.encode(&text, Special::Plain)?);
            self.places.push((first, position + ids.len() as u64 - 1));
        }
        Ok(ids)
    }

    /// The number in a line, below 1,000: the finalizer of `SplitMix64` over seed and line.
    fn content(&self, line: u64) -> u64 {
        let mut x = ((u64::from(self.seed) << 32) + line).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % 1000
    }
}

/// A number with a comma before every third digit from the right.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One stream with questions about one distance, from its first token to the last question.
///
/// The true answer goes into the stream in place of the model's, so that a wrong one does not mislead the next. It gives
/// nothing away: no line is asked about twice.
fn measure(engine: &mut Engine, args: &StreamevalArgs, distance: u64, bar: &ProgressBar) -> Result<Cell> {
    let tokenizer = engine.tokenizer()?;
    let keep = engine.keep();
    let mut lines = Lines { tokenizer: &tokenizer, seed: args.run.seed.unwrap_or(SEED), places: vec![] };
    let mut session = engine.session();
    let mut ids = tokenizer.encode_start("", Special::Plain)?;
    let mut cell = Cell { keep, distance, distance_tokens: 0.0, inside: 0, outside: 0, queries: 0, correct: 0 };
    while cell.queries < args.queries {
        if interrupted() {
            return Err(Error::Aborted);
        }
        ids.extend(lines.next(LINES_PER_QUESTION, session.position() + ids.len() as u64)?);
        let Some(place) = lines.places.len().checked_sub(1 + distance as usize) else { continue };
        let asked = FIRST_LINE + place as u64;
        let question = format!("Query: line {}: REGISTER_CONTENT is <", grouped(asked));
        ids.extend(tokenizer.encode(&question, Special::Plain)?);
        pollster::block_on(session.append(engine, &ids))?;
        let answer = format!("{}>\n", lines.content(asked));
        if session.evicted() >= EVICTED_CACHES * u64::from(keep.sinks + keep.window) {
            let (first, last) = lines.places[place];
            let now = session.position() - 1;
            let sees = |token| token < u64::from(keep.sinks) || token + u64::from(keep.window) >= now;
            cell.inside += u64::from(sees(first) && sees(last));
            cell.outside += u64::from(!sees(first) && !sees(last));
            cell.correct += u64::from(is_answered(&mut session, engine, &tokenizer, answer.trim_end())?);
            cell.queries += 1;
            cell.distance_tokens += ((now - last) as f64 - cell.distance_tokens) / cell.queries as f64;
            bar.inc(1);
        }
        ids = tokenizer.encode(&answer, Special::Plain)?;
    }
    Ok(cell)
}

/// Whether the model, greedily, gives this answer. The stream stays as it was.
fn is_answered(session: &mut Session, engine: &mut Engine, tokenizer: &Tokenizer, answer: &str) -> Result<bool> {
    let mut ids = vec![];
    let generated = pollster::block_on(session.generate(engine, &Sampling::greedy(), ANSWER_TOKENS, |id| {
        ids.push(id);
        std::ops::ControlFlow::Continue(())
    }))?;
    session.take_back(generated)?;
    Ok(tokenizer.decode(&ids)?.trim_start().starts_with(answer))
}

/// Accuracy over distance, a curve for each cache.
fn figure(args: &StreamevalArgs, cells: &[Cell]) -> Figure {
    let curve = |column: &[Cell]| Series {
        name: format!("{} + {}", column[0].keep.sinks, column[0].keep.window),
        points: column.iter().map(|cell| (cell.distance as f64, 100.0 * cell.accuracy())).collect(),
    };
    Figure {
        title: "StreamEval: the answer stands some lines back".into(),
        x: Axis { label: "distance, lines".into(), scale: Scale::Log },
        y: Axis { label: "accuracy, %".into(), scale: Scale::Linear },
        series: cells.chunks(args.distances.len()).map(curve).collect(),
    }
}

/// Distances down, caches across, as in Table 7 of the paper.
fn print_table(args: &StreamevalArgs, cells: &[Cell]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "accuracy in % ({} questions each); * the line has left the cache, ~ in part", args.queries)?;
    write!(out, "{:>8} {:>8}", "lines", "tokens")?;
    let columns: Vec<&[Cell]> = cells.chunks(args.distances.len()).collect();
    for Cell { keep, .. } in columns.iter().filter_map(|column| column.first()) {
        write!(out, " {:>10}", format!("{}+{}", keep.sinks, keep.window))?;
    }
    writeln!(out)?;
    for (n, distance) in args.distances.iter().enumerate() {
        write!(out, "{distance:>8} {:>8.0}", columns[0][n].distance_tokens)?;
        for column in &columns {
            let mark = match column[n].is_inside() {
                Some(true) => ' ',
                Some(false) => '*',
                None => '~',
            };
            write!(out, " {:>9.2}{mark}", 100.0 * column[n].accuracy())?;
        }
        writeln!(out)?;
    }
    out.flush()
}
