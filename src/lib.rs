//! sinkstream: small quantized language models that stream without end.

pub mod error;
pub mod executor;
pub mod kernel;
pub mod kernels;
pub mod kv_ring;
pub mod mutants;
pub mod plan;
pub mod platform;
pub mod quant;
#[cfg(target_arch = "wasm32")]
pub mod web;

pub use error::{Error, Result};
