// Where queries, keys and values go, and how they are turned on the way. Twin: src/kernels/heads.rs.
//
// Queries and keys are kept in the order of RoPE's pairs. Each query is written twice, turned by its position in the
// stream for the window and by its in-cache position for the sinks (StreamingLLM §3.2, see src/kernels/rope.rs).
// With MEMORY the second one is as it came, neither turned nor scaled, and keys as they came follow behind all queries.
// The kernel binds `columns`, `rope`, `q`, `k`, `v` and has in its params n_heads, n_kv_heads, head_dim, rotary_dim,
// halves, scale, rope_scale, slots, columns.

override MEMORY: u32 = 0u; // 1: for `memory_read`; there are no sinks then

// The two rows of a head that make pair `i`: what RoPE turns together, neighbours or halves; `is_turned`: not of a value.
fn rows_in_head(i: u32, is_turned: bool) -> vec2<u32> {
    let rotary_half = params.rotary_dim / 2u;
    return select(
        vec2<u32>(2u * i, 2u * i + 1u),
        vec2<u32>(i, i + rotary_half),
        params.halves == 1u && is_turned && i < rotary_half);
}

// Turns pair `pair` (counted over queries, keys and values) of column number `number`, and puts it where it belongs.
fn store(number: u32, pair: u32, y: vec2<f32>) {
    let column = columns.column[number];
    let half = params.head_dim / 2u;
    let q_pairs = params.n_heads * half;
    let kv_pairs = params.n_kv_heads * half;
    let i = pair % half;
    let is_rotated = 2u * i < params.rotary_dim;
    let frequency = rope[i / 4u % 64u][i % 4u];
    if (pair < q_pairs) {
        let at = number * q_pairs + pair;
        let scale = params.scale * select(1.0, params.rope_scale, is_rotated);
        q[at] = scale * select(y, rotate(y, column.position, frequency), is_rotated);
        let for_sinks = scale * select(y, rotate(y, column.cached, frequency), is_rotated);
        q[at + params.columns * q_pairs] = select(for_sinks, y, MEMORY == 1u);
        return;
    }
    let is_key = pair < q_pairs + kv_pairs;
    let kv_pair = pair - q_pairs - select(kv_pairs, 0u, is_key);
    let head = column.lane * params.n_kv_heads + kv_pair / half;
    let at = ((head * params.slots + column.slot) * half + i) * (1u + CACHE_F32);
    if (is_key) {
        if (MEMORY == 1u) {
            q[2u * params.columns * q_pairs + number * kv_pairs + kv_pair] = y;
        }
        // A sink keeps its in-cache position for ever; all others are known by their place in the stream.
        let position = select(column.position, column.cached, column.slot < column.sinks);
        let words = store_pair(select(y, rotate(y, position, frequency), is_rotated));
        k[at] = words.x;
        if (CACHE_F32 == 1u) {
            k[at + 1u] = words.y;
        }
    } else {
        let words = store_pair(y);
        v[at] = words.x;
        if (CACHE_F32 == 1u) {
            v[at + 1u] = words.y;
        }
    }
}
