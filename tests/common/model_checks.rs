//! The checks of whole models, the same for both executors, natively and in browsers.

use std::ops::ControlFlow;

use serde_json::Value;
use sinkstream::engine::{Device, Settings, lay_out};
use sinkstream::executor::Executor;
use sinkstream::gguf::Gguf;
use sinkstream::gpu::Gpu;
use sinkstream::kernel::Tier;
use sinkstream::kernels::cache::CacheType::{self, F16, F32};
use sinkstream::model::Model;
use sinkstream::plan::{Buffers, Column, ColumnsHeader, Plan};
use sinkstream::stream::encode_text;
use sinkstream::tuning::Tuning;
use sinkstream::{Engine, Sampling, Session, Source};

use super::files::{golden, shared};
use super::{GOLDEN, assert_close, difference, floats, ids, json, load, nlls, settings};

/// Largest mean and single difference in nats that a cache type may make on the random models.
fn tolerance(cache: CacheType) -> (f64, f64) {
    match cache {
        F16 => (0.002, 0.02),
        F32 => (1e-4, 1e-3),
    }
}

/// A golden model, and what is known of it.
async fn golden_model(name: &str) -> (Vec<u8>, Value) {
    (golden(&format!("{name}.gguf")).await, json(&golden(&format!("{name}.json")).await))
}

/// The golden models, in every attention mode whose name begins so, cache type and chunk size, against the step-by-step reference.
pub async fn golden_nlls(device: &Device, chunks: &[u32], modes: &str) {
    for name in GOLDEN {
        let (model, reference) = golden_model(name).await;
        let tokens = ids(&reference["tokens"]);
        for (mode, wanted) in reference["nll"].as_object().unwrap().iter().filter(|(mode, _)| mode.starts_with(modes)) {
            for cache in [F32, F16] {
                for &chunk in chunks {
                    let mut engine = load(&model, &settings(mode, device, cache, chunk)).await;
                    let got = nlls(&mut engine, &tokens, 0).await;
                    let (mean, largest) = tolerance(cache);
                    let what = format!("{name} {mode} {cache:?} chunk {chunk}");
                    assert_close(&got, &floats(wanted), mean, largest, &what);
                }
            }
        }
    }
}

/// The golden model of one family, in every attention mode and cache type, against transformers and the step-by-step reference.
pub async fn family_nlls(device: &Device, name: &str, chunks: &[u32]) {
    let (model, reference) = golden_model(&format!("families/{name}")).await;
    let tokens = ids(&reference["tokens"]);
    for (mode, wanted) in reference["nll"].as_object().unwrap() {
        for cache in [F32, F16] {
            for &chunk in chunks {
                let mut engine = load(&model, &settings(mode, device, cache, chunk)).await;
                let got = nlls(&mut engine, &tokens, 0).await;
                let (mean, largest) = tolerance(cache);
                let what = format!("{name} {mode} {cache:?} chunk {chunk}");
                assert_close(&got, &floats(wanted), mean, largest, &what);
            }
        }
    }
}

/// `stories260K`, and what one of the files beside it knows of it.
async fn stories(reference: &str) -> Option<(Vec<u8>, Value)> {
    let model = shared("models/stories260K/stories260K-f32.gguf").await?;
    Some((model, json(&shared(&format!("models/stories260K/{reference}")).await?)))
}

/// `stories260K` in every mode, with these types of cache, against an independent PyTorch stream: at most so many tokens, a
/// quarter of that in recompute mode, where each costs a whole run.
pub async fn stories_nlls(device: &Device, most: usize, caches: &[CacheType]) {
    let Some((model, reference)) = stories("streaming_reference.json").await else { return };
    let tokens = ids(&reference["tokens"]);
    for (mode, wanted) in reference.as_object().unwrap() {
        let Value::Array(_) = wanted else { continue };
        if mode == "tokens" {
            continue;
        }
        for &cache in caches {
            let (mean, largest) = if cache == F32 { (1e-4, 1e-3) } else { (0.002, 0.1) };
            let mut wanted = floats(wanted);
            wanted.truncate(if mode.starts_with("recompute") { most / 4 } else { most });
            let mut engine = load(&model, &settings(mode, device, cache, 128)).await;
            let got = nlls(&mut engine, &tokens[..=wanted.len()], 0).await;
            assert_close(&got, &wanted, mean, largest, &format!("stories260K {mode} {cache:?}"));
        }
    }
}

