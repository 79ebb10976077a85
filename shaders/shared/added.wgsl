// What the block before adds to the residual stream, in models that norm it first (Gemma 2 and 3): added / rms · gain.
//
// The norm needs whole columns, which the workgroups of `project` that make them do not have. So they leave them beside the
// stream; `measure_added` measures them anew in every workgroup that reads them, which is cheaper than a dispatch of its own,
// and the next `project` puts the sum into the stream. The kernel defines  fn added_input(column: u32, word: u32) -> vec4<f32>,
// four of what the block added. Twin: `Added` in src/kernels/matmul.rs.

override ADDED: u32 = 0u; // 0 or 1

// Gets `inverses` ready; every invocation of the workgroup must call it. `words`: vec4 in a column, `dim`: floats that count.
fn measure_added(words: u32, dim: u32, eps: f32, invocation: u32) {
    if (ADDED == 0u) {
        return;
    }
    let sharer = invocation % SHARERS;
    for (var c = invocation / SHARERS; c < COLUMNS; c += WORKGROUP / SHARERS) {
        let column = min(first_of_tile + c, columns.active_ - 1u);
        var sum = vec4<f32>(0.0);
        for (var word = sharer; word < words; word += SHARERS) {
            let value = added_input(column, word);
            sum += value * value;
        }
        put_part(c, sharer, sum);
    }
    gather_parts(invocation);
    put_inverses(dim, eps, invocation);
}
