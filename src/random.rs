//! Models of well-known shapes with random weights, for measuring: the header of a GGUF file without the file, and weights
//! that are made where they are needed. Reading, layout and plans are those of a real file.

use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::gguf::Gguf;
use crate::hf::header::{Entry, Metadata, Value, header};
use crate::quant::{Layout, TensorType};
use crate::source::{LocalBoxFuture, RandomBytes, Source};
use crate::weights::Matrix;

/// A model's shape, from its authors' configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// As `bench --shape` calls it.
    pub name: &'static str,
    architecture: &'static str,
    n_layers: u32,
    dim: u32,
    ffn_dim: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    context_length: u32,
    rope_base: f32,
    /// The output matrix is the embedding.
    is_tied: bool,
    /// Queries, keys and values have a bias.
    has_bias: bool,
}

const LLAMA_2_7B: Shape = Shape {
    name: "llama-2-7b",
    architecture: "llama",
    n_layers: 32,
    dim: 4096,
    ffn_dim: 11_008,
    n_heads: 32,
    n_kv_heads: 32,
    head_dim: 128,
    vocab_size: 32_000,
    context_length: 4096,
    rope_base: 10_000.0,
    is_tied: false,
    has_bias: false,
};

const SMOLLM2_135M: Shape = Shape {
    name: "smollm2-135m",
    n_layers: 30,
    dim: 576,
    ffn_dim: 1536,
    n_heads: 9,
    n_kv_heads: 3,
    head_dim: 64,
    vocab_size: 49_152,
    context_length: 8192,
    rope_base: 100_000.0,
    is_tied: true,
    ..LLAMA_2_7B
};

/// All of them. `tiny` is nobody's: small enough for tests, with grouped heads and every kernel of a large one.
pub const SHAPES: [Shape; 6] = [
    LLAMA_2_7B,
    Shape {
        name: "llama-3.2-1b",
        n_layers: 16,
        dim: 2048,
        ffn_dim: 8192,
        n_kv_heads: 8,
        head_dim: 64,
        vocab_size: 128_256,
        context_length: 131_072,
        rope_base: 500_000.0,
        is_tied: true,
        ..LLAMA_2_7B
    },
    SMOLLM2_135M,
    Shape { name: "smollm2-360m", n_layers: 32, dim: 960, ffn_dim: 2560, n_heads: 15, n_kv_heads: 5, ..SMOLLM2_135M },
    Shape {
        name: "qwen2.5-0.5b",
        architecture: "qwen2",
        n_layers: 24,
        dim: 896,
        ffn_dim: 4864,
        n_heads: 14,
        n_kv_heads: 2,
        vocab_size: 151_936,
        context_length: 32_768,
        rope_base: 1_000_000.0,
        has_bias: true,
        ..SMOLLM2_135M
    },
    Shape {
        name: "tiny",
        n_layers: 4,
        dim: 256,
        ffn_dim: 704,
        n_heads: 4,
        n_kv_heads: 2,
        vocab_size: 4096,
        rope_base: 10_000.0,
        ..SMOLLM2_135M
    },
];

impl Shape {
    /// The shape of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// A GGUF file of this shape, with every matrix of this type (the embedding too) and norms and biases in F32. Its
    /// header is real, its data is zeros: [`crate::Engine::random`] makes the weights.
    pub fn source(&self, kind: TensorType) -> Source {
        let (bytes, offsets) = header(&self.metadata(), &self.tensors(kind));
        let len = offsets.last().copied().unwrap_or(0);
        Source::random(self.name, len, Box::new(HeaderAlone(bytes)))
    }

