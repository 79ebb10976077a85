//! How the attention of a plan is cut up: which of its shaders, and what a workgroup of it has to do.

use crate::config::Config;
use crate::kernel::Variant;
use crate::kernels::{attention, matmul};
use crate::model::Shape;

/// How the attention of a plan is cut up.
pub(super) struct Cut {
    pub(super) variant: Variant,
    /// Query heads of a workgroup.
    pub(super) heads: u32,
    /// 16-byte words of a key.
    words: u32,
    /// Columns of a workgroup.
    columns: u32,
    /// Fours of queries of a workgroup, where columns share what they read.
    fours: u32,
    /// Invocations of a workgroup, where the cache is read in parts.
    invocations: u32,
    /// Parts of the cache.
    pub(super) splits: u32,
}

impl Cut {
    /// By shapes alone, so that a plan can be made before there is a device. `is_chunk`: the columns are neighbours in a stream.
    pub(super) fn new(config: &Config, shape: &Shape, columns: u32, reach: u32, is_chunk: bool) -> Self {
        let (keep, half) = (shape.keep, config.head_dim / 2);
        let group = config.n_heads / config.n_kv_heads;
        let fits = |heads: &u32| group.is_multiple_of(*heads) && heads * half <= attention::MAX_ITEMS;
        let heads = (1..=attention::MAX_HEADS).rev().find(fits).unwrap_or(1);
        let words = half * shape.cache.words_per_pair() as u32; // of 4 bytes
        let plain =
            Self { variant: Variant::Plain, heads, words: words / 4, columns: 1, fours: 0, invocations: 0, splits: 1 };
        if shape.tuning.lanes == 1 || !words.is_multiple_of(4) || words / 4 > attention::INVOCATIONS {
            return plain;
        }
        // As many columns share what they read as leave enough workgroups: a GPU that idles gains nothing from reading less. Two
        // fours of queries at least: what one four saves is eaten up by its rows that are none.
        let fits = |&(fours, together): &(u32, u32)| {
            let workgroups = config.n_heads / heads * columns.div_ceil(together.max(1));
            fours * half / 2 <= attention::INVOCATIONS && together > 1 && workgroups >= shape.tuning.workgroups
        };
        let shared = [8, 4, 2].map(|fours| (fours, 4 * fours / heads)).into_iter().find(fits);
        if let Some((fours, together)) = shared.filter(|_| is_chunk && columns >= matmul::MIN_COLUMNS) {
            return Self { variant: Variant::Tiled, columns: together, fours, ..plain };
        }
        let most = (keep.sinks + keep.window).min(reach) + 1;
        let grid = config.n_heads / heads * columns;
        let wanted = shape.tuning.workgroups.div_ceil(grid);
        let invocations = if wanted > 1 && heads <= attention::WIDE_HEADS { 256 } else { 128 };
        // The fewest whole tiles a part that leave enough workgroups and not too many parts: a last tile of a few tokens takes as
        // long as a full one, and every workgroup of `project` reads all parts.
        let tiles = most.div_ceil(attention::tile(invocations, words / 4, heads));
        let most_parts =
            attention::MAX_SPLITS.min(attention::MAX_JOINED / (config.n_heads * config.head_dim)) / columns;
        let of_part = (tiles / wanted).max(tiles.div_ceil(most_parts.max(1))).max(1);
        let splits = tiles.div_ceil(of_part);
        Self { variant: Variant::Split, invocations, splits, ..plain }
    }

    /// What sizes the shader.
    pub(super) fn overrides(&self) -> Vec<(&'static str, u32)> {
        let shared = [("HEADS", self.heads), ("WORDS", self.words)];
        match self.variant {
            Variant::Plain | Variant::Integers | Variant::SplitIntegers => vec![shared[0]],
            Variant::Split => [&shared[..], &[("SPLITS", self.splits), ("INVOCATIONS", self.invocations)]].concat(),
            Variant::Tiled => [&shared[..], &[("COLUMNS", self.columns), ("FOURS", self.fours)]].concat(),
        }
    }

    /// The grid for a plan of so many columns.
    pub(super) fn workgroups(&self, config: &Config, columns: u32) -> [u32; 3] {
        [config.n_heads / self.heads, columns.div_ceil(self.columns), self.splits]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;
    use crate::engine::{Settings, lay_out};
    use crate::quant::TensorType;
    use crate::random::{self, SHAPES};
    use crate::tuning::Tuning;

    /// Columns that share what they read in chunks of 128, 0 where every column reads for itself; `None` for the plain kernel.
    fn together(name: &str, tuning: Tuning) -> Option<u32> {
        let gguf = pollster::block_on(random::gguf(random::Shape::find(name).unwrap(), TensorType::Q4_0)).unwrap();
        let settings = Settings { chunk: 128, streams: 64, scores: true, ..Settings::default() };
        let (config, _, model) = lay_out(&gguf, &settings, tuning, u64::MAX).unwrap();
        let mut found = None;
        for plan in &model.plans {
            let attention = plan.dispatches.iter().find(|dispatch| dispatch.kernel.name == "attention").unwrap();
            let is_chunk = !plan.name.starts_with("decode") && plan.columns == 128;
            assert!(is_chunk || attention.variant != Variant::Tiled, "{name}, {}", plan.name);
            if attention.variant == Variant::Tiled {
                let [heads, columns, fours] = ["HEADS", "COLUMNS", "FOURS"].map(|name| attention.constant(name));
                assert!(heads * columns <= 4 * fours && fours * config.head_dim / 4 <= 128, "{attention:?}");
                let [of_heads, of_columns, parts] = attention.workgroups;
                assert!(of_heads * of_columns >= tuning.workgroups && parts == 1, "{attention:?}");
                assert_eq!((of_heads * heads, of_columns), (config.n_heads, 128_u32.div_ceil(columns)));
            }
            if is_chunk {
                found = (attention.variant != Variant::Plain).then_some(attention.constant("COLUMNS"));
            }
        }
        found
    }

    #[test]
    fn columns_of_chunks_share_what_they_read_while_enough_workgroups_are_left() {
        for shape in &SHAPES {
            assert_eq!(together(shape.name, Tuning::SOFTWARE), None, "{}", shape.name);
        }
        let of =
            |name: &str| [64, 256, 512].map(|workgroups| together(name, Tuning { workgroups, ..Tuning::GPU }).unwrap());
        assert_eq!(of("llama-2-7b"), [16, 16, 8]);
        assert_eq!(of("llama-3.2-1b"), [8, 4, 2]);
        assert_eq!(of("smollm2-360m"), [10, 2, 0]);
        assert_eq!(of("smollm2-135m"), [5, 0, 0]);
    }
}
