//! The embedding, and how a matrix that is larger than one binding comes in parts.

use super::dispatches::push;
use super::{Forward, padded};
use crate::kernel::{Variant, WORKGROUP};
use crate::kernels::embed;
use crate::plan::{BufferId, Plan};
use crate::weights::Matrix;

/// Parts of a large matrix that a dispatch binds: as many as the eight buffers of a default device leave room for.
pub(super) const PARTS: usize = 2;

/// A second part of a matrix as `embed` and `linear` take it, or a second matrix as `qkv` and `linear` take it.
pub(super) struct More {
    /// Quants and scales of the second part.
    pub(super) planes: [BufferId; 2],
    /// Rows of the layout `LAYOUT`; behind them are those of `OTHER_LAYOUT`.
    pub(super) first_rows: u32,
    pub(super) overrides: Vec<(&'static str, u32)>,
}

impl Forward<'_> {
    pub(super) fn embed(&self, plan: &mut Plan) {
        let dim = self.config.dim;
        let mut first_row = 0;
        for parts in self.embedding.chunks(PARTS) {
            let (matrix, more) = (&parts[0], self.more(parts));
            let params = embed::Params {
                blocks: matrix.blocks,
                stride: padded(dim),
                rows: rows_of(parts),
                first_row,
                scale: if self.config.family.scaled_embedding { (dim as f32).sqrt() } else { 1.0 },
            };
            first_row += params.rows;
            let [quants, scales] = more.planes;
            let buffers = [self.given.columns, matrix.quants, matrix.scales, self.x, quants, scales];
            let workgroups = [matrix.blocks.div_ceil(WORKGROUP), plan.columns, 1];
            let overrides: Vec<_> = [("LAYOUT", matrix.layout as u32)].into_iter().chain(more.overrides).collect();
            push(plan, &embed::KERNEL, Variant::Plain, "token_embd", &params, &buffers, &overrides, workgroups);
        }
    }

    /// What binds a second part of a large matrix behind the first, or a second matrix of another layout, if there is one.
    pub(super) fn more(&self, parts: &[Matrix]) -> More {
        let [first, second] = parts else {
            return More { planes: [self.none; 2], overrides: vec![], first_rows: rows_of(parts) };
        };
        let [words, scale_words] = first.words().map(|words| words as u32);
        let mut overrides = vec![("FIRST_QUANTS", words / 4), ("FIRST_SCALES", scale_words)];
        if second.layout == first.layout {
            return More { planes: [second.quants, second.scales], overrides, first_rows: rows_of(parts) };
        }
        overrides.push(("OTHER_LAYOUT", second.layout as u32));
        More { planes: [self.none; 2], overrides, first_rows: first.rows }
    }
}

pub(super) fn rows_of(parts: &[Matrix]) -> u32 {
    parts.iter().map(|part| part.rows).sum()
}
