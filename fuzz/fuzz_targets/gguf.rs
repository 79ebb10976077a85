//! Feeds arbitrary bytes to the GGUF reader, from memory and as a stream, and unpacks what it finds:
//! `cargo +nightly fuzz run gguf -- -malloc_limit_mb=64`, from the folder of the project.
//!
//! Never a panic; never an allocation out of proportion to the input (`-malloc_limit_mb`). `tests/gguf_hostile.rs`
//! checks the same with a seeded mutator on every run of the tests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pollster::block_on;
use sinkstream::gguf::Gguf;
use sinkstream::quant::{BLOCK, Layout, repack, unpack_row};
use sinkstream::source::{LocalBoxFuture, SequentialBytes, Source};
use sinkstream::{Error, Result};

/// A stream in pieces of 13 bytes.
struct Pieces(Vec<u8>);

impl SequentialBytes for Pieces {
    fn next(&mut self) -> LocalBoxFuture<'_, Result<Option<Vec<u8>>>> {
        let rest = self.0.split_off(self.0.len().min(13));
        let piece = std::mem::replace(&mut self.0, rest);
        Box::pin(std::future::ready(Ok((!piece.is_empty()).then_some(piece))))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut stream = Source::sequential("stream", None, Box::new(Pieces(bytes.to_vec())));
    let streamed = block_on(Gguf::read(&mut stream));
    let mut memory = Source::memory("memory", bytes.to_vec());
    let gguf = match block_on(Gguf::read(&mut memory)) {
        Ok(gguf) => gguf,
        Err(Error::Format { .. }) => return,
        Err(other) => panic!("neither a header nor a format error: {other}"),
    };
    assert_eq!(gguf.tensors, streamed.expect("the same header").tensors);
    for tensor in &gguf.tensors {
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        let mut data = vec![0; tensor.bytes as usize];
        block_on(memory.read(tensor.offset, &mut data)).expect("data in the file");
        let Ok(kind) = tensor.tensor_type() else {
            continue;
        };
        let (rows, cols) = (tensor.rows() as usize, tensor.cols() as usize);
        let layout = Layout::for_type(kind);
        let mut quants = vec![0; layout.quant_words(rows, cols)];
        let mut scales = vec![0; layout.scale_words(rows, cols)];
        repack(kind, &data, rows, cols, layout, &mut quants, &mut scales);
        let blocks = cols.div_ceil(BLOCK);
        let mut weights = vec![0.0; blocks * BLOCK];
        unpack_row(layout, &quants, &scales, rows - 1, blocks, &mut weights);
    }
});
