// Where packed weights are. Of a matrix larger than one binding the rows behind the first part are in a second one; a second
// matrix of another layout is in the same one, behind the first.
//
// The kernel binds quants, scales, more_quants, more_scales; weights.wgsl reads them through these. Twin: src/forward/parts.rs.

override FIRST_QUANTS: u32 = 0u; // words of quants that hold the first rows, if there are others; else 0
override FIRST_SCALES: u32 = 0u; // the same of scales

fn quant_words(at: u32) -> vec4<u32> {
    if (OTHER_LAYOUT != LAYOUT && is_other) {
        return quants[at + FIRST_QUANTS];
    }
    if (FIRST_QUANTS == 0u || at < FIRST_QUANTS) {
        return quants[at];
    }
    return more_quants[at - FIRST_QUANTS];
}

fn scale_word(at: u32) -> u32 {
    if (OTHER_LAYOUT != LAYOUT && is_other) {
        return scales[at + FIRST_SCALES];
    }
    if (FIRST_QUANTS == 0u || at < FIRST_SCALES) {
        return scales[at];
    }
    return more_scales[at - FIRST_SCALES];
}
