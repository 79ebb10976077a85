//! Who runs a plan: the CPU through each kernel's twin, or a GPU through wgpu.

pub mod cpu;
pub mod gpu;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernel::Tier;
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

/// What a GPU was given since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dispatches.
    pub dispatches: u64,
    /// Submits. Each makes an encoder and a command buffer; nothing else is made after loading.
    pub submits: u64,
    /// Writes of the host to the device.
    pub writes: u64,
    /// How often the host had to wait for a result …
    pub waits: u64,
    /// … that was a single step's.
    pub waits_on_one: u64,
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

    /// Fills a buffer with these words, over and over, on the device.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub fn fill(&mut self, buffer: BufferId, words: &[u32]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.fill(buffer, words);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.fill(buffer, words),
        }
    }

    /// Copies the first `bytes` of a buffer to another one, on the device. A multiple of 4.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub fn copy_buffer(&mut self, source: BufferId, target: BufferId, bytes: u64) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.copy_buffer(source, target, bytes);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.copy_buffer(source, target, bytes),
        }
    }

    /// Runs a plan once and gives the kernel and the milliseconds of each of its dispatches; `None` on a device that does
    /// not time them.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::Gpu`].
    pub async fn profile(&mut self, plan: usize) -> Result<Option<Vec<(&'static str, f64)>>> {
        match self {
            Self::Cpu(cpu) => Ok(Some(cpu.profile(plan))),
            Self::Gpu(gpu) => gpu.profile(plan).await,
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

    /// Begins to run a plan `times` over and then to copy the fronts of buffers, so many bytes of each, for
    /// [`Self::land`]. At most [`Self::max_flights`] at once.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::Gpu`].
    pub fn launch(&mut self, plan: usize, times: u32, copies: &[(BufferId, u64)]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.launch(plan, times, copies);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.launch(plan, times, copies),
        }
    }

    /// What the oldest launch copied, one buffer behind the other. Waits for it if it must.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::Gpu`].
    pub async fn land(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.land(bytes);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.land(bytes).await,
        }
    }

    /// Launches that may be under way at once: with two, a GPU has work while the host looks at the results of one.
    pub fn max_flights(&self) -> usize {
        match self {
            Self::Cpu(_) => 1,
            Self::Gpu(_) => gpu::MAX_FLIGHTS,
        }
    }

    /// Copies part of a buffer to another place in it. `through`: a buffer of which nothing is needed any more (WebGPU
    /// copies between two buffers only). All numbers in bytes, multiples of 4.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::Gpu`].
    pub fn copy_within(&mut self, buffer: BufferId, from: u64, to: u64, bytes: u64, through: BufferId) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.copy_within(buffer, from, to, bytes);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.copy_within(buffer, from, to, bytes, through),
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

    /// The tier of the shaders; none on the CPU.
    pub fn tier(&self) -> Option<Tier> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => Some(gpu.gpu().tier()),
        }
    }

    /// What the GPU was given so far; nothing on the CPU.
    pub fn counts(&self) -> Counts {
        match self {
            Self::Cpu(_) => Counts::default(),
            Self::Gpu(gpu) => gpu.counts(),
        }
    }

    /// The device, if it runs on one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => Some(gpu.gpu()),
        }
    }
}
