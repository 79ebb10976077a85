//! Every tensor type: its weights against ggml's, in every combination, and whole models of it on both executors.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/gguf_writer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod gguf_writer;

use common::files::golden;
use common::{assert_close, load, nlls, settings};
use gguf_writer::GgufWriter;
use pollster::block_on;
use sinkstream::Source;
use sinkstream::engine::Device;
use sinkstream::executor::Executor;
use sinkstream::gguf::{Gguf, Value};
use sinkstream::kernels::cache::CacheType;
use sinkstream::plan::Buffers;
use sinkstream::quant::{Layout, TensorType, repack, unpack_row};
use sinkstream::weights::{Directory, Matrix, Wanted};

/// The tensors of `types.gguf`.
const ROWS: usize = 2;
const COLS: usize = 512;

/// `types.gguf`: a tensor a type, named as the type, and beside it `.values`, F32, what gguf-py makes of it.
struct Golden {
    source: Source,
    gguf: Gguf,
}

impl Golden {
    fn open() -> Self {
        let mut source = Source::memory("types", block_on(golden("types.gguf")));
        let gguf = block_on(Gguf::read(&mut source)).unwrap();
        Self { source, gguf }
    }

    fn bytes(&mut self, name: &str) -> Vec<u8> {
        let tensor = self.gguf.tensor(name).unwrap();
        assert_eq!(tensor.shape, [COLS as u64, ROWS as u64]);
        let mut bytes = vec![0; tensor.bytes as usize];
        block_on(self.source.read(tensor.offset, &mut bytes)).unwrap();
        bytes
    }

