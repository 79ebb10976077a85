// Where packed weights are, for matrices larger than one binding: the rows behind the first part are in a second one.
//
// The kernel binds quants, scales, more_quants, more_scales; weights.wgsl reads them through these. Twin: src/forward/parts.rs.

override FIRST_QUANTS: u32 = 0u; // words of quants that hold the first rows, if others are in more_quants; else 0
override FIRST_SCALES: u32 = 0u; // the same of scales

fn quant_words(at: u32) -> vec4<u32> {
    if (FIRST_QUANTS == 0u || at < FIRST_QUANTS) {
        return quants[at];
    }
    return more_quants[at - FIRST_QUANTS];
}

fn scale_word(at: u32) -> u32 {
    if (FIRST_QUANTS == 0u || at < FIRST_SCALES) {
        return scales[at];
    }
    return more_scales[at - FIRST_SCALES];
}
