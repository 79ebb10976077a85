//! The browser's door: handles for the worker (`www/src/worker.ts`), no logic.
//!
//! Settings come and reports go as JSON text, numbers of tokens as f64 (exact up to 2⁵³), errors as JavaScript's
//! `Error` with the name of the class that the page will see.

#![allow(clippy::await_holding_refcell_ref, reason = "a call that meets another on the same session is refused")]

mod conversation;
mod hash;
mod json;

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use wasm_bindgen::prelude::*;

use crate::chat;
use crate::engine::{self, Progress};
use crate::error::{Error, Result};
use crate::platform::web_source::{Reader, source};
use crate::session;
use crate::stream::{self, Piece, TextStream};
use conversation::Chat;
use json::{parse_request, parse_settings};

/// Sends panics to the console, with their message.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// A loaded model.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Engine {
    engine: engine::Engine,
}

#[wasm_bindgen]
impl Engine {
    /// Loads a model. `settings`: JSON as `Settings` in `www/src/protocol.ts`. `progress` is called with bytes loaded
    /// and bytes in all.
    ///
    /// # Errors
    /// As [`engine::Engine::load`].
    pub async fn load(model: Reader, settings: &str, progress: js_sys::Function) -> std::result::Result<Self, JsValue> {
        let report = &mut |Progress { loaded, total }| {
            // What the page does with the numbers is not ours to fail for.
            let _ = progress.call2(&JsValue::NULL, &(loaded as f64).into(), &(total as f64).into());
        };
        let load = async {
            let settings = parse_settings(settings)?;
            engine::Engine::load(source(model), &settings, report).await
        };
        load.await.map(|engine| Self { engine }).map_err(thrown)
    }

    /// What [`Self::info`] would say of a model, without executor and adapter: reads the header alone.
    ///
    /// # Errors
    /// As [`engine::estimate`].
    pub async fn estimate(model: Reader, settings: &str) -> std::result::Result<String, JsValue> {
        let settings = parse_settings(settings).map_err(thrown)?;
        engine::estimate(source(model), &settings).await.map(|plan| plan.to_string()).map_err(thrown)
    }

    /// The ids of a text as [`Session::push`] takes them; `begins` if it is the first of its stream.
    ///
    /// # Errors
    /// As [`stream::encode_text`].
    pub fn encode(&mut self, text: &str, begins: bool) -> std::result::Result<Vec<u32>, JsValue> {
        stream::encode_text(&mut self.engine, text, begins).map_err(thrown)
    }

    /// A conversation that has not begun. `conversation`: JSON as `Conversation` in `www/src/protocol.ts`. In streaming
    /// attention its initial prompts stay in the cache for ever.
    ///
    /// # Errors
    /// As [`engine::Engine::chat_template`]; [`Error::Settings`] for what is no message.
    pub fn chat(&mut self, conversation: &str) -> std::result::Result<Chat, JsValue> {
        let wishes = json::parse_conversation(conversation, self.engine.keep().attention).map_err(thrown)?;
        let template = self.engine.chat_template().map_err(thrown)?;
        Ok(Chat { chat: chat::Chat::new(template, wishes) })
    }

    /// Model, executor, adapter, attention and memory plan, as JSON.
    pub fn info(&self) -> String {
        self.engine.info().to_string()
    }

    /// Dispatches given to the GPU so far; 0 on the CPU.
    #[wasm_bindgen(getter)]
    pub fn dispatches(&self) -> f64 {
        self.engine.counts().dispatches as f64
    }

    /// Bytes held by the executor.
    #[wasm_bindgen(getter)]
    pub fn bytes(&self) -> f64 {
        self.engine.bytes() as f64
    }

    /// How often a lost device was replaced.
    #[wasm_bindgen(getter)]
    pub fn recoveries(&self) -> u32 {
        self.engine.recoveries()
    }

    /// Gives the device up with everything on it, now. What is used after that has lost its device.
    #[wasm_bindgen(js_name = destroyDevice)]
    pub fn destroy_device(&self) {
        self.engine.destroy_device();
    }

    /// A new, empty stream.
    pub fn session(&mut self) -> Session {
        Session::new(self.engine.session(), String::new())
    }

