// The input of `project` where it is whole: [column][in_stride / 4]. split_input.wgsl stands in the place of this file
// where attention left parts of sums.

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return input[column * (params.in_stride / 4u) + word];
}

fn multiply_input(rows: vec2<u32>, first_pair: u32, first: u32, invocation: u32) {
    multiply(rows, params.blocks, first_pair, first, invocation);
}

// As in norm.wgsl and in kernels that norm: inputs without a norm are taken as they are.
struct Raw {
    value: vec4<f32>,
}

fn raw_input(column: u32, word: u32) -> Raw {
    return Raw(load_input(column, word));
}

fn finish_input(raw: Raw, column: u32, word: u32) -> vec4<f32> {
    return raw.value;
}

fn input_power(column: u32) -> f32 {
    return 1.0;
}

fn put_squares(c: u32, sharer: u32, is_first: bool) {}

fn add_squares(invocation: u32) {}