/// The greedy text of `stories260K`, token by token and in chunks.
pub async fn stories_greedy(device: &Device) {
    let Some((model, reference)) = stories("reference.json").await else { return };
    let wanted = ids(&reference["greedy_ids_numpy"]);
    let mut engine = load(&model, &Settings { device: device.clone(), ..Settings::default() }).await;
    let got = generate(&mut engine, &wanted[..1], &Sampling::greedy(), 180).await;
    assert_eq!(got, wanted[1..=180], "the first 180 greedy ids");
}

/// Ids chosen after `prompt`.
pub async fn generate(engine: &mut Engine, prompt: &[u32], sampling: &Sampling, count: u32) -> Vec<u32> {
    let mut session = engine.session();
    session.append(engine, prompt).await.unwrap();
    go_on(engine, &mut session, sampling, count).await
}

/// Positions far out in the stream change nothing, in chunks of this size.
pub async fn far_positions(device: &Device, chunk: u32) {
    let mut models = vec![("odd_tied", golden("odd_tied.gguf").await)];
    models.extend(shared("models/stories260K/stories260K-f32.gguf").await.map(|model| ("stories260K", model)));
    for (name, model) in models {
        for (cache, mean, largest) in [(F32, 1e-3, 1e-3), (F16, 0.003, 0.1)] {
            let mut engine = load(&model, &settings("streaming_4_28", device, cache, chunk)).await;
            let tokens: Vec<u32> = (0..400_u32).map(|n| n.wrapping_mul(2_654_435_761) % 97).collect();
            let near = nlls(&mut engine, &tokens, 0).await;
            for position in [(1 << 32) - 300, 1 << 40] {
                let far = nlls(&mut engine, &tokens, position).await;
                assert_close(&near, &far, mean, largest, &format!("{name} {cache:?} at {position}"));
            }
        }
    }
}

/// How a text is cut into chunks changes nothing but rounding.
pub async fn chunk_sizes(device: &Device, sizes: &[u32]) {
    let (model, reference) = golden_model("q8").await;
    let tokens = ids(&reference["tokens"]);
    for cache in [F32, F16] {
        let of = async |chunk| {
            let mut engine = load(&model, &settings("streaming_4_28", device, cache, chunk)).await;
            nlls(&mut engine, &tokens, 0).await
        };
        let one = of(1).await;
        for &chunk in sizes {
            assert_close(&one, &of(chunk).await, 1e-4, 1e-3, &format!("chunk {chunk} {cache:?}"));
        }
    }
}

