// nll[c] = log Σ exp(logits[c]) - logits[c][target of c], in nats.
//
// One workgroup a column, two passes: the maximum, then the sum. Grid: (1, columns). Twin: src/kernels/nll.rs.

struct Params {
    vocab_size: u32, // logits of a column
    stride: u32,     // floats from one column of logits to the next
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> logits: array<f32>; // [column][stride], f32
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [column], f32: the NLLs

const WORKGROUP: u32 = 256u; // one workgroup has the whole column: as wide as a default device takes
const LOWEST: f32 = -3e38;

var<workgroup> shares: array<f32, 256>; // [invocation]
var<workgroup> sixteenths: array<f32, 16>; // of 16 neighbours of those

@compute @workgroup_size(256)
fn nll(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    if (workgroup.y >= columns.active_) {
        return;
    }
    let start = workgroup.y * params.stride;

    var high = LOWEST;
    for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
        high = max(high, logits[start + id]);
    }
    shares[invocation] = high;
    workgroupBarrier();
    if (invocation < 16u) {
        for (var i = 0u; i < 16u; i++) {
            high = max(high, shares[16u * invocation + i]);
        }
        sixteenths[invocation] = high;
    }
    workgroupBarrier();
    for (var i = 0u; i < 16u; i++) {
        high = max(high, sixteenths[i]);
    }

    var sum = 0.0;
    for (var id = invocation; id < params.vocab_size; id += WORKGROUP) {
        sum += exp(max(logits[start + id] - high, -1e4));
    }
    shares[invocation] = sum;
    workgroupBarrier();
    if (invocation < 16u) {
        sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += shares[16u * invocation + i];
        }
        sixteenths[invocation] = sum;
    }
    workgroupBarrier();
    if (invocation == 0u) {
        sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += sixteenths[i];
        }
        out[workgroup.y] = log(sum) + high - logits[start + columns.column[workgroup.y].target_];
    }
}
