//! Infini-attention (arXiv 2404.07143) in the engine: what the memory must return for one pair, and that chunks, borders of
//! segments, tokens taken back and saved sessions change nothing. Against PyTorch: `infini_linear` and `infini_delta` in
//! `families.rs`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::ops::ControlFlow;

use common::model_checks::go_on;
use common::stream_checks::together_as_alone;
use common::{assert_close, difference, files::golden, ids, json, load, nlls, settings, try_load};
use pollster::block_on;
use sinkstream::engine::{Device, Engine, Settings};
use sinkstream::executor::Executor;
use sinkstream::gpu::Gpu;
use sinkstream::kernel::Kernel;
use sinkstream::kernels::cache::CacheType::{F16, F32};
use sinkstream::kernels::{memory, memory_fold, memory_read};
use sinkstream::plan::{BufferId, Buffers, Column, ColumnsHeader, Dispatch, MAX_COLUMNS, Plan, Purpose};
use sinkstream::session::{Part, generate_together};
use sinkstream::{Attention, Sampling, Session};

const MODELS: [&str; 2] = ["infini_linear", "infini_delta"];

fn model(name: &str) -> (Vec<u8>, Vec<u32>) {
    let file = |ending| block_on(golden(&format!("families/{name}.{ending}")));
    (file("gguf"), ids(&json(&file("json"))["tokens"]))
}

/// Both executors; the GPU only where there is one, or that is asked for.
fn devices() -> Vec<Device> {
    [Some(Device::Cpu), common::gpu()].into_iter().flatten().collect()
}

const HEAD_DIM: usize = 6;

/// One key head with segments of one token: its memory, and what queries read from it.
struct Memory {
    executor: Executor,
    columns: BufferId,
    q: BufferId,
    keys: BufferId,
    values: BufferId,
    matrix: BufferId,
    out: BufferId,
    folded: u64,
}

impl Memory {
    fn new(device: &Device, is_delta: bool) -> Self {
        let mut buffers = Buffers::default();
        let mut add = |name: &str, floats: usize| buffers.add(name, 4 * floats as u64, Purpose::Work);
        let columns = add("columns", 4 + 8 * MAX_COLUMNS as usize);
        let (q, gates) = (add("q", 3 * HEAD_DIM), add("gates", 1));
        let (keys, values, out) = (add("keys", HEAD_DIM), add("values", HEAD_DIM), add("out", HEAD_DIM));
        let matrix = add("memory", memory::copies(1) as usize * memory::size(HEAD_DIM));
        let half = HEAD_DIM as u32 / 2;
        let copies = memory::copies(1);
        let fold =
            memory_fold::Params { n_kv_heads: 1, half, slots: 1, segment: 1, copies, delta: u32::from(is_delta) };
        let read = memory_read::Params {
            n_heads: 1,
            n_kv_heads: 1,
            half,
            slots: 1,
            columns: 1,
            stride: HEAD_DIM as u32,
            segment: 1,
            copies,
        };
        let plan = |kernel: &'static Kernel, params: &[u8], buffers: &[BufferId]| Plan {
            name: kernel.name.into(),
            columns: 1,
            dispatches: vec![Dispatch {
                kernel,
                variant: sinkstream::kernel::Variant::Plain,
                label: kernel.name.into(),
                params: params.to_vec(),
                buffers: buffers.to_vec(),
                overrides: vec![("CACHE_F32", 1)],
                workgroups: [1; 3],
            }],
        };
        let plans = vec![
            plan(&memory_fold::KERNEL, bytemuck::bytes_of(&fold), &[columns, keys, values, matrix]),
            plan(&memory_read::KERNEL, bytemuck::bytes_of(&read), &[columns, q, gates, matrix, keys, out]),
        ];
        let gpu = block_on(Gpu::choose(device)).unwrap();
        let mut executor = block_on(Executor::new(gpu, &buffers, plans, None)).unwrap();
        executor.write(gates, 0, bytemuck::bytes_of(&60.0_f32)).unwrap(); // sigmoid 1: the memory alone
        Self { executor, columns, q, keys, values, matrix, out, folded: 0 }
    }

    fn run(&mut self, plan: usize) {
        let column = Column { capacity: memory::copy_after(self.folded, 1), ..Column::default() };
        let header = ColumnsHeader { active: 1, pad: [0; 3] };
        let bytes = [bytemuck::bytes_of(&header), bytemuck::bytes_of(&column)].concat();
        self.executor.write(self.columns, 0, &bytes).unwrap();
        self.executor.run(plan, 1).unwrap();
    }

    fn write(&mut self, key: [f32; HEAD_DIM], value: [f32; HEAD_DIM]) {
        self.executor.write(self.keys, 0, bytemuck::cast_slice(&key)).unwrap();
        self.executor.write(self.values, 0, bytemuck::cast_slice(&value)).unwrap();
        self.run(0);
        self.folded += 1;
    }

    /// What a query reads; what stood in `out` must not matter.
    fn read(&mut self, query: [f32; HEAD_DIM]) -> Vec<f32> {
        self.executor.write(self.q, 4 * HEAD_DIM as u64, bytemuck::cast_slice(&query)).unwrap();
        self.executor.write(self.out, 0, bytemuck::cast_slice(&[9.0_f32; HEAD_DIM])).unwrap();
        self.run(1);
        self.floats(self.out, 0, HEAD_DIM)
    }

    /// M as it is now.
    fn matrix(&mut self) -> Vec<f32> {
        let copy = memory::copy_after(self.folded, 1) as usize;
        self.floats(self.matrix, (copy - 1) * memory::size(HEAD_DIM), HEAD_DIM * HEAD_DIM)
    }

    fn floats(&mut self, buffer: BufferId, first: usize, count: usize) -> Vec<f32> {
        let mut floats = vec![0.0_f32; count];
        block_on(self.executor.read(buffer, 4 * first as u64, bytemuck::cast_slice_mut(&mut floats))).unwrap();
        floats
    }
}

