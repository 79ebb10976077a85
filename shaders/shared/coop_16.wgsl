// Cooperative matrices of 16 rows and columns, f16 times f16 into f32, that a subgroup multiplies together: NVIDIA's and
// AMD's. For matmul_coop.wgsl; coop_8.wgsl stands in the place of this file where an adapter has smaller ones only.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

var<workgroup> operands: array<vec4<f16>, OPERANDS>; // a line each STRIDE or COLUMN_STRIDE

// Four operands in a row; `at`, here and below: fours.
fn put(at: u32, values: vec4<f16>) {
    operands[at] = values;
}

// 16 rows of weights, 16 of their inputs.
fn left(at: u32) -> Left {
    return coopLoadT<Left>(&operands[at], STRIDE);
}

// As many inputs of 16 columns.
fn right(at: u32) -> Right {
    return coopLoad<Right>(&operands[at], COLUMN_STRIDE);
}

fn multiply_add(a: Left, b: Right, sums: Sums) -> Sums {
    return coopMultiplyAdd(a, b, sums);
}

fn put_sums(sums: Sums, at: u32) {
    coopStore(sums, &products[at], 16u);
}
