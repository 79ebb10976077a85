//! On a GPU in steady state nothing is made and nothing is allocated per token: counted from outside, by wgpu's own registry
//! and by the allocator.
#![allow(unsafe_code, reason = "a global allocator that counts cannot be written without")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::bytes_of;
use common::files::golden;
use common::{gpu, load, settings};
use pollster::block_on;
use sinkstream::engine::{Device, Settings, lay_out};
use sinkstream::executor::Executor;
use sinkstream::gguf::Gguf;
use sinkstream::gpu::Gpu;
use sinkstream::kernels::cache::CacheType;
use sinkstream::kernels::sample::MAX_AHEAD;
use sinkstream::kv_ring::KvRing;
use sinkstream::plan::ColumnsHeader;
use sinkstream::session::{Part, generate_together};
use sinkstream::{Engine, Sampling, Session, Source};

struct Counting;

static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most tokens of a launch.
const BURST: u32 = 16;
/// Launches that are measured at once if the device is fast enough for whole bursts, so many times over: the least counts,
/// because wgpu's lists grow now and then.
const LAUNCHES: u32 = 8;
const TIMES: u32 = 16;

fn sampling() -> Sampling {
    Sampling { repeat_penalty: 1.1, ..Sampling::default() }
}

async fn go_on(engine: &mut Engine, session: &mut Session, count: u32, mut look: impl FnMut()) {
    let deliver = Box::new(|_, _| {
        look();
        ControlFlow::Continue(())
    });
    let part = Part { session, sampling: sampling(), count, expected: u64::MAX, deliver };
    generate_together(engine, &mut [part]).await.unwrap();
}

/// Least bytes that the executor alone, and wgpu below it, allocate for a launch.
async fn by_the_executor(model: Vec<u8>, settings: &Settings) -> u64 {
    let mut source = Source::memory("q8", model);
    let gguf = Gguf::read(&mut source).await.unwrap();
    let gpu = Gpu::choose(&settings.device).await.unwrap();
    let (config, _, mut model) = lay_out(&gguf, settings, gpu.as_ref().unwrap().tuning(), u64::MAX).unwrap();
    let plans = std::mem::take(&mut model.plans);
    let mut executor = Executor::new(gpu, &model.buffers, plans, None).await.unwrap();
    model.load(&config, &mut source, &mut executor, &mut |_| {}).await.unwrap();
    // The same work, so that the host waits as long.
    let column = KvRing::new(4, 28, model.slack).column(0, 1, 0);
    let columns = [bytes_of(&ColumnsHeader { active: 1, pad: [0; 3] }), bytes_of(&column)].concat();
    executor.write(model.columns, 0, &columns).unwrap();
    executor.write(model.settings, 0, bytes_of(&sampling().settings().unwrap())).unwrap();
    let mut ids = vec![0; 4 * MAX_AHEAD as usize];
    let plan = model.decode.plan_for(1);
    let copies = [(model.ids, ids.len() as u64)];
    let mut least = u64::MAX;
    let launch = |executor: &mut Executor| executor.launch(plan, BURST, &copies).unwrap();
    launch(&mut executor);
    for _ in 0..TIMES {
        let begin = BYTES.load(Ordering::Relaxed);
        for _ in 0..LAUNCHES {
            launch(&mut executor);
            executor.land(&mut ids).await.unwrap();
        }
        least = least.min((BYTES.load(Ordering::Relaxed) - begin) / u64::from(LAUNCHES));
    }
    least
}

#[test]
fn nothing_is_made_and_nothing_allocated_per_token() {
    if gpu().is_none() {
        return;
    }
    block_on(async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
        let gpu = Gpu::open(adapters.iter().find(|adapter| adapter.get_info().backend != wgpu::Backend::Noop).unwrap());
        let device = Device::Open(Box::new(gpu.await.unwrap()));
        let model = golden("q8.gguf").await;
        let settings = settings("streaming_4_28", &device, CacheType::F16, 16);
        let mut engine = load(&model, &settings).await;
        let mut session = engine.session();
        session.append(&mut engine, &[1, 2, 3]).await.unwrap();
        go_on(&mut engine, &mut session, 2000, || {}).await; // until every list is as long as it gets

        // What lives in wgpu, looked at with every token.
        let alive = || {
            let hub = instance.generate_report().unwrap().hub;
            [hub.buffers, hub.bind_groups, hub.bind_group_layouts, hub.compute_pipelines, hub.pipeline_layouts]
                .into_iter()
                .chain([hub.shader_modules, hub.textures, hub.query_sets])
                .map(|of| of.num_allocated)
                .collect::<Vec<_>>()
        };
        let before = alive();
        assert!(before[0] > 10 && before[3] > 5, "{before:?}");
        go_on(&mut engine, &mut session, 100, || assert_eq!(alive(), before)).await;

        let (mut bytes, counts) = (u64::MAX, engine.counts());
        for _ in 0..TIMES {
            let (begin, submits) = (BYTES.load(Ordering::Relaxed), engine.counts().submits);
            go_on(&mut engine, &mut session, LAUNCHES * BURST, || {}).await;
            bytes = bytes.min((BYTES.load(Ordering::Relaxed) - begin) / (engine.counts().submits - submits));
        }
        let submits = engine.counts().submits - counts.submits;
        let of_executor = by_the_executor(model, &settings).await;
        println!("{submits} launches: {bytes} bytes each, of which the executor and wgpu {of_executor}");
        assert!(submits <= u64::from(TIMES * LAUNCHES * BURST) / 4 + 2, "{submits} submits");
        // One call, of 128 tokens here, allocates two small lists.
        assert!(bytes <= of_executor + 64, "{bytes} bytes, {of_executor} by executor and wgpu");
    });
}
