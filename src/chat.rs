//! A conversation on a stream: each turn's text, in the form of the model's template, goes in once and scrolls out of
//! the window like any other. Nothing is rendered or read twice.

mod python;
mod template;

use serde_json::{Value, json};

pub use python::Clock;
pub use template::{ChatTemplate, Message, Part};

use crate::detokenizer::Detokenizer;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::tokenizer::{Special, Tokenizer};

/// Most tokens of a stop text: with those that were computed ahead, no more than the ring can take back.
const MAX_STOP: usize = 16;

/// Most tokens at the end of what is opened that become others with what comes behind them.
const MAX_JOINED: usize = 4;

/// What a conversation wants of its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// What stands before the first question, a system prompt above all; empty for nothing (or what the template itself
    /// puts there).
    pub initial: Vec<Message>,
    /// All of that, with what the model puts before it, becomes the sinks.
    pub pin_initial: bool,
    /// What was said between the initial messages and the first question, elsewhere.
    pub history: Vec<Message>,
    /// A full cache loses whole turns, a question with its answer, instead of single tokens.
    pub evict_turns: bool,
}

/// Where a conversation stands.
#[derive(Debug)]
pub struct Chat {
    template: ChatTemplate,
    wishes: Wishes,
    turns: u64,
    /// Whether the last turn was only told: there is no answer to close.
    is_told: bool,
    /// Tokens at the start of the stream that are the initial messages.
    initial_tokens: u32,
    /// All tokens of the stream, as long as [`Self::open`] has put them there.
    opened: Vec<u32>,
}

impl Chat {
    /// A conversation that has not begun.
    pub fn new(template: ChatTemplate, wishes: Wishes) -> Self {
        Self { template, wishes, turns: 0, is_told: false, initial_tokens: 0, opened: vec![] }
    }

    /// The model's template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Questions asked so far.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Whether the model still sees all of the initial messages; `None` if there are none.
    pub fn initial_in_place(&self, session: &Session) -> Option<bool> {
        let is_whole = self.initial_tokens <= session.sinks() || session.evicted() == 0;
        (self.initial_tokens > 0).then_some(is_whole)
    }

    /// Texts that end an answer, besides the model's end tokens: without a template there is no token that says so.
    pub fn stop(&self) -> Vec<String> {
        if self.template.is_plain() { vec!["\nUser:".into()] } else { vec![] }
    }

    /// Forgets the conversation. It goes on with an empty session.
    pub fn reset(&mut self) {
        (self.turns, self.is_told, self.initial_tokens) = (0, false, 0);
        self.opened.clear();
    }

    /// Where it stands, for a snapshot of its session.
    pub fn state(&self) -> Value {
        json!({ "turns": self.turns, "is_told": self.is_told, "system_tokens": self.initial_tokens, "opened": self.opened })
    }

    /// Goes on where a snapshot was taken. A stream that was no conversation counts as one that has begun.
    pub fn resume(&mut self, state: &Value) {
        let number = |key: &str| state[key].as_u64();
        self.turns = number("turns").unwrap_or(1);
        self.is_told = state["is_told"] == true;
        self.initial_tokens = number("system_tokens").and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(0);
        let ids = state["opened"].as_array().into_iter().flatten();
        self.opened = ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect();
    }

    /// Takes a stop text back that ended an answer of `ids`, of which `shown` bytes are the answer: the stream ends where
    /// the answer does, as far as tokens allow. Looks at the last [`MAX_STOP`] tokens.
    ///
    /// # Errors
    /// As [`Session::take_back`].
    pub fn take_stop_back(
        &self,
        tokenizer: &Tokenizer,
        session: &mut Session,
        ids: &[u32],
        shown: usize,
    ) -> Result<()> {
        let mut detokenizer = Detokenizer::new();
        let mut bytes = 0;
        let belongs = |id: &&u32| {
            bytes += detokenizer.push(tokenizer, **id).len();
            bytes <= shown
        };
        let excess = ids.len() - ids.iter().take_while(belongs).count();
        session.take_back(excess.min(MAX_STOP) as u32)
    }

