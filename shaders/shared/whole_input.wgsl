// The input of `project` where it is whole: [column][in_stride / 4]. split_input.wgsl stands in the place of this file
// where attention left parts of sums.

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return input[column * (params.in_stride / 4u) + word];
}
