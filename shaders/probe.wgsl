// output = output ^ fold(input): reads a buffer once and keeps what it read, folded by exclusive or. No part of any model:
// it measures what memory gives and what a dispatch costs, so each one must wait for the one before (output is read too).
// With COPIES it writes what it reads instead.
//
// Neighbours read neighbouring vectors. Grid: (invocations / 64). Twin: src/kernels/probe.rs.

struct Params {
    vectors: u32,  // of 16 bytes for each invocation
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>; // [vectors][invocation], any words
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>; // words [invocation]; with COPIES [vectors][invocation]

override COPIES: u32 = 0u; // 0 or 1

@compute @workgroup_size(64)
fn probe(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let count = 64u * workgroups.x;
    if (COPIES == 1u) {
        for (var i = 0u; i < params.vectors; i += 1u) {
            output[i * count + id.x] = input[i * count + id.x];
        }
        return;
    }
    var folded = vec4<u32>(output[id.x / 4u][id.x % 4u], 0u, 0u, 0u);
    for (var i = 0u; i < params.vectors; i += 1u) {
        folded ^= input[i * count + id.x];
    }
    output[id.x / 4u][id.x % 4u] = folded.x ^ folded.y ^ folded.z ^ folded.w;
}
