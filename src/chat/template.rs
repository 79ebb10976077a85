//! A model's chat template: messages to the text that the model was trained on.
//!
//! Templates are Jinja (`tokenizer.chat_template`), with what Hugging Face adds for them: `raise_exception`,
//! `strftime_now`, a `tojson` without HTML escapes, `{% generation %}`, loop controls, Python's methods, blocks that take
//! their line break with them (transformers, `utils/chat_template_utils.py`).

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::python::{Clock, to_json};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;

/// Steps of a template's program for one text: no real one needs a hundredth, and one without end stops here.
const FUEL: u64 = 20_000_000;
/// The name of the only template.
const NAME: &str = "chat template";

/// An answer that no template has among its own words.
const ANSWER: &str = "sinkstreamanswer";

/// For models without a template: lines as in a play. `ChatML` would be tokens that they have never seen.
const PLAIN: &str = "{% for message in messages %}\
    {% if message.role == 'system' %}{{ message.content }}\n\n\
    {% else %}{{ message.role | capitalize }}: {{ message.content }}\n\
    {% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What somebody said.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A text and how much of it comes before the part that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The whole text.
    pub text: String,
    /// Bytes at its start: of an opening, the system prompt; of a later turn, what closes the turn before.
    pub head: usize,
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    is_plain: bool,
}

impl ChatTemplate {
    /// A template from its source. `bos`, `eos`: the texts of these tokens, empty if there are none.
    ///
    /// # Errors
    /// [`Error::Template`] with the line, if the syntax is none that we know.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        Self::with_clock(source, bos, eos, Clock::System)
    }

    /// As [`Self::new`]; `strftime_now` shows what `clock` says.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_clock(source: &str, bos: &str, eos: &str, clock: Clock) -> Result<Self> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(refused)?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
            },
        );
        environment.add_function("strftime_now", move |format: &str| clock.format(format));
        environment.add_filter("tojson", |value: &Value, options: Kwargs| to_json(value, &options));
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(refused)?;
        Ok(Self { environment, bos: bos.into(), eos: eos.into(), is_plain: false })
    }

    /// The template of a file (`tokenizer.chat_template`; named ones beside it are for other uses). A file without one
    /// gets plain lines, `User: …` and `Assistant: …`: see [`Self::is_plain`].
    ///
    /// # Errors
    /// As [`Self::new`]; [`Error::Format`] if the entry is no text.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Self> {
        let text = |id: Option<u32>| id.map_or(Ok(String::new()), |id| tokenizer.decode_with_special(&[id]));
        let (bos, eos) = (text(tokenizer.bos())?, text(tokenizer.eos())?);
        match gguf.get_str("tokenizer.chat_template")? {
            Some(source) => Self::new(source, &bos, &eos),
            None => Ok(Self { is_plain: true, ..Self::new(PLAIN, &bos, &eos)? }),
        }
    }

    /// Whether the model came without a template.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The text of BOS; empty if the model has none.
    pub fn bos(&self) -> &str {
        &self.bos
    }

    /// The text of a conversation; with `add_generation_prompt` up to where the answer begins.
    ///
    /// # Errors
    /// [`Error::Template`]: what the template itself refuses, in its words; or what it uses that does not exist here.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Value = messages
            .iter()
            .map(|message| Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())]))
            .collect();
        let template = self.environment.get_template(NAME).map_err(refused)?;
        template
            .render(context! {
                messages, add_generation_prompt,
                bos_token => self.bos.as_str(), eos_token => self.eos.as_str(),
                tools => Value::from(()), documents => Value::from(()),
            })
            .map_err(refused)
    }

    /// The beginning of a conversation: `initial` messages, a system prompt above all, and what is `said` then; with
    /// `wants_answer` up to where the answer begins. Its head is the initial messages: all that the template writes before
    /// the first word of what is said, without the header of that if the initial messages stand alone too.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn opening(&self, initial: &[Message], said: &[Message], wants_answer: bool) -> Result<Part> {
        let text = self.render(&[initial, said].concat(), wants_answer)?;
        let head = match initial.last() {
            Some(last) => self.initial_head(&text, initial, last.content.trim())?,
            None => 0,
        };
        Ok(Part { text, head })
    }

    fn initial_head(&self, text: &str, initial: &[Message], said: &str) -> Result<usize> {
        let alone = self.render(initial, false).unwrap_or_default(); // some want a question
        let head = shared_head(text, &alone);
        if head.contains(said) {
            return Ok(head.len());
        }
        // The template writes it into the user's turn: all that two first questions have in common.
        let asked = |question: &str| self.render(&[initial, &[Message::new("user", question)]].concat(), true);
        let (a, b) = (asked("A")?, asked("B")?);
        let head = shared_head(&a, &b);
        Ok(if text.starts_with(head) && head.contains(said) { head.len() } else { 0 })
    }

    /// What goes into a stream for a further question, behind an answer: what closes the answer (the head), the
    /// question, and with `wants_answer` all up to where the next answer begins.
    ///
    /// The past is in the stream already and never rendered again. The text is taken from a conversation of three
    /// messages, `user, assistant, user`: all that stands behind the assistant's words. So it does not matter that some
    /// templates write the past anew with every turn (Qwen3 drops `<think>` from old answers, dates change, the
    /// system prompt moves to the last question): in a stream, what was said stays as it was said.
    ///
    /// # Errors
    /// As [`Self::render`]; [`Error::Template`] if it does not show what the assistant said.
    pub fn turn(&self, user: &str, wants_answer: bool) -> Result<Part> {
        let past = [Message::new("user", "A"), Message::new("assistant", ANSWER)];
        let behind = |text: String| text.split_once(ANSWER).map(|(_, behind)| behind.to_owned());
        let missing = || Error::Template("it does not show what the assistant said".into());
        let text = behind(self.render(&[&past[..], &[Message::new("user", user)]].concat(), wants_answer)?);
        let text = text.ok_or_else(missing)?;
        // A template may refuse a conversation that ends with an answer; then the turn begins where the answer ends.
        let closing = self.render(&past, false).ok().and_then(behind).unwrap_or_default();
        let head = shared_head(&text, &closing).len();
        Ok(Part { text, head })
    }
}

