//! Checks of several streams on one engine, the same for both executors.

use std::ops::ControlFlow;

use sinkstream::engine::{Device, Settings};
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
pub async fn together_as_alone(device: &Device) {
    let model = golden("q8.gguf").await;
    for mode in ["streaming_4_28", "window_0_32"] {
        let mut alone = vec![];
        for plan in plans() {
            let mut engine = load(&model, &settings(mode, device, F16, 16)).await;
            let mut session = begin(&mut engine, &plan).await;
            let sums = plan.counts.iter().map(|&count| count.min(plan.breaks_after)).sum();
            alone.push(go_on(&mut engine, &mut session, &plan.sampling, sums).await);
        }
        for (streams, size) in [(5, 5), (9, 5), (3, 3), (3, 2), (1, 1)] {
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
                let sampling = Sampling { seed: round % 3, ..sampling };
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
