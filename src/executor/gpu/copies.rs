//! Copies from buffer to buffer: what stays on the device.

use super::{GpuExecutor, buffer};
use crate::error::Result;
use crate::plan::BufferId;

impl GpuExecutor {
    /// Fills a buffer with these words, over and over, by copies on the device.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn fill(&mut self, target: BufferId, words: &[u32]) -> Result<()> {
        self.gpu.check()?;
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let period = 4 * words.len() as u64;
        let pattern = buffer(&self.gpu.device, "pattern", period, usage);
        self.gpu.queue.write_buffer(&pattern, 0, bytemuck::cast_slice(words));
        let target = &self.buffers[target.0];
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("fill") };
        let mut encoder = self.gpu.device.create_command_encoder(&descriptor);
        for offset in (0..target.size()).step_by(period as usize) {
            encoder.copy_buffer_to_buffer(&pattern, 0, target, offset, period.min(target.size() - offset));
        }
        self.submit(Some(encoder.finish()));
        Ok(())
    }

    /// Copies the first `bytes` of a buffer to another one. A multiple of 4.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn copy_buffer(&mut self, source: BufferId, target: BufferId, bytes: u64) -> Result<()> {
        self.gpu.check()?;
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("copy") };
        let mut encoder = self.gpu.device.create_command_encoder(&descriptor);
        encoder.copy_buffer_to_buffer(&self.buffers[source.0], 0, &self.buffers[target.0], 0, bytes);
        self.submit(Some(encoder.finish()));
        Ok(())
    }

    /// Copies part of a buffer to another place in it, piece by piece through the front of another buffer. All numbers in
    /// bytes, multiples of 4.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn copy_within(&mut self, buffer: BufferId, from: u64, to: u64, bytes: u64, through: BufferId) -> Result<()> {
        self.gpu.check()?;
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("copy") };
        let mut encoder = self.gpu.device.create_command_encoder(&descriptor);
        let (buffer, through) = (&self.buffers[buffer.0], &self.buffers[through.0]);
        for done in (0..bytes).step_by(through.size() as usize) {
            let piece = through.size().min(bytes - done);
            encoder.copy_buffer_to_buffer(buffer, from + done, through, 0, piece);
            encoder.copy_buffer_to_buffer(through, 0, buffer, to + done, piece);
        }
        self.submit(Some(encoder.finish()));
        Ok(())
    }
}
