// coop_16.wgsl from cooperative matrices of 8 rows and columns, four of them for one: Apple's and llvmpipe's.

enable f16;
enable wgpu_cooperative_matrix;

alias Left = array<coop_mat8x8<f16, A>, 4>;  // [half of the rows][half of the inputs]
alias Right = array<coop_mat8x8<f16, B>, 4>; // [half of the inputs][half of the columns]
alias Sums = array<coop_mat8x8<f32, C>, 4>;  // [half of the rows][half of the columns]

// 16 rows of weights, 16 of their inputs.
fn left(at: u32) -> Left {
    return Left(
        coopLoadT<coop_mat8x8<f16, A>>(&operands[at], STRIDE),
        coopLoadT<coop_mat8x8<f16, A>>(&operands[at + 8u], STRIDE),
        coopLoadT<coop_mat8x8<f16, A>>(&operands[at + 8u * STRIDE], STRIDE),
        coopLoadT<coop_mat8x8<f16, A>>(&operands[at + 8u * STRIDE + 8u], STRIDE));
}

// As many inputs of 16 columns.
fn right(at: u32) -> Right {
    return Right(
        coopLoad<coop_mat8x8<f16, B>>(&operands[at], STRIDE),
        coopLoad<coop_mat8x8<f16, B>>(&operands[at + 8u * STRIDE], STRIDE),
        coopLoad<coop_mat8x8<f16, B>>(&operands[at + 8u], STRIDE),
        coopLoad<coop_mat8x8<f16, B>>(&operands[at + 8u * STRIDE + 8u], STRIDE));
}

fn multiply_add(a: Left, b: Right, sums: Sums) -> Sums {
    return Sums(
        coopMultiplyAdd(a[1], b[2], coopMultiplyAdd(a[0], b[0], sums[0])),
        coopMultiplyAdd(a[1], b[3], coopMultiplyAdd(a[0], b[1], sums[1])),
        coopMultiplyAdd(a[3], b[2], coopMultiplyAdd(a[2], b[0], sums[2])),
        coopMultiplyAdd(a[3], b[3], coopMultiplyAdd(a[2], b[1], sums[3])));
}

fn put_sums(sums: Sums, at: u32) {
    coopStore(sums[0], &products[at], ROWS);
    coopStore(sums[1], &products[at + 8u * ROWS], ROWS);
    coopStore(sums[2], &products[at + 8u], ROWS);
    coopStore(sums[3], &products[at + 8u * ROWS + 8u], ROWS);
}
