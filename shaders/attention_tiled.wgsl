// attention.wgsl for chunks on GPUs: out = softmax(q · K) · V of neighbouring columns of a stream and a group of heads,
// which share one read of keys and values (FlashAttention-2, Dao 2023, arXiv 2307.08691).
//
// A workgroup has up to 32 rows of queries: row r is head r % HEADS of its column r / HEADS. Four rows go together: a vec4
// has a number of each. In a tile an invocation scores two tokens for four rows; then it sums four floats of every
// value, or of every TEAMS-th four of values, for four rows. A stage of keys is brought for all rows at once.
// No tile holds both sinks and others: the sinks' queries are brought once for all sinks, the window's once for all others.
// Columns that do not follow each other in a stream are right too: they attend one run after the other.
// Grid: (n_heads / HEADS, columns / COLUMNS). Twin: src/kernels/attention.rs.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    heads: u32,   // HEADS
    half: u32,    // pairs of a head
    slots: u32,   // of one head of one lane of the cache
    columns: u32, // of the plan: the sinks' queries follow so many columns after the window's
    stride: u32,  // floats from one column of out to the next; a multiple of 4
    reach: u32,   // most tokens that a query sees besides itself, whatever is cached
    cap: f32,     // scores go through cap · tanh(score / cap); 0 for no cap
}

override HEADS: u32;   // of a column, all of one key head; 1 to 8
override COLUMNS: u32; // of a workgroup; HEADS · COLUMNS rows are at most 4 · FOURS
override FOURS: u32;   // fours of rows: 2, 4 or 8, and FOURS · LOADS is at most 128
override WORDS: u32;   // 16 bytes of a key: (1 + CACHE_F32) · half / 4

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<uniform> columns: Columns; // [512] columns
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>; // [2][column][n_heads][LOADS] two pairs of f32, scaled
@group(0) @binding(3) var<storage, read> k: array<vec2<u32>>; // [lane][kv_head][slot][2 · WORDS] pairs, see cache.wgsl
@group(0) @binding(4) var<storage, read> v: array<vec2<u32>>; // [lane][kv_head][slot][2 · WORDS] pairs, see cache.wgsl
@group(0) @binding(5) var<storage, read> slopes: array<f32>; // [n_heads]: what a score loses per token of distance (ALiBi)
@group(0) @binding(6) var<storage, read> sink_logits: array<f32>; // [n_heads]: score of no key; -3e38 for none
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>; // [column][stride / 4], [n_heads][LOADS] two pairs of f32

const LOWEST: f32 = -3e38; // below every score; finite, because WGSL does not promise infinities
override LOADS: u32 = (2u - CACHE_F32) * WORDS; // vec4<f32> of a head
override PLACES: u32 = 128u / FOURS;            // invocations that score for the same rows
override TILE: u32 = 2u * PLACES;               // tokens at once: those of place p are p and PLACES + p
override ITEMS: u32 = FOURS * LOADS;            // sums of a vec4 for four rows: one for each invocation of a team
override TEAMS: u32 = max(128u / ITEMS, 1u);    // of invocations that sum different values

// What a row sees of the tokens that are brought for all rows.
struct Row {
    behind: u32, // its own distance behind the run's last column
    seen: u32,   // tokens, the nearest ones; 0 for rows that are none
    slope: f32,
}

var<workgroup> queries: array<mat4x4<f32>, 128>; // [load][four]: column c has float c of four rows; at last sums of teams
var<workgroup> tile: array<vec4<f32>, 264>;      // keys [load of the stage][TILE + 1], then scores or weights [token][four]
var<workgroup> places: array<u32, 128>;          // where the tile's tokens begin in k and v
var<workgroup> parts: array<vec4<f32>, 64>;      // [four][8]: largest score or sum of weights of an eighth of the places
var<workgroup> maximum: array<vec4<f32>, 8>;     // [four]: largest scores so far
var<workgroup> correction: array<vec4<f32>, 8>;  // [four]: what sums over earlier tiles must be multiplied with
var<workgroup> rows: array<Row, 32>;

fn load_four(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_pair(words.x, words.y), select(load_pair(words.y, 0u), load_pair(words.z, words.w), CACHE_F32 == 1u));
}

// Some vec4 of the key that begins at `place`, as it lies there: asked for long before it is unpacked.
fn key_words(place: u32, load: u32) -> vec4<u32> {
    let at = place + load * (1u + CACHE_F32);
    return vec4<u32>(k[at], k[at + CACHE_F32]);
}

