//! What a device gives and takes by itself, whatever runs on it: memory bandwidth, and the cost of a dispatch and of a submit.
//! A model's speed means something beside these, measured in the same run. Buffers, plans and calls are those of a model.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::gpu::Gpu;
use crate::kernel::{Variant, WORKGROUP};
use crate::kernels::probe::{KERNEL, Params};
use crate::plan::{BufferId, Buffers, Dispatch, Plan, Purpose};
use crate::platform::seconds;

/// Bytes that are copied on a GPU, more than any of its caches hold; the second size where the first one does not fit.
const GPU_BYTES: [u64; 2] = [1 << 30, 1 << 28];
/// The same on the CPU and on software adapters, which are slower and share the memory with whatever else is running.
const SOFTWARE_BYTES: [u64; 2] = [128 << 20, 64 << 20];
/// Sizes that are read: from a small matrix to more than a cache holds; on software adapters the first three.
const READ_BYTES: [u64; 5] = [512 << 10, 2 << 20, 8 << 20, 64 << 20, 1 << 30];
/// Invocations that read, at most: enough to keep every GPU busy.
const MOST_INVOCATIONS: u64 = 1 << 18;
/// Measurements of which the best counts, because nothing makes a device faster than it is.
const ROUNDS: usize = 10;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Bytes that were copied.
    pub copy_bytes: u64,
    /// Bytes read and bytes written by a copy, in 10⁹ a second; the best of ten. On a GPU the better one of the driver's copies
    /// and a kernel's: an H200's driver copies within the card at a fifth of what its memory gives.
    pub copy_gbps: f64,
    /// Microseconds of a dispatch that does nothing but wait for the one before; `None` on the CPU.
    pub dispatch_us: Option<f64>,
    /// Microseconds of a submit with one such dispatch; `None` on the CPU.
    pub submit_us: Option<f64>,
    /// Bytes and 10⁹ bytes a second of a dispatch that reads so many; none on the CPU.
    pub reads: Vec<(u64, f64)>,
}

impl Probe {
    /// Measures a GPU, or so many cores of the processor.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if there is no room for two buffers of 256 MiB (64 MiB on software adapters and the CPU); those of
    /// the executor.
    pub async fn measure(gpu: Option<Gpu>, threads: Option<usize>) -> Result<Self> {
        let is_real = gpu.as_ref().is_some_and(|gpu| !gpu.is_software());
        let [most, fewer] = if is_real { GPU_BYTES } else { SOFTWARE_BYTES };
        match Bench::new(gpu.clone(), threads, most).await {
            Err(Error::DoesNotFit(_)) => Bench::new(gpu, threads, fewer).await?.run(is_real).await,
            bench => bench?.run(is_real).await,
        }
    }

    /// For reports.
    pub fn json(&self) -> Value {
        let reads: Vec<Value> =
            self.reads.iter().map(|(bytes, gbps)| json!({ "bytes": bytes, "gbps": gbps })).collect();
        json!({
            "copy_bytes": self.copy_bytes,
            "copy_gbps": self.copy_gbps,
            "dispatch_us": self.dispatch_us,
            "submit_us": self.submit_us,
            "reads": reads,
        })
    }
}

/// Buffers and plans of the measurement.
struct Bench {
    executor: Executor,
    copy_bytes: u64,
    source: BufferId,
    target: BufferId,
    output: BufferId,
    /// Bytes that plan 1, 2, … read; plan 0 reads nothing.
    read_bytes: Vec<u64>,
    /// The plan that copies, where one dispatch can.
    copy: Option<usize>,
}

