//! What the page says in JSON: settings, requests, messages. Each field may be missing.

use serde_json::Value;

use crate::chat::{Message, Wishes};
use crate::config::Attention;
use crate::engine::{Device, Settings};
use crate::error::{Error, Result};
use crate::kernels::cache::CacheType;
use crate::sampler::Sampling;
use crate::stream::Request;

pub(super) fn parse_settings(json: &str) -> Result<Settings> {
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
        cache: json.one_of("cacheType", &[("f16", CacheType::F16), ("f32", CacheType::F32)])?.unwrap_or(defaults.cache),
        ..defaults
    })
}

pub(super) fn parse_request(json: &str) -> Result<Request> {
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

/// How a conversation begins. In streaming attention its initial prompts stay in the cache for ever.
pub(super) fn parse_conversation(json: &str, attention: Attention) -> Result<Wishes> {
    let json = Fields::parse(json)?;
    let (initial, history) = (json.messages("initialPrompts")?, json.messages("history")?);
    let pin_initial = attention == Attention::Streaming && !initial.is_empty();
    Ok(Wishes { initial, pin_initial, history, evict_turns: false })
}

pub(super) fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(|error| Error::Settings(error.to_string()))
}

/// The fields of a JSON object; each may be missing.
struct Fields(Value);

impl Fields {
    fn parse(json: &str) -> Result<Self> {
        parse(json).map(Self)
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

    fn messages(&self, name: &str) -> Result<Vec<Message>> {
        let message = |value: &Value| Some(Message::new(value["role"].as_str()?, value["content"].as_str()?));
        let messages = |value: &Value| value.as_array()?.iter().map(message).collect();
        Ok(self.read(name, "a list of messages, each with a role and a content", messages)?.unwrap_or_default())
    }

    fn one_of<T: Clone>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>> {
        let names = known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let find = |value: &Value| known.iter().find(|(name, _)| value == name).map(|(_, known)| known.clone());
        self.read(name, &format!("one of {names}"), find)
    }
}
