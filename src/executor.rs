//! Who runs a plan: the CPU through each kernel's twin, or a GPU through wgpu.

pub mod cpu;
pub mod gpu;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::plan::{BufferId, Buffers, Plan};
use cpu::CpuExecutor;
use gpu::GpuExecutor;

/// Either executor. Both hold the same buffers and run the same plans.
#[derive(Debug)]
pub enum Executor {
    /// The twins, on the processor's cores.
    Cpu(CpuExecutor),
    /// The shaders, through wgpu.
    Gpu(Box<GpuExecutor>),
}

impl Executor {
    /// On that GPU, or on `threads` cores of the processor; all of them if `None`.
    ///
    /// # Errors
    /// See [`CpuExecutor::new`] and [`GpuExecutor::new`].
    pub async fn new(gpu: Option<Gpu>, buffers: &Buffers, plans: Vec<Plan>, threads: Option<usize>) -> Result<Self> {
        Ok(match gpu {
            Some(gpu) => Self::Gpu(Box::new(GpuExecutor::new(gpu, buffers, plans).await?)),
            None => Self::Cpu(CpuExecutor::new(buffers, plans, threads)?),
        })
    }

    /// Overwrites part of a buffer, before the next run. `offset` in bytes; it and the length are multiples of 4.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.write(buffer, offset, bytes);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.write(buffer, offset, bytes),
        }
    }

    /// Runs a plan `times` times over. On a GPU it is only begun: [`Self::read`] waits.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::Gpu`].
    pub fn run(&mut self, plan: usize, times: u32) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.run(plan, times);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.run(plan, times),
        }
    }

    /// A copy of part of a buffer, after all that was run before. `offset` in bytes; it and the length are multiples of 4.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::Gpu`].
    pub async fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.read(buffer, offset, bytes);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.read(buffer, offset, bytes).await,
        }
    }

    /// Bytes held by all buffers.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Cpu(cpu) => cpu.bytes(),
            Self::Gpu(gpu) => gpu.bytes(),
        }
    }

    /// `cpu` or `gpu`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(_) => "gpu",
        }
    }

    /// The adapter's name; on the CPU, what it is.
    pub fn adapter(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.adapter(),
            Self::Gpu(gpu) => gpu.adapter(),
        }
    }

    /// Dispatches given to the GPU so far; 0 on the CPU.
    pub fn dispatches(&self) -> u64 {
        match self {
            Self::Cpu(_) => 0,
            Self::Gpu(gpu) => gpu.dispatches(),
        }
    }
}
