//! How the products of a matrix are cut up on GPUs.

use crate::kernel::WORKGROUP;
use crate::tuning::Tuning;

/// Columns of a workgroup of `shaders/shared/matmul.wgsl`.
pub const COLUMNS: u32 = 32;

/// Columns of a workgroup in plans: the fewest that it has in any tier; 16 are those of `shaders/shared/matmul_coop.wgsl`.
pub const fn columns_of(tile: u32) -> u32 {
    if tile == 0 { 16 } else { COLUMNS }
}

/// Workgroups that keep a large GPU busy: larger tiles, which read less, are taken where as many are left.
const ENOUGH: u32 = 128;
/// Columns of a plan from which on tiles are better than several passes of `shaders/shared/matvec.wgsl` over the weights.
pub const MIN_COLUMNS: u32 = 16;
/// Most shares of sums that `shaders/shared/matvec.wgsl` holds: columns · invocations of a workgroup.
pub const MAX_SHARES: u32 = 512;

/// Invocations that keep a large GPU busy: small matrices are shared by more lanes until there are as many.
const BUSY: u32 = 1 << 16;
/// Most lanes that a row pair is shared by on account of that.
const MOST_LANES: u32 = 32;

/// Fewest lanes of `shaders/shared/matvec_integers.wgsl`.
const LEAST_LANES: u32 = 8;

/// How `shaders/shared/matvec.wgsl` or `matvec_integers.wgsl` is cut up for a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Invocations that share a row pair.
    pub lanes: u32,
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// Blocks of inputs that are brought at once as integers; 0 for f32.
    pub stage: u32,
}

impl Cut {
    /// For so many row pairs of so many blocks, and columns of a workgroup, at most 8.
    pub fn new(tuning: Tuning, pairs: u32, blocks: u32, columns: u32) -> Self {
        if tuning.lanes == 1 {
            return Self { lanes: 1, workgroup: WORKGROUP, stage: 0 };
        }
        let columns = columns.next_power_of_two();
        let tile = 64 / columns; // blocks that are staged at once
        let most = tile.min(blocks.next_power_of_two()).max(2);
        let enough = BUSY.div_ceil(pairs).next_power_of_two().min(MOST_LANES);
        let lanes = tuning.lanes.max(enough).min(most);
        // The inputs are staged by every workgroup: better few large ones, while each multiprocessor has some.
        let is_many = |workgroup: &u32| pairs * lanes >= ENOUGH * 2 * workgroup;
        let workgroup = [256, 128].map(|most| most.min(MAX_SHARES / columns)).into_iter().find(is_many);
        Self { lanes, workgroup: workgroup.unwrap_or(WORKGROUP), stage: 0 }
    }

    /// For one column as integers, in workgroups of so many invocations at most, 256 or 1024: one for each multiprocessor of a
    /// large GPU, or three of the small ones, which bring the inputs anew but wait less for each other's loads.
    pub fn of_integers(invocations: u32, pairs: u32, blocks: u32) -> Self {
        let wanted = if invocations > 256 { ENOUGH } else { 3 * ENOUGH };
        let together = pairs.div_ceil(wanted).min(invocations / LEAST_LANES);
        let most = 1 << (invocations / together).ilog2();
        let lanes = most.min(blocks.next_power_of_two()).clamp(LEAST_LANES, 64);
        let workgroup = lanes * together.max(WORKGROUP / lanes);
        // Tiles of one size, as few as workgroup memory and the loads of an invocation allow.
        let tiles = blocks.div_ceil((workgroup / 2).min(if invocations > 256 { 384 } else { 128 }));
        Self { lanes, workgroup, stage: blocks.div_ceil(tiles) }
    }
}

/// The override `TILE` of products of so many row pairs and columns: 2, 1 and 0, for tiles of 128, 64 and 32 rows in
/// `shaders/shared/matmul_coop.wgsl`, of 64, 64 and 32 in `matmul.wgsl`.
pub fn tile(pairs: u32, columns: u32) -> u32 {
    let is_enough = |tile: &u32| pairs.div_ceil(16 << tile) * columns.div_ceil(64) >= ENOUGH;
    [2, 1].into_iter().find(is_enough).unwrap_or(0)
}

/// Row pairs of a workgroup of `shaders/shared/matmul.wgsl`.
pub const fn pairs_of(tile: u32) -> u32 {
    if tile == 0 { 16 } else { 32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_cut_as_their_shader_takes_them() {
        for invocations in [256, 1024] {
            for pairs in [1, 2, 31, 96, 480, 1_024, 2_048, 6_144, 11_008, 64_128, 128_256] {
                for blocks in [1, 2, 9, 18, 48, 64, 128, 129, 256, 344, 1_000] {
                    let cut = Cut::of_integers(invocations, pairs, blocks);
                    let Cut { lanes, workgroup, stage } = cut;
                    assert!(lanes.is_power_of_two() && workgroup.is_multiple_of(lanes), "{cut:?}");
                    assert!((64..=invocations).contains(&workgroup) && (1..=workgroup / 2).contains(&stage), "{cut:?}");
                }
            }
        }
        // As measured best (docs/speed-log.md): the matrices of Llama 2 7B.
        let cut = |pairs, blocks| {
            let Cut { lanes, workgroup, stage } = Cut::of_integers(1024, pairs, blocks);
            (lanes, workgroup, stage)
        };
        assert_eq!([cut(6_144, 128), cut(2_048, 128)], [(16, 768, 128), (64, 1024, 128)]);
        assert_eq!([cut(11_008, 128), cut(2_048, 344)], [(8, 688, 128), (64, 1024, 344)]);
    }
}
