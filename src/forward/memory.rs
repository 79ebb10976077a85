//! The compressive memory in a plan: what each layer has for it, and its two dispatches.

use super::dispatches::push;
use super::{Forward, Layer, Weights, padded};
use crate::config::{Config, Infini};
use crate::error::Result;
use crate::kernel::Variant;
use crate::kernels::{memory, memory_fold, memory_read};
use crate::plan::{BufferId, Plan, Purpose};

/// Gates, memory and the keys that wait for it, of one layer.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    infini: Infini,
    gates: BufferId,
    /// Keys of the open segment, un-rotated, as the cache's lie.
    keys: BufferId,
    state: BufferId,
}

impl Memory {
    /// Places them for so many streams; `cache_bytes`: of the layer's keys, for one.
    pub(super) fn new(
        n: u32,
        config: &Config,
        infini: Infini,
        (cache_bytes, streams): (u64, u32),
        weights: &mut Weights<'_>,
    ) -> Result<Self> {
        let gates = gates(n);
        let copies = u64::from(memory::copies(infini.segment_length));
        let floats = copies * u64::from(config.n_kv_heads) * memory::size(config.head_dim as usize) as u64;
        Ok(Self {
            infini,
            gates: weights.directory.vector(weights.gguf, weights.buffers, gates, config.n_heads)?,
            keys: weights.buffers.add_lanes(format!("blk.{n}.raw_k"), Purpose::Cache, cache_bytes, streams),
            state: weights.buffers.add_lanes(format!("blk.{n}.memory"), Purpose::Memory, 4 * floats, streams),
        })
    }
}

/// The tensor of a layer's gates: one number for each query head.
pub(crate) fn gates(layer: u32) -> String {
    format!("blk.{layer}.attn_infini_gate.weight")
}

impl Forward<'_> {
    /// Blends what the layer remembers into what its attention read, if it has a memory.
    pub(super) fn memory_read(&self, plan: &mut Plan, label: &str, layer: &Layer) {
        let (config, Some(Memory { infini, gates, keys, state })) = (self.config, layer.memory) else { return };
        let params = memory_read::Params {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            half: config.head_dim / 2,
            slots: self.slots,
            columns: plan.columns,
            stride: padded(config.n_heads * config.head_dim),
            segment: infini.segment_length,
            copies: memory::copies(infini.segment_length),
        };
        let buffers = [self.given.columns, self.q, gates, state, keys, self.attended];
        let workgroups = [config.n_heads, plan.columns, 1];
        push(
            plan,
            &memory_read::KERNEL,
            Variant::Plain,
            label,
            &params,
            &buffers,
            &[self.cache_override()],
            workgroups,
        );
    }

    /// Full segments into the memories of all layers; `None` without one. A column for every stream with one: its last token.
    pub(crate) fn fold(&self) -> Option<Plan> {
        let columns = self.shape.streams;
        let mut plan = Plan { name: format!("fold {columns}"), columns, dispatches: vec![] };
        for (n, layer) in self.layers.iter().enumerate() {
            let Memory { infini, keys, state, .. } = layer.memory?;
            let params = memory_fold::Params {
                n_kv_heads: self.config.n_kv_heads,
                half: self.config.head_dim / 2,
                slots: self.slots,
                segment: infini.segment_length,
                copies: memory::copies(infini.segment_length),
                delta: u32::from(infini.is_delta),
            };
            let buffers = [self.given.columns, keys, layer.v, state];
            let workgroups = [params.half.div_ceil(memory_fold::PAIRS), params.n_kv_heads, plan.columns];
            let (label, overrides) = (format!("blk.{n}"), [self.cache_override()]);
            push(&mut plan, &memory_fold::KERNEL, Variant::Plain, &label, &params, &buffers, &overrides, workgroups);
        }
        Some(plan)
    }
}
