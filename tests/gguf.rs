//! GGUF headers: what is written is read back, from every kind of source; what is wrong is named with its place; real
//! files agree with the files that they were made from.

#[path = "common/gguf_writer.rs"]
mod gguf_writer;

use std::path::{Path, PathBuf};

use gguf_writer::GgufWriter;
use half::f16;
use pollster::block_on;
use sinkstream::Error;
use sinkstream::gguf::{ArrayValue, Gguf, TensorInfo, Value};
use sinkstream::quant::{BLOCK, Layout, TensorType, repack, unpack_row};
use sinkstream::source::{LocalBoxFuture, RandomBytes, SequentialBytes, Source};

const F32: u32 = 0;
const Q8_0: u32 = 8;
const IQ2_XXS: u32 = 16;

fn read(bytes: &[u8]) -> Result<Gguf, Error> {
    block_on(Gguf::read(&mut Source::memory("test", bytes.to_vec())))
}

/// The message without what all have in common.
fn error_of(bytes: &[u8]) -> String {
    match read(bytes) {
        Err(error @ Error::Format { .. }) => error.to_string().replace("not a readable model file: ", ""),
        other => panic!("expected a format error, found {other:?}"),
    }
}

fn strings(values: &[&str]) -> Value {
    Value::Array(ArrayValue::String(values.iter().map(|value| value.to_string()).collect()))
}

/// One entry of every type, alone and in arrays.
fn every_type() -> Vec<(&'static str, Value)> {
    let nested = ArrayValue::Array(vec![ArrayValue::U8(vec![1]), ArrayValue::Array(vec![ArrayValue::F64(vec![])])]);
    vec![
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(1.5e-7)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("Löwe\n🦁".into())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(std::f64::consts::PI)),
        ("u8s", Value::Array(ArrayValue::U8((0..=255).cycle().take(3000).collect()))),
        ("i8s", Value::Array(ArrayValue::I8(vec![-1, 1]))),
        ("u16s", Value::Array(ArrayValue::U16(vec![1, 2, 3]))),
        ("i16s", Value::Array(ArrayValue::I16(vec![-1]))),
        ("u32s", Value::Array(ArrayValue::U32((0..2000).collect()))),
        ("i32s", Value::Array(ArrayValue::I32(vec![i32::MIN, i32::MAX]))),
        ("f32s", Value::Array(ArrayValue::F32(vec![0.25; 1025]))),
        ("bools", Value::Array(ArrayValue::Bool(vec![true, false, true]))),
        ("strings", strings(&["", "a", "bc"])),
        ("arrays", Value::Array(nested)),
        ("u64s", Value::Array(ArrayValue::U64(vec![]))),
        ("i64s", Value::Array(ArrayValue::I64(vec![i64::MAX; 129]))),
        ("f64s", Value::Array(ArrayValue::F64(vec![f64::MAX]))),
    ]
}

fn with_every_type() -> GgufWriter {
    let writer = every_type().into_iter().fold(GgufWriter::new(), |writer, (key, value)| writer.set(key, value));
    writer.tensor("b", F32, &[3, 2], &[7; 24]).tensor("a", Q8_0, &[64], &[9; 68])
}

#[test]
fn reads_back_every_type() {
    for version in [2, 3] {
        let bytes = with_every_type().version(version).finish();
        let gguf = read(&bytes).unwrap();
        assert_eq!(gguf.version, version);
        assert_eq!(gguf.metadata, every_type().into_iter().map(|(key, value)| (key.to_string(), value)).collect());
        let b = gguf.tensor("b").unwrap();
        assert_eq!((b.cols(), b.rows(), b.bytes, b.offset), (3, 2, 24, gguf.data_offset));
        assert_eq!(b.tensor_type().unwrap(), TensorType::F32);
        let a = gguf.tensor("a").unwrap();
        assert_eq!((a.cols(), a.rows(), a.bytes, a.offset), (64, 1, 68, gguf.data_offset + 32));
        assert_eq!(gguf.tensor("c"), None);
        assert_eq!(gguf.data_offset, with_every_type().header().len().next_multiple_of(32) as u64);
        assert_eq!(bytes[a.offset as usize..][..68], [9; 68]);
    }
}

