//! `sinkstream chat`: a conversation without end. A line is a question; what begins with `/` is for the program.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use sinkstream::chat::Wishes;
use sinkstream::platform::seconds;
use sinkstream::stream::{Request, StopReason, TextStream};
use sinkstream::{Chat, Engine, Error, Message, Result, Session};

use super::args::{AttentionArg, ChatArgs, EvictArg, wrong_usage};
use super::generate::BURST;
use super::{AT_PROMPT, INTERRUPTED, Outcome, interrupted, load, print_json, random_seed, read_file};

const HELP: &str = "\
/save FILE   write the conversation to a file
/load FILE   go on with one from a file
/stats       where the stream stands
/reset       begin anew
/help        this list
/quit        end (so does the end of the input)
Ctrl-C stops an answer; at the prompt it ends the program";

pub(crate) fn run(args: &ChatArgs) -> Outcome {
    let seed = args.run.seed.unwrap_or_else(random_seed);
    let sampling = args.sampling.sampling(seed);
    if let Err(error) = sampling.settings() {
        wrong_usage(&error.to_string());
    }
    check_attention(args);
    let mut engine = load(&args.model, &args.run.settings(), args.run.quiet)?;
    let template = engine.chat_template()?;
    if template.is_plain() {
        eprintln!(
            "sinkstream: warning: the model has no chat template; using plain lines, \"User: …\" and \"Assistant: …\""
        );
    }
    if args.run.seed.is_none() && args.sampling.temperature > 0.0 && !args.run.quiet {
        eprintln!("sinkstream: seed {seed}");
    }
    let wishes = Wishes {
        initial: args
            .system
            .iter()
            .filter(|system| !system.is_empty())
            .map(|system| Message::new("system", system))
            .collect(),
        pin_initial: args.pin_system,
        history: vec![],
        evict_turns: args.evict == EvictArg::Turn,
    };
    let chat = Chat::new(template, wishes);
    // An answer may be endless, but an end token ends it: 0 would mean that it does not.
    let max_tokens = if args.tokens == 0 { u64::MAX } else { args.tokens };
    let request = Request { sampling, max_tokens, ignore_eos: false, stop: chat.stop() };
    let session = engine.session();
    let mut talk = Talk { engine, session, chat, request, show: !args.run.json, rate: None };

    let mut turns = Vec::new();
    while let Some(line) = read_line(args.run.quiet)? {
        match line.trim() {
            "" => {}
            "/quit" => break,
            command if command.starts_with('/') => {
                // A command that fails leaves the conversation as it was.
                if let Err(error) = talk.obey(command) {
                    eprintln!("sinkstream: {error}");
                }
            }
            question => {
                let answer = talk.answer(question)?;
                if !talk.show {
                    turns.push(answer);
                }
            }
        }
    }
    if talk.show {
        return Ok(());
    }
    let (executor, adapter) = (&talk.engine.info()["executor"], &talk.engine.info()["adapter"]);
    let report =
        json!({ "turns": turns, "stats": talk.stats(), "seed": seed, "executor": executor, "adapter": adapter });
    Ok(print_json(&report)?)
}

/// Ends the program where the attention mode has no sinks to pin or no window to lose turns from.
fn check_attention(args: &ChatArgs) {
    let is_one_of = |modes: &[AttentionArg]| args.run.attention.is_none_or(|mode| modes.contains(&mode));
    if args.pin_system && !is_one_of(&[AttentionArg::Streaming]) {
        wrong_usage("--pin-system needs --attention streaming");
    }
    if args.evict == EvictArg::Turn && !is_one_of(&[AttentionArg::Streaming, AttentionArg::Window]) {
        wrong_usage("--evict turn needs --attention streaming or window");
    }
}

