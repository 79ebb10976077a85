//! The dispatches of a forward pass, one method a kernel.

use bytemuck::{Pod, bytes_of};

use super::cut::Cut;
use super::parts::{PARTS, rows_of};
use super::{Chosen, Forward, Given, Layer, Linear, Norm, left_at, padded};
use crate::config::Rope;
use crate::family::Positions;
use crate::kernel::{Kernel, Variant};
use crate::kernels::activation::Activation;
use crate::kernels::cache::CacheType;
use crate::kernels::{attention, gate_up, head_norm, linear, matmul, nll, project, qkv, sample};
use crate::plan::{BufferId, Dispatch, Plan};
use crate::quant::{BLOCK, Layout};
use crate::tuning::Tuning;
use crate::weights::Matrix;

/// A norm, a matrix and what follows it: what `linear` computes.
struct Normed<'a> {
    norm: Norm,
    matrices: &'a [Matrix],
    /// How many of them a dispatch takes: with two they are parts of one.
    together: usize,
    bias: Option<BufferId>,
    activation: Activation,
    cap: f32,
    out: BufferId,
    rows: u32,
}

/// What `project` adds to the residual stream, before the product.
#[derive(Clone, Copy)]
pub(super) struct Attended {
    pub(super) buffer: BufferId,
    /// Parts that have yet to be put together.
    pub(super) splits: u32,
}