/// A stream goes on after tokens were taken back exactly as if they had never been.
pub async fn taking_back(device: &Device) {
    for mode in ["streaming_4_28", "window_0_32", "recompute_25"] {
        let mut engine = load(&golden("q8.gguf").await, &settings(mode, device, F16, 16)).await;
        let sampling = Sampling { repeat_penalty: 1.3, seed: 7, ..Sampling::default() };
        let whole = generate(&mut engine, &[1, 2, 3], &sampling, 120).await;
        let mut pieces = vec![];
        let mut session = engine.session();
        session.append(&mut engine, &[1, 2, 3]).await.unwrap();
        for wanted in [1, 5, 31, 2, 40, 3, 38] {
            let goal = pieces.len() + wanted;
            // Asks for more than it takes: the rest of the burst is taken back.
            let deliver = |id| {
                pieces.push(id);
                if pieces.len() == goal { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            session.generate(&mut engine, &sampling, 60, deliver).await.unwrap();
            assert_eq!(session.position(), 3 + goal as u64, "position is what was delivered");
        }
        assert_eq!(pieces, whole, "{mode}");
    }
}

/// Streams that lose whole turns, against the step-by-step reference; and with tokens that the device chooses by itself,
/// in bursts and one by one.
pub async fn turns(device: &Device, chunks: &[u32]) {
    let (model, reference) = golden_model("q8").await;
    let (tokens, turns) = (ids(&reference["tokens"]), json(&golden("turns.json").await));
    let starts: Vec<usize> = ids(&turns["starts"]).into_iter().map(|start| start as usize).collect();
    for (name, stream) in turns["streams"].as_object().unwrap() {
        let sinks = name.split('_').nth(1).unwrap().parse().unwrap();
        for (cache, &chunk) in [F32, F16].into_iter().flat_map(|cache| chunks.iter().map(move |chunk| (cache, chunk))) {
            // All caches have 32 tokens but one: what is pinned is the session's, not the engine's.
            let loaded = if name == "streaming_1_20" { name } else { "streaming_4_28" };
            let mut engine = load(&model, &settings(loaded, device, cache, chunk)).await;
            let mut session = engine.session();
            session.pin(sinks).unwrap();
            session.append(&mut engine, &tokens[..1]).await.unwrap();
            let mut nlls = vec![];
            for turn in [1].iter().chain(&starts).zip(starts.iter().chain(&[tokens.len()])) {
                if *turn.0 > 1 {
                    session.begin_turn();
                }
                nlls.extend(session.score(&mut engine, &tokens[*turn.0..*turn.1]).await.unwrap());
            }
            let (mean, largest) = tolerance(cache);
            assert_close(
                &nlls,
                &floats(&stream["nll"]),
                mean,
                largest,
                &format!("turns {name} {cache:?} chunk {chunk}"),
            );
        }
    }

    let mut engine = load(&model, &settings("streaming_4_28", device, F16, 8)).await;
    let mut texts = vec![];
    for burst in [1, 60] {
        let mut session = engine.session();
        let mut text = vec![];
        session.append(&mut engine, &tokens[..3]).await.unwrap();
        for turn in 0..20_usize {
            session.begin_turn();
            session.append(&mut engine, &tokens[turn..turn + 3]).await.unwrap();
            let goal = text.len() + 2 + turn * 5 % 9 + 40 * usize::from(turn == 11);
            while text.len() < goal {
                let count = burst.min(goal - text.len()) as u32;
                let deliver = |id| {
                    text.push(id);
                    ControlFlow::Continue(())
                };
                session
                    .generate(&mut engine, &Sampling { seed: 3, ..Sampling::default() }, count, deliver)
                    .await
                    .unwrap();
            }
        }
        assert!(session.evicted() > 100);
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1], "bursts are cut where a turn leaves");
}

/// Goes on for `count` tokens.
pub async fn go_on(engine: &mut Engine, session: &mut Session, sampling: &Sampling, count: u32) -> Vec<u32> {
    let mut ids = vec![];
    let deliver = |id| {
        ids.push(id);
        ControlFlow::Continue(())
    };
    session.generate(engine, sampling, count, deliver).await.unwrap();
    ids
}

/// A saved session goes on with the same tokens: on the same engine, on another with other chunks, after evictions; and
/// one that the CPU saved, on the device.
pub async fn saved_sessions(device: &Device) {
    let (model, reference) = golden_model("q8").await;
    let tokens = ids(&reference["tokens"]);
    let penalised = Sampling { seed: 5, repeat_penalty: 1.4, repeat_last_n: 200, ..Sampling::default() };
    for mode in ["streaming_4_28", "window_0_32", "dense", "recompute_25"] {
        // In recompute mode every token costs a run over 25.
        let count = if mode == "recompute_25" { 4 } else { 50 };
        for (cache, length) in [(F16, 1), (F32, 20), (F16, 200)] {
            for sampling in [Sampling::greedy(), penalised] {
                let what = format!("{mode} {cache:?} after {length}");
                let mut engine = load(&model, &settings(mode, device, cache, 16)).await;
                let mut session = engine.session();
                if mode == "streaming_4_28" && length > 1 {
                    session.pin(7).unwrap();
                }
                session.append(&mut engine, &tokens[..length / 2]).await.unwrap();
                if mode.starts_with('s') {
                    session.begin_turn();
                }
                session.append(&mut engine, &tokens[length / 2..length]).await.unwrap();
                let saved = session.save(&mut engine, b"a note").await.unwrap();
                assert_eq!(saved, session.save(&mut engine, b"a note").await.unwrap(), "saving changes nothing");
                let wanted = go_on(&mut engine, &mut session, &sampling, count).await;

                let (mut back, note) = Session::restore(&mut engine, &saved).await.unwrap();
                assert_eq!(note, b"a note");
                assert_eq!((back.position(), back.last()), (length as u64, Some(tokens[length - 1])), "{what}");
                assert_eq!(go_on(&mut engine, &mut back, &sampling, count).await, wanted, "{what}, same engine");
                assert_eq!((back.evicted(), back.cached()), (session.evicted(), session.cached()), "{what}");
                let both = (
                    go_on(&mut engine, &mut session, &sampling, 3).await,
                    go_on(&mut engine, &mut back, &sampling, 3).await,
                );
                assert_eq!(both.0, both.1, "{what}: both go on, though the device holds one of them at a time");

                let mut other = load(&model, &settings(mode, device, cache, 128)).await;
                let (mut back, _) = Session::restore(&mut other, &saved).await.unwrap();
                assert_eq!(go_on(&mut other, &mut back, &sampling, count).await, wanted, "{what}, other chunks");
                let mut cpu = load(&model, &settings(mode, &Device::Cpu, cache, 16)).await;
                let (back, _) = Session::restore(&mut cpu, &saved).await.unwrap();
                let saved_there = back.save(&mut cpu, b"a note").await.unwrap();
                assert_eq!(saved_there, saved, "{what}: what the CPU makes of it is the same session");
            }
        }
    }
}

/// The residual stream after every block, and what the first attention works on, against PyTorch.
pub async fn tensors(device: &Device) {
    let reference = json(&golden("odd_tied.json").await);
    let (shape, wanted) = (&reference["shape"], &reference["tensors"]);
    let size = |key: &str| shape[key].as_u64().unwrap() as usize;
    let tokens = &ids(&reference["tokens"])[..6];
    let (dim, n_heads, head_dim) = (size("dim"), size("n_heads"), size("head_dim"));
    let residual_after = |layer: usize| 5 * (layer + 1) + 1; // the embedding, then five dispatches a layer
    for layer in 0..size("n_layers") {
        let mut run = Partial::run(device, tokens, residual_after(layer)).await;
        let x = run.read("x").await;
        let stride = x.len() / run.columns;
        for (token, wanted) in wanted["residual"][layer].as_array().unwrap().iter().enumerate() {
            assert_close(
                &x[token * stride..][..dim],
                &floats(wanted),
                1e-5,
                5e-5,
                &format!("residual {layer} {token}"),
            );
        }
    }
    let mut run = Partial::run(device, tokens, 3).await;
    let (attended, q) = (run.read("attended").await, run.read("q").await);
    let stride = attended.len() / run.columns;
    assert_close(&attended[5 * stride..][..n_heads * head_dim], &floats(&wanted["attn"]), 1e-5, 5e-5, "attention");
    let scale = (head_dim as f32).sqrt(); // queries carry the 1 / sqrt(head_dim) of the scores
    for (head, wanted) in wanted["q_rotated"].as_array().unwrap().iter().enumerate() {
        let q: Vec<f32> = q[(5 * n_heads + head) * head_dim..][..head_dim].iter().map(|q| q * scale).collect();
        assert_close(&q, &floats(wanted), 1e-5, 5e-5, &format!("query of head {head}"));
    }
    let k = run.read("blk.0.k").await;
    let slots = k.len() / size("n_kv_heads") / head_dim;
    for (head, wanted) in wanted["k_rotated"].as_array().unwrap().iter().enumerate() {
        let k = &k[(head * slots + 5) * head_dim..][..head_dim];
        assert_close(k, &floats(wanted), 1e-5, 5e-5, &format!("key of head {head}"));
    }
}

/// Logits of a dense run against transformers.
pub async fn dense_logits(device: &Device) {
    for name in GOLDEN {
        let (model, reference) = golden_model(name).await;
        let tokens = ids(&reference["tokens"]);
        let mut engine = load(&model, &settings("dense", device, F32, 16)).await;
        let (positions, values) = (ids(&reference["logits"]["positions"]), &reference["logits"]["values"]);
        for (position, wanted) in positions.iter().zip(values.as_array().unwrap()) {
            generate(&mut engine, &tokens[..=*position as usize], &Sampling::greedy(), 1).await;
            let logits = engine.read_floats("logits").await.unwrap();
            let wanted = floats(wanted);
            assert_close(&logits[..wanted.len()], &wanted, 1e-4, 1e-3, &format!("{name} logits at {position}"));
        }
    }
}

/// The same seed gives the same text on both executors. Real GPUs add in another order; the last bit of a sum now and then
/// flips the rounding of a cached key to 16 bits, so that their cache has 32 here. So many seeds and tokens.
pub async fn same_text_as_cpu(device: &Device, seeds: u32, count: u32) {
    let Some(model) = shared("models/stories260K/stories260K-f32.gguf").await else { return };
    let usual = Settings { device: device.clone(), ..Settings::default() };
    let cut = Settings { cache: F32, tuning: Some(Tuning::GPU), ..usual.clone() };
    let is_software = Gpu::choose(device).await.unwrap().unwrap().is_software();
    for settings in [is_software.then_some(usual), Some(cut)].into_iter().flatten() {
        let mut engine = load(&model, &settings).await;
        let mut cpu = load(&model, &Settings { device: Device::Cpu, ..settings }).await;
        for seed in 1..=seeds {
            let sampling = Sampling { seed, ..Sampling::default() };
            let text = generate(&mut engine, &[1], &sampling, count).await;
            let wanted = generate(&mut cpu, &[1], &sampling, count).await;
            assert_eq!(text, wanted, "seed {seed}, {:?}", engine.cache_type());
        }
    }
}

/// NLLs of the two executors side by side, past the window, for a report on failure.
pub async fn close_to_cpu(device: &Device) {
    let (model, reference) = golden_model("q4_mixed").await;
    let tokens = ids(&reference["tokens"]);
    let of = async |device: &Device| {
        nlls(&mut load(&model, &settings("streaming_4_28", device, F32, 16)).await, &tokens, 0).await
    };
    let (mean, largest) = difference(&of(device).await, &of(&Device::Cpu).await);
    assert!(mean < 1e-5 && largest < 1e-4, "mean {mean:.1e}, largest {largest:.1e}");
}

/// Columns of a chunk share what attention reads, however few workgroups are left.
const SHARED: Tuning = Tuning { workgroups: 1, ..Tuning::GPU };

/// One column of integers, where the device has them.
async fn integers_on(device: &Device) -> Tuning {
    let invocations = Gpu::choose(device).await.unwrap().map_or(0, |gpu| gpu.invocations().min(256));
    Tuning { invocations, ..Tuning::GPU }
}

/// The kernels cut up as for a real GPU, with the cache in parts and products in tiles, whatever the device: the reference's NLLs,
/// and the same greedy text.
pub async fn cut_as_for_a_gpu(device: &Device) {
    let integers = integers_on(device).await;
    for name in GOLDEN {
        let (model, reference) = golden_model(name).await;
        let tokens = ids(&reference["tokens"]);
        let runs = [
            ("dense", F32, 1, Tuning::GPU),
            ("streaming_4_28", F16, 40, Tuning::GPU),
            ("streaming_4_28", F16, 40, SHARED),
            ("dense", F32, 33, SHARED),
            ("dense", F16, 8, Tuning::GPU),
            ("dense", F32, 1, integers),
            ("streaming_4_28", F16, 1, integers),
        ];
        for (mode, cache, chunk, tuning) in runs {
            let settings = Settings { tuning: Some(tuning), ..settings(mode, device, cache, chunk) };
            let got = nlls(&mut load(&model, &settings).await, &tokens, 0).await;
            let (mean, largest) = tolerance(cache);
            assert_close(&got, &floats(&reference["nll"][mode]), mean, largest, &format!("{name} {mode} {cache:?}"));
        }
    }
    // Layers with windows of their own and capped scores, ALiBi, sink logits, a compressive memory.
    for name in ["gemma2", "gemma3", "mpt_six_heads", "llama_sinks", "llama_zero_sink", "infini_linear"] {
        let (model, reference) = golden_model(&format!("families/{name}")).await;
        let tokens = ids(&reference["tokens"]);
        for (mode, wanted) in reference["nll"].as_object().unwrap() {
            for (chunk, tuning) in [(33, SHARED), (1, integers)] {
                let settings = Settings { tuning: Some(tuning), ..settings(mode, device, F32, chunk) };
                let got = nlls(&mut load(&model, &settings).await, &tokens, 0).await;
                let (mean, largest) = tolerance(F32);
                assert_close(&got, &floats(wanted), mean, largest, &format!("{name} {mode}, chunks of {chunk}"));
            }
        }
    }
    let written = async |model: &[u8], tuning: Tuning| {
        let settings = Settings {
            device: device.clone(),
            sinks: Some(4),
            window: Some(252),
            tuning: Some(tuning),
            ..Settings::default()
        };
        generate(&mut load(model, &settings).await, &[1], &Sampling::greedy(), 300).await
    };
    let (model, _) = golden_model("q8").await;
    assert_eq!(written(&model, integers).await, written(&model, Tuning::SOFTWARE).await, "greedy text of integers");
    let Some(model) = shared("models/stories260K/stories260K-f32.gguf").await else { return };
    assert_eq!(written(&model, Tuning::GPU).await, written(&model, Tuning::SOFTWARE).await, "greedy text");
}

/// The tier `matrix`, whose tiles take weights in f16 and inputs in two parts of it, against the CPU: 0.004 nats in the mean, and
/// 0.05 at most. Random models, and the bundled ones.
pub async fn matrix_nlls(device: &Device) {
    if let Err(error) = Gpu::choose(device).await.unwrap().unwrap().at(Tier::Matrix) {
        return super::files::not_checked(&error.to_string());
    }
    let mut models = vec![];
    for name in GOLDEN {
        let (model, reference) = golden_model(name).await;
        models.push((name, model, ids(&reference["tokens"])));
    }
    let text = golden("../../README.md").await;
    for name in ["sinkstream-2m", "streameval"] {
        let model = golden(&format!("../../models/{name}.gguf")).await;
        let mut engine = load(&model, &settings("streaming_4_60", &Device::Cpu, F16, 128)).await;
        let tokens = encode_text(&mut engine, &String::from_utf8_lossy(&text[..4000]), true).unwrap();
        models.push((name, model, tokens));
    }
    for (name, model, tokens) in models {
        let tokens = &tokens[..tokens.len().min(600)];
        let of = async |device: &Device| {
            let (tier, tuning) = (Some(Tier::Matrix), Some(Tuning::GPU));
            let settings = Settings { tier, tuning, ..settings("streaming_4_124", device, F16, 128) };
            let mut engine = load(&model, &settings).await;
            (nlls(&mut engine, tokens, 0).await, engine.info()["tier"].as_str().map(str::to_owned))
        };
        let ((found, tier), (wanted, _)) = (of(device).await, of(&Device::Cpu).await);
        assert_eq!(tier.as_deref(), Some("matrix"), "{name}");
        let (mean, largest) = difference(&found, &wanted);
        eprintln!("{name}, {} tokens: mean {mean:.1e}, largest {largest:.1e}", tokens.len());
        assert!(mean <= 0.004 && largest <= 0.05, "{name}: mean {mean:.1e}, largest {largest:.1e}");
    }
}

/// Whatever the clock says is fastest, the text is the same; and nothing is left of what was timed.
pub async fn autotuned(device: &Device) {
    let (model, reference) = golden_model("q8").await;
    let tokens = ids(&reference["tokens"]);
    let of = async |autotune: bool| {
        let settings = Settings {
            tuning: Some(Tuning::GPU),
            autotune: Some(autotune),
            ..settings("streaming_4_28", device, F32, 8)
        };
        let mut engine = load(&model, &settings).await;
        let text = generate(&mut engine, &tokens[..1], &Sampling::greedy(), 60).await;
        (text, nlls(&mut engine, &tokens, 0).await)
    };
    let ((text, found), (same_text, wanted)) = (of(true).await, of(false).await);
    assert_eq!(text, same_text);
    assert_close(&found, &wanted, 1e-5, 1e-4, "NLLs");
}

/// The tier that the clock chooses has the same NLLs; one that was asked for stays.
pub async fn autotuned_tier(device: &Device) {
    if let Err(error) = Gpu::choose(device).await.unwrap().unwrap().at(Tier::Matrix) {
        return super::files::not_checked(&error.to_string());
    }
    let (model, reference) = golden_model("q8").await;
    let tokens = ids(&reference["tokens"]);
    let of = async |tier: Option<Tier>, autotune: bool| {
        let (tuning, autotune) = (Some(Tuning::GPU), Some(autotune));
        let settings = Settings { tier, tuning, autotune, ..settings("streaming_4_28", device, F32, 128) };
        let mut engine = load(&model, &settings).await;
        let tier = engine.info()["tier"].as_str().unwrap().to_owned();
        (nlls(&mut engine, &tokens, 0).await, tier)
    };
    let (wanted, tier) = of(None, false).await;
    assert_eq!(tier, "portable");
    for asked in [None, Some(Tier::Portable), Some(Tier::Matrix)] {
        let (found, tier) = of(asked, true).await;
        eprintln!("{asked:?}: {tier}");
        let (mean, largest) = if tier == "matrix" { (0.004, 0.05) } else { (1e-5, 1e-4) };
        assert_close(&found, &wanted, mean, largest, &tier);
        assert!(asked.is_none_or(|asked| asked.name() == tier), "{asked:?}: {tier}");
    }
}

/// Where nothing is contracted, on software adapters, every activation, key and value has the bits of the CPU's, past
/// the window, in chunks and one by one.
pub async fn same_bits_as_cpu(device: &Device) {
    let gpu = Gpu::choose(device).await.unwrap();
    if !gpu.is_some_and(|gpu| gpu.is_software()) {
        eprintln!("NOT CHECKED: only software adapters are bound to the bits of the CPU");
        return;
    }
    let buffers = ["x", "q", "attended", "h", "logits", "blk.0.k", "blk.0.v", "blk.1.k", "blk.1.v"];
    for name in GOLDEN {
        let (model, reference) = golden_model(name).await;
        let tokens = ids(&reference["tokens"]);
        for (cache, chunk) in [(F16, 16), (F32, 7), (F16, 1)] {
            let of = async |device: &Device| {
                let mut engine = load(&model, &settings("streaming_4_28", device, cache, chunk)).await;
                let mut session = engine.session();
                session.append(&mut engine, &tokens[..1]).await.unwrap();
                let nlls = session.score(&mut engine, &tokens[1..101]).await.unwrap();
                session.generate(&mut engine, &Sampling::greedy(), 9, |_| ControlFlow::Continue(())).await.unwrap();
                let mut values = vec![];
                for buffer in buffers {
                    values.push(engine.read_floats(buffer).await.unwrap());
                }
                (nlls, values)
            };
            let ((nlls, found), (nlls_of_cpu, wanted)) = (of(device).await, of(&Device::Cpu).await);
            assert_close(&nlls, &nlls_of_cpu, 1e-6, 1e-5, "NLLs, whose exp is the adapter's own");
            for ((buffer, found), wanted) in buffers.iter().zip(&found).zip(&wanted) {
                let count = found.iter().zip(wanted).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(count, 0, "{name} {cache:?} chunk {chunk}: values of {buffer} that differ");
            }
        }
    }
}

/// The first dispatches of a plan over a few tokens of `odd_tied`, with everything that they leave behind.
struct Partial {
    executor: Executor,
    buffers: Buffers,
    columns: usize,
}

impl Partial {
    async fn run(device: &Device, tokens: &[u32], dispatches: usize) -> Self {
        let settings = Settings { chunk: 8, ..settings("dense", device, F32, 8) };
        let mut source = Source::memory("odd_tied", golden("odd_tied.gguf").await);
        let gguf = Gguf::read(&mut source).await.unwrap();
        let (config, _, mut model) =
            lay_out(&gguf, &settings, Tuning { workgroups: 1, ..Tuning::GPU }, u64::MAX).unwrap();
        let plan = model.prefill.plan_for(8);
        let mut plan: Plan = model.plans[plan].clone();
        plan.dispatches.truncate(dispatches);
        let columns = plan.columns as usize;
        let gpu = Gpu::choose(device).await.unwrap();
        let mut executor = Executor::new(gpu, &model.buffers, vec![plan], None).await.unwrap();
        model.load(&config, &mut source, &mut executor, &mut |_| {}).await.unwrap();
        write_columns(&mut executor, &model, tokens);
        executor.run(0, 1).unwrap();
        Self { executor, buffers: model.buffers, columns }
    }

    async fn read(&mut self, name: &str) -> Vec<f32> {
        let id = self.buffers.find(name).unwrap();
        let mut floats = vec![0.0_f32; self.buffers.spec(id).bytes as usize / 4];
        self.executor.read(id, 0, bytemuck::cast_slice_mut(&mut floats)).await.unwrap();
        floats
    }
}

fn write_columns(executor: &mut Executor, model: &Model, tokens: &[u32]) {
    let ring = sinkstream::kv_ring::KvRing::new(0, 512, model.slack);
    let columns: Vec<Column> = (0..).zip(tokens).map(|(n, &token)| ring.column(n, token, 0)).collect();
    let header = ColumnsHeader { active: tokens.len() as u32, pad: [0; 3] };
    executor.write(model.columns, 0, bytemuck::bytes_of(&header)).unwrap();
    executor.write(model.columns, size_of::<ColumnsHeader>() as u64, bytemuck::cast_slice(&columns)).unwrap();
}
