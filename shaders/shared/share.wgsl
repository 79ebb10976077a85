// The sum of what the lanes of a row pair have, in the order of the lanes, through workgroup memory: for matvec.wgsl.
// share_subgroup.wgsl stands in the place of this file in the tier `subgroup`.

// Hands this lane's sum for a column to `sum_of_lanes`.
fn put_share(c: u32, invocation: u32, sum: vec2<f32>) {
    staged[invocation % LANES * (COLUMNS * PAIRS) + c * PAIRS + invocation / LANES] = vec4<f32>(sum, 0.0, 0.0);
}

// The sum of item c · PAIRS + p: column c and pair p of the workgroup.
fn sum_of_lanes(item: u32) -> vec2<f32> {
    var sum = vec2<f32>(0.0);
    for (var lane = 0u; lane < LANES; lane++) {
        sum += staged[lane * (COLUMNS * PAIRS) + item].xy;
    }
    return sum;
}
