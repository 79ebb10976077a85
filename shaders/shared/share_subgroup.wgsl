// share.wgsl by subgroup operations: lanes of one subgroup add up among themselves, pairwise, and only what is left of a
// row pair goes through workgroup memory.
//
// The lanes of a pair are neighbours, and subgroups are rows of neighbours. They may be of any size from SUBGROUP on.

override SUBGROUP: u32;                   // fewest invocations of a subgroup on this adapter
override NEAR: u32 = min(LANES, SUBGROUP); // lanes of a pair that are surely in one subgroup

override PARTS: u32 = COLUMNS * WORKGROUP / NEAR;

var<workgroup> partial: array<vec2<f32>, PARTS>; // [column][invocation / NEAR]: the sums of NEAR lanes

// Hands this lane's sums, one for each column, to `sum_of_lanes`.
fn share(sums: array<vec2<f32>, 8>, invocation: u32) {
    var own = sums;
    for (var c = 0u; c < COLUMNS; c++) {
        var sum = own[c];
        for (var distance = 1u; distance < NEAR; distance *= 2u) {
            sum += subgroupShuffleXor(sum, distance);
        }
        if (invocation % NEAR == 0u) {
            partial[(c * WORKGROUP + invocation) / NEAR] = sum;
        }
    }
    workgroupBarrier();
}

// The sum of item c · PAIRS + p: column c and pair p of the workgroup.
fn sum_of_lanes(item: u32) -> vec2<f32> {
    var sum = vec2<f32>(0.0);
    for (var part = item * (LANES / NEAR); part < (item + 1u) * (LANES / NEAR); part++) {
        sum += partial[part];
    }
    return sum;
}
