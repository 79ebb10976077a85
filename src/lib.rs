//! sinkstream: small quantized language models that stream without end.

pub mod error;
