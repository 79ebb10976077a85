//! The browser's door: handles for the worker (`www/src/worker.ts`), no logic.
//!
//! Settings come and reports go as JSON text, numbers of tokens as f64 (exact up to 2⁵³), errors as JavaScript's
//! `Error` with the name of the class that the page will see.

use serde_json::Value;
use wasm_bindgen::prelude::*;

use crate::config::Attention;
use crate::engine::{self, Device, Progress, Settings};
use crate::error::{Error, Result};
use crate::kernels::cache::CacheType;
use crate::platform::web_source;
use crate::sampler::Sampling;
use crate::session;
use crate::stream::{self, Piece, Request, TextStream};

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
    /// Loads a model from an address, a `Blob`, an `ArrayBuffer` or a `ReadableStream`. `settings`: JSON as
    /// `Settings` in `www/src/protocol.ts`. `progress` is called with bytes loaded and bytes in all.
    ///
    /// # Errors
    /// As [`engine::Engine::load`].
    pub async fn load(
        model: JsValue,
        settings: &str,
        progress: js_sys::Function,
    ) -> std::result::Result<Self, JsValue> {
        let report = &mut |Progress { loaded, total }| {
            // What the page does with the numbers is not ours to fail for.
            let _ = progress.call2(&JsValue::NULL, &(loaded as f64).into(), &(total as f64).into());
        };
        let load = async {
            let settings = parse_settings(settings)?;
            engine::Engine::load(web_source::source(&model).await?, &settings, report).await
        };
        load.await.map(|engine| Self { engine }).map_err(thrown)
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
        Session { session: self.engine.session(), stream: None, last: vec![] }
    }
}

/// A stream of text.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Session {
    session: session::Session,
    stream: Option<TextStream>,
    /// What the last call generated.
    last: Vec<Piece>,
}

#[wasm_bindgen]
impl Session {
    /// Goes on with this text.
    ///
    /// # Errors
    /// As [`stream::append_text`].
    pub async fn append(&mut self, engine: &mut Engine, text: String) -> std::result::Result<(), JsValue> {
        stream::append_text(&mut engine.engine, &mut self.session, &text).await.map_err(thrown)
    }

    /// Begins to generate. `request`: JSON as `Sampling` in `www/src/protocol.ts`.
    ///
    /// # Errors
    /// [`Error::Settings`] for a value of the wrong type.
    pub fn begin(&mut self, request: &str) -> std::result::Result<(), JsValue> {
        self.stream = Some(TextStream::new(parse_request(request).map_err(thrown)?));
        Ok(())
    }

    /// The text of the next tokens, at most `count`; nothing once the stream has ended.
    ///
    /// # Errors
    /// As [`TextStream::next`].
    pub async fn next(&mut self, engine: &mut Engine, count: u32) -> std::result::Result<Option<Vec<String>>, JsValue> {
        let texts = generate(engine, &mut [self], count).await.map_err(thrown)?;
        Ok(texts.into_iter().next().flatten())
    }

    /// Ids of the tokens of the last call.
    pub fn ids(&self) -> Vec<u32> {
        self.last.iter().map(|piece| piece.id).collect()
    }

    /// Their log-probabilities, if the request asked for them; else nothing.
    pub fn logprobs(&self) -> Vec<f32> {
        self.last.iter().filter_map(|piece| piece.logprob).collect()
    }

    /// A stream that stands where this one stands and goes on by itself.
    ///
    /// # Errors
    /// As [`session::Session::try_clone`].
    #[wasm_bindgen(js_name = clone)]
    pub async fn copy(&mut self, engine: &mut Engine) -> std::result::Result<Self, JsValue> {
        let session = self.session.try_clone(&mut engine.engine).await.map_err(thrown)?;
        Ok(Self { session, stream: None, last: vec![] })
    }

    /// Forgets the last tokens, as if they had never been generated.
    ///
    /// # Errors
    /// As [`session::Session::take_back`].
    #[wasm_bindgen(js_name = takeBack)]
    pub fn take_back(&mut self, tokens: u32) -> std::result::Result<(), JsValue> {
        self.session.take_back(tokens).map_err(thrown)
    }

    /// Tokens of the stream so far.
    #[wasm_bindgen(getter)]
    pub fn position(&self) -> f64 {
        self.session.position() as f64
    }

    /// Tokens that left the cache.
    #[wasm_bindgen(getter)]
    pub fn evicted(&self) -> f64 {
        self.session.evicted() as f64
    }

    /// Tokens that the model still sees.
    #[wasm_bindgen(getter)]
    pub fn cached(&self) -> u32 {
        self.session.cached()
    }
}

/// Streams that generate together, one token each at a time: the weights are read once for all of them. No more than the
/// engine has `streams`. A session in it is known by a number of the caller's.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Together {
    members: Vec<(u32, Session)>,
}

#[wasm_bindgen]
impl Together {
    /// None yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, which has begun to generate. Its handle goes.
    pub fn add(&mut self, number: u32, session: Session) {
        self.members.push((number, session));
    }

