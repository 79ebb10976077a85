//! Runs plans on the CPU, through each kernel's twin. The oracle of the GPU tests, and what runs where there is no GPU.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::kernel::Access;
use crate::kernels::matmul::{Matrix, Scratch};
use crate::plan::{BufferId, Buffers, Column, ColumnsHeader, Dispatch, Plan};
use crate::platform::{Cores, available_bytes, seconds};
use crate::quant::Layout;

/// All buffers in memory, as 32-bit words.
#[derive(Debug)]
pub struct CpuExecutor {
    buffers: Vec<Vec<u32>>,
    plans: Vec<Plan>,
    scratch: Scratch,
    cores: Cores,
    /// What a launch copied.
    landing: Vec<u8>,
}

impl CpuExecutor {
    /// Allocates the buffers, zeroed. `threads`: how many cores to use; all of them if `None`.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotFit`] if the memory cannot be had.
    pub fn new(buffers: &Buffers, plans: Vec<Plan>, threads: Option<usize>) -> crate::Result<Self> {
        let bytes: u64 = buffers.specs().iter().map(|spec| spec.bytes).sum();
        if let Some(available) = available_bytes().filter(|available| bytes > *available) {
            return Err(crate::Error::DoesNotFit(format!(
                "the CPU executor needs {bytes} bytes and {available} are free; a smaller window, fewer streams or a smaller model need less"
            )));
        }
        let buffers =
            buffers.specs().iter().map(|spec| allocate(&spec.name, spec.bytes)).collect::<crate::Result<_>>()?;
        Ok(Self { buffers, plans, scratch: Scratch::default(), cores: Cores::new(threads)?, landing: vec![] })
    }

    /// Overwrites part of a buffer. `offset` in bytes, a multiple of 4.
    pub fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) {
        let target: &mut [u8] = bytemuck::cast_slice_mut(&mut self.buffers[buffer.0]);
        target[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Fills a buffer with these words, over and over.
    pub fn fill(&mut self, buffer: BufferId, words: &[u32]) {
        for part in self.buffers[buffer.0].chunks_mut(words.len()) {
            part.copy_from_slice(&words[..part.len()]);
        }
    }

    /// Copies the first `bytes` of a buffer to another one, with all cores.
    pub fn copy_buffer(&mut self, source: BufferId, target: BufferId, bytes: u64) {
        let words = bytes as usize / 4;
        let mut to = std::mem::take(&mut self.buffers[target.0]);
        let from = &self.buffers[source.0][..words];
        let part = words.div_ceil(self.cores.count()).max(1);
        let parts = to[..words].chunks_mut(part).zip(from.chunks(part));
        self.cores.each(parts, |(to, from)| to.copy_from_slice(from));
        self.buffers[target.0] = to;
    }

    /// Runs a plan once and gives the kernel and the milliseconds of each of its dispatches.
    pub fn profile(&mut self, plan: usize) -> Vec<(&'static str, f64)> {
        let Self { buffers, plans, scratch, cores, .. } = self;
        let timed = |dispatch: &Dispatch| {
            let started = seconds();
            Call::run(dispatch, buffers, scratch, cores);
            (dispatch.kernel.name, 1e3 * (seconds() - started))
        };
        plans[plan].dispatches.iter().map(timed).collect()
    }

    /// Runs a plan `times` times over.
    pub fn run(&mut self, plan: usize, times: u32) {
        let Self { buffers, plans, scratch, cores, .. } = self;
        for _ in 0..times {
            for dispatch in &plans[plan].dispatches {
                Call::run(dispatch, buffers, scratch, cores);
            }
        }
    }

    /// Runs a plan `times` over and copies the fronts of buffers for [`Self::land`].
    pub fn launch(&mut self, plan: usize, times: u32, copies: &[(BufferId, u64)]) {
        self.run(plan, times);
        self.landing.clear();
        for (buffer, bytes) in copies {
            let source: &[u8] = bytemuck::cast_slice(&self.buffers[buffer.0]);
            self.landing.extend(&source[..*bytes as usize]);
        }
    }

    /// What the launch copied.
    pub fn land(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.landing[..bytes.len()]);
    }

    /// Copies part of a buffer to another place in it. All numbers in bytes, multiples of 4.
    pub fn copy_within(&mut self, buffer: BufferId, from: u64, to: u64, bytes: u64) {
        let words = (from / 4) as usize..((from + bytes) / 4) as usize;
        self.buffers[buffer.0].copy_within(words, (to / 4) as usize);
    }

    /// A copy of part of a buffer. `offset` in bytes, a multiple of 4.
    pub fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) {
        let source: &[u8] = bytemuck::cast_slice(&self.buffers[buffer.0]);
        bytes.copy_from_slice(&source[offset as usize..][..bytes.len()]);
    }

    /// What it runs on, for reports.
    pub fn adapter(&self) -> String {
        format!("{} threads", self.cores.count())
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.len() as u64 * 4).sum()
    }
}