impl Bench {
    async fn new(gpu: Option<Gpu>, threads: Option<usize>, copy_bytes: u64) -> Result<Self> {
        let is_real = gpu.as_ref().is_some_and(|gpu| !gpu.is_software());
        let mut buffers = Buffers::default();
        let mut add = |name: &str, bytes| buffers.add(name, bytes, Purpose::Work);
        let (source, target) = (add("source", copy_bytes), add("target", copy_bytes));
        let output = add("output", 4 * MOST_INVOCATIONS);
        let most = gpu.as_ref().map_or(0, |gpu| gpu.device.limits().max_storage_buffer_binding_size.min(copy_bytes));
        let input = if most == copy_bytes { source } else { add("input", most) };
        let read_bytes: Vec<u64> =
            READ_BYTES.into_iter().filter(|&bytes| bytes <= most).take(if is_real { 5 } else { 3 }).collect();
        let plan = |bytes: u64, copies: bool| {
            let vectors = (bytes / 16).div_ceil(MOST_INVOCATIONS);
            let invocations = if bytes == 0 { u64::from(WORKGROUP) } else { bytes / 16 / vectors };
            let dispatch = Dispatch {
                kernel: &KERNEL,
                variant: Variant::Plain,
                label: format!("{bytes} bytes"),
                params: bytemuck::bytes_of(&Params { vectors: vectors as u32 }).to_vec(),
                buffers: vec![input, if copies { target } else { output }],
                overrides: vec![("COPIES", u32::from(copies))],
                workgroups: [(invocations / u64::from(WORKGROUP)) as u32, 1, 1],
            };
            Plan { name: dispatch.label.clone(), columns: 1, dispatches: vec![dispatch] }
        };
        let mut plans: Vec<Plan> = match gpu {
            Some(_) => std::iter::once(0).chain(read_bytes.iter().copied()).map(|bytes| plan(bytes, false)).collect(),
            None => vec![],
        };
        let copy = (is_real && most == copy_bytes).then_some(plans.len());
        plans.extend(copy.map(|_| plan(copy_bytes, true)));
        let executor = Executor::new(gpu, &buffers, plans, threads).await?;
        Ok(Self { executor, copy_bytes, source, target, output, read_bytes, copy })
    }

    async fn run(mut self, is_real: bool) -> Result<Probe> {
        // On a fast GPU one copy is not much longer than waiting for it.
        let copies = if is_real { 16 } else { 1 };
        let bytes = self.copy_bytes;
        let words: Vec<u32> = (0..1 << 18).map(|word: u32| word.wrapping_mul(0x9e37_79b9)).collect();
        self.executor.fill(self.source, &words)?;
        self.executor.fill(self.target, &words)?; // so that no page is touched for the first time
        let mut copy_seconds = f64::INFINITY;
        for _ in 0..ROUNDS {
            self.wait().await?;
            let started = seconds();
            for _ in 0..copies {
                self.executor.copy_buffer(self.source, self.target, bytes)?;
            }
            self.wait().await?;
            copy_seconds = copy_seconds.min((seconds() - started) / f64::from(copies));
        }
        if let Some(plan) = self.copy {
            copy_seconds = copy_seconds.min(self.slope(plan, 1, 16).await?);
        }
        let mut probe = Probe {
            copy_bytes: bytes,
            copy_gbps: 2e-9 * bytes as f64 / copy_seconds,
            dispatch_us: None,
            submit_us: None,
            reads: vec![],
        };
        if self.executor.gpu().is_some() {
            probe.dispatch_us = Some(1e6 * self.slope(0, 128, 8).await? / 128.0);
            probe.submit_us = Some(1e6 * self.slope(0, 1, 64).await?);
            for (plan, bytes) in (1..).zip(self.read_bytes.clone()) {
                // Bytes that take long enough to be measured, and no longer.
                let wanted: u64 = if is_real { 1 << 30 } else { 16 << 20 };
                let times = (wanted / bytes).clamp(1, 256) as u32;
                let seconds = self.slope(plan, times, 8).await? / f64::from(times);
                probe.reads.push((bytes, 1e-9 * bytes as f64 / seconds));
            }
        }
        Ok(probe)
    }

    /// Seconds of one submit that runs a plan `times` times over, among so many that follow each other: what more of them
    /// take longer. The host encodes ahead of the device, as with a model, and waits once.
    async fn slope(&mut self, plan: usize, times: u32, submits: u32) -> Result<f64> {
        let few = submits.div_ceil(8);
        let (mut short, mut long) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..ROUNDS / 2 {
            for (count, best) in [(few, &mut short), (few + submits, &mut long)] {
                let started = seconds();
                for _ in 0..count {
                    self.executor.run(plan, times)?;
                }
                self.wait().await?;
                *best = best.min(seconds() - started);
            }
        }
        Ok((long - short).max(0.0) / f64::from(submits))
    }

    /// Waits until all is done.
    async fn wait(&mut self) -> Result<()> {
        self.executor.read(self.output, 0, &mut [0; 4]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_copies_at_a_plausible_rate() {
        let probe = pollster::block_on(Probe::measure(None, Some(1))).unwrap();
        assert_eq!(probe.copy_bytes, SOFTWARE_BYTES[0]);
        assert!((0.05..5000.0).contains(&probe.copy_gbps), "{probe:?}");
        assert_eq!((probe.dispatch_us, probe.reads.len()), (None, 0));
    }
}