// The same of the values of four tokens of the tile.
fn value_words(token: u32, load: u32) -> array<vec4<u32>, 4> {
    let at = vec4<u32>(places[token], places[token + 1u], places[token + 2u], places[token + 3u]) + load * (1u + CACHE_F32);
    return array<vec4<u32>, 4>(
        vec4<u32>(v[at.x], v[at.x + CACHE_F32]), vec4<u32>(v[at.y], v[at.y + CACHE_F32]),
        vec4<u32>(v[at.z], v[at.z + CACHE_F32]), vec4<u32>(v[at.w], v[at.w + CACHE_F32]));
}

// The weights of four rows for four tokens, from tile[at] on, times the values: column c has float c for the four rows.
fn weighted(words: array<vec4<u32>, 4>, at: u32) -> mat4x4<f32> {
    let of_tokens = mat4x4<f32>(load_four(words[0]), load_four(words[1]), load_four(words[2]), load_four(words[3]));
    let of_rows = mat4x4<f32>(tile[at], tile[at + FOURS], tile[at + 2u * FOURS], tile[at + 3u * FOURS]);
    return of_rows * transpose(of_tokens);
}

// Tokens that a column sees: all of them, and those that are no sinks.
fn seen(column: Column) -> u32 {
    return min(column.cached, params.reach) + 1u;
}

fn recent(column: Column) -> u32 {
    return min(seen(column), max(column.cached + 1u, column.sinks) - column.sinks);
}

// Whether column `b` is the next of the same stream, and the view moves by one token at most.
fn follows(a: Column, b: Column) -> bool {
    let next = select(a.slot + 1u, a.sinks, a.slot + 1u == params.slots);
    let is_next = a.lane == b.lane && a.sinks == b.sinks && b.slot == next;
    return is_next && (b.cached == a.cached || b.cached == a.cached + 1u);
}

// The n-th token of a phase: how far it is behind the run's last column, and its slot. Sinks come oldest first, others latest first.
fn token(n: u32, is_sink: bool, oldest: u32, last: Column) -> vec2<u32> {
    let wrapped = select(0u, params.slots - last.sinks, last.slot < last.sinks + n);
    return select(vec2<u32>(n, last.slot + wrapped - n), vec2<u32>(last.cached - oldest - n, oldest + n), is_sink);
}

// Some vec4 of a row's query; rows of no column repeat the last one. `plane`: 0, or columns of the plan for the sinks' queries.
fn query(row: u32, start: u32, stop: u32, plane: u32, first_head: u32, load: u32) -> vec4<f32> {
    let column = plane + min(start + row / HEADS, stop - 1u);
    return q[(column * params.n_heads + first_head + row % HEADS) * LOADS + load];
}

fn put(row: u32, start: u32, stop: u32, first_head: u32, load: u32, sums: vec4<f32>) {
    let column = start + row / HEADS;
    if (column < stop) {
        out[column * (params.stride / 4u) + (first_head + row % HEADS) * LOADS + load] = sums;
    }
}

// What becomes of a score of a token so far behind the run's last column: ALiBi (Press et al., arXiv 2108.12409) with
// distances within the cache, as in StreamingLLM.
fn score(row: u32, sum: f32, behind: u32) -> f32 {
    let distance = behind - rows[row].behind; // of tokens ahead of the row a number above any count
    return select(LOWEST, soft_cap(sum, params.cap) - rows[row].slope * f32(distance), distance < rows[row].seen);
}

fn scores(four: u32, sums: vec4<f32>, behind: u32) -> vec4<f32> {
    let row = 4u * four;
    return vec4<f32>(
        score(row, sums.x, behind), score(row + 1u, sums.y, behind), score(row + 2u, sums.z, behind), score(row + 3u, sums.w, behind),
    );
}

fn exponentials(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w));
}

fn add_up(eight: u32) -> vec4<f32> {
    let a = (parts[eight] + parts[eight + 1u]) + (parts[eight + 2u] + parts[eight + 3u]);
    return a + ((parts[eight + 4u] + parts[eight + 5u]) + (parts[eight + 6u] + parts[eight + 7u]));
}

