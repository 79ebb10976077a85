// Means over whole columns, which the invocations of a workgroup share: SHARERS of them have a column, each a part of its sum.
//
// The kernel or norm.wgsl says  override MEASURES: u32, whether there are any. Twin: `mean_of` in src/kernels/matmul.rs.

// No longer than they need be, here and in all that decodes: browsers fill workgroup memory with zeros in every workgroup.
// At least 16 bytes, like all workgroup memory beside matmul_coop.wgsl's: cooperative matrices are loaded from multiples of 16
// bytes, and where a driver puts an array depends on the others.
override SHARES: u32 = select(4u, COLUMNS * SHARERS, MEASURES == 1u);
override EIGHTHS: u32 = select(4u, 8u * COLUMNS, MEASURES == 1u && SHARERS >= 64u);
override MEASURED: u32 = select(4u, COLUMNS, MEASURES == 1u);

var<workgroup> parts: array<f32, SHARES>;      // [column][SHARERS]: sum of a share of a column
var<workgroup> eighths: array<f32, EIGHTHS>;   // [column][8]: sums of eight of those, if there are so many
var<workgroup> inverses: array<f32, MEASURED>; // [column]: 1 / sqrt(mean + eps) of what is divided by it before the product
var<private> first_of_tile: u32;               // first column of the workgroup

// This invocation's part of column `c` of the workgroup.
fn put_part(c: u32, sharer: u32, sum: vec4<f32>) {
    parts[c * SHARERS + sharer] = (sum.x + sum.z) + (sum.y + sum.w);
}

// Between the parts and their means; every invocation of the workgroup must call it.
fn gather_parts(invocation: u32) {
    workgroupBarrier();
    if (SHARERS >= 64u) {
        add_eighths(invocation);
        workgroupBarrier();
    }
}

fn add_eighths(invocation: u32) {
    if (invocation < 8u * COLUMNS) {
        var sum = 0.0;
        for (var i = 0u; i < SHARERS / 8u; i++) {
            sum += parts[SHARERS / 8u * invocation + i];
        }
        eighths[invocation] = sum;
    }
}

// The mean of column `c` of the workgroup.
fn mean_of(c: u32, dim: u32) -> f32 {
    var sum = 0.0;
    if (SHARERS >= 64u) {
        for (var i = 0u; i < 8u; i++) {
            sum += eighths[8u * c + i];
        }
    } else {
        for (var i = 0u; i < SHARERS; i++) {
            sum += parts[SHARERS * c + i];
        }
    }
    return sum * (1.0 / f32(dim)); // adapters divide by multiplying with the reciprocal
}

// 1 / sqrt(mean + eps) of every column into `inverses`; every invocation of the workgroup must call it.
fn put_inverses(dim: u32, eps: f32, invocation: u32) {
    for (var c = invocation; c < COLUMNS; c += WORKGROUP) {
        inverses[c] = 1.0 / sqrt(mean_of(c, dim) + eps);
    }
    workgroupBarrier();
}
