//! Saved sessions that are damaged, of another engine, or made to mislead: one clear line, and nothing lost.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::model_checks::go_on;
use common::{files::golden, load, settings};
use pollster::block_on;
use sha2::{Digest, Sha256};
use sinkstream::engine::{Device, Engine};
use sinkstream::kernels::cache::CacheType::{self, F16, F32};
use sinkstream::{Error, Sampling, Session};

fn engine(model: &str, mode: &str, cache: CacheType) -> Engine {
    block_on(async { load(&golden(model).await, &settings(mode, &Device::Cpu, cache, 8)).await })
}

/// A stream of 40 tokens, 3 of them pinned, in turns of 10, saved.
fn saved(engine: &mut Engine) -> (Session, Vec<u8>) {
    let mut session = engine.session();
    session.pin(3).unwrap();
    for turn in 0..4 {
        session.begin_turn();
        let ids: Vec<u32> = (turn..turn + 10).collect();
        block_on(session.append(engine, &ids)).unwrap();
    }
    let bytes = block_on(session.save(engine, b"note")).unwrap();
    (session, bytes)
}

fn refusal(engine: &mut Engine, bytes: &[u8]) -> String {
    let error = block_on(Session::restore(engine, bytes)).unwrap_err();
    assert!(matches!(error, Error::Snapshot(_)), "{error}");
    error.to_string()
}

#[test]
fn a_damaged_file_is_refused_and_the_present_session_goes_on() {
    let mut engine = engine("q8.gguf", "streaming_4_12", F16);
    let (mut session, bytes) = saved(&mut engine);
    let places = (0..200).chain((0..1800).map(|n: usize| n.wrapping_mul(2_654_435_761) % bytes.len()));
    for place in places.chain(bytes.len() - 40..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        refusal(&mut engine, &damaged);
    }
    for length in (0..bytes.len()).step_by(97).chain([0, 7, 8, 11, 12, 31, 32, 43, 44, 76, bytes.len() - 1]) {
        refusal(&mut engine, &bytes[..length]);
    }
    refusal(&mut engine, &[&bytes[..], b"x"].concat());
    let wanted = block_on(go_on(&mut engine, &mut session, &Sampling::greedy(), 20));
    let (mut back, _) = block_on(Session::restore(&mut engine, &bytes)).unwrap();
    assert_eq!(block_on(go_on(&mut engine, &mut back, &Sampling::greedy(), 20)), wanted);
}

#[test]
fn a_session_of_another_engine_is_refused_by_name() {
    let (_, bytes) = saved(&mut engine("q8.gguf", "streaming_4_12", F16));
    for (model, mode, cache, word) in [
        ("q4_mixed.gguf", "streaming_4_12", F16, "another model"),
        ("q8.gguf", "window_0_16", F16, "another attention mode"),
        ("q8.gguf", "streaming_4_13", F16, "another cache size"),
        ("q8.gguf", "streaming_4_12", F32, "another cache type"),
    ] {
        let line = refusal(&mut engine(model, mode, cache), &bytes);
        assert!(line.contains(word) && !line.contains('\n'), "{line}");
    }
    let mut other = engine("q8.gguf", "streaming_3_13", F16);
    assert!(block_on(Session::restore(&mut other, &bytes)).is_ok(), "what is pinned is the session's own");
    let mut newer = bytes.clone();
    newer[8] = 9;
    assert!(refusal(&mut other, &newer).contains("version is 9"));
    assert!(refusal(&mut other, b"GGUF and so on and so on").contains("no saved session"));
}

#[test]
fn bytes_made_to_mislead_do_not_panic() {
    let mut engine = engine("q8.gguf", "streaming_4_12", F16);
    let (_, bytes) = saved(&mut engine);
    let body = bytes.len() - 32;
    let (mut accepted, mut refused) = (0, 0);
    // Every byte of the numbers, some of the keys and values; then the checksum is made right again.
    for place in (44..400.min(body)).chain((400..body).step_by(151)) {
        for value in [0x00, 0x01, 0x7f, 0xff] {
            let mut changed = bytes[..body].to_vec();
            changed[place] = value;
            let hash = Sha256::digest(&changed);
            changed.extend(hash);
            match block_on(Session::restore(&mut engine, &changed)) {
                Ok((mut session, _)) => {
                    accepted += 1;
                    block_on(go_on(&mut engine, &mut session, &Sampling::greedy(), 3));
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, Error::Snapshot(_)), "{error}");
                }
            }
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} accepted, {refused} refused");
}
