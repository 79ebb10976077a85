// The columns of a step: one token of one stream each. Mirrors `Column` and `ColumnsHeader` in src/plan.rs.
// (`active` and `target` are reserved words of WGSL, hence the underscores.)

struct Column {
    token: u32,
    position: u32, // in the stream, mod 2^32
    slot: u32,     // where its key and value go
    cached: u32,   // tokens cached before it: its in-cache position
    sinks: u32,
    capacity: u32, // most tokens that a query sees besides itself
    lane: u32,     // the stream: its part of the cache
    target_: u32,  // id whose NLL is wanted
}

struct Columns {
    active_: u32, // columns in use
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
    column: array<Column, 512>,
}
