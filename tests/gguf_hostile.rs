//! Damaged and hostile GGUF files: every one gives a header or a format error, without a panic, and without an
//! allocation that its own bytes do not justify. Seeded, so that a failure comes back; `fuzz/` looks further.

#![allow(unsafe_code, reason = "a global allocator that measures cannot be written without")]

#[path = "common/gguf_writer.rs"]
mod gguf_writer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use gguf_writer::GgufWriter;
use pollster::block_on;
use sinkstream::Error;
use sinkstream::gguf::{ArrayValue, Gguf, Value};
use sinkstream::source::{LocalBoxFuture, RandomBytes, SequentialBytes, Source};

/// Mutants of each of the two small headers; the project asks for 100,000 in all.
const MUTANTS: u64 = 100_000;
/// What a parse may allocate at once beyond the file's size: nodes of the metadata map, messages, short lists. Files
/// of more than 2 KiB are allowed three times their size instead: a `String` has 24 bytes, and 8 in the file if empty.
const SLACK_BYTES: usize = 4 << 10;
/// The same for a stream of unknown length, where lists grow to at most twice what has been read: six times its size.
const STREAM_SLACK_BYTES: usize = 8 << 10;

thread_local! {
    /// Largest single allocation on this thread since it was last set, in bytes.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, keeping the size of the largest allocation.
struct Measuring;

fn note(bytes: usize) {
    LARGEST.set(LARGEST.get().max(bytes));
}

// SAFETY: every call goes to the system's allocator unchanged; `note` does not allocate (a const thread-local).
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A stream of one piece.
struct Whole(Option<Vec<u8>>);

impl SequentialBytes for Whole {
    fn next(&mut self) -> LocalBoxFuture<'_, sinkstream::Result<Option<Vec<u8>>>> {
        Box::pin(std::future::ready(Ok(self.0.take())))
    }
}

/// Parses, checks what must hold for any file, and returns the result with the largest allocation in bytes.
fn parse(mut source: Source) -> (sinkstream::Result<Gguf>, usize) {
    LARGEST.set(0);
    let result = block_on(Gguf::read(&mut source));
    let largest = LARGEST.get();
    match &result {
        Ok(gguf) => {
            for tensor in &gguf.tensors {
                assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
                let end = tensor.offset.checked_add(tensor.bytes).expect("a place in the file");
                assert!(tensor.offset >= gguf.data_offset && source.len().is_none_or(|len| end <= len));
            }
        }
        Err(Error::Format { .. }) => {}
        Err(other) => panic!("neither a header nor a format error: {other}"),
    }
    let message = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    assert!(message.len() < 512 && !message.contains('\n'), "not one clear line: {message}");
    (result, largest)
}

/// Parses `bytes` from memory and as a stream of unknown length; `what` names them when they break something.
fn check(bytes: &[u8], what: impl FnOnce() -> String) -> sinkstream::Result<Gguf> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (result, largest) = parse(Source::memory("memory", bytes.to_vec()));
        let allowed = (bytes.len() + SLACK_BYTES).max(3 * bytes.len());
        assert!(largest <= allowed, "{largest} bytes at once for {}", bytes.len());
        let stream = Source::sequential("stream", None, Box::new(Whole(Some(bytes.to_vec()))));
        let (_, largest) = parse(stream);
        let allowed = (bytes.len() + STREAM_SLACK_BYTES).max(6 * bytes.len());
        assert!(largest <= allowed, "{largest} bytes at once for a stream of {}", bytes.len());
        result
    }));
    outcome.unwrap_or_else(|_| panic!("see above: {}", what()))
}

