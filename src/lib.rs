//! sinkstream: small quantized language models that stream without end.

pub mod error;
pub mod executor;
pub mod gpu;
pub mod kernel;
pub mod kernels;
pub mod kv_ring;
pub mod mutants;
pub mod plan;
pub mod platform;
pub mod quant;

pub use error::{Error, Result};
