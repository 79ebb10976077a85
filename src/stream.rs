//! Text that goes on: tokens from a session, whole characters to the reader, until something ends it.

use std::ops::ControlFlow;

use crate::detokenizer::Detokenizer;
use crate::engine::Engine;
use crate::error::Result;
use crate::sampler::Sampling;
use crate::session::{Part, Session, generate_together};
use crate::tokenizer::{Special, Tokenizer};

/// Goes on with a text. A stream that begins with an empty text begins with the model's first token.
///
/// # Errors
/// As [`Session::append`]; [`crate::Error::Tokenizer`].
pub async fn append_text(engine: &mut Engine, session: &mut Session, text: &str) -> Result<()> {
    let ids = encode_text(engine, text, session.cached() == 0)?;
    session.append(engine, &ids).await
}

/// The tokens of a text, with the model's first token in front if it begins a stream.
///
/// # Errors
/// [`crate::Error::Tokenizer`].
pub fn encode_text(engine: &mut Engine, text: &str, begins: bool) -> Result<Vec<u32>> {
    let tokenizer = engine.tokenizer()?;
    let mut ids = match begins {
        true => tokenizer.encode_start(text, Special::Parse)?,
        false => tokenizer.encode(text, Special::Parse)?,
    };
    if ids.is_empty() && begins {
        ids.push(tokenizer.bos().unwrap_or(0));
    }
    Ok(ids)
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// As many tokens as were asked for.
    Length,
    /// The model chose an end token.
    Eos,
    /// A stop text appeared.
    Stop,
}

impl StopReason {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Eos => "eos",
            Self::Stop => "stop",
        }
    }
}

/// What is asked of a stream.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How to choose tokens.
    pub sampling: Sampling,
    /// So many tokens at most; 0: without end.
    pub max_tokens: u64,
    /// An end token is fed like any other and shown as a line break. Always so in a stream without end.
    pub ignore_eos: bool,
    /// Texts that end the stream; they are not shown.
    pub stop: Vec<String>,
}

/// A running generation.
#[derive(Debug)]
pub struct TextStream {
    request: Request,
    detokenizer: Detokenizer,
    /// Text that may be the beginning of a stop text.
    held: String,
    produced: u64,
    ended: Option<StopReason>,
}

/// One token of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The characters that became whole with it; may be empty.
    pub text: String,
    /// Natural logarithm of its probability, if [`Sampling::logprobs`] asks for it.
    pub logprob: Option<f32>,
}

impl TextStream {
    /// A generation that has not begun. Checks nothing: the first step does.
    pub fn new(request: Request) -> Self {
        Self { request, detokenizer: Detokenizer::new(), held: String::new(), produced: 0, ended: None }
    }

    /// Why it ended; `None` while it runs.
    pub fn ended(&self) -> Option<StopReason> {
        self.ended
    }

    /// Generates up to `count` tokens; `None` once the stream has ended. The session stands exactly behind the last
    /// token that was returned; the device may be ahead of it.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`crate::Error::Tokenizer`].
    pub async fn next(&mut self, engine: &mut Engine, session: &mut Session, count: u32) -> Result<Option<Vec<Piece>>> {
        let mut all = next_together(engine, &mut [(self, session)], count).await?;
        Ok(all.pop().flatten())
    }

    /// Counts a token, turns it into text, and sees whether it ends the stream.
    fn take(&mut self, tokenizer: &Tokenizer, id: u32, logprob: Option<f32>) -> Piece {
        self.produced += 1;
        let is_endless = self.request.max_tokens == 0;
        if !tokenizer.is_end(id) {
            self.held.push_str(&self.detokenizer.push(tokenizer, id));
        } else if is_endless || self.request.ignore_eos {
            self.held.push_str(&self.detokenizer.finish());
            self.held.push('\n');
        } else {
            self.ended = Some(StopReason::Eos);
        }
        if let Some(at) = self.request.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            self.ended = Some(StopReason::Stop);
        } else if self.ended.is_none() && self.produced == self.request.max_tokens {
            self.ended = Some(StopReason::Length);
        }
        if matches!(self.ended, Some(StopReason::Length | StopReason::Eos)) {
            self.held.push_str(&self.detokenizer.finish());
        }
        let shown = if self.ended.is_some() { self.held.len() } else { self.held.len() - self.unsettled() };
        Piece { id, text: self.held.drain(..shown).collect(), logprob }
    }

    /// Bytes at the end of `held` that may be the beginning of a stop text.
    fn unsettled(&self) -> usize {
        let begins = |stop: &String| {
            let most = stop.len().min(self.held.len());
            (1..=most).rev().find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n]))
        };
        self.request.stop.iter().filter_map(begins).max().unwrap_or(0)
    }
}

/// [`TextStream::next`] of several streams at once, which costs the device little more than one: of each up to `count`
/// tokens, or `None` once it has ended.
///
/// # Errors
/// As [`generate_together`]; [`crate::Error::Tokenizer`].
pub async fn next_together(
    engine: &mut Engine,
    streams: &mut [(&mut TextStream, &mut Session)],
    count: u32,
) -> Result<Vec<Option<Vec<Piece>>>> {
    let tokenizer = engine.tokenizer()?;
    let mut all: Vec<_> = streams.iter().map(|(stream, _)| stream.ended.is_none().then(Vec::new)).collect();
    let mut parts = Vec::with_capacity(streams.len());
    for ((stream, session), pieces) in streams.iter_mut().zip(&mut all) {
        let Some(pieces) = pieces else { continue };
        let expected = match stream.request.max_tokens {
            0 => u64::MAX,
            most => most - stream.produced,
        };
        let (sampling, count) = (stream.request.sampling, expected.min(u64::from(count)) as u32);
        let tokenizer = &tokenizer;
        let deliver = Box::new(move |id, logprob| {
            pieces.push(stream.take(tokenizer, id, logprob));
            if stream.ended.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        parts.push(Part { session, sampling, count, expected, deliver });
    }
    generate_together(engine, &mut parts).await?;
    drop(parts);
    Ok(all)
}
