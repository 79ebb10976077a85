//! Checks of several streams on one engine, the same for both executors.

use std::ops::ControlFlow;

use sinkstream::engine::{Device, Settings};
use sinkstream::executor::Counts;
use sinkstream::gpu::Gpu;
use sinkstream::kernels::cache::CacheType::F16;
use sinkstream::session::{Part, generate_together};
use sinkstream::{Engine, Sampling, Session};

use super::files::golden;
use super::model_checks::go_on;
use super::{load, settings};

/// A stream's wishes: prompt, sampling, and tokens wanted in each of several calls (0: it stays out of it).
struct Plan {
    prompt: Vec<u32>,
    sampling: Sampling,
    counts: &'static [u32],
    /// Breaks off after so many tokens of a call.
    breaks_after: u32,
}

fn plans() -> Vec<Plan> {
    let usual = Sampling { seed: 11, ..Sampling::default() };
    let plan = |length: u32, sampling, counts, breaks_after| Plan {
        prompt: (0..length).map(|n| (n * 37 + length * 5) % 97).collect(),
        sampling,
        counts,
        breaks_after,
    };
    vec![
        plan(1, Sampling::greedy(), &[3, 40, 7, 0, 90, 1], u32::MAX),
        plan(50, usual, &[3, 17, 7, 33, 90, 64], 30),
        plan(7, Sampling { repeat_penalty: 1.4, repeat_last_n: 200, seed: 2, ..usual }, &[0, 0, 50, 33, 5, 64], 21),
        plan(29, Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, min_p: 0.0, ..usual }, &[9, 2, 0, 120, 0, 30], 100),
        plan(3, Sampling { top_k: 5, seed: 77, logprobs: true, ..usual }, &[1, 1, 1, 1, 200, 1], u32::MAX),
    ]
}

async fn begin(engine: &mut Engine, plan: &Plan) -> Session {
    let mut session = engine.session();
    session.append(engine, &plan.prompt).await.unwrap();
    session
}

/// Streams with prompts, seeds, sampling and lengths of their own, that join, break off and pause as they like, have the
/// texts that each has alone; with room for all of them on the device, and for three of five.
///
/// `sizes`: how many lanes there are, and how many streams go on at a time.
pub async fn together_as_alone(device: &Device, modes: &[&str], sizes: &[(u32, usize)]) {
    for mode in modes {
        let model = golden(if *mode == "infini" { "families/infini_delta.gguf" } else { "q8.gguf" }).await;
        let mut alone = vec![];
        for plan in plans() {
            let mut engine = load(&model, &settings(mode, device, F16, 16)).await;
            let mut session = begin(&mut engine, &plan).await;
            let sums = plan.counts.iter().map(|&count| count.min(plan.breaks_after)).sum();
            alone.push(go_on(&mut engine, &mut session, &plan.sampling, sums).await);
        }
        for &(streams, size) in sizes {
            let mut engine = load(&model, &Settings { streams, ..settings(mode, device, F16, 16) }).await;
            let plans = plans();
            let mut sessions = vec![];
            for plan in &plans {
                sessions.push(begin(&mut engine, plan).await);
            }
            let mut texts = vec![vec![]; plans.len()];
            for call in 0..plans[0].counts.len() {
                let all: Vec<_> = plans.iter().zip(&mut sessions).zip(&mut texts).collect();
                let (mut all, mut rest) = (all.into_iter(), true);
                while rest {
                    let mut parts: Vec<Part<'_>> = vec![];
                    for ((plan, session), text) in all.by_ref().take(size) {
                        let (mut left, expected) = (plan.breaks_after, plan.counts[call..].iter().sum::<u32>());
                        let deliver = Box::new(move |id, logprob: Option<f32>| {
                            assert_eq!(logprob.is_some(), plan.sampling.logprobs);
                            assert!(logprob.is_none_or(|logprob| logprob < 0.0), "{logprob:?}");
                            text.push(id);
                            left -= 1;
                            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                        });
                        let (sampling, count) = (plan.sampling, plan.counts[call]);
                        parts.push(Part { session, sampling, count, expected: expected.into(), deliver });
                    }
                    rest = !parts.is_empty();
                    generate_together(&mut engine, &mut parts).await.unwrap();
                }
                for ((plan, session), text) in plans.iter().zip(&sessions).zip(&texts) {
                    assert_eq!(session.position(), (plan.prompt.len() + text.len()) as u64, "call {call}");
                }
            }
            assert_eq!(texts, alone, "{mode}, {streams} lanes, {size} at a time");
        }
    }
}

