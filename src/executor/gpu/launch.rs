//! Results that come back while the device works on: launches, and the buffers that the host reads them from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{GpuExecutor, MAX_FLIGHTS, STAGING_BYTES, buffer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::BufferId;
use crate::platform;

/// A launch under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Which of the landings.
    landing: usize,
    steps: u32,
    bytes: u64,
    submission: wgpu::SubmissionIndex,
}

/// A buffer that the host can read when it is mapped.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) buffer: wgpu::Buffer,
    mapped: Arc<AtomicU8>,
}

/// States of [`Staging::mapped`].
const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

/// What wgpu's callback tells. One that is dropped uncalled has failed.
struct Report(Arc<AtomicU8>);

impl Drop for Report {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(WAITING, FAILED, Ordering::AcqRel, Ordering::Acquire); // it has been called
    }
}

impl Staging {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Self { buffer: buffer(device, "staging", STAGING_BYTES, usage), mapped: Arc::default() }
    }

    /// Asks for the first `bytes`, after what was submitted.
    pub(super) fn map(&self, bytes: u64) {
        self.mapped.store(WAITING, Ordering::Release);
        let report = Report(Arc::clone(&self.mapped));
        self.buffer.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            report.0.store(if result.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
        });
    }

    pub(super) fn is_settled(&self) -> bool {
        self.mapped.load(Ordering::Acquire) != WAITING
    }

    /// Takes what has been mapped.
    pub(super) fn take(&self, gpu: &Gpu, bytes: &mut [u8]) -> Result<()> {
        if self.mapped.load(Ordering::Acquire) != MAPPED {
            gpu.check()?;
            return Err(Error::DeviceLost("while waiting for it".into()));
        }
        // Nobody but a device that goes unmaps it in between, and Firefox tells of that only later.
        let view = self.buffer.get_mapped_range(..bytes.len() as u64);
        bytes.copy_from_slice(&view.map_err(|error| Error::DeviceLost(format!("while reading from it: {error}")))?);
        self.buffer.unmap();
        Ok(())
    }
}

impl GpuExecutor {
    /// As [`Self::run`], and in the same submit copies the fronts of buffers, so many bytes of each, for [`Self::land`].
    /// At most [`MAX_FLIGHTS`] launches are under way at once.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn launch(&mut self, plan: usize, times: u32, copies: &[(BufferId, u64)]) -> Result<()> {
        let mut encoder = self.encode(plan, times)?;
        let landing = self.launches % MAX_FLIGHTS;
        let mut bytes = 0;
        for (id, length) in copies {
            encoder.copy_buffer_to_buffer(&self.buffers[id.0], 0, &self.landings[landing].buffer, bytes, *length);
            bytes += length;
        }
        let submission = self.submit(Some(encoder.finish()));
        self.landings[landing].map(bytes);
        self.flights.push_back(Flight { landing, steps: times, bytes, submission });
        self.launches += 1;
        Ok(())
    }

    /// What the oldest launch copied. Waits for that launch alone, and only if it is not done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Gpu`].
    pub async fn land(&mut self, bytes: &mut [u8]) -> Result<()> {
        let Some(flight) = self.flights.pop_front() else { return Ok(()) };
        let landing = &self.landings[flight.landing];
        let _ = self.gpu.device.poll(wgpu::PollType::Poll); // only to hear what is done; a fault comes up below
        if !landing.is_settled() {
            self.counts.waits += 1;
            self.counts.waits_on_one += u64::from(flight.steps == 1);
            let (device, queue) = (&self.gpu.device, &self.gpu.queue);
            let waited = platform::wait(device, queue, flight.submission, || landing.is_settled()).await;
            self.gpu.check()?;
            waited?;
        }
        landing.take(&self.gpu, &mut bytes[..flight.bytes as usize])
    }
}
