//! Nothing is allocated per token: counted from outside, by the allocator.
#![allow(unsafe_code, reason = "a global allocator that counts cannot be written without")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use common::files::golden;
use common::{load, settings};
use sinkstream::Sampling;
use sinkstream::engine::Device;
use sinkstream::kernels::cache::CacheType;

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
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

#[test]
fn the_cpu_executor_allocates_nothing_per_token() {
    let settings = settings("streaming_4_28", &Device::Cpu, CacheType::F16, 16);
    let mut engine = pollster::block_on(async { load(&golden("q8.gguf").await, &settings).await });
    let mut session = engine.session();
    pollster::block_on(async {
        session.append(&mut engine, &[1, 2, 3]).await.unwrap();
        let sampling = Sampling { repeat_penalty: 1.1, ..Sampling::default() };
        let mut go_on = |engine: &mut _, count| {
            pollster::block_on(session.generate(engine, &sampling, count, |_| ControlFlow::Continue(()))).unwrap()
        };
        go_on(&mut engine, 1100); // until the list of recent tokens is full too
        let before = COUNT.load(Ordering::Relaxed);
        go_on(&mut engine, 1024);
        let allocated = COUNT.load(Ordering::Relaxed) - before;
        // The thread pool takes a block for its queue once every few dozen bursts.
        assert!(allocated <= 1024 / 64, "{allocated} allocations for 1024 tokens");
    });
}
