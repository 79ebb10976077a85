//! Placeholder until the block formats land.
/// Weights of a block.
pub const BLOCK: usize = 32;
/// Packed layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Layout { /// f32
 F32 = 0, /// f16
 F16 = 1, /// bf16
 Bf16 = 2, /// q8
 Q8 = 3, /// q4
 Q4 = 4 }
impl Layout {
 /// x
 pub fn from_u32(x: u32) -> Self { [Self::F32, Self::F16, Self::Bf16, Self::Q8, Self::Q4][x as usize] }
 /// x
 pub fn words_per_block(self) -> usize { [32, 16, 16, 8, 4][self as usize] }
}
/// f16 to f32 for finite values.
#[inline(always)]
pub fn widen(half: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * 5.192_296_9e33;
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}
/// x
pub fn unpack_row(layout: Layout, quants: &[u32], scales: &[u32], row: usize, blocks: usize, out: &mut [f32]) {
 let _ = (layout, quants, scales, row, blocks, out);
}