/// What two texts have in common at their start, without the first characters of two different special tokens.
fn shared_head<'a>(a: &'a str, b: &str) -> &'a str {
    let common: usize = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let head = &a[..common];
    if common == a.len() || common == b.len() { head } else { head.trim_end_matches(['<', '|', '[']) }
}

/// Marks what the template itself refused.
#[derive(Debug)]
struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raise_exception")
    }
}

impl std::error::Error for Raised {}

/// The template engine's error as one line of ours: what was raised in its own words, all else with its line.
fn refused(error: minijinja::Error) -> Error {
    let is_raised = std::error::Error::source(&error).is_some_and(|source| source.is::<Raised>());
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let text = match (is_raised, error.line()) {
        (true, _) => what,
        (false, Some(line)) => format!("{}: {what}, in line {line}", error.kind()),
        (false, None) => format!("{}: {what}", error.kind()),
    };
    Error::Template(text.replace('\n', " "))
}

/// `{% generation %}` marks the assistant's words for training and writes nothing: here, a block that is always taken.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        text.push_str(before);
        let inner = tag.trim_start_matches(['-', '+']);
        let word = inner.trim_start();
        let found = [("generation", "if true"), ("endgeneration", "endif")].into_iter().find_map(|(name, instead)| {
            let after = word.strip_prefix(name)?;
            after.trim_start_matches([' ', '\t', '\r', '\n', '-', '+']).starts_with("%}").then_some((after, instead))
        });
        rest = tag;
        if let Some((after, instead)) = found {
            text.push_str(&tag[..tag.len() - word.len()]);
            text.push_str(instead);
            rest = after;
        }
    }
    text + rest
}
