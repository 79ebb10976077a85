//! How long each dispatch of a plan takes, by timestamps inside the pass.

use super::GpuExecutor;
use crate::error::Result;

/// What a device must have to time dispatches inside a pass; browsers have no such thing.
pub(crate) const TIMESTAMPS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

impl GpuExecutor {
    /// Runs a plan once and gives the kernel and the milliseconds of each of its dispatches, the wait for the one before
    /// included; `None` if the device takes no timestamps inside a pass.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn profile(&mut self, plan: usize) -> Result<Option<Vec<(&'static str, f64)>>> {
        let count = self.plans[plan].len() as u32 + 1;
        let device = &self.gpu.device;
        if !device.features().contains(TIMESTAMPS) || count > wgpu::QUERY_SET_MAX_QUERIES {
            return Ok(None);
        }
        self.gpu.check()?;
        let times = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("times"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = 8 * u64::from(count);
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("times"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("profile") });
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("profile"), timestamp_writes: None });
        pass.write_timestamp(&times, 0);
        for (index, step) in (1..).zip(&self.plans[plan]) {
            step.encode(&mut pass);
            pass.write_timestamp(&times, index);
        }
        drop(pass);
        encoder.resolve_query_set(&times, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &self.staging.buffer, 0, bytes);
        self.counts.dispatches += u64::from(count) - 1;
        let submission = self.submit(Some(encoder.finish()));
        let mut ticks = vec![0_u64; count as usize];
        self.read_staging(submission, bytemuck::cast_slice_mut(&mut ticks)).await?;
        let ms_per_tick = f64::from(self.gpu.queue.get_timestamp_period()) * 1e-6;
        let ms = ticks.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * ms_per_tick);
        Ok(Some(self.plans[plan].iter().map(|step| step.kernel).zip(ms).collect()))
    }
}