    /// A stream from bytes of [`Session::save`].
    ///
    /// # Errors
    /// As [`session::Session::restore`].
    pub async fn restore(&mut self, bytes: Vec<u8>) -> std::result::Result<Session, JsValue> {
        let (session, note) = session::Session::restore(&mut self.engine, &bytes).await.map_err(thrown)?;
        Ok(Session::new(session, String::from_utf8_lossy(&note).into_owned()))
    }

    /// Waits until the device has done all that it was given.
    ///
    /// # Errors
    /// As [`engine::Engine::wait`].
    pub async fn wait(&mut self) -> std::result::Result<(), JsValue> {
        self.engine.wait().await.map_err(thrown)
    }
}

/// A stream of text. While a call works on it there is no other.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Session {
    parts: Rc<RefCell<Parts>>,
    /// What a restored stream was saved with.
    note: String,
}

#[derive(Debug)]
struct Parts {
    session: session::Session,
    stream: Option<TextStream>,
    /// What the last call generated.
    last: Vec<Piece>,
}

impl Session {
    fn new(session: session::Session, note: String) -> Self {
        Self { parts: Rc::new(RefCell::new(Parts { session, stream: None, last: vec![] })), note }
    }

    fn parts(&self) -> std::result::Result<RefMut<'_, Parts>, JsValue> {
        self.parts.try_borrow_mut().map_err(|_| thrown(Error::Settings("the session is in use".into())))
    }
}

#[wasm_bindgen]
impl Session {
    /// Goes on with these tokens.
    ///
    /// # Errors
    /// As [`session::Session::append`].
    pub async fn push(&self, engine: &mut Engine, ids: Vec<u32>) -> std::result::Result<(), JsValue> {
        self.parts()?.session.append(&mut engine.engine, &ids).await.map_err(thrown)
    }

    /// Begins to generate. `request`: JSON as `Sampling` in `www/src/protocol.ts`.
    ///
    /// # Errors
    /// [`Error::Settings`] for a value of the wrong type.
    pub fn begin(&self, request: &str) -> std::result::Result<(), JsValue> {
        self.parts()?.stream = Some(TextStream::new(parse_request(request).map_err(thrown)?));
        Ok(())
    }

    /// The text of the next tokens, at most `count`; nothing once the stream has ended.
    ///
    /// # Errors
    /// As [`TextStream::next`].
    pub async fn next(&self, engine: &mut Engine, count: u32) -> std::result::Result<Option<Vec<String>>, JsValue> {
        let texts = generate(engine, &mut [self.parts()?], count).await.map_err(thrown)?;
        Ok(texts.into_iter().next().flatten())
    }

    /// Ids of the tokens of the last call.
    pub fn ids(&self) -> Vec<u32> {
        self.parts.borrow().last.iter().map(|piece| piece.id).collect()
    }

    /// Their log-probabilities, if the request asked for them; else nothing.
    pub fn logprobs(&self) -> Vec<f32> {
        self.parts.borrow().last.iter().filter_map(|piece| piece.logprob).collect()
    }

    /// A stream that stands where this one stands and goes on by itself.
    ///
    /// # Errors
    /// As [`session::Session::try_clone`].
    #[wasm_bindgen(js_name = clone)]
    pub async fn copy(&self, engine: &mut Engine) -> std::result::Result<Self, JsValue> {
        let copy = self.parts()?.session.try_clone(&mut engine.engine).await.map_err(thrown)?;
        Ok(Self::new(copy, String::new()))
    }

    /// Why the generation ended, `length`, `eos` or `stop`; nothing while it runs.
    #[wasm_bindgen(getter)]
    pub fn ended(&self) -> Option<String> {
        Some(self.parts.borrow().stream.as_ref()?.ended()?.name().into())
    }

    /// Forgets the last tokens, as if they had never been generated.
    ///
    /// # Errors
    /// As [`session::Session::take_back`].
    #[wasm_bindgen(js_name = takeBack)]
    pub fn take_back(&self, tokens: u32) -> std::result::Result<(), JsValue> {
        self.parts()?.session.take_back(tokens).map_err(thrown)
    }

    /// The stream as bytes, with a note for whoever restores it.
    ///
    /// # Errors
    /// As [`session::Session::save`].
    pub async fn save(&self, engine: &mut Engine, note: String) -> std::result::Result<Vec<u8>, JsValue> {
        self.parts()?.session.save(&mut engine.engine, note.as_bytes()).await.map_err(thrown)
    }