/// Streams that come late, leave and come back share every step with the others, a token each, in whatever order they
/// are named: the weights are read once for all of them. Each has the text that it has alone.
pub async fn shared_steps(device: &Device) {
    const CALLS: usize = 120;
    let (model, settings) = (golden("q8.gguf").await, settings("streaming_4_28", device, F16, 16));
    let (plans, tokens) = (&plans()[..4], 723);
    let (mut alone, mut step) = (vec![], 0);
    for plan in plans {
        let mut engine = load(&model, &settings).await;
        let mut session = begin(&mut engine, plan).await;
        let before = engine.counts().dispatches;
        alone.push(go_on(&mut engine, &mut session, &plan.sampling, tokens).await);
        step = (engine.counts().dispatches - before) / u64::from(tokens);
    }
    let mut engine = load(&model, &Settings { streams: 4, ..settings }).await;
    let (mut sessions, mut texts) = (vec![], vec![vec![]; 4]);
    for (who, calls) in [(&[0, 1, 2][..], 3), (&[3, 0, 1, 2], CALLS), (&[2, 3, 0], CALLS), (&[1, 0, 2, 3], CALLS)] {
        while sessions.len() < who.len() {
            let plan = &plans[sessions.len()];
            sessions.push(begin(&mut engine, plan).await);
        }
        let before = (engine.counts(), texts.concat().len());
        for call in 0..calls {
            let mut all: Vec<_> = sessions.iter_mut().zip(&mut texts).map(Some).collect();
            let mut parts: Vec<Part<'_>> = vec![];
            for place in 0..who.len() {
                let stream = who[(place + call / 7) % who.len()];
                let (session, text) = all[stream].take().unwrap();
                let deliver = Box::new(move |id, _| {
                    text.push(id);
                    ControlFlow::Continue(())
                });
                let (sampling, count) = (plans[stream].sampling, [1, 1, 1, 5][call % 4]);
                parts.push(Part { session, sampling, count, expected: u64::MAX, deliver });
            }
            generate_together(&mut engine, &mut parts).await.unwrap();
        }
        let (after, tokens) = (engine.counts(), texts.concat().len() - before.1);
        let dispatches = after.dispatches - before.0.dispatches;
        let shared = step * (tokens / who.len()) as u64;
        let waits = after.waits_on_one - before.0.waits_on_one;
        eprintln!(
            "{who:?}: {dispatches} dispatches for {tokens} tokens, at best {shared}; {waits} waits for one token"
        );
        if calls == CALLS {
            // Once after a change, what was computed ahead is computed again.
            assert!(
                10 * dispatches <= 13 * shared,
                "{who:?}: {dispatches} dispatches, {shared} if all steps are shared"
            );
            assert!(waits <= 2, "{who:?}: {waits} waits for one token");
        }
    }
    for (text, alone) in texts.iter().zip(&alone) {
        assert_eq!(text[..], alone[..text.len()]);
    }
}

/// What is computed ahead is void once the stream moves in another way: more text, a turn, tokens taken back, other
/// sampling. And a copy goes its own way.
pub async fn moved_streams(device: &Device) {
    let model = golden("q8.gguf").await;
    let sampling = Sampling { seed: 4, repeat_penalty: 1.2, ..Sampling::default() };
    let mut texts = vec![];
    for is_ahead in [false, true] {
        let mut engine = load(&model, &Settings { streams: 2, ..settings("streaming_4_28", device, F16, 16) }).await;
        let mut session = engine.session();
        session.append(&mut engine, &[5, 6, 7]).await.unwrap();
        let mut text = vec![];
        for round in 0..12_u32 {
            {
                let expected = if is_ahead { u64::MAX } else { 9 };
                let deliver = Box::new(|id, _| {
                    text.push(id);
                    ControlFlow::Continue(())
                });
                let sampling = Sampling { seed: round / 4, ..sampling };
                let part = Part { session: &mut session, sampling, count: 9, expected, deliver };
                generate_together(&mut engine, &mut [part]).await.unwrap();
            }
            match round % 4 {
                0 => session.append(&mut engine, &[round, 2, 3]).await.unwrap(),
                1 => session.take_back(round.min(8)).unwrap(),
                2 => session.begin_turn(),
                _ => {
                    let mut copy = session.try_clone(&mut engine).await.unwrap();
                    let own = go_on(&mut engine, &mut session, &sampling, 20).await;
                    assert_eq!(go_on(&mut engine, &mut copy, &sampling, 20).await, own, "the copy");
                    session.take_back(20).unwrap();
                    let mut second = copy.try_clone(&mut engine).await.unwrap(); // no lane is free
                    copy.append(&mut engine, &[1]).await.unwrap();
                    second.take_back(20).unwrap();
                    assert_eq!(go_on(&mut engine, &mut second, &sampling, 20).await, own, "a copy in host memory");
                }
            }
        }
        assert!(session.evicted() > 60);
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1]);
}