    fn values(&mut self, kind: TensorType) -> Vec<f32> {
        let bytes = self.bytes(&format!("{}.values", kind.name()));
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// The weights of packed rows, as the CPU executor unpacks them.
fn unpacked(layout: Layout, quants: &[u32], scales: &[u32], rows: usize, cols: usize) -> Vec<f32> {
    let mut weights = vec![f32::NAN; rows * cols];
    for (row, weights) in weights.chunks_exact_mut(cols).enumerate() {
        unpack_row(layout, quants, scales, row, cols / 32, weights);
    }
    weights
}

/// Rows in the file's blocks to floats, through `layout`.
fn dequantised(kind: TensorType, bytes: &[u8], rows: usize, cols: usize, layout: Layout) -> Vec<f32> {
    // Filled with ones, so that a word left out shows.
    let mut quants = vec![u32::MAX; layout.quant_words(rows, cols)];
    let mut scales = vec![u32::MAX; layout.scale_words(rows, cols)];
    repack(kind, bytes, rows, cols, layout, &mut quants, &mut scales);
    unpacked(layout, &quants, &scales, rows, cols)
}

#[test]
fn every_type_has_ggmls_weights_to_the_bit() {
    let mut golden = Golden::open();
    assert_eq!(golden.gguf.tensors.len(), 2 * TensorType::ALL.len());
    for kind in TensorType::ALL {
        let (bytes, expected) = (golden.bytes(kind.name()), golden.values(kind));
        for layout in [Layout::for_type(kind), Layout::F32] {
            let found = dequantised(kind, &bytes, ROWS, COLS, layout);
            // Equal floats have equal bits, but for the sign of zero, which changes no sum.
            let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{} as {layout:?}", kind.name());
        }
    }
}

/// The weights of a loaded matrix.
fn read(executor: &mut Executor, matrix: Matrix) -> Vec<f32> {
    let (rows, cols) = (matrix.rows as usize, 32 * matrix.blocks as usize);
    let mut quants = vec![0; matrix.layout.quant_words(rows, cols)];
    let mut scales = vec![0; matrix.layout.scale_words(rows, cols)];
    let [first_quant, first_scale] = matrix.before.map(|words| 4 * words);
    block_on(executor.read(matrix.quants, first_quant, bytemuck::cast_slice_mut(&mut quants))).unwrap();
    block_on(executor.read(matrix.scales, first_scale, bytemuck::cast_slice_mut(&mut scales))).unwrap();
    unpacked(matrix.layout, &quants, &scales, rows, cols)
}

#[test]
fn every_pair_of_types_can_be_stacked() {
    let mut golden = Golden::open();
    let wanted = |kind: TensorType| Wanted { name: kind.name().into(), rows: ROWS as u32, cols: COLS as u32 };
    for a in TensorType::ALL {
        for b in TensorType::ALL {
            let (mut directory, mut buffers) = (Directory::default(), Buffers::default());
            let wanted = [wanted(a), wanted(b)];
            let one = directory.matrix(&golden.gguf, &mut buffers, &wanted).unwrap();
            let stack = directory.stack(&golden.gguf, &mut buffers, &wanted).unwrap();
            let are_alike = Layout::for_type(a) == Layout::for_type(b);
            assert_eq!(stack.len(), if are_alike { 1 } else { 2 });
            assert_eq!(one.layout, if are_alike { Layout::for_type(a) } else { Layout::F32 });
            let mut executor = block_on(Executor::new(None, &buffers, vec![], Some(1))).unwrap();
            block_on(directory.load(&mut golden.source, &mut executor, &mut |_| {})).unwrap();
            let expected = [golden.values(a), golden.values(b)].concat();
            assert!(read(&mut executor, one) == expected, "{a:?} and {b:?} as one matrix");
            let stacked: Vec<f32> = stack.iter().flat_map(|matrix| read(&mut executor, *matrix)).collect();
            assert!(stacked == expected, "{a:?} and {b:?} as {} matrices", stack.len());
        }
    }
}

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// From −1 to 1.
    fn float(&mut self) -> f32 {
        self.word() as f32 / 2_147_483_648.0 - 1.0
    }

    /// `count` blocks of random bytes whose weights are about ±0.15.
    fn blocks(&mut self, kind: TensorType, count: usize) -> Vec<u8> {
        // Where the f16 are in a block, and how large: the largest weight by the largest product of integers.
        let halves: &[(usize, f32)] = match kind {
            TensorType::F32 => return (0..count).flat_map(|_| (0.15 * self.float()).to_le_bytes()).collect(),
            TensorType::Bf16 => {
                return (0..count)
                    .flat_map(|_| ((0.15 * self.float()).to_bits() >> 16).to_le_bytes()[..2].to_vec())
                    .collect();
            }
            TensorType::F16 => &[(0, 0.15)],
            TensorType::Q4_0 => &[(0, 0.15 / 8.0)],
            TensorType::Q4_1 => &[(0, 0.3 / 15.0), (2, -0.15)],
            TensorType::Q5_0 => &[(0, 0.15 / 16.0)],
            TensorType::Q5_1 => &[(0, 0.3 / 31.0), (2, -0.15)],
            TensorType::Q8_0 | TensorType::Iq4Nl => &[(0, 0.15 / 127.0)],
            TensorType::Q2K => &[(80, 0.3 / 45.0), (82, 0.15 / 15.0)],
            TensorType::Q3K => &[(108, 0.15 / 128.0)],
            TensorType::Q4K => &[(0, 0.3 / 945.0), (2, 0.15 / 63.0)],
            TensorType::Q5K => &[(0, 0.3 / 1953.0), (2, 0.15 / 63.0)],
            TensorType::Q6K => &[(208, 0.3 / 4096.0)],
            TensorType::Iq4Xs => &[(0, 0.3 / 4064.0)],
        };
        let mut bytes: Vec<u8> = (0..count * kind.block_bytes()).map(|_| self.word() as u8).collect();
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            for (at, size) in halves {
                // F16 weights are of both signs; a scale keeps most of its size.
                let part = if kind == TensorType::F16 { self.float() } else { 0.8 + 0.2 * self.float() };
                block[*at..at + 2].copy_from_slice(&half::f16::from_f32(size * part).to_le_bytes());
            }
        }
        bytes
    }
}

