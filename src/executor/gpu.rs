//! Runs plans on a GPU through wgpu. Buffers, pipelines and bind groups exist before the first token; a step encodes
//! the same dispatches again and submits them.

mod copies;
mod launch;
mod pipelines;
mod profile;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::PoisonError;

use self::launch::{Flight, Staging};
use super::Counts;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernel::Access;
use crate::plan::{BufferId, Buffers, Dispatch, Plan};
use crate::platform;
pub(crate) use pipelines::Pipelines;
pub(crate) use profile::TIMESTAMPS;

/// Where the params of the next dispatch begin: WebGPU's alignment of uniform bindings.
const PARAMS_STRIDE: u64 = 256;
/// Most bytes that are read back at once.
const STAGING_BYTES: u64 = 256 << 10;
/// Launches that may be under way at once.
pub const MAX_FLIGHTS: usize = 2;
/// Bytes of writes after which they are handed to the device, so that a large model is never in memory twice.
const FLUSH_BYTES: u64 = 64 << 20;

/// All buffers on a device, and every plan ready to be encoded.
#[derive(Debug)]
pub struct GpuExecutor {
    gpu: Gpu,
    buffers: Vec<wgpu::Buffer>,
    /// What [`Self::read`] copies through.
    staging: Staging,
    /// What launches copy to, in turn.
    landings: [Staging; MAX_FLIGHTS],
    /// Launches under way, oldest first.
    flights: VecDeque<Flight>,
    launches: usize,
    plans: Vec<Vec<Step>>,
    bytes: u64,
    /// Bytes written since the last submit.
    unflushed: u64,
    counts: Counts,
}

/// A dispatch, ready to be encoded.
#[derive(Debug)]
struct Step {
    kernel: &'static str,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

impl GpuExecutor {
    /// Allocates the buffers, zeroed, and compiles the pipelines.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if a buffer is over the device's limits or memory runs out; [`Error::Gpu`] if the device
    /// refuses a shader; [`Error::DeviceLost`].
    pub async fn new(gpu: Gpu, buffers: &Buffers, plans: Vec<Plan>) -> Result<Self> {
        let limits = gpu.device.limits();
        check_sizes(buffers, &plans, &limits)?;
        let dispatches: Vec<&Dispatch> = plans.iter().flat_map(|plan| &plan.dispatches).collect();
        for dispatch in &dispatches {
            let most = limits.max_compute_workgroups_per_dimension;
            if dispatch.workgroups.iter().any(|&count| count > most) {
                let (kernel, label, workgroups) = (dispatch.kernel, &dispatch.label, dispatch.workgroups);
                return Err(Error::DoesNotFit(format!(
                    "{kernel:?} {label}: {workgroups:?} workgroups, the device takes {most} in a row"
                )));
            }
        }

        let params_bytes = dispatches.len() as u64 * PARAMS_STRIDE;
        let bytes = buffers.specs().iter().map(|spec| spec.bytes).sum::<u64>()
            + params_bytes
            + (1 + MAX_FLIGHTS as u64) * STAGING_BYTES;
        let uniforms = uniforms(&dispatches);
        let device = &gpu.device;
        let make_buffers = || {
            let make = |(id, spec): (usize, &crate::plan::BufferSpec)| {
                let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
                let uniform = if uniforms.contains(&BufferId(id)) {
                    wgpu::BufferUsages::UNIFORM
                } else {
                    wgpu::BufferUsages::empty()
                };
                buffer(device, &spec.name, spec.bytes, storage | uniform)
            };
            let all: Vec<_> = buffers.specs().iter().enumerate().map(make).collect();
            (all, Staging::new(device), std::array::from_fn(|_| Staging::new(device)))
        };
        let (all, staging, landings) = gpu.checked(&format!("{bytes} bytes of buffers"), make_buffers).await?;
        let plans = prepare(&gpu, &all, &plans).await?;
        Ok(Self {
            gpu,
            buffers: all,
            staging,
            landings,
            flights: VecDeque::with_capacity(MAX_FLIGHTS),
            launches: 0,
            plans,
            bytes,
            unflushed: 0,
            counts: Counts::default(),
        })
    }

