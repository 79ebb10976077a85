// The input of `project` where it is whole: [column][in_stride / 4]. split_input.wgsl stands in the place of this file
// where attention left parts of sums.

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return input[column * (params.in_stride / 4u) + word];
}

fn multiply_input(rows: vec2<u32>, first: u32, invocation: u32) {
    multiply(rows, params.blocks, first, invocation);
}

// As in norm.wgsl: inputs without a norm are taken as they are.
fn input_scale(c: u32) -> f32 {
    return 1.0;
}
