//! A book of 100,000 tokens through a small ring: memory, speed and bytes on the device stay where they were.
#![cfg(target_os = "linux")] // reads /proc
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use common::files::shared_path;
use sinkstream::engine::{Device, Engine, Settings};
use sinkstream::kernels::cache::CacheType;
use sinkstream::tokenizer::Special;
use sinkstream::{Attention, Source};

const TOKENS: usize = 100_000;
const CHUNK: usize = 128;

/// One at a time: both look at the memory and the speed of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident memory of this process in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The beginning of a book; where the shared data is missing, this project's own pages over and over.
fn book() -> String {
    let own = || concat!(include_str!("../README.md"), include_str!("../models/README.md")).repeat(100);
    let path = shared_path("text/pg19_test_books.txt.xz");
    if !path.exists() {
        return own();
    }
    let unpacked = std::process::Command::new("xz").arg("-dc").arg(path).output().unwrap().stdout;
    String::from_utf8_lossy(&unpacked[..unpacked.len().min(600_000)]).into_owned()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_long_stream_is_flat() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let source = Source::memory("bundled", include_bytes!("../models/sinkstream-2m.gguf").as_slice());
    let settings = Settings {
        device: Device::Cpu,
        attention: Some(Attention::Streaming),
        sinks: Some(4),
        window: Some(252),
        scores: true,
        ..Settings::default()
    };
    let mut engine = pollster::block_on(Engine::load(source, &settings, &mut |_| {})).unwrap();
    let text = book();
    let mut tokens = engine.tokenizer().unwrap().encode_start(&text, Special::Plain).unwrap();
    drop(text);
    tokens.truncate(TOKENS);
    assert_eq!(tokens.len(), TOKENS, "the text is long enough");
    // A shared machine may be slower for a while: the comparison of speeds is given five chances.
    for chance in 1..=5 {
        let (growth, slowdown) = stream(&mut engine, &tokens);
        println!("memory {growth} bytes, last tenth against second tenth ×{slowdown:.4}");
        assert!(growth.unsigned_abs() <= 5 << 20, "resident memory changed by {growth} bytes");
        if slowdown <= 1.05 {
            return;
        }
        assert!(chance < 5, "the last tenth took ×{slowdown:.3} of the second");
    }
}

/// Growth of resident memory after the first 1,000 tokens, and median time of a chunk in the last tenth over the second.
fn stream(engine: &mut Engine, tokens: &[u32]) -> (i64, f64) {
    let bytes = engine.bytes();
    let mut session = engine.session();
    let (mut resident, mut seconds) = (0, vec![]);
    pollster::block_on(async {
        session.append(engine, &tokens[..1]).await.unwrap();
        for (n, chunk) in tokens[1..].chunks(CHUNK).enumerate() {
            if n * CHUNK <= 1000 {
                resident = resident_bytes();
            }
            let started = Instant::now();
            let nlls = session.score(engine, chunk).await.unwrap();
            seconds.push(started.elapsed().as_secs_f64());
            assert!(nlls.iter().all(|nll| nll.is_finite()), "chunk {n}");
        }
    });
    assert_eq!(engine.bytes(), bytes, "bytes held by the executor");
    assert_eq!(session.position(), tokens.len() as u64);
    let tenth = seconds.len() / 10;
    let (second, last) = (&seconds[tenth..2 * tenth], &seconds[seconds.len() - tenth - 1..seconds.len() - 1]);
    println!("{:.0} tokens/s", tokens.len() as f64 / seconds.iter().sum::<f64>());
    (resident_bytes() as i64 - resident as i64, median(last.to_vec()) / median(second.to_vec()))
}

/// Tokens through the compressive memory; `SINKSTREAM_TOKENS=1000000` is the run by hand.
fn infini_tokens() -> usize {
    std::env::var("SINKSTREAM_TOKENS").map_or(TOKENS, |tokens| tokens.parse().unwrap())
}

/// A long stream through a compressive memory: bytes stay where they were, nothing overflows, and a chunk takes as long as
/// one of a stream that has just begun, measured in turns with it.
#[test]
fn a_long_stream_with_a_compressive_memory_is_flat() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for name in ["infini_linear", "infini_delta"] {
        let model = pollster::block_on(common::files::golden(&format!("families/{name}.gguf")));
        let settings =
            Settings { streams: 2, ..common::settings("infini", &Device::Cpu, CacheType::F16, CHUNK as u32) };
        let mut engine = pollster::block_on(common::load(&model, &settings));
        let (bytes, mut session) = (engine.bytes(), engine.session());
        let chunk =
            |n: usize| (0..CHUNK).map(|i| (((n * CHUNK + i) * 2_654_435_761) >> 7) as u32 % 101).collect::<Vec<_>>();
        let chunks = infini_tokens() / CHUNK;
        let mut resident = 0;
        pollster::block_on(async {
            session.append(&mut engine, &[1]).await.unwrap();
            for n in 0..chunks {
                if n * CHUNK <= 1000 {
                    resident = resident_bytes();
                }
                let nlls = session.score(&mut engine, &chunk(n)).await.unwrap();
                assert!(nlls.iter().all(|nll| nll.is_finite()), "{name}, chunk {n}");
            }
        });
        let growth = resident_bytes() as i64 - resident as i64;
        assert_eq!(engine.bytes(), bytes, "bytes held by the executor");
        assert!(growth.unsigned_abs() <= 5 << 20, "resident memory changed by {growth} bytes");
        let memory = pollster::block_on(engine.read_floats("blk.1.memory")).unwrap();
        let largest = memory.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(memory.iter().all(|x| x.is_finite()) && largest > 1.0, "{name}: {largest}");
        for chance in 1..=5 {
            let ratio = pollster::block_on(late_over_early(&mut engine, &mut session, &chunk));
            println!(
                "{name}: {} tokens, memory {growth} bytes, largest value {largest:.1e}, chunk ×{ratio:.4}",
                session.position()
            );
            if ratio <= 1.05 {
                break;
            }
            assert!(chance < 5, "{name}: a chunk takes ×{ratio:.3} of what it took at first");
        }
    }
}

/// Median time of a chunk of a long stream over that of a new one, in turns.
async fn late_over_early(
    engine: &mut Engine,
    late: &mut sinkstream::Session,
    chunk: &impl Fn(usize) -> Vec<u32>,
) -> f64 {
    let mut early = engine.session();
    early.append(engine, &[1]).await.unwrap();
    let mut seconds = [vec![], vec![]];
    for n in 0..400 {
        for (session, seconds) in [&mut *late, &mut early].into_iter().zip(&mut seconds) {
            let started = Instant::now();
            session.score(engine, &chunk(n)).await.unwrap();
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    let [late, early] = seconds.map(median);
    late / early
}