fn small_file(version: u32) -> GgufWriter {
    let tokens = ["<s>", "a", "", "Löwe"].map(String::from).to_vec();
    GgufWriter::new()
        .version(version)
        .set("general.architecture", Value::String("llama".into()))
        .alignment(8)
        .set("a.u8", Value::U8(1))
        .set("a.i16", Value::I16(-2))
        .set("a.f32", Value::F32(1e-5))
        .set("a.bool", Value::Bool(true))
        .set("a.u64", Value::U64(4))
        .set("a.f64", Value::F64(0.5))
        .set("t.tokens", Value::Array(ArrayValue::String(tokens)))
        .set("t.scores", Value::Array(ArrayValue::F32(vec![0.0, -1.0, -2.0, -3.0])))
        .set("t.flags", Value::Array(ArrayValue::Bool(vec![true, false])))
        .set("t.nested", Value::Array(ArrayValue::Array(vec![ArrayValue::U32(vec![1, 2]), ArrayValue::I64(vec![])])))
        .tensor("embd", 8, &[32, 3], &[1; 102])
        .tensor("norm", 0, &[5], &[2; 20])
        .tensor("exotic", 12, &[256], &[3; 144])
        .tensor("last", 1, &[3, 2, 2], &[4; 24])
}

/// One to six damages to a file: bytes, numbers, lengths.
fn mutate(file: &[u8], random: &mut Random) -> Vec<u8> {
    const INTERESTING: [u64; 16] = [
        0,
        1,
        2,
        4,
        8,
        9,
        31,
        255,
        1 << 16,
        i32::MAX as u64,
        u32::MAX as u64,
        1 << 32,
        1 << 40,
        i64::MAX as u64,
        u64::MAX - 7,
        u64::MAX,
    ];
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(10) {
            0..3 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
            3 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            4..8 => {
                // A number of 4 or 8 bytes: special, or near the file's size.
                let number = match random.below(3) {
                    0 => random.below(2 * bytes.len()) as u64,
                    _ => INTERESTING[random.below(INTERESTING.len())],
                };
                let width = if random.below(2) == 0 { 4 } else { 8 };
                for (byte, new) in bytes[at..].iter_mut().zip(&number.to_le_bytes()[..width]) {
                    *byte = *new;
                }
            }
            8 => {
                let end = (at + random.below(40)).min(bytes.len());
                if random.below(2) == 0 {
                    bytes.drain(at..end);
                } else {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
            _ => {
                if random.below(4) == 0 {
                    bytes.truncate(at);
                }
            }
        }
    }
    bytes
}

#[test]
fn survives_mutated_headers() {
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for version in [2, 3] {
        let file = small_file(version).finish();
        assert!(check(&file, || "the file itself".into()).is_ok());
        for seed in 0..MUTANTS {
            let bytes = mutate(&file, &mut Random(seed << 8 | u64::from(version)));
            let outcome = match check(&bytes, || format!("version {version}, seed {seed}")) {
                Err(Error::Format { field, .. }) => field.split([' ', ':']).next().unwrap_or_default().to_string(),
                _ => "read".into(),
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    eprintln!("{outcomes:?}");
    // The damage must reach every part of the header, or this test says little.
    for part in ["magic", "version", "metadata", "tensor", "name", "read"] {
        assert!(outcomes.get(part).is_some_and(|count| *count > 100), "{part}: {outcomes:?}");
    }
}

#[test]
fn survives_a_mutated_real_header() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/models/stories260K/stories260K-f32.gguf");
    let Ok(mut file) = std::fs::read(&path) else {
        eprintln!("not tested: {} is not there", path.display());
        return;
    };
    let header = block_on(Gguf::read(&mut Source::memory("file", file.clone()))).unwrap();
    file.truncate(header.data_offset as usize + 1000);
    for seed in 0..3000 {
        let _ = check(&mutate(&file, &mut Random(seed)), || format!("seed {seed}"));
    }
}

#[test]
fn survives_random_bytes() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let len = random.below(2048);
        let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        if seed % 2 == 0 {
            // Past the first checks: a small count of tensors and metadata.
            let start = [b"GGUF\x03\0\0\0".as_slice(), &(seed % 7).to_le_bytes(), &(seed % 11).to_le_bytes()].concat();
            bytes.splice(0..0, start);
        }
        let result = check(&bytes, || format!("seed {seed}"));
        assert!(seed % 2 == 0 || result.is_err());
    }
}

#[test]
fn names_the_end_of_a_file_cut_at_any_byte() {
    let file = small_file(3).finish();
    let gguf = check(&file, || "the file itself".into()).unwrap();
    let last = gguf.tensors.last().unwrap();
    for len in 0..(last.offset + last.bytes) as usize {
        let cut = &file[..len];
        let error = check(cut, || format!("cut at {len}")).unwrap_err().to_string();
        assert!(error.contains(&format!("the file ends at byte {len}")), "{error}");
        // As a stream it cannot be known that data are missing, but a header cut short is named in the same way.
        let (result, _) = parse(Source::sequential("stream", None, Box::new(Whole(Some(cut.to_vec())))));
        if len < small_file(3).header().len() {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&format!("the file ends at byte {len}")), "{error}");
        } else {
            assert!(result.is_ok());
        }
    }
}

