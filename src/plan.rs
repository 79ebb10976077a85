//! The plan: the forward pass as data.
//!
//! Because the ring is fixed, every shape is fixed. A [`Plan`] is a flat list of dispatches over up to T columns; a
//! column is one token of one stream. [`crate::forward`] writes the plans, the executors run them unchanged.

use bytemuck::{Pod, Zeroable};

use crate::kernel::{Kernel, Variant};
use crate::kernels;

/// Most columns of one plan: the size of the uniform array in `shaders/shared/columns.wgsl`.
pub const MAX_COLUMNS: u32 = 512;

/// One token of one stream, as the kernels see it. Mirrors `Column` in `shaders/shared/columns.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Column {
    /// The token's id.
    pub token: u32,
    /// Position in the stream, mod 2³².
    pub position: u32,
    /// Where its key and value go.
    pub slot: u32,
    /// Tokens cached before it: its in-cache position, and the number of slots that it attends to besides its own.
    pub cached: u32,
    /// Pinned tokens at the start of the stream.
    pub sinks: u32,
    /// Most tokens that a query sees besides itself: sinks + window. With a compressive memory also which copy of it the
    /// query reads: so many segments are added (see [`crate::kernels::memory`]).
    pub capacity: u32,
    /// The stream: its part of the cache.
    pub lane: u32,
    /// The id whose NLL is wanted (read by `nll` only).
    pub target: u32,
}

impl Column {
    /// The slot of the token `behind` places before this one, both in the ring of a cache of `slots` slots.
    #[inline(always)]
    pub fn slot_behind(&self, behind: usize, slots: usize) -> usize {
        let (slot, sinks) = (self.slot as usize, self.sinks as usize);
        let wrapped = if slot < sinks + behind { slots - sinks } else { 0 };
        slot + wrapped - behind
    }
}

/// What the kernels read as `columns`: how many are in use, then the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ColumnsHeader {
    /// Columns in use, from the first on.
    pub active: u32,
    /// Unused; keeps the array at a multiple of 16 bytes.
    pub pad: [u32; 3],
}

/// Names a buffer of the model: its index in [`Buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub usize);

/// What a buffer is for: the rows of the memory plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Weights, written once at load.
    Weights,
    /// Keys and values.
    Cache,
    /// What segments that left the cache were folded into.
    Memory,
    /// Activations, columns, settings, results.
    Work,
}

/// A buffer that both executors allocate once, zeroed.
#[derive(Clone, Debug)]
pub struct BufferSpec {
    /// Label.
    pub name: String,
    /// Size; a multiple of 16.
    pub bytes: u64,
    /// Of each lane, one after the other from the front on; 0 if it is not divided into lanes.
    pub lane_bytes: u64,
    /// What it is for.
    pub purpose: Purpose,
}

/// All buffers of a model, allocated before the first token; nothing is allocated after.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    specs: Vec<BufferSpec>,
}

impl Buffers {
    /// Adds a buffer; its size is rounded up to 16 bytes, the size of a `vec4`.
    pub fn add(&mut self, name: impl Into<String>, bytes: u64, purpose: Purpose) -> BufferId {
        let bytes = bytes.max(16).next_multiple_of(16);
        self.specs.push(BufferSpec { name: name.into(), bytes, lane_bytes: 0, purpose });
        BufferId(self.specs.len() - 1)
    }

    /// Adds a buffer with a part for each of `lanes` streams.
    pub fn add_lanes(&mut self, name: impl Into<String>, purpose: Purpose, lane_bytes: u64, lanes: u32) -> BufferId {
        let id = self.add(name, lane_bytes * u64::from(lanes), purpose);
        self.specs[id.0].lane_bytes = lane_bytes;
        id
    }

    /// The buffer's name, size and purpose.
    pub fn spec(&self, id: BufferId) -> &BufferSpec {
        &self.specs[id.0]
    }

    /// The buffer of that name.
    pub fn find(&self, name: &str) -> Option<BufferId> {
        self.specs.iter().position(|spec| spec.name == name).map(BufferId)
    }

    /// All buffers of one purpose.
    pub fn of(&self, purpose: Purpose) -> Vec<BufferId> {
        let all = self.specs.iter().enumerate();
        all.filter(|(_, spec)| spec.purpose == purpose).map(|(id, _)| BufferId(id)).collect()
    }

    /// All of them, in the order of their ids.
    pub fn specs(&self) -> &[BufferSpec] {
        &self.specs
    }

    /// Bytes of all buffers of one purpose.
    pub fn bytes(&self, purpose: Purpose) -> u64 {
        self.specs.iter().filter(|spec| spec.purpose == purpose).map(|spec| spec.bytes).sum()
    }
}

/// One call of a kernel: everything but the columns is fixed when the plan is built.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// Which kernel.
    pub kernel: &'static Kernel,
    /// Which of its compositions.
    pub variant: Variant,
    /// What it works on, for people: `blk.0` or the like.
    pub label: String,
    /// The `params` struct as bytes: scalars of 4 bytes.
    pub params: Vec<u8>,
    /// The buffers of bindings 1, 2, … in the kernel's order.
    pub buffers: Vec<BufferId>,
    /// Values of the WGSL `override` constants.
    pub overrides: Vec<(&'static str, u32)>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
}

impl Dispatch {
    /// The value of an override; 0 if the dispatch does not set it.
    pub fn constant(&self, name: &str) -> u32 {
        self.overrides.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
    }
}

/// A forward pass over at most `columns` tokens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `decode`, `prefill` or `score`, and the number of columns.
    pub name: String,
    /// Most columns that it can work on.
    pub columns: u32,
    /// What is done, in order; each dispatch sees all that the earlier ones wrote.
    pub dispatches: Vec<Dispatch>,
}

impl Plan {
    /// Bytes of weights that a run reads: every matrix once, but of an embedding a row for each column.
    pub fn weight_bytes(&self, buffers: &Buffers) -> u64 {
        let is_weight = |id: &BufferId| buffers.spec(*id).purpose == Purpose::Weights;
        let of = |dispatch: &Dispatch| dispatch.buffers.iter().copied().filter(is_weight).collect::<Vec<_>>();
        let is_embedding = |dispatch: &&Dispatch| dispatch.kernel.name == kernels::embed::KERNEL.name;
        let mut matrices: Vec<BufferId> = self.dispatches.iter().filter(|d| !is_embedding(d)).flat_map(of).collect();
        matrices.sort_unstable_by_key(|id| id.0);
        matrices.dedup();
        let row_bytes = |dispatch: &Dispatch| {
            let rows: u32 = bytemuck::pod_read_unaligned::<kernels::embed::Params>(&dispatch.params).rows;
            of(dispatch).iter().map(|id| buffers.spec(*id).bytes).sum::<u64>() / u64::from(rows)
        };
        let embedding = self.dispatches.iter().find(is_embedding).map_or(0, row_bytes);
        matrices.iter().map(|id| buffers.spec(*id).bytes).sum::<u64>() + u64::from(self.columns) * embedding
    }
}