fn allocate(name: &str, bytes: u64) -> crate::Result<Vec<u32>> {
    let does_not_fit = || crate::Error::DoesNotFit(format!("no memory for {name}: {bytes} bytes"));
    let words = usize::try_from(bytes / 4).map_err(|_| does_not_fit())?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(words).map_err(|_| does_not_fit())?;
    buffer.resize(words, 0);
    Ok(buffer)
}

/// Most buffers that one kernel writes.
const MAX_OUTPUTS: usize = 5;

/// One dispatch, as a twin sees it: bindings by their number in the WGSL.
pub struct Call<'a> {
    dispatch: &'a Dispatch,
    inputs: &'a [Vec<u32>],
    outputs: [Vec<u32>; MAX_OUTPUTS],
    scratch: &'a mut Scratch,
    cores: &'a Cores,
}

impl<'a> Call<'a> {
    /// Takes what the kernel writes out of the buffers, calls the twin, and puts it back.
    fn run(dispatch: &Dispatch, buffers: &mut [Vec<u32>], scratch: &mut Scratch, cores: &Cores) {
        let written = || {
            let bindings = dispatch.kernel.bindings[1..].iter().zip(&dispatch.buffers);
            bindings.filter(|(binding, _)| binding.access == Access::Write).map(|(_, id)| id.0)
        };
        let mut outputs = [const { Vec::new() }; MAX_OUTPUTS];
        for (output, id) in outputs.iter_mut().zip(written()) {
            *output = std::mem::take(&mut buffers[id]);
        }
        let mut call = Call { dispatch, inputs: buffers, outputs, scratch, cores };
        (dispatch.kernel.twin)(&mut call);
        let outputs = call.outputs;
        for (output, id) in outputs.into_iter().zip(written()) {
            buffers[id] = output;
        }
    }

    /// The `params` struct.
    pub fn params<P: AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.dispatch.params[..size_of::<P>()])
    }

    /// Workgroups in x, y, z.
    pub fn workgroups(&self) -> [u32; 3] {
        self.dispatch.workgroups
    }

    /// An override's value.
    pub fn constant(&self, name: &str) -> u32 {
        self.dispatch.constant(name)
    }

    /// Whether an override is 1.
    pub fn flag(&self, name: &str) -> bool {
        self.constant(name) == 1
    }

    /// The layout of the weights: override `LAYOUT`.
    pub fn layout(&self) -> Layout {
        Layout::from_u32(self.constant("LAYOUT"))
    }

    /// A second matrix, behind the `first` one in the same planes: overrides `OTHER_LAYOUT`, `FIRST_QUANTS`, `FIRST_SCALES`.
    pub fn other<'m>(&self, first: Matrix<'m>) -> Matrix<'m> {
        let [quants, scales] = ["FIRST_QUANTS", "FIRST_SCALES"].map(|name| self.constant(name) as usize);
        let layout = Layout::from_u32(self.constant("OTHER_LAYOUT"));
        Matrix { layout, quants: &first.quants[4 * quants..], scales: &first.scales[scales..], ..first }
    }

    /// The buffer of a binding that is not written.
    pub fn input<T: AnyBitPattern + NoUninit>(&self, binding: usize) -> &'a [T] {
        bytemuck::cast_slice(&self.inputs[self.dispatch.buffers[binding - 1].0])
    }

    /// The cores to share the work among.
    pub fn cores(&self) -> &'a Cores {
        self.cores
    }

    /// The columns in use.
    pub fn columns(&self, binding: usize) -> &'a [Column] {
        let words: &[u32] = self.input(binding);
        let (header, columns) = words.split_at(size_of::<ColumnsHeader>() / 4);
        &bytemuck::cast_slice(columns)[..header[0] as usize]
    }

    /// The buffers that the kernel writes, in the order of their bindings, and room to compute in.
    pub fn outputs<const N: usize>(&mut self) -> ([&mut [u32]; N], &mut Scratch) {
        let mut outputs = self.outputs.iter_mut();
        let outputs = std::array::from_fn(|_| outputs.next().map_or(&mut [][..], |output| &mut output[..]));
        (outputs, self.scratch)
    }
}
