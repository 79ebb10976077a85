//! The kernels in the plans of a real shape, one after the other, with a full cache: by layout of the weights, for one column
//! (decode) and for a chunk (prefill). Their twins on one core, and themselves on a real GPU if there is one. Throughput is of the
//! weights, as packed; of attention, of keys and values.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sinkstream::Sampling;
use sinkstream::engine::{Device, Settings, lay_out};
use sinkstream::executor::Executor;
use sinkstream::gpu::Gpu;
use sinkstream::kv_ring::KvRing;
use sinkstream::plan::{BufferId, Column, ColumnsHeader, Dispatch, Plan, Purpose};
use sinkstream::quant::TensorType;
use sinkstream::random::{self, Shape};
use sinkstream::tuning::Tuning;

const SHAPE: &str = "smollm2-135m";
const CHUNK: u32 = 128;
const CACHE: [u32; 2] = [4, 1020];
/// Dispatches of one submit on a GPU.
const TOGETHER: u64 = 256;
const ONE: u32 = 1.0_f32.to_bits();

fn kernels(criterion: &mut Criterion) {
    measure(criterion, None);
    match pollster::block_on(Gpu::choose(&Device::Gpu)) {
        Ok(Some(gpu)) if !gpu.is_software() => measure(criterion, Some(&gpu)),
        _ => println!("NOT MEASURED: kernels on a GPU, because there is no real one"),
    }
}

fn measure(criterion: &mut Criterion, gpu: Option<&Gpu>) {
    let (tuning, name) = if gpu.is_some() { (Tuning::GPU, "gpu") } else { (Tuning::SOFTWARE, "cpu") };
    for kind in [TensorType::Q4_0, TensorType::Q8_0, TensorType::F16] {
        let gguf = pollster::block_on(random::gguf(Shape::find(SHAPE).unwrap(), kind)).unwrap();
        let [sinks, window] = CACHE.map(Some);
        let settings = Settings { device: Device::Cpu, sinks, window, chunk: CHUNK, ..Settings::default() };
        let (_, _, model) = lay_out(&gguf, &settings, tuning, u64::MAX).unwrap();
        for (plan, columns) in [(model.decode.plan_for(1), 1), (model.prefill.plan_for(CHUNK), CHUNK)] {
            // One layer stands for all, and what comes before and behind them.
            let is_other_layer = |dispatch: &&Dispatch| {
                dispatch.label.starts_with("blk.") && dispatch.label.split('.').nth(1) != Some("0")
            };
            let dispatches: Vec<Dispatch> =
                model.plans[plan].dispatches.iter().filter(|d| !is_other_layer(d)).cloned().collect();
            let plans = dispatches
                .iter()
                .map(|dispatch| Plan { name: dispatch.label.clone(), columns, dispatches: vec![dispatch.clone()] })
                .collect();
            let mut executor = pollster::block_on(Executor::new(gpu.cloned(), &model.buffers, plans, Some(1))).unwrap();
            fill(&mut executor, &model.buffers.of(Purpose::Weights), |id| model.buffers.spec(id).name.clone());

            let mut ring = KvRing::new(CACHE[0], CACHE[1], model.slack);
            ring.advance(CACHE[0] + CACHE[1]);
            let active: Vec<Column> = (0..columns).map(|n| ring.column(n, n, 0)).collect();
            let header = ColumnsHeader { active: columns, pad: [0; 3] };
            let mut group = criterion.benchmark_group(format!("{name} {} {}", kind.name(), model.plans[plan].name));
            for (at, dispatch) in dispatches.iter().enumerate() {
                let bytes = |purpose: Purpose| -> u64 {
                    let specs = dispatch.buffers.iter().map(|id| model.buffers.spec(*id));
                    specs.filter(|spec| spec.purpose == purpose).map(|spec| spec.bytes).sum()
                };
                group.throughput(Throughput::Bytes(match dispatch.kernel.name {
                    "attention" => bytes(Purpose::Cache),
                    _ => bytes(Purpose::Weights).max(1),
                }));
                group.bench_function(format!("{} {}", dispatch.kernel.name, dispatch.label).trim(), |bencher| {
                    // Written anew: the sampling kernel moves the column on.
                    let greedy = Sampling::greedy().settings().unwrap();
                    executor.write(model.settings, 0, bytemuck::bytes_of(&greedy)).unwrap();
                    let columns = [bytemuck::bytes_of(&header), bytemuck::cast_slice(&active)].concat();
                    executor.write(model.columns, 0, &columns).unwrap();
                    bencher.iter_custom(|times| {
                        let began = Instant::now();
                        for done in (0..times).step_by(TOGETHER as usize) {
                            executor.run(at, TOGETHER.min(times - done) as u32).unwrap();
                        }
                        pollster::block_on(executor.read(model.columns, 0, &mut [0; 4])).unwrap(); // waits for a GPU
                        began.elapsed()
                    });
                });
            }
        }
    }
}

/// Any quants, and scales of about 0.001.
fn fill(executor: &mut Executor, weights: &[BufferId], name: impl Fn(BufferId) -> String) {
    let mut word = 1_u32;
    let quants: Vec<u32> = std::iter::repeat_with(|| {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word & 0xbfff_bfff // as f16: below 2
    })
    .take(65_537)
    .collect();
    for &id in weights {
        let words = match name(id).as_str() {
            name if name.ends_with(".scales") => &[0x1419_1419][..],
            name if name.ends_with("_norm") => &[ONE],
            _ => &quants,
        };
        executor.fill(id, words).unwrap();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = kernels
}
criterion_main!(benches);
