// The input of `project` where attention left it in SPLITS parts (attention_split.wgsl): each workgroup puts them together
// anew, which is cheaper than a dispatch of its own.
//
// A part is m, the largest of its scores, l, the sum of exp(score - m), and the sum of exp(score - m) · value. Together:
// M = max m, weight = exp(m - M) / Σ exp(m - M) l, input = Σ weight · sum (Flash-Decoding, Dao et al. 2023).
// `input` holds [column][SPLITS][in_stride / 4] sums, then [column][SPLITS][n_heads] pairs m, l, two of them in a vec4.

override SPLITS: u32; // 2 to 16; COLUMNS · n_heads · SPLITS is at most 1024

override WORDS: u32 = 64u / COLUMNS * 8u; // vec4 of a column at once: whole blocks

var<workgroup> weights: array<f32, 1024>;       // [column][head][part]
var<workgroup> whole: array<vec4<f32>, 512>;    // [column][WORDS]: the input from `whole_from` on
var<private> whole_from: u32;                   // vec4 of the input
var<private> whole_first: u32;                  // column

fn load_input(column: u32, word: u32) -> vec4<f32> {
    return whole[(column - whole_first) * WORDS + word - whole_from];
}

// m and l of head `head` in part `part`.
fn part_of(column: u32, part: u32, head: u32) -> vec2<f32> {
    let at = (column * SPLITS + part) * params.n_heads + head;
    let two = input[params.columns * SPLITS * (params.in_stride / 4u) + at / 2u];
    return select(two.xy, two.zw, at % 2u == 1u);
}

// The weights of all parts, for the columns of the workgroup.
fn weigh(invocation: u32) {
    for (var item = invocation; item < COLUMNS * params.n_heads; item += WORKGROUP) {
        let column = min(whole_first + item / params.n_heads, columns.active_ - 1u);
        let head = item % params.n_heads;
        var most = part_of(column, 0u, head).x;
        for (var part = 1u; part < SPLITS; part++) {
            most = max(most, part_of(column, part, head).x);
        }
        var sum = 0.0;
        for (var part = 0u; part < SPLITS; part++) {
            let own = part_of(column, part, head);
            let weight = exponential(own.x - most);
            weights[item * SPLITS + part] = weight;
            sum += weight * own.y;
        }
        for (var part = 0u; part < SPLITS; part++) {
            weights[item * SPLITS + part] *= 1.0 / sum;
        }
    }
}

// Puts WORDS vec4 of each column together.
fn join(invocation: u32) {
    for (var item = invocation; item < COLUMNS * WORDS; item += WORKGROUP) {
        let c = item / WORDS;
        let word = whole_from + item % WORDS;
        let head = word / (params.half / 2u);
        var sum = vec4<f32>(0.0); // behind the last head
        if (head < params.n_heads) {
            let column = min(whole_first + c, columns.active_ - 1u);
            for (var part = 0u; part < SPLITS; part++) {
                sum += weights[(c * params.n_heads + head) * SPLITS + part]
                    * input[(column * SPLITS + part) * (params.in_stride / 4u) + word];
            }
        }
        whole[item] = sum;
    }
}

fn multiply_input(rows: vec2<u32>, first: u32, invocation: u32) {
    whole_first = first;
    weigh(invocation);
    var sums = array<vec2<f32>, 8>();
    for (var block = 0u; block < params.blocks; block += WORDS / 8u) {
        workgroupBarrier(); // the weights are there, and the words before are used up
        whole_from = 8u * block;
        join(invocation);
        workgroupBarrier();
        let range = vec2<u32>(block, min(block + WORDS / 8u, params.blocks));
        sums = add_blocks(sums, rows, params.blocks, range, first, invocation);
    }
    share(sums, invocation);
}