impl Forward<'_> {
    /// Queries, keys and values; in two steps where heads are normed.
    pub(super) fn qkv(&self, plan: &mut Plan, label: &str, layer: &Layer) {
        let config = self.config;
        if let Some(gains) = layer.head_gains {
            self.linear(
                plan,
                &format!("{label}.attn_qkv"),
                &Normed {
                    norm: layer.attn_norm,
                    matrices: &layer.qkv,
                    together: PARTS,
                    bias: layer.qkv_bias,
                    activation: Activation::None,
                    cap: 0.0,
                    out: self.raw,
                    rows: (config.n_heads + 2 * config.n_kv_heads) * config.head_dim,
                },
            );
            self.head_norm(plan, label, layer, gains);
            return;
        }
        let mut first_pair = 0;
        for parts in layer.qkv.chunks(PARTS) {
            let (matrix, more) = (&parts[0], self.more(parts));
            let params = qkv::Params {
                n_heads: config.n_heads,
                n_kv_heads: config.n_kv_heads,
                head_dim: config.head_dim,
                rotary_dim: config.rope.dim,
                halves: u32::from(config.family.positions == Positions::Halves),
                first_pair,
                pairs: rows_of(parts) / 2,
                other_pair: more.first_rows / 2,
                blocks: matrix.blocks,
                stride: padded(config.dim),
                dim: config.dim,
                eps: config.eps,
                added: layer.attn_norm.added,
                scale: config.query_scale,
                rope_scale: rope_scale(config.rope),
                limit: config.qkv_limit,
                slots: self.slots,
                columns: plan.columns,
            };
            first_pair += params.pairs;
            let buffers = [
                self.given.columns,
                layer.rope,
                self.x,
                layer.attn_norm.gain,
                matrix.quants,
                matrix.scales,
                layer.qkv_bias.unwrap_or(self.none),
                self.q,
                layer.k,
                layer.v,
            ];
            let mut overrides = vec![self.layer_norm(), bias(layer.qkv_bias), self.cache_override()];
            overrides.extend(added(layer.attn_norm).into_iter().chain(memory(layer)).chain(more.overrides));
            self.push_matrix(plan, &qkv::KERNEL, label, &params, &buffers, matrix, &overrides, params.pairs);
        }
    }

    fn head_norm(&self, plan: &mut Plan, label: &str, layer: &Layer, gains: BufferId) {
        let config = self.config;
        let heads = config.n_heads + 2 * config.n_kv_heads;
        let params = head_norm::Params {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            rotary_dim: config.rope.dim,
            halves: u32::from(config.family.positions == Positions::Halves),
            stride: padded(heads * config.head_dim),
            eps: config.eps,
            scale: config.query_scale,
            rope_scale: rope_scale(config.rope),
            slots: self.slots,
            columns: plan.columns,
        };
        let buffers = [self.given.columns, layer.rope, self.raw, gains, self.q, layer.k, layer.v];
        let workgroups = [heads, plan.columns, 1];
        let overrides: Vec<_> = [self.cache_override()].into_iter().chain(memory(layer)).collect();
        push(plan, &head_norm::KERNEL, Variant::Plain, label, &params, &buffers, &overrides, workgroups);
    }

    /// What `project` takes: heads side by side in `attended`, or parts of them in `parts`.
    pub(super) fn attention(&self, plan: &mut Plan, label: &str, layer: &Layer, is_chunk: bool) -> Attended {
        let config = self.config;
        let mut cut = Cut::new(config, self.shape, plan.columns, layer.reach, is_chunk);
        if layer.memory.is_some() {
            cut.splits = 1; // what memory_read mixes with must be whole
        }
        let params = attention::Params {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            heads: cut.heads,
            half: config.head_dim / 2,
            slots: self.slots,
            columns: plan.columns,
            stride: padded(config.n_heads * config.head_dim),
            reach: layer.reach,
            cap: config.score_cap,
        };
        let out = if cut.splits > 1 { self.parts } else { self.attended };
        let Given { columns, slopes, .. } = self.given;
        let buffers = [columns, self.q, layer.k, layer.v, slopes, layer.sink_logits, out];
        let overrides: Vec<_> = [self.cache_override()].into_iter().chain(cut.overrides()).collect();
        let workgroups = cut.workgroups(config, plan.columns);
        push(plan, &attention::KERNEL, cut.variant, label, &params, &buffers, &overrides, workgroups);
        Attended { buffer: out, splits: cut.splits }
    }

    /// Adds a product to the residual stream, or leaves it beside that: block `number` of a layer, in front of which `norm` stood.
    pub(super) fn project(
        &self,
        plan: &mut Plan,
        label: &str,
        input: Attended,
        linear: &Linear,
        (norm, number): (Norm, u32),
    ) {
        let (config, matrix) = (self.config, &linear.matrix);
        let params = project::Params {
            rows: matrix.rows,
            blocks: matrix.blocks,
            in_stride: matrix.blocks * BLOCK as u32,
            out_stride: padded(config.dim),
            n_heads: config.n_heads,
            half: config.head_dim / 2,
            columns: plan.columns,
            left: left_at(config, self.shape, number),
            added: norm.added,
            eps: config.eps,
        };
        let none = linear.bias.unwrap_or(self.none);
        let gain = if norm.added > 0 { norm.gain } else { self.none };
        let buffers = [self.given.columns, input.buffer, matrix.quants, matrix.scales, none, self.x, gain];
        let splits = (input.splits > 1).then_some(("SPLITS", input.splits));
        let overrides: Vec<_> = [bias(linear.bias)].into_iter().chain(added(norm)).chain(splits).collect();
        self.push_matrix(plan, &project::KERNEL, label, &params, &buffers, matrix, &overrides, matrix.rows.div_ceil(2));
    }

    /// The inner layer of the feed-forward.
    pub(super) fn up(&self, plan: &mut Plan, label: &str, layer: &Layer) {
        let (config, up) = (self.config, &layer.up);
        if !config.family.gated {
            self.linear(
                plan,
                &format!("{label}.ffn_up"),
                &Normed {
                    norm: layer.ffn_norm,
                    matrices: &[up.matrix],
                    together: 1,
                    bias: up.bias,
                    activation: config.family.activation,
                    cap: 0.0,
                    out: self.h,
                    rows: config.ffn_dim,
                },
            );
            return;
        }
        let params = gate_up::Params {
            ffn_dim: config.ffn_dim,
            blocks: up.matrix.blocks,
            in_stride: padded(config.dim),
            out_stride: padded(config.ffn_dim),
            dim: config.dim,
            eps: config.eps,
            added: layer.ffn_norm.added,
        };
        let buffers = [self.given.columns, self.x, layer.ffn_norm.gain, up.matrix.quants, up.matrix.scales, self.h];
        let overrides = [self.layer_norm(), ("ACTIVATION", config.family.activation as u32)];
        let overrides: Vec<_> = overrides.into_iter().chain(added(layer.ffn_norm)).collect();
        self.push_matrix(plan, &gate_up::KERNEL, label, &params, &buffers, &up.matrix, &overrides, config.ffn_dim);
    }

    fn linear(&self, plan: &mut Plan, label: &str, normed: &Normed<'_>) {
        let config = self.config;
        let mut first_row = 0;
        for parts in normed.matrices.chunks(normed.together) {
            let (matrix, more) = (&parts[0], self.more(parts));
            let params = linear::Params {
                rows: rows_of(parts),
                other_row: more.first_rows,
                first_row,
                blocks: matrix.blocks,
                in_stride: padded(config.dim),
                out_stride: padded(normed.rows),
                dim: config.dim,
                eps: config.eps,
                added: normed.norm.added,
                cap: normed.cap,
            };
            first_row += params.rows;
            let none = normed.bias.unwrap_or(self.none);
            let [quants, scales] = more.planes;
            let buffers = [
                self.given.columns,
                self.x,
                normed.norm.gain,
                matrix.quants,
                matrix.scales,
                none,
                normed.out,
                quants,
                scales,
            ];
            let overrides = [self.layer_norm(), bias(normed.bias), ("ACTIVATION", normed.activation as u32)];
            let overrides: Vec<_> = overrides.into_iter().chain(added(normed.norm)).chain(more.overrides).collect();
            let pairs = params.rows.div_ceil(2);
            self.push_matrix(plan, &linear::KERNEL, label, &params, &buffers, matrix, &overrides, pairs);
        }
    }

    fn logits(&self, plan: &mut Plan) {
        self.linear(
            plan,
            "output",
            &Normed {
                norm: self.output_norm,
                matrices: &self.output,
                together: PARTS,
                bias: self.output_bias,
                activation: Activation::None,
                cap: self.config.logit_cap,
                out: self.logits,
                rows: self.config.vocab_size,
            },
        );
    }

    pub(crate) fn score(&self, plan: &mut Plan, nll: BufferId) {
        self.logits(plan);
        let params = nll::Params { vocab_size: self.config.vocab_size, stride: padded(self.config.vocab_size) };
        let workgroups = [1, plan.columns, 1];
        let buffers = [self.given.columns, self.logits, nll];
        push(plan, &nll::KERNEL, Variant::Plain, "score", &params, &buffers, &[], workgroups);
    }

    pub(crate) fn sample(&self, plan: &mut Plan, chosen: &Chosen) {
        self.logits(plan);
        let params = sample::Params {
            vocab_size: self.config.vocab_size,
            stride: padded(self.config.vocab_size),
            slots: self.slots,
        };
        let Chosen { settings, recent, ids, logprobs } = *chosen;
        let buffers = [settings, self.given.columns, self.logits, recent, ids, logprobs];
        let overrides = [("WORKGROUP", sample::workgroup(self.shape.tuning))];
        push(plan, &sample::KERNEL, Variant::Plain, "sample", &params, &buffers, &overrides, [1, plan.columns, 1]);
    }

    pub(super) fn cache_override(&self) -> (&'static str, u32) {
        ("CACHE_F32", u32::from(self.shape.cache == CacheType::F32))
    }

    fn layer_norm(&self) -> (&'static str, u32) {
        ("LAYER_NORM", u32::from(self.config.family.layer_norm))
    }

    /// A dispatch over the row pairs of a matrix.
    #[allow(clippy::too_many_arguments, reason = "what makes a dispatch")]
    fn push_matrix<P: Pod>(
        &self,
        plan: &mut Plan,
        kernel: &'static Kernel,
        label: &str,
        params: &P,
        buffers: &[BufferId],
        matrix: &Matrix,
        more: &[(&'static str, u32)],
        pairs: u32,
    ) {
        let splits = more.iter().find(|(name, _)| *name == "SPLITS").map_or(1, |(_, splits)| *splits);
        let is_tiled = self.shape.tuning.lanes > 1 && plan.columns >= matmul::MIN_COLUMNS;
        let mut overrides = vec![("LAYOUT", matrix.layout as u32)];
        let (variant, columns, across) = if is_tiled {
            let tile = matmul::tile(pairs, plan.columns);
            overrides.push(("TILE", tile));
            (Variant::Tiled, matmul::columns_of(tile), matmul::pairs_of(tile))
        } else {
            let columns = plan.columns.min(8);
            let other =
                more.iter().find(|(name, _)| *name == "OTHER_LAYOUT").map(|(_, other)| Layout::from_u32(*other));
            let is_quantised = [Some(matrix.layout), other].into_iter().flatten().all(Layout::is_quantised);
            let Tuning { invocations, .. } = self.shape.tuning;
            let has_integers = invocations > 0 && columns == 1 && is_quantised;
            let cut = if has_integers {
                matmul::Cut::of_integers(invocations, pairs, matrix.blocks)
            } else {
                matmul::Cut::new(self.shape.tuning, pairs, matrix.blocks, columns)
            };
            overrides.extend([("LANES", cut.lanes), ("WORKGROUP", cut.workgroup)]);
            overrides.push(if has_integers { ("STAGE", cut.stage) } else { ("COLUMNS", columns) });
            let variant = match (splits > 1, has_integers) {
                (false, false) => Variant::Plain,
                (true, false) => Variant::Split,
                (false, true) => Variant::Integers,
                (true, true) => Variant::SplitIntegers,
            };
            (variant, columns, cut.workgroup / cut.lanes)
        };
        overrides.extend(more);
        let tiles = pairs.div_ceil(across);
        let across = tiles.min(1 << 15); // beyond a device's 65,535 workgroups the tiles go on in z
        let workgroups = [across, plan.columns.div_ceil(columns), tiles.div_ceil(across)];
        push(plan, kernel, variant, label, params, buffers, &overrides, workgroups);
    }
}

/// Where a memory wants queries and keys un-rotated too.
fn memory(layer: &Layer) -> Option<(&'static str, u32)> {
    layer.memory.map(|_| ("MEMORY", 1))
}

/// Where the block before left something to be normed.
fn added(norm: Norm) -> Option<(&'static str, u32)> {
    (norm.added > 0).then_some(("ADDED", 1))
}

fn bias(bias: Option<BufferId>) -> (&'static str, u32) {
    ("BIAS", u32::from(bias.is_some()))
}

/// The factor that queries take over for the keys: keys in the cache have none.
fn rope_scale(rope: Rope) -> f32 {
    rope.magnitude * rope.magnitude
}

#[allow(clippy::too_many_arguments, reason = "what makes a dispatch")]
pub(super) fn push<P: Pod>(
    plan: &mut Plan,
    kernel: &'static Kernel,
    variant: Variant,
    label: &str,
    params: &P,
    buffers: &[BufferId],
    overrides: &[(&'static str, u32)],
    workgroups: [u32; 3],
) {
    plan.dispatches.push(Dispatch {
        kernel,
        variant,
        label: label.into(),
        params: bytes_of(params).to_vec(),
        buffers: buffers.to_vec(),
        overrides: overrides.to_vec(),
        workgroups,
    });
}