// The columns from `start` up to `stop`, which follow each other.
fn attend(start: u32, stop: u32, first_head: u32, invocation: u32) {
    let first = columns.column[start];
    let last = columns.column[stop - 1u];
    let kv_head = first_head / (params.n_heads / params.n_kv_heads);
    let cache = (last.lane * params.n_kv_heads + kv_head) * params.slots; // first slot of the key head
    let oldest = first.cached + 1u - seen(first);                         // the oldest token seen: its number, if a sink
    let sinks = max(min(last.sinks, last.cached + 1u), oldest) - oldest;
    let others = select(0u, recent(first) + stop - 1u - start, recent(last) > 0u);
    let four = invocation / PLACES;
    let place = invocation % PLACES;
    let own = invocation % ITEMS / LOADS; // the item: a four,
    let load = invocation % LOADS;        // and a vec4 of its heads
    let team = invocation / ITEMS;

    workgroupBarrier(); // the run before is done
    // No key is the first token: a score, and a value of zeros.
    var weights = vec4<f32>(select(0.0, 1.0, place == 0u)); // of four rows and the tokens of this place
    if (invocation < FOURS) {
        let row = 4u * invocation;
        maximum[invocation] = vec4<f32>(
            sink_logits[first_head + row % HEADS],
            sink_logits[first_head + (row + 1u) % HEADS],
            sink_logits[first_head + (row + 2u) % HEADS],
            sink_logits[first_head + (row + 3u) % HEADS],
        );
    }
    var sums = mat4x4<f32>(); // column c: float c of the item's vec4, of four rows

    for (var phase = 0u; phase < 2u; phase++) {
        let is_sink = phase == 0u;
        let count = select(others, sinks, is_sink);
        if (count == 0u) {
            continue;
        }
        if (invocation < 4u * FOURS) {
            let number = start + invocation / HEADS;
            let column = columns.column[min(number, stop - 1u)];
            let of_row = select(recent(column), seen(column), is_sink);
            rows[invocation] = Row(
                select(stop - 1u - number, last.cached - column.cached, is_sink),
                select(0u, of_row, number < stop),
                slopes[first_head + invocation % HEADS],
            );
        }
        if (invocation < ITEMS) {
            let plane = (1u - phase) * params.columns;
            queries[load * FOURS + own] = transpose(mat4x4<f32>(
                query(4u * own, start, stop, plane, first_head, load),
                query(4u * own + 1u, start, stop, plane, first_head, load),
                query(4u * own + 2u, start, stop, plane, first_head, load),
                query(4u * own + 3u, start, stop, plane, first_head, load),
            ));
        }

        // Where the first stage's two keys that this invocation brings begin.
        let bring = invocation / FOURS;
        var place_a = (cache + token(min(bring, count - 1u), is_sink, oldest, last).y) * 2u * WORDS;
        var place_b = (cache + token(min(bring + PLACES, count - 1u), is_sink, oldest, last).y) * 2u * WORDS;
        let first_load = min(invocation % FOURS, LOADS - 1u);
        var key_a = key_words(place_a, first_load);
        var key_b = key_words(place_b, first_load);
        for (var begin = 0u; begin < count; begin += TILE) {
            workgroupBarrier(); // the queries are there, and the tile before is used up
            // Tokens behind the last of all repeat it, and no row sees them.
            let n = begin + place;
            let token_a = token(min(n, count - 1u), is_sink, oldest, last);
            let token_b = token(min(n + PLACES, count - 1u), is_sink, oldest, last);
            let behind_a = select(0xffffffffu, token_a.x, n < count);
            let behind_b = select(0xffffffffu, token_b.x, n + PLACES < count);
            if (four == 0u) {
                places[place] = (cache + token_a.y) * 2u * WORDS;
                places[place + PLACES] = (cache + token_b.y) * 2u * WORDS;
            }

            // Stages of FOURS vec4 of every key: two for each invocation to bring, while the stage before is multiplied.
            var a = vec4<f32>(0.0); // sums of four rows with the first and the second token
            var b = vec4<f32>(0.0);
            for (var stage = 0u; stage < LOADS; stage += FOURS) {
                if (stage > 0u) {
                    workgroupBarrier(); // the stage before is used up
                }
                let at = invocation % FOURS * (TILE + 1u) + bring;
                tile[at] = load_four(key_a);
                tile[at + PLACES] = load_four(key_b);
                if (stage + FOURS < LOADS) {
                    let next = min(stage + FOURS + invocation % FOURS, LOADS - 1u);
                    key_a = key_words(place_a, next);
                    key_b = key_words(place_b, next);
                }
                workgroupBarrier();
                for (var i = 0u; i < min(FOURS, LOADS - stage); i++) {
                    let matrix = queries[(stage + i) * FOURS + four];
                    a += matrix * tile[i * (TILE + 1u) + place];
                    b += matrix * tile[i * (TILE + 1u) + place + PLACES];
                }
            }
            // The first values, and the next tile's first keys.
            let limit = select(0u, min(TILE, count - begin), team < TEAMS);
            let first_value = min(8u * team, TILE - 8u);
            var values = value_words(first_value, load);
            var more_values = value_words(first_value + 4u, load);
            if (begin + TILE < count) {
                let next = begin + TILE + bring;
                place_a = (cache + token(min(next, count - 1u), is_sink, oldest, last).y) * 2u * WORDS;
                place_b = (cache + token(min(next + PLACES, count - 1u), is_sink, oldest, last).y) * 2u * WORDS;
                key_a = key_words(place_a, first_load);
                key_b = key_words(place_b, first_load);
            }
            a = scores(four, a, behind_a);
            b = scores(four, b, behind_b);

            workgroupBarrier(); // the keys are used up
            tile[place * FOURS + four] = max(a, b);
            workgroupBarrier();
            if (invocation < 8u * FOURS) {
                var high = vec4<f32>(LOWEST);
                for (var i = invocation % 8u; i < PLACES; i += 8u) {
                    high = max(high, tile[i * FOURS + invocation / 8u]);
                }
                parts[invocation] = high;
            }
            workgroupBarrier();
            if (invocation < FOURS) {
                var high = maximum[invocation];
                for (var i = 0u; i < 8u; i++) {
                    high = max(high, parts[8u * invocation + i]);
                }
                correction[invocation] = exponentials(maximum[invocation] - high);
                maximum[invocation] = high;
            }
            workgroupBarrier();
            // A row that has seen nothing yet gives weights of 1 to what it does not see: its first score makes them 1e-38.
            a = exponentials(a - maximum[four]);
            b = exponentials(b - maximum[four]);
            weights = weights * correction[four] + a + b;
            tile[place * FOURS + four] = a;
            tile[(place + PLACES) * FOURS + four] = b;
            workgroupBarrier();

            let factor = correction[own];
            sums = mat4x4<f32>(sums[0] * factor, sums[1] * factor, sums[2] * factor, sums[3] * factor);
            for (var i = 8u * team; i < limit; i += 8u * TEAMS) {
                let these = values;
                let more = more_values;
                if (i + 8u * TEAMS < limit) {
                    values = value_words(i + 8u * TEAMS, load);
                    more_values = value_words(i + 8u * TEAMS + 4u, load);
                }
                let at = i * FOURS + own;
                sums += weighted(these, at) + weighted(more, at + 4u * FOURS);
            }
        }
    }

    workgroupBarrier(); // the last tile is used up
    queries[invocation] = sums;
    tile[place * FOURS + four] = weights;
    workgroupBarrier();
    if (invocation < 8u * FOURS) {
        var sum = vec4<f32>(0.0);
        for (var i = invocation % 8u; i < PLACES; i += 8u) {
            sum += tile[i * FOURS + invocation / 8u];
        }
        parts[invocation] = sum;
    }
    workgroupBarrier();
    if (invocation < ITEMS) {
        for (var i = 1u; i < TEAMS; i++) {
            sums += queries[i * ITEMS + invocation];
        }
        let factor = 1.0 / add_up(8u * own);
        let of_rows = transpose(mat4x4<f32>(sums[0] * factor, sums[1] * factor, sums[2] * factor, sums[3] * factor));
        put(4u * own, start, stop, first_head, load, of_rows[0]);
        put(4u * own + 1u, start, stop, first_head, load, of_rows[1]);
        put(4u * own + 2u, start, stop, first_head, load, of_rows[2]);
        put(4u * own + 3u, start, stop, first_head, load, of_rows[3]);
    }
}

@compute @workgroup_size(128)
fn attention(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let end = min((workgroup.y + 1u) * COLUMNS, columns.active_);
    var start = workgroup.y * COLUMNS;
    while (start < end) {
        var stop = start + 1u;
        while (stop < end && follows(columns.column[stop - 1u], columns.column[stop])) {
            stop++;
        }
        attend(start, stop, workgroup.x * HEADS, invocation);
        start = stop;
    }
}