const KEY: [f32; HEAD_DIM] = [0.3, -1.2, 2.0, -0.1, 0.0, 0.7];
const VALUE: [f32; HEAD_DIM] = [1.5, -0.25, 0.0, 3.0, -2.0, 0.125];
const QUERIES: [[f32; HEAD_DIM]; 3] = [KEY, [-4.0, 1.0, -0.5, 0.2, 3.0, -9.0], [-7.0, -8.0, -6.0, -7.5, -9.0, -6.5]];

#[test]
fn one_pair_in_memory_is_returned_for_every_query() {
    for device in devices() {
        for is_delta in [false, true] {
            let mut memory = Memory::new(&device, is_delta);
            assert_eq!(memory.read(QUERIES[1]), [0.0; HEAD_DIM], "nothing is remembered yet");
            memory.write(KEY, VALUE);
            for query in QUERIES {
                assert_close(&memory.read(query), &VALUE, 1e-5, 1e-5, &format!("{query:?}, delta {is_delta}"));
            }
        }
    }
}

#[test]
fn the_same_pair_written_again_by_the_delta_rule_changes_no_matrix_and_reads_half() {
    for device in devices() {
        let mut memory = Memory::new(&device, true);
        memory.write(KEY, VALUE);
        let before = memory.matrix();
        let halves = VALUE.map(|value| value / 2.0);
        memory.write(KEY, VALUE);
        assert_close(&memory.matrix(), &before, 1e-5, 1e-5, "M after the second write");
        for query in QUERIES {
            assert_close(&memory.read(query), &halves, 1e-5, 1e-5, "v / 2");
        }
        let mut memory = Memory::new(&device, false);
        memory.write(KEY, VALUE);
        memory.write(KEY, VALUE);
        let twice: Vec<f32> = before.iter().map(|x| 2.0 * x).collect();
        assert_close(&memory.matrix(), &twice, 1e-5, 1e-5, "M, linear");
        assert_close(&memory.read(QUERIES[1]), &VALUE, 1e-5, 1e-5, "v, linear");
    }
}

#[test]
fn chunks_that_cross_borders_change_nothing() {
    for device in devices() {
        for name in MODELS {
            let (model, tokens) = model(name);
            let of = |chunk| {
                block_on(async {
                    nlls(&mut load(&model, &settings("infini", &device, F32, chunk)).await, &tokens, 0).await
                })
            };
            let one = of(1);
            for chunk in [7, 64, 128] {
                assert_close(&one, &of(chunk), 1e-4, 1e-3, &format!("{name} chunk {chunk}"));
            }
        }
    }
}