/// Gives the bytes in pieces of `step`, or at any offset.
struct Pieces {
    bytes: Vec<u8>,
    step: usize,
}

impl SequentialBytes for Pieces {
    fn next(&mut self) -> LocalBoxFuture<'_, sinkstream::Result<Option<Vec<u8>>>> {
        let rest = self.bytes.split_off(self.step.min(self.bytes.len()));
        let piece = std::mem::replace(&mut self.bytes, rest);
        Box::pin(std::future::ready(Ok((!piece.is_empty()).then_some(piece))))
    }
}

impl RandomBytes for Pieces {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, sinkstream::Result<()>> {
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[test]
fn reads_the_same_from_every_kind_of_source() {
    let bytes = with_every_type().finish();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("every_kind_of_source.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let pieces = |step| Box::new(Pieces { bytes: bytes.clone(), step });
    let len = bytes.len() as u64;
    let sources = [
        Source::memory("memory", bytes.clone()),
        Source::open(&path).unwrap(),
        Source::random("random", len, pieces(0)),
        Source::sequential("known length", Some(len), pieces(7)),
        Source::sequential("one by one", None, pieces(1)),
        Source::sequential("all at once", None, pieces(usize::MAX)),
    ];
    let expected = read(&bytes).unwrap();
    for mut source in sources {
        let gguf = block_on(Gguf::read(&mut source)).unwrap();
        assert_eq!((&gguf.metadata, &gguf.tensors), (&expected.metadata, &expected.tensors), "{source:?}");
        // The data follow in the order of `tensors`, from a stream too.
        for TensorInfo { offset, bytes: len, .. } in &gguf.tensors {
            let mut data = vec![0; *len as usize];
            block_on(source.read(*offset, &mut data)).unwrap();
            assert_eq!(data, bytes[*offset as usize..][..data.len()], "{source:?}");
        }
    }
}

#[test]
fn lists_tensors_in_the_order_of_their_data() {
    let writer = GgufWriter::new().tensor("x", F32, &[8], &[0; 32]).tensor("y", F32, &[8], &[0; 32]);
    let mut bytes = writer.finish();
    // The offsets end the entries: swap them.
    let header_end = writer.header().len();
    bytes[header_end - 8] = 0;
    let entry = 8 + 1 + 4 + 8 + 4 + 8;
    bytes[header_end - entry - 8] = 32;
    let gguf = read(&bytes).unwrap();
    let names: Vec<_> = gguf.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["y", "x"]);
    assert_eq!(gguf.tensor("x").unwrap().offset, gguf.data_offset + 32);
}

#[test]
fn keeps_types_that_cannot_be_run() {
    let writer = GgufWriter::new().tensor("k", IQ2_XXS, &[256, 2], &[0; 132]).tensor("new", 99, &[5], &[0; 11]);
    let gguf = read(&writer.finish()).unwrap();
    assert_eq!((gguf.tensor("k").unwrap().bytes, gguf.tensor("new").unwrap().bytes), (132, 0));
    let error = gguf.tensor("k").unwrap().tensor_type().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    let works = "these types work: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, \
                 IQ4_NL, IQ4_XS";
    assert_eq!(error.to_string(), format!("tensor k of type IQ2_XXS is not supported; {works}"));
    let error = gguf.tensor("new").unwrap().tensor_type().unwrap_err().to_string();
    assert_eq!(error, format!("tensor new of type 99 is not supported; {works}"));
}

#[test]
fn reads_files_without_tensors() {
    let writer = GgufWriter::new().set("general.architecture", Value::String("llama".into()));
    for bytes in [writer.header(), writer.finish()] {
        let gguf = read(&bytes).unwrap();
        assert_eq!(gguf.architecture().unwrap(), "llama");
        assert_eq!((gguf.tensors.len(), gguf.data_offset), (0, 96));
    }
}

#[test]
fn gives_values_in_the_type_asked_for() {
    let gguf = read(&with_every_type().finish()).unwrap();
    assert_eq!(gguf.get_u32("u8").unwrap(), Some(200));
    assert_eq!(gguf.get_u32("u32").unwrap(), Some(4_000_000_000));
    assert_eq!(gguf.get_u64("u64").unwrap(), Some(u64::MAX));
    assert_eq!(gguf.get_u32("missing").unwrap(), None);
    assert_eq!(gguf.get_f32("f32").unwrap(), Some(1.5e-7));
    assert_eq!(gguf.get_f32("f64").unwrap(), Some(std::f32::consts::PI));
    assert_eq!(gguf.get_bool("bool").unwrap(), Some(true));
    assert_eq!(gguf.get_str("string").unwrap(), Some("Löwe\n🦁"));
    assert_eq!(gguf.get_integers("i32s").unwrap(), Some(vec![i64::from(i32::MIN), i64::from(i32::MAX)]));
    assert_eq!(gguf.get_integers("missing").unwrap(), None);
    assert_eq!(gguf.strings("strings").unwrap(), ["", "a", "bc"]);
    assert_eq!(gguf.floats("f32s").unwrap(), [0.25; 1025]);
    assert!(gguf.strings("f32s").is_none() && gguf.floats("strings").is_none() && gguf.strings("missing").is_none());
}

#[test]
fn says_where_a_value_of_the_wrong_type_stands() {
    let gguf = read(&with_every_type().finish()).unwrap();
    let message = |error: Error| error.to_string().replace("not a readable model file: ", "");
    let error = message(gguf.get_u32("i8").unwrap_err());
    // 24 bytes of header, then `u8` (10 + 4 + 1), then the key `i8`.
    assert_eq!(error, "metadata i8 at byte 49: expected an integer from 0 to 4294967295, found i8 -100");
    for error in [
        gguf.get_u32("u64").unwrap_err(),
        gguf.get_u32("f32").unwrap_err(),
        gguf.get_u64("i64").unwrap_err(),
        gguf.get_f32("u32").unwrap_err(),
        gguf.get_bool("u8").unwrap_err(),
        gguf.get_str("strings").unwrap_err(),
        gguf.get_integers("f32s").map(|_| ()).unwrap_err(),
        gguf.get_integers("u8").map(|_| ()).unwrap_err(),
    ] {
        assert!(message(error).starts_with("metadata "));
    }
    let error = message(gguf.architecture().unwrap_err());
    assert_eq!(error, "metadata general.architecture at byte 16: it is missing");
}

/// Bytes 24.. of a file with one metadata entry of key `k`: type at 33, value from 37 on.
fn one_entry(value_type: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = GgufWriter::new().set("k", Value::U8(0)).header();
    bytes.truncate(33);
    bytes.extend(value_type.to_le_bytes());
    bytes.extend(value);
    bytes
}

/// One tensor `t`: name from 24, dimensions from 33, shape from 37, type and offset after it.
fn one_tensor(shape: &[u64], ggml_type: u32, offset: u64, data: usize) -> Vec<u8> {
    let mut bytes = GgufWriter::new().tensor("t", ggml_type, shape, &[]).header();
    bytes.truncate(bytes.len() - 8);
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn names_what_is_wrong_at_the_start() {
    let empty = GgufWriter::new().finish();
    assert_eq!(error_of(b""), "magic at byte 0: 4 bytes wanted, but the file ends at byte 0");
    assert_eq!(error_of(b"PK\x03\x04...."), r#"magic at byte 0: expected "GGUF", found "PK\x03\x04""#);
    let version = |version: u32| error_of(&patched(empty.clone(), 4, &version.to_le_bytes()));
    assert_eq!(version(1), "version at byte 4: version 1; only versions 2 and 3 can be read");
    assert_eq!(version(4), "version at byte 4: version 4; only versions 2 and 3 can be read");
    let big_endian = "version at byte 4: big-endian GGUF (version 3); only little-endian files can be read";
    assert_eq!(version(3 << 24), big_endian);
    let count = |at, count: u64| error_of(&patched(empty.clone(), at, &count.to_le_bytes()));
    let rest = "bytes each, but the file ends at byte 32";
    assert_eq!(count(8, u64::MAX), format!("tensor count at byte 8: {} of at least 33 {rest}", u64::MAX));
    assert_eq!(count(8, 1), format!("tensor count at byte 8: 1 of at least 33 {rest}"));
    assert_eq!(count(16, 1 << 40), format!("metadata count at byte 16: {} of at least 14 {rest}", 1u64 << 40));
}

#[test]
fn names_what_is_wrong_in_metadata() {
    let u64 = |value: u64| value.to_le_bytes();
    let array = |element: u32, count: u64| [&element.to_le_bytes()[..], &u64(count)].concat();
    for (bytes, expected) in [
        (one_entry(13, &[0; 8]), "metadata k at byte 33: unknown value type 13"),
        (one_entry(7, &[2]), "metadata k at byte 37: a bool is 0 or 1, not 2"),
        (one_entry(10, &[0; 7]), "metadata k at byte 37: 8 bytes wanted, but the file ends at byte 44"),
        (one_entry(8, &u64(5)), "metadata k at byte 37: 5 of at least 1 bytes each, but the file ends at byte 45"),
        (one_entry(8, b"\x03\0\0\0\0\0\0\0a\xff\xff"), "metadata k at byte 46: not UTF-8"),
        (one_entry(9, &array(77, 0)), "metadata k at byte 37: unknown value type 77"),
        (
            one_entry(9, &array(4, 1 << 62)),
            "metadata k at byte 41: 4611686018427387904 of at least 4 bytes each, but the file ends at byte 49",
        ),
        (
            one_entry(9, &array(8, 2)),
            "metadata k: count at byte 41: 2 of at least 8 bytes each, but the file ends at byte 49",
        ),
        (
            one_entry(9, &[array(8, 2), vec![0; 8], u64(9).into(), vec![0; 7]].concat()),
            "metadata k[1] at byte 57: 9 of at least 1 bytes each, but the file ends at byte 72",
        ),
        (one_entry(9, &[array(7, 2), vec![1, 9]].concat()), "metadata k at byte 50: a bool is 0 or 1, not 9"),
        (
            one_entry(9, &array(9, 1).repeat(9)),
            "metadata k[0][0][0][0][0][0][0][0] at byte 133: arrays in arrays, more than 8 deep",
        ),
        (
            one_entry(9, &[array(9, 3), array(0, 0)].concat()),
            "metadata k: count at byte 41: 3 of at least 12 bytes each, but the file ends at byte 61",
        ),
        (patched(one_entry(0, &[0]), 24, &u64(0)), "metadata key 0 at byte 24: it is empty"),
        (
            GgufWriter::new().set(&"x".repeat(65_536), Value::U8(0)).finish(),
            "metadata key 0 at byte 24: 65536 bytes long, more than 65535",
        ),
        (
            GgufWriter::new().set("k", Value::U8(0)).set("l", Value::U8(0)).set("k", Value::U8(0)).finish(),
            "metadata key k at byte 52: duplicate of the key whose value stands at byte 33",
        ),
    ] {
        assert_eq!(error_of(&bytes), expected);
    }
    for value in [Value::U32(0), Value::U32(48), Value::U64(1 << 32), Value::F32(32.0)] {
        let error = error_of(&GgufWriter::new().set("general.alignment", value.clone()).finish());
        let found = format!("expected a power of two below 2³², found {value}");
        assert_eq!(error, format!("metadata general.alignment at byte 49: {found}"));
    }
}

#[test]
fn names_what_is_wrong_with_tensors() {
    let dims = |n: u32| patched(one_tensor(&[8], F32, 0, 32), 33, &n.to_le_bytes());
    let two = |first: &[u64], second: &str, offset: u64| {
        let mut bytes = GgufWriter::new().tensor("t", F32, first, &[]).tensor(second, F32, &[8], &[]).header();
        bytes.truncate(bytes.len() - 8);
        bytes.extend(offset.to_le_bytes());
        bytes.resize(160 + 96, 0);
        bytes
    };
    let too_large = "its size does not fit in 64 bits";
    for (bytes, expected) in [
        (dims(0), "tensor t: number of dimensions at byte 33: 0, not 1 to 4".into()),
        (dims(5), "tensor t: number of dimensions at byte 33: 5, not 1 to 4".into()),
        (one_tensor(&[8, 0], F32, 0, 32), "tensor t: dimension 1 at byte 45: it is zero".into()),
        (
            one_tensor(&[1 << 32, 1 << 32], F32, 0, 32),
            format!("tensor t: shape [4294967296, 4294967296] of type F32 at byte 37: {too_large}"),
        ),
        (
            one_tensor(&[1 << 62], F32, 0, 32),
            format!("tensor t: shape [4611686018427387904] of type F32 at byte 37: {too_large}"),
        ),
        (
            one_tensor(&[48, 2], Q8_0, 0, 102),
            "tensor t: shape [48, 2] of type Q8_0 at byte 37: columns are not a multiple of the type's block".into(),
        ),
        (one_tensor(&[8], F32, 16, 64), "tensor t: offset at byte 49: 16 is not a multiple of the alignment 32".into()),
        (
            one_tensor(&[8], F32, u64::MAX - 31, 64),
            "tensor t: offset at byte 49: 18446744073709551584 + 32 bytes do not fit in 64 bits".into(),
        ),
        (
            one_tensor(&[8], F32, 32, 63),
            "tensor t: offset at byte 49: its data would be bytes 96 to 128, but the file ends at byte 127".into(),
        ),
        (
            one_tensor(&[8], 99, 96, 64),
            "tensor t: offset at byte 49: its data would be bytes 160 to 160, but the file ends at byte 128".into(),
        ),
        (two(&[9], "u", 32), "tensor u: offset at byte 82: overlaps the data of t, which ends at byte 132".into()),
        (two(&[8], "t", 32), "tensor t at byte 57: duplicate of the tensor at byte 24".into()),
        (GgufWriter::new().tensor("", F32, &[8], &[0; 32]).finish(), "name of tensor 0 at byte 24: it is empty".into()),
    ] {
        assert_eq!(error_of(&bytes), expected);
    }
    assert!(read(&two(&[8], "u", 32)).is_ok() && read(&one_tensor(&[8], F32, 32, 64)).is_ok());
}

#[test]
fn aligns_data_as_the_file_says() {
    let writer = GgufWriter::new().alignment(256).tensor("t", F32, &[1], &[1; 4]).tensor("u", F32, &[1], &[2; 4]);
    let bytes = writer.finish();
    let gguf = read(&bytes).unwrap();
    let offsets: Vec<_> = gguf.tensors.iter().map(|tensor| tensor.offset).collect();
    assert_eq!((gguf.data_offset, offsets), (256, vec![256, 512]));
    assert_eq!(bytes[512..516], [2; 4]);
}

#[test]
fn shows_names_on_one_short_line() {
    let key = format!("a\nb\u{1b}[31m{}", "x".repeat(1000));
    let error = error_of(&GgufWriter::new().set(&key, Value::U8(0)).set(&key, Value::U8(0)).finish());
    assert!(error.starts_with(r"metadata key a\nb\u{1b}[31mxxx"), "{error}");
    assert!(error.len() < 200 && error.contains('…'), "{error}");
}

/// A file of the shared test data; `None`, said on standard error, where there is none.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/models").join(name);
    let found = path.is_file();
    if !found {
        eprintln!("not tested: {} is not there", path.display());
    }
    found.then_some(path)
}

/// Floats `start..start + count` after the 28-byte header of a llama2.c file.
fn llama2c(path: &Path, start: usize, count: usize) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a file that was found");
    let floats = &bytes[28 + 4 * start..][..4 * count];
    floats.chunks_exact(4).map(|float| f32::from_le_bytes(float.try_into().expect("four bytes"))).collect()
}

/// The weights of a tensor in its own layout and in F32, which must agree, and its data in the file.
fn weights(source: &mut Source, tensor: &TensorInfo) -> (Vec<f32>, Vec<u8>) {
    let mut data = vec![0; tensor.bytes as usize];
    block_on(source.read(tensor.offset, &mut data)).expect("data in the file");
    let (rows, cols) = (tensor.rows() as usize, tensor.cols() as usize);
    let kind = tensor.tensor_type().expect("a type that runs");
    let blocks = cols.div_ceil(BLOCK);
    let [own, f32] = [Layout::for_type(kind), Layout::F32].map(|layout| {
        let mut quants = vec![0; layout.quant_words(rows, cols)];
        let mut scales = vec![0; layout.scale_words(rows, cols)];
        repack(kind, &data, rows, cols, layout, &mut quants, &mut scales);
        let mut row_weights = vec![0.0; blocks * BLOCK];
        let mut weights = Vec::new();
        for row in 0..rows {
            unpack_row(layout, &quants, &scales, row, blocks, &mut row_weights);
            weights.extend(&row_weights[..cols]);
        }
        weights
    });
    assert_eq!(own, f32, "{}", tensor.name);
    (own, data)
}

#[test]
fn stories260k_has_the_weights_that_it_was_made_from() {
    let (Some(file), Some(origin)) =
        (shared("stories260K/stories260K-f32.gguf"), shared("stories260K/stories260K.bin"))
    else {
        return;
    };
    let mut source = Source::open(&file).unwrap();
    let gguf = block_on(Gguf::read(&mut source)).unwrap();
    assert_eq!(gguf.architecture().unwrap(), "llama");
    assert_eq!(gguf.get_u32("llama.block_count").unwrap(), Some(5));
    assert_eq!(gguf.get_u32("llama.embedding_length").unwrap(), Some(64));
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap().len(), 512);
    assert_eq!(gguf.floats("tokenizer.ggml.scores").unwrap().len(), 512);
    assert_eq!(gguf.get_integers("tokenizer.ggml.token_type").unwrap().unwrap().len(), 512);
    for tensor in &gguf.tensors {
        weights(&mut source, tensor);
    }
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!(weights(&mut source, embedding).0, llama2c(&origin, 0, 512 * 64));
}

#[test]
fn babyllama_is_as_close_to_its_origin_as_its_blocks_allow() {
    let Some(origin) = shared("babyllama105/model5000.bin") else {
        return;
    };
    let (dim, ffn_dim, layers, kv_dim, vocab) = (128, 352, 5, 64, 105);
    let gate = vocab * dim + layers * (dim + 2 * dim * dim + 2 * kv_dim * dim + dim); // where w1 starts
    for (name, kind, steps) in
        [("q8_0", TensorType::Q8_0, 0.5 + 127.0 / 2048.0), ("q4_0", TensorType::Q4_0, 1.0 + 8.0 / 2048.0)]
    {
        let Some(file) = shared(&format!("babyllama105/babyllama105-{name}.gguf")) else {
            return;
        };
        let mut source = Source::open(&file).unwrap();
        let gguf = block_on(Gguf::read(&mut source)).unwrap();
        for (tensor, start) in [
            ("token_embd.weight", 0),
            ("blk.0.ffn_gate.weight", gate),
            ("blk.4.ffn_gate.weight", gate + 4 * ffn_dim * dim),
            ("blk.2.ffn_down.weight", gate + layers * ffn_dim * dim + 2 * ffn_dim * dim),
        ] {
            let tensor = gguf.tensor(tensor).unwrap();
            assert_eq!(tensor.tensor_type().unwrap(), kind);
            let (weights, data) = weights(&mut source, tensor);
            let expected = llama2c(&origin, start, weights.len());
            // A quantised weight is half a step off, or a whole one where Q4_0's 15 steps do not reach both ends; and
            // up to 127 or 8 steps are each off by what rounding the scale to f16 changed, at most 2⁻¹¹ of them.
            for ((block, expected), data) in
                weights.chunks(32).zip(expected.chunks(32)).zip(data.chunks(kind.block_bytes()))
            {
                let step = f16::from_le_bytes([data[0], data[1]]).to_f32().abs();
                for (weight, expected) in block.iter().zip(expected) {
                    assert!((weight - expected).abs() <= steps * step, "{}: {weight} {expected}", tensor.name);
                }
            }
        }
    }
}
