// The input of `project` where attention left it in SPLITS parts (attention_split.wgsl): each workgroup puts them together
// anew, which is cheaper than a dispatch of its own.
//
// A part is m, the largest of its scores, l, the sum of exp(score - m), and the sum of exp(score - m) · value. Together:
// M = max m, input = Σ exp(m - M) sum / Σ exp(m - M) l (Flash-Decoding, Dao et al. 2023). Whoever puts a word together makes
// the factors for itself: all that it reads is under way at once, and nothing waits for others.
// `input` holds [column][SPLITS][in_stride / 4] sums, then [column][n_heads][SPLITS, rounded up to fours] pairs m, l, two of
// them in a vec4.

override SPLITS: u32; // 2 to 16

override ROUNDED: u32 = (SPLITS + 3u) / 4u * 4u;

const LOWEST: f32 = -3e38; // below every score

// Parts put together.
struct Joined {
    most: f32, // M
    l: f32,
    sum: vec4<f32>,
}

// Four more parts, from `part` on; `sums` and `pairs`: where the column's sums of the word and its head's pairs begin.
fn add_parts(before: Joined, sums: u32, pairs: u32, part: u32) -> Joined {
    let stride = params.in_stride / 4u;
    let last = SPLITS - 1u;
    let a = input[sums + part * stride];
    let b = input[sums + min(part + 1u, last) * stride];
    let c = input[sums + min(part + 2u, last) * stride];
    let d = input[sums + min(part + 3u, last) * stride];
    let ab = input[pairs + part / 2u];
    let cd = input[pairs + part / 2u + 1u];
    let is_part = vec4<u32>(part, part + 1u, part + 2u, part + 3u) < vec4<u32>(SPLITS);
    let m = select(vec4<f32>(LOWEST), vec4<f32>(ab.xz, cd.xz), is_part);
    let l = select(vec4<f32>(0.0), vec4<f32>(ab.yw, cd.yw), is_part);
    let most = max(max(before.most, max(m.x, m.y)), max(m.z, m.w));
    let own = exp(max(m - most, vec4<f32>(-87.0)));
    let factor = exp(max(before.most - most, -87.0));
    let sum = (own.x * a + own.y * b) + (own.z * c + own.w * d);
    return Joined(most, factor * before.l + dot(own, l), factor * before.sum + sum);
}

// Four inputs of a column, put together.
fn load_input(column: u32, word: u32) -> vec4<f32> {
    let words = params.n_heads * (params.half / 2u);
    let stride = params.in_stride / 4u;
    let inside = min(word, words - 1u);
    let sums = column * SPLITS * stride + inside;
    let head = inside / (params.half / 2u);
    let pairs = params.columns * SPLITS * stride + (column * params.n_heads + head) * (ROUNDED / 2u);
    var joined = add_parts(Joined(LOWEST, 0.0, vec4<f32>(0.0)), sums, pairs, 0u);
    if (SPLITS > 4u) { joined = add_parts(joined, sums, pairs, 4u); }
    if (SPLITS > 8u) { joined = add_parts(joined, sums, pairs, 8u); }
    if (SPLITS > 12u) { joined = add_parts(joined, sums, pairs, 12u); }
    return select(joined.sum * (1.0 / joined.l), vec4<f32>(0.0), word >= words); // behind the last head
}