#[test]
fn the_models_own_mode_is_the_default_and_others_know_nothing_of_the_memory() {
    let (model, tokens) = model("infini_delta");
    let mut engine = block_on(load(&model, &Settings { device: Device::Cpu, scores: true, ..Settings::default() }));
    assert_eq!((engine.keep().attention, engine.keep().sinks, engine.keep().window), (Attention::Infini, 0, 36));
    // Four copies of M and z of three heads of 10, in two layers: 97 tokens reach across three borders.
    assert_eq!(engine.info()["memory_bytes"], 4 * 3 * (10 * 11) * 4 * 2);
    let remembered = block_on(nlls(&mut engine, &tokens, 0));
    let mut streaming = block_on(load(&model, &settings("streaming_4_28", &Device::Cpu, F16, 16)));
    assert_eq!(streaming.info()["memory_bytes"], 0);
    assert_eq!(block_on(nlls(&mut streaming, &tokens, 0)).len(), remembered.len());

    // A memory that is forgotten reads as zero: the first segment is as it was, the others are not.
    let mut session = engine.session();
    session.forget();
    block_on(session.append(&mut engine, &tokens[..1])).unwrap();
    let forgotten = block_on(session.score(&mut engine, &tokens[1..])).unwrap();
    assert_eq!(forgotten[..36], remembered[..36]);
    assert!(difference(&forgotten[37..], &remembered[37..]).0 > 0.1);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let refusal = |model: &[u8], settings: &Settings| {
        let error = block_on(try_load(model, settings)).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let infini = settings("infini", &Device::Cpu, F16, 16);
    let plain = block_on(golden("q8.gguf"));
    assert!(refusal(&plain, &infini).contains("gates"));
    let (gated, _) = model("infini_linear");
    for (sinks, window) in [(Some(1), None), (None, Some(30)), (None, Some(32))] {
        let text = refusal(&gated, &Settings { sinks, window, ..infini.clone() });
        assert!(text.contains("--sinks 0 --window 31"), "{text}");
    }
    assert!(block_on(try_load(&gated, &Settings { sinks: Some(0), window: Some(31), ..infini.clone() })).is_ok());
    let patched = |old: &str, new: &str| {
        let mut bytes = gated.clone();
        let places: Vec<usize> =
            (0..bytes.len() - old.len()).filter(|&at| bytes[at..].starts_with(old.as_bytes())).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| bytes[at..at + new.len()].copy_from_slice(new.as_bytes()));
        bytes
    };
    assert!(
        refusal(&patched("blk.1.attn_infini_gate", "blk.1.attn_infini_gaze"), &infini)
            .contains("blk.1.attn_infini_gate.weight is missing")
    );
    assert!(
        refusal(&patched("infini.update", "infini.updata"), &infini).contains("sinkstream.infini.update is missing")
    );
    let mut unknown = patched("infini.update", "infini.update");
    let at = unknown.windows(6).position(|part| part == b"linear").unwrap();
    unknown[at..at + 6].copy_from_slice(b"linaer");
    assert!(refusal(&unknown, &infini).contains("linaer"));
}

/// The greedy text from a prompt, in bursts; `back`: after each call so many tokens are taken back and made anew.
fn text(engine: &mut Engine, prompt: &[u32], count: usize, calls: u32, back: u32) -> Vec<u32> {
    let mut session = engine.session();
    block_on(session.append(engine, prompt)).unwrap();
    let mut ids = vec![];
    while ids.len() < count {
        let made = block_on(go_on(engine, &mut session, &Sampling::greedy(), calls));
        let back = back.min(made.len() as u32 - 1);
        session.take_back(back).unwrap();
        ids.extend(&made[..made.len() - back as usize]);
        assert_eq!(session.position() as usize, prompt.len() + ids.len());
    }
    ids.truncate(count);
    ids
}

