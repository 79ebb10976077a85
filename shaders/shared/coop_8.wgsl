// coop_16.wgsl from cooperative matrices of 8 rows and columns, four of them for one: Apple's and llvmpipe's.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = array<coop_mat8x8<f16, A>, 4>;  // [half of the rows][half of the inputs]
alias Right = array<coop_mat8x8<f16, B>, 4>; // [half of the inputs][half of the columns]
alias Sums = array<coop_mat8x8<f32, C>, 4>;  // [half of the rows][half of the columns]

override HALVES: u32 = 4u * OPERANDS;

var<workgroup> operands: array<f16, HALVES>; // a line each 4 · STRIDE or 4 · COLUMN_STRIDE; Metal loads matrices from scalars only

// Four operands in a row; `at`, here and below: fours.
fn put(at: u32, values: vec4<f16>) {
    operands[4u * at] = values.x;
    operands[4u * at + 1u] = values.y;
    operands[4u * at + 2u] = values.z;
    operands[4u * at + 3u] = values.w;
}

// 16 rows of weights, 16 of their inputs.
fn left(at: u32) -> Left {
    return Left(
        coopLoadT<coop_mat8x8<f16, A>>(&operands[4u * at], 4u * STRIDE),
        coopLoadT<coop_mat8x8<f16, A>>(&operands[4u * at + 8u], 4u * STRIDE),
        coopLoadT<coop_mat8x8<f16, A>>(&operands[4u * at + 32u * STRIDE], 4u * STRIDE),
        coopLoadT<coop_mat8x8<f16, A>>(&operands[4u * at + 32u * STRIDE + 8u], 4u * STRIDE));
}

// As many inputs of 16 columns.
fn right(at: u32) -> Right {
    return Right(
        coopLoad<coop_mat8x8<f16, B>>(&operands[4u * at], 4u * COLUMN_STRIDE),
        coopLoad<coop_mat8x8<f16, B>>(&operands[4u * at + 32u * COLUMN_STRIDE], 4u * COLUMN_STRIDE),
        coopLoad<coop_mat8x8<f16, B>>(&operands[4u * at + 8u], 4u * COLUMN_STRIDE),
        coopLoad<coop_mat8x8<f16, B>>(&operands[4u * at + 32u * COLUMN_STRIDE + 8u], 4u * COLUMN_STRIDE));
}

fn multiply_add(a: Left, b: Right, sums: Sums) -> Sums {
    return Sums(
        coopMultiplyAdd(a[1], b[2], coopMultiplyAdd(a[0], b[0], sums[0])),
        coopMultiplyAdd(a[1], b[3], coopMultiplyAdd(a[0], b[1], sums[1])),
        coopMultiplyAdd(a[3], b[2], coopMultiplyAdd(a[2], b[0], sums[2])),
        coopMultiplyAdd(a[3], b[3], coopMultiplyAdd(a[2], b[1], sums[3])));
}

fn put_sums(sums: Sums, at: u32) {
    coopStore(sums[0], &products[at], 16u);
    coopStore(sums[1], &products[at + 128u], 16u);
    coopStore(sums[2], &products[at + 8u], 16u);
    coopStore(sums[3], &products[at + 128u + 8u], 16u);
}