    /// Leaves the others to go on, and comes back.
    pub fn remove(&mut self, number: u32) -> Option<Session> {
        let place = self.members.iter().position(|(other, _)| *other == number)?;
        Some(self.members.remove(place).1)
    }

    /// Calls `visit` with each number and what [`Session::next`] of that one gives; then `next` of all is done.
    ///
    /// # Errors
    /// As [`stream::next_together`], and what `visit` throws.
    pub async fn next(
        &mut self,
        engine: &mut Engine,
        count: u32,
        visit: js_sys::Function,
    ) -> std::result::Result<(), JsValue> {
        let mut sessions: Vec<&mut Session> = self.members.iter_mut().map(|(_, session)| session).collect();
        let texts = generate(engine, &mut sessions, count).await.map_err(thrown)?;
        for ((number, session), texts) in self.members.iter().zip(texts) {
            let texts = texts.map_or(JsValue::UNDEFINED, JsValue::from);
            visit.call3(&JsValue::NULL, &(*number).into(), &texts, &session.position().into())?;
        }
        Ok(())
    }
}

/// Texts of the next tokens of each; `None` where nothing goes on.
async fn generate(engine: &mut Engine, all: &mut [&mut Session], count: u32) -> Result<Vec<Option<Vec<String>>>> {
    let mut running = vec![];
    for Session { session, stream, .. } in all.iter_mut().map(|session| &mut **session) {
        running.extend(stream.as_mut().map(|stream| (stream, session)));
    }
    let mut pieces = stream::next_together(&mut engine.engine, &mut running, count).await?.into_iter();
    let texts = all.iter_mut().map(|session| {
        let pieces = session.stream.as_ref().and_then(|_| pieces.next().flatten());
        session.last = pieces.clone().unwrap_or_default();
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

fn parse_settings(json: &str) -> Result<Settings> {
    let json = Fields::parse(json)?;
    let defaults = Settings::default();
    Ok(Settings {
        device: json
            .one_of("device", &[("auto", Device::Auto), ("gpu", Device::Gpu), ("cpu", Device::Cpu)])?
            .unwrap_or_default(),
        attention: json.one_of("attention", &Attention::ALL.map(|mode| (mode.name(), mode)))?,
        sinks: json.u32("sinks")?,
        window: json.u32("window")?,
        chunk: json.u32("chunk")?.unwrap_or(defaults.chunk),
        streams: json.u32("streams")?.unwrap_or(defaults.streams),
        cache: json.one_of("cache", &[("f16", CacheType::F16), ("f32", CacheType::F32)])?.unwrap_or(defaults.cache),
        ..defaults
    })
}

fn parse_request(json: &str) -> Result<Request> {
    let json = Fields::parse(json)?;
    let defaults = Sampling::default();
    let sampling = Sampling {
        temperature: json.f32("temperature")?.unwrap_or(defaults.temperature),
        top_k: json.u32("topK")?.unwrap_or(defaults.top_k),
        top_p: json.f32("topP")?.unwrap_or(defaults.top_p),
        min_p: json.f32("minP")?.unwrap_or(defaults.min_p),
        logprobs: json.flag("logprobs"),
        seed: json.u32("seed")?.unwrap_or_else(|| (js_sys::Math::random() * f64::from(u32::MAX)) as u32),
        ..defaults
    };
    // Without a limit the stream has no end, unless the caller waits for the end of the reply.
    let limit = if json.flag("untilEnd") { u64::MAX } else { 0 };
    let max_tokens = json.u32("maxTokens")?.map_or(limit, u64::from);
    Ok(Request { sampling, max_tokens, ignore_eos: false, stop: json.texts("stop")? })
}

/// The fields of a JSON object; each may be missing.
struct Fields(Value);

impl Fields {
    fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map(Self).map_err(|error| Error::Settings(error.to_string()))
    }

    fn read<T>(&self, name: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>> {
        match &self.0[name] {
            Value::Null => Ok(None),
            value => read(value).map(Some).ok_or_else(|| Error::Settings(format!("{name}: {value} is not {expected}"))),
        }
    }

    fn u32(&self, name: &str) -> Result<Option<u32>> {
        self.read(name, "a whole number from 0 to 4294967295", |value| value.as_u64()?.try_into().ok())
    }

    fn f32(&self, name: &str) -> Result<Option<f32>> {
        self.read(name, "a number", |value| value.as_f64().map(|value| value as f32))
    }

    fn flag(&self, name: &str) -> bool {
        self.0[name] == true
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = |value: &Value| match value {
            Value::Array(values) => values.iter().map(text).collect(),
            value => text(value).map(|text| vec![text]),
        };
        Ok(self.read(name, "a text or a list of texts", texts)?.unwrap_or_default())
    }

    fn one_of<T: Clone>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>> {
        let names = known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let find = |value: &Value| known.iter().find(|(name, _)| value == name).map(|(_, known)| known.clone());
        self.read(name, &format!("one of {names}"), find)
    }
}