/// 1 MiB that follows a key and is all zeros: empty strings, empty arrays of u8.
fn zeros(element_type: u32, min_bytes: u64) -> Vec<u8> {
    let mut bytes = GgufWriter::new().set("k", Value::U8(0)).header();
    bytes.truncate(33);
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(element_type.to_le_bytes());
    bytes.extend(((1u64 << 20) / min_bytes).to_le_bytes());
    bytes.resize(bytes.len() + (1 << 20), 0);
    bytes
}

#[test]
fn needs_at_most_three_times_the_room_of_the_smallest_elements() {
    for (element_type, min_bytes) in [(8, 8), (9, 12)] {
        let bytes = zeros(element_type, min_bytes);
        let (result, largest) = parse(Source::memory("memory", bytes.clone()));
        assert_eq!(result.unwrap().metadata["k"].array().unwrap().len() as u64, (1 << 20) / min_bytes);
        assert!(largest <= 3 * bytes.len(), "{largest} bytes at once for {}", bytes.len());
    }
    let writer = (0..20_000).fold(GgufWriter::new(), |writer, index| writer.tensor(&format!("{index}"), 99, &[1], &[]));
    let bytes = writer.finish();
    let (result, largest) = parse(Source::memory("memory", bytes.clone()));
    assert_eq!(result.unwrap().tensors.len(), 20_000);
    assert!(largest <= 3 * bytes.len(), "{largest} bytes at once for {}", bytes.len());
}

/// A file that says it has 1 TiB: after the first bytes all `x`.
struct Huge(Vec<u8>);

impl RandomBytes for Huge {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, sinkstream::Result<()>> {
        buf.fill(b'x');
        for (byte, known) in buf.iter_mut().zip(self.0.iter().skip(offset as usize)) {
            *byte = *known;
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

#[test]
fn follows_what_was_read_and_not_what_was_announced() {
    // 2²⁴ strings fit into the bytes that the file claims to have. The first is empty, the second endless.
    let mut bytes = zeros(8, 1 << 20);
    bytes.truncate(57);
    bytes[41..49].copy_from_slice(&(1u64 << 24).to_le_bytes());
    let (result, largest) = parse(Source::random("huge", 1 << 40, Box::new(Huge(bytes.clone()))));
    let error = result.unwrap_err().to_string();
    let expected = "metadata k[1] at byte 57: 8680820740569200760 of at least 1 bytes each, but headers beyond byte \
                    268435456 are not read";
    assert!(error.ends_with(expected), "{error}");
    assert!(largest <= 128 << 10, "{largest} bytes at once");
    // 2⁶⁰ of them do not fit into any header.
    bytes[41..49].copy_from_slice(&(1u64 << 60).to_le_bytes());
    let (result, _) = parse(Source::random("huge", 1 << 40, Box::new(Huge(bytes))));
    assert!(result.unwrap_err().to_string().contains("metadata k: count at byte 41"));
}