    /// Overwrites part of a buffer before the next run. `offset` in bytes; it and the length are multiples of 4.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Gpu`] for an earlier fault.
    pub fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.gpu.check()?;
        self.gpu.queue.write_buffer(&self.buffers[buffer.0], offset, bytes);
        self.counts.writes += 1;
        self.unflushed += bytes.len() as u64;
        if self.unflushed > FLUSH_BYTES {
            self.submit(None);
        }
        Ok(())
    }

    /// Begins to run a plan `times` times over: one pass, one submit. [`Self::read`] waits for it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Gpu`] for an earlier fault.
    pub fn run(&mut self, plan: usize, times: u32) -> Result<()> {
        let encoder = self.encode(plan, times)?;
        self.submit(Some(encoder.finish()));
        Ok(())
    }

    /// Commands that run a plan `times` times over, in one pass.
    fn encode(&mut self, plan: usize, times: u32) -> Result<wgpu::CommandEncoder> {
        self.gpu.check()?;
        self.counts.dispatches += self.plans[plan].len() as u64 * u64::from(times);
        Ok(encode(&self.gpu.device, &self.plans[plan], times))
    }

    /// Puts other plans over the same buffers in the place of all plans. `gpu`: the same device, maybe in another tier.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) async fn set_plans(&mut self, gpu: Gpu, plans: &[Plan]) -> Result<()> {
        let count = |plans: &[Vec<Step>]| plans.iter().map(Vec::len).sum::<usize>() as u64;
        let new = prepare(&gpu, &self.buffers, plans).await?;
        self.gpu = gpu;
        self.bytes = self.bytes - count(&self.plans) * PARAMS_STRIDE + count(&new) * PARAMS_STRIDE;
        self.plans = new;
        Ok(())
    }

    /// Seconds that a plan takes, of those that it takes `times` times over, run before to warm up. `gpu`: the same device, maybe
    /// in another tier.
    ///
    /// # Errors
    /// As [`Self::new`] and [`Self::read`].
    pub(crate) async fn seconds(&mut self, gpu: &Gpu, plan: &Plan, times: u32) -> Result<f64> {
        let steps = prepare(gpu, &self.buffers, std::slice::from_ref(plan)).await?.swap_remove(0);
        let mut seconds = 0.0;
        for times in [1, times] {
            let began = platform::seconds();
            let commands = encode(&self.gpu.device, &steps, times);
            self.submit(Some(commands.finish()));
            self.read(BufferId(0), 0, &mut [0; 4]).await?;
            seconds = (platform::seconds() - began) / f64::from(times);
        }
        Ok(seconds)
    }

    /// A copy of part of a buffer, after all that was run before. `offset` in bytes; it and the length are multiples of 4.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Gpu`].
    pub async fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let mut offset = offset;
        for part in bytes.chunks_mut(STAGING_BYTES as usize) {
            self.gpu.check()?;
            let length = part.len() as u64;
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("read") };
            let mut encoder = self.gpu.device.create_command_encoder(&descriptor);
            encoder.copy_buffer_to_buffer(&self.buffers[buffer.0], offset, &self.staging.buffer, 0, length);
            let submission = self.submit(Some(encoder.finish()));
            self.read_staging(submission, part).await?;
            offset += length;
        }
        Ok(())
    }

    /// Waits for a submit that copied to the staging buffer, and takes what lies there.
    async fn read_staging(&self, submission: wgpu::SubmissionIndex, bytes: &mut [u8]) -> Result<()> {
        let staging = &self.staging;
        staging.map(bytes.len() as u64);
        let (device, queue) = (&self.gpu.device, &self.gpu.queue);
        let waited = platform::wait(device, queue, submission, || staging.is_settled()).await;
        self.gpu.check()?;
        waited?;
        staging.take(&self.gpu, bytes)
    }

    /// Bytes of all buffers, those of the executor's own included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The adapter's name, backend and driver.
    pub fn adapter(&self) -> String {
        self.gpu.adapter()
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// What was given to the device so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn submit(&mut self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        self.counts.submits += 1;
        self.unflushed = 0;
        self.gpu.queue.submit(commands)
    }
}

