// share.wgsl by subgroup operations: lanes of one subgroup add up among themselves, pairwise, and only what is left of a
// row pair goes through workgroup memory.
//
// The lanes of a pair are neighbours, and subgroups are rows of neighbours. They may be of any size from SUBGROUP on.

override SUBGROUP: u32;                   // fewest invocations of a subgroup on this adapter
override NEAR: u32 = min(LANES, SUBGROUP); // lanes of a pair that are surely in one subgroup

// Hands this lane's sum for a column to `sum_of_lanes`.
fn put_share(c: u32, invocation: u32, sum: vec2<f32>) {
    var of_near = sum;
    for (var distance = 1u; distance < NEAR; distance *= 2u) {
        of_near += subgroupShuffleXor(of_near, distance);
    }
    if (invocation % NEAR == 0u) {
        staged[(c * WORKGROUP + invocation) / NEAR] = vec4<f32>(of_near, 0.0, 0.0);
    }
}

// The sum of item c · PAIRS + p: column c and pair p of the workgroup.
fn sum_of_lanes(item: u32) -> vec2<f32> {
    var sum = vec2<f32>(0.0);
    for (var part = item * (LANES / NEAR); part < (item + 1u) * (LANES / NEAR); part++) {
        sum += staged[part].xy;
    }
    return sum;
}
