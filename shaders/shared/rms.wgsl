// 1 / rms of the columns of a workgroup, rms² = mean(x²) + eps, through workgroup memory with two barriers.
//
// Every workgroup computes it anew from x, which stays in the caches: cheaper than a dispatch of its own.
// The factor multiplies the finished products: (W · (x · gain)) / rms. The kernel binds x: array<vec4<f32>>,
// [column][stride / 4]; padding behind `dim` is zero. Twin: `inverse_rms` in src/kernels/matmul.rs.

var<workgroup> squares: array<f32, 512>; // [column][invocation]: sum of its share of x²
var<workgroup> eighths: array<f32, 64>;  // [column][8]: sums of eight of those

// `first`: first column of the workgroup; `stride`, `words`: vec4 from one column to the next, and in one.
fn sum_squares(first: u32, stride: u32, words: u32, invocation: u32) {
    for (var c = 0u; c < COLUMNS; c++) {
        let column = min(first + c, columns.active_ - 1u);
        var sum = vec4<f32>(0.0); // by component: a sum of four squares at once may be reordered by a compiler
        for (var word = invocation; word < words; word += WORKGROUP) {
            let value = x[column * stride + word];
            sum += value * value;
        }
        squares[c * WORKGROUP + invocation] = (sum.x + sum.z) + (sum.y + sum.w);
    }
    workgroupBarrier();
    if (invocation < 8u * COLUMNS) {
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) {
            sum += squares[8u * invocation + i];
        }
        eighths[invocation] = sum;
    }
    workgroupBarrier();
}

// 1 / rms of column `c` of the workgroup, after `sum_squares`.
fn inverse_rms(c: u32, dim: u32, eps: f32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
        sum += eighths[8u * c + i];
    }
    return 1.0 / sqrt(sum * (1.0 / f32(dim)) + eps); // adapters divide by multiplying with the reciprocal
}
