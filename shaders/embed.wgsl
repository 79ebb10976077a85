// x[c] = scale · embedding[token of c]: the tokens' rows of the embedding, unpacked. A large embedding comes in several
// dispatches, each with some of the rows.
//
// An invocation unpacks one block of 32. Grid: (blocks / 64, columns). Twin: src/kernels/embed.rs.

struct Params {
    blocks: u32,     // blocks of 32 weights in a row
    stride: u32,     // floats from one column of x to the next; a multiple of 4
    rows: u32,       // of the embedding in this dispatch
    first_row: u32,  // the first of them
    scale: f32,      // factor, 1 in most models
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> quants: array<vec4<u32>>; // [rows][blocks][words / 4], see weights.wgsl
@group(0) @binding(3) var<storage, read> scales: array<u32>; // [rows][words], see weights.wgsl
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>; // [column][stride / 4], f32
@group(0) @binding(5) var<storage, read> more_quants: array<vec4<u32>>; // [rows][blocks][words / 4], the rows behind those in quants; read if FIRST_QUANTS
@group(0) @binding(6) var<storage, read> more_scales: array<u32>; // [rows][words], theirs

@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.blocks || id.y >= columns.active_) {
        return;
    }
    let row = columns.column[id.y].token - params.first_row; // wraps for earlier parts
    if (row >= params.rows) {
        return;
    }
    let block = load_block(row, params.blocks, id.x);
    let at = id.y * (params.stride / 4u) + 8u * id.x;
    x[at] = params.scale * block[0];
    x[at + 1u] = params.scale * block[1];
    x[at + 2u] = params.scale * block[2];
    x[at + 3u] = params.scale * block[3];
    x[at + 4u] = params.scale * block[4];
    x[at + 5u] = params.scale * block[5];
    x[at + 6u] = params.scale * block[6];
    x[at + 7u] = params.scale * block[7];
}