/// Tokens that a device computes ahead while they are delivered.
async fn ahead(engine: &mut Engine, session: &mut Session, sampling: &Sampling, count: u32) -> Vec<u32> {
    let mut ids = vec![];
    let deliver = Box::new(|id, _| {
        ids.push(id);
        ControlFlow::Continue(())
    });
    let part = Part { session, sampling: *sampling, count, expected: u64::MAX, deliver };
    generate_together(engine, &mut [part]).await.unwrap();
    ids
}

/// What a stream does in the tests of a lost device; the text, and at the end all keys and values.
async fn history(engine: &mut Engine, length: u32, is_pinned: bool, lose: &mut dyn FnMut(u32)) -> (Vec<u32>, Vec<u8>) {
    let sampling = Sampling { seed: 9, repeat_penalty: 1.3, repeat_last_n: 100, ..Sampling::default() };
    let mut session = engine.session();
    if is_pinned {
        session.pin(9).unwrap();
    }
    let ids: Vec<u32> = (0..length).map(|n| n * 31 % 97).collect();
    session.append(engine, &ids[..length as usize / 2]).await.unwrap();
    if is_pinned {
        session.begin_turn();
    }
    lose(0);
    session.append(engine, &ids[length as usize / 2..]).await.unwrap();
    let mut text = ahead(engine, &mut session, &Sampling::greedy(), 9).await;
    lose(1); // in mid-stream, with two launches under way
    text.extend(ahead(engine, &mut session, &Sampling::greedy(), 9).await);
    text.extend(ahead(engine, &mut session, &sampling, 20).await);
    session.take_back(3).unwrap();
    lose(2);
    let mut copy = session.try_clone(engine).await.unwrap();
    text.extend(go_on(engine, &mut session, &sampling, 30).await);
    lose(3); // one of the two is in host memory
    text.extend(go_on(engine, &mut copy, &sampling, 30).await);
    lose(4);
    text.extend(session.score(engine, &[5, 6, 7]).await.unwrap().iter().map(|nll| (nll * 1000.0) as u32));
    lose(5);
    (text, session.save(engine, b"").await.unwrap())
}

/// A device that is lost is replaced, and every stream goes on as if nothing had happened: before and after the first
/// eviction, with pinned tokens and turns, from host memory. On software adapters with the same bits.
///
/// `modes` and `moments`: how many of them are tried.
pub async fn lost_device(_: &Device, modes: usize, moments: std::ops::Range<u32>) {
    let model = golden("q8.gguf").await;
    let first = Gpu::choose(&Device::Gpu).await.unwrap().unwrap();
    let cases =
        [("streaming_4_28", 140, true), ("streaming_4_28", 6, false), ("window_0_32", 90, false), ("dense", 50, false)];
    for (mode, length, is_pinned) in cases.into_iter().take(modes) {
        let of = |gpu: &Gpu| settings(mode, &Device::Open(Box::new(gpu.clone())), F16, 8);
        let mut engine = load(&model, &of(&first)).await;
        let (wanted, keys) = history(&mut engine, length, is_pinned, &mut |_| {}).await;
        assert_eq!(engine.recoveries(), 0);
        for moment in moments.clone() {
            let gpu = Gpu::choose(&Device::Gpu).await.unwrap().unwrap();
            let mut engine = load(&model, &of(&gpu)).await;
            let mut lose = |now| {
                if now == moment {
                    gpu.destroy();
                }
            };
            let (text, keys_after) = history(&mut engine, length, is_pinned, &mut lose).await;
            assert_eq!(text, wanted, "{mode} after {length}, lost at {moment}");
            assert_eq!(engine.recoveries(), 1, "{mode} after {length}, lost at {moment}");
            if gpu.is_software() {
                assert!(keys == keys_after, "{mode} after {length}, lost at {moment}: keys and values differ");
            }
        }
    }
}

/// In steady state two launches are under way, and the host only looks at what they bring: no write, no wait for a single
/// token, a submit for many tokens.
pub async fn steady_state(device: &Device) {
    let mut engine = load(&golden("q8.gguf").await, &settings("streaming_4_28", device, F16, 16)).await;
    let mut session = engine.session();
    session.append(&mut engine, &[1, 2, 3]).await.unwrap();
    let sampling = Sampling { seed: 1, ..Sampling::default() };
    for count in [4, 8, 16] {
        ahead(&mut engine, &mut session, &sampling, 64).await; // grows to the burst
        let before = engine.counts();
        for _ in 0..512 / count {
            ahead(&mut engine, &mut session, &sampling, count).await;
        }
        let after = engine.counts();
        let of = |what: fn(&Counts) -> u64| what(&after) - what(&before);
        assert!(of(|counts| counts.submits) <= 512 / 4 + 2, "{before:?} {after:?}"); // a fast device needs fewer
        assert_eq!((of(|counts| counts.waits_on_one), of(|counts| counts.writes)), (0, 0));
        let dispatches = of(|counts| counts.dispatches);
        assert!((512 * 12..520 * 20).contains(&dispatches), "{dispatches} dispatches for 512 tokens");
    }
}