    fn metadata(&self) -> Metadata {
        let own = |name: &str| format!("{}.{name}", self.architecture);
        let number = |name: &str, value: u32| (own(name), Value::U32(value));
        vec![
            ("general.architecture".into(), Value::Text(self.architecture.into())),
            ("general.name".into(), Value::Text(self.name.into())),
            number("block_count", self.n_layers),
            number("context_length", self.context_length),
            number("embedding_length", self.dim),
            number("feed_forward_length", self.ffn_dim),
            number("attention.head_count", self.n_heads),
            number("attention.head_count_kv", self.n_kv_heads),
            number("attention.key_length", self.head_dim),
            (own("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
            (own("rope.freq_base"), Value::F32(self.rope_base)),
        ]
    }

    fn tensors(&self, kind: TensorType) -> Vec<Entry> {
        let (q_rows, kv_rows) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let entry = |name: String, kind: TensorType, shape: &[u32]| {
            let shape: Vec<u64> = shape.iter().map(|&size| u64::from(size)).collect();
            let bytes = shape.iter().product::<u64>() / kind.block_len() as u64 * kind.block_bytes() as u64;
            Entry { name, kind, shape, bytes }
        };
        let matrix = |name: String, rows: u32, cols: u32| entry(name + ".weight", kind, &[cols, rows]);
        let floats = |name: String, length: u32| entry(name, TensorType::F32, &[length]);
        let mut tensors = vec![matrix("token_embd".into(), self.vocab_size, self.dim)];
        for n in 0..self.n_layers {
            let name = |tensor: &str| format!("blk.{n}.{tensor}");
            tensors.push(floats(name("attn_norm.weight"), self.dim));
            for (tensor, rows) in [("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)] {
                tensors.push(matrix(name(tensor), rows, self.dim));
                if self.has_bias {
                    tensors.push(floats(name(tensor) + ".bias", rows));
                }
            }
            tensors.push(matrix(name("attn_output"), self.dim, q_rows));
            tensors.push(floats(name("ffn_norm.weight"), self.dim));
            tensors.push(matrix(name("ffn_gate"), self.ffn_dim, self.dim));
            tensors.push(matrix(name("ffn_up"), self.ffn_dim, self.dim));
            tensors.push(matrix(name("ffn_down"), self.dim, self.ffn_dim));
        }
        tensors.push(floats("output_norm.weight".into(), self.dim));
        if !self.is_tied {
            tensors.push(matrix("output".into(), self.vocab_size, self.dim));
        }
        tensors
    }
}

/// A header, and zeros behind it.
struct HeaderAlone(Vec<u8>);

impl RandomBytes for HeaderAlone {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>> {
        let header = self.0.get(offset as usize..).unwrap_or_default();
        let known = header.len().min(buf.len());
        buf[..known].copy_from_slice(&header[..known]);
        buf[known..].fill(0);
        Box::pin(async { Ok(()) })
    }
}

/// Words of a pattern of quants: about 1 MiB, and a prime number of them, so that no two rows of a matrix are alike.
const PATTERN_WORDS: usize = 262_139;

/// Fills a matrix with random weights of variance 1 / columns: activations keep their size. `seed` above 0.
///
/// # Errors
/// [`Error::Settings`] for a layout that no [`Shape`] has; those of the executor.
pub(crate) fn fill(matrix: &Matrix, executor: &mut Executor, seed: u32) -> Result<()> {
    let deviation = 1.0 / ((32 * matrix.blocks) as f32).sqrt();
    let mut state = seed;
    let random = std::iter::repeat_with(|| {
        // xorshift32 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    });
    let random = random.take(PATTERN_WORDS);
    // Standard deviations of uniform integers: 256 and 16 of them.
    let step = match matrix.layout {
        Layout::F16 => {
            // Sign and fraction are random, the exponent is not: ±2ᵉ · [1, 2) has a deviation of 1.53 · 2ᵉ.
            let exponent = (15.0 + (deviation / 1.53).log2().round()).clamp(1.0, 15.0) as u32;
            let words: Vec<u32> = random.map(|word| word & 0x83ff_83ff | exponent << 10 | exponent << 26).collect();
            return executor.fill(matrix.quants, &words);
        }
        Layout::Q8 => 73.9,
        Layout::Q4 => 4.61,
        layout => return Err(Error::Settings(format!("no random weights in layout {layout:?}"))),
    };
    executor.fill(matrix.quants, &random.collect::<Vec<u32>>())?;
    let scale = u32::from(half::f16::from_f32(deviation / step).to_bits());
    executor.fill(matrix.scales, &vec![scale | scale << 16; PATTERN_WORDS])
}

/// The header of a shape, as [`crate::Engine::random`] wants it.
///
/// # Errors
/// None, unless the shape is broken.
pub async fn gguf(shape: &Shape, kind: TensorType) -> Result<Gguf> {
    Gguf::read(&mut shape.source(kind)).await
}