/// The next line of standard input, with a prompt on a terminal; `None` at the end. Ctrl-C ends the program here.
fn read_line(quiet: bool) -> io::Result<Option<String>> {
    let mut input = io::stdin().lock();
    if input.is_terminal() && !quiet {
        eprint!("> ");
    }
    let mut bytes = Vec::new();
    AT_PROMPT.store(true, Ordering::SeqCst);
    if interrupted() {
        return Ok(None); // it came while nobody answered
    }
    let count = input.read_until(b'\n', &mut bytes);
    AT_PROMPT.store(false, Ordering::SeqCst);
    Ok((count? > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// A running conversation.
struct Talk {
    engine: Engine,
    session: Session,
    chat: Chat,
    request: Request,
    /// Answers go to standard output as they come.
    show: bool,
    /// Tokens a second of the last answer, the first token not counted.
    rate: Option<f64>,
}

impl Talk {
    /// Asks and shows the answer until it ends or Ctrl-C comes.
    fn answer(&mut self, question: &str) -> std::result::Result<Value, super::Failure> {
        let Self { engine, session, chat, .. } = self;
        pollster::block_on(chat.ask(engine, session, question))?;
        let mut out = io::stdout().lock();
        let mut stream = TextStream::new(self.request.clone());
        let burst = if engine.info()["executor"] == "gpu" { BURST } else { 1 };
        let (mut ids, mut text, mut shown) = (Vec::new(), String::new(), 0);
        let mut started = None;
        while !interrupted() {
            let Some(pieces) = pollster::block_on(stream.next(engine, session, burst))? else { break };
            started.get_or_insert_with(|| (seconds(), pieces.len()));
            for piece in pieces {
                ids.push(piece.id);
                text.push_str(&piece.text);
            }
            let begin = text.len() - text.trim_start().len(); // the space behind the header is not the answer's
            if self.show {
                out.write_all(&text.as_bytes()[begin.max(shown)..])?;
                out.flush()?;
            }
            shown = text.len();
        }
        INTERRUPTED.store(false, Ordering::SeqCst);
        if stream.ended() == Some(StopReason::Stop) {
            chat.take_stop_back(&*engine.tokenizer()?, session, &ids, text.len())?;
        }
        if self.show {
            writeln!(out)?;
            out.flush()?;
        }
        self.rate = started.and_then(|(at, first)| {
            let (tokens, elapsed) = (ids.len() - first, seconds() - at);
            (tokens > 0 && elapsed > 0.0).then(|| tokens as f64 / elapsed)
        });
        let stop_reason = stream.ended().map_or("interrupt", StopReason::name);
        Ok(json!({ "user": question, "text": text.trim_start(), "ids": ids, "stop_reason": stop_reason }))
    }

    /// Does what a line that begins with `/` says.
    fn obey(&mut self, command: &str) -> Result<()> {
        let (name, file) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, file.trim()) {
            ("/save" | "/load", "") => return Err(Error::Settings(format!("{name} needs the name of a file"))),
            ("/save", file) => {
                let state = self.chat.state().to_string();
                let bytes = pollster::block_on(self.session.save(&mut self.engine, state.as_bytes()))?;
                replace_file(Path::new(file), &bytes)?;
                eprintln!("{} bytes saved", bytes.len());
            }
            ("/load", file) => {
                let bytes = read_file(Path::new(file))?;
                let (session, state) = pollster::block_on(Session::restore(&mut self.engine, &bytes))?;
                self.session = session;
                self.chat.resume(&serde_json::from_slice(&state).unwrap_or_default());
                eprintln!("{} turns loaded", self.chat.turns());
            }
            ("/stats", "") => eprintln!("{}", self.describe()),
            ("/reset", "") => {
                self.session = self.engine.session();
                self.chat.reset();
            }
            ("/help", "") => eprintln!("{HELP}"),
            _ => return Err(Error::Settings(format!("there is no command {command}; /help lists them"))),
        }
        Ok(())
    }

    /// Where the stream stands, for a report.
    fn stats(&self) -> Value {
        json!({
            "turns": self.chat.turns(),
            "position": self.session.position(),
            "evicted": self.session.evicted(),
            "cached": self.session.cached(),
            "sinks": self.session.sinks(),
            "window": self.session.window(),
            "memory_bytes": self.engine.bytes(),
            "system_prompt_in_place": self.chat.initial_in_place(&self.session),
            "tokens_per_second": self.rate,
        })
    }

    /// Where the stream stands, for a person.
    fn describe(&self) -> String {
        let session = &self.session;
        let system = match self.chat.initial_in_place(session) {
            None => "none",
            Some(true) => "in place",
            Some(false) => "scrolled out",
        };
        let rate = self.rate.map_or_else(|| "-".into(), |rate| format!("{rate:.1}"));
        format!(
            "turns {}, position {}, evicted {}, cached {}, sinks pinned {}, window {}, memory {} bytes, system prompt {system}, \
             tokens per second {rate}",
            self.chat.turns(),
            session.position(),
            session.evicted(),
            session.cached(),
            session.sinks(),
            session.window(),
            self.engine.bytes(),
        )
    }
}

/// Writes a file whole or not at all: a new one beside it takes its place.
fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&name);
    let written = std::fs::File::create(part)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(part, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(part); // it may never have been there
        Error::Settings(format!("cannot write {}: {error}", path.display()))
    })
}
