//! Threads (none), vector instructions (SIMD128, at compile time), clock and GPU waiting in a browser.

use std::arch::wasm32::{
    f32x4, f32x4_add, f32x4_convert_i32x4, f32x4_mul, f32x4_splat, f32x4_sub, i16x8_extend_high_i8x16,
    i16x8_extend_low_i8x16, i32x4_extend_high_i16x8, i32x4_extend_low_i16x8, u32x4, u32x4_shr, u32x4_splat, v128,
    v128_and,
};

use bytemuck::cast;
use gloo_timers::future::TimeoutFuture;
use js_sys::Promise;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::MessageChannel;

use super::{Vectors, Work};
use crate::error::{Error, Result};

/// The one core of a browser's worker.
#[derive(Debug)]
pub struct Cores;

impl Cores {
    /// The one there is.
    ///
    /// # Errors
    /// None.
    pub fn new(_threads: Option<usize>) -> Result<Self> {
        Ok(Self)
    }

    /// How many: one.
    pub fn count(&self) -> usize {
        1
    }

    /// Does `work` to every item.
    pub fn each<T>(&self, items: impl Iterator<Item = T>, work: impl Fn(T)) {
        items.for_each(work);
    }
}

/// Bytes of memory that a new executor may take: addresses have 32 bits, and 1 GiB of them is for all else.
pub fn available_bytes() -> Option<u64> {
    Some(3 << 30)
}

/// Runs `work`: the module is compiled with SIMD128 throughout. In a function of its own: in one with the loops of all layouts a
/// browser's compiler leaves nothing in registers.
#[inline(never)]
pub fn vectorised(work: impl Work) {
    work.run(Simd128);
}

/// SIMD128: 16 registers of four floats on x86. Instructions that every browser has as one, because its compiler puts none together.
#[derive(Clone, Copy, Debug)]
struct Simd128;

impl Vectors for Simd128 {
    const REGISTERS: usize = 8;

    #[inline(never)]
    fn apart(self, work: impl Work) {
        work.run(self);
    }

    #[inline(always)]
    fn bytes(self, block: &[i8; 32], at: usize, [s, o]: [f32; 2]) -> [f32; 8] {
        let half = cast(block.as_chunks::<16>().0[at / 2]);
        let eight = if at.is_multiple_of(2) { i16x8_extend_low_i8x16(half) } else { i16x8_extend_high_i8x16(half) };
        cast([i32x4_extend_low_i16x8(eight), i32x4_extend_high_i16x8(eight)].map(|q| scaled(q, f32x4_splat(s), o)))
    }

    /// Nibbles stay where they are in a word, and s is divided by the power of two that makes of them: there is no shift by lane.
    #[inline(always)]
    fn nibbles(self, block: &[u32; 4], at: usize, first: i8, [s, o]: [f32; 2]) -> [f32; 8] {
        const BYTE: f32 = 1.0 / 256.0;
        let s_by_lane = f32x4_mul(f32x4_splat(s), f32x4(1.0, BYTE, BYTE * BYTE, BYTE * BYTE * BYTE));
        let o = if first == 0 { o } else { o - s * f32::from(first) };
        let mask = u32x4(0xf, 0xf00, 0xf_0000, 0xf00_0000);
        let word = u32x4_splat(block[at]);
        cast([word, u32x4_shr(word, 4)].map(|nibbles| scaled(v128_and(nibbles, mask), s_by_lane, o)))
    }

    #[inline(always)]
    fn add_products(self, sums: &mut [f32; 8], a: &[f32; 8], b: &[f32; 8]) {
        let [s, a, b]: [[v128; 2]; 3] = [cast(*sums), cast(*a), cast(*b)];
        *sums = cast([f32x4_add(s[0], f32x4_mul(a[0], b[0])), f32x4_add(s[1], f32x4_mul(a[1], b[1]))]);
    }
}

/// `s · q − o` of integers.
#[inline(always)]
fn scaled(q: v128, s: v128, o: f32) -> v128 {
    f32x4_sub(f32x4_mul(s, f32x4_convert_i32x4(q)), f32x4_splat(o))
}

#[wasm_bindgen]
extern "C" {
    // In a page and in a worker alike.
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn now_ms() -> f64;
}

/// Nothing: browsers are not tuned, and many GPUs have no instruction for it.
pub const MATVEC_INTEGERS: &str = "";
/// Nothing: no browser has cooperative matrices.
pub const MATMUL_COOP: &str = "";
/// Nothing.
pub const COOP_16: &str = "";
/// Nothing.
pub const COOP_8: &str = "";

/// No leave: there is nothing experimental.
pub fn experimental() -> wgpu::ExperimentalFeatures {
    wgpu::ExperimentalFeatures::disabled()
}

/// A shader; browsers check all of them.
pub fn trusted_module(
    device: &wgpu::Device,
    _: wgpu::Backend,
    descriptor: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    device.create_shader_module(descriptor)
}

/// Whether [`remember`] does.
pub const REMEMBERS: bool = false;

/// Nothing: what a page may keep is the page's to say.
pub fn remembered(_name: &str) -> Option<String> {
    None
}

/// Does nothing.
pub fn remember(_name: &str, _text: &str) {}

/// Seconds since some fixed moment.
pub fn seconds() -> f64 {
    now_ms() / 1000.0
}

/// Seconds since 1970 in UTC.
pub fn unix_seconds() -> i64 {
    (js_sys::Date::now() / 1000.0) as i64
}

/// How often a waiting GPU queue is poked at first. Shorter floods the GPU process, longer is waited for.
const POKE_SECONDS: f64 = 0.002;
/// Later: when so much of the time that it has been waited for has passed since the last time.
const POKE_SHARE: f64 = 0.125;
/// How long it is waited for with every turn of the event loop, which keeps a core busy; then with timers, which wait 4 ms.
const BUSY_SECONDS: f64 = 0.003;

/// Waits until a submission is done and what wgpu has to tell of it has been told.
///
/// Firefox looks after its queues every 100 ms and Chromium every 2.5 ms, unless something is submitted: so an empty
/// submit follows now and then until the callback has come.
///
/// # Errors
/// [`Error::Gpu`] where there is no `MessageChannel`.
pub async fn wait(
    _device: &wgpu::Device,
    queue: &wgpu::Queue,
    _submission: wgpu::SubmissionIndex,
    is_told: impl Fn() -> bool,
) -> Result<()> {
    let (ticks, begun) = (Ticks::new()?, seconds());
    let mut poked = f64::MIN;
    while !is_told() {
        let waited = seconds() - begun;
        if waited - poked > POKE_SECONDS.max(POKE_SHARE * waited) {
            queue.submit(None);
            poked = waited;
        }
        match waited < BUSY_SECONDS {
            true => ticks.next().await,
            false => TimeoutFuture::new(0).await,
        }
    }
    Ok(())
}

/// Turns of the event loop. Messages come at once; timers wait 4 ms.
struct Ticks(MessageChannel);

impl Ticks {
    fn new() -> Result<Self> {
        let refused = |error| Error::Gpu(format!("no MessageChannel: {error:?}"));
        MessageChannel::new().map(Self).map_err(refused)
    }

    async fn next(&self) {
        let tick = Promise::new(&mut |resolve, _| {
            self.0.port1().set_onmessage(Some(&resolve));
            // Cannot fail: there is nothing in the message that could not be copied.
            let _ = self.0.port2().post_message(&JsValue::NULL);
        });
        let _ = JsFuture::from(tick).await; // never rejects
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.0.port1().close();
    }
}