/// Pipelines and bind groups of all dispatches.
async fn prepare(gpu: &Gpu, buffers: &[wgpu::Buffer], plans: &[Plan]) -> Result<Vec<Vec<Step>>> {
    let device = &gpu.device;
    let make_plans = || {
        let params_bytes = plans.iter().map(|plan| plan.dispatches.len()).sum::<usize>() as u64 * PARAMS_STRIDE;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = buffer(device, "params", params_bytes.max(PARAMS_STRIDE), usage);
        let mut pipelines = gpu.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut params_offset = 0;
        let mut make = |dispatch: &Dispatch| {
            gpu.queue.write_buffer(&params, params_offset, &dispatch.params);
            let pipeline = pipelines.get(gpu, dispatch);
            let bind_group = bind_group(device, &pipeline, dispatch, buffers, &params, params_offset);
            params_offset += PARAMS_STRIDE;
            Step { kernel: dispatch.kernel.name, pipeline, bind_group, workgroups: dispatch.workgroups }
        };
        plans.iter().map(|plan| plan.dispatches.iter().map(&mut make).collect()).collect()
    };
    gpu.checked("pipelines", make_plans).await
}

/// One pass over the steps, `times` times over.
fn encode(device: &wgpu::Device, steps: &[Step], times: u32) -> wgpu::CommandEncoder {
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("run") });
    let mut pass =
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("run"), timestamp_writes: None });
    for _ in 0..times {
        steps.iter().for_each(|step| step.encode(&mut pass));
    }
    drop(pass);
    encoder
}

/// The buffers that some dispatch binds as uniforms.
fn uniforms(dispatches: &[&Dispatch]) -> Vec<BufferId> {
    let bound = dispatches.iter().flat_map(|dispatch| dispatch.kernel.bindings[1..].iter().zip(&dispatch.buffers));
    let mut ids: Vec<_> = bound.filter(|(binding, _)| binding.access == Access::Uniform).map(|(_, id)| *id).collect();
    ids.sort_unstable_by_key(|id| id.0);
    ids.dedup();
    ids
}

/// Whether every buffer is within the limits of allocation and binding.
fn check_sizes(buffers: &Buffers, plans: &[Plan], limits: &wgpu::Limits) -> Result<()> {
    let refuse = |id: BufferId, most: u64, what: &str| {
        let spec = buffers.spec(id);
        Err(Error::DoesNotFit(format!("{} has {} bytes, the device takes {most} in one {what}", spec.name, spec.bytes)))
    };
    for (id, spec) in buffers.specs().iter().enumerate() {
        if spec.bytes > limits.max_buffer_size {
            return refuse(BufferId(id), limits.max_buffer_size, "buffer");
        }
    }
    for dispatch in plans.iter().flat_map(|plan| &plan.dispatches) {
        for (binding, id) in dispatch.kernel.bindings[1..].iter().zip(&dispatch.buffers) {
            let most = match binding.access {
                Access::Uniform => limits.max_uniform_buffer_binding_size,
                Access::Read | Access::Write => limits.max_storage_buffer_binding_size,
            };
            if buffers.spec(*id).bytes > most {
                return refuse(*id, most, "binding");
            }
        }
    }
    Ok(())
}

fn buffer(device: &wgpu::Device, name: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false })
}

fn bind_group(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    dispatch: &Dispatch,
    buffers: &[wgpu::Buffer],
    params: &wgpu::Buffer,
    params_offset: u64,
) -> wgpu::BindGroup {
    let params = wgpu::BufferBinding {
        buffer: params,
        offset: params_offset,
        size: NonZeroU64::new(dispatch.params.len() as u64),
    };
    let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
    for (binding, id) in (1..).zip(&dispatch.buffers) {
        entries.push(wgpu::BindGroupEntry { binding, resource: buffers[id.0].as_entire_binding() });
    }
    let layout = pipeline.get_bind_group_layout(0);
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(&dispatch.label),
        layout: &layout,
        entries: &entries,
    })
}
