//! Every tensor type of ggml by number: its name and the size of its blocks, whether we run it or not.
//!
//! [`crate::gguf`] needs the sizes to check a tensor's place in the file, and to list files that we cannot run.

use std::fmt;

use super::TensorType;

/// A tensor's type as the file numbers it (`enum ggml_type`). Any number can be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType(pub u32);

/// Number, name, weights in a block, bytes of a block (ggml.h, ggml-common.h; `GGML_QUANT_SIZES` of gguf-py).
/// Left out is 42, `Q2_0`: 64 weights a block in llama.cpp, 128 in the fork that it came from, under the same number.
const TYPES: [(u32, &str, u64, u64); 40] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (31, "Q4_0_4_4", 32, 18),
    (32, "Q4_0_4_8", 32, 18),
    (33, "Q4_0_8_8", 32, 18),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (36, "IQ4_NL_4_4", 32, 18),
    (37, "IQ4_NL_4_8", 32, 18),
    (38, "IQ4_NL_8_8", 32, 18),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

impl GgmlType {
    fn entry(self) -> Option<&'static (u32, &'static str, u64, u64)> {
        TYPES.iter().find(|(id, ..)| *id == self.0)
    }

    /// Weights in a block and bytes of a block; `None` if we do not know this type.
    pub fn block(self) -> Option<(u64, u64)> {
        self.entry().map(|&(_, _, len, bytes)| (len, bytes))
    }

    /// The type, if it is one that we run.
    pub fn tensor_type(self) -> Option<TensorType> {
        TensorType::from_ggml(self.0)
    }
}

/// Name, weights in a block and bytes of a block of a type that we run.
///
/// # Panics
/// If the table lacks it: a mistake of ours, and tested.
pub(super) fn of_known(kind: TensorType) -> (&'static str, usize, usize) {
    let entry = TYPES.iter().find(|(id, ..)| *id == kind as u32);
    entry.map(|&(_, name, len, bytes)| (name, len as usize, bytes as usize)).expect("every type that we run is listed")
}

/// ggml's name, or the number of a type that has none here.
impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry() {
            Some((_, name, ..)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