    /// Puts the initial messages and the history into the empty stream now, and not only with the first question.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn open(&mut self, engine: &mut Engine, session: &mut Session) -> Result<()> {
        let Wishes { initial, history, evict_turns, .. } = &self.wishes;
        let (is_empty, has_turns) = (initial.is_empty() && history.is_empty(), *evict_turns && !history.is_empty());
        if self.turns > 0 || is_empty {
            return Ok(());
        }
        let (ids, head) = self.beginning(&*engine.tokenizer()?)?;
        self.pin(session, head)?;
        session.append(engine, &ids[..head]).await?;
        if has_turns {
            session.begin_turn();
        }
        session.append(engine, &ids[head..]).await?;
        self.opened = ids;
        Ok(())
    }

    /// Puts a question into the stream, up to where the answer begins. What the template writes behind an answer goes
    /// in with the next question, once: an end token that the model chose itself is not repeated, and one that the
    /// template does not use there is taken back.
    ///
    /// # Errors
    /// [`Error::Template`]; [`Error::Settings`] if the initial messages do not fit into the cache; as [`Session::append`].
    pub async fn ask(&mut self, engine: &mut Engine, session: &mut Session, user: &str) -> Result<()> {
        self.turn(engine, session, user, true).await
    }

    /// Puts what the user says into the stream as a turn that wants no answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn tell(&mut self, engine: &mut Engine, session: &mut Session, user: &str) -> Result<()> {
        self.turn(engine, session, user, false).await
    }

    async fn turn(&mut self, engine: &mut Engine, session: &mut Session, user: &str, wants_answer: bool) -> Result<()> {
        let tokenizer = engine.tokenizer()?;
        let (ids, head) = if self.turns == 0 {
            let (mut ids, mut head) = self.opening(&tokenizer, user, wants_answer)?;
            if self.opened.is_empty() {
                self.pin(session, head)?;
            } else {
                // The first words may have joined the last token. What else has changed, a date for example, stays as it was.
                let common = common(&ids, &self.opened);
                let excess = self.opened.len() - common;
                let known = if excess <= MAX_JOINED {
                    session.take_back(excess as u32)?;
                    common
                } else {
                    self.beginning(&tokenizer)?.0.len()
                };
                ids.drain(..known.min(ids.len()));
                head = head.saturating_sub(known);
                self.opened.clear();
            }
            (ids, head)
        } else {
            let part = self.template.turn(user, wants_answer)?;
            let (mut ids, mut head) = split(&part, |text| tokenizer.encode(text, Special::Parse))?;
            let ended = session.last().filter(|&last| tokenizer.is_end(last));
            if self.is_told {
                ids.drain(..head);
                head = 0;
            } else if ended.is_some() && ended == ids.first().copied() {
                ids.remove(0);
                head = head.saturating_sub(1);
            } else if ended.is_some() {
                session.take_back(1)?;
            }
            (ids, head)
        };
        session.append(engine, &ids[..head]).await?;
        if self.wishes.evict_turns {
            session.begin_turn();
        }
        session.append(engine, &ids[head..]).await?;
        self.turns += 1;
        self.is_told = !wants_answer;
        Ok(())
    }

    /// The first turn's ids, and how many of them are the initial messages.
    fn opening(&self, tokenizer: &Tokenizer, user: &str, wants_answer: bool) -> Result<(Vec<u32>, usize)> {
        let Wishes { initial, history, .. } = &self.wishes;
        let said = [&history[..], &[Message::new("user", user)]].concat();
        self.encode_opening(tokenizer, &self.template.opening(initial, &said, wants_answer)?)
    }

    /// All that stands before the first words of the first turn, as far as it is the same whatever these are; and how much of
    /// it is the initial messages.
    fn beginning(&self, tokenizer: &Tokenizer) -> Result<(Vec<u32>, usize)> {
        let (mut ids, head) = self.opening(tokenizer, "A", true)?;
        let is_more = !self.wishes.history.is_empty();
        ids.truncate(if is_more { common(&ids, &self.opening(tokenizer, "B", true)?.0) } else { head });
        Ok((ids, head))
    }

    /// The first `head` tokens will be the initial messages.
    fn pin(&mut self, session: &mut Session, head: usize) -> Result<()> {
        if self.wishes.pin_initial {
            self.check_pinned(head)?;
            session.pin(head as u32)?;
        }
        self.initial_tokens = head as u32;
        Ok(())
    }

    /// A BOS that the template writes is the tokenizer's own: it comes once.
    fn encode_opening(&self, tokenizer: &Tokenizer, opening: &Part) -> Result<(Vec<u32>, usize)> {
        let bos = self.template.bos();
        let is_double = tokenizer.add_bos() && !bos.is_empty() && opening.text.starts_with(bos);
        let cut = if is_double { bos.len() } else { 0 };
        let part = Part { text: opening.text[cut..].into(), head: opening.head.saturating_sub(cut) };
        split(&part, |text| tokenizer.encode_start(text, Special::Parse))
    }

    fn check_pinned(&self, head: usize) -> Result<()> {
        match (self.wishes.initial.is_empty(), head) {
            (true, _) => Err(Error::Settings("there is no system prompt to pin".into())),
            (false, 0) => Err(Error::Settings(
                "the model's chat template does not put the system prompt first: it cannot be pinned".into(),
            )),
            (false, _) => Ok(()),
        }
    }
}

/// The ids of a text, and how many of them are its head: as many as the head alone begins with too.
fn split(part: &Part, encode: impl Fn(&str) -> Result<Vec<u32>>) -> Result<(Vec<u32>, usize)> {
    let ids = encode(&part.text)?;
    if part.head == 0 {
        return Ok((ids, 0));
    }
    let head = encode(&part.text[..part.head])?;
    let common = common(&ids, &head);
    Ok((ids, common))
}

/// How many ids two lists have in common at their start.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
