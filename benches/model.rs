//! A whole model of the shape `tiny` with a full cache, on all cores: tokens written, and tokens read.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::ops::ControlFlow;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sinkstream::engine::{Device, Settings};
use sinkstream::quant::TensorType;
use sinkstream::random::{self, Shape};
use sinkstream::{Engine, Sampling};

const CHUNK: u32 = 128;
const BURST: u32 = 32;
const CACHE: [u32; 2] = [4, 1020];

fn model(criterion: &mut Criterion) {
    for kind in [TensorType::Q4_0, TensorType::Q8_0, TensorType::F16] {
        let gguf = pollster::block_on(random::gguf(Shape::find("tiny").unwrap(), kind)).unwrap();
        let [sinks, window] = CACHE.map(Some);
        let settings = Settings { device: Device::Cpu, sinks, window, chunk: CHUNK, ..Settings::default() };
        let mut engine = pollster::block_on(Engine::random(gguf, &settings, 0)).unwrap();
        let mut session = engine.session();
        let ids: Vec<u32> = (0..CACHE[0] + CACHE[1] + 1).collect();
        pollster::block_on(session.append(&mut engine, &ids)).unwrap();
        let mut group = criterion.benchmark_group(format!("tiny {}", kind.name()));
        group.throughput(Throughput::Elements(u64::from(BURST)));
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                let go_on = |_| ControlFlow::Continue(());
                pollster::block_on(session.generate(&mut engine, &Sampling::greedy(), BURST, go_on)).unwrap()
            });
        });
        group.throughput(Throughput::Elements(u64::from(CHUNK)));
        group.bench_function("prefill", |bencher| {
            bencher.iter(|| pollster::block_on(session.append(&mut engine, &ids[..CHUNK as usize])).unwrap());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = model
}
criterion_main!(benches);
