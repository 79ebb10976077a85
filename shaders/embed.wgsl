// x[c] = embedding[token of c]: the tokens' rows of the embedding, unpacked.
//
// An invocation unpacks one block of 32. Grid: (blocks / 64, columns). Twin: src/kernels/embed.rs.

struct Params {
    blocks: u32,     // blocks of 32 weights in a row
    stride: u32,     // floats from one column of x to the next; a multiple of 4
    vocab_size: u32, // rows of the embedding
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> quants: array<vec4<u32>>; // [vocab_size][blocks][words / 4], see weights.wgsl
@group(0) @binding(3) var<storage, read> scales: array<u32>; // [vocab_size][ceil(blocks / 2)], two f16 a word
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>; // [column][stride / 4], f32

@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.blocks || id.y >= columns.active_) {
        return;
    }
    let row = min(columns.column[id.y].token, params.vocab_size - 1u);
    let block = load_block(row, params.blocks, id.x);
    let at = id.y * (params.stride / 4u) + 8u * id.x;
    x[at] = block[0];
    x[at + 1u] = block[1];
    x[at + 2u] = block[2];
    x[at + 3u] = block[3];
    x[at + 4u] = block[4];
    x[at + 5u] = block[5];
    x[at + 6u] = block[6];
    x[at + 7u] = block[7];
}