/// A llama of one layer per entry of `layers`; an entry has the types of `attn_q`, `_k`, `_v`, `_output`, `ffn_gate`,
/// `_up`, `_down`. `ends` has those of `token_embd` and `output`. Gives the file, and the same with F32 weights.
fn model(layers: &[[TensorType; 7]], ends: [TensorType; 2]) -> [Vec<u8>; 2] {
    const DIM: u32 = 256;
    const VOCAB: u32 = 40;
    let metadata = || {
        let keys = [
            ("block_count", layers.len() as u32),
            ("context_length", 512),
            ("embedding_length", DIM),
            ("feed_forward_length", DIM),
            ("attention.head_count", 8),
            ("attention.head_count_kv", 1),
        ];
        let writer = GgufWriter::new().set("general.architecture", Value::String("llama".into()));
        keys.iter().fold(writer, |writer, (key, value)| writer.set(&format!("llama.{key}"), Value::U32(*value)))
    };
    let mut random = Random(layers.len() as u64);
    let [mut own, mut floats] = [metadata(), metadata()];
    let mut add = |name: String, kind: TensorType, rows: u32| {
        let (name, shape) = (format!("{name}.weight"), [u64::from(DIM), u64::from(rows)]);
        let bytes = random.blocks(kind, (rows * DIM) as usize / kind.block_len());
        let weights = dequantised(kind, &bytes, rows as usize, DIM as usize, Layout::F32);
        let take = |writer: &mut GgufWriter| std::mem::replace(writer, GgufWriter::new());
        own = take(&mut own).tensor(&name, kind as u32, &shape, &bytes);
        floats = take(&mut floats).tensor(&name, 0, &shape, bytemuck::cast_slice(&weights));
    };
    add("token_embd".into(), ends[0], VOCAB);
    for (n, types) in layers.iter().enumerate() {
        add(format!("blk.{n}.attn_norm"), TensorType::F32, 1);
        add(format!("blk.{n}.ffn_norm"), TensorType::F32, 1);
        let names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        for (name, kind) in names.iter().zip(types) {
            add(format!("blk.{n}.{name}"), *kind, if ["attn_k", "attn_v"].contains(name) { 32 } else { DIM });
        }
    }
    add("output_norm".into(), TensorType::F32, 1);
    add("output".into(), ends[1], VOCAB);
    [own.finish(), floats.finish()]
}

/// Compares the NLLs of a file with those of its F32 twin on the CPU: one token alone, then two chunks.
fn check(device: &Device, [own, floats]: &[Vec<u8>; 2], mean: f64, largest: f64, what: &str) {
    let of = |bytes: &[u8], device: &Device| {
        let mut engine = block_on(load(bytes, &settings("streaming_1_3", device, CacheType::F32, 4)));
        block_on(nlls(&mut engine, &[1, 7, 23, 39, 0, 16, 2], 0))
    };
    let (found, expected) = (of(own, device), of(floats, &Device::Cpu));
    let spread = expected.iter().fold(0.0_f32, |most, nll| most.max((nll - expected[0]).abs()));
    assert!(spread > 0.01, "{what}: the model says nothing: {expected:?}");
    assert_close(&found, &expected, mean, largest, what);
}

/// Each type beside others: tensor i of layer n has type 3 + 4i + 7n of the list, or so.
fn mixed() -> [Vec<u8>; 2] {
    let kind = |i: usize| TensorType::ALL[i % TensorType::ALL.len()];
    model(&[0, 7].map(|first| std::array::from_fn(|i| kind(first + i))), [kind(14), kind(5)])
}

/// As llama.cpp's `Q4_K_M`: `Q4_K`, but `Q6_K` for the output and for v and down of some layers.
fn q4_k_m() -> [Vec<u8>; 2] {
    use TensorType::{Q4K, Q5_0, Q6K};
    model(&[[Q4K, Q4K, Q6K, Q4K, Q4K, Q4K, Q6K], [Q4K, Q4K, Q5_0, Q4K, Q4K, Q4K, Q4K]], [Q4K, Q6K])
}

#[test]
fn a_model_of_any_type_computes_what_its_weights_say() {
    for kind in TensorType::ALL {
        check(&Device::Cpu, &model(&[[kind; 7]], [kind; 2]), 0.0, 0.0, kind.name());
    }
}

#[test]
fn models_of_mixed_types_compute_what_their_weights_say() {
    check(&Device::Cpu, &mixed(), 0.0, 0.0, "mixed");
    check(&Device::Cpu, &q4_k_m(), 0.0, 0.0, "Q4_K_M");
}

#[test]
fn a_gpu_computes_what_mixed_weights_say() {
    if std::env::var("SINKSTREAM_GPU").is_ok_and(|value| value == "skip") {
        eprintln!("NOT CHECKED: SINKSTREAM_GPU=skip");
        return;
    }
    check(&Device::Gpu, &mixed(), 1e-5, 1e-4, "mixed");
    check(&Device::Gpu, &q4_k_m(), 1e-5, 1e-4, "Q4_K_M");
}
