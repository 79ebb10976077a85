// The sum of one value of every invocation of a workgroup of 64, the same for all, in a fixed order.
// Twin: `sum_of_workgroup` in src/kernels/head_norm.rs.

const WORKGROUP: u32 = 64u;

var<workgroup> parts: array<f32, 64>;  // [invocation]
var<workgroup> eighths: array<f32, 8>; // sums of eight of those

fn sum_of_workgroup(value: f32, invocation: u32) -> f32 {
    parts[invocation] = value;
    workgroupBarrier();
    if (invocation < 8u) {
        var eighth = 0.0;
        for (var i = 0u; i < 8u; i++) {
            eighth += parts[8u * invocation + i];
        }
        eighths[invocation] = eighth;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
        sum += eighths[i];
    }
    return sum;
}
