// The compressive memory of Infini-attention (Munkhdalai et al., arXiv 2404.07143, §3.1): how it lies, which copy of it a
// column reads, and what queries and keys go through. Twin: src/kernels/memory.rs.
//
// [lane][copy][kv_head]: M [head_dim][head_dim], rows by key, then the normaliser z [head_dim], all f32 and kept in pairs.
// Folding a segment writes another copy than it reads, so that tokens can be taken back across a border.
// The kernel has in its params n_kv_heads, half, segment, copies.

// The copy that a column reads, from 1 on; 0: nothing is remembered yet. Columns bring it in their capacity.
fn copy_of(column: Column) -> u32 {
    return column.capacity / params.segment;
}

// The first pair of a copy of one key head. Copy 0 stands nowhere: the first one is named in its place, and not read.
fn memory_of(lane: u32, copy: u32, kv_head: u32) -> u32 {
    let number = (lane * params.copies + max(copy, 1u) - 1u) * params.n_kv_heads + kv_head;
    return number * (2u * params.half + 1u) * params.half;
}

// ELU + 1 (Katharopoulos et al., arXiv 2006.16236): above 0 everywhere.
fn sigma(x: f32) -> f32 {
    return select(exponential(x), x + 1.0, x > 0.0);
}

// What is read: a mean of values by their weights, whose sum comes third; zero while there is nothing.
fn mean_of(total: vec3<f32>) -> vec2<f32> {
    return total.xy * (1.0 / max(total.z, 1e-6));
}