#[test]
fn tokens_taken_back_across_a_border_leave_no_trace() {
    for device in devices() {
        for name in MODELS {
            let (model, tokens) = model(name);
            for cache in [F32, F16] {
                let mut engine = block_on(load(&model, &settings("infini", &device, cache, 16)));
                let wanted = text(&mut engine, &tokens[..5], 150, 150, 0);
                for (calls, back) in [(1, 0), (33, 32), (40, 7), (2, 1), (64, 31), (37, 5)] {
                    let got = text(&mut engine, &tokens[..5], 150, calls, back);
                    assert_eq!(got, wanted, "{name} {cache:?}: {calls} made, {back} taken back");
                }
                // A reader who stops in the middle of a burst.
                let mut session = engine.session();
                block_on(session.append(&mut engine, &tokens[..5])).unwrap();
                let mut got = vec![];
                for goal in [20, 29, 34, 66, 70, 150] {
                    let deliver = |id| {
                        got.push(id);
                        if got.len() == goal { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    block_on(session.generate(&mut engine, &Sampling::greedy(), 200, deliver)).unwrap();
                }
                assert_eq!(got, wanted, "{name} {cache:?}: stopped");
            }
        }
    }
}

#[test]
fn saved_sessions_go_on_in_the_middle_of_a_segment_and_at_its_border() {
    for device in devices() {
        for name in MODELS {
            let (model, tokens) = model(name);
            for (cache, length) in
                [(F16, 1), (F32, 20), (F16, 32), (F32, 33), (F16, 37), (F32, 38), (F16, 74), (F32, 75), (F16, 110)]
            {
                let what = format!("{name} {cache:?} after {length}");
                let mut engine = block_on(load(&model, &settings("infini", &device, cache, 16)));
                let mut session = engine.session();
                block_on(session.append(&mut engine, &tokens[..length])).unwrap();
                let saved = block_on(session.save(&mut engine, b"note")).unwrap();
                let wanted = block_on(go_on(&mut engine, &mut session, &Sampling::greedy(), 90));
                let (mut back, _) = block_on(Session::restore(&mut engine, &saved)).unwrap();
                assert_eq!(block_on(go_on(&mut engine, &mut back, &Sampling::greedy(), 90)), wanted, "{what}");
                let mut other = block_on(load(&model, &settings("infini", &device, cache, 128)));
                let (mut back, _) = block_on(Session::restore(&mut other, &saved)).unwrap();
                assert_eq!(
                    block_on(go_on(&mut other, &mut back, &Sampling::greedy(), 90)),
                    wanted,
                    "{what}, other chunks"
                );
                back.take_back(30).unwrap();
                assert_eq!(
                    block_on(go_on(&mut other, &mut back, &Sampling::greedy(), 30)),
                    wanted[60..],
                    "{what}, taken back"
                );
            }
        }
    }
}

#[test]
fn a_forgotten_memory_stays_forgotten_when_saved() {
    let (model, tokens) = model("infini_linear");
    let mut engine = block_on(load(&model, &settings("infini", &Device::Cpu, F16, 16)));
    let mut session = engine.session();
    session.forget();
    block_on(session.append(&mut engine, &tokens[..70])).unwrap();
    let saved = block_on(session.save(&mut engine, b"")).unwrap();
    let wanted = block_on(session.score(&mut engine, &tokens[70..])).unwrap();
    let (mut back, _) = block_on(Session::restore(&mut engine, &saved)).unwrap();
    assert_eq!(block_on(back.score(&mut engine, &tokens[70..])).unwrap(), wanted);
}

#[test]
fn streams_go_on_together_as_alone() {
    for device in devices() {
        block_on(together_as_alone(&device, &["infini"], &[(5, 5), (3, 2)]));
    }
}

/// A launch that one stream would make longer by its last token ends at another's border of a segment all the same.
#[test]
fn a_last_token_takes_nobody_over_a_border() {
    let (model, tokens) = model("infini_delta");
    let settings = settings("infini", &Device::Cpu, F16, 16);
    let sampling = Sampling { seed: 3, temperature: 2.0, ..Sampling::default() };
    let mut engine = block_on(load(&model, &Settings { streams: 2, ..settings }));
    for length in 1..=24 {
        let begin = |engine: &mut Engine, length: usize| {
            let mut session = engine.session();
            block_on(session.append(engine, &tokens[..length])).unwrap();
            session
        };
        let mut alone = begin(&mut engine, length);
        let wanted = block_on(go_on(&mut engine, &mut alone, &sampling, 40));
        drop(alone);
        for last in 2..=24 {
            let (mut first, mut second, mut text) = (begin(&mut engine, length), begin(&mut engine, 1), vec![]);
            let part = |session, count, deliver| Part { session, sampling, count, expected: u64::from(count), deliver };
            let deliver = Box::new(|id, _| {
                text.push(id);
                ControlFlow::Continue(())
            });
            let parts =
                [part(&mut first, 40, deliver), part(&mut second, last, Box::new(|_, _| ControlFlow::Continue(())))];
            block_on(generate_together(&mut engine, &mut { parts })).unwrap();
            assert_eq!(text, wanted, "after {length} tokens, beside {last}");
        }
    }
}

/// A copy has the memory too: on the device, and where a lane must be freed for it.
#[test]
fn a_copy_goes_on_like_the_original() {
    for device in devices() {
        for (streams, length) in [(1, 36), (2, 37), (2, 38), (1, 80)] {
            let (model, tokens) = model("infini_delta");
            let mut engine = block_on(load(&model, &Settings { streams, ..settings("infini", &device, F16, 16) }));
            let mut session = engine.session();
            block_on(session.append(&mut engine, &tokens[..length])).unwrap();
            let mut copy = block_on(session.try_clone(&mut engine)).unwrap();
            let wanted = block_on(go_on(&mut engine, &mut session, &Sampling::greedy(), 90));
            for count in [50, 40] {
                let from = 90 - if count == 50 { 90 } else { 40 };
                let got = block_on(go_on(&mut engine, &mut copy, &Sampling::greedy(), count));
                assert_eq!(got, wanted[from..from + count as usize], "{streams} lanes, after {length}");
                block_on(go_on(&mut engine, &mut session, &Sampling::greedy(), 3)); // takes the lane back
            }
        }
    }
}
