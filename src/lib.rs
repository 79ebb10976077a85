//! sinkstream: small quantized language models that stream without end.
//!
//! The modules in the order in which data meets them; reading them downwards is reading the program.
//!
//! A [`source`] gives bytes; [`gguf`] reads the header, [`config`] the model's shape from it, by its [`family`].
//! [`quant`] packs the weights for the GPU, [`tokenizer`] turns text to ids and [`detokenizer`] back. [`forward`] lays the
//! model out: buffers and [`plan`]s of [`kernels`], around a [`kv_ring`] of fixed size. [`weights`] fill the buffers of an
//! [`executor`], CPU or GPU. A Hugging Face folder is read through [`hf`] as if it were a GGUF file. An [`engine`] is all of that loaded; a
//! [`session`] is one stream of tokens on it, a [`stream`] its text, a [`chat`] a conversation in it.
//! A [`random`] model has a well-known shape without its weights, and a [`probe`] tells what the device itself takes and
//! gives, for measuring. An [`attention_map`] looks inside: how much the heads attend to the first token.

pub mod error;
pub mod source;

pub mod gguf;

pub mod config;
pub mod family;

pub mod quant;

pub mod tokenizer;

pub mod detokenizer;

pub mod gpu;
pub mod tuning;

pub mod kernel;
pub mod kernels;

pub mod weights;

pub mod kv_ring;
pub mod mutants;

pub mod forward;
pub mod model;
pub mod plan;

pub mod executor;

pub mod sampler;

pub mod engine;
pub mod hf;
mod lanes;
pub mod session;
pub mod stream;

pub mod probe;
pub mod random;

pub mod attention_map;

pub mod chat;

pub mod platform;
#[cfg(target_arch = "wasm32")]
pub mod web;

pub use chat::{Chat, ChatTemplate, Message};
pub use config::Attention;
pub use engine::{Device, Engine, Settings};
pub use error::{Error, Result};
pub use kernels::cache::CacheType;
pub use sampler::Sampling;
pub use session::Session;
pub use source::Source;
pub use stream::{Request, StopReason, TextStream};
