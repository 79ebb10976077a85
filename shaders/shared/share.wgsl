// The sum of what the lanes of a row pair have, in the order of the lanes, through workgroup memory: for matvec.wgsl.
// share_subgroup.wgsl stands in the place of this file in the tier `subgroup`.

override PARTS: u32 = select(COLUMNS * WORKGROUP, 1u, LANES == 1u); // one lane has nothing to hand on

var<workgroup> partial: array<vec2<f32>, PARTS>; // [column][invocation]: its lane's share of the sums

// Hands this lane's sums, one for each column, to `sum_of_lanes`.
fn share(sums: array<vec2<f32>, 8>, invocation: u32) {
    var own = sums;
    for (var c = 0u; c < COLUMNS; c++) {
        partial[c * WORKGROUP + invocation] = own[c];
    }
    workgroupBarrier();
}

// The sum of item c · PAIRS + p: column c and pair p of the workgroup.
fn sum_of_lanes(item: u32) -> vec2<f32> {
    var sum = vec2<f32>(0.0);
    for (var lane = 0u; lane < LANES; lane++) {
        sum += partial[item * LANES + lane];
    }
    return sum;
}