    /// The note that a restored stream was saved with.
    #[wasm_bindgen(getter)]
    pub fn note(&self) -> String {
        self.note.clone()
    }

    /// Tokens at the start of the stream that stay for ever.
    #[wasm_bindgen(getter)]
    pub fn sinks(&self) -> u32 {
        self.parts.borrow().session.sinks()
    }

    /// Texts of these tokens, special ones too, as far as they are there.
    ///
    /// # Errors
    /// As [`engine::Engine::tokenizer`].
    pub fn pinned(&self, engine: &mut Engine) -> std::result::Result<Vec<String>, JsValue> {
        let tokenizer = engine.engine.tokenizer().map_err(thrown)?;
        let parts = self.parts()?;
        let texts = parts.session.pinned().iter().map(|&id| tokenizer.decode_with_special(&[id]));
        texts.collect::<Result<_>>().map_err(thrown)
    }

    /// Tokens of the stream so far.
    #[wasm_bindgen(getter)]
    pub fn position(&self) -> f64 {
        self.parts.borrow().session.position() as f64
    }

    /// Tokens that left the cache.
    #[wasm_bindgen(getter)]
    pub fn evicted(&self) -> f64 {
        self.parts.borrow().session.evicted() as f64
    }
}

/// Streams that generate together, one token each at a time: the weights are read once for all of them. No more than the
/// engine has `streams`.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Together {
    members: Vec<Rc<RefCell<Parts>>>,
}

#[wasm_bindgen]
impl Together {
    /// None yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, which has begun to generate.
    pub fn add(&mut self, session: &Session) {
        self.members.push(Rc::clone(&session.parts));
    }

    /// Calls `visit` with the number of each, from 0 on, and what [`Session::next`] of that one gives; then `next` of all is
    /// done.
    ///
    /// # Errors
    /// As [`stream::next_together`], and what `visit` throws.
    pub async fn next(
        &self,
        engine: &mut Engine,
        count: u32,
        visit: js_sys::Function,
    ) -> std::result::Result<(), JsValue> {
        let busy = |_| thrown(Error::Settings("a session is in use".into()));
        let parts: std::result::Result<Vec<_>, _> = self.members.iter().map(|parts| parts.try_borrow_mut()).collect();
        let texts = generate(engine, &mut parts.map_err(busy)?, count).await.map_err(thrown)?;
        for (number, texts) in (0_u32..).zip(texts) {
            visit.call2(&JsValue::NULL, &number.into(), &texts.map_or(JsValue::UNDEFINED, JsValue::from))?;
        }
        Ok(())
    }
}

/// Texts of the next tokens of each; `None` where nothing goes on.
async fn generate(engine: &mut Engine, all: &mut [RefMut<'_, Parts>], count: u32) -> Result<Vec<Option<Vec<String>>>> {
    let mut running = vec![];
    for Parts { session, stream, .. } in all.iter_mut().map(|parts| &mut **parts) {
        running.extend(stream.as_mut().map(|stream| (stream, session)));
    }
    let mut pieces = stream::next_together(&mut engine.engine, &mut running, count).await?.into_iter();
    let texts = all.iter_mut().map(|parts| {
        let pieces = parts.stream.as_ref().and_then(|_| pieces.next().flatten());
        parts.last = pieces.clone().unwrap_or_default();
        pieces.map(|pieces| pieces.into_iter().map(|piece| piece.text).collect())
    });
    Ok(texts.collect())
}

/// The class that the page sees, by its name.
fn thrown(error: Error) -> JsValue {
    let name = match error {
        Error::NoGpu(_) => "WebGpuUnavailableError",
        Error::DeviceLost(_) => "DeviceLostError",
        Error::Format { .. } | Error::Unsupported { .. } | Error::Model(_) | Error::Tokenizer(_) => "ModelFormatError",
        Error::Read { .. } => "DownloadError",
        Error::Settings(_) | Error::DoesNotFit(_) | Error::CacheFull(_) => "RangeError",
        Error::Template(_) | Error::Snapshot(_) | Error::Gpu(_) | Error::Write { .. } | Error::Aborted => "Error",
    };
    let thrown = js_sys::Error::new(&error.to_string());
    thrown.set_name(name);
    thrown.into()
}
